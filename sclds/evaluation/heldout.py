"""One pass over the held-out sets, shared by the ranks: each decodes and runs its own batches, all get every result.

The result does not depend on the number of processes: batches are dealt to ranks in windows of one batch a rank, every
rank runs equally many forwards (ZeRO-3 needs that), and what they found is put together in the order of the data.
"""

import hashlib
import math
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from sclds.batch import Batch
from sclds.config import Config, DatasetConfig
from sclds.config.errors import UserError
from sclds.data.loader import HeldoutChunk, HeldoutReader, heldout_chunks
from sclds.data.quarantine import Quarantine
from sclds.data.tokenizer import Tokenizer
from sclds.evaluation.parts import Parts
from sclds.evaluation.ranking import Shortlist
from sclds.losses.communicator import Communicator, SingleProcess, gather_records
from sclds.losses.makeup import makeup_of
from sclds.losses.objectives import GlobalFeatures, features_of, step_loss
from sclds.machine.implementations import compute_dtype
from sclds.objectives import objectives_in_use
from sclds.objectives.levels import trivial_level
from sclds.objectives.table import TEXT_PROJECTION, VISION_PROJECTION

Progress = Callable[[str, int, int], None]
"""Is told what is done, how much of it, and of how much."""


@dataclass
class Encoded:
    """The samples of one held-out set in the order of the data."""

    kind: str
    """`image` or `video`."""
    text: list[Tensor] = field(default_factory=list)
    """Per batch, (B, P) on CPU."""
    vision: list[Tensor] = field(default_factory=list)
    """Per batch, (B, P) on CPU."""
    sample_ids: list[str] = field(default_factory=list)
    captions: list[str] = field(default_factory=list)
    losses: dict[str, list[float]] = field(default_factory=dict)
    """Per objective, a value a batch."""
    levels: dict[str, list[float]] = field(default_factory=dict)
    """Per objective, what guessing gives in that batch (`sclds.objectives.levels`)."""
    loss_samples: int = 0
    """Samples of such a batch: what a loss over the batch compares with."""
    owners: list[int] = field(default_factory=list)
    """Sample of each row of `text`, where samples have several; empty where row i is of sample i."""
    shortlist: Shortlist | None = None
    """First candidates, scored by the matching head, where `evaluation.rerank` asks for it."""


class HeldoutPass:
    """Runs the model on the held-out sets; every rank calls it and gets the same result.

    Args:
        model: The model, or the engine that wraps it: `model(batch)` gives the outputs. It is left in its mode.
        config: The run.
        tokenizer: The run's.
        device: Where the model lies.
        communicator: All processes of the run.
        quarantine: Counts and names unusable samples, which are left out; by default it only counts.
        share: Of the batches of each set, at least one, those that are read: at even distances, always the same.
        progress: Is told how many batches are done.
        parts: Where what is finished is kept and taken from, by passes that do so (`GalleryPass`).
    """

    def __init__(
        self,
        model: nn.Module,
        config: Config,
        tokenizer: Tokenizer,
        device: torch.device,
        communicator: Communicator,
        quarantine: Quarantine | None = None,
        share: float = 1.0,
        progress: Progress | None = None,
        parts: Parts | None = None,
    ):
        self._share = share
        self._progress, self._parts = progress, parts
        self._model, self._config, self._device, self._communicator = model, config, device, communicator
        self._tokenizer = tokenizer
        self._reader = self._new_reader(quarantine)
        self._last_own: Batch | None = None

    def _new_reader(self, quarantine: Quarantine | None) -> HeldoutReader:
        """Return what reads the batches; called once, when all arguments but the quarantine are in place."""
        return HeldoutReader(self._config, self._tokenizer, self._config.evaluation.batch_size, quarantine)

    def run(self) -> dict[str, Encoded]:
        """Return what was found by the name of the set, only sets of which a sample can be used.

        Raises:
            UserError: On every rank, if any cannot read on, or finds other held-out sets than the rest.
        """
        sets: dict[str, Encoded] = {}
        was_training = self._model.training
        self._model.eval()
        try:
            with torch.no_grad():
                for dataset in self._datasets():
                    sets[dataset.name] = self._encode(dataset)
        finally:
            self._reader.close()
            self._model.train(was_training)
        return {name: encoded for name, encoded in sets.items() if encoded.sample_ids}

    def _datasets(self) -> list[DatasetConfig]:
        """Return the sets that are read."""
        return self._config.data.heldout

    def _encode(self, dataset: DatasetConfig) -> Encoded:
        """Run the batches of a set."""
        encoded, world_size = self._empty(dataset), self._communicator.world_size
        chunks = self._chunks(dataset)
        for first in range(0, len(chunks), world_size):
            own = first + self._communicator.rank
            # ranks beyond the end read the last batch: all run equally many forwards
            batch, stands_in = self._read(chunks, min(own, len(chunks) - 1))
            if batch is None:
                return encoded
            counted = own < len(chunks) and not stands_in
            self._take_in(batch if counted else None, self._forward(batch), encoded)
            self._tell(f"Reading {dataset.name}", min(first + world_size, len(chunks)), len(chunks))
        return encoded

    def _empty(self, dataset: DatasetConfig) -> Encoded:
        return Encoded(dataset.kind)

    def _tell(self, what: str, done: int, total: int) -> None:
        if self._progress is not None:
            self._progress(what, done, total)

    def _chunks(self, dataset: DatasetConfig) -> list[HeldoutChunk]:
        """Return the batches of a set that are read, after all ranks have found the same."""
        chunks: list[HeldoutChunk] = []
        fault: UserError | None = None
        try:
            chunks = self._chosen(self._all_chunks(dataset))
        except UserError as error:
            fault = error
        listed = "\n".join(f"{chunk.dataset.name} {chunk.start} {chunk.end}" for chunk in chunks)
        digest = int.from_bytes(hashlib.sha256(listed.encode("utf-8", "surrogatepass")).digest()[:7], "big")
        self._agree(fault, digest)
        return chunks

    def _all_chunks(self, dataset: DatasetConfig) -> list[HeldoutChunk]:
        return heldout_chunks(self._config, [dataset], self._config.evaluation.batch_size)

    def _chosen(self, chunks: list[HeldoutChunk]) -> list[HeldoutChunk]:
        """Return the share of the batches that is read; of a part of them, full ones, whose losses compare."""
        if self._share == 1:
            return chunks
        full = [one for one in chunks if one.end - one.start == self._config.evaluation.batch_size] or chunks
        return [full[place] for place in evenly_spaced(len(full), math.ceil(len(chunks) * self._share))]

    def _read(self, chunks: list[HeldoutChunk], number: int) -> tuple[Batch | None, bool]:
        """Return the batch of a chunk, or a stand-in where none of its samples can be used, and whether it is one.

        The stand-in is another batch of this rank, which is run and not counted. Nothing is returned where no rank has
        any sample that can be used.
        """
        fault: UserError | None = None
        batch: Batch | None = None
        stands_in = False
        try:
            batch = self._reader(chunks[number])
            stands_in = batch is None
            others = iter(range(len(chunks)))
            while batch is None and (other := next(others, None)) is not None:
                batch = self._last_own or self._reader(chunks[other])
        except UserError as error:
            fault = error
        self._agree(fault, int(batch is not None))
        self._last_own = batch
        return batch, stands_in

    def _agree(self, fault: UserError | None, found: int) -> None:
        """Raise on every rank where any has a fault, or found something else than the rest.

        Without it features would be put together wrongly, or a rank would wait for ever.
        """
        mine = -1 if fault else found
        seen = self._communicator.all_gather(torch.tensor(mine, device=self._device)).tolist()
        if fault:
            raise fault
        if any(other != mine for other in seen):
            others = ", ".join(str(rank) for rank, other in enumerate(seen) if other != seen[0])
            raise UserError(
                f"Nothing can be measured: held-out samples that process 0 reads cannot be read by process {others}, "
                "or the other way round. quarantine.jsonl in the run folder names them; once all processes can read "
                "them, give the same command again: a finished run measures without training again"
            )

    def _forward(self, batch: Batch) -> Any:
        """Return the projections of both modalities and the losses of one batch."""
        losses = self._config.losses
        batch = batch.to(self._device, compute_dtype(self._config))
        outputs = self._model(batch)
        features = GlobalFeatures.gather([features_of(outputs, batch)], [batch], losses, SingleProcess())
        _, terms = step_loss(outputs, batch, features, 0, losses)
        values = {name: float(value) for name, value in terms.items()}
        return outputs[TEXT_PROJECTION.name].float(), outputs[VISION_PROJECTION.name].float(), values

    def _take_in(self, batch: Batch | None, found: Any, encoded: Encoded) -> None:
        """Exchange what every rank found in its batch (None: nothing that counts) and add it in order."""
        text, vision, losses = found
        record: dict[str, Any] = {"ids": [], "captions": [], "losses": losses}
        if batch is not None:
            levels = levels_of(batch, self._config)
            record |= {"ids": batch.samples.ids, "captions": batch.samples.captions, "levels": levels}
        records = gather_records(record, self._communicator, self._device)
        rows = max(self._config.evaluation.batch_size, 1)
        all_text, all_vision = (
            self._communicator.all_gather(functional.pad(x, (0, 0, 0, rows - len(x)))).cpu() for x in (text, vision)
        )
        for rank, shown in enumerate(records):
            size = len(shown["ids"])
            if not size:
                continue
            encoded.text.append(all_text[rank, :size])
            encoded.vision.append(all_vision[rank, :size])
            encoded.sample_ids += shown["ids"]
            encoded.captions += shown["captions"]
            # a contrastive loss over fewer samples is smaller, so that a short last batch would bend the mean
            if size == self._config.evaluation.batch_size or not encoded.losses:
                for values, of_batch in ((encoded.losses, shown["losses"]), (encoded.levels, shown["levels"])):
                    for name, value in of_batch.items():
                        values.setdefault(name, []).append(value)
                encoded.loss_samples = size


def levels_of(batch: Batch, config: Config) -> dict[str, float]:
    """Return what guessing gives for the losses of one batch, as far as that is known."""
    makeup = makeup_of(batch, config.data.frames)
    levels = {one.name: trivial_level(one, [makeup]) for one in objectives_in_use(config.losses)}
    return {name: level for name, level in levels.items() if level is not None}


def evenly_spaced(n: int, wanted: int) -> list[int]:
    """Return up to `wanted` different indices below n, evenly spaced."""
    count = min(n, wanted)
    return [(2 * i + 1) * n // (2 * count) for i in range(count)]
