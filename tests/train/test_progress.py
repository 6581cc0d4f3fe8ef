import subprocess
import sys

import pytest

from sclds.run.folder import RunFolder
from sclds.train.progress import Reporter, write_page_of

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


def test_results_stand_beside_chance_and_the_number_of_candidates(capsys):
    row = {"n": 400, "r1": 0.1, "r5": 0.2, "r10": 0.3, "median_rank": 9, "chance_r10": 0.025}
    ranked = {"text_to_vision": row, "vision_to_text": row}
    losses = {"final": {"contrastive": 1.5, "contrastive_accuracy": 0.25}}
    sets = {"[bold]a": {"kind": "image", "retrieval": ranked, "losses": losses, "levels": {"contrastive": 8.318}}}
    sets["[bold]a"]["loss_samples"] = 64
    Reporter(0, 10).show_results({"sets": sets, "retrieval": {"image": ranked}})
    shown = capsys.readouterr().out
    for part in ("[bold]a: caption", "30.0%", "(2.5%)", "400", "1.500", "8.318", "64", "(1.6%)", "do not compare"):
        assert part in shown


def test_a_page_that_cannot_be_written_is_said_and_costs_nothing_else(tmp_path, monkeypatch, capsys):
    def full(*given):
        raise OSError(28, "No space left on device")

    folder = RunFolder(tmp_path)
    folder.metrics.touch()
    monkeypatch.setattr("sclds.report.page.write_atomically", full)
    write_page_of(folder, Reporter(0, 10))
    assert "report.html cannot be written (No space left on device)" in capsys.readouterr().out


def test_a_terminal_that_is_gone_does_not_end_the_run():
    code = (
        "import sys; from sclds.train.progress import Reporter\n"
        "reporter = Reporter(0, 9); sys.stdin.readline()\n"
        "for _ in range(3): reporter.say('step')\n"
        "print('saved', file=sys.stderr)"
    )
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    run = subprocess.Popen([sys.executable, "-c", code], text=True, **pipes)
    run.stdout.close()
    run.stdout = None
    _, said = run.communicate("now\n", timeout=100)
    assert (run.returncode, said) == (0, "saved\n")


def test_a_log_on_a_full_disk_ends_no_run(pytestconfig):
    """Its checkpoints say what is wrong, where they do not fit either."""
    code = "from sclds.train.progress import Reporter; r = Reporter(0, 1); r.say('a'); r.say('b'); raise SystemExit(3)"
    with open("/dev/full", "w", encoding="utf-8") as full:
        done = subprocess.run(
            [sys.executable, "-c", code], cwd=pytestconfig.rootpath, stdout=full, stderr=subprocess.PIPE, text=True
        )
    assert (done.returncode, done.stderr) == (3, "")
