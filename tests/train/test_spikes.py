"""Losses out of their band: back to the checkpoint before, other batches from there, and the same after any stop."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch

from sclds.config.errors import ConfigError, UserError
from sclds.data.skips import batch_of_step
from sclds.losses.objectives import StepSizes
from sclds.run.checkpoints import ENGINE_TAG, complete_checkpoints, newest_checkpoint
from sclds.run.events import read_events
from sclds.run.folder import RunFolder, read_metrics
from sclds.train import checkpoint, loop
from sclds.train.spikes import MOST_RETURNS, SpikeGuard
from sclds.train.step import StepReport
from tests.train import test_guard
from tests.train.one_process import OneProcess
from tests.train.synthetic import tiny_config

UNSEEN = {"memory_every": 0}
"""The step of these tests changes weights beside the engine, which `test_corruption.py` lets be found."""
GUARDS = UNSEEN | {"spike_deviations": 6.0, "spike_window": 8, "spike_skip": 5}


class FirstOf(OneProcess):
    """The first of some processes that all find the same."""

    def __init__(self, count):
        self.world_size = count

    def all_gather(self, tensor):
        return torch.stack([tensor] * self.world_size)

    def start_all_gather(self, tensor):
        return lambda: self.all_gather(tensor)

    def all_reduce_sum(self, tensor):
        return tensor * self.world_size

    def gather_counts(self, counts):
        return np.array([counts] * self.world_size, np.int64)

    def start_gather_counts(self, counts):
        return lambda: self.gather_counts(counts)

    def gather_objects(self, value):
        return [value] * self.world_size

    def exchange(self, to, source, size):
        return 1e-3


def losses(monkeypatch, spiking, stop_at, group):
    """Let the loss of a step depend on the batch that it reads and on the weight so far; note the batches read."""
    read = []

    def batches(run):
        windows = run.spikes.all_windows
        return ([batch_of_step(step, windows)] for step in range(run.step, 1000))

    def train_step(engine, micro_batches, step, *_):
        [batch] = micro_batches
        weight = engine.module.weight.data
        weight.mul_(0.97).add_(batch * 1e-5)
        read.append((step, batch))
        if step == stop_at:
            raise UserError("killed")
        total = torch.tensor((10.0 if batch in spiking else 1.0) + 0.001 * (batch % 3)) + weight.abs().sum()
        return StepReport({"total": total / group.world_size}, rates={"encoders": 1e-3})

    monkeypatch.setattr(loop.Run, "_batches", batches)
    monkeypatch.setattr(loop, "train_step", train_step)
    monkeypatch.setattr(StepSizes, "numbers", lambda batches: [1] * 20)
    return read


class Engine(test_guard.Engine):
    """Saves its weight as well, and begins with the same one."""

    def __init__(self):
        super().__init__()
        torch.nn.init.constant_(self.module.weight, 2.0)
        self._config = SimpleNamespace()

    def save_checkpoint(self, folder, tag, client_state, save_latest):
        torch.save({"client": client_state, "weight": self.module.weight.data}, f"{folder}/{tag}.pt")

    def load_checkpoint(self, folder, tag):
        saved = torch.load(f"{folder}/{tag}.pt")
        self.module.weight.data.copy_(saved["weight"])
        return folder, saved["client"]


def run(folder, monkeypatch, spiking, stop_at=None, steps=40, guards=GUARDS, processes=1, **changes):
    """Train through the real loop; return what was said, the batches read, and the weight at the end."""
    engine, group = Engine(), FirstOf(processes)
    given = test_guard.tiny_config
    settings = {"log": {"every": 1, "tensorboard": False}, "checkpoint": {"every": 4, "keep": 3}, "guards": guards}
    monkeypatch.setattr(test_guard, "tiny_config", lambda **own: given(**own | settings | changes))
    monkeypatch.setattr(test_guard, "Engine", lambda: engine)
    monkeypatch.setattr(test_guard, "OneProcess", lambda: group)
    monkeypatch.setattr(loop.HeldoutMeasurements, "measure_start", lambda self: None)
    # the stub of `test_guard` is replaced by ours after it has put its own in place
    original = loop.Run.__init__
    read = []

    def start(self, *given):
        original(self, *given)
        read.append(losses(monkeypatch, spiking, stop_at, group))

    monkeypatch.setattr(loop.Run, "__init__", start)
    said = test_guard.run(folder, lambda step: True, monkeypatch, steps=steps)
    monkeypatch.undo()
    return said, read[0], float(engine.module.weight.data)


def kinds(folder):
    return [event.kind for event in read_events(RunFolder(folder).events)]


def test_a_spike_takes_the_run_back_and_other_batches_follow(tmp_path, monkeypatch):
    said, read, _ = run(tmp_path, monkeypatch, {22, 23})
    told = [line for line in said if "The run goes back" in line]
    assert len(told) == 1
    assert "at step 23, above" in told[0]
    assert "goes back to step 20 and leaves out 5 batches from number 20 on" in told[0]
    assert read[:23] == [(step, step) for step in range(23)]
    assert read[23:] == [(step, step + 5) for step in range(20, 40)]
    assert kinds(tmp_path).count("spike") == 1
    assert [line["step"] for line in read_metrics(tmp_path / "metrics.jsonl")] == list(range(1, 41))


def test_the_settings_repeat_what_the_guard_left_out(tmp_path, monkeypatch):
    *_, weight = run(tmp_path / "guarded", monkeypatch, {22, 23})
    data = tiny_config().model_dump(mode="json")["data"] | {"skip_batches": [[20, 5]]}
    _, read, again = run(tmp_path / "given", monkeypatch, set(), guards=UNSEEN, data=data)
    assert [batch for _, batch in read] == [*range(20), *range(25, 45)]
    assert again == weight
    *_, other = run(tmp_path / "without", monkeypatch, set(), guards=UNSEEN)
    assert other != weight, "a run that reads the window is another one"


@pytest.mark.parametrize("stop_at", [21, 22, 26, 30])
def test_a_run_that_was_stopped_anywhere_goes_on_to_the_same_weight(tmp_path, monkeypatch, stop_at):
    *_, weight = run(tmp_path / "untouched", monkeypatch, {22, 23})
    run(tmp_path / "stopped", monkeypatch, {22, 23}, stop_at)
    *_, again = run(tmp_path / "stopped", monkeypatch, {22, 23})
    assert again == weight
    lines, wanted = (read_metrics(tmp_path / name / "metrics.jsonl") for name in ("stopped", "untouched"))
    assert [line["loss"] for line in lines] == [line["loss"] for line in wanted]


@pytest.mark.parametrize(("stop_at", "processes"), [(21, (2, 1)), (22, (1, 4)), (33, (4, 2))])
def test_a_run_that_goes_on_over_other_processes_leaves_out_the_same(tmp_path, monkeypatch, stop_at, processes):
    """Before the spike, at it, and behind it; what the shards of other processes hold is read in `test_zero.py`."""
    said, read, weight = run(tmp_path / "untouched", monkeypatch, {22, 23}, processes=processes[0])
    before, *_ = run(tmp_path / "moved", monkeypatch, {22, 23}, stop_at, processes=processes[0])
    sharded_again = []

    def load_across(engine, checkpoint, rank):
        sharded_again.append(checkpoint.world_size)
        return engine.load_checkpoint(str(checkpoint.folder), ENGINE_TAG)[1]

    monkeypatch.setattr(checkpoint, "_load_across", load_across)
    after, read_then, again = run(tmp_path / "moved", monkeypatch, {22, 23}, processes=processes[1])
    assert sharded_again[0] == processes[0]
    assert again == weight
    assert read_then[-5:] == read[-5:] == [(step, step + 5) for step in range(35, 40)]
    returns = [line for line in said if "The run goes back" in line]
    assert [line for line in (*before, *after) if "The run goes back" in line] == returns
    assert kinds(tmp_path / "moved").count("spike") == kinds(tmp_path / "untouched").count("spike") == len(returns) == 1
    lines, wanted = (read_metrics(tmp_path / name / "metrics.jsonl") for name in ("moved", "untouched"))
    assert [line["loss"] for line in lines] == [line["loss"] for line in wanted]


def without(*windows):
    return tiny_config().model_dump(mode="json")["data"] | {"skip_batches": [list(window) for window in windows]}


def test_windows_to_come_may_change_and_the_run_says_so(tmp_path, monkeypatch):
    *_, weight = run(tmp_path / "untouched", monkeypatch, set(), guards=UNSEEN, data=without((30, 5)))
    run(tmp_path / "run", monkeypatch, set(), stop_at=22, guards=UNSEEN)
    said, read, again = run(tmp_path / "run", monkeypatch, set(), guards=UNSEEN, data=without((30, 5)))
    first = read[0][0]
    assert f"data.skip_batches is [[30, 5]] from here on, and was []: step {first} reads batch {first}" in said
    assert [batch for _, batch in read] == [*range(first, 30), *range(35, 45)]
    assert again == weight


def test_windows_that_steps_have_come_to_may_not_change(tmp_path, monkeypatch):
    """Also where the guard itself left out others: batches are counted behind those."""
    run(tmp_path, monkeypatch, {10, 11}, stop_at=22)
    for windows in ([(2, 3)], [(13, 1)], [(60, 1), (0, 1)]):
        said, read, _ = run(tmp_path, monkeypatch, {10, 11}, data=without(*windows))
        assert said[-1].startswith(
            f"data.skip_batches={[list(one) for one in windows]} differs from [] in batches that"
        )
        step = newest_checkpoint(tmp_path / "checkpoints").step
        assert f"Only windows from batch {step + 5} on may change" in said[-1]
        assert read == []
    said, read, _ = run(tmp_path, monkeypatch, {10, 11}, data=without((step + 5, 7)))
    assert read[0] == (step, step + 12)


def test_a_checkpoint_of_the_steps_that_are_taken_back_is_removed(tmp_path, monkeypatch):
    """With values every third step the last good one lies before the newest checkpoint."""
    left, remove_after = [], loop.remove_after

    def noted(folder, step):
        before = [one.step for one in complete_checkpoints(folder)]
        remove_after(folder, step)
        left.append((before, [one.step for one in complete_checkpoints(folder)]))

    monkeypatch.setattr(loop, "remove_after", noted)
    log = {"every": 3, "tensorboard": False}
    _, read, _ = run(tmp_path, monkeypatch, {20}, log=log, guards=GUARDS | {"spike_window": 4})
    assert left == [([20, 16, 12], [16, 12])]
    assert read[20:22] == [(20, 20), (16, 21)]


def test_a_run_whose_loss_stays_out_of_its_band_ends(tmp_path, monkeypatch):
    said, *_ = run(tmp_path, monkeypatch, set(range(22, 1000)))
    assert sum("The run goes back" in line for line in said) == MOST_RETURNS
    assert said[-1].startswith("Training stopped: The loss is")
    assert f"{MOST_RETURNS} windows of batches after the checkpoint of step 20 were left out" in said[-1]


def test_a_spike_before_any_checkpoint_is_told_and_the_run_goes_on(tmp_path, monkeypatch):
    said, read, _ = run(tmp_path, monkeypatch, {6}, checkpoint={"every": 50, "keep": 3})
    assert any("There is no checkpoint before it: the run goes on" in line for line in said)
    assert len(read) == 40


def judged(values, deviations=6.0, window=8):
    guards = tiny_config(guards={"spike_deviations": deviations, "spike_window": window}).guards
    guard = SpikeGuard(guards, 1, [])
    return [step for step, v in enumerate(values, 1) if guard.judge(step, {"loss": {"total": v}})]


def test_the_band_follows_the_loss_and_its_noise():
    noise = [0.1 * ((7 * i) % 11 - 5) for i in range(100)]
    falling = [10 - 0.05 * i + n for i, n in enumerate(noise)]
    assert judged(falling) == []
    assert judged([*falling, 9.0]) == [101]
    assert judged([3.0] * 50 + [3.01] + [3.0] * 9 + [4.0]) == [61], "rounding is no spike where nothing moves"
    assert judged([1.0, 50.0, 1.0]) == [], "half of the window has to be known"
    assert judged([1.0] * 9 + [float("nan"), float("inf"), 1.0]) == [], "left to the guard of skipped steps"


def test_settings_that_have_no_effect_or_cannot_work_are_refused():
    with pytest.raises(ConfigError, match="spike_skip has no effect with"):
        tiny_config(guards={"spike_skip": 7})
    with pytest.raises(ConfigError, match="keep=1 leaves"):
        tiny_config(guards={"spike_deviations": 6.0}, checkpoint={"keep": 1})
