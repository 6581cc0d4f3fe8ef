"""Packed micro-batches: training batches decoded ahead in a thread, held-out batches in fixed order.

The stages have no state but the step they are at, so a run that resumes gives `start_step` and sees the same batches.
"""

import threading
from collections.abc import Iterator
from dataclasses import replace
from queue import Full, Queue

import torch

from sclds.config import Config, DatasetConfig
from sclds.data.decode import BadMediaError, Decoder
from sclds.data.fetch_ahead import FetchAhead
from sclds.data.keys import generator
from sclds.data.order import Order, Place, itm_partners, positions_of, weights_of
from sclds.data.packing import Batch, SampleViews, grids_of, pack
from sclds.data.quarantine import Quarantine
from sclds.data.samples import HELDOUT, Loaded, Occasion, SampleMaker
from sclds.data.shards import BadSampleError, SampleIndex, cache_of, open_index
from sclds.data.tokenizer import Tokenizer
from sclds.errors import DataError

__all__ = ["Quarantine", "TrainingBatches", "heldout_batches"]

_POLL_SECONDS = 0.2
_MOST_REPLACEMENTS = 100
_UNDECODABLE = "its picture or clip cannot be decoded"


class TrainingBatches:
    """The training batches of one process, from any step on, without end.

    Iterating starts a thread that decodes `data.prefetch` micro-batches ahead; it ends when the iterator is closed or
    dropped, or the main thread ends. Each step is a list of `accumulation` packed batches.

    Args:
        config: The run.
        tokenizer: Encodes captions.
        rank: This process, from 0.
        world_size: Processes.
        micro_size: Samples of a micro-batch; a multiple of `batch.group_size`.
        accumulation: Micro-batches of a step.
        start_step: The first step.
        quarantine: Counts and names unusable samples; by default it only counts.

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
    ):
        assert micro_size % config.batch.group_size == 0, "ITM partners must lie in the micro-batch"
        assert micro_size * world_size * accumulation == config.batch.global_size
        self._config, self._tokenizer = config, tokenizer
        self._rank, self._world_size = rank, world_size
        self._micro_size, self._accumulation, self._start = micro_size, accumulation, start_step
        self.quarantine = quarantine or Quarantine()
        self.index = open_index(config.data.train, cache_of(config.data))
        self.order = Order(
            self.index, weights_of(config.data.train), config.seed, config.batch.global_size, config.data.shuffle_block
        )
        # a new thread would start on device 0, whatever this process has been given
        self._device_id = torch.cuda.current_device() if config.data.device == "mixed" else None

    def __iter__(self) -> Iterator[list[Batch]]:
        """Yield the micro-batches of each step.

        Raises:
            DataError: Too many samples are unusable.
        """
        ready: Queue[Batch | BaseException] = Queue(maxsize=self._config.data.prefetch)
        stop = threading.Event()
        thread = threading.Thread(target=self._produce, args=(ready, stop), name="decode-ahead")
        thread.start()
        try:
            while True:
                yield [_take(ready) for _ in range(self._accumulation)]
        finally:
            stop.set()
            thread.join()

    def _produce(self, ready: "Queue[Batch | BaseException]", stop: threading.Event) -> None:
        maker = SampleMaker(self._config, self._tokenizer, self.index)
        fetches = FetchAhead(self.index.shards)
        try:
            decoder = Decoder(self._config, self._micro_size, self._device_id)
            assembler = _Assembler(self._config, self._tokenizer, self.index, maker, decoder, self.quarantine)
            step = self._start
            while True:
                fetches.want(self.order.shards_ahead(step))
                places = self.order.global_batch(step)
                for a in range(self._accumulation):
                    positions = positions_of(a, self._rank, self._world_size, self._micro_size)
                    batch = assembler.training([places[g] for g in positions], step, positions.start)
                    if not _offer(ready, batch, stop):
                        return
                step += 1
        except BaseException as fault:  # raised again by the thread that trains
            _offer(ready, fault, stop)
        finally:
            fetches.close()
            maker.close()


def _offer(ready: "Queue[Batch | BaseException]", item: "Batch | BaseException", stop: threading.Event) -> bool:
    """Put an item as soon as there is room; return False if nobody wants it any more."""
    while not stop.is_set() and threading.main_thread().is_alive():
        try:
            ready.put(item, timeout=_POLL_SECONDS)
        except Full:
            continue
        return True
    return False


def _take(ready: "Queue[Batch | BaseException]") -> Batch:
    item = ready.get()
    if isinstance(item, BaseException):
        raise item
    return item


class _Assembler:
    """Turns places into packed batches, setting unusable samples aside."""

    def __init__(
        self,
        config: Config,
        tokenizer: Tokenizer,
        index: SampleIndex,
        maker: SampleMaker,
        decoder: Decoder,
        quarantine: Quarantine,
    ):
        self._config, self._tokenizer, self._index = config, tokenizer, index
        self._maker, self._decoder, self._quarantine = maker, decoder, quarantine

    def training(self, places: list[Place], step: int, first: int) -> Batch:
        """Assemble a micro-batch whose first row stands at position `first` of the global batch."""
        attempts = [0] * len(places)
        samples = [place.sample for place in places]
        loaded: list[Loaded | None] = [None] * len(places)
        missing = list(range(len(places)))
        while missing:
            for row in missing:
                loaded[row], samples[row], attempts[row] = self._usable(places[row], samples[row], attempts[row], step)
            whole = [one for one in loaded if one is not None]
            try:
                patches = self._decoder([one.encoded for one in whole])
                missing = []
            except BadMediaError as fault:
                missing = fault.rows
                for row in missing:
                    self._set_aside(samples[row], _UNDECODABLE, step)
                    attempts[row] += 1
                    samples[row] = self._replacement(places[row], attempts[row])
        self._quarantine.passed(len(places))
        group = self._config.batch.group_size
        views = self._with_partners([one.views for one in whole], ("step", step), first // group)
        return self._pack(views, patches)

    def heldout(self, samples: list[int], batch_number: int) -> Batch | None:
        """Assemble a held-out batch without its unusable samples; None if no sample is left."""
        loaded: dict[int, Loaded] = {}
        for sample in samples:
            try:
                loaded[sample] = self._maker(sample, HELDOUT)
            except BadSampleError as fault:
                self._set_aside(sample, str(fault), -1)
        while loaded:
            try:
                patches = self._decoder([one.encoded for one in loaded.values()])
                break
            except BadMediaError as fault:
                for sample in [list(loaded)[row] for row in fault.rows]:
                    self._set_aside(sample, _UNDECODABLE, -1)
                    del loaded[sample]
        if not loaded:
            return None
        views = self._with_partners([one.views for one in loaded.values()], (*HELDOUT, batch_number), 0)
        return self._pack(views, patches)

    def _pack(self, views: list[SampleViews], patches: torch.Tensor) -> Batch:
        config = self._config
        return pack(
            views,
            patches,
            pad_id=self._tokenizer.pad_id,
            losses=config.losses,
            grids=grids_of(config),
            group_size=config.batch.group_size,
        )

    def _with_partners(self, views: list[SampleViews], occasion: Occasion, first_group: int) -> list[SampleViews]:
        """Draw the ITM partners of a micro-batch, group by group."""
        size, paired = self._config.batch.group_size, []
        for start in range(0, len(views), size):
            members = views[start : start + size]
            rng = generator(self._config.seed, "itm", *occasion, first_group + start // size)
            partner, label = itm_partners([view.kind for view in members], rng)
            paired += [
                replace(view, itm_partner=start + int(p), itm_label=int(matched))
                for view, p, matched in zip(members, partner, label, strict=True)
            ]
        return paired

    def _usable(self, place: Place, sample: int, attempt: int, step: int) -> tuple[Loaded, int, int]:
        """Read a sample, or if it is unusable the first usable one that replaces it."""
        while True:
            try:
                return self._maker(sample, (place.epoch, place.repeat)), sample, attempt
            except BadSampleError as fault:
                self._set_aside(sample, str(fault), step)
            attempt += 1
            sample = self._replacement(place, attempt)

    def _replacement(self, place: Place, attempt: int) -> int:
        """Choose another sample of the same kind, so that the batch keeps its make-up, by key."""
        shard, row = self._index.locate(place.sample)
        if attempt > _MOST_REPLACEMENTS:
            raise DataError(
                f"{shard.sample_id(row)} and {_MOST_REPLACEMENTS} samples of kind '{shard.kind}' drawn in its place "
                f"are unusable; look at the shards of data set '{shard.dataset}'"
            )
        alike = self._index.of_kind(shard.kind)
        words = ("replacement", place.epoch, place.repeat, shard.sample_id(row), attempt)
        return int(alike[generator(self._config.seed, *words).integers(len(alike))])

    def _set_aside(self, sample: int, reason: str, step: int) -> None:
        shard, row = self._index.locate(sample)
        self._quarantine.record(shard.sample_id(row), shard.path, shard.dataset, reason, step)
        self._quarantine.check(self._config.data.max_bad_share)


def heldout_batches(
    config: Config,
    tokenizer: Tokenizer,
    dataset: DatasetConfig | None = None,
    batch_size: int | None = None,
    quarantine: Quarantine | None = None,
) -> Iterator[Batch]:
    """Yield packed batches of held-out samples in fixed order: whole pictures, middle frames, the same masks each time.

    Every process gets the same batches. Samples come by data set and shard, each batch from one data set, at most
    `evaluation.max_samples` of a kind.

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
    device_id = torch.cuda.current_device() if config.data.device == "mixed" else None
    decoder = Decoder(config, size, device_id)
    quarantine = quarantine or Quarantine()
    left = {"image": config.evaluation.max_samples, "video": config.evaluation.max_samples}
    for chosen in [dataset] if dataset else config.data.heldout:
        index = open_index([chosen], cache_of(config.data))
        maker = SampleMaker(config, tokenizer, index)
        assembler = _Assembler(config, tokenizer, index, maker, decoder, quarantine)
        count = min(len(index), left[chosen.kind])
        left[chosen.kind] -= count
        try:
            for start in range(0, count, size):
                batch = assembler.heldout(list(range(start, min(start + size, count))), start // size)
                if batch is not None:
                    yield batch
        finally:
            maker.close()
