"""The examples of annotated shards as an index of samples: one sample an image and what is asked about it together.

An annotated shard holds, for each image, `KEY.png` (or for a pair `KEY.left.png` and `KEY.right.png`) and one JSON
member with all that is asked or said about it (docs/data_sets.md). All of these are read when a run starts, since the
classes, and what cannot be used, follow from all of them; images are read when their turn comes.
"""

import hashlib
import json
import logging
import os
import tarfile
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from sclds.config import Config, DataConfig, DatasetConfig
from sclds.config.errors import DataError
from sclds.data.storage.archive import open_tar
from sclds.data.storage.cache import ShardCache, cache_of
from sclds.data.storage.faulty_shards import unreadable
from sclds.data.storage.files import StoredFile, is_url
from sclds.data.storage.index_file import ABSENT, columns_of_keys
from sclds.data.storage.sample_index import SampleIndex, Shard
from sclds.data.storage.shards import shard_files
from sclds.data.storage.tar_members import CHECKSUMS, EXTENSIONS, MEDIA, TXT
from sclds.run.checkpoints import newest_checkpoint
from sclds.run.files import write_atomically
from sclds.run.folder import RunFolder
from sclds.tasks import task_of
from sclds.tasks.definition import Example, Task, UnusableError
from sclds.tasks.reading import FAULTS, said

SECOND = TXT
"""Role of the second image of an example: annotated samples have no text of their own."""
CLASSES = "answers.json"
"""In the run folder: the classes of a task that counts them, in order."""
ANSWERS = "answers"
"""Key of the classes' digest in `Checkpoint.trained_on`."""
Contents = tuple[int, ...]
"""Checksum and size of each image of a sample as one number, where `sclds prepare` has noted the checksums."""
_log = logging.getLogger(__name__)


@dataclass
class LeftOut:
    """What of a data set is not used, by reason."""

    counts: Counter[str] = field(default_factory=Counter)
    first: dict[str, str] = field(default_factory=dict)
    """The first of each."""

    def add(self, reason: str, name: str) -> None:
        """Count one."""
        self.counts[reason] += 1
        self.first.setdefault(reason, name)

    def told(self) -> str:
        """Return all reasons in a line."""
        return "; ".join(
            f"{count:,}: {reason} (the first: {self.first[reason]})" for reason, count in self.counts.most_common()
        )


@dataclass(frozen=True)
class _Annotated:
    """What one key of a shard has."""

    media: tuple[tuple[int, int] | None, ...]
    """Offset and size of its images, None where one is missing."""
    record: Any
    """Its annotation, or why there is none."""
    annotated: bool = True
    """Whether it has an annotation, be it a damaged one."""


class ExampleIndex:
    """The examples of some annotated data sets, numbered as samples.

    Args:
        task: Says what an example is.
        datasets: Annotated sets.
        cache: For sets behind a URL.
        classes: Number of each class.
        learns: Whether they are learned from, so that an example without a score is left out.
        together: Most examples of a sample.

    Raises:
        DataError: A shard is missing, unreadable or of another task, or nothing of a set can be used.
    """

    def __init__(
        self,
        task: Task,
        datasets: Sequence[DatasetConfig],
        cache: ShardCache | None,
        classes: Mapping[str, int],
        learns: bool,
        together: int,
    ):
        self.examples: list[tuple[Example, ...]] = []
        """By number of the sample."""
        self.left_out: dict[str, LeftOut] = {}
        """By data set."""
        self.images: dict[str, dict[str, Contents]] = {}
        """By data set and key, the contents of the images in use."""
        self._samples: dict[str, int] = {}
        shards: list[Shard] = []
        for dataset in datasets:
            before, left_out = len(self.examples), self.left_out.setdefault(dataset.name, LeftOut())
            images, seen = self.images.setdefault(dataset.name, {}), set[str]()
            for file in shard_files(dataset):
                rows: list[tuple[str, tuple[Example, ...], _Annotated]] = []
                for key, annotated in annotations(task, dataset, file, cache):
                    usable = []
                    for example in _usable(task, key, annotated, classes, learns, left_out):
                        if example.example_id in seen:
                            left_out.add("its id stands there twice", example.example_id)
                            continue
                        seen.add(example.example_id)
                        usable.append(example)
                    if usable:
                        images[key] = _contents(annotated)
                    starts = range(0, len(usable), together)
                    rows += [(key, tuple(usable[start : start + together]), annotated) for start in starts]
                if rows:
                    shards.append(_shard(dataset, file, rows, cache))
                    self.examples += [examples for _, examples, _ in rows]
            self._samples[dataset.name] = len(self.examples) - before
            if len(self.examples) == before:
                raise DataError(
                    f"nothing of data set '{dataset.name}' ({dataset.shards}) can be used for {task.title.lower()}: "
                    f"{left_out.told() or f'its shards hold no .{task.member}'}; write them with `sclds prepare`"
                )
        self.index = SampleIndex(shards)

    def sentences(self, most: int | None = None) -> list[str]:
        """Return a line for each set of which something is left out, or of which more than `most` samples are left."""
        told = [f"Left out of data set '{name}': {out.told()}" for name, out in self.left_out.items() if out.counts]
        return told + [
            f"Of data set '{name}' the first {most:,} of {count:,} samples are measured, and predictions are of these "
            f"alone (evaluation.max_samples)"
            for name, count in self._samples.items()
            if most is not None and count > most
        ]


def open_examples(config: Config, datasets: Sequence[DatasetConfig], learns: bool) -> ExampleIndex:
    """Return the examples of sets of a run; see `ExampleIndex`."""
    numbers = {name: number for number, name in enumerate(classes_of(config))}
    assert config.task is not None
    together = config.task.questions_per_image
    return ExampleIndex(task_of(config), datasets, cache_of(config.data), numbers, learns, together)


def heldout_sentences(config: Config) -> list[str]:
    """Return what is to be said of the held-out sets of a run whose samples are annotated, before they are measured."""
    if config.task is None or task_of(config).reads_captions or not config.data.heldout:
        return []
    return open_examples(config, config.data.heldout, learns=False).sentences(config.evaluation.max_samples)


def shared_images(train: ExampleIndex, heldout: ExampleIndex) -> list[str]:
    """Return a sentence for each held-out set that has images, by name or by content, of a training set."""
    told = []
    for name, images in heldout.images.items():
        for of, trained in train.images.items():
            contents = {one for several in trained.values() for one in several}
            by_name = images.keys() & trained.keys()
            by_content = {key for key, several in images.items() if not contents.isdisjoint(several)}
            both = sorted(by_name | by_content)
            if both:
                told.append(
                    f"{len(both):,} images of '{name}', the first {both[0]}, are in '{of}' too ({len(by_name):,} by "
                    f"name, {len(by_content):,} by content): what is measured on '{name}' is not only about images "
                    f"that training never saw"
                )
    return told


def annotation_problems(task: Task, data: DataConfig, datasets: Sequence[DatasetConfig]) -> list[str]:
    """Return a sentence for every set that is no annotated one of a task; only its first shard is looked at."""
    problems = []
    for dataset in datasets:
        try:
            files = shard_files(dataset)
            if not files:
                problems.append(
                    f"data set '{dataset.name}' (shards: {dataset.shards}) has no .tar; write its shards with "
                    f"`sclds prepare`, or correct where they lie"
                )
            elif not any(True for _ in _records(task, dataset, files[0], cache_of(data))):
                problems.append(
                    f"shard {files[0].place} of data set '{dataset.name}' holds no .{task.member}, which "
                    f"task.name={task.name} reads; give shards that `sclds prepare` wrote for it"
                )
        except (DataError, OSError) as fault:
            problems.append(f"data set '{dataset.name}': {fault}")
    return problems


def _records(task: Task, dataset: DatasetConfig, file: StoredFile, cache: ShardCache | None) -> Iterator[Any]:
    for _, annotated in annotations(task, dataset, file, cache):
        if annotated.annotated:
            yield annotated.record


def annotations(
    task: Task, dataset: DatasetConfig, file: StoredFile, cache: ShardCache | None
) -> Iterator[tuple[str, _Annotated]]:
    """Yield what every key of a shard has, in the order in which keys begin.

    Raises:
        DataError: The shard cannot be read.
    """
    media: dict[str, list[tuple[int, int] | None]] = {}
    records: dict[str, Any] = {}
    roles = ("left", "right") if task.images == 2 else ("",)
    path = file.place if not is_url(file.place) else str(_fetched(file, cache))
    try:
        with open_tar(path) as tar:
            for info in tar:
                folder, slash, name = info.name.removeprefix("./").rpartition("/")
                stem, _, extension = name.partition(".")
                key, extension = folder + slash + stem, extension.lower()
                role, _, kind = extension.rpartition(".")
                if not info.isreg() or name.startswith("."):
                    continue
                if extension == task.member:
                    content = tar.extractfile(info)
                    assert content is not None
                    records[key] = _parsed(content.read())
                    media.setdefault(key, [None] * task.images)
                elif kind in EXTENSIONS[dataset.kind] and role in roles:
                    place = media.setdefault(key, [None] * task.images)
                    place[roles.index(role)] = (info.offset_data, info.size)
    except (OSError, tarfile.TarError) as fault:
        raise DataError(unreadable(dataset.name, file, fault)) from fault
    for key, places in media.items():
        record = records.get(key, UnusableError(f"it has no annotation (.{task.member})"))
        yield key, _Annotated(tuple(places), record, key in records)


def _contents(annotated: _Annotated) -> Contents:
    """Return the contents of a sample's images; empty where no checksums of them are noted."""
    noted, places = annotated.record.get(CHECKSUMS), annotated.media
    if not isinstance(noted, list) or len(noted) != len(places) or not all(type(one) is int for one in noted):
        return ()
    return tuple(checksum << 32 | place[1] for checksum, place in zip(noted, places, strict=True) if place)


def _fetched(file: StoredFile, cache: ShardCache | None) -> Path:
    assert cache is not None, "a shard behind a URL is fetched into the cache"
    return cache.path(file)


def _parsed(content: bytes) -> Any:
    try:
        return json.loads(content)
    except (ValueError, RecursionError):
        return UnusableError("its annotation is no JSON")


def _usable(
    task: Task, key: str, annotated: _Annotated, classes: Mapping[str, int], learns: bool, left_out: LeftOut
) -> list[Example]:
    """Return the examples of a key that can be used, and note the others."""
    if isinstance(annotated.record, UnusableError):
        left_out.add(str(annotated.record), key)
        return []
    if None in annotated.media:
        left_out.add("its image is missing" if task.images == 1 else "one of its images is missing", key)
        return []
    try:
        made = task.examples(annotated.record, classes)
    except FAULTS as fault:
        left_out.add(f"its annotation is not of the expected form ({said(fault)})", key)
        return []
    kept = []
    for example in made:
        if isinstance(example, UnusableError):
            left_out.add(str(example), key)
        elif learns and not example.target:
            left_out.add("no answer to learn: it has none, or none that is a class", example.example_id)
        else:
            kept.append(example)
    return kept


def _shard(
    dataset: DatasetConfig,
    file: StoredFile,
    rows: Sequence[tuple[str, tuple[Example, ...], _Annotated]],
    cache: ShardCache | None,
) -> Shard:
    """Return a shard whose samples are named after their first example, each with the place of its images."""
    offset, size = np.zeros((len(rows), 3), "<i8"), np.full((len(rows), 3), ABSENT, "<u4")
    for row, (_, _, annotated) in enumerate(rows):
        for role, place in zip((MEDIA, SECOND), annotated.media, strict=False):
            assert place is not None
            offset[row, role], size[row, role] = place
    keys = columns_of_keys([f"{key}:{first.example_id}" for key, (first, *_), _ in rows])
    name = file.name.removesuffix(".tar")
    columns = {"offset": offset, "size": size, **keys}
    return Shard(dataset.name, dataset.kind, file, name, columns, 0, len(rows), cache if is_url(file.place) else None)


def count_classes(config: Config) -> tuple[str, ...]:
    """Return the answers that are given to `task.min_answer_count` training questions, by frequency, then name.

    Raises:
        DataError: There is none.
    """
    task, counts = task_of(config), Counter[str]()
    assert config.task is not None
    for dataset in config.data.train:
        for file in shard_files(dataset):
            for _, annotated in annotations(task, dataset, file, cache_of(config.data)):
                try:
                    if not isinstance(annotated.record, UnusableError):
                        counts.update(task.answers_of(annotated.record))
                except FAULTS:
                    continue  # counted and named when its examples are read
    least = config.task.min_answer_count
    classes = tuple(name for name, n in sorted(counts.items(), key=lambda one: (-one[1], one[0])) if n >= least)
    if not classes:
        most = (
            f"the most frequent, {max(counts, key=counts.__getitem__)!r}, to {max(counts.values())}"
            if counts
            else "none"
        )
        raise DataError(
            f"no answer is given to task.min_answer_count={least} training questions ({most}); lower it, or look at "
            f"the shards of data.train"
        )
    return classes


def write_classes(config: Config) -> None:
    """Count the classes and keep them in the run folder, where the task counts them."""
    if task_of(config).classes is None and not task_of(config).reads_captions:
        folder = Path(config.run_dir)
        folder.mkdir(parents=True, exist_ok=True)
        write_atomically(folder / CLASSES, json.dumps(count_classes(config), ensure_ascii=False, indent=0) + "\n")


def classes_of(config: Config) -> tuple[str, ...]:
    """Return the classes of a run's task, in order: its own, or those in the run folder.

    Raises:
        DataError: The run folder has none, or others than its newest checkpoint has learned.
    """
    task = task_of(config)
    if task.reads_captions:
        return ()
    if task.classes is not None:
        return task.classes
    path = Path(config.run_dir) / CLASSES
    try:
        found = tuple(str(name) for name in json.loads(path.read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError) as fault:
        raise DataError(
            f"{os.fspath(path)} cannot be read ({fault}): it holds the answers that the run has learned; restore it, "
            f"or start over with another run_dir"
        ) from fault
    newest = newest_checkpoint(RunFolder(config.run_dir).checkpoints)
    learned = newest.trained_on.get(ANSWERS) if newest else None
    if newest and learned and learned != classes_sha256(config):
        raise DataError(
            f"{os.fspath(path)} has other answers, or another order of them, than {newest.folder} has learned: every "
            f"answer would be taken for another one; restore that file, or start over with another run_dir"
        )
    return found


def classes_sha256(config: Config) -> str:
    """Return the SHA-256 of the classes in the run folder; empty for a task that keeps none there.

    Raises:
        OSError: The file cannot be read.
    """
    if task_of(config).reads_captions or task_of(config).classes is not None:
        return ""
    return hashlib.sha256((Path(config.run_dir) / CLASSES).read_bytes()).hexdigest()
