"""Shards that others offer are read as they are: a small imitation of pixparse's cc3m-wds and cc12m-wds."""

import json

import pytest

from sclds.cli.main import main
from sclds.config.reading import load_config
from sclds.data.prepare.sources import READY
from sclds.data.storage.shards import ShardReader, data_problems, open_index

from .synthetic import picture, write_tar


@pytest.mark.parametrize("indexed", [False, True])
def test_the_rows_of_the_catalogue_find_them(indexed, tmp_path, monkeypatch, capsys):
    """jpg, txt and json a sample; keys start anew in every shard, and both splits of CC3M lie in one folder."""
    for name, place in READY.items():
        for shard in range(2):
            members = {}
            for n in range(2):
                key = f"{n:09d}"
                about = {"caption": "as listed", "url": "http://x", "key": key, "status": "success"}
                members |= {f"{key}.jpg": picture(n, "JPEG"), f"{key}.txt": f"{name} {shard}{n}".encode()}
                members |= {f"{key}.json": json.dumps(about).encode()}
            write_tar(tmp_path / place.replace("*", f"{shard:04d}"), members)
    if indexed:
        for folder in ("cc3m-wds", "cc12m-wds"):
            assert main(["prepare", "index", str(tmp_path / folder), "--workers", "1"]) == 0
        assert "of which 4 were read now" in capsys.readouterr().out
    monkeypatch.setenv("DATA_ROOT", str(tmp_path))
    rows = ", ".join(f"{{name: {name}}}" for name in READY)
    data = load_config("quickstart", [f"data.train=[{rows}]"]).data
    assert data_problems(data) == []
    for dataset in data.train:
        index, reader = open_index([dataset]), ShardReader()
        found = [reader.captions(*index.locate(number)) for number in range(len(index))]
        assert found == [[f"{dataset.name} {shard}{n}"] for shard in range(2) for n in range(2)]
