"""What commands print fits any width without a word cut, and quantities come in units of their size."""

import functools
import re

import pytest

from sclds.cli.main import main
from sclds.cli.printing import Sheet, amount, duration
from sclds.config.reading import load_config
from sclds.data import stats
from sclds.data.stats import all_statistics

WIDTHS = (40, 60, 80, 200)
FRAME = re.compile(r"[\s┏┳┓┃┡╇┩━│└┴┘─]+")


def words(text):
    return set(FRAME.split(text)) - {""}


@pytest.mark.parametrize(
    ("seconds", "shown"),
    [
        (0, "0 s"),
        (4.01e-4, "401 µs"),
        (0.0123, "12.3 ms"),
        (0.9996, "1.00 s"),
        (1.5, "1.50 s"),
        (119, "119 s"),
        (120, "2.00 min"),
        (7190, "120 min"),
        (7200, "2.00 h"),
        (47.5 * 3600, "47.5 h"),
        (48 * 3600, "2.00 days"),
        (1234.5 * 86400, "1,234 days"),
    ],
)
def test_a_time_has_the_unit_of_its_size(seconds, shown):
    assert duration(seconds) == shown


@pytest.mark.parametrize("power", range(-6, 9))
@pytest.mark.parametrize("lead", [1, 1.5, 9.994, 9.996, 9.9996])
def test_no_time_is_shown_as_nothing_or_far_from_itself(power, lead):
    seconds = lead * 10.0**power
    units = {"µs": 1e-6, "ms": 1e-3, "s": 1, "min": 60, "h": 3600, "days": 86400}
    number, unit = duration(seconds).replace(",", "").split()
    assert float(number) * units[unit] == pytest.approx(seconds, rel=6e-3)
    number, unit = amount(seconds, "B").replace(",", "").split()
    prefixes = {"B": 1, "kB": 1e3, "MB": 1e6, "GB": 1e9}
    assert float(number) * prefixes[unit] == pytest.approx(seconds, rel=6e-3)


ROWS = [
    ("a path", "/a/very/long/path/that/is/one/word.tar"),
    ("a sentence", "of some words, that may be wrapped (or not)"),
]


@pytest.mark.parametrize("width", WIDTHS)
@pytest.mark.parametrize("framed", [True, False])
def test_a_table_keeps_its_words_and_its_width(width, framed, monkeypatch, capsys):
    monkeypatch.setenv("COLUMNS", str(width))
    sheet = Sheet()
    sheet.table(("what", "found"), ROWS, "a title of several words that is long as titles are", framed=framed)
    sheet.text("a paragraph with /a/very/long/path/that/is/one/word/and/longer/than/any/line.tar in it")
    shown = capsys.readouterr().out
    wanted = {word for row in ROWS for cell in row for word in cell.split()} - {"path:", "sentence:"}
    assert wanted - {word.rstrip(":") for word in words(shown)} == set()
    longest = max((len(word) for word in words(shown)), default=0)
    assert max(len(line.rstrip()) for line in shown.splitlines()) <= max(width, longest + 4)


COMMANDS = {
    "plan": ["plan", "--config", "quickstart", "--gpus", "2"],
    "order": ["data", "order", "--shards", "40", "--samples-per-shard", "100", "--block", "4", "--global-batch", "256"],
    "doctor": ["doctor"],
    "stats": ["data", "stats", "--config", "quickstart", "--sample", "2"],
}
WHOLE = {
    "plan": {"schedule", "economy", "fewer)", "communicating,", "activations"},
    "order": {"perfect", "shuffle", "sequence", "travels"},
    "doctor": {"nvidia-dali-cuda120", "engine.attention=auto", "--no-build-isolation"},
    "stats": {"pictures-heldout", "shared", "unusable"},
}


@pytest.mark.parametrize("name", COMMANDS)
def test_every_table_fits(name, monkeypatch, capsys):
    found = functools.cache(lambda: all_statistics(load_config("quickstart"), 1))
    monkeypatch.setattr(stats, "all_statistics", lambda config, sample: found())
    for width in WIDTHS:
        monkeypatch.setenv("COLUMNS", str(width))
        assert main(COMMANDS[name]) == 0
        shown = capsys.readouterr().out
        assert "…" not in shown
        assert WHOLE[name] - {word.rstrip(":") for word in words(shown)} == set(), width
        assert max(len(line.rstrip()) for line in shown.splitlines()) <= width


def test_a_plan_of_a_small_run_shows_no_zeros(capsys):
    assert main(["plan", "--config", "quickstart", "--gpus", "2"]) == 0
    shown = capsys.readouterr().out
    assert re.findall(r"(?<![\d.,])0(?:\.0+)? ?(?:µs|ms|s|min|h|hours|days|GB|MB|kB|B|G|FLOP)\b", shown) == []


def test_a_folder_without_a_run_gets_no_page(tmp_path, capsys):
    assert main(["report", str(tmp_path)]) == 2
    assert "is empty: no run, profile or benchmark has written there yet" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []
    assert main(["report", str(tmp_path / "none")]) == 2
    assert "does not exist" in capsys.readouterr().err
    (tmp_path / "metrics.jsonl").write_text("")
    assert main(["report", str(tmp_path)]) == 0
    assert (tmp_path / "report.html").is_file()
