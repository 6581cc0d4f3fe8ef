"""What `masked_gather` takes, written down once for operators, reference and tests, and the checks on it."""

from typing import NamedTuple

import torch
from torch import Tensor

from scl_kernels.validation import check_matrix, check_range, check_tensor, readable

CLASS_ROW = -1
"""Value of `source` that stands for the class embedding."""
MASK_ROW = -2
"""Value of `source` that stands for the mask token."""


class Inputs(NamedTuple):
    """The arguments of `masked_gather`, in its order and that of the operators."""

    rows: Tensor
    """(R, D) patch rows or a word-embedding table; R may be 0."""
    position: Tensor
    """(P, D) position embeddings."""
    extra: Tensor
    """(E, D) temporal or token-type embeddings; E may be 0."""
    class_row: Tensor | None
    """(D,) the class embedding, or None where `source` never asks for it."""
    mask_row: Tensor | None
    """(D,) the mask token, or None where `source` never asks for it."""
    weight: Tensor
    """(D,) LayerNorm's weight."""
    bias: Tensor
    """(D,) LayerNorm's bias."""
    source: Tensor
    """(N,) int64; a row of `rows`, or CLASS_ROW, or MASK_ROW; N may be 0."""
    position_id: Tensor
    """(N,) int64 rows of `position`."""
    extra_id: Tensor
    """(N,) int64 rows of `extra`; -1 where nothing is added."""
    eps: float
    """LayerNorm's epsilon."""


SCHEMA = (
    "Tensor rows, Tensor position, Tensor extra, Tensor? class_row, Tensor? mask_row, Tensor weight, Tensor bias, "
    "Tensor source, Tensor position_id, Tensor extra_id, float eps"
)
"""The same for the operators."""


def check_inputs(inputs: Inputs) -> None:
    """Refuse arguments that do not fit together.

    Raises:
        ValueError: One has the wrong shape, dtype, device or value; the message names it.
    """
    rows, source = inputs.rows, inputs.source
    (_, width), device = check_matrix("rows", rows), rows.device
    for name in ("position", "extra"):
        check_tensor(name, getattr(inputs, name), shape=(None, width), device=device)
    for name in ("class_row", "mask_row", "weight", "bias"):
        vector = getattr(inputs, name)
        if vector is not None or name in ("weight", "bias"):
            check_tensor(name, vector, shape=(width,), device=device)
    check_tensor("source", source, shape=(None,), dtypes=(torch.int64,), device=device)
    for name in ("position_id", "extra_id"):
        check_tensor(name, getattr(inputs, name), shape=tuple(source.shape), dtypes=(torch.int64,), device=device)
    if not inputs.eps > 0:
        raise ValueError(f"eps is {inputs.eps}; expected a number greater than 0")
    check_range("source", source, MASK_ROW, rows.shape[0])
    check_range("position_id", inputs.position_id, 0, inputs.position.shape[0])
    check_range("extra_id", inputs.extra_id, -1, inputs.extra.shape[0])
    for name, value in (("class_row", CLASS_ROW), ("mask_row", MASK_ROW)):
        if getattr(inputs, name) is None and readable(source) and bool((source == value).any()):
            raise ValueError(f"source asks for {name} ({value}) and {name} is None; pass it")
