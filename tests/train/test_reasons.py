"""Each way in which processes do not find one another, made for real, and the reason that is told."""

import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from sclds.train.meeting import meeting_problem
from tests.train import nodes

ROOT = Path(__file__).parents[2]
HERE = socket.gethostname()


def free_port():
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return str(found.getsockname()[1])


@pytest.fixture
def listening():
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        yield str(taken.getsockname()[1])


def problem(address, port):
    return meeting_problem({"MASTER_ADDR": address, "MASTER_PORT": port})


def test_what_keeps_a_host_from_the_meeting_place(listening):
    assert problem("127.0.0.1", listening) == ""
    assert "nothing listens at 127.0.0.1" in problem("127.0.0.1", free_port())
    assert f"{HERE} does not know the name no-such-host.invalid" in problem("no-such-host.invalid", listening)
    assert f"{HERE} does not know the name" in problem("a" * 70, listening)
    assert "MASTER_ADDR and MASTER_PORT are not set" in problem("", "")


@pytest.mark.skipif(bool(nodes.lacking()), reason=f"this machine cannot hold nodes: {nodes.lacking()}")
def test_a_link_that_is_down_is_not_taken_for_a_process_that_ended(tmp_path):
    ask = "from sclds.train import meeting; meeting.SECONDS = 0.5; print(meeting.meeting_problem())"
    with nodes.Nodes(tmp_path, 2) as cluster:

        def asked():
            variables = nodes.environment(ROOT) | {"MASTER_ADDR": "node-a", "MASTER_PORT": "29500"}
            words = cluster.command("node-b", sys.executable, "-c", ask)
            return subprocess.run(words, env=variables, capture_output=True, text=True, check=True).stdout

        assert "nothing listens at node-a:29500" in asked()
        cluster.link("node-a", "down")
        assert "node-a:29500 cannot be reached from node-b" in asked()


_MEET = """
import sys
from pathlib import Path
from sclds.train.startup import exit_code
def work():
    from sclds.train.distributed import ProcessGroup
    ProcessGroup(2.0)
sys.exit(exit_code(work))
"""


@pytest.mark.multiprocess
@pytest.mark.parametrize(
    ("rank", "address", "told"),
    [
        (0, "127.0.0.1", "Only 1 of 2 processes came to 127.0.0.1:"),
        (1, "127.0.0.1", "nothing listens at 127.0.0.1:"),
        (1, "no-such-host.invalid", f"{HERE} does not know the name no-such-host.invalid"),
    ],
)
def test_torch_s_time_out_becomes_its_cause(rank, address, told, pytestconfig):
    place = {"RANK": str(rank), "LOCAL_RANK": "0", "WORLD_SIZE": "2", "MASTER_ADDR": address}
    done = subprocess.run(
        [sys.executable, "-c", _MEET],
        env=os.environ | nodes.environment(pytestconfig.rootpath) | place | {"MASTER_PORT": free_port()},
        capture_output=True,
        text=True,
        timeout=200,
    )
    assert done.returncode == 2
    assert told in done.stderr
    assert "Traceback" not in done.stderr
