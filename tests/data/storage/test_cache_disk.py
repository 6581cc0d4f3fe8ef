"""Faults of the machine end a run with a sentence; they are never booked as bad samples."""

import contextlib
import errno
import os
import subprocess

import fsspec
import pytest

from sclds.config import DatasetConfig
from sclds.config.errors import DataError
from sclds.data.loader import TrainingBatches
from sclds.data.prepare.index import prepare_index
from sclds.data.quarantine import Quarantine
from sclds.data.storage import cache as cache_module
from sclds.data.storage import reader as reader_module
from sclds.data.storage.cache import ShardCache
from sclds.data.storage.disk import MachineFaultError
from sclds.data.storage.shards import BadSampleError, ShardReader, data_problems, open_index
from sclds.data.tokenizer import load_tokenizer

from ..synthetic import image_members, write_tar
from ..test_remote_shards import config_of


@pytest.fixture
def folder(tmp_path, monkeypatch):
    for number in range(2):
        write_tar(tmp_path / "set" / f"{number}.tar", image_members([f"{number}{k}" for k in range(4)]))
    prepare_index(str(tmp_path / "set"), "image", 1, tmp_path / "set" / ".index-parts")
    monkeypatch.setattr(reader_module, "_RETRY_SECONDS", (0.001,))
    return tmp_path / "set"


def far(folder, cache):
    """The samples of a folder as if it lay elsewhere; the index is in the cache already."""
    return open_index([DatasetConfig(name="set", shards=f"file://{folder}")], ShardCache(cache, 10**8))


def failing(number, when=lambda *arguments: True):
    def fail(original):
        def call(*arguments, **options):
            if when(*arguments):
                raise OSError(number, os.strerror(number))
            return original(*arguments, **options)

        return call

    return fail


def of_local_files(monkeypatch, name, fault):
    system = type(fsspec.filesystem("file"))
    monkeypatch.setattr(system, name, fault(getattr(system, name)))


@pytest.mark.parametrize(
    ("number", "remedy"),
    [
        (errno.ENOSPC, "Free some, lower data.cache_bytes, or give another data.cache_dir"),
        (errno.EDQUOT, "Free some, lower data.cache_bytes"),
        (errno.EROFS, "Make it writable for this user, or give another data.cache_dir"),
        (errno.EFBIG, "`ulimit -f`"),
    ],
)
def test_a_cache_that_cannot_be_written_ends_the_run(folder, tmp_path, monkeypatch, number, remedy):
    index = far(folder, tmp_path / "cache")
    of_local_files(monkeypatch, "get_file", failing(number))
    with pytest.raises(MachineFaultError) as caught:
        ShardReader().media(*index.locate(0))
    for part in (str(tmp_path / "cache"), os.strerror(number), "GB are free there", remedy):
        assert part in str(caught.value)
    assert not [path for path in (tmp_path / "cache").iterdir() if path.name.endswith(".part")]


@pytest.mark.parametrize("number", [errno.EIO, errno.EACCES, errno.EPERM])
def test_a_fault_that_either_end_may_have_is_told_apart(folder, tmp_path, monkeypatch, number):
    index = far(folder, tmp_path / "cache")
    of_local_files(monkeypatch, "get_file", failing(number))
    with pytest.raises(BadSampleError, match="its shard cannot be read"):
        ShardReader().media(*index.locate(0))
    monkeypatch.setattr("sclds.data.storage.disk.os.pwrite", failing(number)(os.pwrite))
    with pytest.raises(MachineFaultError, match=rf"{tmp_path}/cache cannot be used: .*give another data\.cache_dir"):
        ShardReader().media(*index.locate(0))


@pytest.mark.parametrize("step", ["_lock", "_status"])
def test_every_step_of_the_cache_is_judged(folder, tmp_path, monkeypatch, step):
    """Locks and sizes: what fails there is the cache's disk."""
    index = far(folder, tmp_path / "cache")
    monkeypatch.setattr(cache_module, step, failing(errno.EIO)(getattr(cache_module, step)))
    with pytest.raises(MachineFaultError, match="The disk may be failing"):
        ShardReader().media(*index.locate(0))


def test_a_copy_that_cannot_be_read_is_the_disks_fault_and_a_shard_in_place_the_datas(folder, tmp_path, monkeypatch):
    index, here = far(folder, tmp_path / "cache"), open_index([DatasetConfig(name="set", shards=str(folder))])
    monkeypatch.setattr("sclds.data.storage.reader.os.pread", failing(errno.EIO)(os.pread))
    with pytest.raises(MachineFaultError, match=f"{tmp_path}/cache"):
        ShardReader().media(*index.locate(0))
    with pytest.raises(BadSampleError, match="Input/output error"):
        ShardReader().media(*here.locate(0))


@pytest.mark.parametrize(("number", "remedy"), [(errno.EMFILE, "ulimit -n"), (errno.ENFILE, "fs.file-max")])
def test_running_out_of_files_is_the_machines_fault(folder, monkeypatch, number, remedy):
    index = open_index([DatasetConfig(name="set", shards=str(folder))])
    monkeypatch.setattr("sclds.data.storage.sample_index.os.open", failing(number)(os.open))
    with pytest.raises(MachineFaultError, match=remedy):
        ShardReader().media(*index.locate(0))


def test_a_file_in_the_caches_place_is_a_sentence_at_the_start(folder, tmp_path):
    (tmp_path / "cache").write_bytes(b"")
    config = config_of(f"file://{folder}", cache_dir=str(tmp_path / "cache"), cache_bytes=10**8)
    (problem,) = data_problems(config.data)
    assert f"the shard cache {tmp_path / 'cache'} cannot be used" in problem


def test_training_stops_and_books_no_sample(folder, tmp_path, monkeypatch):
    config = config_of(f"file://{folder}", cache_dir=str(tmp_path / "cache"), cache_bytes=10**8, max_bad_share=1.0)
    quarantine = Quarantine(tmp_path / "quarantine.jsonl")
    training = TrainingBatches(config, load_tokenizer("embedded"), 0, 1, 4, 1, quarantine=quarantine)
    of_local_files(monkeypatch, "get_file", failing(errno.ENOSPC))
    batches = iter(training)
    with pytest.raises(DataError, match="No space left on device"):
        next(batches)
    assert not (tmp_path / "quarantine.jsonl").exists()
    assert quarantine.bad == 0


@contextlib.contextmanager
def small_disk(place, size, options=""):
    """A disk of its own, where this process may mount one."""
    place.mkdir()
    line = ["mount", "-t", "tmpfs", "-o", f"size={size}{options}", "tmpfs", str(place)]
    if os.geteuid() or subprocess.run(line, capture_output=True).returncode:
        pytest.skip("only root may mount a disk")
    try:
        yield
    finally:
        subprocess.run(["umount", "--lazy", str(place)], check=True)  # an index in it is still mapped


def test_a_disk_that_is_full_in_truth(folder, tmp_path):
    with small_disk(tmp_path / "disk", "1m"):
        index = far(folder, tmp_path / "disk" / "cache")
        with pytest.raises(OSError, match="No space left"):
            (tmp_path / "disk" / "other").write_bytes(bytes(1 << 21))
        with pytest.raises(MachineFaultError, match=r"No space left on device; 0\.000 of 0\.001 GB are free there"):
            ShardReader().media(*index.locate(0))
        with pytest.raises(MachineFaultError):
            ShardReader().media(*index.locate(5))


def test_a_disk_that_is_read_only_in_truth(folder, tmp_path):
    said = r"Read-only file system; .* Make it writable for this user"
    with small_disk(tmp_path / "disk", "1m", ",ro"), pytest.raises(DataError, match=said):
        far(folder, tmp_path / "disk" / "cache")
