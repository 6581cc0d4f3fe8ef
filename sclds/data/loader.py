"""Packed micro-batches: training batches decoded ahead in a thread, held-out batches in fixed order.

The stages have no state but the step they are at, so a run that resumes gives `start_step` and sees the same batches.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from operator import attrgetter

import numpy as np
import torch

from sclds.batch import ITM_DRAWS, Batch, SampleViews, pack, recipe_of
from sclds.batch.duplicates import wrong_partners
from sclds.config import Config, DatasetConfig
from sclds.data.keys import generator
from sclds.data.loader_process import made_apart
from sclds.data.media.decode import Decoder, decoding_device, joined
from sclds.data.order import Order, Place, itm_partners, positions_of, weights_of
from sclds.data.prefetch import Prefetch, pinned
from sclds.data.quarantine import Quarantine
from sclds.data.replacement import Replacements
from sclds.data.samples import HELDOUT, Loaded, Occasion, SampleMaker
from sclds.data.skips import Windows, batches_from
from sclds.data.storage.fetch_ahead import FetchAhead
from sclds.data.storage.shards import BadSampleError, SampleIndex, cache_of, open_index
from sclds.data.tokenizer import Tokenizer

__all__ = ["Quarantine", "TrainingBatches", "heldout_batches"]

_HELDOUT_STEP = -1
_UNDECODABLE = "its image or video cannot be decoded"


class TrainingBatches:
    """The training batches of one process, from any step on, without end.

    Iterating starts a thread that has `data.prefetch` micro-batches made ahead; it ends when the iterator is closed or
    dropped, or the main thread ends. Each step is a list of `accumulation` packed batches. Beside a GPU they are made
    in a process of its own (`own_process`), since the host's interpreter has kernels to launch; with
    `data.device: mixed`, whose pixels are born on the GPU, in the thread.

    Args:
        config: The run.
        tokenizer: Encodes captions.
        rank: This process, from 0.
        world_size: Processes.
        micro_size: Samples of a micro-batch; a multiple of `batch.group_size`.
        accumulation: Micro-batches of a step.
        start_step: The first step.
        quarantine: Counts and names unusable samples; by default it only counts. A process of its own counts there.
        own_process: Whether batches are made in a process of its own; by default beside a GPU that does not decode.
        windows: Batches of the order that no step reads; by default those of `data.skip_batches`.

    Raises:
        DataError: Shards are missing or unreadable.
    """

    def __init__(
        self,
        config: Config,
        tokenizer: Tokenizer,
        rank: int,
        world_size: int,
        micro_size: int,
        accumulation: int,
        start_step: int = 0,
        quarantine: Quarantine | None = None,
        own_process: bool | None = None,
        windows: Windows | None = None,
    ):
        assert micro_size % config.batch.group_size == 0, "ITM partners must lie in the micro-batch"
        assert micro_size * world_size * accumulation == config.batch.global_size
        self._config, self._tokenizer = config, tokenizer
        self._rank, self._world_size = rank, world_size
        self._micro_size, self._accumulation, self._start = micro_size, accumulation, start_step
        self._windows = config.data.skip_batches if windows is None else windows
        self.quarantine = quarantine or Quarantine()
        beside_gpu = torch.cuda.is_available() and config.data.device == "cpu"
        self._own_process = beside_gpu if own_process is None else own_process
        self.index = self._open_index()
        self.order = Order(
            self.index, weights_of(config.data.train), config.seed, config.batch.global_size, config.data.shuffle_block
        )
        # a new thread would start on device 0, whatever this process has been given
        self._device_id = decoding_device(config.data)

    def _open_index(self) -> SampleIndex:
        return open_index(self._config.data.train, cache_of(self._config.data))

    def _assembler(self) -> "Assembler":
        maker = SampleMaker(self._config, self._tokenizer, self.index)
        decoder = Decoder(self._config, self._micro_size, self._device_id)
        return Assembler(self._config, self._tokenizer, self.index, maker, decoder, self.quarantine)

    def __iter__(self) -> Iterator[list[Batch]]:
        """Yield the micro-batches of each step.

        Raises:
            DataError: Too many samples are unusable.
        """
        data = self._config.data
        with Prefetch(self._pinned, data.prefetch, data.prefetch_bytes, attrgetter("nbytes"), "decode-ahead") as ahead:
            while True:
                yield [next(ahead) for _ in range(self._accumulation)]

    def __reduce__(self) -> tuple[type["TrainingBatches"], tuple[object, ...]]:
        """Let another process make the same batches: from what they follow from, not from indexes in memory."""
        place = (self._rank, self._world_size, self._micro_size, self._accumulation, self._start)
        return type(self), (self._config, self._tokenizer, *place, self.quarantine, False, self._windows)

    def _pinned(self) -> Iterator[Batch]:
        """Yield micro-batches from which a GPU copies while it computes, made here or in a process of its own."""
        batches = made_apart(self.made_here) if self._own_process else self.made_here()
        try:
            for batch in batches:
                yield pinned(batch)
        finally:
            batches.close()  # type: ignore[attr-defined]

    def made_here(self) -> Iterator[Batch]:
        """Yield this process's micro-batches one by one, made in this very thread."""
        assembler = self._assembler()
        fetches = FetchAhead(self.index.shards)
        try:
            for step in batches_from(self._start, self._windows):
                fetches.want(self.order.shards_ahead(step))
                for a in range(self._accumulation):
                    positions = positions_of(a, self._rank, self._world_size, self._micro_size)
                    places = self.order.places(step, positions)
                    yield assembler.training(places, step, positions.start)
        finally:
            fetches.close()
            assembler.close()


class Assembler:
    """Turns places into packed batches, setting unusable samples aside.

    Downstream tasks override how samples are brought together (`_with_partners`) and packed (`_pack`).
    """

    def __init__(
        self,
        config: Config,
        tokenizer: Tokenizer,
        index: SampleIndex,
        maker: SampleMaker,
        decoder: Decoder,
        quarantine: Quarantine,
    ):
        self._config, self._index, self._recipe = config, index, recipe_of(config, tokenizer.pad_id)
        self._maker, self._decoder, self._quarantine = maker, decoder, quarantine
        self._replacements = Replacements(index, config.seed)

    def close(self) -> None:
        """Close shards and decoder."""
        self._decoder.close()
        self._maker.close()

    def training(self, places: list[Place], step: int, first: int) -> Batch:
        """Assemble a micro-batch whose first row stands at position `first` of the global batch."""
        views: dict[int, SampleViews] = {}
        patches: dict[int, torch.Tensor] = {}
        samples = {row: place.sample for row, place in enumerate(places)}
        attempts = dict.fromkeys(samples, 0)
        while missing := [row for row in samples if row not in patches]:
            occasions: dict[int, Occasion] = {row: (places[row].epoch, places[row].repeat) for row in missing}
            for row, (one, rows) in self._usable({row: samples[row] for row in missing}, occasions, step).items():
                views[row], patches[row] = one, rows
            for row in missing:
                if row not in patches:
                    attempts[row] += 1
                    samples[row] = self._replacements(places[row], attempts[row])
        self._judge(len(places), sum(attempt > 0 for attempt in attempts.values()))
        group = self._config.batch.group_size
        paired = self._with_partners([views[row] for row in samples], ("step", step), first // group)
        return self._pack(paired, joined([patches[row] for row in samples]))

    def heldout(self, samples: list[int], batch_number: int) -> Batch | None:
        """Assemble a held-out batch without its unusable samples; None if no sample is left."""
        rows = dict(enumerate(samples))
        usable = self._usable(rows, dict.fromkeys(rows, HELDOUT), _HELDOUT_STEP)
        self._judge(len(samples), len(samples) - len(usable))
        if not usable:
            return None
        views = self._with_partners([one for one, _ in usable.values()], (*HELDOUT, batch_number), 0)
        return self._pack(views, joined([patches for _, patches in usable.values()]))

    def _pack(self, views: list[SampleViews], patches: torch.Tensor) -> Batch:
        config, order = self._config, None
        if config.batch.layout == "shuffled":
            order = generator(config.seed, "layout", views[0].sample_id).permutation(len(views)).tolist()
        return pack(views, patches, self._recipe, order)

    def _with_partners(self, views: list[SampleViews], occasion: Occasion, first_group: int) -> list[SampleViews]:
        """Draw the ITM partners of a micro-batch, group by group."""
        size, paired = self._config.batch.group_size, []
        for start in range(0, len(views), size):
            members = views[start : start + size]
            rng = generator(self._config.seed, "itm", *occasion, first_group + start // size)
            rows = np.arange(len(members))
            published = self._config.losses.duplicates == "negatives"
            possible = wrong_partners(members, rows[:, None], rows, duplicates=published)
            partner, label = itm_partners(possible, rng)
            draw = rng.integers(ITM_DRAWS, size=len(members))
            alone = ~np.any(possible, axis=1)
            drawn = zip(members, partner, label, draw, alone.tolist(), strict=True)
            paired += [
                replace(view, itm_partner=start + int(p), itm_label=int(m), itm_draw=int(d), itm_alone=is_alone)
                for view, p, m, d, is_alone in drawn
            ]
        return paired

    def _usable(
        self, samples: dict[int, int], occasions: dict[int, Occasion], step: int
    ) -> dict[int, tuple[SampleViews, torch.Tensor]]:
        """Read and decode samples by row; return views and patches of those that can be used, record the others."""
        loaded: dict[int, Loaded] = {}
        for row, sample in samples.items():
            try:
                loaded[row] = self._maker(sample, occasions[row])
            except BadSampleError as fault:
                self._set_aside(sample, str(fault), step)
        media = [(one.encoded,) if one.second is None else (one.encoded, one.second) for one in loaded.values()]
        decoded = iter(self._decoder.each([one for several in media for one in several]) if loaded else [])
        usable = {}
        for (row, one), several in zip(loaded.items(), media, strict=True):
            patches = [found for found in (next(decoded) for _ in several) if found is not None]
            if len(patches) < len(several):
                self._set_aside(samples[row], _UNDECODABLE, step)
            else:
                usable[row] = (one.views, joined(patches))
        return usable

    def _set_aside(self, sample: int, reason: str, step: int) -> None:
        shard, row = self._index.locate(sample)
        self._quarantine.record(shard.sample_id(row), str(shard.path), shard.dataset, reason, step)

    def _judge(self, seen: int, bad: int) -> None:
        self._quarantine.count(seen, bad)
        self._quarantine.check(self._config.data.max_bad_share)


@dataclass(frozen=True)
class HeldoutChunk:
    """Held-out samples that make one batch: rows [start, end) of a data set."""

    dataset: DatasetConfig
    start: int
    end: int


def heldout_chunks(config: Config, datasets: Sequence[DatasetConfig], size: int) -> list[HeldoutChunk]:
    """Return the held-out batches of data sets in fixed order, without reading a sample.

    Samples come by data set and shard, each batch from one data set, at most `evaluation.max_samples` of a set.

    Args:
        config: The run.
        datasets: Some of `data.heldout`.
        size: Samples of a batch.

    Raises:
        DataError: Shards are missing or unreadable.
    """
    chunks = []
    for dataset in datasets:
        count = min(len(open_index([dataset], cache_of(config.data))), config.evaluation.max_samples)
        chunks += [HeldoutChunk(dataset, start, min(start + size, count)) for start in range(0, count, size)]
    return chunks


class HeldoutReader:
    """Packs held-out batches: whole images, middle frames, the same masks each time, whoever reads them.

    Args:
        config: The run.
        tokenizer: Encodes captions.
        size: Most samples of a batch.
        quarantine: Counts and names unusable samples, which are left out; by default it only counts.
    """

    def __init__(self, config: Config, tokenizer: Tokenizer, size: int, quarantine: Quarantine | None = None):
        self._config, self._tokenizer, self._size = config, tokenizer, size
        self._quarantine = quarantine or Quarantine()
        self._device_id = decoding_device(config.data)
        self._open: tuple[DatasetConfig, Assembler] | None = None

    def __call__(self, chunk: HeldoutChunk) -> Batch | None:
        """Return the batch of a chunk without its unusable samples; None if no sample is left.

        Raises:
            DataError: Shards are missing or unreadable, or too many samples are unusable.
        """
        if self._open is None or self._open[0] != chunk.dataset:
            self.close()
            self._open = (chunk.dataset, self._assembler(chunk.dataset))
        return self._open[1].heldout(list(range(chunk.start, chunk.end)), chunk.start // self._size)

    def _assembler(self, dataset: DatasetConfig) -> Assembler:
        index = open_index([dataset], cache_of(self._config.data))
        maker = SampleMaker(self._config, self._tokenizer, index)
        decoder = Decoder(self._config, self._size, self._device_id)
        return Assembler(self._config, self._tokenizer, index, maker, decoder, self._quarantine)

    def close(self) -> None:
        """Close shards and decoder."""
        if self._open is not None:
            self._open[1].close()
            self._open = None


def heldout_batches(
    config: Config,
    tokenizer: Tokenizer,
    dataset: DatasetConfig | None = None,
    batch_size: int | None = None,
    quarantine: Quarantine | None = None,
) -> Iterator[Batch]:
    """Yield packed batches of held-out samples in fixed order, see `heldout_chunks` and `HeldoutReader`.

    Args:
        config: The run.
        tokenizer: Encodes captions.
        dataset: One data set; by default all of `data.heldout`.
        batch_size: Samples of a batch; by default `evaluation.batch_size`.
        quarantine: Counts and names unusable samples, which are left out.

    Raises:
        DataError: Shards are missing or unreadable, or too many samples are unusable.
    """
    size = batch_size or config.evaluation.batch_size
    reader = HeldoutReader(config, tokenizer, size, quarantine)
    try:
        for chunk in heldout_chunks(config, [dataset] if dataset else config.data.heldout, size):
            batch = reader(chunk)
            if batch is not None:
                yield batch
    finally:
        reader.close()
