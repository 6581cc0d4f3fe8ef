"""What hosts say of themselves before the first step, and what is made of it."""

import threading
from types import SimpleNamespace

import pytest
import torch

from sclds.config.errors import SharedError
from sclds.train import preflight
from tests.losses.threads import Threads

FOLDER = "/shared/run"


def hosts(**last):
    alike = {"clock": 1000.0, "lease": ["a", 7], "free": 2**40}
    return [{"host": name} | alike for name in "abc"] + [{"host": "d"} | alike | last]


def test_hosts_that_are_alike_are_left_alone():
    assert preflight.folder_problems(hosts(), FOLDER, ["a", 7]) == []
    assert preflight.disk_problems(hosts(), FOLDER, 2**40) == []
    assert preflight.clock_sentences(hosts(clock=1000.0 + preflight.CLOCK_TOLERANCE)) == []


@pytest.mark.parametrize("seen", [None, ["a", 6]])
def test_a_host_with_another_run_folder_is_named(seen):
    (told,) = preflight.folder_problems(hosts(lease=seen), FOLDER, ["a", 7])
    assert told.startswith("d does not see what a wrote into /shared/run: run_dir has to be one folder")


def test_a_host_without_room_for_a_checkpoint_is_named_with_both_figures():
    (told,) = preflight.disk_problems(hosts(free=2**29), FOLDER, 3 * 2**30)
    assert told.startswith("d has 0.50 GiB free in /shared/run, and a checkpoint takes about 3.00 GiB")


@pytest.mark.parametrize(("apart", "side"), [(300.0, "300 s ahead of that"), (-90.0, "90 s behind that")])
def test_another_clock_is_named(apart, side):
    (told,) = preflight.clock_sentences(hosts(clock=1000.0 + apart))
    assert f"the clock of d is {side} of most hosts" in told
    (told,) = preflight.clock_sentences(hosts(clock=1000.0 + apart)[2:])
    assert f"the clock of d is {side} of c" in told


def test_a_host_whose_links_are_all_slow_is_named_and_not_its_neighbors():
    fast, slow = 1e9, 1e6
    line, note = preflight.link_sentences({("a", "b"): fast, ("b", "c"): fast, ("c", "d"): slow, ("d", "a"): slow})
    assert line.startswith("Links        4 hosts; median 1000 MB/s, slowest 1.0 MB/s between")
    assert "every link of d is slow: its best carries 1.0 MB/s, where those of most hosts carry 1000 MB/s" in note


def test_a_run_folder_that_everybody_may_write_into_is_told(tmp_path):
    (tmp_path / "run").mkdir(mode=0o755)
    assert preflight.open_folder_sentences(tmp_path / "run") == []
    (tmp_path / "run").chmod(0o1777)
    (told,) = preflight.open_folder_sentences(tmp_path / "run" / "later")
    assert told.startswith(f"note: every user of this machine may write into {tmp_path / 'run' / 'later'}, checkpoints")


def test_a_slow_link_of_fast_hosts_is_named():
    speeds = {("a", "b"): 1e9, ("b", "c"): 1e9, ("c", "a"): 50e6}
    _, note = preflight.link_sentences(speeds)
    assert "the link between c and a carries 50 MB/s, less than Gigabit Ethernet" in note
    assert len(preflight.link_sentences({("a", "b"): 1e9, ("b", "a"): 2e8})) == 1


class Cluster(Threads):
    """Ranks as threads, two on each host; `slow` sends late."""

    device = torch.device("cpu")

    def barrier(self):
        self._shared[1].wait()

    def gather_objects(self, value):
        slots, barrier = self._shared
        slots[self.rank] = value
        barrier.wait()
        gathered = list(slots)
        barrier.wait()
        return gathered

    def exchange(self, after, before, size):
        return size / (1e6 if 2 in (self.rank, before) else 1e9)


def started(tmp_path, monkeypatch, free=2**40):
    """Return what rank 0 says, and how every rank of eight ends."""
    place = threading.local()
    monkeypatch.setattr(preflight, "this_place", lambda: place.own)
    monkeypatch.setattr(preflight.shutil, "disk_usage", lambda folder: SimpleNamespace(free=free))
    said, ends, shared = [], [None] * 8, ([None] * 8, threading.Barrier(8, timeout=30))
    (tmp_path / "lease.json").write_text('{"host": "node-0", "process": 7}')

    def work(rank):
        place.own = SimpleNamespace(host=f"node-{rank // 2}", local_rank=rank % 2)
        say = said.append if rank == 0 else lambda sentence: None
        try:
            preflight.preflight(tmp_path, 1000, Cluster(rank, 8, shared), say)
            ends[rank] = "goes on"
        except SharedError as fault:
            ends[rank] = str(fault)

    threads = [threading.Thread(target=work, args=(rank,)) for rank in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return said, ends


def test_all_ranks_go_on_and_a_slow_host_is_told(tmp_path, monkeypatch):
    said, ends = started(tmp_path, monkeypatch)
    assert ends == ["goes on"] * 8
    assert [line.split(":")[0] for line in said[1:]] == ["note"]
    assert "every link of node-1 is slow" in said[1]


def test_all_ranks_refuse_alike(tmp_path, monkeypatch):
    said, ends = started(tmp_path, monkeypatch, free=1)
    assert said == []
    assert len(set(ends)) == 1
    assert [f"node-{k} has 0.00 GiB free" in ends[0] for k in range(4)] == [True] * 4
