import re
import shlex
from pathlib import Path

import click
import pytest

from sclds.cli.main import PROGRAM
from sclds.config.reading import load_config
from sclds.costs.counts import packed_forward, published_forward
from sclds.data.prepare.sources import SOURCES

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", ROOT / "docs" / "costs.md", ROOT / "docs" / "data_sets.md"]
LINKING = [*sorted(ROOT.glob("*.md")), *sorted((ROOT / "docs").glob("*.md")), ROOT / "kernels" / "README.md"]


@pytest.mark.parametrize("page", LINKING, ids=lambda p: p.relative_to(ROOT).as_posix())
def test_what_a_page_names_exists(page: Path) -> None:
    text = page.read_text()
    links = [link for link in re.findall(r"\]\(([^)]+)\)", text) if "://" not in link]
    paths = re.findall(r"(?<![\w/])(?:configs|launchers|sclds|kernels)/[\w/]+\.(?:yaml|py|md)", text)
    missing = [name for name in links if not (page.parent / name.split("#")[0]).exists()]
    missing += [name for name in paths if not (ROOT / name).exists()]
    assert missing == []


@pytest.mark.parametrize("page", LINKING, ids=lambda p: p.relative_to(ROOT).as_posix())
def test_no_paragraph_stands_twice_on_a_page(page: Path) -> None:
    paragraphs = [part.strip() for part in page.read_text().split("\n\n") if len(part.strip()) > 60]
    assert [part for part in set(paragraphs) if paragraphs.count(part) > 1] == []


@pytest.mark.parametrize("name", SOURCES)
def test_the_files_that_a_source_needs_are_named(name: str) -> None:
    (row,) = re.findall(rf"^\| `{name}` \|.*$", PAGES[2].read_text(), re.MULTILINE)
    if name == "sbu":
        row = PAGES[2].read_text()
    needed = {place.split("|")[0] for places in SOURCES[name].splits.values() for place in places}
    assert [place for place in needed if f"`{place}" not in row] == []


@pytest.mark.parametrize("target", re.findall(r"`make ([\w-]+)`", PAGES[0].read_text()))
def test_make_targets_exist(target: str) -> None:
    assert re.search(rf"^{target}:", (ROOT / "Makefile").read_text(), re.MULTILINE)


def test_figures_are_those_that_are_counted() -> None:
    config = load_config(ROOT / "configs" / "pretrain" / "scl_base_mixed.yaml")
    readme, costs = (page.read_text() for page in PAGES[:2])
    for kind in ("image", "video"):
        for parts in (packed_forward(config, kind, 12, 50265), published_forward(config, kind, 50265)):
            assert f"{sum(parts.values()) / 1e9:.0f} GFLOP" in readme
            for value in (*parts.values(), sum(parts.values())):
                assert f"{value / 1e9:.1f}" in costs


@pytest.mark.parametrize("command", sorted(set(re.findall(r"`sclds (\w+)", PAGES[0].read_text()))))
def test_subcommands_exist(command: str) -> None:
    assert command in PROGRAM.commands


WRITTEN = [
    *((page, line) for page in LINKING for line in re.findall(r"^sclds (.+)$", page.read_text(), re.MULTILINE)),
    *((page, line) for page in LINKING for line in re.findall(r"`sclds ([^`]+)`", page.read_text())),
    *(
        (page, line)
        for page in sorted((ROOT / "configs").rglob("*.yaml"))
        for line in re.findall(
            r"^#.*?\bsclds ((?:convert|plan|train|launch|profile|prepare|data) [^`;\n]*)", page.read_text(), re.M
        )
    ),
]


@pytest.mark.parametrize(("page", "line"), WRITTEN, ids=[f"{page.name}: {line[:40]}" for page, line in WRITTEN])
def test_commands_that_a_page_shows_exist_with_their_options(page: Path, line: str) -> None:
    words, command = shlex.split(line.split(" # ")[0].strip(" .,"), comments=False), PROGRAM
    while isinstance(command, click.Group) and words and re.fullmatch(r"[a-z][\w-]*", words[0]):
        found = command.get_command(click.Context(command), words.pop(0))
        assert found is not None, line
        command = found
    names = {name for param in command.params for name in param.opts} | {"--help"}
    assert [word for word in words if word.startswith("--") and word.partition("=")[0] not in names] == []
