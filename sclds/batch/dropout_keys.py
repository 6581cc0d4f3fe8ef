"""The keys of packed rows from which dropout draws (`scl_kernels.dropout_norm.draws`).

A row's key is its sample's, which follows from (seed, epoch, sample), displaced by what the row is: its view or pair,
and its place there. So a row drops the same wherever it is packed: on any rank, in any micro-batch, beside any samples.
"""

import zlib
from collections.abc import Mapping, Sequence
from functools import lru_cache

import numpy as np

from sclds.batch.ragged import Ints, ranges
from sclds.batch.views import Layout, SampleViews


def sample_keys(views: Sequence[SampleViews]) -> Ints:
    """Return (B,) keys of the samples."""
    return np.array([v.dropout_key for v in views], np.int64)


@lru_cache
def _displacement(what: str) -> int:
    # what follows, a row's place, stays below 2^31
    return zlib.crc32(what.encode()) << 31


def row_keys(what: str, keys: Ints, lengths: Ints) -> Ints:
    """Return the keys of the rows of a view or pair, one sample after the other.

    Args:
        what: Names the view or pair.
        keys: (S,) of the samples.
        lengths: (S,) rows of each.
    """
    return np.repeat(keys + _displacement(what), lengths) + ranges(0, lengths)  # modulo 2^64


def view_keys(keys: Ints, layout: Layout, rows: int) -> Ints:
    """Return (rows,) keys of all views of one modality as `layout` places them."""
    found, samples = np.zeros(rows, np.int64), np.arange(len(keys))
    for name in layout.start:
        found[layout.rows(name, samples)] = row_keys(name, keys, layout.length[name])
    return found


def pair_keys(keys: Ints, lengths: Mapping[str, Ints], stream: str) -> Ints:
    """Return the keys of all rows of one stream's pairs.

    Args:
        keys: (B,) of the samples, in packing order.
        lengths: By pair, in packing order, (B,) rows; a partner's image has the key of the sample that shows it.
        stream: `text` or `vision`.
    """
    parts = [row_keys(f"{pair} {stream}", keys, length) for pair, length in lengths.items()]
    return np.concatenate([np.zeros(0, np.int64), *parts])
