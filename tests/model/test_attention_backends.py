"""Every backend attends within segments in every layout, forward and gradients, also where some are empty."""

import inspect
import sys
from pathlib import Path
from types import ModuleType

import pytest
import torch
from torch.nn.attention import varlen

from sclds.batch import Recipe, pack
from sclds.batch.attention_plan import Planner, plan_attention
from sclds.losses.communicator import SingleProcess
from sclds.losses.objectives import GlobalFeatures, features_of, step_loss
from sclds.machine.attention import BACKENDS, AttentionBackends, Machine
from sclds.model.attention import attend, attend_kv, attend_qkv
from tests.model.attention_stubs import STUBS
from tests.model.samples import ALL, GRIDS, PAD, assert_equal, gradients, model_of, pixels, plain, sample

SEGMENTS = {
    "one_token": ([1], [1]),
    "eight_frames": ([8], [40]),
    "uneven": ([1, 7, 8, 9, 17, 3], [5, 16, 2, 1, 30, 7]),
    "empty_segments": ([0, 4, 0, 3, 0], [3, 2, 0, 9, 0]),
    "one_key": ([13, 2], [1, 1]),
    "no_query": ([0, 0], [3, 0]),
    "no_segment": ([], []),
}


@pytest.fixture
def stub(monkeypatch):
    """Return a function that puts the library of a backend in place of what is or is not installed."""

    def put(backend):
        if backend == "sdpa":
            return None
        name, source = STUBS[backend]
        parts = name.split(".")
        for parent in (".".join(parts[:i]) for i in range(1, len(parts))):
            if not parent.startswith("torch"):
                monkeypatch.setitem(sys.modules, parent, ModuleType(parent))
        module = ModuleType(name)
        exec(source, module.__dict__)
        monkeypatch.setitem(sys.modules, name, module)
        return module

    return put


def cumulative(lengths):
    return torch.tensor([0, *lengths]).cumsum(0).int()


def plainly(q, k, v, q_lengths, k_lengths):
    """Attend one segment at a time."""
    pieces = zip(*(t.split(n) for t, n in ((q, q_lengths), (k, k_lengths), (v, k_lengths))), strict=True)
    results = [
        torch.einsum("hqk,khd->qhd", (torch.einsum("qhd,khd->hqk", a, b) / 2).softmax(-1), c) for a, b, c in pieces
    ]
    return torch.cat(results) if results else q


def inputs_of(layout, q_rows, k_rows):
    generator = torch.Generator().manual_seed(0)
    shapes = {"qkv": [(q_rows, 3)], "kv": [(q_rows,), (k_rows, 2)], "apart": [(q_rows,), (k_rows,), (k_rows,)]}[layout]
    return [torch.randn(*s, 2, 4, dtype=torch.float64, generator=generator).requires_grad_() for s in shapes]


def apart(inputs):
    return {1: lambda: inputs[0].unbind(1), 2: lambda: (inputs[0], *inputs[1].unbind(1)), 3: lambda: inputs}[
        len(inputs)
    ]()


LAYOUTS = {"qkv": attend_qkv, "kv": attend_kv, "apart": attend}


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("segments", SEGMENTS)
@pytest.mark.parametrize("backend", BACKENDS)
def test_backends_equal_attention_per_segment(backend, segments, layout, stub):
    q_lengths, k_lengths = SEGMENTS[segments]
    if layout == "qkv":
        k_lengths = q_lengths
    stub(backend)
    inputs = inputs_of(layout, sum(q_lengths), sum(k_lengths))
    plan = plan_attention(cumulative(q_lengths), cumulative(k_lengths), backend)
    found, wanted = LAYOUTS[layout](*inputs, plan), plainly(*apart(inputs), q_lengths, k_lengths)
    torch.testing.assert_close(found, wanted)
    d_out = torch.randn(found.shape, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    wanted = wanted + sum(0 * x.sum() for x in inputs)  # without segments nothing leads to the inputs
    theirs = torch.autograd.grad(wanted, inputs, d_out)
    for ours, his in zip(torch.autograd.grad(found, inputs, d_out), theirs, strict=True):
        torch.testing.assert_close(ours, his)


@pytest.mark.parametrize("backend", [name for name, has in BACKENDS.items() if name != "sdpa"])
def test_packed_forms_are_taken_where_there_are_any(backend, stub):
    module = stub(backend)
    plan = plan_attention(cumulative([3, 2]), cumulative([3, 2]), backend)
    for layout, attention in LAYOUTS.items():
        attention(*inputs_of(layout, 5, 5), plan)
    packed = [("qkvpacked", 0.0), ("kvpacked", 0.0), ("func", 0.0)]
    assert module.calls == (packed if BACKENDS[backend].packed else [("func", 0.0)] * 3)


@pytest.mark.parametrize("backend", [name for name in BACKENDS if name != "sdpa"])
@pytest.mark.parametrize("layout", LAYOUTS)
def test_dropout_arrives_or_is_refused(backend, layout, stub):
    """A kernel without dropout must not be run without a word where dropout is asked for."""
    module = stub(backend)
    plan = plan_attention(cumulative([3, 2]), cumulative([3, 2]), backend)
    if BACKENDS[backend].dropout:
        LAYOUTS[layout](*inputs_of(layout, 5, 5), plan, 0.25)
        assert [dropout for _, dropout in module.calls] == [0.25]
        return
    with pytest.raises(ValueError, match=f"expected dropout 0 for {backend}, which has none, got 0.25"):
        LAYOUTS[layout](*inputs_of(layout, 5, 5), plan, 0.25)


def test_the_stand_in_for_torch_has_the_arguments_of_the_installed_one(stub):
    ours = inspect.signature(stub("torch_varlen").varlen_attn).parameters
    theirs = inspect.signature(varlen.varlen_attn).parameters
    assert [(p.name, p.kind, p.default) for p in ours.values()] == [
        (p.name, p.kind, p.default) for p in theirs.values()
    ]


@pytest.mark.parametrize(
    ("layout", "change", "message"),
    [
        ("qkv", {0: torch.zeros(5, 2, 2, 4)}, r"qkv has shape \(5, 2, 2, 4\); expected \(5, 3, any, any\)"),
        ("kv", {1: torch.zeros(5, 3, 2, 4)}, r"kv has shape \(5, 3, 2, 4\); expected \(5, 2, 2, 4\)"),
        ("kv", {1: torch.zeros(5, 2, 2, 4)}, "kv has dtype torch.float32; expected torch.float64"),
    ],
)
def test_packed_rows_that_are_not_those_of_the_plan_are_named(layout, change, message):
    inputs = inputs_of(layout, 5, 5)
    for at, value in change.items():
        inputs[at] = value
    with pytest.raises(ValueError, match=message):
        LAYOUTS[layout](*inputs, plan_attention(cumulative([3, 2]), cumulative([3, 2])))


@pytest.mark.parametrize("backend", [name for name in BACKENDS if name != "sdpa"])
def test_a_step_is_that_of_the_plain_definition_with_every_backend(backend, stub):
    """One frame and eight, a text of one inner token and one of which no word is predicted: fusion's last layer then
    has keys without queries.
    """
    views = [
        sample(0, inner=1, hidden=1, partner=1),
        sample(1, "video", 8, inner=6, partner=0),
        sample(2, "video", 1, inner=9, words=0, hidden=8, partner=2),
        sample(3, inner=2, words=2, partner=1),
    ]
    stub(backend)
    model = model_of().eval()
    batch = pack(views, pixels(views), Recipe(PAD, ALL, GRIDS, len(views), 2, AttentionBackends.all(backend)))
    outputs = model(batch)
    features = GlobalFeatures.gather([features_of(outputs, batch)], [batch], ALL, SingleProcess())
    total, terms = step_loss(outputs, batch, features, 0, ALL)
    found = {n: t for n, t in terms.items() if not n.endswith(("accuracy", "alone"))}, gradients(model, total)
    assert_equal(found, plain(model, views))


def test_equal_segments_are_planned_once():
    plan, lengths, others = Planner(), [3, 2], [2, 3]
    first = plan(cumulative(lengths), cumulative(lengths), "sdpa")
    assert plan(cumulative(lengths), cumulative(lengths), "sdpa") is first
    assert plan(cumulative(lengths), cumulative(others), "sdpa") is not first
    assert plan(cumulative(lengths), cumulative(lengths), "flash_attn") is not first


@pytest.fixture
def attention_check(monkeypatch):
    """Return the stage of the GPU check that compares backends."""
    monkeypatch.syspath_prepend(str(Path(__file__).parents[2] / "kernels" / "benchmarks"))
    import attention_check

    return attention_check


@pytest.mark.parametrize("backend", BACKENDS)
def test_the_gpu_check_compares_every_backend_that_is_there(backend, stub, attention_check):
    """Stand-ins compute in plain torch, so that they differ from the plain definition by nothing."""
    stub(backend)
    machine = Machine(True, (9, 0), frozenset({backend}))
    assert set(attention_check.absent(machine)) == set(BACKENDS) - {backend}
    found = list(attention_check.results(machine, torch.device("cpu"), rehearse=True))
    assert {one.backend for one in found} == {backend}
    assert {one.precision for one in found} == set(BACKENDS[backend].precisions)
    assert {one.case for one in found} == set(attention_check.CASES)
    assert {one.form for one in found} == {"apart", "kv", "qkv"}
    assert [one for one in found if not one.found.passed] == []


def test_the_gpu_check_sees_a_backend_that_is_wrong(stub, attention_check, monkeypatch):
    """By a percent, in another dtype, or without a gradient."""
    module = stub("torch_varlen")
    real, machine = module.varlen_attn, Machine(True, (9, 0), frozenset({"torch_varlen"}))
    faults = {
        "d_q": lambda q, k, v, *rest: real(q.detach(), k, v, *rest) + 0 * q,
        "d_v": lambda q, k, v, *rest: real(q, k, v.detach(), *rest) + 0 * v.sum(),
        "out": lambda q, k, v, *rest: real(q, k, v * 1.02, *rest),
        "out (": lambda q, k, v, *rest: real(q, k, v, *rest).float(),
    }
    for seen, fault in faults.items():
        monkeypatch.setattr(module, "varlen_attn", fault)
        found = attention_check.results(machine, torch.device("cpu"), rehearse=True)
        assert any(one.found.name.startswith(seen) for one in found if not one.found.passed), seen
