"""What share of a machine's speed a step reaches: of the data sheet's, and of what this machine was measured to do.

MFU counts the products that the model needs, three forwards a step; HFU also those that are computed again (activation
checkpointing, and the second forward of `losses.negatives: global_batch` under accumulation).
"""

from dataclasses import dataclass

import torch

from sclds.batch.sizes import Sizes
from sclds.config import Config
from sclds.costs.clusters import known_kinds
from sclds.costs.counts import Kind, packed_forward
from sclds.costs.plan import DEFAULT_TEXT_TOKENS, vocabulary_size
from sclds.costs.step import step_factor
from sclds.tasks import TASKS

MODEL_FORWARDS = 3
"""Forwards that training costs: itself, and backward, which is two."""
OTHER_RATES = frozenset({"pcie", "nvl"})
"""Words in the names of Hopper cards that are slower than those of clusters.yaml; a part of a card says MIG."""


@dataclass(frozen=True)
class StepFlops:
    """FLOPs of matrix products."""

    model: float
    """That the model needs."""
    hardware: float
    """That are computed."""


class FlopCounter:
    """Counts the FLOPs of steps from the sizes of their batches.

    Args:
        config: The run.
        accumulation: Micro-batches of a step on each process.
    """

    def __init__(self, config: Config, accumulation: int):
        self._config, self._factor = config, step_factor(config, accumulation)
        self._vocabulary = vocabulary_size(config)
        self._known: dict[tuple[Kind, int, int], int] = {}

    def of(self, sizes: Sizes) -> StepFlops:
        """Return the FLOPs of training on samples, each with the mean text of its kind, and the mean number of them."""
        asked = sizes.texts / max(1, sizes.images + sizes.videos)
        forward = sizes.images * self._forward("image", sizes.image_text, sizes.images * asked, asked)
        forward += sizes.videos * self._forward("video", sizes.video_text, sizes.videos * asked, asked)
        return StepFlops(MODEL_FORWARDS * forward, self._factor * forward)

    def _forward(self, kind: Kind, tokens: int, texts: float, asked: float) -> float:
        """Return the FLOPs of one sample; what further texts about an image add is the same for each of them."""
        if not texts:
            return 0
        length, task = round(tokens / texts) or DEFAULT_TEXT_TOKENS, self._config.task
        one = self._known_forward(kind, length, 1)
        further = 0.0 if task is None else asked * TASKS[task.name].images - 1
        return one + further * (self._known_forward(kind, length, 2) - one) if further else one

    def _known_forward(self, kind: Kind, length: int, asked: int) -> int:
        key = kind, length, asked
        if key not in self._known:
            parts = packed_forward(self._config, kind, length, self._vocabulary, asked)
            self._known[key] = sum(parts.values())
        return self._known[key]


def kind_of_gpu(gpu: str) -> str | None:
    """Return the kind in clusters.yaml of a GPU; None of one that is not known.

    Args:
        gpu: Its name as CUDA gives it; empty for a CPU.
    """
    words = gpu.lower().replace("-", " ").split()
    if (not OTHER_RATES.isdisjoint(words) and "a100" not in words) or "mig" in words:
        return None
    alike = [name for name, kind in known_kinds().items() if kind.asynchronous and name.partition("-")[0] in words]
    # kinds of one name differ in memory: `a100-40` is an A100 that calls itself 40GB
    return next((name for name in alike if f"{name.partition('-')[2]}gb" in words), alike[0] if alike else None)


def data_sheet_flops(gpu: str, precision: str) -> float | None:
    """Return the dense matmul FLOPs per second of a GPU by its maker's data sheet; None of one that is not known.

    Args:
        gpu: Its name as CUDA gives it; empty for a CPU.
        precision: Of the run.
    """
    kind = kind_of_gpu(gpu)
    return None if kind is None else known_kinds()[kind].peak(precision)


def gpu_name(device: torch.device) -> str:
    """Return the name of a CUDA device; empty for others."""
    return torch.cuda.get_device_name(device) if device.type == "cuda" else ""
