"""Flat tensors taken apart by the plain definition of their layout."""

import math
from collections.abc import Mapping

from torch import Tensor

from sclds.train.flat_blocks import FlatLayout


def split_flat(tensors: Mapping[str, Tensor], layout: FlatLayout) -> dict[str, Tensor]:
    """Return tensors by the names of weights (as views), of some by the names of parameters."""
    weights: dict[str, Tensor] = {}
    for name, tensor in tensors.items():
        inside = layout.get(name)
        if inside is None:
            weights[name] = tensor
            continue
        pieces = tensor.flatten().split([math.prod(shape) for shape in inside.values()])
        weights |= {weight: piece.view(inside[weight]) for weight, piece in zip(inside, pieces, strict=True)}
    return weights
