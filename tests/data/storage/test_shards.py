"""Shards become an index of samples, and what is wrong with them becomes sentences."""

import pytest

from sclds.config import DatasetConfig
from sclds.config.errors import DataError
from sclds.data.storage.shards import BadSampleError, ShardReader, open_index, shard_problems

from ..synthetic import caption, clip, image_members, picture, write_tar


def dataset(shards, kind="image") -> DatasetConfig:
    return DatasetConfig(name="set", shards=str(shards), kind=kind)


def test_samples_are_numbered_and_read_by_offset(tmp_path):
    write_tar(tmp_path / "b.tar", image_members(["x", "deep/y"]))
    write_tar(tmp_path / "a.tar", {"n.txt": b" two \n words ", "n.JPG": picture(1, "JPEG"), "n.json": b"{}"})
    index, reader = open_index([dataset(tmp_path)]), ShardReader()
    assert len(index) == 3
    assert [index.locate(i)[0].sample_id(index.locate(i)[1]) for i in range(3)] == [
        "set/a/n",
        "set/b/x",
        "set/b/deep/y",
    ]
    assert reader.captions(*index.locate(0)) == ["two words"]
    assert reader.captions(*index.locate(1)) == ["a small picture of thing number x"]
    assert reader.media(*index.locate(0)) == picture(1, "JPEG")
    assert reader.media(*index.locate(2)) == picture(1)
    reader.close()


def test_shards_of_one_name_in_two_folders_have_two_names(tmp_path):
    for folder in ("x", "y"):
        write_tar(tmp_path / folder / "0.tar", image_members(["k"]))
    index = open_index([dataset(tmp_path / "*" / "*.tar")])
    assert [shard.sample_id(0) for shard in index.shards] == ["set/x/0/k", "set/y/0/k"]


def test_long_names_are_read(tmp_path):
    key = "k" * 150
    write_tar(tmp_path / "a.tar", image_members([key]))
    index = open_index([dataset(tmp_path / "*.tar")])
    assert index.locate(0)[0].key(0) == key


@pytest.mark.parametrize(
    ("members", "reason"),
    [
        ({"a.png": picture(0), "a.json": caption(" \n ")}, "its caption is empty"),
        ({"a.png": picture(0), "a.txt": b"\xff\xfe\xfa"}, "cannot be decoded"),
        ({"a.png": picture(0), "a.json": b"{"}, "cannot be decoded"),
        ({"a.png": picture(0), "a.json": b"[1]"}, "no text under 'caption'"),
        ({"a.png": picture(0)}, "it has no caption"),
        ({"a.json": caption("words"), "b.png": picture(0)}, "it has no image"),
    ],
)
def test_samples_without_caption_or_picture_say_so(tmp_path, members, reason):
    write_tar(tmp_path / "a.tar", members)
    index, reader = open_index([dataset(tmp_path)]), ShardReader()
    read = reader.media if "image" in reason else reader.captions
    with pytest.raises(BadSampleError, match=reason):
        read(*index.locate(0))


def test_every_faulty_shard_is_named(tmp_path):
    good = write_tar(tmp_path / "good.tar", image_members(["a", "b", "c"]))
    (tmp_path / "empty.tar").touch()
    (tmp_path / "noise.tar").write_bytes(b"noise" * 999)
    write_tar(tmp_path / "hollow.tar", {})
    write_tar(tmp_path / "clips.tar", {"a.webm": clip(2), "a.json": caption("a clip")})
    problems = shard_problems(dataset(tmp_path))
    assert len(problems) == 4
    for name, part in [
        ("empty.tar", "is empty"),
        ("noise.tar", "cannot be read"),
        ("hollow.tar", "no sample of kind 'image'"),
        ("clips.tar", "correct the data set's kind"),
    ]:
        assert any(name in problem and part in problem for problem in problems), (name, problems)
    with pytest.raises(DataError) as caught:
        open_index([dataset(tmp_path)])
    assert all(problem in str(caught.value) for problem in problems)
    assert shard_problems(dataset(good)) == []
    whole = good.read_bytes()
    for cut, reason in ((1500, "unexpected end of data"), (6000, "it is truncated")):
        good.write_bytes(whole[:cut])
        (problem,) = shard_problems(dataset(good))
        assert reason in problem
    with pytest.raises(DataError, match="unexpected end of data; fetch it again"):
        open_index([dataset(good)])


@pytest.mark.parametrize(
    ("shards", "part"),
    [("missing", "does not exist"), ("*.tar", "no .tar file"), ("", "no .tar file"), ("embedded:dogs", "images-train")],
)
def test_missing_shards_are_a_sentence(tmp_path, shards, part):
    place = shards if shards.startswith("embedded:") else tmp_path / shards
    (problem,) = shard_problems(dataset(place))
    assert "data set 'set'" in problem
    assert part in problem


def test_the_embedded_data_is_sound():
    for name in ("images-train", "images-heldout"):
        assert shard_problems(dataset(f"embedded:{name}")) == []
    for name in ("clips-train", "clips-heldout"):
        assert shard_problems(dataset(f"embedded:{name}", "video")) == []
