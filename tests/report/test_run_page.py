import json
import math
import re
from html.parser import HTMLParser
from pathlib import Path

import pytest

from sclds.config.errors import UserError
from sclds.config.reading import load_config
from sclds.costs.peak import summarize_steps
from sclds.data.storage.shards import shard_files
from sclds.report import charts
from sclds.report.run_page import read_run, write_report
from tests.report.runs import QUICKSTART, make_run


class Balance(HTMLParser):
    """Collects elements that are not closed and whatever would be fetched."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.fetched: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag not in {"meta", "img"}:
            self.open.append(tag)
        self.fetched += [v for k, v in attrs if k in {"src", "href"} and v and not v.startswith("data:")]

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
    assert text.count("<svg") == 6


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


def test_missing_parts_are_sentences(tmp_path: Path) -> None:
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


def test_folder_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="does not exist"):
        write_report(tmp_path / "nothing")


@pytest.mark.parametrize(("low", "high"), [(0.0, 1.0), (3.1, 9.8), (5.0, 5.0), (-2e-4, 3e-4), (0.0, 0.0)])
def test_ticks_are_few_and_enclose(low: float, high: float) -> None:
    ticks = charts.nice_ticks(low, high)
    assert 1 <= len(ticks) <= 7
    assert ticks[0] <= low
    assert ticks[-1] >= high


def test_curve_leaves_out_what_is_not_finite() -> None:
    text = charts.line_chart([(1, 2.0), (2, math.nan), (3, 1.0)], "itm")
    assert "nan" not in text
    assert "Too few" in charts.line_chart([(1, math.inf), (2, 1.0)], "itm")


def test_running_mean() -> None:
    assert charts.running_mean([1.0, 3.0, 5.0, 7.0], 2) == [1.0, 2.0, 4.0, 6.0]


def test_pace_leaves_out_the_first_line() -> None:
    seconds = {"data": 1.0, "forward": 2.0, "backward": 3.0, "optimizer": 1.0, "total": 8.0}
    slow = {"step": 1, "samples_per_second": 1.0, "seconds": {**seconds, "total": 80.0}}
    usual = {"step": 2, "samples_per_second": 16.0, "seconds": seconds}
    pace = summarize_steps([slow, usual])
    assert pace["samples_per_second"] == 16.0
    assert pace["seconds"]["other"] == pytest.approx(1.0)
    assert summarize_steps([{"step": 1}]) == {}
