"""Benchmark of the attention backends on packed segments of the base model (12 heads of 64), bf16 on a GPU.

`eager` is what the packed buffers replace: texts and images padded to the longest, dense attention under a mask.
"""

from collections.abc import Callable, Iterator
from functools import partial
from typing import NamedTuple

import pydantic_stand_in
import torch
from harness import Workload, device
from torch import Tensor

pydantic_stand_in.install()

from sclds.batch.attention_plan import plan_attention  # noqa: E402
from sclds.machine.attention import CallSite, available  # noqa: E402
from sclds.machine.implementations import this_machine  # noqa: E402
from sclds.model.attention import attend  # noqa: E402

HEADS, CHANNELS = 12, 64
WHOLE, KEPT = 325, 65
"""Tokens of an image of 288 pixels, and of one with 80 % of its patches dropped; both with [CLS]."""
FRAMES, FRAME = 4, 197
"""Frames of a video, and tokens of one of 224 pixels."""
TEXT = (8, 50)
"""Shortest and longest text."""


class Segments(NamedTuple):
    """Query and key lengths of every segment."""

    q: list[int]
    k: list[int]


def segments(samples: int) -> dict[str, Segments]:
    """Return the attentions of a step on as many samples.

    image: self-attention of both vision views; video: [CLS] of all frames over all frames; text: self-attention;
    cross: texts over complete images.
    """
    drawn = torch.Generator().manual_seed(samples)
    texts = torch.randint(TEXT[0], TEXT[1] + 1, (samples,), generator=drawn).tolist()
    images = [WHOLE] * samples + [KEPT] * samples
    videos = [FRAMES] * samples, [FRAMES * FRAME] * samples
    return {
        "image": Segments(images, images),
        "video": Segments(*videos),
        "text": Segments(texts, texts),
        "cross": Segments(texts, [WHOLE] * samples),
    }


def cumulative(lengths: list[int]) -> Tensor:
    """Return (S + 1,) int32 cumulative lengths."""
    return torch.tensor([0, *lengths]).cumsum(0).int()


def padded(q: Tensor, k: Tensor, v: Tensor, q_index: Tensor, k_index: Tensor, real: tuple[Tensor, Tensor]) -> Tensor:
    """Attend densely over (S, longest) rows, under a mask; returns (N, H, D)."""
    q_real, k_real = real
    q, k, v = (x[i].transpose(1, 2) for x, i in ((q, q_index), (k, k_index), (v, k_index)))
    scores = (q @ k.transpose(-1, -2)) * CHANNELS**-0.5
    weights = scores.masked_fill(~k_real[:, None, None, :], float("-inf")).softmax(-1)
    return (weights @ v).transpose(1, 2)[q_real]


def rows_of(lengths: list[int]) -> tuple[Tensor, Tensor]:
    """Return (S, longest) row numbers, 0 at padding, and which of them are real."""
    size, columns = torch.tensor(lengths)[:, None], torch.arange(max(lengths))[None, :]
    real = columns < size
    return torch.where(real, size.cumsum(0) - size + columns, 0).to(device()), real.to(device())


def workloads() -> Iterator[Workload]:
    """Yield one workload per number of samples and kind of attention; x is the number of samples."""
    gpu = device() == "cuda"
    precision, dtype = ("bf16", torch.bfloat16) if gpu else ("fp32", torch.float32)
    for samples in (16, 64, 256) if gpu else (2,):
        for case, (q_lengths, k_lengths) in segments(samples).items():
            generator = torch.Generator().manual_seed(samples)
            shapes = [(sum(n), HEADS, CHANNELS) for n in (q_lengths, k_lengths, k_lengths)]
            inputs = [torch.randn(s, generator=generator).to(device(), dtype).requires_grad_() for s in shapes]
            providers: dict[str, Callable[[], Tensor]] = {}
            for backend in available(CallSite(precision, head_size=CHANNELS), this_machine()):
                plan = plan_attention(cumulative(q_lengths), cumulative(k_lengths), backend)
                providers[backend] = partial(attend, *inputs, plan.to(torch.device(device())))
            (q_index, q_real), (k_index, k_real) = rows_of(q_lengths), rows_of(k_lengths)
            dense = (*inputs, q_index, k_index, (q_real, k_real))
            providers |= {"eager": partial(padded, *dense), "compile": partial(torch.compile(padded), *dense)}
            config = {"segments": len(q_lengths), "heads": HEADS, "channels": CHANNELS, "dtype": str(dtype)}
            yield Workload(samples, config, inputs, providers, case)
