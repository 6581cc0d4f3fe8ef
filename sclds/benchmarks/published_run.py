"""The published schedule on a run's own data and engine: what a profile holds the packed step against.

Texts are padded, the whole model runs once per objective, and negatives are those of a rank's own micro-batch: the
reference gathers nothing, so that the published schedule is spared its messages here.
"""

import dataclasses
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from sclds.batch import Batch, SampleViews
from sclds.batch.placed import HOST
from sclds.batch.split import Split
from sclds.config import Config
from sclds.costs.counts import published_forward
from sclds.costs.peak import sample_shares
from sclds.costs.plan import vocabulary_size
from sclds.costs.utilization import MODEL_FORWARDS
from sclds.data.loader import Assembler, TrainingBatches
from sclds.data.media.decode import Decoder
from sclds.data.samples import SampleMaker
from sclds.data.tokenizer import Tokenizer
from sclds.machine.implementations import compute_dtype
from sclds.machine.phase_clock import phase
from sclds.reference.published_schedule import PaddedBatch, pad_batch, published_step
from sclds.train.optimizer import set_learning_rate
from sclds.train.profile_steps import profile_steps
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
        maker = SampleMaker(self._config, self._tokenizer, self.index)
        decoder = Decoder(self._config, self._micro_size, self._device_id)
        return _Assembler(self._config, self._tokenizer, self.index, maker, decoder, self.quarantine)


class _Assembler(Assembler):
    """Packs and pads."""

    def __init__(self, config: Config, tokenizer: Tokenizer, *rest: Any):
        super().__init__(config, tokenizer, *rest)
        self._pad_id = tokenizer.pad_id

    def _pack(self, views: list[SampleViews], patches: Tensor) -> PublishedBatch:
        packed = super()._pack(views, patches)
        parts = {f.name: getattr(packed, f.name) for f in dataclasses.fields(packed)}
        padded = pad_batch(views, patches, self._pad_id, self._config.data.max_text_tokens)
        return PublishedBatch(**parts, padded=padded)


def profile_published(config: Config, steps: int, traces: Path | None) -> dict[str, Any] | None:
    """Measure the published schedule as `profile_steps` does a run; HFU counts what it computes."""
    found = profile_steps(config, steps, traces, PublishedBatches, take_published_step)
    if found is not None:
        variant, vocabulary = found["variant"], vocabulary_size(config)
        shares = sample_shares(config).items()
        forward = sum(share * sum(published_forward(config, kind, vocabulary).values()) for kind, share in shares)
        more = MODEL_FORWARDS * forward / variant["flops_per_sample"]
        for name in ("", "_measured"):
            useful = variant[f"mfu{name}"]
            variant[f"hfu{name}"] = None if useful is None else useful * more
        variant["padding_avoided"] = 0.0
    return found


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
