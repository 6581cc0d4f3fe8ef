"""The kernel check: it compiles, it holds budgets, and it fails where they are exceeded."""

import json
import os
import re
import subprocess
import sys

import pytest

from scl_kernels import check, roofline

H100 = roofline.DEVICES[90]


def of_one_kind(architecture):
    """Return the variants of the type and width that stand for the others."""
    others = ("large", "fp16", "fp32/")
    return [v for v in check.variants(architecture) if not any(part in v.name for part in others)]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("variant", "architecture"),
    [
        pytest.param(variant, architecture, id=f"{variant.name}-{architecture}")
        for architecture in roofline.DEVICES
        for variant in of_one_kind(architecture)
    ],
)
def test_kernels_compile_within_their_budgets(variant, architecture):
    """Every kernel in bf16 and the base model's width; `make kernel-check` compiles the other types and widths too."""
    name = f"{variant.name}/sm_{architecture}"
    budget = json.loads(check.BUDGETS.read_text())[name]
    assert check.violations(name, check.measure(variant, architecture), budget, roofline.DEVICES[architecture]) == []


def test_the_command_prints_usage_and_arithmetic():
    environment = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}
    command = [sys.executable, "-m", "scl_kernels.check", "--only", "infonce_forward/bf16/even", "--architecture", "90"]
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "infonce_forward/bf16/even/sm_90" in done.stdout
    assert "times fewer bytes" in done.stdout


def narrow_offsets(ttir):
    """Return the lines of Triton IR that add a product of 32 bits to a pointer: rows times width may pass 2^31."""
    definitions, found = {}, []

    def product(name):
        operation, text = definitions.get(name, ("", ""))
        if operation == "arith.muli":
            return True
        return any(product(operand) for operand in re.findall(r"%\w+", text)) if operation in PASSED_THROUGH else False

    for line in ttir.splitlines():
        match = re.match(r"\s*(%\w+) = (\S+) (.*?)( loc\(.*)?$", line)
        if not match:
            continue
        definitions[match[1]] = (match[2], match[3])
        pointer = re.match(r"(%\w+), (%\w+) : .*, (?:tensor<[\dx]+x)?i32>?$", match[3])
        # the table has a row per task
        if match[2] == "tt.addptr" and pointer and pointer[1] != "%table" and product(pointer[2]):
            found.append(line.strip())
    return found


PASSED_THROUGH = ("tt.broadcast", "tt.expand_dims", "arith.addi", "arith.minsi", "arith.select")
"""What keeps a tensor's rows; a scalar that is spread into one (tt.splat) is the number of a first row."""


@pytest.mark.slow
@pytest.mark.parametrize("variant", of_one_kind(90), ids=lambda variant: variant.name)
def test_row_offsets_have_64_bits(variant):
    """Buffers of more than 2^31 elements: no kernel multiplies a row by a width in 32 bits."""
    assert narrow_offsets(check.compile_variant(variant, 90).asm["ttir"]) == []


def test_a_product_of_32_bits_is_seen():
    ttir = """
      %6 = arith.muli %4, %5 : tensor<4x1xi32> loc(#loc1)
      %7 = tt.broadcast %6 : tensor<4x1xi32> -> tensor<4x8xi32> loc(#loc1)
      %8 = tt.addptr %x, %7 : tensor<4x8x!tt.ptr<bf16>>, tensor<4x8xi32> loc(#loc1)
      %9 = arith.muli %4, %5 : tensor<4x1xi64> loc(#loc1)
      %10 = tt.addptr %x, %9 : tensor<4x1x!tt.ptr<bf16>>, tensor<4x1xi64> loc(#loc1)
      %11 = arith.muli %1, %2 : i32 loc(#loc1)
      %12 = tt.addptr %table, %11 : !tt.ptr<i64>, i32 loc(#loc1)
      %13 = tt.addptr %out, %11 : !tt.ptr<bf16>, i32
    """
    assert [line.split()[0] for line in narrow_offsets(ttir)] == ["%8", "%13"]


def test_every_variant_has_a_budget_for_both_architectures():
    names = [
        f"{variant.name}/sm_{architecture}" for architecture in (80, 90) for variant in check.variants(architecture)
    ]
    assert len(names) == len(set(names))
    assert set(json.loads(check.BUDGETS.read_text())) == set(names)


@pytest.mark.parametrize(
    ("usage", "budget", "message"),
    [
        (check.Usage(64, 0, 8), {"registers": 64, "shared": 0}, "k: 8 bytes are spilled; expected 0"),
        (check.Usage(65, 0, 0), {"registers": 64, "shared": 0}, "k: 65 registers; its budget is 64"),
        (check.Usage(64, 9, 0), {"registers": 64, "shared": 8}, "k: 9 shared; its budget is 8"),
        (check.Usage(64, 2**18, 0), {"registers": 64, "shared": 2**18}, "k: 262144 bytes of shared memory; H100"),
        (check.Usage(64, 0, 0), None, "k: has no budget; run"),
    ],
)
def test_violations_are_named(usage, budget, message):
    (found,) = check.violations("k", usage, budget, H100)
    assert found.startswith(message)


def test_occupancy_follows_registers_and_shared_memory():
    assert check.occupancy(check.Usage(32, 0, 0), 8, H100) == 1.0
    assert check.occupancy(check.Usage(255, 0, 0), 8, H100) == 0.125
    assert check.occupancy(check.Usage(32, 200 * 1024, 0), 4, H100) == 4 / 64


def test_the_arithmetic_meets_its_targets(capsys):
    assert check.report_arithmetic() == []
    assert "times fewer bytes" in capsys.readouterr().out
