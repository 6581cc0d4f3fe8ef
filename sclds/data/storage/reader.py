"""Members of samples by offset out of their shards, with patience for shards that come and go."""

import json
import os
import time
import zlib
from collections import OrderedDict

from sclds.config.errors import DataError
from sclds.data.captions import EMPTY, clean_captions
from sclds.data.storage.cache import CacheFullError
from sclds.data.storage.disk import machine_fault
from sclds.data.storage.sample_index import Shard
from sclds.data.storage.tar_members import JSON, MEDIA, ROLES, TXT

_OPEN_FILES = 128
_RETRY_SECONDS = (0.1, 0.5, 2.0)
"""Waits before a shard that cannot be read is tried again."""
_ROOM_SECONDS = 60.0
"""How long other processes are given to close shards of a full cache."""


class BadSampleError(Exception):
    """One sample cannot be used; the message says why, in a few words that end a sentence."""


class ShardReader:
    """Reads members by offset; keeps some files open. For one thread."""

    def __init__(self) -> None:
        self._files: OrderedDict[str, tuple[int, int]] = OrderedDict()  # place → descriptor, bytes held in the cache
        self._held = 0
        self._lost: set[str] = set()

    def media(self, shard: Shard, row: int, role: int = MEDIA) -> bytes:
        """Return the encoded image or video of a sample, or another member with one.

        Raises:
            BadSampleError: It has none, its bytes are not all there, or its shard is gone.
        """
        content = self._read(shard, row, role)
        if content is None:
            raise BadSampleError(f"it has no {'image' if shard.kind == 'image' else 'video'}")
        return content

    def captions(self, shard: Shard, row: int) -> list[str]:
        """Return the captions of a sample that can be used, at least one, as `clean_captions` returns them.

        Raises:
            BadSampleError: There is none, or its shard is gone.
        """
        return self.caption_parts(shard, row)[0]

    def caption_parts(self, shard: Shard, row: int) -> tuple[list[str], list[str]]:
        """Return what `captions_of` finds in the members of a sample; errors are those of `captions`."""
        text = self._read(shard, row, TXT)
        try:
            return captions_of(text, None if text is not None else self._read(shard, row, JSON))
        except BadSampleError:
            if text is None or shard.member(row, JSON) is None:
                raise
            return captions_of(text, self._read(shard, row, JSON))

    def close(self) -> None:
        """Close all files."""
        for place in list(self._files):
            self._close(place)

    def _read(self, shard: Shard, row: int, role: int) -> bytes | None:
        """Return a member, or None if the sample has none."""
        member = shard.member(row, role)
        if member is None:
            return None
        offset, size = member
        content = self._bytes(shard, offset, size)
        if len(content) != size:
            raise BadSampleError(f"its shard ends after {len(content)} of {size} bytes")
        noted = shard.checksum(row, role)
        if noted is not None and zlib.crc32(content) != noted:
            raise BadSampleError(
                f"its bytes are not those that were indexed (CRC-32); {shard.index_command} reads the shards anew"
            )
        return content

    def _bytes(self, shard: Shard, offset: int, size: int) -> bytes:
        """Read from a shard, again after a while if that fails; one that stays away is no longer waited for."""
        waits = () if shard.path in self._lost else _RETRY_SECONDS
        for wait in (*waits, None):
            handle = None
            try:
                handle = self._handle(shard)
                content = os.pread(handle, size, offset)
                self._lost.discard(shard.path)
                return content
            except OSError as fault:
                cache = None if shard.cache is None or handle is None else shard.cache.folder
                if (own := machine_fault(fault, cache)) is not None:
                    raise own from fault
                self._close(shard.path)  # of a network disk that was mounted anew
                if wait is None:
                    self._lost.add(shard.path)
                    raise BadSampleError(f"its shard cannot be read ({fault.strerror or fault})") from fault
                time.sleep(wait)
        raise AssertionError("the last try returns or raises")

    def _handle(self, shard: Shard) -> int:
        """Return an open file of a shard; the least recently used are closed if there are many.

        A reader holds at most half of the cache: what processes hold differs by the block that some still read while
        others have begun the next, and both must fit.
        """
        if shard.path not in self._files:
            held = shard.file.size if shard.cache is not None else 0
            self._files[shard.path] = (self._opened(shard), held)
            self._held += held
        self._files.move_to_end(shard.path)
        most = shard.cache.max_bytes // 2 if shard.cache is not None else self._held
        while len(self._files) > 1 and (len(self._files) > _OPEN_FILES or self._held > most):
            self._close(next(iter(self._files)))
        return self._files[shard.path][0]

    def _opened(self, shard: Shard) -> int:
        """Open a shard; if the cache is full, first let go of what this reader, and then others, keep there."""
        patience = time.monotonic() + _ROOM_SECONDS
        while True:
            try:
                return shard.open()
            except CacheFullError as fault:
                if self._files:
                    self._close(next(iter(self._files)))
                    continue
                if time.monotonic() > patience:
                    raise DataError(
                        f"there is no room for {shard.path} in the cache {fault}: all of it is being read; raise "
                        f"data.cache_bytes, or lower data.shuffle_block"
                    ) from fault
                time.sleep(_RETRY_SECONDS[0])

    def _close(self, place: str) -> None:
        """Close a shard if it is open."""
        handle, held = self._files.pop(place, (None, 0))
        self._held -= held
        if handle is not None:
            os.close(handle)


def probe(shard: Shard, row: int) -> dict[int, bool]:
    """Return by role, for each member of a sample whose checksum was noted, whether it still has it.

    Raises:
        OSError: The shard cannot be read.
    """
    handle = shard.open()
    try:
        fits = {}
        for role in ROLES:
            member, noted = shard.member(row, role), shard.checksum(row, role)
            if member is not None and noted is not None:
                fits[role] = zlib.crc32(os.pread(handle, member[1], member[0])) == noted
        return fits
    finally:
        os.close(handle)


def captions_of(text: bytes | None, record: bytes | None) -> tuple[list[str], list[str]]:
    """Return the captions in the members of a sample: of the `.txt`, or if it has none that can be used of the `.json`.

    Args:
        text: The `.txt`; None if there is none.
        record: The `.json`: "captions", or if it has none that can be used "caption".

    Returns:
        kept: The captions, at least one.
        left_out: For each of those looked at that cannot be used a clause that says why.

    Raises:
        BadSampleError: None can be used; the message says why the first could not.
    """
    kept, left_out = ([], []) if text is None else _in_text(text)
    if not kept and record is not None:
        kept, more = _in_record(record)
        left_out = left_out + more
    if not kept:
        raise BadSampleError(left_out[0] if left_out else "it has no caption (.txt, or .json with 'caption')")
    return kept, left_out


def _in_text(text: bytes) -> tuple[list[str], list[str]]:
    try:
        return clean_captions(text.decode("utf-8"))
    except ValueError as fault:
        return [], [_undecodable(fault)]


def _in_record(record: bytes) -> tuple[list[str], list[str]]:
    try:
        found = json.loads(record)
    except (ValueError, RecursionError) as fault:  # no UTF-8, no JSON, a number too long, a list too deep
        return [], [_undecodable(fault)]
    left_out: list[str] = []
    for name in ("captions", "caption"):
        if isinstance(found, dict) and name in found:
            kept, odd = clean_captions(found[name])
            left_out += odd
            if kept:
                return kept, left_out
    if EMPTY in left_out:
        return [], sorted(left_out)  # of nothing that can be seen, empty text comes closest to a caption
    return [], ["its .json has no text under 'caption', nor a list of texts under 'captions'"]


def _undecodable(fault: Exception) -> str:
    return f"its caption cannot be decoded ({type(fault).__name__})"
