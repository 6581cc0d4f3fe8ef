"""The pairwise sigmoid loss: the global loss and its exact gradient out of what each rank computes alone."""

import itertools

import pytest
import torch
import torch.nn.functional as F
from torch.utils.flop_counter import FlopCounterMode

from scl_kernels import SigmoidProblem, sigmoid_loss
from scl_kernels.pairwise import reference as pairwise

DOUBLE = {"dtype": torch.float64}


def draw(count, width=5, seed=0):
    torch.manual_seed(seed)
    a, b = (torch.randn(count, width, **DOUBLE, requires_grad=True) for _ in range(2))
    scale, bias = (torch.tensor(value, **DOUBLE, requires_grad=True) for value in (4.0, -1.5))
    return a, b, scale, bias, torch.rand(count, **DOUBLE)


def plain(a, b, scale, bias, weight):
    """Write the loss down as the paper does, with the whole matrix."""
    logits = scale * F.normalize(a, dim=1, eps=1e-8) @ F.normalize(b, dim=1, eps=1e-8).T + bias
    sign = 2 * torch.eye(len(a), dtype=a.dtype) - 1
    return -(weight[:, None] * F.logsigmoid(sign * logits)).sum()


def one_process(a, b, scale, bias, weight):
    return sigmoid_loss(SigmoidProblem(a, b, a.detach(), b.detach(), scale, bias, 0, weight))


@pytest.mark.parametrize("count", [1, 2, 13])
def test_equals_the_plain_definition(count):
    given = draw(count)
    torch.testing.assert_close(one_process(*given), plain(*given))
    got, expected = (torch.autograd.grad(loss(*given), given[:4]) for loss in (one_process, plain))
    torch.testing.assert_close(got, expected)


def test_ranks_add_up_to_the_loss_of_one_process():
    """Values and all gradients: the sum over ranks (of features: each rank's own rows) is the global one, exactly."""
    a, b, scale, bias, weight = draw(11)
    loss = plain(a, b, scale, bias, weight)
    expected = torch.autograd.grad(loss, (a, b, scale, bias))
    total, d_a, d_b, d_scale, d_bias = 0, [], [], 0, 0
    for first, last in itertools.pairwise([0, 2, 2, 9, 11]):
        own = [x.detach()[first:last].requires_grad_() for x in (a, b)]
        problem = SigmoidProblem(*own, a.detach(), b.detach(), scale, bias, first, weight)
        value = sigmoid_loss(problem)
        got = torch.autograd.grad(value, (*own, scale, bias))
        total, d_scale, d_bias = total + value, d_scale + got[2], d_bias + got[3]
        d_a.append(got[0])
        d_b.append(got[1])
    torch.testing.assert_close(total, loss)
    torch.testing.assert_close([torch.cat(d_a), torch.cat(d_b), d_scale, d_bias], list(expected))


def test_gradcheck(monkeypatch):
    monkeypatch.setattr(pairwise, "CHUNK_BYTES", 8 * 2 * 7)  # two rows a chunk and an uneven last one
    *inputs, weight = draw(7)
    assert torch.autograd.gradcheck(lambda *args: 3 * one_process(*args, weight), inputs)


def test_no_sample_is_a_zero_loss_with_zero_gradients():
    given = draw(0)
    one_process(*given).backward()
    assert all(not tensor.grad.any() and tensor.grad.shape == tensor.shape for tensor in given[:4])


def test_a_row_of_zeros_is_finite_and_equals_plain():
    a, b, scale, bias, weight = draw(4)
    a.data[2] = 0
    results = [torch.autograd.grad(loss(a, b, scale, bias, weight), (b, scale, bias)) for loss in (one_process, plain)]
    torch.testing.assert_close(*results)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
def test_sums_are_in_fp32(dtype):
    a, b, scale, bias, weight = draw(40, 16)
    a, b = (x.detach().to(dtype).requires_grad_() for x in (a, b))
    scale, bias = (x.detach().float().requires_grad_() for x in (scale, bias))
    got = one_process(a, b, scale, bias, weight.float())
    assert got.dtype == torch.float32
    torch.testing.assert_close(got.double(), plain(a.double(), b.double(), scale, bias, weight), rtol=1e-5, atol=1e-5)
    got.backward()
    assert (a.grad.dtype, scale.grad.dtype) == (dtype, torch.float32)


def test_compiles_whole():
    given = draw(8)
    compiled = torch.compile(lambda *args: 2 * one_process(*args), backend="aot_eager", fullgraph=True)
    values = [compiled(*given), 2 * one_process(*given)]
    torch.testing.assert_close(*values)
    torch.testing.assert_close(*(torch.autograd.grad(value, given[:4]) for value in values))


PRODUCT = 2 * 8 * 8 * 5


@pytest.mark.parametrize(
    ("learned", "forward", "backward"),
    [("a b scale bias", 4, 0), ("b", 4, 0), ("scale bias", 1, 0), ("", 1, 0), ("fp16", 1, 4)],
)
def test_gradients_are_computed_with_the_loss_and_only_where_they_are_asked_for(learned, forward, backward):
    given = dict(zip(("a", "b", "scale", "bias", "weight"), (x.detach() for x in draw(8)), strict=True))
    if learned == "fp16":
        learned, given["a"], given["b"] = "a b", given["a"].half(), given["b"].half()
    leaves = [given[name].requires_grad_() for name in learned.split()]
    with FlopCounterMode(display=False) as counter:
        loss = one_process(**given)
        assert counter.get_total_flops() == forward * PRODUCT
        if leaves:
            torch.autograd.grad(loss, leaves)
    assert counter.get_total_flops() == (forward + backward) * PRODUCT


@pytest.mark.parametrize("without", [torch.no_grad, torch.inference_mode])
def test_a_pass_without_gradients_computes_none(without):
    with FlopCounterMode(display=False) as counter, without():
        one_process(*draw(8))
    assert counter.get_total_flops() == PRODUCT


def in_bf16(count=40, width=16):
    a, b, scale, bias, weight = draw(count, width)
    a, b = (x.detach().bfloat16().requires_grad_() for x in (a, b))
    return a, b, scale.detach().float().requires_grad_(), bias.detach().float().requires_grad_(), weight.float()


def test_what_is_kept_is_the_gradients_which_the_backward_pass_scales_in_place():
    a, b, *rest = in_bf16()
    kept = []
    with torch.autograd.graph.saved_tensors_hooks(lambda x: kept.append(x) or x, lambda x: x):
        loss = one_process(a, b, *rest)
    large = [x for x in kept if x.numel() > 1]
    assert sum(x.nbytes for x in large) == a.nbytes + b.nbytes
    assert [x.data_ptr() for x in torch.autograd.grad(0.3 * loss, (a, b))] == [x.data_ptr() for x in large]


def test_a_kept_graph_gives_the_same_gradients_again():
    a, b, *rest = in_bf16()
    loss = one_process(a, b, *rest)
    first, second = (torch.autograd.grad(0.3 * loss, (a, b), retain_graph=True) for _ in range(2))
    other = torch.autograd.grad(-7 * loss, (a, b), retain_graph=True)
    last = torch.autograd.grad(0.3 * loss, (a, b))
    for x, *again in zip(first, second, last, strict=True):
        assert all(torch.equal(x, y) for y in again)
    torch.testing.assert_close(torch.autograd.grad(-7 * one_process(a, b, *rest), (a, b)), other, rtol=0, atol=0)


def test_the_gradient_of_the_loss_is_not_rounded_to_the_rows_dtype():
    """0.3 in bf16 is 0.30078, an error that all rows would share."""
    a, b, scale, bias, weight = in_bf16()
    loss = one_process(a, b, scale, bias, weight)
    got = torch.autograd.grad(0.3 * loss, (a, b))
    wide = [x.detach().double().requires_grad_() for x in (a, b)]
    exact = torch.autograd.grad(0.3 * plain(*wide, scale.double(), bias.double(), weight.double()), wide)
    for x, y in zip(got, exact, strict=True):
        assert abs(float((x.double() * y).sum() / (y * y).sum()) - 1) < 3e-4


def test_gradients_of_fp16_rows_are_enlarged_before_they_are_rounded():
    """Of a mean over many rows they are below what fp16 holds; a scaled loss makes up for that."""
    a, b, scale, bias, weight = draw(40, 16)
    a, b = (x.detach().half().requires_grad_() for x in (a, b))
    weight = weight * 1e-6
    got = torch.autograd.grad(2**15 * one_process(a, b, scale.float(), bias.float(), weight.float()), (a, b))
    wide = [x.detach().double().requires_grad_() for x in (a, b)]
    for x, y in zip(got, torch.autograd.grad(2**15 * plain(*wide, scale, bias, weight), wide), strict=True):
        torch.testing.assert_close(x.double(), y, rtol=2e-3, atol=1e-3 * float(y.abs().max()))


def test_second_derivatives_are_refused():
    """Kept gradients are constants to autograd: what depends on them would be left out without a word."""
    a, b, *rest = draw(5)
    with pytest.raises(NotImplementedError, match="no second derivatives; go backward without create_graph=True"):
        torch.autograd.grad(one_process(a, b, *rest), a, create_graph=True)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_operators_follow_the_rules_of_custom_operators(dtype):
    """Schemas, fake implementations, autograd registration and tracing, as torch.compile relies on them."""
    a_all, b_all = (torch.randn(7, 5, dtype=dtype) for _ in range(2))
    a, b, scale, bias = a_all[2:5].clone(), b_all[2:5].clone(), torch.tensor(4.0), torch.tensor(-1.0)
    ops = torch.ops.scl_kernels
    torch.library.opcheck(ops.sigmoid_statistics.default, (a, b_all, scale, bias, 2, "torch"))
    given = (torch.tensor(1.5), a, b, a_all, b_all, scale, bias, torch.rand(7), 2, "torch")
    torch.library.opcheck(ops.sigmoid_gradients.default, given)


def test_checkpointing_and_repeating_give_the_same_bits():
    given = draw(70, 9)
    kept, again = (torch.autograd.grad(one_process(*given), given[:4]) for _ in range(2))
    inside = torch.utils.checkpoint.checkpoint(one_process, *given, use_reentrant=False)
    for other in (again, torch.autograd.grad(inside, given[:4])):
        assert all(torch.equal(*pair) for pair in zip(kept, other, strict=True))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"a": torch.zeros(3, **DOUBLE)}, r"problem.a has shape \(3,\)"),
        ({"a": None}, r"problem.a is of type NoneType"),
        ({"b": torch.zeros(2, 5, **DOUBLE)}, r"problem.b has shape \(2, 5\)"),
        ({"b_all": torch.zeros(4, 5)}, r"problem.b_all has dtype torch.float32"),
        ({"offset": 2}, r"problem.offset is 2; expected 0 to 1, so that 3 local rows lie within 4"),
        ({"scale": torch.tensor(0.0)}, r"problem.scale is 0.0; expected a finite number greater than 0"),
        ({"scale": torch.ones(1)}, r"problem.scale has shape \(1,\)"),
        ({"bias": torch.tensor(float("nan"))}, r"problem.bias is nan; expected a finite number$"),
        ({"weight_all": torch.zeros(3)}, r"problem.weight_all has shape \(3,\)"),
        ({"weight_all": torch.tensor([1.0, 1, -2, 1])}, r"problem.weight_all holds -2.0; expected .* at least 0"),
    ],
)
def test_bad_input_is_named(change, message):
    a, b, scale, bias, weight = (x.detach() for x in draw(4))
    problem = SigmoidProblem(a[:3], b[:3], a, b, scale, bias, 1, weight)
    with pytest.raises(ValueError, match=message):
        sigmoid_loss(problem._replace(**change))


def test_local_rows_that_are_not_among_the_gathered_are_found_under_the_debug_switch(monkeypatch):
    a, b, scale, bias, weight = (x.detach() for x in draw(4))
    problem = SigmoidProblem(a[:3], b[:3], a, b, scale, bias, 1, weight)
    sigmoid_loss(problem)
    monkeypatch.setenv("SCL_KERNELS_DEBUG", "1")
    with pytest.raises(ValueError, match=r"problem.a differs from problem.a_all\[1:4\]"):
        sigmoid_loss(problem)
