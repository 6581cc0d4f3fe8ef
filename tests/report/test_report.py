"""`sclds report`: runs side by side, profiles, kernels, references, marks, and every form that it writes."""

import csv
import json
import re
import shutil

import pytest

from scl_kernels.gather_rows.registration import work
from sclds.cli.main import main
from sclds.report.kernels_page import read_kernels, share_of_roofline
from sclds.report.marks import marks_of
from sclds.report.planned import kind_of, predicted
from sclds.report.reference import read_reference
from sclds.report.run_contents import read_run
from sclds.report.settings import setting_differences
from sclds.run.events import Events
from tests.report.runs import make_run, start
from tests.report.test_run_page import Balance


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """Two runs that differ in their learning rate, the second one with everything that may be logged."""
    root = tmp_path_factory.mktemp("compared")
    first, second = make_run(root / "first"), root / "second"
    shutil.copytree(first, second)
    settings = (second / "config.yaml").read_text()
    assert "learning_rate: 0.001\n" in settings
    (second / "config.yaml").write_text(settings.replace("learning_rate: 0.001\n", "learning_rate: 0.0005\n"))
    lines = read_run(second).metrics
    for line in lines:
        line |= {"mfu": 0.4, "tokens_per_second": 9000.0, "phases": {"text_encoder": 0.1, "loss/mlm": 0.3}}
        line |= {
            "wire_bytes": 3e9,
            "memory_bytes": 5e10,
            "overlap": None,
            "ranks": {"slowest": 1.1, "x": "y"},
        }
    (second / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    return first, second


def written(tmp_path, *words, name="out.html"):
    out = tmp_path / name
    assert main(["report", *map(str, words), "--out", str(out)]) == 0
    return out.read_text() if out.suffix in (".html", ".json") else out.read_bytes()


def whole(text):
    reader = Balance()
    reader.feed(text)
    return reader.open == reader.fetched == []


def test_two_runs_stand_side_by_side(runs, tmp_path):
    text = written(tmp_path, *runs)
    assert whole(text)
    assert "2 runs compared" in text
    row = re.search(r"<tr><td>optimizer.learning_rate</td>(.*?)</tr>", text)[1]
    assert re.findall(r">([\d.]+)<", row) == ["0.001", "0.0005"]
    assert text.count("<tr><td>optimizer") == 1, "what is the same is not listed"
    assert re.search(r'line0"></i>first<b>.*?line1"></i>second<b>', text), "curves lie over one another"
    assert re.search(r'<h3>Tokens per second<.*?"class": ?"line1".*?line1"></i>second<', text), "a run has one color"
    assert "Held out: " in text
    assert "clips-heldout, second" in text


def test_what_was_logged_is_drawn_and_what_was_not_is_left_out(runs, tmp_path):
    first, second = (written(tmp_path, run) for run in runs)
    for title in ("<h3>Tokens per", "<h3>MFU, of the data", "<h3>Memory<", "<h3>Over the network", "<h4>By phase"):
        assert title in second
        assert title not in first
    assert "Loss: mlm" in second
    assert "75%" in second
    assert "Communication behind" not in second, "a null is no figure"


def test_marks_tell_checkpoints_restarts_stalls_and_faults(tmp_path):
    lines = [{"step": 5 * n, "samples_per_second": 100.0, "seconds": {"data": 0.1, "total": 1.0}} for n in range(1, 21)]
    lines[0]["samples_per_second"] = 10.0  # warms up
    lines[7] |= {"samples_per_second": 20.0, "seconds": {"data": 0.9, "total": 1.0}}
    lines[8] |= {"samples_per_second": 30.0}
    lines[12] |= {"samples_per_second": 30.0}
    lines[15] |= {"samples_per_second": 40.0}
    (tmp_path / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    events = Events(tmp_path / "events.jsonl", 0)
    events.write("start", "")
    events.write("training", "", 0)
    events.write("checkpoint", "step 65 is saved", 65)
    events.write("watchdog", "rank 1 waited", 70)
    events.write("start", "")
    events.write("training", "", 75)
    found = [(mark.kind, mark.x, mark.text) for mark in marks_of(read_run(tmp_path))]
    assert [(kind, x) for kind, x, _ in found] == [
        ("stall", 40),
        ("stall", 65),
        ("checkpoint", 65),
        ("fault", 70),
        ("restart", 75),
    ], "a line after a start warms up: step 80 is no stall"
    assert found[0][2] == "stall at steps 40 to 45: 20 samples/s, 20% of the median; it waited for data"
    assert found[1][2].endswith("beside a checkpoint")
    text = written(tmp_path, tmp_path)
    assert "1 restart, 1 fault or stop, 2 stalls, 1 checkpoint." in text
    assert text.count('class="mark stall" x1') == 2 * 2, "at both widths"
    assert written(tmp_path, tmp_path, name="out.png").startswith(b"\x89PNG")


def test_a_reference_stands_behind_the_curves(runs, tmp_path):
    curves = tmp_path / "r.curve.json"
    written(tmp_path, runs[0], name=curves.name)
    assert len(curves.read_bytes()) < 50_000
    reference = read_reference(curves)
    assert reference.curves["loss/itm"][-1][0] == 400
    assert reference.curves["heldout/clips-heldout/itm"]
    assert "2 processes on NVIDIA H100" in reference.source
    out = tmp_path / "out.html"
    assert main(["report", str(runs[1]), "--reference", str(curves), "--out", str(out)]) == 0
    text = out.read_text()
    assert "Its settings differ: optimizer.learning_rate 0.001 instead of 0.0005." in text
    assert text.count('class="mean behind"') == 6 + 2 * 8
    curves.write_text('{"kind": "curves", "version": 2}')
    assert main(["report", str(runs[1]), "--reference", str(curves), "--out", str(out)]) == 2


def test_every_form_holds_the_same_figures(runs, tmp_path, capsys):
    tree = json.loads(written(tmp_path, *runs, name="out.json"))
    assert list(tree["runs"]) == ["first", "second"], "one name for both: folders tell them apart"
    assert tree["settings_that_differ"] == {"optimizer.learning_rate": {"first": "0.001", "second": "0.0005"}}
    assert tree["runs"]["second"]["phases"] == {"text_encoder": pytest.approx(0.1), "loss/mlm": pytest.approx(0.3)}
    assert main(["report", str(runs[0]), "--json"]) == 0
    printed = json.loads(capsys.readouterr().out.partition("\n{")[2].join(["{", ""]))
    assert printed["runs"]["quickstart"]["step"] == 400
    assert next(chart for chart in printed["charts"] if chart["title"] == "Contrastive")["levels"]["guessing"] > 9


VARIANT = {
    "samples_per_second": 700.0,
    "seconds": {"fusion": 0.2, "backward": 0.6},
    "mfu": 0.4,
    "steps": 20,
    "failed": None,
}


def test_a_profile_has_a_page(tmp_path):
    slow = {**VARIANT, "name": "<slow>", "samples_per_second": 350.0, "overrides": {"engine.zero_stage": 3}}
    failed = {"name": "large", "failed": "out of memory: 81 of 80 GB"}
    profile = {
        "kind": "profile",
        "version": 1,
        "name": "base",
        "variants": [VARIANT | {"name": "as is"}, slow, failed, 5],
    }
    (tmp_path / "profile.json").write_text(json.dumps(profile))
    text = written(tmp_path, tmp_path)
    assert whole(text)
    assert "&lt;slow&gt;" in text
    assert "<slow>" not in text
    assert "engine.zero_stage=3" in text
    assert re.search(r"Times as fast as the first</td>.*?>1.00<.*?>0.50<", text)
    assert "out of memory: 81 of 80 GB" in text
    assert '<th scope="col">large</th>' not in text, "what could not be measured takes no column"
    assert "variant 4 is damaged and left out" in text
    assert "600 ms" in text
    assert written(tmp_path, tmp_path, name="out.png").startswith(b"\x89PNG")


@pytest.mark.parametrize("content", [b"", b"[1]", b'{"kind": "pro', b"\xff\xfe"])
def test_a_profile_of_which_nothing_can_be_shown_is_a_sentence(content, tmp_path, capsys):
    (tmp_path / "profile.json").write_bytes(content)
    assert main(["report", str(tmp_path)]) == 2
    assert "profile.json" in capsys.readouterr().err


@pytest.mark.parametrize(
    "tree", [{"kind": "profile", "version": 9, "variants": [{"seconds": 5}]}, {"variants": {}, "config": [1]}]
)
def test_a_profile_of_another_version_is_shown_as_far_as_it_is_known(tree, tmp_path):
    (tmp_path / "profile.json").write_text(json.dumps(tree))
    assert "expected a profile of version 1" in written(tmp_path, tmp_path)


def rows(path, device, milliseconds):
    columns = "kernel,provider,mode,metric,x,median,q20,q80,config,device,versions,commit".split(",")
    config = {"size": 2400 * 768, "rows": 800, "width": 768}
    with path.open("w", newline="") as file:
        lines = csv.writer(file)
        lines.writerow(columns)
        for provider, time in milliseconds.items():
            times = (time, time, time)
            row = [
                "gather_rows",
                provider,
                "full",
                "milliseconds",
                2400,
                *times,
                json.dumps(config),
                device,
                "torch 2",
                "abc",
            ]
            lines.writerow(row)
    return config


def test_kernels_are_held_against_the_roofline_of_their_device(tmp_path):
    file = tmp_path / "benchmarks.csv"
    config = rows(file, "NVIDIA H100 80GB HBM3", {"ours": 0.01, "eager": 0.02})
    found = read_kernels([file])
    needed = work(2400, config, "full").amount
    assert share_of_roofline(found.rows[0], work) == pytest.approx(needed / 3.35e12 / 1e-5)
    text = written(tmp_path, tmp_path)
    assert whole(text)
    assert "Gather rows: of the roofline" in text
    assert "3.35 TB/s, 989 TFLOP/s" in text
    assert "torch 2" in text


def test_kernels_of_an_unknown_device_are_held_against_eager(tmp_path, runs):
    file = tmp_path / "benchmarks.csv"
    rows(file, "cpu (1 threads)", {"ours": 1.0, "eager": 3.0})
    file.write_text(file.read_text() + "gather_rows,ours,full,mil")
    text = written(tmp_path, file)
    assert "Gather rows: against eager" in text
    assert "3 ×" in text
    assert "none stored" in text
    assert "1 damaged line is left out" in text
    beside = written(tmp_path, runs[0], file)
    assert "Gather rows: against eager" in beside
    assert "No kernel was measured" not in beside
    inside = tmp_path / "inside"
    inside.mkdir()
    (inside / "metrics.jsonl").write_text('{"step": 5, "loss": {"itm": 1.0}}')
    shutil.copy(file, inside)
    text = written(tmp_path, inside)
    assert "Gather rows: against eager" in text, "a CSV in a run's folder is drawn with the run"
    assert "Semantic Completion Learning, 5 steps" in text


def test_plan_against_measured(runs, tmp_path):
    """A stored plan is taken; without one the plan of the machines is made, where there is one for them."""
    run = read_run(runs[0])
    assert kind_of(run.starts[-1]) == "h100"
    found = predicted(run)
    assert found["rate"] > 0
    assert "Plan against measured" in written(tmp_path, runs[0])
    copy = tmp_path / "copy"
    shutil.copytree(runs[0], copy)
    (copy / "plan.json").write_text('{"samples_per_second": 290, "communication": {"bytes_per_step": 1e9}}')
    assert re.search(r">290<.*?>145<.*?>0.50<", written(tmp_path, copy))
    for content, said in (("[", "cannot be read"), ("5", "holds no plan"), ("{}", "holds no plan")):
        (copy / "plan.json").write_text(content)
        assert said in predicted(read_run(copy))
    on_cpu = start(0, 4, None)
    on_cpu.hosts[0].gpu = ""
    assert kind_of(on_cpu) is None


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["{empty}"], "is empty: no run, profile or benchmark has written there yet"),
        (["{empty}/none"], "does not exist"),
        (["{run}", "--json", "--out", "a.html"], "give one of them"),
        (["{run}", "--out", "a.pdf"], "is of no known kind"),
        (["{run}", "{run}"], "is given twice"),
        (["{run}", "{other}", "--out", "a.curve.json"], "takes the curves of one run"),
        (["{run}/config.yaml"], "is no CSV of kernel benchmarks"),
    ],
)
def test_what_cannot_be_shown_is_a_sentence(words, said, runs, tmp_path, capsys):
    empty = tmp_path / "empty"
    empty.mkdir()
    assert main(["report", *(word.format(empty=empty, run=runs[0], other=runs[1]) for word in words)]) == 2
    assert said in capsys.readouterr().err


def test_a_run_of_another_version_is_compared_by_its_text(runs, tmp_path):
    """Its settings cannot be used, but are there."""
    other = tmp_path / "other"
    shutil.copytree(runs[0], other)
    (other / "config.yaml").write_text("name: other\noptimizer: {learning_rate: 0.1, novel: 3}\n")
    (other / "metrics.jsonl").write_text(
        '{"step": 5, "loss": {"novel": 1.0}, "novel": [1], "phases": {"a": "b"}}\n{"st'
    )
    text = written(tmp_path, runs[0], other)
    assert "optimizer.novel" in text
    assert "other: config.yaml cannot be used" in text
    assert setting_differences({"a": {"x": 1.0, "name": "a"}, "b": {"x": 1, "name": "b"}}) == {}
