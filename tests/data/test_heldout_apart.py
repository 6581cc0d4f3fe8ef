"""Held-out sets that training reads are said, whatever the paths are called; others are not."""

import pytest

from sclds.config.reading import load_config
from sclds.data.heldout_apart import shared_shards

from .faults import write_shard


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
