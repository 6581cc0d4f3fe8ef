"""A whole forward and backward pass of the base model under every implementation that is registered and present here.

`ours` is the step as a run takes it, `recomputed` the same with activation checkpointing, `without_NAME` with that
operation's reference instead of its kernel, `references` with all of them, `norms_NAME` with another library's
LayerNorm. Rows are milliseconds and bytes at the peak; the FLOPs of the matrix products stand in the configuration.
"""

import copy
import json
import statistics
import time
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any, get_args

import harness
import torch
import triton
from packed_step import BASE, SMALL, build_model, on_backend, totals
from replaced import uses, without
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from scl_kernels.norms import Norms, norms_problem, set_norms
from scl_kernels.registry import Operation, operations
from sclds.machine.attention import AttentionBackends, CallSite, available
from sclds.machine.implementations import this_machine

SAMPLES = 64
REPEATS = 10


def with_norms(name: Norms, total: Callable[[Any], Tensor], model: nn.Module) -> Tensor:
    """Return the model's loss with one library's LayerNorm."""
    set_norms(name)
    try:
        return on_backend("auto", total, model)
    finally:
        set_norms("torch")


def recomputed(model: Any) -> Any:
    """Return a copy that shares the parameters and keeps no activations within blocks."""
    copied = copy.deepcopy(model, {id(p): p for p in model.parameters()})
    for part in copied.modules():
        if hasattr(part, "recompute"):
            part.recompute = True
    return copied


def left_out(operation: Operation, total: Callable[[Any], Tensor], model: nn.Module) -> Tensor:
    """Return the model's loss with an operation's reference instead of its kernel."""
    with without(operation):
        return on_backend("auto", total, model)


def choices(total: Callable[[Any], Tensor], model: Any) -> dict[str, Callable[[], Tensor]]:
    """Return the loss under every choice, by provider; an operation that registers itself appears here by itself."""
    others = [name for name in get_args(Norms) if name != "torch" and norms_problem(name) is None]
    return {
        "ours": partial(on_backend, "auto", total, model),
        "recomputed": partial(on_backend, "auto", total, recomputed(model)),
        "references": partial(on_backend, "torch", total, model),
        **{f"without_{o.name}": partial(left_out, o, total, model) for o in operations() if uses(o)},
        **{f"norms_{name}": partial(with_norms, name, total, model) for name in others},
    }


def flops_of(loss_of: Callable[[], Tensor]) -> int:
    """Return the FLOPs of the matrix products of forward and backward, counted while they run once."""
    with FlopCounterMode(display=False) as counter:
        loss_of().backward()
    return counter.get_total_flops()


def rows(repeats: int = REPEATS) -> Iterator[harness.Measurement]:
    """Yield the rows of one provider after another; one that runs out of memory has none."""
    harness.refuse_interpreter()
    gpu = harness.device() == "cuda"
    sizes, dtype = (BASE | {"batch": SAMPLES}, torch.bfloat16) if gpu else (SMALL, torch.float32)
    best = available(CallSite("bf16" if gpu else "fp32"), this_machine())[0]
    model = build_model(sizes).to(harness.device(), dtype).train()
    packed = totals(sizes, harness.device(), dtype, AttentionBackends.all(best))["packed"]
    providers = choices(packed, model)
    config = json.dumps(sizes | {"dtype": str(dtype), "attention": best, "flops": flops_of(providers["ours"])})
    versions = f"torch {torch.__version__}, triton {triton.__version__}"
    common = (config, harness.device_name(), versions, harness.commit())
    for name, loss_of in providers.items():
        try:
            seconds, peak = _measured(loss_of, model, repeats)
        except torch.OutOfMemoryError:
            print(f"left out: base_step {name}: out of memory", flush=True)
            torch.cuda.empty_cache()
            continue
        fifths = statistics.quantiles([1e3 * second for second in seconds], n=5)
        times = (1e3 * statistics.median(seconds), fifths[0], fifths[3])
        yield harness.Measurement("base_step", name, "full", "milliseconds", sizes["batch"], *times, *common)
        if peak is not None:
            yield harness.Measurement(
                "base_step", name, "full", "peak_bytes", sizes["batch"], peak, peak, peak, *common
            )


def _measured(loss_of: Callable[[], Tensor], model: nn.Module, repeats: int) -> tuple[list[float], float | None]:
    """Return the seconds of passes after two untimed ones, and the bytes at the peak (GPU only)."""
    gpu, seconds = harness.device() == "cuda", []
    for number in range(2 + repeats):
        model.zero_grad(set_to_none=True)
        if gpu:
            torch.cuda.synchronize()
            torch.cuda.reset_peak_memory_stats()
        begun = time.perf_counter()
        loss_of().backward()
        if gpu:
            torch.cuda.synchronize()
        if number >= 2:
            seconds.append(time.perf_counter() - begun)
    return seconds, float(torch.cuda.max_memory_allocated()) if gpu else None
