"""Indexes of folders: what they hold, what is read again and what is not, and how a shard that changed is told."""

import fcntl
import hashlib
import io
import os
import signal
import subprocess
import sys
import tarfile
import time
import zlib

import pytest

from sclds.cli.main import main
from sclds.config.errors import DataError
from sclds.data.prepare import index as index_module
from sclds.data.storage.files import find_shards
from sclds.data.storage.shards import BadSampleError, ShardReader, open_index, shard_problems

from .indexed import dataset, everything, prepared, three_shards
from .synthetic import caption, clip, image_members, picture, write_tar


@pytest.fixture
def folder(tmp_path):
    return three_shards(tmp_path / "set")


def test_an_index_gives_the_samples_that_the_headers_give(folder):
    scanned = everything(open_index([dataset(folder)]))
    done = prepared(folder)
    assert (done.read, done.changed) == (3, ())
    index = open_index([dataset(folder)])
    assert index.shards[0].columns is index.shards[2].columns, "the index is in use"
    assert everything(index) == scanned
    assert shard_problems(dataset(folder)) == []
    assert sorted(path.name for path in folder.iterdir()) == ["00000.tar", "00001.tar", "00002.tar", "samples.index"]
    some = everything(open_index([dataset(folder / "{00001..00002}.tar")]))
    assert some == scanned[3:]


def test_what_an_index_tells_of_samples(tmp_path):
    members = {"a.png": picture(0, size=(40, 30)), "a.txt": "fünf Äpfel".encode(), "a.json": caption("something else")}
    members |= {"b.jpg": picture(1, "JPEG", (64, 48)), "b.json": caption("six  pears")}
    members |= {"c.png": b"no picture", "c.txt": b"\xff", "c.json": caption("in its place"), "d.txt": b"alone"}
    path = write_tar(tmp_path / "0.tar", members)
    index = prepared(tmp_path).index
    columns = index.columns
    assert columns["width"].tolist() == [40, 64, 0, 0]
    assert columns["height"].tolist() == [30, 48, 0, 0]
    assert columns["frames"].tolist() == [1, 1, 0, 0]
    assert columns["caption_length"].tolist() == [10, 9, 12, 5]
    names = [("a.png", "a.txt", "a.json"), ("b.jpg", "", "b.json"), ("c.png", "c.txt", "c.json"), ("", "d.txt", "")]
    assert columns["crc32"].tolist() == [[zlib.crc32(members.get(name, b"")) for name in row] for row in names]
    (entry,) = index.shards
    assert list(map(str, entry.left_out)) == ["1 × caption that cannot be decoded (UnicodeDecodeError) (c)"]
    assert (entry.sha256, entry.size) == (hashlib.sha256(path.read_bytes()).hexdigest(), path.stat().st_size)


def test_clips_have_frames(tmp_path):
    write_tar(tmp_path / "0.tar", {"a.webm": clip(5), "a.txt": b"grey"})
    assert prepared(tmp_path, "video").index.columns["frames"].tolist() == [5]
    (problem,) = shard_problems(dataset(tmp_path, "image"))
    assert "of kind 'image', the index" in problem
    assert f"run `sclds prepare index {tmp_path}`" in problem


def test_only_what_changed_is_read_again(folder, monkeypatch):
    prepared(folder)
    read = []
    index_shard = index_module.index_shard
    monkeypatch.setattr(index_module, "index_shard", lambda f, *rest: (read.append(f.name), index_shard(f, *rest))[1])
    assert prepared(folder).read == 0
    write_tar(folder / "00001.tar", image_members(["n", "m", "o"]))
    write_tar(folder / "00003.tar", image_members(["p"]))
    (folder / "00000.tar").unlink()
    done = prepared(folder)
    assert read == ["00001.tar", "00003.tar"]
    assert [(entry.name, entry.samples) for entry in done.index.shards] == [
        ("00001.tar", 3),
        ("00002.tar", 4),
        ("00003.tar", 1),
    ]
    assert [name[-1] for name, _, _ in everything(open_index([dataset(folder)]))] == list("nmofghip")


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (
            lambda f: write_tar(f / "00001.tar", image_members(["n", "m", "o"])),
            "changed since the index was written: 00",
        ),
        (lambda f: os.utime(f / "00001.tar", (1, 1)), "changed since the index was written: 00001.tar; run"),
        (lambda f: write_tar(f / "00003.tar", image_members(["n"])), "missing in the index: 00003.tar"),
        (lambda f: (f / "00002.tar").unlink(), "in the index but not there: 00002.tar; bring them back"),
    ],
)
def test_a_shard_that_is_not_as_indexed_is_named_with_the_command(folder, change, words):
    prepared(folder)
    change(folder)
    (problem,) = shard_problems(dataset(folder))
    assert words in problem
    assert f"run `sclds prepare index {folder}`" in problem
    with pytest.raises(DataError, match="data set 'set': shards of"):
        open_index([dataset(folder)])
    prepared(folder)
    assert shard_problems(dataset(folder)) == []


def test_a_shard_read_before_a_kill_is_in_the_next_index(folder):
    """Nothing is left to read then, and the index has as many shards as before; it is written all the same."""
    prepared(folder)
    write_tar(folder / "00001.tar", image_members(["n", "m", "o"]))
    work = folder / ".index-parts"
    work.mkdir()
    file = next(file for file in find_shards(str(folder))[0] if file.name == "00001.tar")
    assert (
        index_module.index_shard(file, index_module.Rule("image", "first_dot"), work / "00001.tar.part.index") is None
    )
    assert prepared(folder).read == 0
    assert len(open_index([dataset(folder)])) == 3 + 3 + 4


def test_two_runs_do_not_index_one_folder_at_once(folder):
    work = folder / ".index-parts"
    work.mkdir()
    with (work / "lock").open("w") as other:
        fcntl.flock(other, fcntl.LOCK_EX)
        with pytest.raises(DataError, match="is being indexed by another process"):
            prepared(folder)
    assert prepared(folder).read == 3


def test_verify_finds_what_size_and_time_hide(folder):
    prepared(folder)
    path = folder / "00001.tar"
    before, content = path.stat(), bytearray(path.read_bytes())
    at = content.index(b"thing number d")
    content[at + 13 : at + 14] = b"z"
    path.write_bytes(content)
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert prepared(folder).changed == ()
    done = prepared(folder, verify=True)
    assert (done.read, done.changed) == (3, ("00001.tar",))
    assert prepared(folder, verify=True).changed == ()


def test_faulty_shards_are_named_and_the_sound_ones_kept(folder, monkeypatch):
    whole = (folder / "00000.tar").read_bytes()
    (folder / "00003.tar").touch()
    (folder / "00004.tar").write_bytes(whole[:1500])
    write_tar(folder / "00005.tar", {"a.webm": clip(2), "a.json": caption("a clip")})
    write_tar(folder / "00006.tar", {"a.jpg": picture(0, "JPEG"), "a.vqa.json": b"{}"})
    (folder / "00007.tar").write_bytes(whole[:512] + whole[512:].replace(b"ustar", b"USTAR"))
    with pytest.raises(DataError) as caught:
        prepared(folder)
    lines = str(caught.value).splitlines()
    reasons = ("empty", "unexpected end", "no sample of kind", "VQAv2", "damaged", "no index was written; 3")
    assert all(reason in line for line, reason in zip(lines, reasons, strict=True)), lines
    for number in range(3, 8):
        (folder / f"{number:05d}.tar").unlink()
    monkeypatch.setattr(index_module, "index_shard", None)
    assert prepared(folder).read == 0


def test_a_header_that_is_damaged_loses_no_sample_silently(folder):
    """tarfile takes it for the end of the file."""
    path = folder / "00000.tar"
    with tarfile.open(path) as tar:
        third = tar.getmembers()[3].offset
    backwards = tarfile.TarInfo("b.json")
    backwards.size = -2 * third
    for damage, reason in (
        (b"\xff" * 512, "the header before byte .* is damaged"),
        (backwards.tobuf(tarfile.GNU_FORMAT), "the header at byte .* gives a negative size"),
    ):
        content = bytearray(path.read_bytes())
        content[third : third + 512] = damage
        (folder / "00001.tar").write_bytes(content)
        with pytest.raises(DataError, match=rf"00001\.tar of data set 'set' cannot be read: {reason}"):
            open_index([dataset(folder)])


def test_odd_names_links_and_scattered_members(tmp_path):
    """Only names are read: nothing is extracted, and a link leads nowhere."""
    path = tmp_path / "set" / "0.tar"
    path.parent.mkdir()
    with tarfile.open(path, "w") as tar:

        def add(name, content=b"", **fields):
            info = tarfile.TarInfo(name)
            info.size = len(content)
            for field, value in fields.items():
                setattr(info, field, value)
            tar.addfile(info, io.BytesIO(content))

        add("a.jpg", picture(0, "JPEG"))
        add("../../etc/b.png", picture(1))
        add("/abs/c.webp", picture(2, "WEBP"))
        add("./._a.jpg", b"finder")
        add("d.jpg", type=tarfile.SYMTYPE, linkname="/etc/passwd")
        add("e.jpg", type=tarfile.LNKTYPE, linkname="a.jpg")
        add("folder.jpg", type=tarfile.DIRTYPE)
        add("pipe.jpg", type=tarfile.FIFOTYPE)
        add("x\udcffy.png", picture(3))
        add("日本/語.png", picture(4))
        for key in ("a", "../../etc/b", "/abs/c", "d", "x\udcffy", "日本/語"):
            add(f"{key}.txt", f"of {key[-1]}".encode("utf-8", "replace"))
        add("a.jpg", b"a second one")
    scanned = open_index([dataset(path.parent)])
    prepared(path.parent)
    indexed = open_index([dataset(path.parent)])
    for index in (scanned, indexed):
        keys = [index.locate(number)[0].key(index.locate(number)[1]) for number in range(len(index))]
        assert keys == ["a", "../../etc/b", "/abs/c", "x\udcffy", "日本/語", "d"]
        reader = ShardReader()
        assert reader.media(*index.locate(0)) == picture(0, "JPEG")
        assert [reader.captions(*index.locate(number)) for number in (0, 1, 3)] == [["of a"], ["of b"], ["of y"]]
        with pytest.raises(BadSampleError, match="it has no image"):
            reader.media(*index.locate(5))
    assert sorted(entry.name for entry in tmp_path.iterdir()) == ["set"]


@pytest.mark.multiprocess
def test_a_killed_run_goes_on_where_it_stopped(folder, capsys):
    """Killed once two shards are done: those are not read again, and the index is that of an undisturbed run."""
    for number in range(3, 40):
        (folder / f"{number:05d}.tar").write_bytes((folder / "00000.tar").read_bytes())
    parts = folder / ".index-parts"
    code = "import sys; from sclds.cli.main import main; sys.exit(main(sys.argv[1:]))"
    command = [sys.executable, "-c", code, "prepare", "index", str(folder), "--workers", "2"]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    deadline = time.monotonic() + 60
    while len(list(parts.glob("*.part.index"))) < 2 and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.005)
    process.send_signal(signal.SIGKILL)
    process.wait()
    finished = len(list(parts.glob("*.part.index")))
    assert finished >= 2
    assert main(["prepare", "index", str(folder), "--workers", "1"]) == 0
    shown = " ".join(capsys.readouterr().out.split())
    assert "40, of which" in shown
    assert int(shown.split("of which ")[1].split()[0]) <= 40 - finished + 2, "workers may have ended one each"
    resumed = (folder / "samples.index").read_bytes()
    (folder / "samples.index").unlink()
    assert main(["prepare", "index", str(folder), "--workers", "1"]) == 0
    assert (folder / "samples.index").read_bytes() == resumed
    assert not parts.exists()


def test_the_command_explains_itself(folder, tmp_path, capsys):
    assert main(["prepare", "index", str(folder), "--workers", "0"]) == 2
    assert main(["prepare", "index", str(tmp_path / "none")]) == 2
    assert main(["prepare", "index", str(folder / "00000.tar")]) == 2
    assert main(["prepare", "index", str(folder), "--kind", "video"]) == 2
    errors = capsys.readouterr().err
    for words in ("--workers is 0", "none is not a folder with .tar shards", "00000.tar is not a folder", "'video'"):
        assert words in errors
    assert main(["prepare", "index", str(folder) + "/"]) == 0
    assert "40 x 30 pixels" in capsys.readouterr().out
