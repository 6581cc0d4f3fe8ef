"""`sclds benchmark phases`: ratio, marks of a step, and what one costs."""

from sclds.benchmarks import phase_clock
from sclds.benchmarks.engine import BASE_DEPTH
from sclds.cli.main import main


def test_the_command_tells_what_measuring_takes(tmp_path, monkeypatch, capsys):
    shallow = BASE_DEPTH | dict.fromkeys(("vision_layers", "text_layers", "fusion_layers"), 1)
    monkeypatch.setattr(phase_clock, "BASE_DEPTH", shallow)
    monkeypatch.setattr(phase_clock, "CUTS", 50)
    assert main(["benchmark", "phases", "--rounds", "2", "--out", str(tmp_path)]) == 0
    shown = capsys.readouterr().out
    for part in ("measured/plain", "a mark", "microseconds", str(tmp_path / "phases.csv")):
        assert part in shown
    rows = {line.split()[0]: line.split() for line in shown.splitlines() if line.startswith("marks")}
    assert (tmp_path / "phases.csv").is_file()
    assert rows
    assert float(next(line.split()[1] for line in shown.splitlines() if " number " in line)) > 10, "marks of a step"
