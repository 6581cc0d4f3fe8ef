"""`sclds benchmark checkpoint`: what it prints of its rows."""

from sclds.benchmarks import checkpoint
from sclds.benchmarks.checkpoint import PROVIDERS, Stall
from sclds.cli.main import main


def test_the_command_prints_both_ways_and_their_share(tmp_path, monkeypatch, capsys):
    taken = {PROVIDERS[0]: [Stall(2.0, 2.0)] * 3, PROVIDERS[1]: [Stall(0.1, 2.5, 0.2)] * 3}
    rows = checkpoint._rows(taken, {"width": 64}, "cpu")
    monkeypatch.setattr(checkpoint, "compare_savings", lambda width, rounds, out: (rows, 5e8))
    assert main(["benchmark", "checkpoint", "--out", str(tmp_path)]) == 0
    shown = capsys.readouterr().out
    for part in (
        "500 MB",
        "synchronous   stall_seconds         2.00 s",
        "0.10 s",
        "slowdown_seconds      0.20 s",
        "share_of_stall        5.00 %",
    ):
        assert part in shown
    assert main(["benchmark", "checkpoint", "--width", "100"]) == 2
    assert "--width 100 is not a multiple of 64; give 64" in capsys.readouterr().err
