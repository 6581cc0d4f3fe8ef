"""Processes that read or run something else than the others are refused, with their host's name."""

import pytest

from sclds.config.errors import SharedError
from sclds.config.reading import load_config
from sclds.train.agreement import code_digest, refuse_different_starts, versions


class Group:
    """Gathers what two further ranks would give, of which one may differ."""

    def __init__(self, facts=None, settings=None):
        self.changes = iter([facts or {}, settings or {}])

    def gather_objects(self, value):
        host, own = value
        return [value, ("worker-2", own | next(self.changes)), (host, own)]


def test_equal_processes_start():
    refuse_different_starts(load_config("quickstart"), Group())


def test_a_host_that_read_other_settings_is_named_with_them():
    group = Group({"settings": "another"}, {"seed": 7, "data.train.0.shards": "/d/00331.tar"})
    with pytest.raises(SharedError, match="different settings") as told:
        refuse_different_starts(load_config("quickstart"), group)
    assert "worker-2 has data.train.0.shards='/d/00331.tar', worker-2 has seed=7;" in str(told.value)


@pytest.mark.parametrize("name", ["sclds", "torch", "deepspeed"])
def test_a_host_with_another_version_is_named(name):
    with pytest.raises(SharedError, match=f"versions of {name}: worker-2 has 0.0, the others "):
        refuse_different_starts(load_config("quickstart"), Group({name: "0.0"}))


def test_code_that_was_changed_without_its_version_counts(tmp_path):
    (tmp_path / "step.py").write_text("a = 1")
    before = code_digest(tmp_path)
    (tmp_path / "step.py").write_text("a = 2")
    assert code_digest(tmp_path) != before
    assert versions()["sclds"].startswith("0.")
