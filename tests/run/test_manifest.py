"""A manifest finds every way in which a file is not what was written, and is itself damaged loudly."""

import json

import pytest

from sclds.run.manifest import MANIFEST_FILE, file_problems, manifest_of, record_files, share_of, write_manifest


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "engine").mkdir()
    for name, content in {"engine/a.pt": b"weights" * 1000, "engine/b.pt": b"", "state.json": b"{}"}.items():
        (tmp_path / name).write_bytes(content)
    files = sorted(path for path in tmp_path.rglob("*") if path.is_file())
    write_manifest(tmp_path, record_files(tmp_path, files), {"step": 5})
    return tmp_path


def problems_of(folder):
    files = manifest_of(folder)
    return file_problems(folder, files, files)


def test_untouched_files_have_no_problem(folder):
    assert sorted(manifest_of(folder)) == ["engine/a.pt", "engine/b.pt", "state.json"]
    assert problems_of(folder) == []
    assert json.loads((folder / MANIFEST_FILE).read_text(encoding="utf-8"))["step"] == 5


def flip(path):
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


@pytest.mark.parametrize(
    ("damage", "said"),
    [
        (flip, "engine/a.pt has another content than was written"),
        (lambda path: path.write_bytes(path.read_bytes()[:-1]), "engine/a.pt has 6,999 bytes, expected 7,000"),
        (lambda path: path.write_bytes(b""), "engine/a.pt has 0 bytes, expected 7,000"),
        (lambda path: path.unlink(), "engine/a.pt cannot be read (No such file or directory)"),
        (lambda path: (path.unlink(), path.mkdir()), "engine/a.pt has "),
    ],
)
def test_each_damage_is_named(folder, damage, said):
    damage(folder / "engine" / "a.pt")
    (problem,) = problems_of(folder)
    assert problem.startswith(said)


@pytest.mark.parametrize(
    "text", ["", "{", "[]", "null", '{"format": 1}', '{"format": 2, "files": {}}', '{"format": 1, "files": {"a": 1}}']
)
def test_a_damaged_manifest_is_said(folder, text):
    (folder / MANIFEST_FILE).write_text(text, encoding="utf-8")
    with pytest.raises(ValueError, match=MANIFEST_FILE):
        manifest_of(folder)


def test_a_folder_of_an_older_version_has_none(tmp_path):
    assert manifest_of(tmp_path) is None


@pytest.mark.parametrize("world_size", [1, 2, 3, 7])
def test_ranks_share_the_files(world_size):
    names = [f"f{i}" for i in range(5)]
    shares = [share_of(reversed(names), rank, world_size) for rank in range(world_size)]
    assert sorted(name for share in shares for name in share) == names
    assert max(map(len, shares)) - min(map(len, shares)) <= 1
