"""Members of samples by offset out of their shards, with patience for shards that come and go."""

import json
import os
import time
from collections import OrderedDict

from sclds.config.errors import DataError
from sclds.data.storage.cache import CacheFullError
from sclds.data.storage.sample_index import Shard
from sclds.data.storage.tar_members import JSON, MEDIA, TXT

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

    def media(self, shard: Shard, row: int) -> bytes:
        """Return the encoded image or video of a sample.

        Raises:
            BadSampleError: It has none, its bytes are not all there, or its shard is gone.
        """
        content = self._read(shard, row, MEDIA)
        if content is None:
            raise BadSampleError(f"it has no {'image' if shard.kind == 'image' else 'video'}")
        return content

    def captions(self, shard: Shard, row: int) -> list[str]:
        """Return the captions of a sample, at least one, with runs of white space made one space.

        Raises:
            BadSampleError: There is none, all are empty, one is not text, or its shard is gone.
        """
        text = self._read(shard, row, TXT)
        return captions_of(text, self._read(shard, row, JSON) if text is None else None)

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
        return content

    def _bytes(self, shard: Shard, offset: int, size: int) -> bytes:
        """Read from a shard, again after a while if that fails; one that stays away is no longer waited for."""
        waits = () if shard.path in self._lost else _RETRY_SECONDS
        for wait in (*waits, None):
            try:
                content = os.pread(self._handle(shard), size, offset)
                self._lost.discard(shard.path)
                return content
            except OSError as fault:
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


def captions_of(text: bytes | None, record: bytes | None) -> list[str]:
    """Return the captions in the `.txt`, or else the `.json` member of a sample, runs of white space made one space.

    Raises:
        BadSampleError: There is none, all are empty, or one is not text.
    """
    try:
        if text is not None:
            texts = [text.decode("utf-8")]
        elif record is not None:
            texts = _captions_in(json.loads(record))
        else:
            raise BadSampleError("it has no caption (.txt, or .json with 'caption')")
    except (ValueError, RecursionError) as fault:  # no UTF-8, no JSON, a number too long, a list too deep
        raise BadSampleError(f"its caption cannot be decoded ({type(fault).__name__})") from fault
    texts = [one for one in (" ".join(one.split()) for one in texts) if one]
    if not texts:
        raise BadSampleError("its caption is empty")
    return texts


def _captions_in(record: object) -> list[str]:
    fields = record if isinstance(record, dict) else {}
    texts = fields.get("captions", [fields.get("caption")])
    if not isinstance(texts, list) or not all(isinstance(text, str) for text in texts):
        raise BadSampleError("its .json has no text under 'caption', nor a list of texts under 'captions'")
    return texts
