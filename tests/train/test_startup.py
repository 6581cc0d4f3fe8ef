import json
import socket

import pytest
from torch.distributed import DistBackendError

from sclds.config.errors import ConfigError, DataError
from sclds.config.reading import load_config
from sclds.train.place import this_place
from sclds.train.startup import PEER_LOST, USER_ERROR, _accelerator_problems, checked_start, exit_code

QUICKSTART = "configs/quickstart.yaml"


@pytest.fixture(autouse=True)
def _in_the_repository(monkeypatch, pytestconfig):
    monkeypatch.chdir(pytestconfig.rootpath)


def test_the_shipped_quickstart_may_start(tmp_path):
    start = checked_start(QUICKSTART, [f"run_dir={tmp_path / 'run'}"], world_size=2)
    assert (start.config.name, start.checkpoint) == ("quickstart", None)
    assert not (tmp_path / "run").exists()


def test_a_run_goes_on_from_its_newest_checkpoint_which_is_looked_up_once(tmp_path, monkeypatch):
    from sclds.run import checkpoints
    from sclds.train import startup

    looked = []

    def noted(folder):
        looked.append(folder)
        return checkpoints.newest_checkpoint(folder)

    monkeypatch.setattr(startup, "newest_checkpoint", noted)
    settings = load_config(QUICKSTART).model_dump(mode="json")
    folder = tmp_path / "checkpoints" / "step-0000005"
    folder.mkdir(parents=True)
    (folder / "state.json").write_text(json.dumps({"step": 5, "world_size": 2, "config": settings}))
    start = checked_start(QUICKSTART, [f"run_dir={tmp_path}"], world_size=2)
    assert start.checkpoint.step == 5
    assert looked == [tmp_path / "checkpoints"]
    with pytest.raises(ConfigError, match="seed=7 differs from 0"):
        checked_start(QUICKSTART, [f"run_dir={tmp_path}", "seed=7"], world_size=2)


def test_everything_that_stands_in_the_way_is_told_at_once(tmp_path):
    (tmp_path / "file").touch()
    overrides = [
        f"run_dir={tmp_path / 'file' / 'run'}",
        f"data.train.0.shards={tmp_path / 'nothing'}",
        "data.tokenizer=/no/such/tokenizer",
        "optimizer.implementation=apex",
        "engine.attention=flash_attn",
        "engine.norms=liger",
        "model.init_from=no-such-folder",
    ]
    with pytest.raises(ConfigError) as fault:
        checked_start(QUICKSTART, overrides, world_size=3)
    told = "\n".join(fault.value.problems)
    for part in (
        "over 3 processes",
        "nothing",
        "data.tokenizer",
        "run_dir",
        "NVIDIA Apex",
        "engine.attention=flash_attn",
        "engine.norms=liger needs Liger Kernel",
    ):
        assert part in told
    assert len(fault.value.problems) == 8


def test_faults_of_the_settings_do_not_hide_those_of_the_files(tmp_path):
    (tmp_path / "file").touch()
    overrides = [
        f"run_dir={tmp_path / 'file' / 'run'}",
        f"data.train.0.shards={tmp_path / 'nothing'}",
        "optimizer.learning_rat=1e-3",
        "schedule.steps=0",
    ]
    with pytest.raises(ConfigError) as fault:
        checked_start(QUICKSTART, overrides, world_size=2)
    told = "\n".join(fault.value.problems)
    for part in ("did you mean 'learning_rate'", "schedule.steps=0", "nothing", "run_dir"):
        assert part in told


def test_a_best_checkpoint_needs_a_figure_that_is_measured(tmp_path):
    settings = [f"run_dir={tmp_path}", "evaluation.every=5"]
    assert checked_start(QUICKSTART, [*settings, "checkpoint.best=heldout/clips-heldout/mlm_accuracy"], 2)
    with pytest.raises(ConfigError, match=r"no figure of this run; the nearest are heldout/clips-heldout/total"):
        checked_start(QUICKSTART, [*settings, "checkpoint.best=heldout/clips/total"], 2)


def raises(fault):
    def work():
        raise fault

    return work


def launched(monkeypatch, rank, local_rank, hosts):
    """Set what DeepSpeed's launcher sets for a process, two of them on each host."""
    given = {"RANK": rank, "LOCAL_RANK": local_rank, "WORLD_SIZE": 2 * hosts, "LOCAL_SIZE": 2, "CROSS_SIZE": hosts}
    for name, value in given.items():
        monkeypatch.setenv(name, str(value))


def test_what_a_hosts_processes_share_is_told_by_one_of_them_with_the_hosts_name(capsys, monkeypatch):
    for rank, local_rank, told in ((0, 0, True), (1, 1, False), (2, 0, True), (3, 1, False)):
        launched(monkeypatch, rank, local_rank, hosts=2)
        assert exit_code(raises(ConfigError(["a is wrong"]))) == USER_ERROR
        said = capsys.readouterr().err
        assert said.startswith(f"error: {socket.gethostname()}: 1 problem") if told else said == ""


def test_one_host_is_not_named(capsys, monkeypatch):
    launched(monkeypatch, 0, 0, hosts=1)
    assert exit_code(raises(ConfigError(["a is wrong"]))) == USER_ERROR
    assert capsys.readouterr().err.startswith("error: 1 problem")


def test_a_task_among_others_without_a_rank_does_not_start(capsys, monkeypatch):
    monkeypatch.delenv("RANK", raising=False)
    monkeypatch.setenv("SLURM_NTASKS", "8")
    assert exit_code(raises(AssertionError("it started"))) == USER_ERROR
    assert "SLURM_NTASKS=8, but RANK is not set" in capsys.readouterr().err


class Accelerator:
    """A host with some GPUs, or with none."""

    def __init__(self, count):
        self.count = count

    def device_name(self):
        return "cuda" if self.count else "cpu"

    def device_count(self):
        return self.count


@pytest.mark.parametrize(
    ("count", "hosts", "asked", "told"),
    [
        (0, 2, None, "has no GPU that torch can use"),
        (0, 2, "cpu", None),
        (0, 1, None, None),
        (1, 1, None, "was given 2 processes and has 1 GPUs; give it slots=1"),
        (2, 2, None, None),
    ],
)
def test_a_host_has_a_gpu_for_each_of_its_processes(count, hosts, asked, told, monkeypatch):
    import deepspeed.accelerator

    monkeypatch.setattr(deepspeed.accelerator, "get_accelerator", lambda: Accelerator(count))
    monkeypatch.delenv("DS_ACCELERATOR", raising=False)
    if asked:
        monkeypatch.setenv("DS_ACCELERATOR", asked)
    launched(monkeypatch, 0, 0, hosts)
    problems = _accelerator_problems(this_place(), hostfile=False)
    assert problems == [] if told is None else told in problems[0]


def test_a_variable_that_a_host_lacks_is_named(tmp_path, monkeypatch):
    monkeypatch.delenv("SHARED_CACHE", raising=False)
    given = [f"run_dir={tmp_path}", "engine.env=[SHARED_CACHE]"]
    with pytest.raises(ConfigError, match=r"engine\.env: SHARED_CACHE is not set here"):
        checked_start(QUICKSTART, given, world_size=2)
    monkeypatch.setenv("SHARED_CACHE", "/cache")
    assert checked_start(QUICKSTART, given, world_size=2).config.engine.env == ["SHARED_CACHE"]


def test_a_fault_of_one_ranks_data_is_told_by_that_rank(capsys, monkeypatch):
    launched(monkeypatch, 3, 1, hosts=2)
    assert exit_code(raises(DataError("shard 3 is broken"))) == USER_ERROR
    assert "shard 3 is broken" in capsys.readouterr().err


def test_our_own_mistakes_keep_their_traceback():
    with pytest.raises(AssertionError):
        exit_code(raises(AssertionError()))


@pytest.mark.parametrize(
    "fault",
    [
        RuntimeError("[gloo/transport/tcp/pair.cc:553] Connection closed by peer [127.0.0.1]:3024"),
        DistBackendError("NCCL error: remote process exited"),
    ],
)
def test_a_process_that_is_left_alone_says_so(capsys, fault):
    assert exit_code(raises(fault)) == PEER_LOST
    said = capsys.readouterr().err
    assert "rank 0 lost another process" in said
    assert said.endswith("; the same command goes on from the last checkpoint\n")
    exit_code(raises(fault), "measures again")
    assert capsys.readouterr().err.endswith("; the same command measures again\n")


def test_other_faults_of_the_environment_keep_their_traceback():
    with pytest.raises(RuntimeError, match="out of memory"):
        exit_code(raises(RuntimeError("out of memory")))
