"""The published schedule on a run's own data and engine: what a profile holds the packed step against.

Texts are padded, the whole model runs once per objective, and negatives are those of a rank's own micro-batch: the
reference gathers nothing, so that the published schedule is spared its messages here.
"""

import dataclasses
from dataclasses import dataclass, field
from typing import Any

import torch

from sclds.batch import Batch, SampleViews
from sclds.batch.placed import HOST
from sclds.batch.split import Split
from sclds.config import Config
from sclds.data.loader import Assembler, TrainingBatches
from sclds.machine.implementations import compute_dtype
from sclds.machine.phase_clock import phase
from sclds.reference.published_schedule import PaddedBatch, pad_batch, published_step
from sclds.train.optimizer import set_learning_rate
from sclds.train.schedule import learning_rate_factor


@dataclass(frozen=True)
class PublishedBatch(Batch):
    """A micro-batch packed, by which it is counted, and padded, as it runs."""

    padded: PaddedBatch = field(kw_only=True, metadata=HOST)


class PublishedBatches(TrainingBatches):
    """Training batches that are padded too."""

    def __init__(self, *given: Any, **settings: Any):
        super().__init__(*given, **settings | {"own_process": False})

    def _assembler(self) -> Assembler:
        assembler = super()._assembler()
        pack, pad_id, longest = assembler._pack, self._tokenizer.pad_id, self._config.data.max_text_tokens

        def packed_and_padded(views: list[SampleViews], patches: torch.Tensor) -> PublishedBatch:
            packed = pack(views, patches)
            parts = {f.name: getattr(packed, f.name) for f in dataclasses.fields(packed)}
            return PublishedBatch(**parts, padded=pad_batch(views, patches, pad_id, longest))

        assembler._pack = packed_and_padded  # type: ignore[method-assign]
        return assembler


def take_published_step(
    engine: Any, batches: list[PublishedBatch], step: int, config: Config, split: Split, group: Any
) -> None:
    """Take an optimizer step as `train_step` does, by the published schedule; at ZeRO stage 0 alone."""
    dtype = compute_dtype(config)
    with phase("data"):
        padded = [_moved(batch.padded, group.device, dtype) for batch in batches]
    set_learning_rate(engine.optimizer, learning_rate_factor(step, config.schedule))
    for batch in padded:
        with phase("forward"):
            loss = published_step(engine.module, batch, config.losses)["total"]
        with phase("backward"):
            engine.backward(loss)
        with phase("optimizer"):
            engine.step()


def _moved(batch: PaddedBatch, device: torch.device, dtype: torch.dtype) -> PaddedBatch:
    groups = [
        dataclasses.replace(
            group,
            samples=group.samples.to(device, non_blocking=True),
            patches=group.patches.to(device, dtype, non_blocking=True),
            keep=group.keep.to(device, non_blocking=True),
            replaced=group.replaced.to(device, non_blocking=True),
        )
        for group in batch.groups
    ]
    text = {name: ids.to(device, non_blocking=True) for name, ids in batch.text.items()}
    return dataclasses.replace(batch, text=text, text_mask=batch.text_mask.to(device, non_blocking=True), groups=groups)
