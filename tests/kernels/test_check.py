"""The kernel check: it compiles, it holds budgets, and it fails where they are exceeded."""

import os
import subprocess
import sys

import pytest

from scl_kernels import check, roofline

H100 = roofline.DEVICES[90]


def test_a_subset_compiles_within_its_budget(monkeypatch):
    environment = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}
    command = [sys.executable, "-m", "scl_kernels.check", "--only", "infonce_forward/bf16/even", "--architecture", "90"]
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "infonce_forward/bf16/even/sm_90" in done.stdout
    assert "times fewer bytes" in done.stdout


def test_every_variant_has_a_budget_for_both_architectures():
    import json

    names = [f"{variant.name}/sm_{architecture}" for variant in check.variants() for architecture in (80, 90)]
    assert len(names) == len(set(names))
    assert set(json.loads(check.BUDGETS.read_text())) == set(names)


@pytest.mark.parametrize(
    ("usage", "budget", "message"),
    [
        (check.Usage(64, 0, 8), {"registers": 64, "shared": 0}, "k: 8 bytes are spilled; wanted 0"),
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
    assert "times less memory" in capsys.readouterr().out
