"""The gathers' references: definition, gradients, awkward sizes, bad input, and what sees through them."""

import pytest
import torch
import torch.nn.functional as F
from torch._subclasses.fake_tensor import FakeTensorMode

from scl_kernels import CLASS_ROW, MASK_ROW, gather_rows, indexing, masked_gather, validation
from scl_kernels.gather_rows.reference import gather_rows_reference
from scl_kernels.masked_gather.inputs import Inputs
from scl_kernels.masked_gather.reference import masked_gather_reference

EPS = 1e-5


def tables(rows=6, positions=5, extras=3, width=4, dtype=torch.float64):
    torch.manual_seed(0)
    shapes = [(rows, width), (positions, width), (extras, width), *[(width,)] * 4]
    return [torch.randn(shape, dtype=dtype, requires_grad=True) for shape in shapes]


def indices(source, positions=5, extras=3):
    count = len(source)
    return [
        torch.tensor(source, dtype=torch.int64),
        torch.arange(count) % positions,
        torch.arange(count) % (extras + 1) - 1,
    ]


def test_equals_a_loop_over_tokens():
    parts, ids = tables(), indices([0, CLASS_ROW, MASK_ROW, 5, 5, 2, CLASS_ROW])
    rows, position, extra, class_row, mask_row, weight, bias = parts
    expected = []
    for source, position_id, extra_id in zip(*(i.tolist() for i in ids), strict=True):
        x = {CLASS_ROW: class_row, MASK_ROW: mask_row}.get(source, rows[max(source, 0)]) + position[position_id]
        expected.append(F.layer_norm(x if extra_id < 0 else x + extra[extra_id], (4,), weight, bias, EPS))
    torch.testing.assert_close(masked_gather(*parts, *ids, EPS), torch.stack(expected))


def test_gradcheck():
    ids = indices([0, CLASS_ROW, MASK_ROW, 5, 5, 2])
    assert torch.autograd.gradcheck(lambda *parts: masked_gather(*parts, *ids, EPS), tables())
    assert torch.autograd.gradcheck(lambda rows: gather_rows(rows, ids[1]), tables()[:1])


@pytest.mark.parametrize(("source", "rows", "extras"), [([], 6, 3), ([CLASS_ROW] * 3, 0, 0), ([], 0, 0)])
def test_every_parameter_gets_a_gradient_even_if_nothing_reads_it(source, rows, extras):
    parts = tables(rows=rows, extras=extras)
    out = masked_gather(*parts, *indices(source, extras=0), EPS)
    out.square().sum().backward()
    assert all(part.grad is not None and part.grad.shape == part.shape for part in parts)
    assert not parts[4].grad.any()


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
def test_sums_are_at_least_fp32(dtype):
    """A temporal row that 4,096 tokens read gets the sum of their gradients, which half precision would lose."""
    parts = [part.to(dtype).detach().requires_grad_() for part in tables(extras=1, positions=1)]
    zero = torch.zeros(4096, dtype=torch.int64)
    d_out = torch.zeros(4096, 4, dtype=dtype)
    d_out[:, 0] = 1
    masked_gather(*parts, zero, zero, zero, EPS).backward(d_out)
    one = [part.double().detach().requires_grad_() for part in parts]
    masked_gather(*one, zero[:1], zero[:1], zero[:1], EPS).backward(d_out[:1].double())
    torch.testing.assert_close(parts[2].grad.double(), 4096 * one[2].grad, rtol=1e-2, atol=1e-2)


def test_repeats_bitwise():
    ids = [torch.randint(0, 5, (500,)) for _ in range(2)] + [torch.randint(0, 3, (500,))]

    def run():
        parts = tables(dtype=torch.float32)
        masked_gather(*parts, *ids, EPS).square().sum().backward()
        return [part.grad for part in parts]

    assert all(torch.equal(one, other) for one, other in zip(run(), run(), strict=True))


def test_compiles_whole_and_runs_without_data():
    ids = indices([0, CLASS_ROW, MASK_ROW])
    compiled = torch.compile(lambda *p: masked_gather(*p, *ids, EPS), backend="aot_eager", fullgraph=True)
    torch.testing.assert_close(compiled(*tables()), masked_gather(*tables(), *ids, EPS))
    with FakeTensorMode(allow_non_fake_inputs=True):
        assert masked_gather(*tables(), *(torch.zeros(9, dtype=torch.int64) for _ in range(3)), EPS).shape == (9, 4)


def test_checkpointing_gives_the_same_gradient():
    ids = indices([0, CLASS_ROW, MASK_ROW, 1])

    def gradient(call):
        parts = tables()
        call(lambda *p: masked_gather(*p, *ids, EPS), *parts).square().sum().backward()
        return parts[0].grad

    kept = gradient(lambda function, *p: function(*p))
    again = gradient(lambda function, *p: torch.utils.checkpoint.checkpoint(function, *p, use_reentrant=False))
    assert torch.equal(kept, again)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({0: torch.zeros(3)}, r"rows has shape \(3,\); expected \(any, any\)"),
        ({0: torch.zeros(3, 0)}, r"rows has shape \(3, 0\); expected at least one column"),
        ({0: [1.0]}, "rows is of type list; expected a tensor"),
        ({1: torch.zeros(5, 7)}, r"position has shape \(5, 7\); expected \(any, 4\)"),
        ({2: torch.zeros(3, 4, dtype=torch.int32)}, "extra has dtype torch.int32; expected torch.float16 or"),
        ({3: None}, r"source asks for class_row \(-1\) and class_row is None"),
        ({4: None}, r"source asks for mask_row \(-2\) and mask_row is None"),
        ({3: torch.zeros(5)}, r"class_row has shape \(5,\); expected \(4\)"),
        ({4: torch.zeros(1, 4)}, r"mask_row has shape \(1, 4\); expected \(4\)"),
        ({5: torch.zeros(4, device="meta")}, "weight is on meta; expected cpu"),
        ({6: torch.zeros(4, dtype=torch.bool)}, "bias has dtype torch.bool; expected torch.float16 or"),
        ({7: torch.tensor([0, 6, 0])}, "source holds values from 0 to 6; expected at least -2 and less than 6"),
        ({7: torch.tensor([0, -3, 0])}, "source holds values from -3 to 0"),
        ({7: torch.tensor([0, 1, 0], dtype=torch.int32)}, "source has dtype torch.int32; expected torch.int64"),
        ({8: torch.tensor([0, 5, 0])}, "position_id holds values from 0 to 5; expected at least 0 and less than 5"),
        ({8: torch.tensor([0])}, r"position_id has shape \(1,\); expected \(3\)"),
        ({9: torch.tensor([0, 3, 0])}, "extra_id holds values from 0 to 3; expected at least -1 and less than 3"),
        ({9: torch.tensor([0, -2, 0])}, "extra_id holds values from -2 to 0; expected at least -1 and less than 3"),
        ({10: float("nan")}, "eps is nan; expected a number greater than 0"),
        ({10: 0.0}, "eps is 0.0; expected a number greater than 0"),
    ],
)
def test_bad_input_is_named(change, message):
    arguments = [*tables(), *indices([0, CLASS_ROW, MASK_ROW]), EPS]
    for at, value in change.items():
        arguments[at] = value
    with pytest.raises(ValueError, match=message):
        masked_gather(*arguments)


ROWS = torch.zeros(2, 3)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((torch.zeros(2), torch.tensor([0])), r"rows has shape \(2,\); expected \(any, any\)"),
        ((ROWS, torch.tensor([[0]])), r"index has shape \(1, 1\); expected \(any\)"),
        ((ROWS, torch.tensor([0]).int()), "index has dtype torch.int32; expected torch.int64"),
        ((ROWS, torch.zeros(1, dtype=torch.int64, device="meta")), "index is on meta; expected cpu"),
        (
            (ROWS, torch.tensor([0, 2])),
            "index holds values from 0 to 2; expected at least 0 and less than 2",
        ),
    ],
)
def test_bad_input_of_gather_rows_is_named(arguments, message):
    with pytest.raises(ValueError, match=message):
        gather_rows(*arguments)


def test_indices_are_read_on_cpu_always_and_elsewhere_under_the_debug_switch(monkeypatch):
    class OnGPU:
        device, is_meta = torch.device("cuda"), False

    monkeypatch.setattr(validation, "is_fake", lambda tensor: False)
    monkeypatch.delenv("SCL_KERNELS_DEBUG", raising=False)
    assert validation.readable(torch.tensor([0]))
    assert not validation.readable(OnGPU())
    monkeypatch.setenv("SCL_KERNELS_DEBUG", "1")
    assert validation.readable(OnGPU())


def test_where_indices_cannot_be_read_the_reference_answers_a_bad_one_with_nan_and_reads_no_foreign_row(monkeypatch):
    """As the kernels do: a fault on a GPU would end the process."""
    monkeypatch.setattr(indexing, "readable", lambda index: False)
    parts = [part.detach() for part in tables(rows=3, positions=2, extras=2)]
    ids = [
        torch.tensor([0, 3, CLASS_ROW, MASK_ROW, -3, 0, 0, 0]),
        torch.tensor([0, 0, 0, 0, 0, 2, -1, 0]),
        torch.tensor([-1, 0, 0, 0, 0, 0, 0, 2]),
    ]
    bad = masked_gather_reference(Inputs(*parts, *ids, EPS)).isnan().all(1).tolist()
    assert bad == [False, True, False, False, True, True, True, True]
    parts[3] = None
    bad = masked_gather_reference(Inputs(*parts, *ids, EPS)).isnan().all(1).tolist()
    assert bad == [False, True, True, False, True, True, True, True]
    bad = gather_rows_reference(parts[0], ids[0]).isnan().all(1).tolist()
    assert bad == [False, True, True, True, True, False, False, False]
