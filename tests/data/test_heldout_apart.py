"""Held-out sets that training reads are said, whatever the paths are called; others are not."""

import pytest

from sclds.config.reading import load_config
from sclds.data.heldout_apart import shared_shards
from sclds.data.prepare.index import prepare_index

from .faults import write_shard
from .synthetic import picture


@pytest.mark.parametrize(
    ("train", "heldout", "shared"),
    [
        ("a", "a", 2),
        ("a", "a/../a/*.tar", 2),
        ("a/{0..1}.tar", "a/1.tar", 1),
        ("a", "link", 2),
        ("a/0.tar", "a/1.tar", 0),
        ("a", "b", 0),
    ],
)
def test_shards_of_both_are_said(train, heldout, shared, tmp_path):
    for name in ("a/0.tar", "a/1.tar", "b/0.tar"):
        write_shard(tmp_path / name, {"k": [(".png", b""), (".txt", b"words")]})
    (tmp_path / "link").symlink_to("a")
    rows = [f"data.train=[{{name: t, shards: '{tmp_path}/{train}'}}]"]
    rows += [f"data.heldout=[{{name: h, shards: '{tmp_path}/{heldout}'}}]"]
    told = shared_shards(load_config("quickstart", rows).data)
    assert len(told) == bool(shared)
    if shared:
        assert f"Held-out data set 'h' has {shared} shards that training set 't' reads too" in told[0]


def test_the_shipped_sets_are_apart():
    assert shared_shards(load_config("quickstart").data) == []


@pytest.mark.parametrize("task", ["", "task={name: retrieval}"])
def test_images_of_both_are_counted_and_named_by_content(task, tmp_path):
    """Under other names in other shards; sets without an index are not read for it."""
    shards = {"t": {"x": 1, "y": 2, "z": 3}, "h": {"a": 9, "b": 3, "c": 1}, "o": {"a": 7}}
    for folder, pictures in shards.items():
        members = {key: [(".png", picture(seed)), (".txt", b"words")] for key, seed in pictures.items()}
        write_shard(tmp_path / folder / "0.tar", members)
    rows = [f"data.train=[{{name: t, shards: '{tmp_path}/t'}}]", *([task] if task else [])]
    rows += [f"data.heldout=[{{name: h, shards: '{tmp_path}/h'}},{{name: o, shards: '{tmp_path}/o'}}]"]
    data = load_config("quickstart", rows).data
    prepare_index(str(tmp_path / "t"), "image", 1, tmp_path / "work")
    assert shared_shards(data) == []
    for folder in ("h", "o"):
        prepare_index(str(tmp_path / folder), "image", 1, tmp_path / "work")
    [told] = shared_shards(data)
    assert "Held-out data set 'h' has 2 images or videos whose content training set 't' has too, such as h/0/b" in told
