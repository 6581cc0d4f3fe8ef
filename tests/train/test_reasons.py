"""Each way in which processes do not find one another, made for real, and the reason that is told."""

import errno
import json
import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from sclds.config.errors import UserError
from sclds.run import folder
from sclds.train import saver as saving
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


REASONS = {
    "port": "another program uses this port",
    "too few": "Only 1 of 2 processes came to 127.0.0.1:",
    "nobody": "nothing listens at 127.0.0.1:",
    "name": f"{HERE} does not know the name no-such-host.invalid",
    "unreachable": "cannot be reached from",
    "gone": "lost another process of this run, which was killed or failed",
    "hangs": "waited for another process of this run for longer than a collective may: it hangs, is stopped or far",
    "link": "cannot reach another process of this run any more: its host or the link is down",
    "no reason": "Traceback",
}
CAUSES = {
    "rank 1 was not started": (2, "too few"),
    "rank 0 was not started": (2, "nobody"),
    "no such host": (2, "name"),
    "port in use": (2, "port"),
    "peer killed": (1, "gone"),
    "peer left": (1, "gone"),
    "peer out of memory": (1, "gone"),
    "peer stopped": (1, "hangs"),
    "peer slow": (1, "hangs"),
}


def reasons_in(text):
    return [reason for reason, words in REASONS.items() if words in text]


@pytest.fixture(scope="module")
def found(pytestconfig):
    words = [sys.executable, "-m", "tests.train.peers"]
    environment = os.environ | nodes.environment(pytestconfig.rootpath)
    done = subprocess.run(words, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=500, check=True)
    return json.loads(done.stdout.splitlines()[-1])


@pytest.mark.multiprocess
@pytest.mark.slow
@pytest.mark.parametrize("cause", CAUSES)
def test_each_cause_has_its_reason_and_no_other(cause, found):
    """A wrong reason is worse than none: it is looked into."""
    code, reason = CAUSES[cause]
    assert (found[cause]["code"], reasons_in(found[cause]["said"])) == (code, [reason]), found[cause]["said"]


@pytest.mark.parametrize(
    ("told", "reason"),
    [
        ("[gloo/transport/tcp/pair.cc:553] Connection closed by peer [10.0.0.2]:3024", "gone"),
        ("[gloo/transport/tcp/pair.cc:537] Read error [10.0.0.2]:3024: Connection reset by peer", "gone"),
        ("[gloo/transport/tcp/pair.cc:537] Read error [10.0.0.2]:3024: Connection timed out", "link"),
        ("[gloo/transport/tcp/pair.cc:537] Read error [10.0.0.2]:3024: No route to host", "link"),
        ("[gloo/transport/tcp/unbound_buffer.cc:81] Timed out waiting 1800000ms for recv operation", "hangs"),
        ("[Rank 3] Watchdog caught collective operation timeout: WorkNCCL(SeqNum=7, OpType=ALLREDUCE)", "hangs"),
        ("NCCL error: remote process exited or there was a network error", "gone"),
    ],
)
def test_what_a_collective_says_is_read_as_what_it_means(told, reason):
    from sclds.train.distributed import how_lost

    assert reasons_in(how_lost(RuntimeError(told))) == [reason]


@pytest.mark.parametrize(
    ("number", "told"),
    [
        (errno.ENOSPC, "free space, or"),
        (errno.EDQUOT, "free space, or"),
        (errno.EFBIG, "free space, or"),
        (errno.EACCES, "let this user write there, or"),
        (errno.EROFS, "mount that disk for writing, or"),
        (errno.EIO, "look at that disk and its mount, or"),
        (errno.ENOTDIR, "give another run_dir, on"),
    ],
)
def test_a_disk_that_refuses_is_given_the_remedy_of_its_fault(number, told, tmp_path, monkeypatch):
    """Of the run folder's files, and of a checkpoint, which another process wrote."""
    fault = OSError(number, os.strerror(number))

    def refused(*given):
        raise fault

    monkeypatch.setattr(folder, "write_atomically", refused)
    sentences = [saving._sentence(tmp_path, saving._told(str(fault), tmp_path))]
    with pytest.raises(UserError) as caught:
        folder.RunFolder(tmp_path).write_results({})
    for sentence in (*sentences, str(caught.value)):
        assert os.strerror(number) in sentence
        assert [words for words in ALL_REMEDIES if words in sentence] == [told]


ALL_REMEDIES = (
    *("free space, or", "let this user write there, or", "mount that disk for writing, or"),
    *("look at that disk and its mount, or", "give another run_dir, on"),
)
