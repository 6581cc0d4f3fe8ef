"""The parameter group of every module, declared where the module is defined: which learning rate it gets."""

from typing import Literal

from torch import nn

ParameterGroup = Literal["encoders", "fusion", "heads"]
"""`encoders` learn at `optimizer.learning_rate`, the others at multiples of it."""


def parameter_group(model: nn.Module, name: str) -> ParameterGroup:
    """Return the group of a parameter: the `parameter_group` of the innermost module around it that declares one.

    Args:
        model: The whole model.
        name: Of one of its parameters, as `named_parameters` has it.

    Raises:
        ValueError: No module around the parameter declares a group.
    """
    path = name.split(".")
    for depth in range(len(path) - 1, -1, -1):
        found: ParameterGroup | None = getattr(model.get_submodule(".".join(path[:depth])), "parameter_group", None)
        if found is not None:
            return found
    raise ValueError(f"no module around {name} declares a parameter_group: give its class one")
