"""What a run watches itself by, all of it together, beside the bare step: in turns, in one process.

What is due in every step is done in the turns that have it; what is due at checkpoints is timed beside them and charged
to a step by its interval, what threads do by the seconds that a step takes. A step is to read and decode its samples,
and to compute with them. Of samples the CRC-32 is charged, and what looking at their headers takes beyond opening them.
"""

import io
import json
import os
import tempfile
import time
import zlib
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from hashlib import sha256
from pathlib import Path
from typing import Any

import av

from sclds.batch import Batch
from sclds.batch.split import split_batch
from sclds.benchmarks.rows import Row, quantiles, write
from sclds.config import Config
from sclds.config.reading import load_config
from sclds.data.loader import TrainingBatches
from sclds.data.media.images import opened
from sclds.data.media.inspection import inspect
from sclds.data.storage.shards import Kind, ShardReader
from sclds.data.tokenizer import load_tokenizer
from sclds.machine.implementations import choose, use
from sclds.machine.packages import installed_version
from sclds.run.folder import RunFolder
from sclds.train.corruption import MemoryCheck
from sclds.train.distributed import ProcessGroup, synchronize
from sclds.train.engine import build_engine
from sclds.train.guard import SkipGuard, state_is_finite
from sclds.train.guards import Guards
from sclds.train.progress import Reporter
from sclds.train.saver import CheckpointSaver
from sclds.train.spikes import SpikeGuard
from sclds.train.step import train_step

BARE, WATCHED = "bare", "watched"
IDLE_SECONDS = 10.0
"""For which threads are watched while nothing else runs."""
WARM_UP = 2
Clock = Callable[[], float]


class _TimedCheck(MemoryCheck):
    """Knows what its sums took."""

    seconds = 0.0
    clock: Clock

    def _take(self, *parts: Any) -> None:
        with timed(self, self.clock):
            super()._take(*parts)

    def _compare(self, *parts: Any) -> None:
        with timed(self, self.clock):
            super()._compare(*parts)


class _Part:
    """Seconds of one thing that is watched."""

    seconds = 0.0


@contextmanager
def timed(part: Any, clock: Clock) -> Iterator[None]:
    """Add the seconds of the block to `part.seconds`."""
    synchronize()
    begun = clock()
    yield
    synchronize()
    part.seconds += clock() - begun


def compare_guards(rounds: int, folder: Path, image_size: int, samples: int) -> list[Row]:
    """Take steps with and without everything that watches them, in turns, and write guards.csv and guards.png.

    The clock is the processor's time of all threads of this process on a CPU, so that other work on the machine counts
    little, and the wall's on a GPU.

    Args:
        rounds: Steps of each.
        folder: For the files.
        image_size: Side of an image in pixels.
        samples: Of a step.
    """
    with tempfile.TemporaryDirectory() as scratch:
        given = ["data.heldout=[]", "guards.spike_deviations=8", "log.tensorboard=false", f"run_dir={scratch}/run"]
        given += [f"data.image_size={image_size}", f"batch.global_size={samples}"]
        config = load_config("quickstart", given)
        group = ProcessGroup()
        try:
            found = _Comparison(config, group).run(rounds)
        finally:
            group.close()
    data = {"data.image_size": image_size, "batch.global_size": samples}
    told = json.dumps({"config": "quickstart", "checkpoint.every": config.checkpoint.every} | data)
    where = f"{group.device}, {os.cpu_count()} cores"
    versions = ", ".join(f"{name} {installed_version(name)}" for name in ("torch", "deepspeed"))

    def row(provider: str, metric: str, values: list[float]) -> Row:
        return Row(provider, metric, *quantiles(values), len(values), told, where, versions)

    steps = {name: found.pop(name) for name in (BARE, WATCHED)}
    rows = [row(name, "step_seconds", values) for name, values in steps.items()]
    rows.append(row(f"{WATCHED}/{BARE}", "ratio", [w / b for w, b in zip(steps[WATCHED], steps[BARE], strict=True)]))
    bare = rows[0].median
    rows += [row(name, "share_of_step", [second / bare for second in seconds]) for name, seconds in found.items()]
    sums = [sum(of_step) / bare for of_step in zip(*found.values(), strict=True)]
    rows.append(row("all", "share_of_step", sums))
    write(rows, folder, "guards", "A step, watched and bare")
    return rows


class _Comparison:
    """The run whose steps are watched, or not."""

    def __init__(self, config: Config, group: ProcessGroup):
        self._config, self._group = config, group
        self._clock: Clock = time.process_time if group.device.type == "cpu" else time.perf_counter
        use(choose(config))
        self._split = split_batch(config.batch, 1)
        tokenizer = load_tokenizer(config.data.tokenizer)
        self._engine = build_engine(config, tokenizer, self._split, group)
        training = TrainingBatches(config, tokenizer, 0, 1, self._split.micro, self._split.accumulation)
        self._maker = training.made_here()
        self._batches: list[Batch] = [next(self._maker) for _ in range(self._split.accumulation)]
        self._samples = _samples(training, config.batch.global_size)
        self._new = _share_of_new_videos(training, config)
        folder = RunFolder(config.run_dir)
        self._guards = Guards(config, folder, Reporter(1, config.schedule.steps))
        self._check = _TimedCheck(self._engine, group)
        self._check.clock = self._clock
        self._saver = CheckpointSaver(self._engine, folder.checkpoints, config, group)
        self._skips = SkipGuard(config.optimizer.max_skipped_in_a_row, lambda sentence: None)
        self._spikes = SpikeGuard(config.guards, 1, [])

    def run(self, rounds: int) -> dict[str, list[float]]:
        """Return, per step, seconds of both and of each part of what watches."""
        for step in range(WARM_UP):
            self._bare(step)
            self._watched(step)
        idle = self._idle()
        with self._guards:
            self._guards.meet(self._group)
            threads = max(0.0, self._idle() - idle) / IDLE_SECONDS
        found: dict[str, list[float]] = {}
        for turn in range(rounds):
            taken: dict[str, float] = {}
            for name in (BARE, WATCHED) if turn % 2 else (WATCHED, BARE):
                taken |= self._bare(turn) if name == BARE else self._watched(turn)
            checks, made = self._checks_of_samples(), self._making()
            taken[WATCHED] += made or sum(checks.values())
            taken[BARE] += made - sum(checks.values()) if made else 0.0
            taken |= checks
            taken["threads"] = threads * taken[BARE]
            taken |= self._at_checkpoints(turn)
            taken[WATCHED] += sum(taken[name] for name in ("threads", "looks", "finite", "manifest"))
            for name, seconds in taken.items():
                found.setdefault(name, []).append(seconds)
        self._saver.close()
        self._maker.close()  # type: ignore[attr-defined]  # a generator
        return found

    def _making(self) -> float:
        """Return the seconds of reading and decoding a step's samples; 0 beside a GPU, where another process does."""
        if self._group.device.type != "cpu":
            return 0.0
        made = _Part()
        with timed(made, self._clock):
            for _ in self._batches:
                next(self._maker)
        return made.seconds

    def _checks_of_samples(self) -> dict[str, float]:
        """Return the seconds that a step's samples are checked for: of looks at headers what opening does not take."""
        checksums = _Part()
        with timed(checksums, self._clock):
            for _, content in self._samples:
                zlib.crc32(content)
        headers = self._headers("image") + self._new * self._headers("video")
        return {"checksums of samples": checksums.seconds, "headers of samples": headers}

    def _headers(self, kind: Kind) -> float:
        contents = [content for of_kind, content in self._samples if of_kind == kind]
        headers, bare = _Part(), _Part()
        with timed(headers, self._clock):
            for content in contents:
                inspect(kind, content, self._config.data.max_pixels)
        with timed(bare, self._clock):
            for content in contents:
                _open(kind, content)
        return headers.seconds - bare.seconds

    def _step(self, engine: Any, step: int) -> Any:
        return train_step(engine, self._batches, step, self._config, self._split, self._group)

    def _bare(self, step: int) -> dict[str, float]:
        whole = _Part()
        with timed(whole, self._clock):
            self._step(self._engine, step)
        return {BARE: whole.seconds}

    def _watched(self, step: int) -> dict[str, float]:
        """Take a step as a run does; the order of its parts is not that of a run, where samples are read ahead."""
        self._check.begin(step)
        self._check.seconds, whole, rest = 0.0, _Part(), _Part()
        with timed(whole, self._clock):
            with timed(rest, self._clock):
                with self._guards.limit("data", "step"):
                    self._group.any(False, self._guards.fault() is not None)
                self._saver.poll()
            with self._guards.limit("the step", "step"):
                report = self._step(self._check, step)
            with timed(rest, self._clock):
                self._skips.count(step, report.applied)
                self._spikes.judge(step, {"loss": {"total": 1.0 + step % 7}})
                self._skips.stop_if_stuck(step)
        return {WATCHED: whole.seconds, "bits": self._check.seconds, "limits, signals, spikes": rest.seconds}

    def _at_checkpoints(self, step: int) -> dict[str, float]:
        """Return a step's part of what is due now and then; of hashing too, which another process does."""
        looks, finite, manifest = _Part(), _Part(), _Part()
        self._check.begin(step)
        with timed(looks, self._clock):
            self._check.found(step)
        with timed(finite, self._clock):
            state_is_finite(self._engine)
        weights = sum(weight.ds_numel for weight in self._engine.module.parameters())
        content = bytes(4 * weights)
        with timed(manifest, self._clock):
            for _ in range(4):  # in fp32: the weight that is computed with, the optimizer's, and two moments
                sha256(content)
        every = self._config.checkpoint.every
        return {
            "looks": looks.seconds / self._config.guards.memory_every,
            "finite": finite.seconds / every,
            "manifest": manifest.seconds / every,
        }

    def _idle(self) -> float:
        """Return the processor's time of this process while it does nothing."""
        begun = time.process_time()
        time.sleep(IDLE_SECONDS)
        return time.process_time() - begun


def _open(kind: Kind, content: bytes) -> None:
    """Open an image or video as a loader has to that believes all of it: a video's packets have the frames' times."""
    if kind == "image":
        opened(content).close()
        return
    with av.open(io.BytesIO(content), mode="r") as container:
        for _ in container.demux(video=0):
            pass


def _samples(training: TrainingBatches, count: int) -> list[tuple[Kind, bytes]]:
    """Return what the first global batch reads."""
    reader = ShardReader()
    try:
        found = [training.index.locate(place.sample) for place in training.order.places(0, range(count))]
        return [(shard.kind, reader.media(shard, row)) for shard, row in found]
    finally:
        reader.close()


def _share_of_new_videos(training: TrainingBatches, config: Config) -> float:
    """Return how many of the videos that a process reads in the whole run it has not read before, 0 to 1."""
    steps, count = range(config.schedule.steps), range(config.batch.global_size)
    read = [place.sample for step in steps for place in training.order.places(step, count)]
    seen = Counter(sample for sample in read if training.index.locate(sample)[0].kind == "video")
    return len(seen) / max(seen.total(), 1)
