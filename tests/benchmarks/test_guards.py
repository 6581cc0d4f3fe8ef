"""`sclds benchmark guards`: what it prints of its rows, and that all that is due in a step is charged once."""

from sclds.benchmarks import guards
from sclds.cli.main import main


def test_the_command_prints_both_steps_every_part_and_their_sum(tmp_path, monkeypatch, capsys):
    class Comparison:
        def __init__(self, config, group):
            assert config.guards.spike_deviations

        def run(self, rounds):
            return {
                "bare": [2.0] * rounds,
                "watched": [2.03] * rounds,
                "bits": [0.01] * rounds,
                "rest": [0.02] * rounds,
            }

    monkeypatch.setattr(guards, "_Comparison", Comparison)
    assert main(["benchmark", "guards", "--rounds", "3", "--out", str(tmp_path)]) == 0
    shown = " ".join(capsys.readouterr().out.split())
    for part in ("bare 2000.000 ms", "watched/bare 1.015", "bits 0.500 %", "rest 1.000 %", "all 1.500 %"):
        assert part in shown
    assert (tmp_path / "guards.csv").read_text().count("\n") == 7


def test_sums_are_charged_to_the_step_that_takes_them():
    ticks = iter(range(100))
    check = guards._TimedCheck(None, None)
    check.clock = lambda: float(next(ticks))
    check._tensors = lambda parts: []
    check._take("weights")
    check._compare("weights")
    assert check.seconds == 2.0
