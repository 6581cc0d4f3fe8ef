import json

import pytest
from torch.distributed import DistBackendError

from sclds.config.errors import ConfigError, DataError
from sclds.config.reading import load_config
from sclds.train.startup import PEER_LOST, USER_ERROR, checked_start, exit_code

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


def raises(fault):
    def work():
        raise fault

    return work


def test_settings_are_told_by_rank_0_only(capsys):
    assert exit_code(raises(ConfigError(["a is wrong"]))) == USER_ERROR
    assert capsys.readouterr().err == ""
    assert exit_code(raises(ConfigError(["a is wrong"]))) == USER_ERROR
    assert "a is wrong" in capsys.readouterr().err


def test_a_fault_of_one_ranks_data_is_told_by_that_rank(capsys):
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
    assert "rank 1 lost another process" in capsys.readouterr().err


def test_other_faults_of_the_environment_keep_their_traceback():
    with pytest.raises(RuntimeError, match="out of memory"):
        exit_code(raises(RuntimeError("out of memory")))
