"""Text is UTF-8 wherever it is read or written, whatever the locale of the machine."""

import ast
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from sclds.cli.main import main
from sclds.config import DatasetConfig
from sclds.data.storage.shards import open_index
from tests.data.layouts import photo, put
from tests.data.synthetic import caption, picture, write_tar

ROOT = Path(__file__).resolve().parent.parent
WRITERS = ("read_text", "write_text", "open", "NamedTemporaryFile", "TemporaryFile", "fdopen", "TextIOWrapper")
STARTERS = ("run", "Popen", "check_output", "call", "check_call")
OTHERS = ("shard", "tarfile", "Image", "av", "os", "cache", "self", "self.folder", "system", "Archive", "webbrowser")
"""What has an `open` that is not of a text file."""


def unstated(text: str) -> list[str]:
    """Return the calls of a module that open text, or read a process's, without saying in which encoding."""
    return [ast.unparse(call) for call in ast.walk(ast.parse(text)) if isinstance(call, ast.Call) and is_unstated(call)]


def is_unstated(call: ast.Call) -> bool:
    """Return whether a call takes the locale's encoding."""
    name = call.func.attr if isinstance(call.func, ast.Attribute) else getattr(call.func, "id", "")
    of = ast.unparse(call.func.value) if isinstance(call.func, ast.Attribute) else None
    given = {keyword.arg: keyword.value for keyword in call.keywords}
    if "encoding" in given:
        return False
    if name in STARTERS:
        return of == "subprocess" and ("text" in given or "universal_newlines" in given)
    if name not in WRITERS or (name.endswith("_text") and of is None):
        return False
    if name == "open" and of in OTHERS:
        return False
    if name in ("read_text", "write_text", "TextIOWrapper"):
        return True
    first_is_mode = (name == "open" and of is not None) or name.endswith("TemporaryFile")
    mode = given.get("mode") or next(iter(call.args[0 if first_is_mode else 1 :]), None)
    if mode is None:
        return not name.endswith("TemporaryFile")  # those are binary by default
    if not isinstance(mode, ast.Constant):
        return False  # no mode but a path: the `open` of something else
    return bool(re.fullmatch(r"[rwax+t]+", str(mode.value)))


def sources() -> list[Path]:
    """Return the program, and what tests use to write files."""
    folders = [ROOT / name for name in ("sclds", "kernels", "launchers")]
    helpers = [path for path in (ROOT / "tests").rglob("*.py") if not path.name.startswith("test_")]
    return [ROOT / "setup.py", *helpers, *(path for folder in folders for path in sorted(folder.rglob("*.py")))]


def test_every_text_has_its_encoding():
    found = [f"{p.relative_to(ROOT)}: {call}" for p in sources() for call in unstated(p.read_text(encoding="utf-8"))]
    assert found == []


@pytest.mark.parametrize(
    ("line", "seen"),
    [
        ("open(x)", True),
        ("open(x, 'w', newline='')", True),
        ("open(x, mode='a+')", True),
        ("open(x, 'rb')", False),
        ("open(x, encoding='utf-8')", False),
        ("path.open()", True),
        ("(a / b).open('w')", True),
        ("path.open('wb')", False),
        ("tarfile.open(place, 'r:')", False),
        ("path.read_text()", True),
        ("path.write_text('x')", True),
        ("path.write_text('x', encoding='utf-8')", False),
        ("tempfile.NamedTemporaryFile('w')", True),
        ("NamedTemporaryFile(suffix='.bin')", False),
        ("os.fdopen(1, 'w')", True),
        ("subprocess.run(x, text=True)", True),
        ("subprocess.run(x, text=True, encoding='utf-8')", False),
        ("subprocess.run(x)", False),
    ],
)
def test_the_rule_sees_what_it_forbids(line, seen):
    assert bool(unstated(line)) == seen


LOCALE = {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}
"""A machine that knows ASCII alone."""
COMMANDS = """
import sys
from sclds.cli.main import main
root, out, shards, config, page = sys.argv[1:]
assert "utf" not in sys.stdout.encoding.lower(), sys.stdout.encoding
source = ["--root", root, "--out", out, "--splits", "train", "--workers", "1"]
for line in (
    ["prepare", "flickr30k", *source],
    ["prepare", "index", shards, "--workers", "1"],
    ["data", "stats", "--config", config, f"data.train.0.shards={shards}",
     f"data.heldout=[{{name: set, shards: '{out}/train'}}]"],
    ["data", "show", "--config", config, f"data.train.0.shards={shards}", "--out", page],
):
    code = main(line)
    assert code == 0, (line, code)
print("\\u732b", "\\udcff")
"""
SETTINGS = """
name: 猫
data:
  train: [{name: 猫, shards: none}]
  tokenizer: embedded
  image_size: 32
  video_size: 32
model: {vision: {patch_size: 8}}
batch: {global_size: 2, group_size: 2}
"""


@pytest.mark.multiprocess
def test_commands_run_where_the_locale_knows_no_utf8(tmp_path):
    """Names of folders, files, data sets and samples, and captions, all beyond ASCII."""
    root, out, shards, config, page = (tmp_path / f"{name}-ü" for name in ("root", "out", "shards", "config", "page"))
    entries = []
    for number, name in enumerate(("chat-é.jpg", "猫.jpg")):
        put(root / "flickr30k-images" / name, photo(number))
        entries.append({"filename": name, "split": "train", "imgid": number, "sentences": [{"raw": "Ein Kätzchen"}]})
    put(root / "dataset_flickr30k.json", {"images": entries})
    members = {"猫.png": picture(1), "猫.txt": "子猫".encode(), "x.png": picture(2), "x.json": caption("Ein Kätzchen")}
    write_tar(shards / "scherbe-ü.tar", members | {"é.gif": b""})
    put(config, SETTINGS)
    done = subprocess.run(
        [sys.executable, "-c", COMMANDS, *map(str, (root, out, shards, config, page))],
        env=os.environ | LOCALE,
        capture_output=True,
        encoding="utf-8",
        timeout=300,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    assert r"\u732b" in done.stdout
    assert r"left out: 1 × .gif file (\xe9.gif)".replace("×", r"\xd7") in done.stdout
    shown = page.read_text(encoding="utf-8")
    assert all(text in shown for text in ("Ein Kätzchen", "子猫"))
    (prepared,) = open_index([DatasetConfig(name="set", shards=str(out / "train"))]).shards
    assert len(prepared) == 2
    written = (shards / "samples.index").read_bytes()
    (indexed,) = open_index([DatasetConfig(name="猫", shards=str(shards))]).shards
    assert [indexed.sample_id(row) for row in range(2)] == ["猫/scherbe-ü/猫", "猫/scherbe-ü/x"]
    assert main(["prepare", "index", str(shards), "--verify"]) == 0
    assert (shards / "samples.index").read_bytes() == written
