"""The Triton kernels against plain PyTorch and fp64, on a GPU or under Triton's interpreter."""

import importlib
import itertools
from pathlib import Path

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from scl_kernels import (
    InfoNCEProblem,
    SigmoidProblem,
    gather_rows,
    infonce,
    infonce_statistics,
    masked_gather,
    sigmoid_loss,
)
from scl_kernels.backend import interpreting
from scl_kernels.gather_rows.operation import _GatherRows
from scl_kernels.infonce import registration as infonce_cases
from scl_kernels.masked_gather import registration as masked_gather_cases
from scl_kernels.masked_gather.registration import EPS, Case
from scl_kernels.pairwise import arguments, cuts
from scl_kernels.registry import operations
from scl_kernels.segment_sum import CHUNK, segment_sum
from scl_kernels.sigmoid import registration as sigmoid_cases
from tests.kernels.one_process import infonce_of_one

pytestmark = pytest.mark.skipif(
    not torch.cuda.is_available() and not interpreting(),
    reason="needs a GPU here; without one test_interpreter.py runs this file under Triton's interpreter",
)
DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
DTYPES = [torch.float32, torch.bfloat16]


def assert_all_pass(comparisons):
    assert comparisons
    assert [comparison for comparison in comparisons if not comparison.passed] == []


def every_case(operations, dtypes, only=None):
    """Return a parameter per operation, case (or the one of number `only`) and dtype."""
    return [
        pytest.param(operation, case, dtype, id=f"{operation.name}-{number}-{dtype}")
        for operation in operations
        for number, case in enumerate(operation.cases)
        if only in (None, number)
        for dtype in dtypes
    ]


EVERY_CASE = [*every_case(operations(), DTYPES), *every_case(operations(), [torch.float16], only=1)]
GATHERS = [operation for operation in operations() if operation.name in ("gather_rows", "masked_gather")]


@pytest.mark.parametrize(("operation", "case", "dtype"), EVERY_CASE)
def test_operations_are_as_good_as_plain_pytorch(operation, case, dtype):
    """All that are registered; gathers of few tokens, whose gradients PyTorch's own sum by index adds."""
    assert_all_pass(operation.compare(case, dtype, DEVICE, "triton"))


@pytest.fixture
def segment_sums(monkeypatch):
    """Take the gradients of few tokens the way of many."""
    for operation in GATHERS:
        monkeypatch.setattr(importlib.import_module(f"scl_kernels.{operation.name}.operation"), "SMALL", 0)


@pytest.mark.parametrize(("operation", "case", "dtype"), every_case(GATHERS, [*DTYPES, torch.float16]))
def test_gathers_of_many_tokens_are_as_good_as_plain_pytorch(operation, case, dtype, segment_sums):
    assert_all_pass(operation.compare(case, dtype, DEVICE, "triton"))


def gather_inputs(case, dtype):
    """Return tables and indices of a case of `masked_gather`."""
    inputs = masked_gather_cases.draw(case, DEVICE, dtype)
    return list(inputs[:7]), list(inputs[7:10])


def test_no_tokens_give_zero_gradients():
    tables, indices = gather_inputs(Case(1, 3, 2, 2, 8), torch.float32)
    tables = [t.requires_grad_() for t in tables]
    masked_gather(*tables, *(i[:0] for i in indices), EPS, backend="triton").sum().backward()
    assert all(t.grad is not None and not t.grad.any() for t in tables)


def test_an_index_out_of_range_is_nan_and_never_a_wrong_number():
    tables, _ = gather_inputs(Case(1, 3, 2, 2, 8), torch.float32)
    source = torch.tensor([0, 3, -1, -2, -3, 0, 0, 0], device=DEVICE)
    position_id = torch.tensor([0, 0, 0, 0, 0, 2, -1, 0], device=DEVICE)
    extra_id = torch.tensor([-1, 0, 0, 0, 0, 0, 0, 2], device=DEVICE)
    bad = torch.ops.scl_kernels.masked_gather(*tables, source, position_id, extra_id, EPS)[0].isnan().all(1)
    assert bad.tolist() == [False, True, False, False, True, True, True, True]
    tables[3] = None
    bad = torch.ops.scl_kernels.masked_gather(*tables, source, position_id, extra_id, EPS)[0].isnan().all(1)
    assert bad.tolist()[:4] == [False, True, True, False]


@pytest.mark.parametrize("small", [True, False])
def test_a_bad_index_takes_nothing_and_gives_nothing(small, request):
    """NaN comes out, and no row's gradient holds any of it."""
    if not small:
        request.getfixturevalue("segment_sums")
    rows = torch.ones(3, 4, device=DEVICE, requires_grad=True)
    index = torch.tensor([2, -1, 3, 2, 2**40], device=DEVICE)
    out = _GatherRows.apply(rows, index)
    assert out.isnan().all(1).tolist() == [False, True, True, False, True]
    out.backward(torch.ones_like(out))
    assert rows.grad[:, 0].tolist() == [0.0, 0.0, 2.0]


def test_segment_sum_leaves_out_what_belongs_nowhere():
    source = torch.ones(3 * CHUNK + 5, 4, device=DEVICE)
    index = torch.full((3 * CHUNK + 5,), 1, device=DEVICE)
    index[:4] = torch.tensor([-1, 3, 0, 2**40])
    assert segment_sum(source, index, 3)[:, 0].tolist() == [1.0, 3 * CHUNK + 1.0, 0.0]


@pytest.mark.parametrize("partials", [1, 2, 3, 4, 5, 8, 9, 12, 13])
def test_segment_sum_adds_every_partial_sum(partials):
    """Each chunk holds a power of two of its own: a partial sum that is left out, or added twice, shows."""
    chunk = torch.arange(partials * CHUNK - 7, device=DEVICE) // CHUNK
    source = (2.0**chunk)[:, None].expand(-1, 3).contiguous()
    index = torch.ones(len(chunk), dtype=torch.int64, device=DEVICE)
    expected = sum(2.0**k * CHUNK for k in range(partials)) - 7 * 2.0 ** (partials - 1)
    assert segment_sum(source, index, 3).tolist() == [[0.0] * 3, [expected] * 3, [0.0] * 3]


@pytest.mark.parametrize("small", [True, False])
def test_kernels_repeat_bitwise(small, request):
    if not small:
        request.getfixturevalue("segment_sums")
    problem = infonce_cases.draw(infonce_cases.CASES[1][2], torch.float32, DEVICE)
    tables, indices = gather_inputs(masked_gather_cases.CASES[5], torch.float32)
    tables = [t.requires_grad_() for t in tables]

    def run():
        statistics = infonce_statistics([problem], backend="triton")
        lse = torch.full_like(problem.weight_all, 5.0)
        value = infonce([problem], [lse], [lse], statistics, backend="triton")[0]
        out = masked_gather(*tables, *indices, EPS, backend="triton").square().sum()
        return [*statistics[0], *torch.autograd.grad(value, problem[:2]), *torch.autograd.grad(out, tables)]

    assert all(torch.equal(one, other) for one, other in zip(run(), run(), strict=True))


@pytest.mark.parametrize("zero", [0, 4])
def test_a_weight_of_zero_takes_a_sample_out(zero):
    """A sample of weight 0 still is a negative of the others, but its own loss pulls nothing."""
    torch.manual_seed(0)
    a, b = (torch.randn(5, 6, device=DEVICE, requires_grad=True) for _ in range(2))
    weight = torch.rand(5, device=DEVICE)
    weight[zero] = 0
    results = []
    for backend in ("torch", "triton"):
        problem = InfoNCEProblem(a, b, a.detach(), b.detach(), 0.1, 0, weight)
        statistics = infonce_statistics([problem], backend=backend)
        lse = ([statistics[0].row_lse], [statistics[0].col_lse])
        results.append(torch.autograd.grad(infonce([problem], *lse, statistics, backend=backend)[0], (a, b)))
    torch.testing.assert_close(results[1], results[0], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("bad", [-1.0, float("nan")])
def test_a_weight_that_is_none_gives_nan_and_never_a_wrong_gradient(bad, monkeypatch):
    """On a GPU the weights are not read back; there a bad one must not pass for 0."""
    monkeypatch.setattr(arguments, "readable", lambda tensor: False)
    torch.manual_seed(0)
    a, b = (torch.randn(5, 6, device=DEVICE, requires_grad=True) for _ in range(2))
    weight = torch.ones(5, device=DEVICE)
    weight[2] = bad
    problem = InfoNCEProblem(a, b, a.detach(), b.detach(), 0.1, 0, weight)
    statistics = infonce_statistics([problem], backend="triton")
    lse = ([statistics[0].row_lse], [statistics[0].col_lse])
    gradients = torch.autograd.grad(infonce([problem], *lse, statistics, backend="triton")[0], (a, b))
    assert all(gradient.isnan().any() for gradient in gradients)


@pytest.mark.parametrize("count", [1, 3])
def test_a_row_that_is_far_from_all_others_has_a_gradient_of_infonce(count):
    """Its log-sum-exp is -100: what stands beyond the last column, a similarity of 0, is far above it."""
    row = torch.arange(1.0, 9.0, device=DEVICE)
    found = {}
    for backend in ("torch", "triton"):
        a, b = (factor * row.expand(count, 8).clone().requires_grad_() for factor in (1, -1))
        a.retain_grad()
        infonce_of_one(a, b, 0.01, backend=backend).backward()
        found[backend] = a.grad
    torch.testing.assert_close(found["triton"], found["torch"], atol=1e-5, rtol=0)


def test_a_row_of_zeros_equals_the_reference():
    torch.manual_seed(0)
    a, b = (torch.randn(5, 6, device=DEVICE) for _ in range(2))
    a[1] = 0
    problem = InfoNCEProblem(a.clone().requires_grad_(), b, a, b, 0.1, 0, torch.ones(5, device=DEVICE))
    gradients = []
    for backend in ("torch", "triton"):
        statistics = infonce_statistics([problem], backend=backend)
        lse = ([statistics[0].row_lse], [statistics[0].col_lse])
        gradients += torch.autograd.grad(infonce([problem], *lse, statistics, backend=backend)[0], problem.a)
    torch.testing.assert_close(gradients[1], gradients[0], rtol=1e-4, atol=1e-4)


def test_operators_follow_the_rules_of_custom_operators():
    """Schemas and fake implementations, as torch.compile relies on them; autograd is outside of them."""
    tables, indices = gather_inputs(masked_gather_cases.CASES[1], torch.float32)
    ops, checks = torch.ops.scl_kernels, ("test_schema", "test_faketensor")
    torch.library.opcheck(ops.masked_gather.default, (*tables, *indices, EPS), test_utils=checks)
    out, mean, inverse_std = ops.masked_gather(*tables, *indices, EPS)
    backward = (torch.ones_like(out), *tables, *indices, EPS, mean, inverse_std)
    torch.library.opcheck(ops.masked_gather_backward.default, backward, test_utils=checks)
    torch.library.opcheck(ops.gather_rows.default, (tables[1], indices[1]), test_utils=checks)
    torch.library.opcheck(ops.segment_sum.default, (out, indices[1], 7), test_utils=checks)


def test_kernels_compile_whole_checkpoint_and_count_their_flops():
    """Through torch.compile without a break, again in the backward of a checkpoint, and seen by a FLOP counter."""
    tables, indices = gather_inputs(masked_gather_cases.CASES[1], torch.float32)
    leaves = [t.requires_grad_() for t in tables if t is not None]
    b = torch.randn(len(indices[0]), tables[0].shape[1], device=DEVICE)

    def function(rows, position, extra, class_row, weight, bias):
        x = masked_gather(rows, position, extra, class_row, None, weight, bias, *indices, EPS, backend="triton")
        return infonce_of_one(gather_rows(x, indices[1], backend="triton"), b, 0.1, backend="triton")

    with FlopCounterMode(display=False) as counter:
        expected = torch.autograd.grad(function(*leaves), leaves)
    assert counter.get_total_flops() == 6 * 2 * len(b) ** 2 * b.shape[1]
    compiled = torch.compile(function, backend="aot_eager", fullgraph=True)
    kept = torch.utils.checkpoint.checkpoint(function, *leaves, use_reentrant=False)
    for out in (compiled(*leaves), kept):
        for got, gradient in zip(torch.autograd.grad(out, leaves), expected, strict=True):
            torch.testing.assert_close(got, gradient)


def test_a_real_step_is_the_same_with_and_without_each_kernel(monkeypatch):
    """Loss and the gradient of every parameter, through the model, the losses and the kernels."""
    monkeypatch.syspath_prepend(str(Path(__file__).parents[2] / "kernels" / "benchmarks"))
    import packed_step
    import real_step

    results = real_step.compare(packed_step.SMALL | {"image_size": 32, "batch": 2}, DEVICE, repeats=0)
    called = [result.without for result in results]
    assert called[:2] == ["all", "none"]
    assert {"masked_gather", "gather_rows", "infonce"} <= set(called[2:]) <= {o.name for o in operations()}
    assert [result for result in results if not result.passed] == []


@pytest.fixture
def small_blocks(monkeypatch):
    """Cut the smallest problems into several row and column blocks, and those into splits."""
    monkeypatch.setattr(cuts, "WORKSPACE_BYTES", (0, 0))
    monkeypatch.setattr(cuts, "BLOCK_PROGRAMS", 0)
    monkeypatch.setattr(cuts, "SPLIT_COLUMNS", 64)


@pytest.mark.parametrize("dtype", DTYPES)
def test_many_blocks_and_splits_add_up(dtype, small_blocks):
    """Several row and column blocks of several tasks, the last ones partly empty, and two splits in each."""
    cases = (infonce_cases.Case(140, 300, 24, 130), infonce_cases.Case(9, 129, 20, 0, 0.03, False))
    sizes = [(case.local, case.total, case.width) for case in cases] * 2
    cut, _ = cuts.backward_cuts(sizes, dtype, even=False)
    assert [one.blocks(size) for one, size in zip(cut, sizes, strict=True)] == [(2, 3), (1, 2)] * 2
    assert {one.splits for one in cut} == {2}
    assert_all_pass(infonce_cases.compare_case(cases, dtype, DEVICE, "triton"))
    assert_all_pass(sigmoid_cases.compare_case(sigmoid_cases.Case(140, 300, 24, 130), dtype, DEVICE, "triton"))


def of_ranks(a, b, scale, bias, weight, bounds, backend):
    """Return the summed shares of the sigmoid loss, and the gradients of a, b, scale and bias, of unequal ranks."""
    total, gradients = 0, []
    for first, last in itertools.pairwise(bounds):
        own = [x[first:last].clone().requires_grad_() for x in (a, b)]
        value = sigmoid_loss(SigmoidProblem(*own, a, b, scale, bias, first, weight), backend=backend)
        gradients.append(torch.autograd.grad(value, (*own, scale, bias)))
        total = total + value.detach()
    d_a, d_b, d_scale, d_bias = zip(*gradients, strict=True)
    return [total, torch.cat(d_a), torch.cat(d_b), sum(d_scale), sum(d_bias)]


def test_the_sigmoid_loss_does_not_depend_on_how_the_batch_is_split():
    torch.manual_seed(0)
    a, b, weight = torch.randn(37, 9, device=DEVICE), torch.randn(37, 9, device=DEVICE), torch.rand(37, device=DEVICE)
    scale, bias = (torch.tensor(value, device=DEVICE, requires_grad=True) for value in (12.0, -7.0))
    given = (a, b, scale, bias, weight)
    expected = of_ranks(*given, [0, 37], "torch")
    for bounds in ([0, 37], [0, 1, 1, 20, 37]):
        torch.testing.assert_close(of_ranks(*given, bounds, "triton"), expected, rtol=1e-5, atol=1e-6)


def test_a_softplus_near_zero_is_not_rounded_away():
    """Most pairs of a large batch: 1 + exp(-12) keeps seven bits of exp(-12)."""
    a = torch.eye(1, 4, device=DEVICE)
    b_all = torch.cat([a, torch.eye(4, device=DEVICE)[1:].repeat(100, 1)])
    scale, bias = torch.tensor(24.0, device=DEVICE), torch.tensor(-12.0, device=DEVICE)
    got, expected = (
        torch.ops.scl_kernels.sigmoid_statistics(x.to(dtype), y.to(dtype), scale, bias, 0, backend)
        for x, y, dtype, backend in ((a, b_all, torch.float32, "triton"), (a, b_all, torch.float64, "torch"))
    )
    torch.testing.assert_close(got.double(), expected, rtol=2e-6, atol=0)


def test_the_operators_of_the_sigmoid_loss_follow_the_rules():
    problem = sigmoid_cases.draw(sigmoid_cases.CASES[1], torch.float32, DEVICE)
    a, b, a_all, b_all, scale, bias, offset, weight = (
        x.detach() if isinstance(x, torch.Tensor) else x for x in problem[:8]
    )
    ops, checks = torch.ops.scl_kernels, ("test_schema", "test_faketensor")
    torch.library.opcheck(ops.sigmoid_statistics.default, (a, b_all, scale, bias, offset, "triton"), test_utils=checks)
    given = (torch.tensor(1.5, device=DEVICE), a, b, a_all, b_all, scale, bias, weight, offset, "triton")
    torch.library.opcheck(ops.sigmoid_gradients.default, given, test_utils=checks)


@pytest.mark.parametrize("count", [1, 3, 24])
def test_only_what_is_strictly_nearest_is_correct(count):
    """Equal rows, a tie beside others, and a NaN anywhere: as the reference counts, and never in favor."""
    torch.manual_seed(0)
    apart, tied = (torch.randn(count, 24, device=DEVICE) for _ in range(2))
    tied[: count // 2] = tied[:1]
    broken = apart.clone()
    broken[0, 3] = float("nan")
    for x in (torch.ones(count, 24, device=DEVICE), apart, tied, broken):
        problem = InfoNCEProblem(x, x, x, x, torch.tensor(0.1, device=DEVICE), 0, torch.ones(count, device=DEVICE))
        found, wanted = (infonce_statistics([problem], backend=backend)[0] for backend in ("triton", "torch"))
        assert torch.equal(found.row_correct, wanted.row_correct)
        assert torch.equal(found.col_correct, wanted.col_correct)
        torch.testing.assert_close(found.row_lse, wanted.row_lse, rtol=1e-5, atol=1e-5, equal_nan=True)
