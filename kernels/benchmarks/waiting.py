"""What stages of the GPU check run of `sclds`: the step that may not wait, held-out measurements, peak, decoding."""

import re
import tempfile
import time
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from packed_step import SMALL

from sclds.batch.split import Split
from sclds.benchmarks.step import model_section, packed_batch
from sclds.config import EngineConfig, LossesConfig, ModelConfig, OptimizerConfig, ScheduleConfig
from sclds.losses.communicator import SingleProcess
from sclds.machine.attention import AttentionBackends, CallSite, available
from sclds.machine.implementations import this_machine
from sclds.machine.phase_clock import PhaseClock
from sclds.model.scl import SCLModel
from sclds.train.optimizer import parameter_groups
from sclds.train.step import train_step


class OneProcess(SingleProcess):
    """A world of one, on a device."""

    def __init__(self, device: torch.device):
        self.device = device


class PlainEngine:
    """What the step asks of DeepSpeed's engine, without DeepSpeed, which reads the gradient's norm and its overflow."""

    def __init__(self, model: torch.nn.Module, accumulation: int):
        self.module, self._accumulation, self._seen = model, accumulation, 0
        self.optimizer = torch.optim.AdamW(parameter_groups(model, OptimizerConfig()), lr=1e-4)

    def __call__(self, *inputs: Any) -> Any:
        """Run the model."""
        return self.module(*inputs)

    def backward(self, loss: torch.Tensor) -> None:
        """Add gradients up."""
        (loss / self._accumulation).backward()

    def step(self) -> None:
        """Update after the last accumulation step."""
        self._seen += 1
        if self._seen % self._accumulation == 0:
            self.optimizer.step()
            self.optimizer.zero_grad(set_to_none=True)

    def was_step_applied(self) -> bool:
        """Return that it was."""
        return True


OBJECTIVES: dict[str, dict[str, Any]] = {
    "published": {},
    "all": {"mltc_image": 0.2, "mltc_text": 0.2, "sigmoid": 1.0, "itm_negatives": "hard", "duplicates": "positives"},
}
"""Losses of steps that may not wait: as published, and all there are, with hard negatives."""
FRAMES = (1, 3)
"""Of the videos among the images of a step."""


class Settings:
    """What the step reads of a configuration; the whole one needs pydantic."""

    def __init__(self, objectives: str, negatives: str, precision: str):
        self.seed, self.task = 0, None
        self.losses = LossesConfig.model_validate(OBJECTIVES[objectives] | {"negatives": negatives})
        self.engine = EngineConfig.model_validate({"precision": precision})
        self.schedule = ScheduleConfig.model_validate({"steps": 10})


def step_of(objectives: str, negatives: str, accumulation: int, device: str) -> Callable[[int], None]:
    """Return what takes the real step of a number on batches of images and videos that lie in pinned memory.

    All objectives are taken with activations computed again.
    """
    gpu, everything = device == "cuda", objectives == "all"
    precision = "bf16" if gpu else "fp32"
    settings: Any = Settings(objectives, negatives, precision)
    best = available(CallSite(precision), this_machine())[0]
    batch = packed_batch(SMALL, settings.losses, AttentionBackends.all(best), FRAMES).in_one_block(pinned=gpu)
    architecture = ModelConfig.model_validate(model_section(SMALL))
    model = SCLModel(architecture, SMALL["vocabulary"], recompute=everything, sigmoid=everything)
    model.initialize(0)
    model = model.to(device, torch.bfloat16 if gpu else torch.float32).train()
    engine, group = PlainEngine(model, accumulation), OneProcess(torch.device(device))
    split = Split(SMALL["batch"], accumulation, 1)

    clock = PhaseClock(torch.device(device))

    def take(number: int) -> None:
        clock.begin()
        train_step(engine, [batch] * accumulation, number, settings, split, group)  # type: ignore[arg-type]
        clock.end()
        clock.taken()

    return take


def place_of(fault: BaseException) -> str:
    """Return the innermost line of ours at which an error began, and its first words."""
    frames = traceback.extract_tb(fault.__traceback__)
    ours = [f for f in frames if re.search(r"/(sclds|scl_kernels)/", f.filename)] or list(frames)
    return f"{Path(ours[-1].filename).name}:{ours[-1].lineno}: {str(fault).splitlines()[0][:200]}"


def evaluated(device: str) -> Iterator[tuple[str, Any]]:
    """Yield figures of the quickstart's held-out data, and how many pictures were drawn of a batch on the device."""
    from sclds.config.reading import load_config
    from sclds.data.loader import heldout_batches
    from sclds.data.tokenizer import load_tokenizer
    from sclds.evaluation.tasks import evaluate
    from sclds.report.pictures import masked_inputs

    root = Path(__file__).resolve().parents[2]
    small = ["evaluation.batch_size=8", "evaluation.max_samples=16", "engine.precision=fp32"]
    config = load_config(str(root / "configs" / "quickstart.yaml"), small)
    tokenizer = load_tokenizer("embedded")
    model = SCLModel(config.model, tokenizer.vocab_size)
    model.initialize(0)
    found = evaluate(model.to(device), config, tokenizer, torch.device(device), SingleProcess())
    for kind, directions in found["retrieval"].items():
        yield f"{kind} samples measured", directions["text_to_vision"]["n"]
    batch = next(heldout_batches(config, tokenizer)).to(torch.device(device))
    yield "pictures", len(masked_inputs(batch, config, tokenizer))


def measured_peak(dtype: torch.dtype) -> float:
    """Return the FLOPs per second of large products of random matrices."""
    from sclds.costs.matmul import measure_peak_flops

    return measure_peak_flops(dtype)


def decoding_rate(device: str, batches: int = 8) -> float:
    """Return images a second of the loader's decoder on generated photographs (needs DALI's wheel)."""
    from sclds.benchmarks.data import benchmark_config
    from sclds.benchmarks.photographs import write_photographs
    from sclds.data.media.decode import Decoder
    from sclds.data.samples import SampleMaker
    from sclds.data.storage.shards import cache_of, open_index
    from sclds.data.tokenizer import load_tokenizer

    with tempfile.TemporaryDirectory() as folder:
        write_photographs(Path(folder), 16)
        config = benchmark_config(Path(folder), 16, 4)
        config = config.model_copy(update={"data": config.data.model_copy(update={"device": device})})
        maker = SampleMaker(config, load_tokenizer("embedded"), open_index(config.data.train, cache_of(config.data)))
        decoder = Decoder(config, 16, torch.cuda.current_device() if device == "mixed" else None)
        samples = [maker.encoded(number, (0, number)) for number in range(16)]
        decoder(samples)
        begun = time.perf_counter()
        for _ in range(batches):
            decoder(samples)
        rate = 16 * batches / (time.perf_counter() - begun)
        decoder.close()
        maker.close()
    return rate
