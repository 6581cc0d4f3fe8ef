"""`sclds benchmark engine`: what its processes found becomes figures, ratios turn by turn, and counts of messages."""

import csv
import json
from pathlib import Path

import pytest

from sclds.benchmarks import engine
from sclds.benchmarks.engine_worker import PROVIDERS, measure
from sclds.cli.main import main


@pytest.fixture
def started(monkeypatch):
    """Stand in for the launcher: a step takes 10 ms and 2 more for every provider further down, forward 5 of them."""
    commands = []

    def finish(name, command, processes, time_limit=None):
        commands.append((command, processes))
        found = {}
        for number, provider in enumerate(PROVIDERS):
            seconds = {"forward": [0.005] * 3, "backward": [0.003 + number / 500] * 3, "step": [0.002] * 3}
            sent = {"gathers": number, "gathered_bytes": 100 * number, "others": 1}
            found[provider] = {"seconds": seconds, "messages": dict.fromkeys(seconds, sent)}
        Path(command[-1]).write_text(json.dumps(found))

    monkeypatch.setattr(engine, "finish", finish)
    return commands


def test_writes_times_ratios_and_messages(started, tmp_path, capsys):
    assert main(["benchmark", "engine", "--rounds", "3", "--processes", "2", "--out", str(tmp_path)]) == 0
    [(command, processes)] = started
    assert (command[-2], processes) == ("3", 2)
    assert json.loads(command[-3])["vision_layers"] == 11
    with (tmp_path / "engine.csv").open(newline="") as file:
        found = {(row["provider"], row["metric"]): float(row["median"]) for row in csv.DictReader(file)}
    assert found["plain", "total_milliseconds"] == pytest.approx(10)
    assert found["stage 3", "backward_milliseconds"] == pytest.approx(11)
    assert found["stage 3/stage 1", "ratio"] == pytest.approx(18 / 14)
    assert found["stage 3", "forward_gathers"] == 4
    assert (tmp_path / "engine.png").stat().st_size > 0
    out = capsys.readouterr().out
    assert "| stage 3 | 5 | 11 | 2 | 18 (18 to 18) |" in out
    assert "| stage 3 | 4, 1 | 4, 1 | 4, 1 |" in out


def test_providers_take_turns_and_must_agree_on_the_loss():
    order = []

    def step(name, loss):
        def run(mark):
            order.append(name)
            for phase in ("forward", "backward", "step"):
                mark(phase)
            return loss

        return run

    found = measure({name: step(name, 2.0) for name in ("plain", "stage 1")}, rounds=2)
    assert order == ["plain", "stage 1"] * 3 + ["plain", "stage 1", "stage 1", "plain"] + ["plain", "stage 1"]
    assert all(len(of["seconds"][phase]) == 2 for of in found.values() for phase in of["seconds"])
    with pytest.raises(RuntimeError, match="disagree on the loss"):
        measure({"plain": step("plain", 2.0), "stage 1": step("stage 1", 2.1)}, rounds=1)
