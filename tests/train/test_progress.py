import pytest

from sclds.train.progress import Reporter

LINE = {"loss": {"mlm": 2.0, "mlm_accuracy": 0.5}, "samples_per_second": 64.0}


def test_plain_lines_without_a_terminal(capsys):
    reporter = Reporter(rank=0, total_steps=10)
    reporter.start(0)
    reporter.advance(1, None)
    reporter.advance(2, LINE)
    reporter.stop()
    [line] = capsys.readouterr().out.splitlines()
    assert line.startswith("step 2/10  mlm 2.000  64 samples/s")
    assert line.endswith("left")


def test_other_ranks_are_quiet(capsys):
    reporter = Reporter(rank=1, total_steps=10)
    reporter.start(0)
    reporter.advance(2, LINE)
    reporter.say("hello")
    assert capsys.readouterr().out == ""


@pytest.mark.parametrize("results", [{}, {"losses": {"initial": {"mlm": 1.0}}}])
def test_results_that_are_not_there_yet_show_nothing(results, capsys):
    Reporter(0, 10).show_results(results)
    assert capsys.readouterr().out == ""


def test_results_stand_beside_chance(capsys):
    row = {"n": 400, "r1": 0.1, "r5": 0.2, "r10": 0.3, "median_rank": 9, "chance_r10": 0.025}
    retrieval = {"image": {"text_to_vision": row}}
    Reporter(0, 10).show_results({"losses": {"final": {"mlm": 1.5}}, "retrieval": retrieval})
    shown = capsys.readouterr().out
    assert "0.300" in shown
    assert "0.025" in shown
    assert "1.500" in shown
