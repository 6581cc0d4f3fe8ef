"""Shards behind URLs, fetched into the cache before a step asks for them."""

import contextlib
import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

from sclds.config.errors import DataError
from sclds.data.storage.cache import CacheFullError
from sclds.data.storage.sample_index import Shard

_FETCHES = 4
"""Shards fetched at a time; other processes of the machine fetch others, or wait for these."""


class FetchAhead:
    """Fetches what will be read next, a few shards at a time, in threads of its own.

    Args:
        shards: All shards of the run; those that are read in place are passed over.
    """

    def __init__(self, shards: Sequence[Shard]):
        self._shards = shards
        self._wanted: list[int] = []
        self._pool = ThreadPoolExecutor(_FETCHES, thread_name_prefix="fetch-ahead")

    def want(self, ahead: list[int]) -> None:
        """Fetch shards of these numbers, unless that was asked for in the call before."""
        for number in ahead:
            if number not in self._wanted and self._shards[number].cache is not None:
                self._pool.submit(_fetch, self._shards[number])
        self._wanted = ahead

    def close(self) -> None:
        """Forget what has not begun; what has is ended."""
        self._pool.shutdown(wait=True, cancel_futures=True)


def _fetch(shard: Shard) -> None:
    # whoever reads the shard will meet the fault again, try again, and tell it
    with contextlib.suppress(CacheFullError, DataError, OSError):
        os.close(shard.open())
