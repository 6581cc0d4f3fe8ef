"""Compile every kernel for A100 and H100 without a GPU and hold it against its budget.

Run it with `python -m scl_kernels.check`.
"""

import argparse
import json
import re
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

from scl_kernels import infonce_kernels, infonce_launch, roofline
from scl_kernels import segment_sum as segments
from scl_kernels.backend import interpreting
from scl_kernels.gather_rows import ROWS as GATHER_ROWS
from scl_kernels.gather_rows import forward_kernel as gather_rows_kernel
from scl_kernels.infonce_reference import MINIMUM_NORM
from scl_kernels.masked_gather import BACKWARD_ROWS, FORWARD_ROWS, backward_kernel, forward_kernel
from scl_kernels.sizes import power_of_two

BUDGETS = Path(__file__).with_name("budgets.json")
DTYPES = {"bf16": torch.bfloat16, "fp16": torch.float16, "fp32": torch.float32}
WIDTHS = {"base": 768, "large": 1024}
"""Widths of the packed buffers; the InfoNCE kernels take D as an argument, so one compilation serves all."""
GATHER_RATIO = 2.5
"""The gather must move at least this many times fewer bytes than the eager chain."""
INFONCE_RATIO = 50
"""InfoNCE at N = 65,536 over 64 ranks must need at least this many times less memory."""


class Variant(NamedTuple):
    """One compilation: a kernel with its argument types and constants."""

    name: str
    kernel: Any
    types: dict[str, str]
    constants: dict[str, Any]
    num_warps: int = 4
    num_stages: int = 3
    maxnreg: int | None = None


class Usage(NamedTuple):
    """What a compiled kernel takes of a multiprocessor."""

    registers: int
    shared: int
    spilled: int


def _gather_variants(name: str, size: str, width: int) -> Iterator[Variant]:
    block = power_of_two(width)
    pointer = f"*{name}"
    index = dict.fromkeys(("source", "position_id", "extra_id"), "*i64")
    counts = dict.fromkeys(("count", "row_count", "position_count", "extra_count"), "i32")
    tables = dict.fromkeys(("rows", "position", "extra", "class_row", "mask_row", "weight"), pointer)
    floats = dict.fromkeys(("mean", "inverse_std"), "*fp32")
    for kind, full in (("vision", True), ("text", False)):
        shape = {"width": width, "HAS_CLASS": full, "HAS_MASK": full, "BLOCK_D": block}
        types = {**tables, "bias": pointer, **index, "out": pointer, **floats, **counts, "eps": "fp32"}
        key = f"{name}/{size}"
        yield Variant(
            f"masked_gather_forward/{kind}/{key}",
            forward_kernel,
            types,
            {**shape, "ROWS": FORWARD_ROWS},
        )
        types = {"d_out": pointer, **tables, **index, **floats, "d_x": pointer}
        types |= {"d_weight": "*fp32", "d_bias": "*fp32", **counts}
        yield Variant(
            f"masked_gather_backward/{kind}/{key}",
            backward_kernel,
            types,
            {**shape, "ROWS": BACKWARD_ROWS},
        )
    types = {"rows": pointer, "index": "*i64", "extra": pointer, "extra_id": "*i64", "out": pointer, "read": "*i64"}
    types |= dict.fromkeys(("count", "row_count", "extra_count"), "i32")
    constants = {"width": width, "HAS_EXTRA": True, "ROWS": GATHER_ROWS, "BLOCK_D": block}
    yield Variant(f"gather_rows_forward/{name}/{size}", gather_rows_kernel, types, constants)
    types = {"source": pointer}
    types |= dict.fromkeys(("order", "start", "chunk_start", "segment_of_chunk", "partial_start"), "*i64")
    types |= {"out": pointer, "partial": "*fp32", "segments": "i32"}
    constants = {"width": width, "ROWS": segments.CHUNK_TILE, "CHUNK_ROWS": segments.CHUNK, "BLOCK_D": block}
    full_name = f"segment_sum_chunk/{name}/{size}"
    yield Variant(full_name, segments.chunk_kernel, types, constants, num_warps=segments.CHUNK_WARPS)
    if name == "fp32" and size == "base":
        types = dict.fromkeys(("first", "second", "third"), "*i64") | {"out": "*i32"}
        types |= dict.fromkeys(("count", "first_rows", "second_rows", "third_rows"), "i32")
        yield Variant("joint_destination", segments.joint_destination_kernel, types, {"BLOCK": segments.INDEX_BLOCK})
    types = {"partial": "*fp32", "partial_start": "*i64", "out": pointer, "segments": "i32"}
    constants = {"width": width, "GROUP": segments.COMBINE_GROUP, "ROWS": segments.COMBINE_TILE, "BLOCK_D": block}
    yield Variant(f"segment_sum_combine/{name}/{size}", segments.combine_kernel, types, constants)


def _infonce_variants(name: str, architecture: int) -> Iterator[Variant]:
    dtype, k, launch = DTYPES[name], infonce_kernels, infonce_launch
    base = {"table": "*i64"}
    norms = {"DTYPE": launch.TRITON_DTYPE[dtype], "MINIMUM": MINIMUM_NORM, "BLOCK_K": launch.BLOCK_STREAM}
    constants = {**norms, "SHIFTS": True, "BLOCK_ROWS": launch.PREPARE_ROWS}
    yield Variant(f"infonce_prepare/{name}", k.prepare_kernel, base, constants)
    workspace = {"workspace": "*bf16" if launch.workspace_dtype(dtype) == torch.bfloat16 else "*fp32", "number": "i32"}
    for even in (True, False):
        kind = f"{name}/{'even' if even else 'uneven'}"
        tiles = launch.similarity_tiles(dtype, even, architecture)
        constants = launch.similarity_constants(dtype, tiles, even=even)
        types = {**base, "temperatures": "*fp32"}
        partial = {"partial": "*fp32", "plane": "i32"}
        yield Variant(f"infonce_forward/{kind}", k.forward_kernel, {**types, **partial}, constants, **tiles.options)
        types |= workspace
        yield Variant(f"infonce_d_similarity/{kind}", k.d_similarity_kernel, types, constants, **tiles.options)
        types = {**base, **workspace, "partial": "*fp32"}
        for tiles in dict.fromkeys(launch.gradient_tiles(dtype, even, wide=wide) for wide in (False, True)):
            constants = launch.gradient_constants(dtype, tiles, even=even)
            full_name = f"infonce_gradient/{kind}/{tiles.block_n}"
            yield Variant(full_name, k.gradient_kernel, types, constants, **tiles.options)
    types = {**base, "temperatures": "*fp32", "d_loss": "*fp32", "partial": "*fp32", "d_temperature": "*fp32"}
    constants = {**norms, "BLOCK_ROWS": launch.COMBINE_ROWS}
    yield Variant(f"infonce_backward_combine/{name}", k.backward_combine_kernel, types, constants)
    if name == "fp32":
        types = {**base, "partial": "*fp32", "plane": "i32", "out": "*fp32", "all_rows": "i32"}
        constants = {"BLOCK_ROWS": launch.COMBINE_ROWS}
        yield Variant("infonce_forward_combine/fp32", k.forward_combine_kernel, types, constants, num_warps=1)


def variants(architecture: int) -> Iterator[Variant]:
    """Yield every kernel in every dtype and, where it is compiled for a width, in both widths.

    Args:
        architecture: 80 or 90; a kernel's tiles and bound on registers may depend on it.
    """
    for name in DTYPES:
        for size, width in WIDTHS.items():
            yield from _gather_variants(name, size, width)
        yield from _infonce_variants(name, architecture)


def compile_variant(variant: Variant, architecture: int) -> Any:
    """Compile for one architecture (80 or 90), without a device."""
    names = variant.kernel.arg_names
    signature = {name: variant.types.get(name, "constexpr") for name in names}
    constants = {(names.index(name),): value for name, value in variant.constants.items()}
    aligned = {(i,): [["tt.divisibility", 16]] for i, name in enumerate(names) if signature[name].startswith("*")}
    source = ASTSource(variant.kernel, signature, constants, aligned)
    options = {"num_warps": variant.num_warps, "num_stages": variant.num_stages, "maxnreg": variant.maxnreg}
    return triton.compile(source, target=GPUTarget("cuda", architecture, 32), options=options)


def usage_of(compiled: Any) -> Usage:
    """Read registers, shared bytes and spilled bytes from a compiled kernel's cubin."""
    tool = Path(triton.__file__).parent / "backends" / "nvidia" / "bin" / "cuobjdump"
    with tempfile.NamedTemporaryFile(suffix=".cubin") as cubin:
        cubin.write(compiled.asm["cubin"])
        cubin.flush()
        text = subprocess.run([tool, "-res-usage", cubin.name], capture_output=True, text=True, check=True).stdout
    found = {key: int(value) for key, value in re.findall(r"(REG|STACK|LOCAL|SHARED):(\d+)", text)}
    return Usage(found["REG"], compiled.metadata.shared + found["SHARED"], found["STACK"] + found["LOCAL"])


def measure(variant: Variant, architecture: int) -> Usage:
    """Compile a variant and read what it takes."""
    return usage_of(compile_variant(variant, architecture))


def occupancy(usage: Usage, num_warps: int, device: roofline.Device) -> float:
    """Return the share of a multiprocessor's warps that can be resident."""
    by_registers = device.registers_per_sm // (-(-usage.registers * 32 // 256) * 256 * num_warps)
    by_shared = device.shared_per_sm // (usage.shared + 1024)
    return min(by_registers, by_shared, 32, device.warps_per_sm // num_warps) * num_warps / device.warps_per_sm


def violations(name: str, usage: Usage, budget: dict[str, int] | None, device: roofline.Device) -> list[str]:
    """Return what is wrong with a kernel's usage, one sentence each."""
    found = []
    if usage.spilled:
        found.append(f"{name}: {usage.spilled} bytes are spilled; wanted 0")
    if usage.shared > device.shared_per_block:
        found.append(f"{name}: {usage.shared} bytes of shared memory; {device.name} has {device.shared_per_block}")
    if budget is None:
        return [*found, f"{name}: has no budget; run python -m scl_kernels.check --update and review the change"]
    for field in ("registers", "shared"):
        if getattr(usage, field) > budget[field]:
            found.append(f"{name}: {getattr(usage, field)} {field}; its budget is {budget[field]}")
    return found


def _say(line: str = "") -> None:
    sys.stdout.write(line + "\n")
    sys.stdout.flush()


def _account(title: str, terms: list[roofline.Term], unit: float, suffix: str) -> float:
    _say(f"  {title}: {roofline.total(terms) / unit:.1f} {suffix}")
    for term in terms:
        _say(f"    {term.amount / unit:10.2f}  {term.what}")
    return roofline.total(terms)


def report_arithmetic() -> list[str]:
    """Print bytes, FLOPs, memory and roofline times; return what misses its target."""
    found = []
    for size, width in WIDTHS.items():
        count, rows = 48_000, 41_472  # a micro-batch of 128 images at 288 px: all patches, and the masked views again
        _say(f"\nmasked_gather, {size}: N = {count:,}, R = {rows:,}, D = {width}, bf16, forward and backward")
        ours, eager = roofline.gather_terms(count, rows, width, 2)
        moved = _account("the operation moves", ours, 1e6, "MB")
        ratio = _account("the eager chain moves", eager, 1e6, "MB") / moved
        times = ", ".join(f"{d.name} {moved / d.bytes_per_second * 1e6:.0f} us" for d in roofline.DEVICES.values())
        _say(f"  {ratio:.2f} times fewer bytes (wanted {GATHER_RATIO}); at full bandwidth: {times}")
        if ratio < GATHER_RATIO:
            found.append(f"masked_gather {size}: {ratio:.2f} times fewer bytes; wanted {GATHER_RATIO}")
    for size, width in (("base", 512), ("large", 768)):
        local, ranks = 1024, 64
        _say(f"\ninfonce, {size}: n = {local:,}, N = {local * ranks:,}, D = {width}, bf16, {ranks} ranks")
        ours, eager = roofline.infonce_memory_terms(local, ranks, width)
        needed = _account("the operation needs above its inputs", ours, 1e6, "MB")
        ratio = _account("eager, local against global rows, needs", eager, 1e6, "MB") / needed
        whole = (local * ranks) ** 2 * 4 * 3
        _say(f"  {ratio:.0f} times less memory (wanted {INFONCE_RATIO}); eager N x N in fp32 on every rank (two kept")
        _say(f"  directions and one gradient): {whole / 1e9:.1f} GB, {whole / needed:,.0f} times as much")
        forward, backward = roofline.infonce_flops(local, local * ranks, width)
        for device in roofline.DEVICES.values():
            times = " and ".join(f"{1e3 * flops / device.flops:.2f} ms" for flops in (forward, backward))
            _say(f"  {forward / 1e9:.0f} and {backward / 1e9:.0f} GFLOP; at {device.name}'s peak: {times}")
        if ratio < INFONCE_RATIO:
            found.append(f"infonce {size}: {ratio:.0f} times less memory; wanted {INFONCE_RATIO}")
    return found


def check(pattern: str, architectures: Sequence[int], update: bool) -> list[str]:
    """Compile the variants whose name contains `pattern`, print a table, return violations; `update` writes budgets."""
    budgets: dict[str, dict[str, int]] = json.loads(BUDGETS.read_text()) if BUDGETS.exists() else {}
    found, seen = [], {}
    _say(f"{'kernel':58} {'registers':>9} {'shared':>8} {'spilled':>7} {'occupancy':>9}")
    for architecture in architectures:
        for variant in variants(architecture):
            if pattern not in variant.name:
                continue
            device, name = roofline.DEVICES[architecture], f"{variant.name}/sm_{architecture}"
            usage = measure(variant, architecture)
            seen[name] = {"registers": usage.registers, "shared": usage.shared}
            share = occupancy(usage, variant.num_warps, device)
            _say(f"{name:58} {usage.registers:9} {usage.shared:8} {usage.spilled:7} {share:9.0%}")
            found += violations(name, usage, seen[name] if update else budgets.get(name), device)
    if not seen:
        found.append(f"no kernel's name contains {pattern!r}")
    elif update:
        kept = {} if not pattern else budgets
        BUDGETS.write_text(json.dumps(dict(sorted({**kept, **seen}.items())), indent=1) + "\n")
    return found


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the check; return 1 where a kernel exceeds its budget or the arithmetic misses a target."""
    parser = argparse.ArgumentParser(prog="python -m scl_kernels.check", description=__doc__)
    parser.add_argument("--only", default="", help="check kernels whose name contains this")
    parser.add_argument("--architecture", type=int, nargs="+", default=[80, 90], choices=sorted(roofline.DEVICES))
    parser.add_argument("--update", action="store_true", help="write the measured usage as the new budgets")
    options = parser.parse_args(arguments)
    if interpreting():
        raise RuntimeError("TRITON_INTERPRET=1 replaces the compiler; unset it to check the kernels")
    found = check(options.only, options.architecture, options.update)
    found += report_arithmetic()
    for sentence in found:
        _say(f"VIOLATION {sentence}")
    _say(f"\n{'no' if not found else len(found)} violations")
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
