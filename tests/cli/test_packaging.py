"""What pyproject.toml says of the package is so."""

import re
import tomllib
from pathlib import Path

import sclds

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
