"""`sclds benchmark plan`: what its processes found becomes a fit on four cases, and a judgement by the other two."""

import csv
import json
from pathlib import Path

import pytest

from sclds.benchmarks import plan
from sclds.benchmarks.plan import CASES, JUDGES, Measured, case_of, fitted, machine_kind
from sclds.cli.main import main
from sclds.costs.clusters import known_kinds

FACTORS = {"operations": 1.5, "bytes": 0.8, "host": 2.0}
MACHINE = {"peak_flops": 1e11, "bandwidth": 1e10, "operand_bandwidth": 2e10, "message_seconds": 1e-4, "link": 1e9}


def step_seconds() -> dict[str, float]:
    """Return what every case takes on a machine whose factors are known."""
    unknown = Measured(**MACHINE, step_seconds=dict.fromkeys(CASES, 1.0))
    kind = plan._with(machine_kind(unknown), FACTORS)
    return {name: case_of(name, unknown, 2).predicted(kind) for name in CASES}


@pytest.fixture
def started(monkeypatch):
    commands = []

    def finish(name, command, processes, time_limit=None):
        commands.append((command, processes))
        found = MACHINE | {"step_seconds": step_seconds()}
        found["step_seconds"][JUDGES[0]] *= 1.25
        Path(command[-1]).write_text(json.dumps(found))

    monkeypatch.setattr(plan, "finish", finish)
    return commands


def test_factors_that_are_there_are_found():
    measured = Measured(**MACHINE, step_seconds=step_seconds())
    cases = [case_of(name, measured, 2) for name in CASES if name not in JUDGES]
    assert len(cases) == 4
    _, found = fitted(machine_kind(measured), cases)
    for name, factor in FACTORS.items():
        assert found[name] == pytest.approx(factor, rel=0.01)


def test_writes_what_was_predicted_and_measured(started, tmp_path, capsys):
    assert main(["benchmark", "plan", "--steps", "3", "--processes", "2", "--out", str(tmp_path)]) == 0
    [(command, processes)] = started
    assert (command[-2], processes) == ("3", 2)
    assert set(json.loads(command[-3])) == set(CASES)
    with (tmp_path / "plan.csv").open(newline="") as file:
        found = {(row["provider"], row["metric"]): float(row["median"]) for row in csv.DictReader(file)}
    assert found[f"{JUDGES[0]} (judges)", "deviation"] == pytest.approx(-0.2, abs=1e-3)
    assert found[f"{JUDGES[1]} (judges)", "deviation"] == pytest.approx(0, abs=1e-3)
    assert found["machine", "link"] == 1e9
    assert (tmp_path / "plan.png").stat().st_size > 0
    assert "that judge: 20%" in capsys.readouterr().out
    # and this machine can be planned for
    kind = known_kinds(tmp_path / "plan.yaml")["this-machine"]
    assert kind.node_link == 1e9
    assert kind.host_factor == pytest.approx(2.0, rel=0.01)
