"""Names that need the hub: the cache first, and a sentence at once where the hub cannot be had."""

import time

import pytest
from huggingface_hub import constants

from sclds.cli.main import main
from sclds.config.errors import UserError
from sclds.machine import hub
from sclds.machine.hub import from_hub


@pytest.fixture
def _unreachable(monkeypatch, tmp_path):
    """A hub that nobody answers for, and an empty cache."""
    monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:9")
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)


@pytest.fixture(params=[False, True], ids=["unreachable", "HF_HUB_OFFLINE"])
def offline(request, _unreachable, monkeypatch):
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", request.param)
    return request.param


def absent(name, **settings):
    raise OSError("not in the cache")


def test_what_is_not_in_the_cache_is_a_sentence_at_once(offline, tmp_path):
    begun = time.monotonic()
    with pytest.raises(UserError) as fault:
        from_hub(absent, "somebody/model", "The tokenizer 'somebody/model'")
    assert time.monotonic() - begun < hub.SECONDS
    told = str(fault.value)
    for part in ("HF_HUB_OFFLINE", str(tmp_path / "cache"), "`hf download somebody/model`", "HF_HOME"):
        assert part in told
    assert ("keeps this process off" in told) == offline


@pytest.mark.usefixtures("offline")
@pytest.mark.parametrize(
    ("command", "told"),
    [
        (
            ["train", "--config", "quickstart", "data.tokenizer=nobody/words", "run_dir=run"],
            "'nobody/words' is no path",
        ),
        (
            ["convert", "encoders", "out", "--vision", "nobody/sees", "--text", "x"],
            "vision encoder 'nobody/sees' is no",
        ),
    ],
)
def test_commands_end_with_it(tmp_path, monkeypatch, capsys, command, told):
    monkeypatch.chdir(tmp_path)
    begun = time.monotonic()
    assert main(command) == 2
    assert time.monotonic() - begun < 30, "most of it imports"
    found = capsys.readouterr().err
    assert told in found
    assert "hf download nobody/" in found


@pytest.mark.usefixtures("_unreachable")
def test_paths_and_the_cache_need_no_hub(tmp_path):
    (tmp_path / "here").mkdir()
    assert from_hub(lambda name, **settings: settings, str(tmp_path / "here"), "It") == {}
    assert from_hub(lambda name, **settings: settings, "in/cache", "It", a=1) == {"local_files_only": True, "a": 1}


@pytest.mark.parametrize("name", ["/no/such/words", "./words", "a/b/c", "~/words"])
def test_a_path_at_which_there_is_nothing_never_asks_the_hub(monkeypatch, name):
    monkeypatch.setattr(hub, "_hindrance", lambda: pytest.fail("asked"))
    with pytest.raises(UserError, match="is a path at which there is nothing"):
        from_hub(absent, name, "It")


def test_a_hub_that_answers_is_asked(monkeypatch):
    monkeypatch.setattr(hub, "_hindrance", lambda: "")
    asked = []

    def load(name, **settings):
        asked.append(settings)
        if settings:
            raise OSError("not in the cache")
        return name

    assert from_hub(load, "somebody/model", "It") == "somebody/model"
    assert asked == [{"local_files_only": True}, {}]
