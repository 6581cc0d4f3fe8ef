"""What pyproject.toml says of the package is so."""

import json
import os
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

import sclds
from sclds.machine.packages import DISTRIBUTIONS

ROOT = Path(__file__).resolve().parents[2]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
PINNED = {
    line.partition("==")[0].lower().replace("_", "-"): line.partition("==")[2]
    for line in (ROOT / "requirements" / "constraints.txt").read_text().splitlines()
    if "==" in line and not line.startswith("#")
}


def names(requirements: list[str]) -> list[str]:
    return [re.match(r"[\w.-]+", line)[0].lower().replace("_", "-") for line in requirements]  # type: ignore[index]


def test_every_requirement_has_a_version_that_was_tested():
    wanted = names(PROJECT["project"]["dependencies"])
    assert [name for name in wanted if name not in PINNED] == []


def test_everything_that_is_imported_is_required():
    known = {"PIL": "pillow", "nvidia": "nvidia-dali-cuda120", "yaml": "pyyaml"}
    imported = set()
    for folder in ("sclds/cli", "sclds/config"):
        for file in (ROOT / folder).rglob("*.py"):
            imported |= set(re.findall(r"^\s*(?:from|import) ([a-z]\w*)", file.read_text(), re.MULTILINE))
    third = {known.get(name, name) for name in imported if name in ("click", "rich", "pydantic", "omegaconf", "yaml")}
    assert third <= set(names(PROJECT["project"]["dependencies"]))


def test_the_version_stands_in_one_place():
    assert "version" not in PROJECT["project"]
    assert PROJECT["tool"]["setuptools"]["dynamic"]["version"] == {"attr": "sclds.__version__"}
    assert re.fullmatch(r"\d+\.\d+\.\d+", sclds.__version__)


EXTRAS = PROJECT["project"]["optional-dependencies"]


def test_each_cuda_has_its_build_of_dali_and_no_install_has_two():
    assert not [name for name in names(PROJECT["project"]["dependencies"]) if "dali" in name]
    dali = {extra: [name for name in names(EXTRAS[extra]) if "dali" in name] for extra in EXTRAS}
    assert {extra: found for extra, found in dali.items() if found} == {
        "cpu": ["nvidia-dali-cuda120"],
        "gpu-cu12": ["nvidia-dali-cuda120"],
        "gpu-cu13": ["nvidia-dali-cuda130"],
    }
    assert {name for found in dali.values() for name in found} == set(DISTRIBUTIONS["dali"]) <= PINNED.keys()


def would_be_installed(*words: str, **variables: str) -> dict[str, str]:
    """Return names and versions of what pip would install; the test is skipped where no index can be reached."""
    dry = [sys.executable, "-m", "pip", "install", "--dry-run", "--quiet", "--report", "-"]
    given = ["--disable-pip-version-check", "-c", str(ROOT / "requirements" / "constraints.txt"), *words]
    environment = os.environ | variables
    done = subprocess.run([*dry, *given], capture_output=True, text=True, timeout=300, check=False, env=environment)
    if done.returncode and not re.search(r"ResolutionImpossible|[Cc]onflict|from versions: \d", done.stderr):
        pytest.skip(f"no package index can be reached: {done.stderr.strip().splitlines()[-1]}")
    assert done.returncode == 0, done.stderr
    packages = [package["metadata"] for package in json.loads(done.stdout)["install"]]
    return {package["name"].replace("_", "-"): package["version"] for package in packages}


def test_the_packages_that_only_gpu_hosts_of_cuda_13_take_can_be_resolved():
    """With their own dependencies, so that what the constraints hold and what they need do not contradict."""
    extra = "gpu-cu13"
    found = would_be_installed("--ignore-installed", *EXTRAS[extra])
    (dali,) = names(EXTRAS[extra])
    assert found[dali] == PINNED[dali]
    cuda = {name.rpartition("cu")[2] for name in found if re.fullmatch(r"nvidia-.*-cu\d\d", name)}
    assert cuda == {extra.removeprefix("gpu-cu")}, "libraries of the other CUDA"


def test_what_gpu_hosts_take_besides_can_be_resolved_beside_the_torch_that_is_here():
    """flash-attn says what it needs only where a compiler of CUDA is, or where it is told that none will be used."""
    file = ROOT / "requirements" / "gpu.txt"
    wanted = [line for line in file.read_text().splitlines() if line and not line.startswith("#")]
    build = {"FLASH_ATTENTION_SKIP_CUDA_BUILD": "TRUE"}
    found = would_be_installed("--no-build-isolation", "-r", str(file), **build)
    assert {f"{name}=={version}" for name, version in found.items()} == set(wanted), "torch and all else stay"
