"""Initial weights, a pure function of (seed, parameter name): the same on every rank and for every ZeRO stage.

A module whose weights start in a way of its own says so in a method `initial_value`; all others are normal with
`model.init_std`, their biases 0 (docs/method.md §2).
"""

import hashlib
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import torch
from torch import Tensor, nn


@dataclass(frozen=True)
class Draw:
    """The random numbers of one parameter."""

    seed: int
    name: str
    """Of the parameter in the whole model."""
    std: float
    """`model.init_std`."""

    def normal(self, shape: torch.Size, std: float | None = None) -> Tensor:
        """Return normal values; their deviation is `model.init_std` unless given."""
        return torch.randn(shape, generator=self._generator()) * (self.std if std is None else std)

    def uniform(self, shape: torch.Size, bound: float) -> Tensor:
        """Return values between -bound and bound."""
        return (torch.rand(shape, generator=self._generator()) * 2 - 1) * bound

    def _generator(self) -> torch.Generator:
        digest = hashlib.blake2b(f"{self.seed}/{self.name}".encode(), digest_size=8).digest()
        return torch.Generator().manual_seed(int.from_bytes(digest, "big") >> 1)


@runtime_checkable
class Initialized(Protocol):
    """A module that brings the initial values of the parameters inside it."""

    def initial_value(self, name: str, shape: torch.Size, draw: Draw) -> Tensor:
        """Return the values of the parameter that is called `name` inside this module.

        Its own parameters must not be looked at: under ZeRO-3 they are partitioned, and `shape` is the full one.
        """
        ...


def initial_value(model: nn.Module, name: str, shape: torch.Size, seed: int, std: float) -> Tensor:
    """Return the initial values of a parameter, fp32: those of the innermost module around it that brings some.

    Args:
        model: The whole model.
        name: Of one of its parameters, as `named_parameters` has it.
        shape: Of the full parameter.
        seed: Keys the draw, with the name.
        std: `model.init_std`.
    """
    path, draw = name.split("."), Draw(seed, name, std)
    for depth in range(len(path) - 1, -1, -1):
        module = model.get_submodule(".".join(path[:depth]))
        if isinstance(module, Initialized):
            return module.initial_value(".".join(path[depth:]), shape, draw)
    return default_value(name, shape, draw)


def default_value(name: str, shape: torch.Size, draw: Draw) -> Tensor:
    """Return zeros for a bias, else normal values."""
    return torch.zeros(shape) if name.endswith("bias") else draw.normal(shape)


def norm_value(name: str, shape: torch.Size) -> Tensor:
    """Return what a norm starts from: weight 1, bias 0."""
    return torch.zeros(shape) if name.endswith("bias") else torch.ones(shape)
