"""The table of docs/faults.md on settings is true: each row is made, and refused with the words beside it."""

import re
from pathlib import Path

import pytest
import torch

from sclds.config.errors import ConfigError
from sclds.config.reading import load_config
from sclds.data.media.decode import check_device

ROOT = Path(__file__).resolve().parents[2]
QUICKSTART = ROOT / "configs" / "quickstart.yaml"


def file_with(text, folder):
    """Return a configuration file that holds a text, or bytes."""
    file = folder / "own.yaml"
    file.write_bytes(text if isinstance(text, bytes) else text.encode())
    return file


def over(*settings):
    return lambda folder: load_config(QUICKSTART, list(settings))


def of(text):
    return lambda folder: load_config(file_with(text, folder), [])


SETTINGS = {
    "key that nothing is called": over("batch.global_sise=8"),
    "value of another kind, or out of its range": over("schedule.steps=many", "batch.global_size=0"),
    "number that is none: nan, inf": over("optimizer.learning_rate=nan"),
    "key given twice behind a command, as where a shell expanded braces": over("seed=1", "seed=2"),
    "key given twice in a file": of(QUICKSTART.read_text(encoding="utf-8").replace("seed: 0\n", "") + "name: again\n"),
    "words that are no setting": over("seed"),
    "setting that has no effect": over("data.nvdec=false"),
    "file that is not there, with the names that are": lambda folder: load_config(folder / "none.yaml", []),
    "folder instead of a file": lambda folder: load_config(folder, []),
    "file that is no YAML": of("data: [1\n"),
    "file that is no text": of(b"name: \xff\n"),
    "file that holds a list": of("- 1\n"),
    "empty file": of(""),
    "`data.device: mixed` without a GPU": lambda folder: check_device(
        load_config(QUICKSTART, ["data.device=mixed"]).data
    ),
}


def rows():
    page = (ROOT / "docs" / "faults.md").read_text(encoding="utf-8")
    section = page.split("| setting | refused with |\n|---|---|\n")[1].split("\n\n")[0]
    return dict(re.fullmatch(r"\| (.*?) \| `(.*)` \|", line).groups() for line in section.splitlines())


def test_the_page_and_the_faults_name_the_same_rows():
    assert list(rows()) == list(SETTINGS)


@pytest.mark.parametrize("row", SETTINGS)
def test_a_setting_is_refused_with_the_words_of_the_page(row, tmp_path, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(ConfigError) as fault:
        SETTINGS[row](tmp_path)
    assert rows()[row] in str(fault.value)
