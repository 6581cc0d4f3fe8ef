"""An index is compared with its shards, at the start and whenever a sample is read: none is taken on trust."""

import json
import os
import zlib

import numpy as np
import pytest

from sclds.config import DatasetConfig
from sclds.config.errors import DataError
from sclds.data.loader import heldout_batches
from sclds.data.prepare.index import prepare_index
from sclds.data.quarantine import Quarantine
from sclds.data.storage.index_file import read_index
from sclds.data.storage.shards import BadSampleError, ShardReader, open_index, shard_problems
from sclds.data.tokenizer import load_tokenizer

from ..synthetic import image_members, write_tar
from ..test_faults import config_over

COLUMNS = {"offset": ("<i8", 3), "size": ("<u4", 3), "key_end": ("<i8", 1), "crc32": ("<u4", 3)}


def dataset(folder):
    return DatasetConfig(name="set", shards=str(folder))


def prepared(folder, **options):
    return prepare_index(str(folder), "image", 1, folder / ".index-parts", **options)


@pytest.fixture
def folder(tmp_path):
    for number in range(3):
        write_tar(tmp_path / "set" / f"{number}.tar", image_members([f"{number}{k}" for k in range(6)]))
    prepared(tmp_path / "set")
    return tmp_path / "set"


def changed(folder, name, change):
    """Write an index anew with one column changed in place."""
    path = folder / "samples.index"
    content = bytearray(path.read_bytes())
    length = int.from_bytes(content[8:16], "little")
    begin = (16 + length + 4095) // 4096 * 4096
    placed = json.loads(content[16 : 16 + length])["columns"][name]
    dtype, width = COLUMNS[name]
    start, count = begin + placed["start"], placed["shape"][0] * width
    values = np.frombuffer(content, dtype, count, start).reshape(-1, width).copy()
    content[start : start + values.nbytes] = np.ascontiguousarray(change(values), dtype).tobytes()
    path.write_bytes(content)


def swapped(values):
    return values.byteswap()


@pytest.mark.parametrize(
    ("name", "change", "words"),
    [
        ("offset", lambda v: v + 1, r"would have a member at byte 513 of 0\.tar, .* in blocks of 512"),
        ("offset", lambda v: v + (1 << 40), r"of 0\.tar, .* and the shard has 30720 bytes"),
        ("offset", lambda v: -v, "would have a member at byte -"),
        ("offset", swapped, "would have a member at byte"),
        ("offset", lambda v: np.full_like(v, np.iinfo(np.int64).max - 511), "would have a member at byte"),
        ("offset", lambda v: np.full_like(v, np.iinfo(np.int64).min), "would have a member at byte"),
        ("size", swapped, "bytes long, and the shard has"),
        ("key_end", lambda v: v[::-1], "its keys do not follow one another"),
        ("key_end", lambda v: v + 1, "its keys do not end where its samples do"),
        ("key_end", lambda v: -v, "its keys do not follow one another"),
    ],
)
def test_places_outside_a_shard_are_refused_with_the_command(folder, name, change, words):
    changed(folder, name, change)
    with pytest.raises(DataError, match=words) as caught:
        open_index([dataset(folder)])
    assert f"`sclds prepare index {folder}`" in str(caught.value)
    assert prepared(folder).read == 3, "what cannot be used is written anew"
    assert shard_problems(dataset(folder)) == []


@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        (
            b'"dtype": "<i8", "shape": [18, 3]',
            b'"dtype": ">i8", "shape": [18, 3]',
            "'offset' is expected as .*<i8.*>i8",
        ),
        (b'"dtype": "<u4", "shape": [18, 3]', b'"dtype": "<f4", "shape": [18, 3]', "'size' is expected as .*<u4.*<f4"),
        (b'"dtype": "<i8", "shape": [18]', b'"dtype": "<u8", "shape": [18]', "'key_end' is expected as"),
        (b'"start": 4096', b'"start": 0   ', "'size' is expected as"),
        (b'"samples": 6', b'"samples":-6', "30720 bytes and -6 samples"),
    ],
)
def test_columns_of_another_form_are_refused(folder, old, new, words):
    path = folder / "samples.index"
    content = path.read_bytes()
    assert old in content
    path.write_bytes(content.replace(old, new, 1))
    with pytest.raises(DataError, match=words):
        read_index(path)


@pytest.mark.parametrize(
    ("name", "change"),
    [
        ("offset", lambda v: np.roll(v, 1, 0)),
        ("offset", lambda v: np.roll(v, -1, 0)),
        ("offset", lambda v: v[:, [2, 1, 0]]),
        ("crc32", lambda v: v + 1),
    ],
)
def test_columns_that_are_shifted_end_the_run_at_its_start(folder, name, change):
    """All of them lie in their shards, so that only the bytes tell."""
    changed(folder, name, change)
    problems = shard_problems(dataset(folder))
    assert f"the index of {folder} does not fit shard {folder}/0.tar of data set 'set': " in problems[0]
    assert f"run `sclds prepare index {folder} --verify`" in problems[0]
    with pytest.raises(DataError, match="does not fit shard"):
        open_index([dataset(folder)])
    assert prepared(folder).read == 0
    assert shard_problems(dataset(folder)) != [], "size and time of the shards are what they were"
    done = prepared(folder, verify=True)
    assert (done.read, done.changed) == (3, ())
    assert shard_problems(dataset(folder)) == []


def test_a_shard_of_the_same_size_and_time_with_other_bytes_is_an_error(folder):
    path = folder / "1.tar"
    before = path.stat()
    write_tar(path, image_members([f"n{k}" for k in range(6)]) | {"z.txt": b""})
    path.write_bytes(path.read_bytes()[: before.st_size].ljust(before.st_size, b"\0"))
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    (problem,) = shard_problems(dataset(folder))
    assert f"does not fit shard {path}" in problem


@pytest.mark.parametrize("suffix", ["png", "json"])
def test_a_member_whose_bytes_changed_is_one_bad_sample(folder, tmp_path, suffix):
    """Bit rot: the rest of the shard is as it was, so the run goes on, and names the sample."""
    index = open_index([dataset(folder)])
    shard, row = index.locate(8)
    at, _ = shard.member(row, 0 if suffix == "png" else 2)
    before, content = (folder / "1.tar").stat(), bytearray((folder / "1.tar").read_bytes())
    content[at + 20] ^= 1
    (folder / "1.tar").write_bytes(content)
    os.utime(folder / "1.tar", ns=(before.st_atime_ns, before.st_mtime_ns))
    reader = ShardReader()
    with pytest.raises(
        BadSampleError, match=r"are not those that were indexed \(CRC-32\); `sclds prepare .* --verify`"
    ):
        reader.media(shard, row) if suffix == "png" else reader.captions(shard, row)
    quarantine = Quarantine(tmp_path / "quarantine.jsonl")
    config = config_over([dataset(folder)])
    list(heldout_batches(config, load_tokenizer("embedded"), quarantine=quarantine))
    (line,) = [json.loads(line) for line in (tmp_path / "quarantine.jsonl").read_text(encoding="utf-8").splitlines()]
    assert line["sample"] == "set/1/12"
    assert "its bytes are not those that were indexed" in line["reason"]


def as_version_1(path):
    """Write an index as version 1 had it: one checksum a sample, no `key_ends`, nothing of what is left out."""
    index = read_index(path)
    columns = {name: np.array(values) for name, values in index.columns.items()}
    columns["crc32"] = columns["crc32"][:, 0].copy()
    placed, start, parts = {}, 0, []
    for name in ("offset", "size", "key_end", "width", "height", "frames", "caption_length", "crc32", "keys"):
        content = columns[name].tobytes()
        placed[name] = {"dtype": columns[name].dtype.str, "shape": list(columns[name].shape), "start": start}
        parts.append(content.ljust(-(-len(content) // 4096) * 4096, b"\0"))
        start += len(parts[-1])
    names = ("name", "size", "stamp", "sha256", "samples")
    shards = [{name: getattr(entry, name) for name in names} for entry in index.shards]
    header = json.dumps({"version": 1, "kind": index.kind, "columns": placed, "shards": shards}).encode()
    head = b"SCLINDEX" + len(header).to_bytes(8, "little") + header
    path.write_bytes(head.ljust(-(-len(head) // 4096) * 4096, b"\0") + b"".join(parts))


def test_an_index_of_version_1_is_read_checked_and_renewed(folder):
    as_version_1(folder / "samples.index")
    index, reader = open_index([dataset(folder)]), ShardReader()
    shard, row = index.locate(7)
    content = reader.media(shard, row)
    assert shard.checksum(row, 0) == zlib.crc32(content)
    assert shard.checksum(row, 2) is None
    assert reader.captions(shard, row)
    with pytest.raises(DataError, match="has key_ends: last_dot"):
        open_index([dataset(folder).model_copy(update={"key_ends": "last_dot"})])
    done = prepared(folder)
    assert done.read == 3
    assert done.why_anew == "has version 1 of the format, without checksums of captions"
    assert (done.index.version, prepared(folder).read) == (2, 0)
    assert open_index([dataset(folder)]).shards[0].checksum(0, 2) is not None
