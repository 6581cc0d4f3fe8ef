"""Runs over two nodes with a network, a host name and an ssh server each: what README.md says of clusters, as it is.

Launches: one node as the reference; two nodes that are stopped and go on to the same weights; a node with other code,
another configuration, or no data; four nodes of which one has another clock and one a slow link; a node that is ten
times slower; a node whose cable is pulled; a node that loses power, after which the run ends, or goes on without it.
`make nodes` adds the slow ones, and two and four nodes at every stage, for which a build has no time.
"""

import contextlib
import os
import re
import shutil
import signal
import subprocess
import sys
import sysconfig
import time
from pathlib import Path

import pytest
import torch

from sclds.config.overrides import replaced
from sclds.run.checkpoints import newest_checkpoint
from sclds.run.events import read_events
from sclds.run.folder import RunFolder, read_metrics
from sclds.train.consolidate import consolidated_weights
from tests.data.synthetic import image_members, write_tar
from tests.train import nodes
from tests.train.test_killed_run import SETTINGS

pytestmark = [
    pytest.mark.slow,
    pytest.mark.multiprocess,
    pytest.mark.multinode,
    pytest.mark.skipif(bool(nodes.lacking()), reason=f"this machine cannot hold nodes: {nodes.lacking()}"),
]
ROOT = Path(__file__).parents[2]
SHORT = replaced(SETTINGS, ["schedule.steps=4", "data.heldout=[]", "engine.env=[OMP_NUM_THREADS]"])
LIMIT = int(os.environ.get("SCLDS_NODES_SECONDS", "300"))
"""For a launch."""
LONG = pytest.mark.skipif(not os.environ.get("SCLDS_ALL_NODES"), reason="a quarter of an hour: make nodes")


class Job:
    """A launch from the first node."""

    def __init__(self, cluster, place, words, hosts="node-a slots=1\nnode-b slots=1\n"):
        self.log = place / f"log-{time.monotonic_ns()}"
        (place / "hosts").write_text(hosts)
        (place / ".deepspeed_env").write_text("DS_ACCELERATOR=cpu\nOMP_NUM_THREADS=1\n")
        with self.log.open("wb") as output:
            self.process = subprocess.Popen(
                cluster.command("node-a", "bash", "-c", f'cd {place}; exec "$@"', "launch", *words),
                env=nodes.environment(ROOT),
                stdout=output,
                stderr=output,
            )

    def said(self):
        return self.log.read_text(encoding="utf-8", errors="replace")

    def until_step(self, folder, step):
        end = time.monotonic() + LIMIT
        while not any(line["step"] >= step for line in read_metrics(folder / "metrics.jsonl")):
            assert self.process.poll() is None, self.said()
            assert time.monotonic() < end, self.said()
            time.sleep(0.1)

    def stop(self):
        """Send SIGTERM to the launcher, which is the first process that `nsenter` became or started."""
        own = self.process.pid
        below = Path(f"/proc/{own}/task/{own}/children").read_text().split()
        os.kill(int(below[0]) if below else own, signal.SIGTERM)

    def ended(self):
        try:
            return self.process.wait(LIMIT)
        finally:
            with contextlib.suppress(ProcessLookupError):
                self.process.kill()


def launch(*settings):
    return [sys.executable, "-m", "sclds", "launch", "--hostfile", "hosts", "--config", "quickstart", *settings]


def deepspeed(*settings):
    launcher = shutil.which("deepspeed", path=str(Path(sys.executable).parent))
    words = [word for word in settings if not word.startswith("engine.env")]
    return [launcher, "--hostfile", "hosts", str(ROOT / "launchers" / "pretrain.py"), "--config", "quickstart", *words]


@pytest.fixture
def pair(tmp_path):
    with nodes.Nodes(tmp_path, 2) as cluster:
        yield cluster


def weights(folder):
    return consolidated_weights(newest_checkpoint(folder / "checkpoints").folder)


def test_two_nodes_are_one_node_also_when_they_are_stopped_and_go_on(pair, tmp_path):
    one, two = tmp_path / "one", tmp_path / "two"
    settings = replaced(SHORT, ["schedule.steps=40"])  # more than pass while the stop is on its way
    job = Job(pair, tmp_path, launch(*settings, f"run_dir={one}"), "node-a slots=2\n")
    assert job.ended() == 0, job.said()
    job = Job(pair, tmp_path, launch(*settings, f"run_dir={two}"))
    job.until_step(two, 1)
    job.stop()
    assert job.ended() == 0, job.said()
    assert "Links        2 hosts; median" in job.said()
    (start,) = RunFolder(two).read_starts()
    assert [host.name for host in start.hosts] == ["node-a", "node-b"]
    assert start.outcome == "stopped"
    assert newest_checkpoint(two / "checkpoints").step == start.last_step < 40
    job = Job(pair, tmp_path, deepspeed(*settings, f"run_dir={two}"))
    assert job.ended() == 0, job.said()
    expected, found = weights(one), weights(two)
    assert expected.keys() == found.keys()
    assert all(torch.equal(expected[name], found[name]) for name in expected)


def test_a_node_with_other_code_is_refused_by_name(tmp_path):
    changed = tmp_path / "changed.py"
    seen = ROOT / "sclds" / "train" / "schedule.py"
    changed.write_text(seen.read_text() + "# another commit\n")
    with nodes.Nodes(tmp_path, 2, {"node-b": {seen: changed}}) as cluster:
        job = Job(cluster, tmp_path, launch(*SHORT, f"run_dir={tmp_path / 'run'}"))
        assert job.ended() == 2, job.said()
    assert re.search(r"node-b has the code of sclds \w{12}, where node-a has \w{12}", job.said())
    assert "Traceback" not in job.said()
    assert not (tmp_path / "run" / "metrics.jsonl").exists()


def test_a_node_whose_cable_is_pulled_is_named_within_the_limit(pair, tmp_path):
    folder = tmp_path / "run"
    settings = replaced(SHORT, ["schedule.steps=100000", "limits.step=15", f"run_dir={folder}"])
    job = Job(pair, tmp_path, launch(*settings))
    job.until_step(folder, 2)
    pair.link("node-b", "down")
    begun = time.monotonic()
    assert job.ended() == 1, job.said()
    assert time.monotonic() - begun < 15 + 60
    assert re.search(
        r"rank 0 on node-a waited \d+ s in .*limits.step=15.*no sign of life from rank 1 on node-b", job.said()
    )


def test_a_node_that_loses_power_ends_the_run_with_the_reason(pair, tmp_path):
    folder = tmp_path / "run"
    job = Job(pair, tmp_path, launch(*replaced(SHORT, ["schedule.steps=100000", f"run_dir={folder}"])))
    job.until_step(folder, 2)
    pair.stop("node-b")
    assert job.ended() == 1, job.said()
    assert "rank 0 lost another process of this run" in job.said()


def test_a_node_with_another_configuration_is_refused_by_name(tmp_path):
    """Plain `deepspeed` has every node read its own file."""
    seen, changed = ROOT / "configs" / "quickstart.yaml", tmp_path / "changed.yaml"
    changed.write_text(f"seed: 1\n{seen.read_text()}")
    with nodes.Nodes(tmp_path, 2, {"node-b": {seen: changed}}) as cluster:
        job = Job(cluster, tmp_path, deepspeed(*SHORT, f"run_dir={tmp_path / 'run'}"))
        assert job.ended() != 0
    assert re.search(r"node-b has the configuration \w{12}, where node-a has \w{12}", job.said()), job.said()
    assert "Traceback" not in job.said()
    assert not (tmp_path / "run" / "metrics.jsonl").exists()


def test_a_node_without_the_data_is_named(tmp_path):
    shards, nothing = tmp_path / "shards", tmp_path / "nothing"
    write_tar(shards / "0.tar", image_members([f"{number:02d}" for number in range(32)]))
    nothing.mkdir()
    row = f"data.train=[{{name: own, shards: {shards}, kind: image}}]"
    with nodes.Nodes(tmp_path, 2, {"node-b": {shards: nothing}}) as cluster:
        job = Job(cluster, tmp_path, launch(*replaced(SHORT, [row]), f"run_dir={tmp_path / 'run'}"))
        assert job.ended() == 2, job.said()
    assert re.search(rf"node-b: error: node-b: 1 problem in the configuration:\n.*{shards}", job.said()), job.said()
    assert "error: node-a: " not in job.said()
    assert "Traceback" not in job.said()


def clock_ahead(folder, seconds):
    """Return a mount by which every Python of a node is some seconds ahead; none where there is no place for it."""
    places = sorted(Path(sysconfig.get_paths()["purelib"]).glob("*.pth"))
    if not places:
        pytest.skip("this environment has no .pth file, through which a node gets another clock")
    own = folder / "ahead.pth"
    own.write_text(f"{places[0].read_text()}\nimport time; time.time = lambda true=time.time: true() + {seconds}\n")
    return {places[0]: own}


@LONG
def test_four_nodes_train_and_say_whose_clock_and_whose_link_is_off(tmp_path):
    settings = replaced(SHORT, ["schedule.steps=2", "limits.start=600", f"run_dir={tmp_path / 'run'}"])
    hosts = "".join(f"{name} slots=1\n" for name in nodes.NAMES)
    with nodes.Nodes(tmp_path, 4, {"node-b": clock_ahead(tmp_path, 300)}) as cluster:
        cluster.slow_link("node-c", "50mbit")
        job = Job(cluster, tmp_path, launch(*settings), hosts)
        assert job.ended() == 0, job.said()
    assert re.search(r"the clock of node-b is \d{3} s ahead of that of most hosts", job.said()), job.said()
    # what it sends is not slowed, so that the link of it that is measured the other way may look sound
    named = r"every link of node-c is slow|note: the link between (node-c and node-\w|node-\w and node-c) carries"
    assert re.search(named, job.said()), job.said()
    assert not re.search("clock of node-[acd]|every link of node-[abd]", job.said())
    (start,) = RunFolder(tmp_path / "run").read_starts()
    assert sorted(host.name for host in start.hosts) == sorted(nodes.NAMES)


@LONG
def test_a_node_that_is_ten_times_slower_is_named_with_the_phase(pair, tmp_path):
    folder = tmp_path / "run"
    settings = replaced(SHORT, ["schedule.steps=100000", "checkpoint.every=100000", f"run_dir={folder}"])
    job = Job(pair, tmp_path, launch(*settings))
    job.until_step(folder, 5)
    begun, end = read_metrics(folder / "metrics.jsonl")[-1]["step"], time.monotonic() + LIMIT
    with pair.slowed("node-b", 10):
        while not re.search("Slow: rank 1 on host node-b", job.said()):
            assert job.process.poll() is None, job.said()
            assert time.monotonic() < end, job.said()
            time.sleep(0.1)
        job.until_step(folder, read_metrics(folder / "metrics.jsonl")[-1]["step"] + 2)
    job.stop()
    assert job.ended() == 0, job.said()
    told = [event for event in read_events(folder / "events.jsonl") if event.kind == "slow_rank" and event.step > begun]
    assert told[0].facts["host"] == "node-b"
    assert told[0].cause.startswith("Slow: rank 1 on host node-b: ")
    assert f"most of it in {told[0].facts['phase']}. All other ranks wait for it in every step" in told[0].cause
    assert told[0].facts["max"] > 2 * told[0].facts["median"]
    assert "no sign of life" not in job.said(), "slow is not gone"
    assert RunFolder(folder).read_starts()[-1].outcome == "stopped"


def test_a_run_goes_on_without_a_node_that_lost_power(pair, tmp_path):
    folder = tmp_path / "run"
    settings = replaced(SHORT, ["schedule.steps=30", "checkpoint.every=2", f"run_dir={folder}"])
    job = Job(pair, tmp_path, [*launch(*settings), "--max-restarts", "1", "--min-hosts", "1"])
    job.until_step(folder, 6)
    pair.stop("node-b")
    assert job.ended() == 0, job.said()
    assert re.search(r"Restart 1 of 1 from step \d+, without node-b", job.said())
    first, second = RunFolder(folder).read_starts()
    assert [host.name for host in first.hosts] == ["node-a", "node-b"]
    assert [host.name for host in second.hosts] == ["node-a"]
    assert [line["step"] for line in read_metrics(folder / "metrics.jsonl")] == list(range(1, 31))
    assert newest_checkpoint(folder / "checkpoints").step == 30


@LONG
@pytest.mark.parametrize("stage", range(4))
@pytest.mark.parametrize("count", [2, 4])
def test_nodes_are_one_node_at_every_stage(tmp_path, stage, count):
    settings = replaced(SHORT, [f"engine.zero_stage={stage}", "limits.start=1200", "limits.step=1200"])
    with nodes.Nodes(tmp_path, count) as cluster:
        for name, hosts in (("one", [f"node-a slots={count}"]), ("all", [f"{n} slots=1" for n in cluster.names])):
            job = Job(cluster, tmp_path, deepspeed(*settings, f"run_dir={tmp_path / name}"), "\n".join([*hosts, ""]))
            assert job.ended() == 0, job.said()
    lines = [read_metrics(tmp_path / name / "metrics.jsonl") for name in ("one", "all")]
    assert [line["loss"] for line in lines[0]] == [line["loss"] for line in lines[1]]
    expected, found = weights(tmp_path / "one"), weights(tmp_path / "all")
    assert expected.keys() == found.keys()
    assert all(torch.equal(expected[name], found[name]) for name in expected)
