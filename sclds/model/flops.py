"""Forward FLOPs of matrix products, of which every module counts its own. A product of (m, k) by (k, n) is 2·m·k·n.

Norms, softmax and other element-wise work are left out, as usual.
"""


def linear(rows: int, inputs: int, outputs: int) -> int:
    """Return the FLOPs of a linear map of `rows` rows."""
    return 2 * rows * inputs * outputs


def attention(queries: int, keys: int, width: int) -> int:
    """Return the FLOPs of QKᵀ and of the weighted sum of values."""
    return 4 * queries * keys * width


def mlp(rows: int, width: int, inner: int) -> int:
    """Return the FLOPs of `sclds.model.layers.MLP`."""
    return linear(rows, width, inner) + linear(rows, inner, width)
