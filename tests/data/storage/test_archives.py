"""No member of a shard is lost unsaid: odd tars are read to their ends or refused by byte, the unused is told."""

import bz2
import gzip
import io
import lzma
import tarfile
import zipfile

import pytest

from sclds.config import DatasetConfig
from sclds.config.errors import DataError
from sclds.data.prepare.index import prepare_index
from sclds.data.storage.shards import ShardReader, left_out_sentences, open_index, shard_problems, tally_of

from ..synthetic import caption, clip, image_members, picture, write_tar


def dataset(shards, kind="image", **fields):
    return DatasetConfig(name="set", shards=str(shards), kind=kind, **fields)


def prepared(folder, kind="image", **options):
    return prepare_index(str(folder), kind, 1, folder / ".index-parts", **options)


def keys(index):
    return [index.locate(k)[0].key(index.locate(k)[1]) for k in range(len(index))]


def told(index):
    return [str(one) for one in tally_of(index)]


def both(folder, kind="image", **fields):
    """Keys and what is left out, which must be alike out of the headers and out of an index."""
    scanned = open_index([dataset(folder, kind, **fields)])
    prepared(folder, kind, **fields)
    indexed = open_index([dataset(folder, kind, **fields)])
    assert (keys(scanned), told(scanned)) == (keys(indexed), told(indexed))
    reader = ShardReader()
    for number in range(len(indexed)):
        assert reader.media(*indexed.locate(number)) == reader.media(*scanned.locate(number))
    reader.close()
    return keys(indexed), told(indexed)


def refusals(folder):
    """What is said of a shard at the start, by its headers, and when it is indexed; each must refuse it."""
    found = []
    for read in (lambda: open_index([dataset(folder)]), lambda: prepared(folder)):
        with pytest.raises(DataError) as caught:
            read()
        found.append(str(caught.value))
    return found


@pytest.fixture
def halves(tmp_path):
    """The bytes of two sound shards."""
    return [write_tar(tmp_path / f"{name}.part", image_members(list(name))).read_bytes() for name in ("ab", "cd")]


@pytest.mark.parametrize("between", [0, 512, 1 << 16])
def test_shards_joined_by_cat_are_read_to_the_end(tmp_path, halves, between):
    (tmp_path / "set").mkdir()
    (tmp_path / "set" / "0.tar").write_bytes(halves[0] + bytes(between) + halves[1])
    assert both(tmp_path / "set") == (list("abcd"), [])


def test_members_of_one_name_in_joined_shards_are_told(tmp_path, halves):
    (tmp_path / "set").mkdir()
    (tmp_path / "set" / "0.tar").write_bytes(halves[0] + halves[0])
    assert both(tmp_path / "set") == (
        ["a", "b"],
        ["2 × second .json of a key (a.json, b.json)", "2 × second image of a key (a.png, b.png)"],
    )


@pytest.mark.parametrize(
    "rubbish", [b"x", b"rubbish" * 200, b"\0" * 100 + b"x" * 412, gzip.compress(b"x" * 2000, mtime=0)]
)
def test_what_follows_the_end_and_is_no_tar_is_told_by_its_byte(tmp_path, halves, rubbish):
    path = tmp_path / "set" / "0.tar"
    path.parent.mkdir()
    path.write_bytes(halves[0] + rubbish)
    for sentence in refusals(path.parent):
        assert f"follows byte {len(halves[0])}" in sentence
        assert f"truncate -s {len(halves[0])} {path}" in sentence
    path.write_bytes(halves[0])
    assert both(path.parent)[0] == ["a", "b"]


@pytest.mark.parametrize("cut", [100, 512 + 10, 2000, 5000])
def test_a_last_member_that_is_cut_is_an_error(tmp_path, halves, cut):
    path = tmp_path / "set" / "0.tar"
    path.parent.mkdir()
    path.write_bytes(halves[0][:cut])
    for sentence in refusals(path.parent):
        assert "0.tar" in sentence
        assert "unexpected end of data" in sentence or "is damaged" in sentence
        assert "fetch it again or remove it" in sentence


def test_a_shard_that_ends_where_a_member_ends_is_told(tmp_path, halves):
    """It may be whole, by a careless writer, or cut just there: nobody can know."""
    path = tmp_path / "set" / "0.tar"
    path.parent.mkdir()
    with tarfile.open(fileobj=io.BytesIO(halves[0])) as tar:
        path.write_bytes(halves[0][: tar.getmembers()[2].offset])
    found, said = both(path.parent)
    assert found == ["a"]
    assert said == ["1 × shard that ends without the mark of a tar's end, perhaps cut short (0.tar)"]


def zipped(content):
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr("a.tar", content)
    return buffer.getvalue()


@pytest.mark.parametrize(
    ("packed", "what", "remedy"),
    [
        (gzip.compress, "it is gzip-compressed", "decompress it: `gzip -dc"),
        (bz2.compress, "it is bzip2-compressed", "decompress it: `bzip2 -dc"),
        (lzma.compress, "it is xz-compressed", "decompress it: `xz -dc"),
        (lambda content: b"\x28\xb5\x2f\xfd" + content, "it is zstd-compressed", "decompress it: `zstd -dc"),
        (lambda content: b"\x50\x2a\x4d\x18" + content, "it is zstd-compressed", "decompress it: `zstd -dc"),
        (lambda content: b"\x1f\x9d\x90" + content, "it is compressed by `compress`", "decompress it: `gzip -dc"),
        (
            lambda content: lzma.compress(content, lzma.FORMAT_ALONE),
            "it is lzma-compressed",
            "decompress it: `xz --format=lzma -dc",
        ),
        (lambda content: b"LZIP\1" + content, "it is lzip-compressed", "decompress it: `lzip -dc"),
        (lambda content: b"\x89LZO" + content, "it is lzop-compressed", "decompress it: `lzop -dc"),
        (lambda content: b"070701" + content, "it is a cpio archive", "unpack it, and make a tar of its files"),
        (lambda content: b"PAR1" + content, "it is a Parquet file", "write its rows as the files of a tar"),
        (lambda content: b"<?xml version='1.0'?><Error/>" + content, "it is an XML page", "fetch it again"),
        (lambda content: b"\xef\xbb\xbf<!DOCTYPE html>" + content, "it is a web page", "fetch it again"),
        (zipped, "it is a zip file", "unpack it, and make a tar of its files"),
        (lambda content: b"\n<!DOCTYPE html>" + bytes(99), "it is a web page", "fetch it again"),
        (lambda content: b"version https://git-lfs.github.com/spec/v1\n", "a pointer of Git LFS", "git lfs pull"),
    ],
)
def test_other_formats_by_the_name_of_a_tar_are_named(tmp_path, halves, packed, what, remedy):
    path = tmp_path / "set" / "0.tar"
    path.parent.mkdir()
    path.write_bytes(packed(halves[0]))
    for sentence in (*refusals(path.parent), *shard_problems(dataset(path.parent))):
        assert f"{path}" in sentence
        assert what in sentence
        assert remedy in sentence


@pytest.mark.parametrize("form", [tarfile.GNU_FORMAT, tarfile.PAX_FORMAT, tarfile.USTAR_FORMAT])
def test_long_and_odd_names_in_every_format(tmp_path, form):
    long = "/".join(["k" * 90] * (2 if form == tarfile.USTAR_FORMAT else 4))
    names = {long: long, "./dotted": "dotted", ".//./deep//down": "deep/down"}
    names |= {name: name for name in ("/absolute/one", "../up", "猫")}
    (tmp_path / "set").mkdir()
    with tarfile.open(tmp_path / "set" / "0.tar", "w", format=form, encoding="utf-8") as tar:
        for number, (name, plain) in enumerate(names.items()):
            for member, content in ((f"{name}.png", picture(number)), (f"{plain}.txt", b"words")):
                info = tarfile.TarInfo(member)
                info.size = len(content)
                tar.addfile(info, io.BytesIO(content))
    assert both(tmp_path / "set") == (list(names.values()), [])


def test_links_sparse_and_special_members_are_counted_and_named(tmp_path):
    path = write_tar(tmp_path / "set" / "0.tar", image_members(["a"]))
    with tarfile.open(path, "a") as tar:
        for name, kind in [
            *((f"{k}.png", tarfile.LNKTYPE) for k in range(5)),
            ("s.png", tarfile.SYMTYPE),
            ("p.png", tarfile.FIFOTYPE),
            ("folder.png", tarfile.DIRTYPE),
            ("._a.png", tarfile.REGTYPE),
            ("READ\nME", tarfile.REGTYPE),
            ("a.cls", tarfile.REGTYPE),
        ]:
            info = tarfile.TarInfo(name)
            info.type, info.linkname = kind, "a.png"
            tar.addfile(info)
        sparse = tarfile.TarInfo("sparse.png")
        sparse.size, sparse.pax_headers = 512, {"GNU.sparse.major": "0", "GNU.sparse.minor": "1"}
        sparse.pax_headers |= {"GNU.sparse.map": "0,1", "GNU.sparse.size": "5000"}
        tar.addfile(sparse, io.BytesIO(bytes(512)))
    found, said = both(path.parent)
    assert found == ["a"]
    assert said == [
        "5 × hard link (0.png, 1.png, 2.png, …)",
        "1 × .cls file (a.cls)",
        r"1 × file of another extension (READ\nME)",
        "1 × hidden file (._a.png)",
        "1 × sparse file (sparse.png)",
        "1 × special file (p.png)",
        "1 × symbolic link (s.png)",
    ]
    assert left_out_sentences(open_index([dataset(path.parent)])) == [f"Left out of data set 'set': {'; '.join(said)}"]


def dotted(numbers):
    """Samples whose keys have dots."""
    members = {}
    for number in numbers:
        members |= {f"v1.{number}.png": picture(number), f"v1.{number}.json": caption(f"number {number}")}
    return members


def test_keys_with_dots_are_told_and_then_used(tmp_path):
    write_tar(tmp_path / "set" / "0.tar", dotted(range(20)))
    (problem,) = shard_problems(dataset(tmp_path / "set"))
    assert "40 × file whose name has several dots (v1.0.png, v1.0.json, v1.1.png, …)" in problem
    assert "set key_ends: last_dot on the data set's row" in problem
    write_tar(tmp_path / "set" / "0.tar", dotted(range(20)) | image_members(["plain"]))
    (said,) = both(tmp_path / "set")[1]
    assert said.startswith("40 × file whose name has several dots (v1.0.png")
    (tmp_path / "set" / "samples.index").unlink()
    found, said = both(tmp_path / "set", key_ends="last_dot")
    assert found == [*(f"v1.{number}" for number in range(20)), "plain"]
    assert said == []


def test_an_index_made_with_the_other_rule_is_refused_and_rebuilt(tmp_path):
    folder = write_tar(tmp_path / "set" / "0.tar", dotted(range(3)) | image_members(["plain"])).parent
    prepared(folder)
    (problem,) = shard_problems(dataset(folder, key_ends="last_dot"))
    assert f"has key_ends: last_dot, the index of {folder} was made with first_dot" in problem
    assert f"`sclds prepare index {folder} --key-ends last_dot`" in problem
    done = prepared(folder, key_ends="last_dot")
    assert (done.read, done.why_anew) == (1, "was made with key_ends: first_dot")
    assert shard_problems(dataset(folder, key_ends="last_dot")) == []
    assert prepared(folder, key_ends="last_dot").why_anew is None
    assert len(shard_problems(dataset(folder))) == 1


def test_hidden_files_stay_hidden_under_either_rule(tmp_path):
    members = {"._a.png": b"finder", ".b.txt": b"", "._c.vqa.json": b"{}"} | image_members(["a"])
    folder = write_tar(tmp_path / "set" / "0.tar", members).parent
    for rule in ("first_dot", "last_dot"):
        (folder / "samples.index").unlink(missing_ok=True)
        assert both(folder, key_ends=rule) == (["a"], ["3 × hidden file (._a.png, .b.txt, ._c.vqa.json)"])


def test_other_tasks_are_refused_under_either_rule(tmp_path):
    folder = write_tar(tmp_path / "set" / "0.tar", {"a.png": picture(1), "a.vqa.json": b"{}"}).parent
    for rule in ("first_dot", "last_dot"):
        (problem,) = shard_problems(dataset(folder, key_ends=rule))
        assert "holds questions about images (VQAv2)" in problem


def test_videos_beside_thumbnails(tmp_path):
    members = {"a.webm": clip(2), "a.txt": b"grey", "a.jpg": picture(1, "JPEG")}
    folder = write_tar(tmp_path / "set" / "0.tar", members).parent
    assert both(folder, "video") == (["a"], ["1 × .jpg file (a.jpg)"])


def test_compressed_shards_in_a_folder_are_told(tmp_path, halves):
    folder = tmp_path / "set"
    folder.mkdir()
    (folder / "1.tar.gz").write_bytes(gzip.compress(halves[1]))
    (problem,) = shard_problems(dataset(folder))
    assert "no .tar file is there, but compressed ones: 1.tar.gz; decompress them" in problem
    (folder / "0.tar").write_bytes(halves[0])
    assert both(folder) == (["a", "b"], ["1 × compressed shard (1.tar.gz): decompress it"])
    assert open_index([dataset(folder / "*.tar")]).shards[0].left_out == (), "a pattern names what is meant"
