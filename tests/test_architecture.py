"""Rooms in one order: an import only goes down it, every module lies in a room, and only train/ knows DeepSpeed."""

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
ROOMS = (
    "cli",
    "benchmarks",
    "interop",
    "reference",
    "train",
    "report",
    "evaluation",
    "costs",
    "tasks",
    "losses",
    "model",
    "data",
    "batch",
    "machine",
    "run",
    "objectives",
    "config",
)
"""From the top down; `scl_kernels` is below all of them."""
WITHOUT_ROOM = ("__init__.py", "__main__.py", "py.typed")
"""All that may lie in sclds/ itself."""
WITHOUT_TORCH = ("run", "objectives", "config")
FRAMEWORKS = ("torch", "deepspeed", "nvidia", "transformers", "scl_kernels")
PROCESS_GROUPS = ("torch.distributed", "deepspeed.comm")


def imports_of(path):
    """Return the modules that a file imports, inside functions too, `from a import b` as both `a` and `a.b`."""
    package = path.relative_to(ROOT).parent.parts if path.is_relative_to(ROOT) else ()
    found = set()
    for node in ast.walk(ast.parse(path.read_text(), str(path))):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            above = package[: len(package) - node.level + 1] if node.level else ()
            module = ".".join([*above, *([node.module] if node.module else [])])
            found |= {module} | {f"{module}.{alias.name}" for alias in node.names}
    return found


def attributes_of(path):
    """Return every dotted name that a file uses."""
    return {ast.unparse(n) for n in ast.walk(ast.parse(path.read_text(), str(path))) if isinstance(n, ast.Attribute)}


def modules(package):
    """Return the files of each room of a package."""
    return {folder.name: sorted(folder.rglob("*.py")) for folder in sorted(package.iterdir()) if holds_modules(folder)}


def holds_modules(folder):
    return folder.is_dir() and folder.name != "__pycache__" and any(folder.rglob("*.py"))


def upward_imports(package):
    """Return every import of a package that goes up the order of rooms, or to a room that is in no order."""
    found = []
    for room, files in modules(package).items():
        below = ROOMS[ROOMS.index(room) :] if room in ROOMS else ()
        for path in files:
            found += [
                f"{path.relative_to(package.parent)} imports {name}"
                for name in sorted(imports_of(path))
                if name.startswith("sclds.") and name.split(".")[1] not in (*below, "__version__")
            ]
    return found


def strays(package):
    """Return what lies in a package outside the rooms."""
    known = (*ROOMS, *WITHOUT_ROOM)
    return [p.name for p in sorted(package.iterdir()) if p.name not in known and (p.is_file() or holds_modules(p))]


def violations(folder, forbidden, allowed=()):
    """Return the files under `folder` that import a forbidden package."""
    return [
        f"{path.relative_to(ROOT)} imports {name}"
        for path in sorted((ROOT / folder).rglob("*.py"))
        if path.relative_to(ROOT).as_posix() not in allowed
        for name in sorted(imports_of(path))
        if any(name == package or name.startswith(package + ".") for package in forbidden)
    ]


def test_imports_only_go_down():
    """With one order for all rooms there can be no circle of them either."""
    assert upward_imports(ROOT / "sclds") == []


def test_every_module_lies_in_a_room():
    assert strays(ROOT / "sclds") == []


@pytest.mark.parametrize("folder", [folder.name for folder in (ROOT / "tests").iterdir() if holds_modules(folder)])
def test_folders_of_tests_are_those_of_rooms(folder):
    assert folder in (*ROOMS, "device", "kernels", "vectors")


@pytest.mark.parametrize(
    ("folder", "forbidden"),
    [
        ("kernels/scl_kernels", ("sclds", "deepspeed", "nvidia.dali")),
        *((f"sclds/{room}", ("nvidia.dali",)) for room in ROOMS if room not in ("benchmarks", "data")),
        *((f"sclds/{room}", FRAMEWORKS) for room in WITHOUT_TORCH),
        ("sclds", ("launchers", "tests")),
    ],
)
def test_libraries_stay_where_they_belong(folder, forbidden):
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


def test_an_import_that_goes_up_is_seen(tmp_path):
    package = tmp_path / "sclds"
    for room in ("model", "data", "attic"):
        (package / room).mkdir(parents=True)
    (package / "stray.py").touch()
    (package / "attic" / "old.py").touch()
    (package / "model" / "a.py").write_text("import sclds\nfrom sclds.data.b import x\nfrom sclds import config\n")
    (package / "data" / "b.py").write_text("def f():\n    from sclds import model\n    import sclds.attic.old\n")
    assert upward_imports(package) == [
        "sclds/data/b.py imports sclds.attic.old",
        "sclds/data/b.py imports sclds.model",
    ]
    assert strays(package) == ["attic", "stray.py"]


MOST_LINES = {"file": 400, "function": 60}
"""What grows past them has more than one role."""


def too_long(name, text):
    """Return the file, and the functions in it, that have more lines than they may."""
    functions = [node for node in ast.walk(ast.parse(text)) if isinstance(node, ast.FunctionDef)]
    lengths = [("file", name, len(text.splitlines()))]
    lengths += [("function", f"{name} {one.name}", one.end_lineno - one.lineno + 1) for one in functions]
    return [f"{what}: {length} lines" for kind, what, length in lengths if length > MOST_LINES[kind]]


def test_files_and_functions_stay_short():
    folders = ("sclds", "kernels", "launchers")
    files = [path for folder in folders for path in sorted((ROOT / folder).rglob("*.py"))]
    found = [told for path in files for told in too_long(path.relative_to(ROOT).as_posix(), path.read_text())]
    assert found == []
    assert too_long("a.py", "def f():\n" + "    pass\n" * 400) == ["a.py: 401 lines", "a.py f: 401 lines"]


def calls_of(text):
    """Return the names of the functions that a text calls without a module before them."""
    nodes = ast.walk(ast.parse(text))
    return {node.func.id for node in nodes if isinstance(node, ast.Call) and isinstance(node.func, ast.Name)}


def test_nothing_is_keyed_by_pythons_own_hash():
    """Draws are keyed by `sclds.data.keys`, names by a digest; `hash` promises nothing from one process to another."""
    files = sorted((ROOT / "sclds").rglob("*.py"))
    assert [path.relative_to(ROOT).as_posix() for path in files if "hash" in calls_of(path.read_text())] == []
    assert "hash" in calls_of("def f(x):\n    return hash((x, 1))\n")
