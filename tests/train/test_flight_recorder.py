"""On a GPU the last collectives are kept from before the processes meet, and written where a run ends waiting."""

import logging
import os
import pickle
import subprocess
import sys
from datetime import timedelta
from pathlib import Path
from types import SimpleNamespace

import deepspeed
import pytest
import torch
import torch.distributed as dist
from torch.distributed.flight_recorder import fr_trace

from sclds.config.reading import load_config
from sclds.config.schema import LimitsConfig
from sclds.run.folder import RunFolder
from sclds.train import distributed
from sclds.train.distributed import ProcessGroup
from sclds.train.flight_recorder import ENTRIES, keep_collectives, write_collectives
from sclds.train.guards import Guards
from sclds.train.progress import Reporter

NAMES = (
    *("TORCH_FR_BUFFER_SIZE", "TORCH_NCCL_TRACE_BUFFER_SIZE", "TORCH_NCCL_DUMP_ON_TIMEOUT"),
    *("TORCH_FR_DUMP_TEMP_FILE", "TORCH_NCCL_DEBUG_INFO_TEMP_FILE"),
)
ALONE = """
import sys
from pathlib import Path
from sclds.train.flight_recorder import keep_collectives, write_collectives
import torch
import torch.distributed as dist
folder = Path(sys.argv[1])
keep_collectives(folder / "flight_recorder")
dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
for size in (3, 5):
    dist.all_reduce(torch.ones(size))
print(write_collectives(0))
"""


@pytest.fixture(autouse=True)
def unset(monkeypatch):
    for name in NAMES:
        monkeypatch.setenv(name, "")  # so that what the code sets is gone afterwards
        monkeypatch.delenv(name)


@pytest.fixture
def met(monkeypatch):
    """Return what `ProcessGroup` gave to DeepSpeed, with the environment of that moment."""
    seen = SimpleNamespace()

    def init(**given):
        seen.given, seen.environment = given, dict(os.environ)

    accelerator = SimpleNamespace(
        device_name=lambda rank=None: seen.device if rank is None or seen.device == "cpu" else f"{seen.device}:{rank}",
        device_count=lambda: 1,
        set_device=lambda rank: None,
        communication_backend_name=lambda: "nccl",
    )
    monkeypatch.setattr(distributed, "get_accelerator", lambda: accelerator)
    monkeypatch.setattr(deepspeed, "init_distributed", init)
    monkeypatch.setattr(distributed, "_messages", lambda device: None)  # there is no backend that sends any
    for name, value in (("is_initialized", False), ("get_rank", 0), ("get_world_size", 1), ("new_group", None)):
        monkeypatch.setattr(dist, name, lambda *given, _value=value, **more: _value)
    for name, value in (("RANK", "0"), ("LOCAL_RANK", "0"), ("WORLD_SIZE", "1")):
        monkeypatch.setenv(name, value)
    return seen


@pytest.mark.parametrize("device", ["cuda", "cpu"])
def test_collectives_are_kept_on_a_gpu_from_before_the_processes_meet(met, tmp_path, device):
    met.device = device
    ProcessGroup(90, tmp_path / "run" / "flight_recorder")
    assert met.given["timeout"] == timedelta(seconds=90)
    found = {name: met.environment[name] for name in NAMES if name in met.environment}
    if device == "cpu":
        assert found == {}
        return
    assert found == {
        "TORCH_FR_BUFFER_SIZE": str(ENTRIES),
        "TORCH_FR_DUMP_TEMP_FILE": str(tmp_path / "run" / "flight_recorder" / "rank_"),
        "TORCH_NCCL_DUMP_ON_TIMEOUT": "1",
    }
    assert (tmp_path / "run" / "flight_recorder").is_dir(), "torch makes none"


@pytest.mark.parametrize("name", ["TORCH_FR_BUFFER_SIZE", "TORCH_NCCL_TRACE_BUFFER_SIZE"])
def test_what_the_user_has_set_stands(tmp_path, name):
    environment = {name: "5"}
    keep_collectives(tmp_path, environment)
    assert {key: value for key, value in environment.items() if "BUFFER" in key} == {name: "5"}


def test_nothing_is_written_where_nothing_is_kept():
    assert write_collectives(0) is None


def test_the_files_are_those_that_torchfrtrace_reads(tmp_path, caplog):
    """gloo keeps the same ring as NCCL, but names its groups otherwise, for which torch's own reader fails."""
    done = subprocess.run([sys.executable, "-c", ALONE, str(tmp_path)], capture_output=True, text=True, timeout=120)
    folder = tmp_path / "flight_recorder"
    assert done.stdout.strip() == str(folder / "rank_0"), done.stderr
    assert [file.name for file in folder.iterdir()] == ["rank_0"]
    kept = pickle.loads((folder / "rank_0").read_bytes())
    assert [entry["input_sizes"] for entry in kept["entries"]] == [[[3]], [[5]]]
    kept["pg_config"] = {"0": {"name": "0", "desc": "default_pg", "ranks": "[0, 1]"}}
    for entry in kept["entries"]:
        entry["profiling_name"] = entry["profiling_name"].replace("gloo", "nccl")
    (folder / "rank_0").write_bytes(pickle.dumps(kept))
    kept["entries"].pop()  # a rank that did not come to the second
    (folder / "rank_1").write_bytes(pickle.dumps(kept))
    with caplog.at_level(logging.INFO):
        fr_trace.main([str(folder)])
    assert "Not all ranks joining collective, sequence number: 2" in caplog.text
    assert "missing ranks: {1}" in caplog.text


def test_start_and_training_have_limits_of_their_own(tmp_path):
    config = load_config("quickstart", [])
    limits = LimitsConfig(start=100.0, step=7.0, save=9.0, evaluation=8.0)
    guards = Guards(config.model_copy(update={"limits": limits}), RunFolder(tmp_path), Reporter(0, 1))
    assert (guards.patience_of_start, guards.patience) == (160.0, 69.0)


def test_all_groups_wait_as_long_as_training_allows(monkeypatch):
    """On one process of gloo: the groups that DeepSpeed or we made before are given the limit too."""
    store = dist.HashStore()
    dist.init_process_group("gloo", store=store, rank=0, world_size=1, timeout=timedelta(seconds=5))
    try:
        other = dist.new_group([0], timeout=timedelta(seconds=5))
        group = object.__new__(ProcessGroup)
        group.wait_at_most(77)
        for found in (dist.group.WORLD, other):
            assert found._get_backend(torch.device("cpu")).options._timeout == timedelta(seconds=77)
    finally:
        dist.destroy_process_group()


def test_the_file_is_named_when_the_run_ends_waiting(capsys):
    from sclds.train.watchdog import Watchdog

    codes: list[int] = []
    dog = Watchdog(0, 1, codes.append, record=lambda: Path("run/flight_recorder/rank_0"))
    dog._give_up("the step (limits.step=1)", 0.0, 1.0)
    assert codes == [1]
    assert "rank 0: its last collectives are in run/flight_recorder/rank_0" in capsys.readouterr().err
