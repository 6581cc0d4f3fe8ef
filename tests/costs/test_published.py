"""The model of time on published runs: the fitted numbers are those of the files, and runs that judge are close."""

import pytest

from sclds.cli.main import main
from sclds.costs.clusters import known_kinds
from sclds.costs.published import back_test, fit, median_error, published_runs


def test_runs_that_were_not_fitted_are_met():
    rows = back_test()
    judges = [row for row in rows if not row.run.fit]
    assert len(rows) >= 10
    assert len(judges) > len(rows) - len(judges)
    assert median_error(judges) <= 0.2
    # the runs that a plan of ours is most like: encoders on 8 to 128 A100
    near = [row for row in judges if row.run.kind == "a100-80" and row.run.gpus <= 128]
    assert all(abs(row.deviation) <= 0.2 for row in near)


def test_the_fitted_numbers_stand_in_the_files():
    found, kinds = fit(), known_kinds()
    assert kinds["a100-80"].matmul_share == pytest.approx(found["a100"], abs=0.03)
    assert kinds["h100"].matmul_share == pytest.approx(found["h100"], abs=0.03)
    assert published_runs().stacks["open_clip"].slowdown == pytest.approx(found["open_clip"], abs=0.1)


def test_the_table_shows_every_deviation_and_source(capsys):
    assert main(["benchmark", "plan", "--published"]) == 0
    out = capsys.readouterr().out
    assert max(len(line) for line in out.splitlines() if "http" not in line) <= 80
    assert len([line for line in out.splitlines() if "%" in line and "│" in line]) == len(published_runs().runs)
    for source in published_runs().sources.values():
        assert source.split()[0] in out
    judges = [row for row in back_test() if not row.run.fit]
    assert f"{len(judges)} that judge: {median_error(judges):.0%}" in out


def test_every_run_names_what_the_file_holds():
    published = published_runs()
    for run in published.runs:
        assert run.model in published.models
        assert run.stack in published.stacks
        assert run.source in published.sources
