"""Steps without a finite gradient: counted, told, written down, and too many on end stop the run, over restarts too."""

from contextlib import nullcontext
from types import SimpleNamespace

import pytest
import torch

from sclds.config.errors import UserError
from sclds.losses.objectives import StepSizes
from sclds.run.checkpoints import newest_checkpoint
from sclds.run.events import Events
from sclds.run.folder import RunFolder, read_metrics
from sclds.train import loop, record
from sclds.train.guard import SkipGuard, state_is_finite
from sclds.train.step import StepReport
from tests.train.one_process import OneProcess
from tests.train.synthetic import tiny_config


class Engine:
    """Keeps what DeepSpeed keeps of its client's state."""

    def __init__(self):
        self.module = torch.nn.Linear(1, 1)
        self.optimizer = torch.optim.AdamW(self.module.parameters())

    def get_global_grad_norm(self):
        return 1.0

    def save_checkpoint(self, folder, tag, client_state, save_latest):
        self.checkpoint_engine.save(client_state, f"{folder}/{tag}.pt")

    def load_checkpoint(self, folder, tag):
        return folder, torch.load(f"{folder}/{tag}.pt")


def run(folder, applied, monkeypatch, steps=40, **optimizer):
    """Train through the real loop, where step k (from 0) is applied as `applied(k)` says; return what was said."""
    base = tiny_config().optimizer.model_dump() | optimizer
    log = {"every": 7, "tensorboard": False, "pictures_every": 0}
    config = tiny_config(
        schedule={"steps": steps, "warmup_share": 0},
        optimizer=base,
        log=log,
        checkpoint={"every": 4},
        run_dir=str(folder),
    )
    said = []
    reporter = SimpleNamespace(say=said.append, start=lambda step: None, advance=lambda *_: None, stop=lambda: None)
    monkeypatch.setattr(loop, "build_engine", lambda *_: Engine())
    monkeypatch.setattr(loop, "load_tokenizer", lambda name: None)
    monkeypatch.setattr(loop, "described", lambda *_: [])
    monkeypatch.setattr(loop.Run, "_finish", lambda self: True)
    monkeypatch.setattr(loop.Run, "_word_entropy", lambda self: None)
    monkeypatch.setattr(loop.MetricsWriter, "_levels", lambda self, batches: {})
    monkeypatch.setattr(loop.StepMeasures, "add", lambda self, batches: None)
    monkeypatch.setattr(record, "measure_peak_flops", lambda dtype, device: 1e9)
    monkeypatch.setattr(loop.Run, "_batches", lambda self: iter([[None]] * steps))

    def train_step(engine, batches, step, *_):
        return StepReport({"total": torch.tensor(1.0)}, applied=applied(step), rates={"encoders": 1e-3})

    monkeypatch.setattr(loop, "train_step", train_step)
    monkeypatch.setattr(StepSizes, "numbers", lambda batches: [1] * 20)
    events = Events(RunFolder(folder).events, 0)
    guards = SimpleNamespace(limit=lambda *_: nullcontext(), fault=lambda: None, events=events)
    try:
        loop.Run(config, OneProcess(), RunFolder(folder), reporter, guards).carry_out()
    except UserError as fault:
        said.append(str(fault))
    return said


def test_every_skipped_step_is_told_and_written_down(tmp_path, monkeypatch):
    said = run(tmp_path, lambda step: step not in (2, 3, 9), monkeypatch, steps=12)
    skipped = [line for line in said if "is skipped" in line]
    assert [line.split(" is ")[0] for line in skipped] == ["Step 3", "Step 4", "Step 10"]
    assert [s[s.index("(") :][:17] for s in skipped] == ["(1 in a row, 1 in", "(2 in a row, 2 in", "(1 in a row, 3 in"]
    lines = {line["step"]: line["skipped"] for line in read_metrics(tmp_path / "metrics.jsonl")}
    assert lines == {1: 0, 3: 1, 4: 2, 7: 2, 10: 3, 12: 3}


@pytest.mark.parametrize("most", [10, 3])
def test_too_many_on_end_stop_the_run(tmp_path, monkeypatch, most):
    said = run(tmp_path, lambda step: step == 6, monkeypatch, max_skipped_in_a_row=most)
    last = most if most < 6 else 7 + most
    assert said[-1].startswith(f"Training stopped at step {last}: {most} steps in a row")
    assert f"optimizer.max_skipped_in_a_row={most}" in said[-1]
    assert read_metrics(tmp_path / "metrics.jsonl")[-1]["step"] == last, "the last one is written down"
    found = newest_checkpoint(tmp_path / "checkpoints")
    assert (found.step if found else 0) == last // 4 * 4, "what was being written is whole"


def test_steps_between_begin_the_count_again(tmp_path, monkeypatch):
    said = run(tmp_path, lambda step: step % 10 == 9, monkeypatch)
    assert not any("stopped" in line for line in said)
    assert "in a row, 36 in this run" in said[-1]


def test_the_counts_survive_in_the_checkpoint(tmp_path, monkeypatch):
    """Six steps in a row before the end of one start, and four of the next: ten."""
    run(tmp_path, lambda step: step not in (2, 3, 4, 5, 6, 7), monkeypatch, steps=8)
    assert newest_checkpoint(tmp_path / "checkpoints").step == 8
    state = newest_checkpoint(tmp_path / "checkpoints").folder / "state.json"
    state.write_text(state.read_text().replace('"steps": 8', '"steps": 40'))
    (state.parent / "manifest.json").unlink()  # as of a version that wrote none
    said = run(tmp_path, lambda step: False, monkeypatch)
    assert said[-1].startswith("Training stopped at step 12: 10 steps in a row")
    assert read_metrics(tmp_path / "metrics.jsonl")[-1]["skipped"] == 10


@pytest.mark.parametrize(
    ("values", "finite"),
    [
        ([0.0, 1.0], True),
        ([3e38, 3e38, 3e38], True),  # whose sum is not
        ([1.0, float("nan")], False),
        ([float("inf"), -float("inf")], False),
        ([-float("inf"), 3e38], False),
    ],
)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_state_is_finite_where_each_of_its_values_is(values, finite, dtype):
    optimizer = torch.optim.AdamW([torch.nn.Parameter(torch.tensor(values, dtype=dtype))])
    assert state_is_finite(SimpleNamespace(optimizer=optimizer)) is finite


def test_a_checkpoint_of_an_older_version_counts_from_nothing():
    guard = SkipGuard(10, print)
    guard.count(1, False)
    guard.resume({})
    assert (guard.total, guard.in_a_row) == (0, 0)
