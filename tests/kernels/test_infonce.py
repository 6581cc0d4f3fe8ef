"""InfoNCE's reference: the global loss and its exact gradient out of what each rank computes alone."""

import itertools
import json
import subprocess
import sys
from functools import partial

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from scl_kernels import InfoNCEProblem, duplicates_of, infonce, infonce_statistics
from scl_kernels.infonce.reference import plain_infonce
from scl_kernels.pairwise import reference
from tests.kernels.one_process import infonce_of_one

DOUBLE = {"dtype": torch.float64}
one_process = partial(infonce_of_one, backend="torch")


def draw(count, width=5, seed=0):
    torch.manual_seed(seed)
    a, b = (torch.randn(count, width, **DOUBLE, requires_grad=True) for _ in range(2))
    return a, b, torch.tensor(0.3, **DOUBLE, requires_grad=True), torch.rand(count, **DOUBLE)


def on_ranks(a, b, temperature, weight, bounds):
    """Run one process's batch as ranks with unequal shares would, gathering by hand."""
    problems = []
    for first, last in itertools.pairwise(bounds):
        local = (x.detach()[first:last].requires_grad_() for x in (a, b))
        own = temperature.detach().clone().requires_grad_()
        problems.append(InfoNCEProblem(*local, a.detach(), b.detach(), own, first, weight))
    statistics = [infonce_statistics([problem])[0] for problem in problems]
    row, col = (torch.cat([getattr(s, name) for s in statistics]) for name in ("row_lse", "col_lse"))
    return problems, [infonce([p], [row], [col], [s])[0] for p, s in zip(problems, statistics, strict=True)]


def test_ranks_add_up_to_the_loss_of_one_process():
    """Values, gradients of features and of the temperature: the sum over ranks is the global one, exactly."""
    a, b, temperature, weight = draw(9)
    loss = plain_infonce(a, b, temperature, weight)
    expected = torch.autograd.grad(loss, (a, b, temperature))
    problems, values = on_ranks(a, b, temperature, weight, [0, 2, 2, 7, 9])
    torch.testing.assert_close(sum(values), loss)
    for value in values:
        value.backward()
    torch.testing.assert_close(torch.cat([p.a.grad for p in problems]), expected[0])
    torch.testing.assert_close(torch.cat([p.b.grad for p in problems]), expected[1])
    torch.testing.assert_close(sum(p.temperature.grad for p in problems), expected[2])


def test_several_problems_of_other_sizes_equal_each_alone():
    batches = [draw(4), draw(7, 3, seed=1), draw(1, 6, seed=2)]
    problems = [InfoNCEProblem(a, b, a.detach(), b.detach(), t, 0, w) for a, b, t, w in batches]
    statistics = infonce_statistics(problems)
    lse = [[getattr(s, name) for s in statistics] for name in ("row_lse", "col_lse")]
    values = infonce(problems, *lse, statistics)
    for value, (a, b, temperature, weight) in zip(values, batches, strict=True):
        torch.testing.assert_close(value, plain_infonce(a, b, temperature, weight))


def test_gradcheck(monkeypatch):
    monkeypatch.setattr(reference, "CHUNK_BYTES", 8 * 2 * 7)  # two rows a chunk and an uneven last one
    a, b, temperature, weight = draw(7)
    assert torch.autograd.gradcheck(lambda *args: one_process(*args, weight), (a, b, temperature))
    assert torch.autograd.gradcheck(lambda *args: one_process(*args, 0.2, weight), (a, b))


@pytest.mark.parametrize("count", [0, 1])
def test_no_sample_and_one_sample_are_a_zero_loss_with_zero_gradients(count):
    a, b, temperature, _ = draw(count)
    one_process(a, b, temperature).backward()
    for tensor in (a, b, temperature):
        torch.testing.assert_close(tensor.grad, torch.zeros_like(tensor))


def test_a_row_of_zeros_is_finite_and_equals_plain():
    a, b, temperature, weight = draw(4)
    a.data[2] = 0
    got = torch.autograd.grad(one_process(a, b, temperature, weight), (a, b, temperature))
    torch.testing.assert_close(got, torch.autograd.grad(plain_infonce(a, b, temperature, weight), (a, b, temperature)))


def test_no_similarity_of_another_row_keeps_a_row_from_being_summed():
    """Exponents are taken from the row's own largest: from that of all rows, those of a far one would all be 0."""
    a, b = torch.tensor([[1.0, 0.0], [0.0, 1.0]]), torch.tensor([[1.0, 0.0], [-1.0, -1e-3]])
    (statistics,) = infonce_statistics([InfoNCEProblem(a, b, a, b, 1e-3, 0, torch.ones(2))])
    exact = (a.double() @ torch.nn.functional.normalize(b.double()).T / 1e-3).logsumexp(1)
    torch.testing.assert_close(statistics.row_lse.double(), exact, rtol=1e-5, atol=1e-4)


@pytest.mark.parametrize("treatment", ["negatives", "ignore", "positives"])
def test_a_tie_with_a_row_that_is_no_duplicate_is_not_right(treatment):
    """Rows 0 and 2 are duplicates; row 1 is as near to row 0 as its partner."""
    a = torch.eye(3)
    b = torch.tensor([[1.0, 0, 0], [1.0, 0, 0], [1.0, 0, 0]])
    numbers = None if treatment == "negatives" else duplicates_of(torch.tensor([[1, 2, 1]] * 2), treatment)
    (statistics,) = infonce_statistics([InfoNCEProblem(a, b, a, b, 0.1, 0, torch.ones(3), numbers)])
    assert not statistics.row_correct[0]


def test_accuracy_counts_rows_whose_own_partner_is_nearest():
    a = torch.eye(3)
    b = torch.tensor([[1.0, 0, 0], [0, 0, 1], [0, 1, 0.5]])
    problem = InfoNCEProblem(a, b, a, b, 0.1, 0, torch.ones(3))
    (statistics,) = infonce_statistics([problem])
    assert statistics.row_correct.tolist() == [True, False, False]
    assert statistics.col_correct.tolist() == [True, False, False]
    assert statistics.row_lse.dtype == torch.float32


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_inputs_are_summed_in_fp32(dtype):
    a, b, _, weight = draw(40, 16)
    a, b = (x.detach().to(dtype).requires_grad_() for x in (a, b))
    got = one_process(a, b, 0.07, weight.float())
    torch.testing.assert_close(got.double(), plain_infonce(a.double(), b.double(), 0.07, weight), rtol=1e-5, atol=1e-5)
    got.backward()
    assert a.grad.dtype == dtype


def test_compiles_whole_and_counts_its_flops():
    a, b, temperature, weight = draw(8)
    compiled = torch.compile(lambda *args: 2 * one_process(*args), backend="aot_eager", fullgraph=True)
    torch.testing.assert_close(compiled(a, b, temperature, weight), 2 * one_process(a, b, temperature, weight))
    with FlopCounterMode(display=False) as counter:
        one_process(a, b, temperature, weight).backward()
    assert counter.get_total_flops() == 6 * 2 * 8 * 8 * 5


def operands(dtype=torch.float32):
    """Return what the operators take for two problems of other sizes: a, b, a_all, b_all, temperature, offset, rest."""
    torch.manual_seed(0)
    sizes = ((3, 7, 5, 2), (4, 4, 6, 0))
    a_all, b_all = ([torch.randn(total, width, dtype=dtype) for _, total, width, _ in sizes] for _ in range(2))
    a, b = (
        [x[start : start + n].clone() for x, (n, _, _, start) in zip(everything, sizes, strict=True)]
        for everything in (a_all, b_all)
    )
    temperature = torch.tensor([0.1, 0.2])
    weight, row_lse, col_lse = ([torch.rand(total) for _, total, _, _ in sizes] for _ in range(3))
    return [a, b, a_all, b_all, temperature, [start for *_, start in sizes], weight, row_lse, col_lse]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_operators_follow_the_rules_of_custom_operators(dtype):
    """Schemas, fake implementations, autograd registration and tracing, as torch.compile relies on them."""
    given = operands(dtype)
    ops = torch.ops.scl_kernels
    torch.library.opcheck(ops.infonce_statistics.default, (*given[:6], "torch"))
    statistics = ops.infonce_statistics(*given[:6], "torch")[:3]
    torch.library.opcheck(ops.infonce_backward.default, (torch.ones(2), *given, statistics, "torch"))


def test_checkpointing_gives_the_same_gradient():
    a, b, temperature, weight = draw(6)
    kept = torch.autograd.grad(one_process(a, b, temperature, weight), (a, b, temperature))
    again = torch.utils.checkpoint.checkpoint(one_process, a, b, temperature, weight, use_reentrant=False)
    assert all(torch.equal(*pair) for pair in zip(kept, torch.autograd.grad(again, (a, b, temperature)), strict=True))


def test_repeats_bitwise():
    a, b, temperature, weight = draw(70, 9)
    runs = [torch.autograd.grad(one_process(a, b, temperature, weight), (a, b, temperature)) for _ in range(2)]
    assert all(torch.equal(*pair) for pair in zip(*runs, strict=True))


MEMORY = """
import json, resource, torch
from scl_kernels import InfoNCEProblem, infonce, infonce_statistics
torch.set_num_threads(1)
local, total, width = {local}, 32768, 512
a_all, b_all = torch.randn(total, width), torch.randn(total, width)
a, b = (x[:local].clone().requires_grad_() for x in (a_all, b_all))
problem = InfoNCEProblem(a, b, a_all, b_all, 0.07, 0, torch.full((total,), 1 / total))
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
statistics = infonce_statistics([problem])
lse = torch.full((total,), 15.0)
infonce([problem], [lse], [lse], statistics)[0].backward()
print(json.dumps((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) * 1024))
"""


@pytest.mark.slow
def test_memory_above_the_inputs_stays_under_a_gibibyte():
    """32,768 global rows of 512; 1,536 local ones are three chunks, and more would add only their own gradient."""
    out = subprocess.run([sys.executable, "-c", MEMORY.format(local=1536)], capture_output=True, text=True, check=True)
    all_rows = 2 * 4 * (32768 - 1536) * 512  # the gradients that 32,768 local rows would have on top
    assert json.loads(out.stdout) + all_rows < 2**30


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"a": torch.zeros(3, **DOUBLE)}, r"problems\[0\].a has shape \(3,\); expected \(any, any\)"),
        ({"a": torch.zeros(3, 0, **DOUBLE)}, r"problems\[0\].a has shape \(3, 0\); expected at least one column"),
        (
            {"a": torch.zeros(3, 5, dtype=torch.int64)},
            r"problems\[0\].a has dtype torch.int64; expected torch.float16",
        ),
        ({"a": None}, r"problems\[0\].a is of type NoneType; expected a tensor"),
        ({"b": torch.zeros(2, 5, **DOUBLE)}, r"problems\[0\].b has shape \(2, 5\); expected \(3, 5\)"),
        ({"b": torch.zeros(3, 5, **DOUBLE, device="meta")}, r"problems\[0\].b is on meta; expected cpu"),
        ({"a_all": torch.zeros(4, 6, **DOUBLE)}, r"problems\[0\].a_all has shape \(4, 6\); expected \(any, 5\)"),
        ({"b_all": torch.zeros(4, 5)}, r"problems\[0\].b_all has dtype torch.float32; expected torch.float64"),
        ({"b_all": torch.zeros(5, 5, **DOUBLE)}, r"problems\[0\].b_all has shape \(5, 5\); expected \(4, 5\)"),
        ({"offset": 2}, r"problems\[0\].offset is 2; expected 0 to 1, so that 3 local rows lie within 4"),
        ({"offset": -1}, r"problems\[0\].offset is -1; expected 0 to 1"),
        ({"temperature": 0.0}, r"problems\[0\].temperature is 0.0; expected a finite number greater than 0"),
        ({"temperature": float("nan")}, r"problems\[0\].temperature is nan; expected a finite number greater than 0"),
        ({"temperature": torch.tensor(-1.0)}, r"problems\[0\].temperature is -1.0; expected a finite number"),
        ({"temperature": torch.ones(1)}, r"problems\[0\].temperature has shape \(1,\); expected \(\)"),
        ({"weight_all": torch.zeros(3)}, r"problems\[0\].weight_all has shape \(3,\); expected \(4\)"),
        ({"weight_all": torch.tensor([1.0, 1, -2, 1])}, r"problems\[0\].weight_all holds -2.0; expected .* at least 0"),
        ({"weight_all": torch.tensor([1.0, 1, float("nan"), 1])}, r"problems\[0\].weight_all holds nan"),
    ],
)
def test_bad_input_is_named(change, message):
    a, b, temperature, weight = (x.detach() for x in draw(4))
    problem = InfoNCEProblem(a[:3], b[:3], a, b, temperature, 1, weight)
    with pytest.raises(ValueError, match=message):
        infonce_statistics([problem._replace(**change)])


def test_local_rows_that_are_not_among_the_gathered_are_found_under_the_debug_switch(monkeypatch):
    a, b, temperature, weight = (x.detach() for x in draw(4))
    problem = InfoNCEProblem(a[:3], b[:3], a, b, temperature, 1, weight)
    infonce_statistics([problem])
    monkeypatch.setenv("SCL_KERNELS_DEBUG", "1")
    infonce_statistics([problem._replace(offset=0)])
    with pytest.raises(
        ValueError, match=r"problems\[0\].a differs from problems\[0\].a_all\[1:4\]; expected the local"
    ):
        infonce_statistics([problem])


def test_one_dtype_and_one_device_serve_all_problems():
    a, b, temperature, weight = (x.detach() for x in draw(4))
    problem = InfoNCEProblem(a, b, a, b, temperature, 0, weight)
    other = InfoNCEProblem(a.float(), b.float(), a.float(), b.float(), temperature, 0, weight)
    with pytest.raises(ValueError, match=r"problems\[1\].a has dtype torch.float32; expected torch.float64"):
        infonce_statistics([problem, other])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"row_lse_all": []}, "row_lse_all has 0 entries for 1 problems; expected one each"),
        ({"statistics": []}, "statistics has 0 entries for 1 problems; expected one each"),
        ({"col_lse_all": [torch.zeros(3)]}, r"col_lse_all\[0\] has shape \(3,\); expected \(4\)"),
        ({"row_lse_all": [torch.zeros(4).int()]}, r"row_lse_all\[0\] has dtype torch.int32; expected torch.float16"),
    ],
)
def test_bad_statistics_are_named(change, message):
    a, b, temperature, weight = draw(4)
    problem = InfoNCEProblem(a, b, a.detach(), b.detach(), temperature, 0, weight)
    given = {"row_lse_all": [weight], "col_lse_all": [weight], "statistics": infonce_statistics([problem])}
    with pytest.raises(ValueError, match=message):
        infonce([problem], **{**given, **change})


@pytest.mark.parametrize("name", ["row_lse", "col_lse", "diagonal"])
def test_statistics_of_another_problem_are_refused(name):
    a, b, temperature, weight = draw(4)
    problem = InfoNCEProblem(a, b, a.detach(), b.detach(), temperature, 0, weight)
    (statistics,) = infonce_statistics([problem])
    wrong = statistics._replace(**{name: torch.zeros(3)})
    with pytest.raises(ValueError, match=rf"statistics\[0\].{name} has shape \(3,\); expected \(4\)"):
        infonce([problem], [weight], [weight], [wrong])
