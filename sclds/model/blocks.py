"""The blocks of a model: what the engine treats as one module, and lays together in two tensors.

A block is a transformer layer, or a head, a projection or an embedding, which are in no list of layers.
"""

from torch import nn

LARGEST_PIECE = 16_000_000
"""Values of a weight above which it stays by itself: its gradient would be copied into that of the flat tensor, which
takes memory, and longer than the host's hooks for one parameter. Only tables of a vocabulary are so large."""


def weight_decays(name: str, dimensions: int) -> bool:
    """Return whether weight decay applies to a weight: to matrices, not to biases, norms and the temperature."""
    return dimensions > 1 and not name.endswith("bias")


def blocks_of(model: nn.Module) -> list[tuple[str, nn.Module]]:
    """Return the largest modules with parameters and without a list of layers in them, by name, in the model's order.

    A module with nothing to lay together (a linear map alone, whose weight decays and whose bias does not) is none.
    """
    found, waiting = [], [("", model)]
    while waiting:
        name, module = waiting.pop()
        if any(isinstance(inside, nn.ModuleList) for inside in module.modules()):
            children = [(f"{name}.{child}".lstrip("."), inside) for child, inside in module.named_children()]
            waiting += reversed(children)
        elif len(list(module.parameters())) > len({weight_decays(n, p.dim()) for n, p in module.named_parameters()}):
            found.append((name, module))
    return found
