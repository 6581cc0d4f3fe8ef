"""Benchmark of the packed step, forward and backward, beside the published schedule on the same samples and weights.

`ours` is the step as a run takes it, `torch` the same with references instead of kernels, `published` one pass of the
whole model per objective, `compile` the packed step whose transformer blocks torch.compile has seen.
"""

import copy
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import pydantic_stand_in
import torch
from harness import Workload, device
from torch import Tensor, nn

from scl_kernels.backend import Backend, set_backend

pydantic_stand_in.install()

from sclds.benchmarks.step import MID_SIZE, build_model, totals  # noqa: E402
from sclds.machine.attention import AttentionBackends, CallSite, available  # noqa: E402
from sclds.machine.implementations import this_machine  # noqa: E402

BASE: dict[str, Any] = MID_SIZE | {
    "width": 768,
    "vision_layers": 11,
    "text_layers": 12,
    "fusion_layers": 6,
    "image_size": 288,
    "text": (8, 50),
    "vocabulary": 50265,
}
"""The base model on images of 288 pixels."""
SMALL: dict[str, Any] = MID_SIZE | {
    "width": 64,
    "vision_layers": 1,
    "text_layers": 1,
    "fusion_layers": 2,
    "image_size": 48,
    "text": (5, 8),
    "vocabulary": 100,
    "batch": 4,
}
"""What a processor finishes at once, and the interpreter in a minute."""


def on_backend(backend: Backend, total: Callable[[Any], Tensor], model: nn.Module) -> Tensor:
    """Return the model's loss, with kernels of one backend."""
    set_backend(backend)
    try:
        return total(model)
    finally:
        set_backend("auto")


def compiled(model: Any) -> Any:
    """Return a copy that shares the parameters and has its transformer blocks compiled."""
    copied = copy.deepcopy(model, {id(p): p for p in model.parameters()})
    blocks = (copied.vision_encoder.blocks, copied.text_encoder.layers)
    for block in (block for stack in blocks for block in stack):
        block.compile()
    return copied


def workloads() -> Iterator[Workload]:
    """Yield one workload per number of samples, which is x."""
    gpu = device() == "cuda"
    dtype = torch.bfloat16 if gpu else torch.float32
    attention = AttentionBackends.all(available(CallSite("bf16" if gpu else "fp32"), this_machine())[0])
    for batch in (16, 64) if gpu else (SMALL["batch"],):
        sizes = (BASE if gpu else SMALL) | {"batch": batch}
        model = build_model(sizes).to(device(), dtype).train()
        packed, published = totals(sizes, device(), dtype, attention).values()
        providers = {
            "ours": partial(on_backend, "auto", packed, model),
            "torch": partial(on_backend, "torch", packed, model),
            "published": partial(published, model),
            "compile": partial(on_backend, "auto", packed, compiled(model)),
        }
        published(model).backward()  # reads the fewest parameters: a step of images has no temporal embedding
        inputs = [p for p in model.parameters() if p.grad is not None]
        model.zero_grad(set_to_none=True)
        yield Workload(batch, {**sizes, "dtype": str(dtype)}, inputs, providers)
