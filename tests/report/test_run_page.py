import base64
import hashlib
import json
import math
import re
import shutil
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import pytest

from sclds.cli.main import main
from sclds.config.errors import UserError
from sclds.config.reading import dump_config, load_config
from sclds.costs.peak import summarize_steps
from sclds.data.storage.shards import shard_files
from sclds.report.chart import Chart, Series, drawable, nice_ticks, running_mean
from sclds.report.charts import figure
from sclds.report.page import document
from sclds.report.results import queries
from sclds.report.run_page import page, read_run, write_report
from sclds.run.events import Events
from sclds.run.folder import RunFolder
from tests.report.runs import QUICKSTART, make_run, start


class Balance(HTMLParser):
    """Collects elements that are not closed and whatever would be fetched."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.fetched: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag not in {"meta", "img"}:
            self.open.append(tag)
        self.fetched += [v for k, v in attrs if k in {"src", "href"} and v and not v.startswith(("data:", "#"))]

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        pass

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    if not all(shard_files(d) for d in load_config(QUICKSTART).data.heldout):
        pytest.skip("the embedded shards are not in this checkout")
    return make_run(tmp_path_factory.mktemp("runs") / "full")


def test_page_is_whole_and_fetches_nothing(folder: Path) -> None:
    text = write_report(folder).read_text()
    reader = Balance()
    reader.feed(text)
    assert reader.open == []
    assert reader.fetched == []
    assert not list(folder.glob("*.part"))


def test_page_shows_results_beside_chance_and_pictures(folder: Path) -> None:
    text = write_report(folder).read_text()
    assert "31.2%" in text
    assert "13.1× chance (2.4%)" in text
    assert text.count('class="card query"') == 8
    assert text.count("data:image/webp") == len(re.findall(r"<figure", text)) == 4 * 5 + 4 * 5 + count_missed(folder)
    assert "48.3% of the 120 GFLOP/s" in text
    # losses, rate and norm; accuracies; eight figures of the held-out sets; speed twice, by width, and waits for data
    assert text.count("<svg") == 8 + 8 + 3
    assert text.count("13.1× chance (2.4%) of 420 candidates") == 1


def count_missed(folder: Path) -> int:
    examples = json.loads((folder / "results.json").read_text())["examples"]
    return sum(e["sample_id"] not in e["retrieved"] for e in examples)


def test_half_a_line_and_repeated_steps_are_read(folder: Path, tmp_path: Path) -> None:
    """A killed and resumed run has both."""
    lines = [{"step": 5, "loss": {"itm": 1.0}}, {"step": 10, "loss": {"itm": 0.8}}, {"step": 5, "loss": {"itm": 0.9}}]
    (tmp_path / "metrics.jsonl").write_text("\n".join(map(json.dumps, lines)) + '\n{"step": 15, "lo')
    assert [(m["step"], m["loss"]["itm"]) for m in read_run(tmp_path).metrics] == [(5, 0.9), (10, 0.8)]


def test_samples_set_aside_are_counted_and_where_they_are_named_is_said(tmp_path: Path) -> None:
    """A sample with two faults counts once; the line that a kill cut short counts not at all."""
    lines = [{"sample": "a", "reason": "<1>"}, {"sample": "a", "reason": "two"}, {"sample": "b", "reason": "two"}]
    (tmp_path / "quarantine.jsonl").write_text("\n".join(map(json.dumps, lines)) + '\n{"sample": "c", "rea')
    text = write_report(tmp_path).read_text()
    assert f"2 samples, named in {tmp_path}/quarantine.jsonl (2 × two; 1 × &lt;1&gt;)" in text
    (tmp_path / "quarantine.jsonl").write_text("")
    assert "Set aside" not in write_report(tmp_path).read_text()


def test_charts_speak_and_show_what_guessing_gives(folder: Path) -> None:
    text = write_report(folder).read_text()
    told = re.findall(r'<svg [^>]*role="img" tabindex="0" [^>]*aria-label="([^"]+)"', text)
    assert len(told) == text.count("<svg")
    assert all(re.search(r"^.+: .*from .+ at step \d+ to ", one) for one in told)
    assert "guessing 9.7<" in text
    assert any(one.startswith("Contrastive: from ") and one.endswith("; guessing: 9.7") for one in told)
    assert "chance, clips-heldout 15.6 %" in text
    assert "guessing 8.32" in text


def test_where_it_ran_is_told(folder: Path) -> None:
    text = write_report(folder).read_text()
    for part in (
        "2 × NVIDIA H100",
        "3,200,000",
        "torch 2.13.0+cpu",
        "0123456789abcdef",
        "not committed",
        "1 earlier start",
    ):
        assert part in text


def test_results_of_other_sets_are_not_shown_as_new(folder: Path, tmp_path: Path) -> None:
    assert "as it stands" not in write_report(folder).read_text()
    copy = tmp_path / "copy"
    shutil.copytree(folder, copy)
    results = json.loads((copy / "results.json").read_text())
    results["sets"]["clips-heldout"]["index"] = "other"
    (copy / "results.json").write_text(json.dumps(results | {"steps": 300}))
    text = write_report(copy).read_text()
    assert "measured after step 300, and the run is at step 400" in text
    assert "samples of clips-heldout have changed" in text
    settings = (copy / "config.yaml").read_text().replace("name: clips-heldout", "name: others")
    (copy / "config.yaml").write_text(settings)
    assert "are of pictures-heldout, clips-heldout, and the run&#x27;s held-out sets are pictures-heldout, others" in (
        write_report(copy).read_text()
    )


def test_a_loss_that_learns_nothing_is_named(tmp_path: Path) -> None:
    (tmp_path / "config.yaml").write_text(dump_config(load_config(QUICKSTART, ["schedule.steps=400"])))
    lines = [{"step": step, "loss": {"itm": 0.69}, "levels": {"itm": 0.693}} for step in range(5, 105, 5)]
    (tmp_path / "metrics.jsonl").write_text("\n".join(map(json.dumps, lines)))
    text = write_report(tmp_path).read_text()
    assert "Image-text matching (ITM) stayed at what guessing gives (0.693) from step 5 to 100; usual causes" in text


def test_the_page_says_where_the_time_went_and_what_happened(tmp_path: Path) -> None:
    (tmp_path / "metrics.jsonl").write_text('{"step": 5}\n')
    assert "What it went through" not in write_report(tmp_path).read_text(), "a run of an older version"
    events = Events(tmp_path / "events.jsonl", 0, now=iter([100.0, 110.0, 190.0, 200.0]).__next__)
    events.write("start", "", age=0.0)
    events.write("training", "", 0, spent={"start": 10.0})
    events.write("watchdog", "rank 1 on <node> waited", 7)
    events.write("finish", "", 9, spent={"start": 10.0, "step": 80.0, "data": 4.0})
    text = write_report(tmp_path).read_text()
    assert "Of 100 s since the first of 1 start, 80.0% went into steps" in text
    assert "waiting for data 4 s, starting 10 s, the rest 6 s" in text
    assert "1970-01-01 00:03:10, step 7</dt><dd>watchdog: rank 1 on &lt;node&gt; waited" in text


NUL = b"\x00" * 64
DAMAGE = {
    "results.json": [b'{"retrieval": {"ima', NUL, b"[1]", b"[" * 100_000, b"\xff\xfe", b'"text"'],
    "metrics.jsonl": [
        b'{"step": 5, "lo',
        NUL,
        b"[1]\n5\n",
        b'{"step": "5"}',
        b'{"step": 5, "loss": {"itm": "x"}}',
        b"\xff",
    ],
    "environment.json": [b"[{", NUL, b"{}", b"[5]", b'[{"started": 5}]'],
    "config.yaml": [b"name: [", NUL, b"[1]", b"text", b"\xff\xfe\xff", b"name: x\nseed: -1"],
    "quarantine.jsonl": [b'{"sample": ', NUL, b'{"sample": [1]}\n[1]'],
    "events.jsonl": [b'{"time": 1, ', NUL, b"[1]\n5\n", b'{"time": 1e15, "host": "a"}', b"\xff"],
}


def test_every_file_has_its_row_in_the_documents() -> None:
    page = (Path(__file__).parents[2] / "docs" / "faults.md").read_text(encoding="utf-8")
    rows = page.split("| file | what is left out |\n|---|---|\n")[1].split("\n\n")[0]
    assert set(re.findall(r"^\| `(.+?)` \|", rows, re.MULTILINE)) == set(DAMAGE)


@pytest.mark.parametrize(("name", "content"), [(name, content) for name, all_ in DAMAGE.items() for content in all_])
def test_a_damaged_file_is_said_and_the_rest_is_shown(folder: Path, tmp_path: Path, name: str, content: bytes) -> None:
    for one in folder.iterdir():
        if one.name not in ("results.json", "report.html"):
            shutil.copy(one, tmp_path)
    (tmp_path / "results.json").write_text(json.dumps({"steps": 400} | RESULTS))
    (tmp_path / name).write_bytes(content)
    text = write_report(tmp_path).read_text()
    reader = Balance()
    reader.feed(text)
    assert reader.open == []
    if name != "quarantine.jsonl":
        assert re.search(rf"<li>{re.escape(name)}", text), "it is said"
    assert ("31.2%" in text) == (name != "results.json")
    assert ("Contrastive" in text) == (name != "metrics.jsonl")
    assert main(["report", str(tmp_path)]) == 0


ROW = {"n": 420, "r1": 0.081, "r5": 0.214, "r10": 0.312, "median_rank": 31.0, "chance_r10": 10 / 420}
RESULTS = {"retrieval": {"image": {"text_to_vision": ROW, "vision_to_text": ROW}}}
WRONG_TYPES = {
    "retrieval": [[], {"image": 5}, {"image": {"text_to_vision": ROW}}, {"image": {"text_to_vision": {"n": "x"}}}],
    "examples": [5, [5], [{"kind": "image"}], {"a": 1}],
    "losses": [[], {"final": 5}, {"final": {"itm": "x"}}],
    "sets": [[], {"a": 5}, {"a": {"kind": 5}}, {"a": {"kind": "image", "losses": {"final": [1]}}}],
    "profile": [5, {"peak_flops": "x"}, {"peak_flops": 0, "flops_per_sample": 1, "processes": 1, "text_tokens": 1}],
    "steps": ["x", -1, None],
    "evaluation": [5],
}


@pytest.mark.parametrize(("key", "value"), [(key, value) for key, values in WRONG_TYPES.items() for value in values])
def test_a_result_of_a_wrong_type_is_left_out(folder: Path, tmp_path: Path, key: str, value: object) -> None:
    for name in ("config.yaml", "metrics.jsonl"):
        shutil.copy(folder / name, tmp_path)
    (tmp_path / "results.json").write_text(json.dumps(RESULTS | {key: value}))
    text = write_report(tmp_path).read_text()
    assert f"results.json: `{key}` is damaged" in text or (key == "profile" and "peak_flops" in str(value))
    assert ("31.2%" in text) == (key != "retrieval")


def test_missing_parts_are_sentences(tmp_path: Path) -> None:
    (tmp_path / "metrics.jsonl").touch()
    text = write_report(tmp_path).read_text()
    for sentence in ("has not logged a step yet", "No held-out result yet", "No loss was logged", "no config.yaml"):
        assert sentence in text


def test_captions_and_names_are_escaped(tmp_path: Path) -> None:
    example = {"kind": "image", "sample_id": "a/b/\udce9", "caption": "<script>x</script>", "rank": 1, "of": 3}
    (tmp_path / "results.json").write_text(json.dumps({"examples": [example | {"retrieved": ["a/b/\udce9"]}]}))
    text = write_report(tmp_path).read_text()
    assert "&lt;script&gt;x" in text
    assert "<script>x" not in text
    assert "a/b/\\udce9" in text
    assert "not on this machine" in text


@pytest.mark.parametrize("own", ["", "'use strict';"])
def test_a_page_lets_no_script_run_but_its_own(own: str) -> None:
    """Escaping has to fail and this too, before a caption runs; browsers compare the script with its digest."""
    page = document("a", "<p>b</p>", "", own)
    [script] = re.findall(r"<script>(.*?)</script>", page, re.DOTALL)
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    head = page.partition("<title>")[0]
    assert f"default-src 'none'; img-src data:; style-src 'unsafe-inline'; script-src 'sha256-{digest}'\"" in head


def test_names_of_sets_and_terms_are_escaped(tmp_path: Path) -> None:
    evil = "<script>x</script>"
    row = {"kind": evil, "retrieval": RESULTS["retrieval"]["image"], "losses": {"final": {"itm": 1.0}}}
    results = {"sets": {evil: row}, "retrieval": {evil: RESULTS["retrieval"]["image"]}, evil: evil}
    (tmp_path / "results.json").write_text(json.dumps(results))
    lines = [{"step": step, f"heldout/{evil}/itm": 0.5, "loss": {evil: 1.0, "itm": 1.0}} for step in (1, 2, 3)]
    (tmp_path / "metrics.jsonl").write_text("\n".join(map(json.dumps, lines)))
    (tmp_path / "config.yaml").write_text(f"name: '{evil}'\n{evil}: 1")
    entry = json.loads((RunFolder(make_starts(tmp_path)).environment).read_text())
    entry[0]["hosts"][0]["name"] = entry[0]["outcome"] = entry[0]["versions"]["torch"] = evil
    (tmp_path / "environment.json").write_text(json.dumps(entry))
    text = write_report(tmp_path).read_text()
    assert "<script>x" not in text
    assert text.count("&lt;script&gt;x") > 8


def make_starts(folder: Path) -> Path:
    RunFolder(folder).write_starts([start(0, 4, "2026-01-02T03:44:05+00:00")])
    return folder


def test_folder_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="does not exist"):
        write_report(tmp_path / "nothing")


def test_a_folder_that_is_no_run_gets_no_page(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "config.yaml").write_text("width: 5")  # as a converted folder has one
    assert main(["report", str(tmp_path)]) == 2
    assert "is not the folder of a run: it holds none of metrics.jsonl" in capsys.readouterr().err
    assert [path.name for path in tmp_path.iterdir()] == ["config.yaml"]


def test_a_page_that_cannot_be_written_is_a_sentence(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "metrics.jsonl").touch()
    (tmp_path / "report.html.part").mkdir()
    assert main(["report", str(tmp_path)]) == 2
    assert "report.html cannot be written" in capsys.readouterr().err


def test_no_command_of_the_page_serves_anything_to_others(folder: Path) -> None:
    commands = re.findall(r'data-copy="([^"]+)"', write_report(folder).read_text())
    assert any(command.startswith("tensorboard --logdir") for command in commands)
    assert not [command for command in commands if "bind_all" in command or "--host" in command]


@pytest.mark.parametrize(("low", "high"), [(0.0, 1.0), (3.1, 9.8), (5.0, 5.0), (-2e-4, 3e-4), (0.0, 0.0)])
def test_ticks_are_few_and_enclose(low: float, high: float) -> None:
    ticks = nice_ticks(low, high)
    assert 1 <= len(ticks) <= 7
    assert ticks[0] <= low
    assert ticks[-1] >= high


def test_curve_leaves_out_what_is_not_finite() -> None:
    text = figure(Chart("itm", (Series.of("", [(1, 2.0), (2, math.nan), (3, 1.0)]),)))
    assert "nan" not in text.lower()
    assert drawable([Chart("itm", (Series.of("", [(1, math.inf), (2, 1.0)]),))]) == []


def test_running_mean() -> None:
    assert running_mean([1.0, 3.0, 5.0, 7.0], 2) == [1.0, 2.0, 4.0, 6.0]


def test_pace_leaves_out_the_first_line() -> None:
    seconds = {"data": 1.0, "forward": 2.0, "backward": 3.0, "optimizer": 1.0, "total": 8.0}
    slow = {"step": 1, "samples_per_second": 1.0, "seconds": {**seconds, "total": 80.0}}
    usual = {"step": 2, "samples_per_second": 16.0, "seconds": seconds}
    pace = summarize_steps([slow, usual])
    assert pace["samples_per_second"] == 16.0
    assert pace["seconds"]["other"] == pytest.approx(1.0)
    assert summarize_steps([{"step": 1}]) == {}


def test_example_queries_are_missed_only_where_retrieval_is_measured(folder: Path, tmp_path: Path) -> None:
    """A fine-tuning for questions never has any, so that "yet" would be a promise."""
    run = read_run(folder)
    assert run.config is not None
    for tasks, missed in ((["losses", "retrieval"], True), (["losses"], False)):
        evaluation = run.config.evaluation.model_copy(update={"tasks": tasks})
        other = replace(run, results={}, config=run.config.model_copy(update={"evaluation": evaluation}))
        assert ("No example queries yet" in queries(other)) is missed
        assert ("Queries" in page(other)) is missed
