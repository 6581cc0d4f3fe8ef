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

import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

from scl_kernels import roofline
from scl_kernels.backend import interpreting
from scl_kernels.registry import DTYPES, Variant, operations

BUDGETS = Path(__file__).with_name("budgets.json")


class Usage(NamedTuple):
    """What a compiled kernel takes of a multiprocessor."""

    registers: int
    shared: int
    spilled: int


def variants(architecture: int) -> Iterator[Variant]:
    """Yield every operation's kernels in every dtype.

    Args:
        architecture: 80 or 90; a kernel's tiles and bound on registers may depend on it.
    """
    for name in DTYPES:
        for operation in operations():
            yield from operation.variants(name, architecture)


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
        text = subprocess.run(
            [tool, "-res-usage", cubin.name], capture_output=True, text=True, check=True, encoding="utf-8"
        ).stdout
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
        found.append(f"{name}: {usage.spilled} bytes are spilled; expected 0")
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


def _add_up(title: str, terms: list[roofline.Term]) -> float:
    _say(f"  {title}: {roofline.total(terms) / 1e6:.1f} MB")
    for term in terms:
        _say(f"    {term.amount / 1e6:10.2f}  {term.what}")
    return roofline.total(terms)


def report_arithmetic() -> list[str]:
    """Print every operation's bytes against eager code's; return what misses its target."""
    found = []
    for account in (account for operation in operations() for account in operation.accounts()):
        _say(f"\n{account.title}")
        ours = _add_up(f"the operation {account.verb}", account.ours)
        ratio = _add_up(f"eager code {account.verb}", account.eager) / ours
        _say(f"  {ratio:.2f} times fewer bytes (target {account.target})")
        for line in account.remarks:
            _say(f"  {line}")
        if ratio < account.target:
            found.append(f"{account.title}: {ratio:.2f} times fewer bytes; expected at least {account.target}")
    return found


def check(pattern: str, architectures: Sequence[int], update: bool) -> list[str]:
    """Compile the variants whose name contains `pattern`, print a table, return violations; `update` writes budgets."""
    budgets: dict[str, dict[str, int]] = json.loads(BUDGETS.read_text(encoding="utf-8")) if BUDGETS.exists() else {}
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
        BUDGETS.write_text(json.dumps(dict(sorted({**kept, **seen}.items())), indent=1) + "\n", encoding="utf-8")
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
