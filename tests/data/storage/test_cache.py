"""Shards behind URLs: found, fetched once whoever asks, never removed while read, and never more than there is room."""

import os
import subprocess
import sys
import threading

import fsspec
import pytest

from sclds.config.errors import DataError
from sclds.data.storage import files
from sclds.data.storage.cache import CacheFullError, ShardCache
from sclds.data.storage.files import StoredFile, file_system, find_shards, stored


@pytest.fixture
def memory():
    system = fsspec.filesystem("memory")
    yield system
    system.rm("/set", recursive=True)


def put(system, name, content):
    system.pipe(f"/set/{name}", content)
    file = stored(f"memory://set/{name}")
    assert file is not None
    return file


def content_of(cache, file):
    handle = cache.open(file)
    try:
        return os.pread(handle, 10_000, 0)
    finally:
        os.close(handle)


def sizes(cache):
    return [path.stat().st_size for path in cache.folder.iterdir() if path.name != "lock"]


def test_shards_of_folders_globs_and_ranges(tmp_path, memory):
    for name in ("00000.tar", "00001.tar", "00003.tar", "x.txt", "._00000.tar"):
        (tmp_path / name).write_bytes(b"x" * 512)
        put(memory, name, b"x" * 512)
    (tmp_path / "dangling.tar").symlink_to("nowhere")
    for root in (str(tmp_path), f"file://{tmp_path}", f"local://{tmp_path}", "memory://set"):
        names = ["00000.tar", "00001.tar", "00003.tar"]
        files, missing = find_shards(root)
        assert ([file.name for file in files], missing) == (names, [])
        assert all(file.size == 512 and file.stamp for file in files)
        assert [file.name for file in find_shards(f"{root}/0000*.tar")[0]] == names
        files, missing = find_shards(root + "/{00000..00003}.tar")
        assert [file.name for file in files] == names
        assert missing == [f"{root}/00002.tar"]
        assert find_shards(f"{root}/nothing") == ([], [])
    assert [file.name for file in find_shards(f"{tmp_path}/0000{{0..1}}.tar")[0]] == names[:2]


@pytest.mark.parametrize(
    ("url", "words"),
    [("s3://bucket/x", "pip install s3fs"), ("gs://bucket/x", "pip install gcsfs"), ("nonsense://x", "s3://, gs://")],
)
def test_a_file_system_that_is_not_installed_is_a_sentence(url, words, monkeypatch):
    monkeypatch.setitem(sys.modules, "s3fs", None)
    monkeypatch.setitem(sys.modules, "gcsfs", None)
    with pytest.raises(DataError, match="nonsense" if "nonsense" in url else "is not installed") as caught:
        file_system(url)
    assert words in str(caught.value)


def test_foreign_faults_become_oserror():
    with pytest.raises(OSError, match="KeyError: 'no credentials'"), files.foreign_faults():
        raise KeyError("no credentials")


def test_a_file_is_fetched_once_and_anew_when_it_changed(tmp_path, memory, monkeypatch):
    cache = ShardCache(tmp_path / "cache", 10_000)
    fetched = []
    get = type(memory).get_file
    monkeypatch.setattr(type(memory), "get_file", lambda self, *a, **k: (fetched.append(a[0]), get(self, *a, **k)))
    file = put(memory, "a.tar", b"one")
    assert content_of(cache, file) == content_of(cache, file) == b"one"
    assert len(fetched) == 1
    assert content_of(cache, put(memory, "a.tar", b"two")) == b"two"
    assert not [path for path in cache.folder.iterdir() if path.name.endswith(".part")]


def test_the_least_recently_used_make_room_but_none_in_use(tmp_path, memory):
    cache = ShardCache(tmp_path / "cache", 2500)
    a, b, c, d = (put(memory, f"{name}.tar", name.encode() * 1000) for name in "abcd")
    for number, file in enumerate((a, b)):
        content_of(cache, file)
        os.utime(cache._path(file), (number, number))
    content_of(cache, c)
    assert [cache._path(file).exists() for file in (a, b, c)] == [False, True, True]
    os.utime(cache._path(b), (9, 9))
    os.utime(cache._path(c), (1, 1))
    held = cache.open(a)
    assert [cache._path(file).exists() for file in (a, b, c)] == [True, True, False]
    os.utime(cache._path(a), (1, 1))
    assert content_of(cache, c) == b"c" * 1000
    assert [cache._path(file).exists() for file in (a, b, c)] == [True, False, True]
    other = cache.open(c)
    with pytest.raises(CacheFullError):
        cache.open(d)
    assert sum(sizes(cache)) <= 2500
    assert os.pread(held, 10, 0) == b"a" * 10
    os.close(held)
    assert content_of(cache, d) == b"d" * 1000
    assert not cache._path(a).exists()
    os.close(other)


def test_a_fetch_that_fails_or_is_cut_leaves_nothing(tmp_path, memory):
    cache = ShardCache(tmp_path / "cache", 10_000)
    file = put(memory, "a.tar", b"whole")
    with pytest.raises(OSError, match="5 of 9 bytes came"):
        cache.open(StoredFile(file.place, 9, file.stamp))
    with pytest.raises(FileNotFoundError):
        cache.open(StoredFile("memory://set/none.tar", 9, ""))
    assert sizes(cache) == []


def test_what_a_killed_process_left_is_taken_over(tmp_path, memory):
    cache = ShardCache(tmp_path / "cache", 10_000)
    file = put(memory, "a.tar", b"whole")
    cache.folder.mkdir()
    cache._path(file).with_name(cache._path(file).name + ".part").write_bytes(b"who" * 99)
    assert content_of(cache, file) == b"whole"
    assert sizes(cache) == [5]


MANY = """
import os, random, sys
from pathlib import Path
from sclds.data.storage.cache import ShardCache, _status
from sclds.data.storage.files import find_shards
files, _ = find_shards(f"file://{sys.argv[1]}")
cache, draw = ShardCache(Path(sys.argv[2]), 4000), random.Random(int(sys.argv[3]))
for _ in range(150):
    file = draw.choice(files)
    handle = cache.open(file)
    assert os.pread(handle, 2000, 0) == file.name[:1].encode() * 1000, file
    with cache._alone():  # nobody makes room while sizes are added up
        held = sum(status.st_size for p in Path(sys.argv[2]).iterdir() if (status := _status(p)))
    os.close(handle)
    assert held <= 4000, held
"""


@pytest.mark.multiprocess
def test_several_processes_share_a_cache(tmp_path):
    """Three processes read eight files through room for four; each holds one, so there is always room."""
    (tmp_path / "from").mkdir()
    for name in "abcdefgh":
        (tmp_path / "from" / f"{name}.tar").write_bytes(name.encode() * 1000)
    arguments = [str(tmp_path / "from"), str(tmp_path / "cache")]
    running = [
        subprocess.Popen([sys.executable, "-c", MANY, *arguments, str(seed)], stderr=subprocess.PIPE, text=True)
        for seed in range(3)
    ]
    for process in running:
        _, faults = process.communicate(timeout=120)
        assert process.returncode == 0, faults
    left = [path.name for path in (tmp_path / "cache").iterdir()]
    assert not [name for name in left if name.endswith(".part")]


def test_who_waits_for_a_fetch_gets_its_result(tmp_path, memory, monkeypatch):
    cache = ShardCache(tmp_path / "cache", 10_000)
    file = put(memory, "a.tar", b"whole")
    started, let_go, fetches = threading.Event(), threading.Event(), []
    get = type(memory).get_file

    def slow(self, *arguments, **options):
        fetches.append(arguments)
        started.set()
        assert let_go.wait(20)
        return get(self, *arguments, **options)

    monkeypatch.setattr(type(memory), "get_file", slow)
    monkeypatch.setattr("sclds.data.storage.cache._POLL_SECONDS", 0.001)
    found = []
    threads = [threading.Thread(target=lambda: found.append(content_of(cache, file))) for _ in range(3)]
    for thread in threads:
        thread.start()
    assert started.wait(20)
    let_go.set()
    for thread in threads:
        thread.join(20)
    assert found == [b"whole"] * 3
    assert len(fetches) == 1
