"""What dropout by counter draws: the same integers in PyTorch and in plain Python, and as good as independent."""

import math

import pytest
import torch

from scl_kernels.bias_activation.reference import bias_activation_reference
from scl_kernels.dropout_norm.draws import (
    CHUNK_ELEMENTS,
    GOLDEN_32,
    GOLDEN_64,
    MIX_32,
    MIX_64,
    counter_dropout,
    kept,
)
from scl_kernels.dropout_norm.reference import dropout_add_norm_reference

KEYS = [0, 1, -1, 2**63 - 1, -(2**63), 0x1234567812345678, -987654321]


def plain_draw(key, site, column):
    """Return the unsigned 32-bit word of an element, by Python's whole numbers."""
    z = (key + site * GOLDEN_64) % 2**64
    z = (z ^ (z >> 30)) * MIX_64[0] % 2**64
    z = (z ^ (z >> 27)) * MIX_64[1] % 2**64
    z ^= z >> 31
    x = (z % 2**32 + column * GOLDEN_32) % 2**32
    x = (x ^ (x >> 16)) * MIX_32[0] % 2**32 ^ z >> 32
    return (x ^ (x >> 13)) * MIX_32[1] % 2**32


@pytest.mark.parametrize("dropout", [2**-32, 0.1, 0.5, 0.9, 1 - 2**-32])
@pytest.mark.parametrize("site", [0, 1, 7, 2**17 + 5])
def test_draws_are_those_of_the_definition(site, dropout):
    found = kept(torch.tensor(KEYS), site, 37, dropout)
    # draws are compared as signed words
    wanted = [
        [(plain_draw(key, site, column) + 2**31) % 2**32 >= round(dropout * 2**32) for column in range(37)]
        for key in KEYS
    ]
    assert found.tolist() == wanted


def test_chunks_draw_what_the_whole_draws():
    keys, width = torch.arange(3 * CHUNK_ELEMENTS // 1000), 1000
    whole = kept(keys, 2, width, 0.3)
    for row in (0, CHUNK_ELEMENTS // width - 1, CHUNK_ELEMENTS // width, len(keys) - 1):
        assert torch.equal(whole[row], kept(keys[row : row + 1], 2, width, 0.3)[0])


@pytest.mark.parametrize("dropout", [0.1, 0.5])
def test_draws_of_neighbors_are_as_good_as_independent(dropout):
    """Of rows, columns and sites one apart, and of the same element under keys that differ in one bit."""
    rows, width = 4096, 256
    keys = torch.arange(rows) + 2**40
    first = kept(keys, 3, width, dropout).double()
    others = {
        "rows": first[1:],
        "columns": first[:, 1:],
        "sites": kept(keys, 4, width, dropout).double(),
        **{f"bit {bit}": kept(keys ^ (1 << bit), 3, width, dropout).double() for bit in (0, 20, 31, 32, 50, 62)},
    }
    variance, n = dropout * (1 - dropout), rows * width
    assert float((first - (1 - dropout)).mean().abs()) < 4 * math.sqrt(variance / n)
    for name, other in others.items():
        same = first[: len(other), : other.shape[1]]
        covariance = float(((same - (1 - dropout)) * (other - (1 - dropout))).mean())
        assert abs(covariance) < 5 * variance / math.sqrt(n), name
    for axis, size in ((0, rows), (1, width)):
        means = (first.mean(axis) - (1 - dropout)).square().mean() / (variance / size)
        assert 0.8 < float(means) < 1.2, f"means over axis {axis} spread as those of independent draws"


def test_what_is_kept_is_scaled_and_gradients_take_the_same_way():
    x = torch.randn(5, 8, dtype=torch.float64, requires_grad=True)
    keys = torch.arange(5)
    out = counter_dropout(x, keys, 1, 0.4)
    mask = kept(keys, 1, 8, 0.4).double()
    assert torch.equal(out.detach(), x.detach() * mask * (1 / 0.6))
    out.sum().backward()
    assert torch.equal(x.grad, mask * (1 / 0.6))
    assert counter_dropout(x, None, 1, 0.0) is x
    with pytest.raises(ValueError, match="needs the rows' keys"):
        counter_dropout(x, None, 1, 0.1)


def test_the_reference_drops_before_it_adds():
    generator = torch.Generator().manual_seed(3)
    branch, residual = (torch.randn(5, 7, generator=generator, dtype=torch.float64) for _ in range(2))
    ones, zeros, keys = torch.ones(7).double(), torch.zeros(7).double(), torch.arange(5)
    out, total = dropout_add_norm_reference(branch, residual, ones, zeros, keys, 4, 0.5, 1e-5)
    dropped = torch.where(kept(keys, 4, 7, 0.5), 2 * branch, 0)
    assert not torch.equal(dropped, 2 * branch)
    torch.testing.assert_close(total, dropped + residual, rtol=1e-12, atol=1e-12)
    centered = total - total.mean(1, keepdim=True)
    wanted = centered / (centered.square().mean(1, keepdim=True) + 1e-5).sqrt()
    torch.testing.assert_close(out, wanted, rtol=1e-12, atol=1e-12)


def test_the_activation_of_clip_is_its_formula():
    values = [-30.0, -2.5, -1e-3, 0.0, 0.7, 4.0, 30.0]
    bias = torch.tensor([0.25], dtype=torch.float64)
    found = bias_activation_reference(torch.tensor(values, dtype=torch.float64)[:, None], bias, "quick_gelu")
    wanted = [(x + 0.25) / (1 + math.exp(-1.702 * (x + 0.25))) for x in values]
    torch.testing.assert_close(found[:, 0], torch.tensor(wanted, dtype=torch.float64), rtol=1e-12, atol=1e-15)
