"""Packed attention against one segment at a time, and positions against the framework's resize."""

import pytest
import torch
import torch.nn.functional as F

from sclds.batch.attention_plan import plan_attention
from sclds.model.attention import attend
from sclds.model.vision import interpolate_positions

SEGMENTS = {
    "one_token": ([1], [1]),
    "equal": ([8, 8], [8, 8]),
    "uneven": ([1, 7, 8, 9, 17, 3], [5, 16, 2, 1, 30, 7]),
    "segment_without_query": ([0, 4, 0, 3], [3, 2, 1, 9]),
    "one_key": ([13, 2], [1, 1]),
}


def _cumulative(lengths):
    return torch.tensor([0, *lengths]).cumsum(0).int()


@pytest.mark.parametrize("name", SEGMENTS)
def test_buckets_equal_attention_per_segment(name):
    q_lengths, k_lengths = SEGMENTS[name]
    generator = torch.Generator().manual_seed(0)
    tensors = [
        torch.randn(sum(n), 2, 4, dtype=torch.float64, generator=generator).requires_grad_()
        for n in (q_lengths, k_lengths, k_lengths)
    ]
    found = attend(*tensors, plan_attention(_cumulative(q_lengths), _cumulative(k_lengths)))
    pieces = zip(*(t.split(n) for t, n in zip(tensors, (q_lengths, k_lengths, k_lengths), strict=True)), strict=True)
    wanted = torch.cat(
        [torch.einsum("hqk,khd->qhd", (torch.einsum("qhd,khd->hqk", q, k) / 2).softmax(-1), v) for q, k, v in pieces]
    )
    torch.testing.assert_close(found, wanted)
    d_out = torch.randn(found.shape, dtype=torch.float64, generator=generator)
    for ours, theirs in zip(
        torch.autograd.grad(found, tensors, d_out), torch.autograd.grad(wanted, tensors, d_out), strict=True
    ):
        torch.testing.assert_close(ours, theirs)


def test_no_query_at_all_keeps_the_graph():
    q, kv = torch.zeros(0, 2, 4, requires_grad=True), torch.randn(3, 2, 4, requires_grad=True)
    out = attend(q, kv, kv, plan_attention(_cumulative([0]), _cumulative([3])))
    out.sum().backward()
    assert out.shape == (0, 2, 4)
    assert kv.grad.abs().sum() == 0


@pytest.mark.parametrize(
    ("cu_q", "message"),
    [
        (
            torch.tensor([0, 5, 3, 8], dtype=torch.int32),
            "cu_seqlens_q falls from 5 to 3 after entry 1; expected cumulative",
        ),
        (torch.tensor([1, 3, 5, 8], dtype=torch.int32), r"cu_seqlens_q begins with \[1\]; expected a leading 0"),
        (torch.tensor([], dtype=torch.int32), r"cu_seqlens_q begins with \[\]; expected a leading 0"),
        (torch.tensor([0, 3, 5, 8]), "cu_seqlens_q has dtype torch.int64; expected torch.int32"),
        (torch.zeros(2, 2, dtype=torch.int32), r"cu_seqlens_q has shape \(2, 2\); expected \(any\)"),
        (torch.zeros(4, dtype=torch.int32, device="meta"), "cu_seqlens_q is on meta; expected cpu"),
        ([0, 3, 5, 8], "cu_seqlens_q is of type list; expected a tensor"),
        (torch.tensor([0, 3, 5, 8], dtype=torch.int32), "segment 1 has queries and no key to attend to"),
    ],
)
def test_lengths_that_are_not_cumulative_are_named(cu_q, message):
    with pytest.raises(ValueError, match=message):
        plan_attention(cu_q, _cumulative([1, 0, 2]))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({0: torch.zeros(4, 2, 4)}, r"q has shape \(4, 2, 4\); expected \(3, any, any\)"),
        ({1: torch.zeros(3, 2, 4)}, r"k has shape \(3, 2, 4\); expected \(5, 2, 4\)"),
        ({1: torch.zeros(5, 2, 4).double()}, "k has dtype torch.float64; expected torch.float32"),
        ({2: torch.zeros(5, 2, 8)}, r"v has shape \(5, 2, 8\); expected \(5, 2, 4\)"),
        ({2: torch.zeros(5, 2, 4, device="meta")}, "v is on meta; expected cpu"),
    ],
)
def test_rows_that_are_not_those_of_the_plan_are_named(change, message):
    rows = [torch.zeros(3, 2, 4), torch.zeros(5, 2, 4), torch.zeros(5, 2, 4)]
    for at, value in change.items():
        rows[at] = value
    with pytest.raises(ValueError, match=message):
        attend(*rows, plan_attention(_cumulative([1, 2]), _cumulative([4, 1])))


def test_unequal_numbers_of_segments_are_refused():
    with pytest.raises(ValueError, match="expected as many query segments as key segments, got 2 and 1"):
        plan_attention(_cumulative([1, 2]), _cumulative([1]))


@pytest.mark.parametrize(("native", "grid"), [(14, 18), (4, 2), (3, 7), (2, 1)])
def test_positions_are_resized_as_the_framework_does(native, grid):
    table = torch.randn(1 + native**2, 5, generator=torch.Generator().manual_seed(0), requires_grad=True)
    found = interpolate_positions(table, grid)
    plane = table[1:].reshape(1, native, native, 5).permute(0, 3, 1, 2)
    wanted = F.interpolate(plane, size=(grid, grid), mode="bicubic", align_corners=False)
    torch.testing.assert_close(found[0], table[0])
    for y in range(grid):
        for x in range(grid):
            torch.testing.assert_close(found[1 + y * grid + x], wanted[0, :, y, x])


def test_native_positions_are_left_alone():
    table = torch.randn(10, 4)
    assert interpolate_positions(table, 3) is table
