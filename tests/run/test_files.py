import errno
import os
import subprocess
import sys
from pathlib import Path

import pytest

from sclds.config.errors import UserError
from sclds.run.files import new_folder, replacing, write_atomically


def test_text_and_bytes_replace_what_was_there(tmp_path):
    path = tmp_path / "deep" / "a.txt"
    write_atomically(path, "é\udce9")
    assert path.read_bytes() == "é\\udce9".encode()
    write_atomically(path, b"\xff")
    assert path.read_bytes() == b"\xff"
    assert [p.name for p in path.parent.iterdir()] == ["a.txt"]


def test_a_failure_leaves_the_old_file_and_nothing_beside_it(tmp_path):
    path = tmp_path / "a"
    write_atomically(path, "old")

    def stopped():
        with replacing(path) as file:
            file.write(b"half")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        stopped()
    assert path.read_text() == "old"
    assert [p.name for p in tmp_path.iterdir()] == ["a"]


def test_what_a_killed_process_left_is_overwritten(tmp_path):
    (tmp_path / "a.part").write_bytes(b"left behind, and longer")
    write_atomically(tmp_path / "a", "new")
    assert (tmp_path / "a").read_text() == "new"
    assert [p.name for p in tmp_path.iterdir()] == ["a"]


def test_file_and_folder_are_flushed_before_and_after_the_name_changes(tmp_path, monkeypatch):
    done = []
    flush, replace = os.fsync, type(tmp_path).replace

    def noted(descriptor):
        done.append(os.readlink(f"/proc/self/fd/{descriptor}"))
        flush(descriptor)

    def renamed(path, target):
        done.append("rename")
        return replace(path, target)

    monkeypatch.setattr(os, "fsync", noted)
    monkeypatch.setattr(type(tmp_path), "replace", renamed)
    write_atomically(tmp_path / "a", "new")
    assert done == [str(tmp_path / "a.part"), "rename", str(tmp_path)]


def test_reading_a_run_folder_imports_neither_torch_nor_deepspeed():
    code = (
        "import sys, pkgutil, importlib, sclds.run, sclds.config\n"
        "for room in (sclds.run, sclds.config):\n"
        "    for module in pkgutil.iter_modules(room.__path__, room.__name__ + '.'):\n"
        "        importlib.import_module(module.name)\n"
        "print({name.partition('.')[0] for name in sys.modules} & {'torch', 'deepspeed', 'nvidia', 'transformers'})\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"


def test_a_private_file_is_nobody_elses_before_anything_is_in_it(tmp_path, monkeypatch):
    path, seen, fsync = tmp_path / "secrets", [], os.fsync

    def noted(descriptor):
        seen.append(os.fstat(descriptor).st_mode & 0o777)
        fsync(descriptor)

    monkeypatch.setattr(os, "fsync", noted)
    write_atomically(path, "KEY=1", private=True)
    assert seen[0] == path.stat().st_mode & 0o777 == 0o600
    assert path.read_text() == "KEY=1"


@pytest.mark.parametrize(
    ("fault", "told"),
    [
        (
            OSError(errno.ENOSPC, "No space left on device"),
            r"No space left on device; .* GB are free there\): free space",
        ),
        (Exception("File too large (os error 27)"), r"File too large; .*\): free space, or give another name"),
        (RuntimeError("Error while serializing: I/O error: Read-only file system (os error 30)"), "mount that disk"),
    ],
)
def test_a_disk_that_takes_no_folder_is_a_sentence_whoever_finds_it(tmp_path, fault, told):
    def fill():
        with new_folder(tmp_path / "new") as part:
            (part / "some").write_text("bytes")
            raise fault

    with pytest.raises(UserError, match=f"{tmp_path}/new cannot be written .*{told}"):
        fill()
    assert list(tmp_path.iterdir()) == []


def test_other_faults_in_a_new_folder_stay_what_they_are(tmp_path):
    for fault in (OSError(errno.EIO, "a disk that is read from"), RuntimeError("(os error 2)"), ValueError("else")):
        with pytest.raises(type(fault)) as found, new_folder(tmp_path / "new"):
            raise fault
        assert found.value is fault
    with pytest.raises(UserError, match=r"/proc/new cannot be written \(No such file"), new_folder(Path("/proc/new")):
        pass
