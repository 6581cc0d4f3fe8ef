"""Blocks with two flat tensors each, so that ZeRO hooks into, gathers and reduces few things, each of them large.

ZeRO-3 runs Python before and after every module and for every parameter. The base model has 453 modules and 560
parameters, of which it computes with a handful at a time: at full depth and width 64 a step took four times a plain one
on the host. Here each block (a transformer layer; a head, a projection or an embedding, which are in no list of layers)
is one leaf module for DeepSpeed, and its weights lie one after the other in two parameters, one that decays and one
that does not. While the block's forward runs, the modules inside have views of these where their own parameters were,
so that the model's code reads the same. A table of a whole vocabulary remains a parameter of its own.

Nothing else knows: initial values, exports and conversions speak of weights by their names in `SCLModel`; a
`FlatLayout` leads from the one to the other, and is written into every checkpoint.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any

import deepspeed
import torch
from deepspeed.utils import set_z3_leaf_module, z3_leaf_module
from torch import Tensor, nn
from torch.autograd.graph import saved_tensors_hooks

from sclds.model.blocks import LARGEST_PIECE, blocks_of
from sclds.model.groups import parameter_group
from sclds.train.optimizer import DECAYED, NOT_DECAYED, decays

FlatLayout = dict[str, dict[str, list[int]]]
"""By the name of a flat tensor the weights in it, in their order: name in `SCLModel` and shape. As JSON has it."""
_LAYOUT = "sclds_flat_layout"


def flatten_blocks(model: nn.Module) -> None:
    """Replace the parameters inside every block by two flat ones of the block, on the meta device and yet unfilled.

    Embeddings, which have no modules inside, are no leaf modules: DeepSpeed (0.19.8) reduces a leaf module's gradients
    when that of its input is there, and where no input has one before backward enters the module, so that zeros would
    be reduced.

    Args:
        model: On the meta device.
    """
    layout: FlatLayout = {}
    blocks = blocks_of(model)
    for name, block in blocks:
        layout |= _flatten(model, name, block)
        if next(block.children(), None) is not None:
            set_z3_leaf_module(block, True)
    inside = {part for _, block in blocks for part in block.modules() if part is not block}
    for module in model.modules():
        if module not in inside:
            _name_parameters_quickly(module)
    setattr(model, _LAYOUT, layout)


def layout_of(model: nn.Module) -> FlatLayout:
    """Return where the weights of a model lie; nothing where each is a parameter of its own."""
    layout: FlatLayout = getattr(model, _LAYOUT, {})
    return layout


def full_shape(parameter: nn.Parameter) -> torch.Size:
    """Return the shape of a parameter, also of one that ZeRO-3 has partitioned."""
    return torch.Size(getattr(parameter, "ds_shape", parameter.shape))


def weight_shapes(model: nn.Module) -> dict[str, torch.Size]:
    """Return the shape of every weight by its name in `SCLModel`, wherever it lies."""
    layout, shapes = layout_of(model), {}
    for name, parameter in model.named_parameters():
        for weight, shape in layout.get(name, {name: full_shape(parameter)}).items():
            shapes[weight] = torch.Size(shape)
    return shapes


def materialize(model: nn.Module, settings: dict[str, Any], sharded: bool) -> None:
    """Give every parameter of a model on the meta device memory, unfilled; with `sharded` this process's part alone."""
    if not sharded:
        for module, name, parameter in _parameters_of(model):
            module.register_parameter(name, nn.Parameter(torch.empty_like(parameter, device="cpu")))
        return
    with deepspeed.zero.Init(config_dict_or_path=settings):
        for module, name, parameter in _parameters_of(model):
            # partitioned when the constructor of the module around it ends
            module.register_parameter(name, _Holder(nn.Parameter(torch.empty(parameter.shape))).held)


class _Holder(nn.Module):
    """A module around one parameter."""

    def __init__(self, parameter: nn.Parameter):
        super().__init__()
        self.held = parameter


def _parameters_of(model: nn.Module) -> list[tuple[nn.Module, str, nn.Parameter]]:
    return [(module, name, p) for module in model.modules() for name, p in module.named_parameters(recurse=False)]


def _flatten(model: nn.Module, block_name: str, block: nn.Module) -> FlatLayout:
    """Flatten one block; return its part of the layout."""
    layout: FlatLayout = {}
    places: dict[str, list[_Place]] = {}
    group, apart = None, []
    for inner_name, inner in block.named_modules():
        for name, parameter in list(inner.named_parameters(recurse=False)):
            weight = ".".join(part for part in (block_name, inner_name, name) if part)
            group = group or parameter_group(model, weight)
            assert parameter_group(model, weight) == group, f"{block_name} has weights of two parameter groups"
            if parameter.numel() > LARGEST_PIECE:
                apart.append((inner, name))
                continue
            flat = DECAYED if decays(weight, parameter.dim()) else NOT_DECAYED
            layout.setdefault(f"{block_name}.{flat}", {})[weight] = list(parameter.shape)
            places.setdefault(flat, []).append(_Place(inner, name, parameter.detach()))
            del inner._parameters[name]
            places[flat][-1].clear()
    for flat, inside in places.items():
        size = sum(place.outline.numel() for place in inside)
        block.register_parameter(flat, nn.Parameter(torch.empty(size, device="meta")))
    block.forward = _FlatForward(block, places, apart)
    return layout


def _name_parameters_quickly(module: nn.Module) -> None:
    """Have `named_parameters` look only where there are any.

    DeepSpeed asks every module that it hooks into twelve times a step, and the model, whose 453 modules hold them in
    50, three times.
    """
    owners = [(name, inside) for name, inside in module.named_modules() if inside._parameters]
    vars(module)["named_parameters"] = partial(_parameters_in, module, owners)


def _parameters_in(
    module: nn.Module,
    owners: list[tuple[str, nn.Module]],
    prefix: str = "",
    recurse: bool = True,
    remove_duplicate: bool = True,
) -> Iterator[tuple[str, nn.Parameter]]:
    """Stand in for `named_parameters` of a module in which no two share a parameter."""
    for name, owner in owners:
        if recurse or owner is module:
            before = "".join(f"{part}." for part in (prefix, name) if part)
            # DeepSpeed's own dictionary runs Python for every value that is taken out of it by its methods
            yield from ((before + key, value) for key, value in dict.items(owner._parameters) if value is not None)


@dataclass(frozen=True)
class _Place:
    """Where a module inside a block looks for one of its weights."""

    module: nn.Module
    name: str
    outline: Tensor
    """On the meta device: its shape is there to be read between forwards, and computing with it fails."""

    def show(self, piece: Tensor) -> None:
        """Put a flat tensor's piece there."""
        flat = self.outline.dim() == 1
        self.module.__dict__[self.name] = piece if flat else piece.view(self.outline.shape)

    def clear(self) -> None:
        """Put the outline there."""
        self.module.__dict__[self.name] = self.outline


class _FlatForward:
    """The forward of a block, with views of its flat tensors where the modules inside had their parameters.

    Args:
        block: Whose forward this becomes.
        places: By the name of a flat tensor where its pieces go.
        apart: Modules and names of the parameters that remain themselves.
    """

    def __init__(self, block: nn.Module, places: dict[str, list[_Place]], apart: list[tuple[nn.Module, str]]):
        self._block, self._forward, self._apart = block, block.forward, apart
        self._flats = [(name, [p.outline.numel() for p in inside], inside) for name, inside in places.items()]

    def __call__(self, *inputs: Any) -> Any:
        """Return what the block's own forward returns."""
        flats: list[Any] = [dict.__getitem__(self._block._parameters, name) for name, *_ in self._flats]
        for flat, (_, sizes, inside) in zip(flats, self._flats, strict=True):
            # one split: its backward writes all gradients side by side, once
            for place, piece in zip(inside, flat.split(sizes), strict=True):
                place.show(piece)
        try:
            if torch.is_grad_enabled() and any(hasattr(flat, "ds_id") for flat in flats):
                fed = any(isinstance(each, Tensor) and each.requires_grad for each in inputs)
                assert fed or not z3_leaf_module(self._block), (
                    "ZeRO-3 reduces zeros for a leaf module whose inputs have no gradient"
                )
                with _without_views_of([*flats, *(getattr(owner, name) for owner, name in self._apart)]):
                    return self._forward(*inputs)
            return self._forward(*inputs)
        finally:
            for *_, inside in self._flats:
                for place in inside:
                    place.clear()


def _without_views_of(flats: list[Tensor]) -> saved_tensors_hooks:
    """Save nothing for backward that would hold gathered parameters: views of them are made again out of what is there.

    ZeRO-3 releases a parameter after forward by giving it other memory, and gathers it again before backward. Autograd
    saves views of it (a matrix product its weight, transposed), which would keep all gathered parameters of the model
    until backward has passed. DeepSpeed's `memory_efficient_linear` answers the same for `F.linear` alone, in Python
    of its own for every product.
    """
    ranges = [(flat, flat.data_ptr(), flat.data_ptr() + flat.numel() * flat.element_size()) for flat in flats]

    def pack(tensor: Tensor) -> Any:
        address = tensor.data_ptr()
        for flat, start, end in ranges:
            if start <= address < end and tensor.dtype == flat.dtype:
                return flat, (address - start) // flat.element_size(), tensor.shape, tensor.stride()
        return tensor

    def unpack(saved: Any) -> Tensor:
        if isinstance(saved, Tensor):
            return saved
        flat, offset, shape, stride = saved
        now = flat.detach()
        return now.as_strided(shape, stride, now.storage_offset() + offset)

    return saved_tensors_hooks(pack, unpack)
