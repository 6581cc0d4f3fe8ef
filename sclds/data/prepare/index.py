"""Every shard of a folder read once, from its beginning to its end, into the folder's index.

Each shard's part of the index is a small index of its own in a work folder. So a killed run goes on where it stopped,
and after a change only the shards that are new or other than before are read.
"""

import contextlib
import fcntl
import hashlib
import io
import multiprocessing
import os
import shutil
import tarfile
import zlib
from collections.abc import Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from pathlib import Path
from typing import IO, cast

import numpy as np
from numpy.typing import NDArray

from sclds.config.errors import DataError
from sclds.data.media.inspection import inspect
from sclds.data.prepare.progress import counting
from sclds.data.prepare.workers import start_worker
from sclds.data.storage.archive import stream_tar
from sclds.data.storage.faulty_shards import hollow, other_task, unreadable
from sclds.data.storage.files import (
    StoredFile,
    as_path,
    file_system,
    find_shards,
    foreign_faults,
    is_url,
    open_stream,
    put,
    stored,
)
from sclds.data.storage.index_file import INDEX_NAME, Columns, IndexFile, ShardEntry, read_index, write_index
from sclds.data.storage.left_out import LeftOut
from sclds.data.storage.reader import BadSampleError, captions_of
from sclds.data.storage.tar_members import MEDIA, TXT, KeyEnds, Kind, OtherTaskError, SampleTable

_CHUNK = 1 << 20
_PARTS = ".index-parts"
Part = tuple[ShardEntry, Columns]


@dataclass(frozen=True)
class Indexed:
    """What was done."""

    place: str
    """Path or URL of the index."""
    index: IndexFile
    read: int
    """Shards that were read; the others were known."""
    changed: tuple[str, ...]
    """Shards whose checksum is no longer what it was, although they looked the same."""
    why_anew: str | None
    """Why the index that was there could not be renewed shard by shard, if it could not."""


@dataclass(frozen=True)
class Rule:
    """What makes members samples; an index made by another rule is of no use."""

    kind: Kind
    key_ends: KeyEnds

    def differs(self, index: IndexFile) -> str | None:
        """Return why an index has to be written anew, or None if it follows this rule in the current format."""
        if not index.is_current:
            return f"has version {index.version} of the format, without checksums of captions"
        if index.kind != self.kind:
            return f"is of kind '{index.kind}'"
        if index.key_ends != self.key_ends:
            return f"was made with key_ends: {index.key_ends}"
        return None


def work_folder(folder: str) -> tuple[str, Path]:
    """Return the path or URL of a folder in its plain form, and the folder in which its index is put together."""
    folder = folder.rstrip("/") or "/"
    if is_url(folder):
        digest = hashlib.blake2b(folder.encode("utf-8", "surrogateescape"), digest_size=8).hexdigest()
        return folder, Path("~/.cache/sclds/index-parts").expanduser() / digest
    folder = os.path.normpath(os.path.expanduser(as_path(folder)))
    return folder, Path(folder) / _PARTS


def finished_parts(work: Path) -> int:
    """Return how many shards have their part of the index in a work folder."""
    return sum(1 for _ in work.glob("*.part.index"))


def prepare_index(
    folder: str, kind: Kind, workers: int, work: Path, verify: bool = False, key_ends: KeyEnds = "first_dot"
) -> Indexed:
    """Index a folder of shards; what an earlier run has read is not read again.

    Args:
        folder: Path or URL.
        kind: What a sample shows.
        workers: Processes.
        work: Folder for finished parts; removed at the end.
        verify: Read every shard, also those whose size and time are those of the index.
        key_ends: Where in a member's name its key ends.

    Raises:
        DataError: With a sentence for every shard that cannot be used; the others are kept for the next time.
    """
    files = _shards_of(folder)
    try:
        work.mkdir(parents=True, exist_ok=True)
        claim = (work / "lock").open("wb")
    except OSError as fault:
        raise DataError(
            f"{work} cannot be made ({fault.strerror}); the index of {folder} is put together there"
        ) from fault
    with claim:
        try:
            fcntl.flock(claim, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as fault:
            raise DataError(
                f"{folder} is being indexed by another process, which works in {work}; wait for it"
            ) from fault
        done = _indexed(folder, files, Rule(kind, key_ends), workers, work, verify)
        shutil.rmtree(work)
    return done


def _indexed(folder: str, files: list[StoredFile], rule: Rule, workers: int, work: Path, verify: bool) -> Indexed:
    """Do what `prepare_index` does, alone in the work folder."""
    place = f"{folder}/{INDEX_NAME}"
    existing = _existing(place, work)
    before = _parts_of(existing, rule)
    known = {} if verify else dict(before)
    for path in work.glob("*.part.index"):
        known |= _parts_of(_readable(path), rule)
    wanted = [file for file in files if _sign(file) not in known]
    problems = _read_all(wanted, rule, workers, work, folder)
    if problems:
        raise DataError("\n".join([*problems, f"no index was written; {len(files) - len(problems)} shards are sound"]))
    for file in wanted:
        known |= _parts_of(_readable(_part_path(work, file)), rule)
    parts = [known[_sign(file)] for file in files]
    changed = tuple(entry.name for entry, _ in parts if _looked_alike(entry, before))
    # also if all shards are what they were: the columns may not be, which is why a person asks to verify
    if wanted or [entry for entry, _ in parts] != [entry for entry, _ in before.values()]:
        _publish(place, rule, parts, work)
    written = work / INDEX_NAME if is_url(folder) else Path(place)
    why_anew = None if existing is None else rule.differs(existing)
    return Indexed(place, read_index(written, place), len(wanted), changed, why_anew)


def _shards_of(folder: str) -> list[StoredFile]:
    try:
        files, _ = find_shards(folder)
    except OSError as fault:
        raise DataError(f"{folder} cannot be reached: {fault}") from fault
    if not files or any(file.folder != files[0].folder for file in files) or files[0].place == folder:
        raise DataError(f"{folder} is not a folder with .tar shards; an index is of one folder")
    return files


def _sign(file: StoredFile | ShardEntry) -> tuple[str, int, str]:
    return file.name, file.size, file.stamp


def _looked_alike(entry: ShardEntry, before: dict[tuple[str, int, str], Part]) -> bool:
    old = before.get(_sign(entry))
    return old is not None and old[0].sha256 != entry.sha256


def _existing(place: str, work: Path) -> IndexFile | None:
    """Return the index that is to be renewed, if there is one that can be read."""
    if not is_url(place):
        return _readable(Path(place))
    if stored(place) is None:
        return None
    system, path = file_system(place)
    with foreign_faults():
        system.get_file(path, str(work / INDEX_NAME))
    return _readable(work / INDEX_NAME)


def _readable(path: Path) -> IndexFile | None:
    try:
        return read_index(path)
    except (OSError, DataError):
        return None


def _parts_of(index: IndexFile | None, rule: Rule) -> dict[tuple[str, int, str], Part]:
    """Return the shards of an index by name, size and time; none if it follows another rule."""
    parts: dict[tuple[str, int, str], Part] = {}
    if index is None or rule.differs(index) is not None:
        return parts
    first = 0
    for entry in index.shards:
        parts[_sign(entry)] = (entry, index.rows(first, entry.samples))
        first += entry.samples
    return parts


def _publish(place: str, rule: Rule, parts: list[Part], work: Path) -> None:
    target = work / INDEX_NAME if is_url(place) else Path(place)
    try:
        write_index(target, rule.kind, rule.key_ends, parts)
        if is_url(place):
            put(target, place)
    except OSError as fault:
        raise DataError(f"{place} cannot be written ({fault}); finished shards are kept in {work}") from fault


def _read_all(files: list[StoredFile], rule: Rule, workers: int, work: Path, folder: str) -> list[str]:
    """Read shards into parts; return what is wrong with those that cannot be used."""
    problems = []
    with counting(f"index {folder}: shards", len(files)) as advance:
        for problem in _outcomes(files, rule, workers, work):
            advance(1)
            if problem is not None:
                problems.append(problem)
    return sorted(problems)


def _outcomes(files: list[StoredFile], rule: Rule, workers: int, work: Path) -> Iterator[str | None]:
    if workers == 1 or len(files) < 2:
        yield from (index_shard(file, rule, _part_path(work, file)) for file in files)
        return
    context = multiprocessing.get_context("spawn")  # a fork would copy the progress display's locks
    pool = ProcessPoolExecutor(min(workers, len(files)), mp_context=context, initializer=start_worker)
    try:
        running: set[Future[str | None]] = {
            pool.submit(index_shard, file, rule, _part_path(work, file)) for file in files
        }
        while running:
            done, running = wait(running, return_when=FIRST_COMPLETED)
            yield from (one.result() for one in done)
    except BrokenProcessPool as fault:
        raise DataError(
            "a process that read shards was killed, perhaps for want of memory: finished shards are kept, so start "
            "again, with fewer --workers"
        ) from fault
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


def _part_path(work: Path, file: StoredFile) -> Path:
    return work / as_path(f"{file.name}.part.index")


def index_shard(file: StoredFile, rule: Rule, part: Path) -> str | None:
    """Read a shard and write its part of the index; return what is wrong with it, or None."""
    try:
        with open_stream(file.place) as stream:
            hashed = _Hashing(stream)
            columns, left_out = _read_shard(hashed, rule, file)
            while hashed.read(_CHUNK):  # what lies behind the last member
                pass
        if hashed.passed != file.size:
            raise OSError(f"{hashed.passed} of {file.size} bytes came; it changed just now, or the network failed")
    except DataError as fault:
        return str(fault)
    except (OSError, tarfile.TarError, EOFError) as fault:
        return unreadable(None, file, fault)
    samples = len(columns["offset"])
    entry = ShardEntry(file.name, file.size, file.stamp, hashed.digest.hexdigest(), samples, left_out)
    write_index(part, rule.kind, rule.key_ends, [(entry, columns)])
    return None


class _Hashing(io.RawIOBase):
    """A stream that is hashed while it is read."""

    def __init__(self, stream: IO[bytes]):
        self._stream, self.digest, self.passed = stream, hashlib.sha256(), 0

    def read(self, size: int = -1) -> bytes:
        """Return the next bytes."""
        chunk = self._stream.read(size)
        self.digest.update(chunk)
        self.passed += len(chunk)
        return chunk


def _read_shard(stream: _Hashing, rule: Rule, file: StoredFile) -> tuple[Columns, tuple[LeftOut, ...]]:
    """Return the columns of a shard out of one pass over it, and what of it no sample has."""
    table, rows = SampleTable(rule.kind, rule.key_ends), _Details()
    try:
        with stream_tar(cast(IO[bytes], stream), file.place) as tar:
            for row, role, info in table.fill(tar):
                member = tar.extractfile(info)
                assert member is not None, "only regular files are samples' members"
                rows.add(row, role, member.read(), rule.kind)
    except OtherTaskError as fault:
        raise DataError(other_task(None, file.place, str(fault))) from fault
    if not table.has_media():
        raise DataError(hollow(None, rule.kind, file, table.left_out))
    found, left_out = rows.columns(len(table))
    for key, reasons in zip(table.keys(), left_out, strict=True):
        for reason in reasons:
            table.left_out.add(reason.replace("its caption", "caption that", 1), key)
    return {**table.columns(), **found}, table.left_out.found()


class _Details:
    """What the content of members tells, row by row."""

    def __init__(self) -> None:
        self._seen: dict[int, dict[str, int]] = {}
        self._crc32: dict[int, list[int]] = {}
        self._texts: dict[int, list[bytes | None]] = {}

    def add(self, row: int, role: int, content: bytes, kind: Kind) -> None:
        """Note an image, video or caption; an image or video that cannot be read leaves zeros."""
        self._crc32.setdefault(row, [0, 0, 0])[role] = zlib.crc32(content)
        if role != MEDIA:
            self._texts.setdefault(row, [None, None])[role - TXT] = content
            return
        with contextlib.suppress(BadSampleError):
            info = inspect(kind, content)
            self._seen[row] = {"width": info.width, "height": info.height, "frames": info.frames}

    def columns(self, count: int) -> tuple[dict[str, NDArray[np.int64]], list[list[str]]]:
        """Return columns of `count` rows, and for each row why captions of it are left out beside others."""
        rows = [self._seen.get(row, {}) for row in range(count)]
        found = {name: np.array([row.get(name, 0) for row in rows]) for name in ("width", "height", "frames")}
        lengths = [0] * count
        left_out: list[list[str]] = [[] for _ in range(count)]
        for row, texts in self._texts.items():
            with contextlib.suppress(BadSampleError):
                kept, left_out[row] = captions_of(*texts)
                lengths[row] = len(kept[0])
        crc32 = np.array([self._crc32.get(row, (0, 0, 0)) for row in range(count)], np.int64).reshape(-1, 3)
        return found | {"caption_length": np.array(lengths), "crc32": crc32}, left_out
