"""Runs what lies in tests/device/ in a process of its own: registering a device changes torch for all of it."""

import re
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
CHECKS = sorted((ROOT / "tests" / "device").glob("*checks.py"))


def test_the_real_path_on_a_device_that_refuses_what_cuda_would():
    expected = sum(file.read_text().count("\ndef test_") for file in CHECKS)
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", *map(str, CHECKS)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout[-5000:]
    passed = re.search(r"(\d+) passed in", done.stdout)
    assert passed is not None, "none was skipped or failed"
    assert int(passed[1]) >= expected
