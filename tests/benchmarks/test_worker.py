"""A process of a benchmark that hangs ends the benchmark within a limit, with a sentence that names it."""

import json
import sys

import pytest

from sclds.benchmarks.engine_worker import limited, measure
from sclds.config.errors import UserError
from sclds.train.launch import finish, module_command

WORKER = """
import time
from sclds.benchmarks import worker
from sclds.config.schema import LimitsConfig
from sclds.train import watchdog

watchdog.INTERVAL, watchdog._SILENT = 0.2, 1.0
worker.LimitsConfig = lambda: LimitsConfig(step=4)

def measure(given, count, group, limit):
    for turn in range(count):
        with limit("the step", "step"):
            if (group.rank, turn) == (1, 2):
                time.sleep(600)
            group.barrier()

if __name__ == "__main__":
    worker.work(measure)
"""


@pytest.mark.multiprocess
def test_a_worker_that_hangs_is_named_within_the_limit_of_a_step(tmp_path, monkeypatch):
    (tmp_path / "hanging_worker.py").write_text(WORKER, encoding="utf-8")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setenv("PYTHONPATH", f"{tmp_path}:{':'.join(sys.path)}")
    command = module_command("hanging_worker", [json.dumps("sleeps"), "3", str(tmp_path / "found.json")], 2)
    with pytest.raises(UserError) as told:
        finish("the benchmark", command, 2, time_limit=200)
    sentences = str(told.value)
    assert "the benchmark ended with exit code" in sentences
    assert "in the step (limits.step=4)" in sentences


def test_an_error_is_told_though_stacks_follow_it():
    text = "import sys; print('error: rank 1 hangs'); print('stack ' * 2000); sys.exit(1)"
    with pytest.raises(UserError, match="ended with exit code 1:\nerror: rank 1 hangs\n"):
        finish("the benchmark", [sys.executable, "-c", text], 1)


def test_every_step_of_the_engines_benchmark_is_limited():
    within, names = [], []

    class Limit:
        def __init__(self, name, setting):
            names.append((name, setting))

        def __enter__(self):
            within.append(True)

        def __exit__(self, *exception):
            within.pop()

    def step(mark):
        assert within == [True]
        for phase in ("forward", "backward", "step"):
            mark(phase)
        return 1.0

    measure(limited({"plain": step}, Limit), rounds=2)
    assert set(names) == {("the step", "step")}
