"""Which rows attend to which, planned on the host when a batch is packed, so that no device is ever read for it.

What a plan holds depends on the backend that will compute it: cumulative lengths for variable-length kernels, buckets
of equal size for dense attention. `sclds.model.attention` computes it.
"""

from dataclasses import dataclass, field
from functools import lru_cache

import torch
from torch import Tensor

from scl_kernels.validation import check_cumulative
from sclds.batch.placed import HOST, Placed
from sclds.machine.attention import AttentionBackend

MOST_RUNS = 4
"""Consecutive segments of a size are computed together while there are at most so many runs per size."""


@dataclass(frozen=True)
class Bucket(Placed):
    """Segments of similar size, padded to the largest: what dense attention can compute in one call."""

    segments: int
    q_length: int
    """Queries of a segment, padding included."""
    k_length: int
    """Keys of a segment, padding included."""
    k_mask: Tensor | None
    """(s, 1, 1, k) bool, True for real keys; None if nothing is padded."""


@dataclass(frozen=True)
class AttentionPlan(Placed):
    """Segment i of the queries attends to segment i of the keys; built once a batch, shared by all layers."""

    backend: AttentionBackend
    """Who computes it."""
    max_q: int
    max_k: int
    rows_q: int
    """Query rows of all segments."""
    rows_k: int
    """Key rows of all segments."""
    cu_seqlens_q: Tensor | None = None
    """(S + 1,) int32 cumulative query lengths; for variable-length backends, as the next."""
    cu_seqlens_k: Tensor | None = None
    """(S + 1,) int32 cumulative key lengths."""
    buckets: tuple[Bucket, ...] = ()
    """For `sdpa`, as all that follows."""
    q_rows: Tensor | None = None
    """Query rows of all buckets one after the other, padding points to row 0; None where that is the buffer itself."""
    k_rows: Tensor | None = None
    """The same for keys."""
    restore: Tensor | None = None
    """Where each query row lies in the concatenated results of the buckets; None where it stays in its place."""

    @property
    def segments(self) -> tuple[Tensor, Tensor, int, int]:
        """What variable-length backends take, in their order: lengths of queries and of keys, the longest of each."""
        assert self.cu_seqlens_q is not None, "planned for a variable-length backend"
        assert self.cu_seqlens_k is not None, "planned for a variable-length backend"
        return self.cu_seqlens_q, self.cu_seqlens_k, self.max_q, self.max_k

    @property
    def named_segments(self) -> dict[str, Tensor | int]:
        """The same by flash-attention's names."""
        names = ("cu_seqlens_q", "cu_seqlens_k", "max_seqlen_q", "max_seqlen_k")
        return dict(zip(names, self.segments, strict=True))


@dataclass(frozen=True)
class StreamAttention(Placed):
    """What one fusion layer of one stream attends to."""

    self_attention: AttentionPlan
    cross_attention: AttentionPlan
    own: slice = field(default_factory=lambda: slice(None), metadata=HOST)
    """Input rows that take part: in the last layer, those of pairs whose output is read."""
    other: slice = field(default_factory=lambda: slice(None), metadata=HOST)
    """Pair rows of the other stream that serve as keys."""


@dataclass(frozen=True)
class FusionAttention(Placed):
    """Plans of the text and the vision stream, in this order, by the place of the layer.

    A fusion encoder of one layer has a last layer only, one of two has no middle.
    """

    last: tuple[StreamAttention, StreamAttention]
    first: tuple[StreamAttention, StreamAttention] | None = None
    middle: tuple[StreamAttention, StreamAttention] | None = None


class Planner:
    """Plans the attention of one micro-batch, each kind once: call sites of equal segments share a plan.

    The text encoder and the first fusion layer attend alike within text views, images alike within frames and views.
    """

    def __init__(self) -> None:
        self._plans: dict[tuple[bytes, bytes, AttentionBackend], AttentionPlan] = {}

    def __call__(self, cu_seqlens_q: Tensor, cu_seqlens_k: Tensor, backend: AttentionBackend) -> AttentionPlan:
        """Return the plan, see `plan_attention`."""
        key = (cu_seqlens_q.numpy().tobytes(), cu_seqlens_k.numpy().tobytes(), backend)
        if key not in self._plans:
            self._plans[key] = plan_attention(cu_seqlens_q, cu_seqlens_k, backend)
        return self._plans[key]


def plan_attention(cu_seqlens_q: Tensor, cu_seqlens_k: Tensor, backend: AttentionBackend = "sdpa") -> AttentionPlan:
    """Plan attention from cumulative lengths that lie on the host.

    Args:
        cu_seqlens_q: (S + 1,) int32 on the CPU.
        cu_seqlens_k: (S + 1,) int32 on the CPU.
        backend: Who will compute it.

    Raises:
        ValueError: Lengths are not cumulative, differ in number, or a segment has queries and no key.
    """
    check_cumulative("cu_seqlens_q", cu_seqlens_q)
    check_cumulative("cu_seqlens_k", cu_seqlens_k)
    if cu_seqlens_q.shape != cu_seqlens_k.shape:
        raise ValueError(
            f"expected as many query segments as key segments, got {len(cu_seqlens_q) - 1} and {len(cu_seqlens_k) - 1}"
        )
    lengths_q, lengths_k = cu_seqlens_q.diff(), cu_seqlens_k.diff()
    starved = ((lengths_q > 0) & (lengths_k == 0)).nonzero()
    if len(starved):
        raise ValueError(f"segment {int(starved[0])} has queries and no key to attend to")
    max_q = int(lengths_q.max()) if len(lengths_q) else 0
    max_k = int(lengths_k.max()) if len(lengths_k) else 0
    sizes = (max_q, max_k, int(cu_seqlens_q[-1]), int(cu_seqlens_k[-1]))
    if backend != "sdpa":
        return AttentionPlan(backend, *sizes, cu_seqlens_q, cu_seqlens_k)
    return _in_buckets(sizes, cu_seqlens_q.long(), cu_seqlens_k.long())


def _in_buckets(sizes: tuple[int, int, int, int], cu_q: Tensor, cu_k: Tensor) -> AttentionPlan:
    """Return the plan of dense attention."""
    buckets, q_rows, k_rows, reals = [], [cu_q.new_zeros(0)], [cu_k.new_zeros(0)], [cu_q.new_zeros(0, dtype=torch.bool)]
    for segments in _groups(cu_q, cu_k):
        chosen = torch.tensor(segments)
        (q_index, q_real), (k_index, k_real) = _padded_rows(cu_q, chosen), _padded_rows(cu_k, chosen)
        mask = None if bool(k_real.all()) else k_real[:, None, None, :]
        buckets.append(Bucket(len(segments), q_index.shape[1], k_index.shape[1], mask))
        q_rows.append(q_index.flatten())
        k_rows.append(k_index.flatten())
        reals.append(q_real.flatten())
    q_all, real = torch.cat(q_rows), torch.cat(reals)
    restore = torch.empty(int(cu_q[-1]), dtype=torch.long)
    restore[q_all[real]] = real.nonzero().squeeze(1)
    return AttentionPlan(
        "sdpa",
        *sizes,
        buckets=tuple(buckets),
        q_rows=_unless_in_place(q_all, int(cu_q[-1])),
        k_rows=_unless_in_place(torch.cat(k_rows), int(cu_k[-1])),
        restore=_unless_in_place(restore, len(q_all)),
    )


def _groups(cu_q: Tensor, cu_k: Tensor) -> list[list[int]]:
    """Group segments with queries whose lengths round up to the same multiples of 8, so that little is padded.

    Consecutive segments of a size need no copy, so runs of them are the groups unless sizes alternate much.
    """
    groups: dict[tuple[int, int], list[int]] = {}
    runs: list[list[int]] = []
    size = None
    lengths = torch.stack((cu_q.diff(), cu_k.diff()), dim=1).tolist()
    for segment, (q, k) in enumerate(lengths):
        if not q:
            continue
        last, size = size, (-(-q // 8), -(-k // 8))
        if size != last:
            runs.append([])
        runs[-1].append(segment)
        groups.setdefault(size, []).append(segment)
    return runs if len(runs) <= MOST_RUNS * len(groups) else list(groups.values())


def _unless_in_place(rows: Tensor, count: int) -> Tensor | None:
    """Return the rows, or None if they are all of `count` rows in their order."""
    return None if len(rows) == count and torch.equal(rows, torch.arange(count)) else rows


def _padded_rows(cu: Tensor, segments: Tensor) -> tuple[Tensor, Tensor]:
    """Return (s, longest) row numbers of the segments, 0 at padding, and which of them are real."""
    lengths = cu.diff()[segments]
    columns = _columns(int(lengths.max()))
    real = columns < lengths[:, None]
    return torch.where(real, cu[segments][:, None] + columns, 0), real


@lru_cache(maxsize=1024)
def _columns(width: int) -> Tensor:
    return torch.arange(width)[None, :]
