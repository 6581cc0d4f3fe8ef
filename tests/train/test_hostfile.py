"""Hostfiles: what is read, and every mistake as a sentence with its line."""

import pytest

from sclds.config.errors import ConfigError
from sclds.train.hostfile import chosen_hosts, is_here, missing_tools, read_hostfile, unknown_hosts


def written(tmp_path, text):
    path = tmp_path / "hosts"
    path.write_text(text)
    return path


def test_hosts_and_slots_in_their_order(tmp_path):
    path = written(tmp_path, "# ours\n\nworker-2 slots=8\nme@10.0.0.1\tslots=4  # half\n")
    assert list(read_hostfile(path).items()) == [("worker-2", 8), ("me@10.0.0.1", 4)]


@pytest.mark.parametrize(
    ("line", "told"),
    [
        ("worker-1", "line 2: expected the host's name and slots=, got 'worker-1'"),
        ("worker-1 slots = 8", "line 2: expected the host's name and slots="),
        ("worker-1 slots=8 max_slots=8", "line 2: expected the host's name and slots="),
        ("worker-1 slots=", "slots= is not the number"),
        ("worker-1 slots=0", "slots=0 is not the number of the host's GPUs, 1 or more"),
        ("worker-1 slots=8x", "slots=8x is not the number"),
        ("worker-1 slots=-8", "slots=-8 is not the number"),
        ("first slots=4", "line 2: first stands in line 1 already"),
        ("-oProxyCommand=x slots=1", "is not the name or address of a host"),
        ("$(id) slots=1", "is not the name or address of a host"),
    ],
)
def test_a_wrong_line_is_told(tmp_path, line, told):
    with pytest.raises(ConfigError) as fault:
        read_hostfile(written(tmp_path, f"first slots=8\n{line}\n"))
    assert told in str(fault.value)


def test_all_wrong_lines_are_told_at_once(tmp_path):
    with pytest.raises(ConfigError) as fault:
        read_hostfile(written(tmp_path, "a\nb slots=0\n"))
    assert len(fault.value.problems) == 2


def test_a_file_that_is_missing_or_names_nobody(tmp_path):
    with pytest.raises(ConfigError, match=r"cannot be read \(No such file"):
        read_hostfile(tmp_path / "none")
    with pytest.raises(ConfigError, match="names no host"):
        read_hostfile(written(tmp_path, "# nobody\n"))


def test_a_choice_of_hosts_is_deepspeeds():
    hosts = {"a": 4, "b": 4}
    assert chosen_hosts(hosts, "", "") == hosts
    assert chosen_hosts(hosts, "b:0,2", "") == {"b": 2}
    assert chosen_hosts(hosts, "", "a") == {"b": 4}
    for include, exclude in (("c", ""), ("a:9", ""), ("a:x", ""), ("a", "b"), ("", "a@b")):
        with pytest.raises(ConfigError, match=r"--(in|ex)clude"):
            chosen_hosts(hosts, include, exclude)


def test_what_a_launcher_calls_is_named_where_it_is_missing(tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    assert "install pdsh (apt-get install pdsh" in missing_tools("pdsh")[0]
    assert len(missing_tools("openmpi")) == 3


def test_names():
    assert is_here("localhost")
    assert not is_here("worker-1.invalid")
    assert unknown_hosts(["localhost", "worker-1.invalid"]) == ["worker-1.invalid"]
