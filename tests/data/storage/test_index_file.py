"""The index file gives back what was written, opens at once however large, and names what is wrong with it."""

import json
import subprocess
import sys
import zlib
from unittest.mock import ANY

import numpy as np
import pytest

from sclds.config.errors import DataError
from sclds.data.storage.index_file import ABSENT, ShardEntry, columns_of_keys, key_at, read_index, write_index
from sclds.data.storage.left_out import LeftOut

KEYS = ["a", "../b", "ü/c", "\udcff", "d" * 300]


def columns_like(keys, seed=0):
    rng = np.random.default_rng(seed)
    n = len(keys)
    numbers = {name: rng.integers(0, 1000, n) for name in ("width", "height", "frames", "caption_length")}
    places = {"offset": 512 * rng.integers(1, 1000, (n, 3)), "size": rng.integers(0, 512 * 1000, (n, 3))}
    places["size"][::3, 1], places["size"][::2, 2] = ABSENT, 0
    return {**places, **columns_of_keys(keys), **numbers, "crc32": rng.integers(0, 2**32, (n, 3))}


def entry(name, samples):
    return ShardEntry(name, 1 << 20, "17", "0" * 64, samples, (LeftOut("hard link", 2, ("a\udcff.jpg", "ü.jpg")),))


def test_what_was_written_is_read(tmp_path):
    path = tmp_path / "samples.index"
    parts = [(entry("0.tar", 5), columns_like(KEYS)), (entry("1.tar", 0), columns_like([]))]
    parts.append((entry("2.tar", 2), columns_like(["x", "yy"], 1)))
    write_index(path, "video", "last_dot", parts)
    index = read_index(path)
    assert (index.kind, index.key_ends, index.shards) == ("video", "last_dot", [one for one, _ in parts])
    assert [key_at(index.columns, row) for row in range(7)] == [*KEYS, "x", "yy"]
    first = 0
    for one, columns in parts:
        rows = index.rows(first, one.samples)
        for name, values in columns.items():
            assert np.array_equal(rows[name], values), name
        first += one.samples
    assert [file.name for file in tmp_path.iterdir()] == ["samples.index"]


def test_the_documented_layout_is_the_one_on_disk(tmp_path):
    """docs/data.md describes it; a reader of a few lines, written from there, must do."""
    path = tmp_path / "samples.index"
    columns = columns_like(KEYS)
    write_index(path, "image", "first_dot", [(entry("0.tar", 5), columns)])
    content = path.read_bytes()
    assert content[:8] == b"SCLINDEX"
    length = int.from_bytes(content[8:16], "little")
    header = json.loads(content[16 : 16 + length])
    begin = (16 + length + 4095) // 4096 * 4096
    for name, placed in header["columns"].items():
        count = int(np.prod(placed["shape"]))
        values = np.frombuffer(content, placed["dtype"], count, begin + placed["start"]).reshape(placed["shape"])
        assert np.array_equal(values, columns[name]), name
    assert (header["version"], header["key_ends"]) == (2, "first_dot")
    assert header["shards"][0]["left_out"][0] == {"reason": "hard link", "count": 2, "names": ANY, "remedy": ""}


@pytest.mark.parametrize(
    ("damage", "reason"),
    [
        (lambda content: b"", "does not begin as one"),
        (lambda content: b"\0" * 8 + content[8:], "does not begin as one"),
        (lambda content: content[:8] + b"\xff" * 8 + content[16:], "does not begin as one"),
        (lambda content: content.replace(b'"version": 2', b'"version": 9'), "it has version 9, this program reads"),
        (lambda content: content.replace(b'"offset"', b'"ofsett"', 1), "offset"),
        (lambda content: content.replace(b'"samples": 5', b'"samples": 6'), "as many samples"),
        (lambda content: content[:9000], "it is truncated"),
        (lambda content: content[:100], "does not begin as one"),
    ],
)
def test_a_damaged_index_is_a_sentence_with_the_command(tmp_path, damage, reason):
    path = tmp_path / "samples.index"
    write_index(path, "image", "first_dot", [(entry("0.tar", 5), columns_like(KEYS))])
    path.write_bytes(damage(path.read_bytes()))
    with pytest.raises(DataError, match=reason) as caught:
        read_index(path)
    assert f"sclds prepare index {tmp_path}`" in str(caught.value)


def test_a_write_that_fails_leaves_the_old_index(tmp_path):
    path = tmp_path / "samples.index"
    write_index(path, "image", "first_dot", [(entry("0.tar", 5), columns_like(KEYS))])
    before = path.read_bytes()
    broken = {**columns_like(KEYS), "crc32": np.array(["no", "num", "ber", "s", ""])}
    with pytest.raises(ValueError, match="invalid literal"):
        write_index(path, "image", "first_dot", [(entry("0.tar", 5), broken)])
    assert path.read_bytes() == before
    assert [file.name for file in tmp_path.iterdir()] == ["samples.index"]


def synthetic_index(folder, shards, samples):
    """An index of empty sparse shards, all of whose samples look alike."""
    folder.mkdir()
    n = shards * samples
    keys = np.char.mod("%09d", np.arange(samples)).tolist()
    one = columns_like(keys)
    one["size"][:], one["crc32"][:] = 100, zlib.crc32(bytes(100))
    parts = []
    for number in range(shards):
        path = folder / f"{number:05d}.tar"
        with path.open("wb") as file:
            file.truncate(1 << 20)
        parts.append((ShardEntry(path.name, 1 << 20, f"mtime:{int(path.stat().st_mtime)}", "0" * 64, samples), one))
    write_index(folder / "samples.index", "image", "first_dot", parts)
    return n


OPEN_AND_ORDER = """
import resource, sys, time
from sclds.config import DatasetConfig
from sclds.data.storage.shards import open_index
from sclds.data.order import Order
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
start = time.perf_counter()
index = open_index([DatasetConfig(name="set", shards=sys.argv[1])])
opened = time.perf_counter()
places = Order(index, {"set": 1.3}, 0, 4096, 16).global_batch(1000)
ids = [index.locate(place.sample)[0].sample_id(index.locate(place.sample)[1]) for place in places]
done = time.perf_counter()
grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
print(len(index), opened - start, done - opened, grown // 1024)
"""
"""The figures of docs/data.md: samples, seconds to open, seconds to a first batch, MiB of memory for all of it."""


def test_an_index_opens_at_once_and_costs_little(tmp_path):
    """A million samples here; docs/data.md has the figures of ten million."""
    count = synthetic_index(tmp_path / "set", 100, 10_000)
    shown = subprocess.run(
        [sys.executable, "-c", OPEN_AND_ORDER, str(tmp_path / "set")], capture_output=True, text=True, check=True
    ).stdout.split()
    assert int(shown[0]) == count
    assert float(shown[1]) < 2
    assert float(shown[2]) < 5
    assert int(shown[3]) < 100
