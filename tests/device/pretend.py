"""A device written in Python, for machines without a GPU: what would fail on CUDA fails here, with real numbers.

A tensor on it holds a CPU tensor inside and computes there. An operator that gets tensors of both sides raises, as
CUDA's do; only tensors without dimensions may come from the CPU. docs/pretend_device.md: what it proves and what not.
"""

import contextlib
import threading
import traceback
from unittest import mock

import torch
from torch.utils import _pytree as pytree
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.backend_registration import _setup_privateuseone_for_python_backend

_setup_privateuseone_for_python_backend("pretend")
DEVICE = torch.device("pretend:0")
# autocast asks for it when activations are computed again
torch.get_device_module("pretend").get_amp_supported_dtype = lambda: [torch.bfloat16]
aten = torch.ops.aten
_COPIES = (aten._to_copy.default, aten.copy_.default, aten._pin_memory.default)


_WAITS = (
    *(aten._local_scalar_dense.default, aten.nonzero.default, aten.masked_select.default, aten.equal.default),
    *(aten.is_nonzero.default, aten.repeat_interleave.Tensor, aten._unique2.default, aten.unique_consecutive.default),
)
"""Operators whose result, or its shape, the host needs at once."""
_watched: list[list[str]] = []
_copied: list[list[str]] = []


def _makes_the_host_wait(function, args, kwargs, leaves):
    """Return whether the host of a CUDA device would wait in an operator."""
    on_device, device = [x for x in leaves if isinstance(x, PretendTensor)], kwargs.get("device")
    if function is aten.repeat_interleave.Tensor and kwargs.get("output_size") is not None:
        return False
    if function in _WAITS and on_device:
        return True
    if function in (aten.index.Tensor, aten.index_put_.default, aten.index_put.default, aten._index_put_impl_.default):
        return any(x is not None and x.dtype in (torch.bool, torch.uint8) for x in args[1])
    if function is aten._to_copy.default and device is not None:
        return bool(on_device) and torch.device(device).type == "cpu"
    return function is aten.copy_.default and bool(on_device) and not isinstance(leaves[0], PretendTensor)


def _note(function, notes=_watched):
    for reads in notes:
        frames = [f for f in traceback.extract_stack() if "/sclds/" in f.filename or "/scl_kernels/" in f.filename]
        place = f"{frames[-1].filename.rpartition('/sclds/')[2]}:{frames[-1].lineno}" if frames else "outside"
        thread = threading.current_thread()
        own = "" if thread is threading.main_thread() else f" in the thread {thread.name}"
        reads.append(f"{place} {function}{own}")


@contextlib.contextmanager
def host_reads():
    """Collect, inside the block, every place where the host of a CUDA device would wait for it."""
    found: list[str] = []
    _watched.append(found)
    try:
        yield found
    finally:
        _watched.remove(found)


@contextlib.contextmanager
def host_copies():
    """Collect, inside the block, every place where memory of the host is copied to the device."""
    found: list[str] = []
    _copied.append(found)
    try:
        yield found
    finally:
        _copied.remove(found)


class PretendTensor(torch.Tensor):
    """A tensor on the pretend device."""

    @staticmethod
    def __new__(cls, inside, requires_grad=False):
        return torch.Tensor._make_wrapper_subclass(
            cls,
            inside.shape,
            strides=inside.stride(),
            storage_offset=inside.storage_offset(),
            dtype=inside.dtype,
            device=DEVICE,
            requires_grad=requires_grad,
        )

    def __init__(self, inside, requires_grad=False):
        self.inside = inside

    __torch_function__ = torch._C._disabled_torch_function_impl

    def tolist(self):
        _note("tolist")
        return self.inside.tolist()

    def __reduce_ex__(self, protocol):
        """Be saved as a tensor of CUDA is: its memory is copied to the host."""
        _note("saved")
        return self.inside.__reduce_ex__(protocol)

    def __repr__(self):
        return f"PretendTensor({self.inside!r})"

    @classmethod
    def __torch_dispatch__(cls, function, types, args=(), kwargs=None):
        return computed(function, args, kwargs or {})


def computed(function, args, kwargs):
    """Run an operator on what is inside, and wrap what it returns unless it goes to the CPU."""
    device = kwargs.get("device")
    leaves = [x for x in pytree.tree_leaves((args, kwargs)) if isinstance(x, torch.Tensor)]
    if _makes_the_host_wait(function, args, kwargs, leaves):
        _note(function)
    here = device is None or torch.device(device).type == DEVICE.type
    if function in _COPIES and here and leaves and not isinstance(leaves[-1], PretendTensor):
        _note(function, _copied)
    if function not in _COPIES:
        strangers = [x for x in leaves if not isinstance(x, PretendTensor) and x.dim() > 0]
        if strangers and (len(strangers) < len(leaves)):
            shapes = [tuple(x.shape) for x in strangers]
            raise RuntimeError(
                f"{function}: expected all tensors on {DEVICE}, got tensors of the CPU of shapes {shapes}"
            )
    args, kwargs = pytree.tree_map_only(PretendTensor, lambda x: x.inside, (args, kwargs))
    if device is not None:
        kwargs = kwargs | {"device": torch.device("cpu")}
    out = function(*args, **kwargs)
    if function is aten.copy_.default:
        return leaves[0]
    return pytree.tree_map_only(torch.Tensor, PretendTensor, out) if here else out


class _Factories(TorchDispatchMode):
    """Catches what makes tensors on the device out of nothing, and copies to it."""

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        device = kwargs.get("device")
        if device is not None and torch.device(device).type == DEVICE.type:
            return computed(function, args, kwargs)
        return function(*args, **kwargs)


@contextlib.contextmanager
def pretend_device():
    """Let the device compute inside the block; gives it."""
    without_graph = mock.patch.multiple(torch.inference_mode, __enter__=_enter_no_grad, __exit__=_exit_no_grad)
    # `torch.tensor` fills memory by itself, without a dispatch
    with _Factories(), mock.patch.object(torch, "tensor", _tensor), without_graph:
        yield DEVICE


def _enter_no_grad(inference):
    """Compute without a graph: tensors of Python have no views in inference mode, which is the same to the numbers."""
    inference.stands_in = torch.no_grad()
    inference.stands_in.__enter__()


def _exit_no_grad(inference, *fault):
    inference.stands_in.__exit__(*fault)


_torch_tensor = torch.tensor


def _tensor(data, *, dtype=None, device=None, requires_grad=False):
    made = _torch_tensor(data, dtype=dtype, requires_grad=requires_grad)
    if device is not None and torch.device(device).type == DEVICE.type:
        _note("tensor", _copied)
    return made if device is None or torch.device(device).type != DEVICE.type else PretendTensor(made)


def moved(module):
    """Move a module's parameters and buffers to the device, in place."""
    for part in module.modules():
        for name, parameter in part._parameters.items():
            if parameter is not None:
                part._parameters[name] = torch.nn.Parameter(PretendTensor(parameter.detach()))
        for name, buffer in part._buffers.items():
            part._buffers[name] = None if buffer is None else PretendTensor(buffer)
    return module
