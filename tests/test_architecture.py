"""Dependencies point one way: launchers → sclds → scl_kernels, and only train/ knows DeepSpeed."""

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
PROCESS_GROUPS = ("torch.distributed", "deepspeed.comm")


def imports_of(path):
    """Return the modules that a file imports, `from a import b` as both `a` and `a.b`."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text(), str(path))):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            found |= {node.module} | {f"{node.module}.{alias.name}" for alias in node.names}
    return found


def attributes_of(path):
    """Return every dotted name that a file uses."""
    return {ast.unparse(n) for n in ast.walk(ast.parse(path.read_text(), str(path))) if isinstance(n, ast.Attribute)}


def violations(folder, forbidden, allowed=()):
    """Return the files under `folder` that import a forbidden package."""
    return [
        f"{path.relative_to(ROOT)} imports {name}"
        for path in sorted((ROOT / folder).rglob("*.py"))
        if path.relative_to(ROOT).as_posix() not in allowed
        for name in sorted(imports_of(path))
        if any(name == package or name.startswith(package + ".") for package in forbidden)
    ]


@pytest.mark.parametrize(
    ("folder", "forbidden"),
    [
        ("kernels/scl_kernels", ("sclds", "deepspeed", "nvidia.dali")),
        ("sclds/model", ("deepspeed", "nvidia.dali", "sclds.train", "sclds.losses", "sclds.evaluation")),
        ("sclds/losses", ("deepspeed", "nvidia.dali", "sclds.train", "sclds.model", "sclds.evaluation")),
        ("sclds/data", ("deepspeed", "sclds.train", "sclds.model", "sclds.losses", "sclds.evaluation")),
        ("sclds", ("launchers", "tests")),
    ],
)
def test_layers_import_only_what_lies_below(folder, forbidden):
    assert violations(folder, forbidden) == []


def test_only_train_imports_deepspeed():
    elsewhere = [v for v in violations("sclds", ("deepspeed",)) if not v.startswith("sclds/train/")]
    assert elsewhere == []


def test_only_one_module_touches_process_groups():
    allowed = ("sclds/train/distributed.py",)
    assert violations("sclds", PROCESS_GROUPS, allowed) == []
    used = [
        f"{path.relative_to(ROOT)} uses {name}"
        for path in sorted((ROOT / "sclds").rglob("*.py"))
        if path.relative_to(ROOT).as_posix() not in allowed
        for name in sorted(attributes_of(path))
        if name.startswith(PROCESS_GROUPS)
    ]
    assert used == []


def test_the_rules_see_what_they_forbid(tmp_path):
    file = tmp_path / "a.py"
    file.write_text("from torch import distributed\nimport deepspeed.comm as c\nx = torch.distributed.get_rank()\n")
    assert {"torch.distributed", "deepspeed.comm"} <= imports_of(file)
    assert "torch.distributed.get_rank" in attributes_of(file)


def test_files_stay_short():
    """A file that grows past 500 lines has more than one role."""
    folders = ("sclds", "kernels/scl_kernels", "launchers")
    lengths = {p: len(p.read_text().splitlines()) for folder in folders for p in (ROOT / folder).rglob("*.py")}
    assert [f"{p.relative_to(ROOT)}: {n} lines" for p, n in lengths.items() if n > 500] == []
