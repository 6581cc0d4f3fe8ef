"""Data sets as an index of samples: out of the folder's index file, or else out of the shards' own headers.

What the rest of the program needs to read samples is imported from here.
"""

import importlib.resources
import logging
import os
import tarfile
import time
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from itertools import chain, islice
from pathlib import Path

from sclds.config import DataConfig, DatasetConfig
from sclds.config.errors import DataError
from sclds.data.storage.archive import ArchiveError, open_tar
from sclds.data.storage.cache import CacheFullError, ShardCache, cache_of
from sclds.data.storage.faulty_shards import hollow, other_task, unreadable
from sclds.data.storage.files import StoredFile, as_path, as_text, find_shards, is_folder, is_url, packed_shards, stored
from sclds.data.storage.index_file import INDEX_NAME, Columns, IndexFile, ShardEntry, index_command, read_index
from sclds.data.storage.left_out import LeftOut, Tally
from sclds.data.storage.reader import BadSampleError, ShardReader, probe
from sclds.data.storage.sample_index import SampleIndex, Shard
from sclds.data.storage.tar_members import (
    EXTENSIONS,
    MEDIA,
    NLVR2_MEMBER,
    ROLES,
    VE_MEMBER,
    VQA_MEMBER,
    KeyEnds,
    Kind,
    OtherTaskError,
    SampleTable,
    members,
)

__all__ = [
    "EXTENSIONS",
    "MEDIA",
    "NLVR2_MEMBER",
    "VE_MEMBER",
    "VQA_MEMBER",
    "BadSampleError",
    "KeyEnds",
    "Kind",
    "SampleIndex",
    "Shard",
    "ShardReader",
    "cache_of",
    "data_problems",
    "left_out_sentences",
    "open_index",
    "shard_files",
    "shard_problems",
    "tally_of",
]

EMBEDDED = "embedded:"
_BLOCK = 512  # bytes; a tar consists of whole blocks
_FIRST_MEMBERS = 3  # a pair of images and what is said about it
_LONG_SECONDS, _MANY_SAMPLES = 10.0, 200_000
"""Reading headers for longer, or of more samples, is worth an index."""
_NAMED = 3  # shards that a sentence about several names
_PROBED_SHARDS, _PROBED_ROWS = 4, 3
"""Shards of a data set, and samples of each, whose bytes are compared with an index when it is opened."""
_log = logging.getLogger(__name__)


@dataclass
class _Found:
    """The shards of a data set, the indexes of the folders they lie in, and what is wrong with either."""

    files: list[StoredFile] = field(default_factory=list)
    indexes: dict[str, IndexFile] = field(default_factory=dict)
    problems: list[str] = field(default_factory=list)


def shard_files(config: DatasetConfig) -> list[StoredFile]:
    """Return the tar files of a data set by name; an empty list if there are none.

    Raises:
        DataError: What reads its URL is not installed.
        OSError: The storage cannot be reached.
    """
    return find_shards(_pattern(config))[0]


def data_problems(data: DataConfig) -> list[str]:
    """Return a sentence for everything that makes the data of a run unusable, before any process starts."""
    cache = cache_of(data)
    problems = [problem for dataset in (*data.train, *data.heldout) for problem in shard_problems(dataset, cache)]
    return problems or _cache_problems(data)


def shard_problems(config: DatasetConfig, cache: ShardCache | None = None) -> list[str]:
    """Return a sentence for everything that makes a data set unusable.

    Of a shard in an index size and time are compared, of any other only the headers up to the first sample are read.

    Args:
        config: The data set.
        cache: For data sets that are URLs.
    """
    found = _find(config, cache)
    loose = [file for file in found.files if file.folder not in found.indexes and not is_url(file.place)]
    return found.problems + [p for file in loose if (p := _shard_problem(config, file)) is not None]


def open_index(configs: Sequence[DatasetConfig], cache: ShardCache | None = None) -> SampleIndex:
    """Open the samples of some data sets; without an index file the headers of all shards are read.

    Args:
        configs: The data sets.
        cache: For data sets that are URLs.

    Raises:
        DataError: With a sentence for every shard that is missing, changed, unreadable or without a sample.
    """
    problems: list[str] = []
    shards: list[Shard] = []
    for config in configs:
        found = _find(config, cache)
        problems += found.problems
        began, before, read = time.monotonic(), len(shards), 0
        rows = {folder: _rows_of(index) for folder, index in found.indexes.items()}
        files = [] if found.problems else found.files
        for file, name in zip(files, _names(files), strict=True):
            place: tuple[Columns, int, int]
            if file.folder in rows:
                first, entry = rows[file.folder][file.name]
                place, left_out = (found.indexes[file.folder].columns, first, entry.samples), entry.left_out
            else:
                try:
                    columns, left_out = scan_shard(config, file)
                except DataError as fault:
                    problems.append(str(fault))
                    continue
                place = (columns, 0, len(columns["offset"]))
                read += place[2]
            here = cache if is_url(file.place) else None
            shards.append(Shard(config.name, config.kind, file, name, *place, here, config.key_ends, left_out))
        packed = packed_shards(_pattern(config)) if len(shards) > before else []
        if packed:
            _tell(shards, before, packed)
        if read > _MANY_SAMPLES or time.monotonic() - began > _LONG_SECONDS:
            _log.warning(
                "data set '%s' has no index: the headers of %d shards took %.0f s; %s reads them once for all runs",
                *(config.name, len(shards) - before, time.monotonic() - began),
                index_command(found.files[0].folder, config.kind, config.key_ends),
            )
    if problems:
        raise DataError("\n".join(problems))
    return SampleIndex(shards)


def _tell(shards: list[Shard], first: int, packed: list[str]) -> None:
    """Add compressed shards, which are not read, to what the first shard of a data set leaves out."""
    tally = Tally()
    tally.merge(shards[first].left_out)
    for name in packed:
        tally.add("compressed shard", name, "decompress it")
    shards[first] = replace(shards[first], left_out=tally.found())


def tally_of(index: SampleIndex, dataset: str | None = None) -> tuple[LeftOut, ...]:
    """Return what shards hold and no sample has, of all data sets or of one, as indexes or headers tell."""
    tally = Tally()
    for shard in index.shards:
        if dataset in (None, shard.dataset):
            tally.merge(shard.left_out)
    return tally.found()


def left_out_sentences(index: SampleIndex) -> list[str]:
    """Return a line for each data set of which something is not used."""
    names = dict.fromkeys(shard.dataset for shard in index.shards if shard.left_out)
    return [f"Left out of data set '{name}': {'; '.join(map(str, tally_of(index, name)))}" for name in names]


def scan_shard(config: DatasetConfig, file: StoredFile) -> tuple[Columns, tuple[LeftOut, ...]]:
    """Return the samples of a shard out of its headers, and what no sample has.

    Raises:
        DataError: It cannot be read, or has no sample of that kind.
    """
    table = SampleTable(config.kind, config.key_ends)
    try:
        with open_tar(file.place) as tar:
            for _ in table.fill(tar):
                pass
    except OtherTaskError as fault:
        raise DataError(other_task(config.name, file.place, str(fault))) from fault
    except (OSError, tarfile.TarError) as fault:
        raise DataError(unreadable(config.name, file, fault)) from fault
    if not table.has_media():
        raise DataError(hollow(config.name, config.kind, file, table.left_out))
    return table.columns(), table.left_out.found()


def _find(config: DatasetConfig, cache: ShardCache | None) -> _Found:
    """Find shards and indexes, and compare them."""
    found = _Found()
    pattern = _pattern(config)
    try:
        found.files, missing = find_shards(pattern)
        found.problems += [f"shard {one} of data set '{config.name}' does not exist" for one in missing]
        if not found.files:
            found.problems = [_nothing_found(config)]
        whole = is_folder(pattern)
        for folder in dict.fromkeys(file.folder for file in found.files):
            index = _index_of(folder, cache)
            if index is not None:
                found.indexes[folder] = index
                here = [file for file in found.files if file.folder == folder]
                found.problems += _differences(config, folder, index, here, whole)
            elif is_url(folder):
                found.problems.append(
                    f"data set '{config.name}': {folder} has no index ({INDEX_NAME}), which shards behind a URL need; "
                    f"write it with {index_command(folder, config.kind, config.key_ends)}"
                )
        if not found.problems:
            found.problems += _misfits(config, found)
    except CacheFullError as fault:
        found.problems.append(
            f"data set '{config.name}': its index does not fit into the cache {fault}; raise data.cache_bytes"
        )
    except DataError as fault:
        found.problems.append(f"data set '{config.name}': {fault}")
    except OSError as fault:
        found.problems.append(f"data set '{config.name}' (shards: {config.shards}) cannot be reached: {fault}")
    return found


def _index_of(folder: str, cache: ShardCache | None) -> IndexFile | None:
    file = stored(f"{folder}/{INDEX_NAME}")
    if file is None:
        return None
    if not is_url(folder):
        return read_index(Path(file.place))
    assert cache is not None, "an index behind a URL is fetched into the cache"
    return read_index(cache.path(file), file.place)


def _differences(
    config: DatasetConfig, folder: str, index: IndexFile, files: list[StoredFile], whole: bool
) -> list[str]:
    """Return a sentence for each way in which shards are no longer what their folder's index says."""
    mend = f"run {index_command(folder, config.kind, config.key_ends)}"
    if index.kind != config.kind:
        return [f"data set '{config.name}' is of kind '{config.kind}', the index of {folder} of '{index.kind}'; {mend}"]
    if index.key_ends != config.key_ends:
        return [
            f"data set '{config.name}' has key_ends: {config.key_ends}, the index of {folder} was made with "
            f"{index.key_ends}; change the data set's row, or {mend}"
        ]
    known = {entry.name: entry for entry in index.shards}
    here = {file.name for file in files}
    fresh = [file.name for file in files if file.name not in known]
    pairs = [(file, known[file.name]) for file in files if file.name in known]
    changed = [file.name for file, entry in pairs if not file.looks_like(entry.size, entry.stamp)]
    gone = [name for name in known if name not in here] if whole else []
    faults = (
        (changed, "changed since the index was written", mend),
        (fresh, "missing in the index", mend),
        (gone, "in the index but not there", f"bring them back, or {mend}"),
    )
    return [
        f"data set '{config.name}': shards of {folder} are {what}: {_some(names)}; {remedy}"
        for names, what, remedy in faults
        if names
    ]


def _some(names: list[str]) -> str:
    more = f" and {len(names) - _NAMED} more" if len(names) > _NAMED else ""
    return ", ".join(names[:_NAMED]) + more


def _rows_of(index: IndexFile) -> dict[str, tuple[int, ShardEntry]]:
    """Return the first row of each shard, and what the index says of it, by name."""
    rows, first = {}, 0
    for entry in index.shards:
        rows[entry.name] = (first, entry)
        first += entry.samples
    return rows


def _misfits(config: DatasetConfig, found: _Found) -> list[str]:
    """Return a sentence for each of a few shards of a data set whose bytes are not those of its index.

    Columns that were shifted, or a shard whose size and time were kept when it changed, are found here before a run
    reads thousands of samples; single samples that are damaged are left to the reader.
    """
    rows = {folder: _rows_of(index) for folder, index in found.indexes.items()}
    known = [file for file in found.files if file.folder in rows and not is_url(file.place)]
    problems = []
    for file in known[:: max(1, -(-len(known) // _PROBED_SHARDS))]:
        first, entry = rows[file.folder][file.name]
        columns = found.indexes[file.folder].columns
        shard = Shard(config.name, config.kind, file, "", columns, first, entry.samples, None, config.key_ends)
        probed = {round(k * (len(shard) - 1) / (_PROBED_ROWS - 1)) for k in range(_PROBED_ROWS)} if len(shard) else ()
        try:
            looked = [probe(shard, row) for row in sorted(probed)]
        except OSError as fault:
            problems.append(unreadable(config.name, file, fault))
            continue
        for role in ROLES:
            fits = [one[role] for one in looked if role in one]
            if 2 * sum(fits) < len(fits):
                problems.append(
                    f"the index of {file.folder} does not fit shard {file.place} of data set '{config.name}': "
                    f"{len(fits) - sum(fits)} of {len(fits)} members looked at have other bytes than were indexed; "
                    f"run {shard.index_command}"
                )
                break
    return problems


def _cache_problems(data: DataConfig) -> list[str]:
    """Return a sentence if the cache cannot hold what training reads at a time."""
    sizes = [file.size for dataset in data.train if is_url(dataset.shards) for file in shard_files(dataset)]
    if not sizes:
        return []
    needed = 2 * sum(sorted(sizes)[-data.shuffle_block :])
    if needed <= data.cache_bytes:
        return []
    return [
        f"data.cache_bytes={data.cache_bytes} is too small for data.shuffle_block={data.shuffle_block}: the largest "
        f"shards of a block, and of the next one while it is fetched, take {needed} bytes; raise the one or lower "
        f"the other"
    ]


def _pattern(config: DatasetConfig) -> str:
    if config.shards.startswith(EMBEDDED):
        return str(importlib.resources.files("sclds.data") / "embedded" / config.shards[len(EMBEDDED) :])
    return config.shards


def _nothing_found(config: DatasetConfig) -> str:
    place = f"data set '{config.name}' (shards: {config.shards})"
    if config.shards.startswith(EMBEDDED):
        folder = Path(str(importlib.resources.files("sclds.data") / "embedded"))
        known = sorted({path.parent.name for path in folder.glob("*/*.tar")})
        return f"{place}: there is no such embedded data; use one of: {', '.join(known) or 'none is installed'}"
    plain = not is_url(config.shards) and not any(sign in config.shards for sign in "*?[{")
    if plain and not Path(as_path(config.shards)).expanduser().exists():
        return f"{place}: that path does not exist; give a folder of .tar shards, or a glob such as 'data/*.tar'"
    packed = packed_shards(config.shards)
    if packed:
        return f"{place}: no .tar file is there, but compressed ones: {_some(packed)}; decompress them"
    return f"{place}: no .tar file is there; give a folder of .tar shards, or a glob such as 'data/*.tar'"


def _shard_problem(config: DatasetConfig, file: StoredFile) -> str | None:
    """Return what is wrong with a shard, judged by its size and its first sample, or None."""
    left_out = Tally()
    try:
        with open_tar(file.place) as tar:
            used = members(tar, config.kind, config.key_ends, left_out)
            first = list(islice(used, _FIRST_MEMBERS))
            sound = any(role == MEDIA for _, role, _ in chain(first, used))
        if file.size % _BLOCK:
            raise ArchiveError("it is truncated")
    except OtherTaskError as fault:
        return other_task(config.name, file.place, str(fault))
    except (OSError, tarfile.TarError) as fault:
        return unreadable(config.name, file, fault)
    return None if sound else hollow(config.name, config.kind, file, left_out)


def _names(files: list[StoredFile]) -> list[str]:
    """Return the paths of shards below the folder that they share, without suffix."""
    parts = [as_text(file.place).split("/") for file in files]
    low, high = min(parts, default=[]), max(parts, default=[])
    shared = next((i for i, pair in enumerate(zip(low[:-1], high[:-1], strict=False)) if pair[0] != pair[1]), None)
    depth = min(len(low), len(high)) - 1 if shared is None else shared
    return [os.path.splitext("/".join(part[depth:]))[0] for part in parts]
