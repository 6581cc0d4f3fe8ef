"""What others wrote commands no terminal: in everything that a command prints, by print and by rich."""

import io
import os
import stat
import sys

import click
import pytest
from rich.console import Console
from rich.progress import Progress

from sclds.cli.command import run
from sclds.cli.main import main
from sclds.cli.printing import Sheet
from sclds.config.reading import load_config
from sclds.evaluation.section import Cell, Section
from sclds.report.console import print_sections
from sclds.run.files import new_folder
from sclds.run.folder import RunFolder
from sclds.run.terminal import PlainStream, behind, printable
from sclds.train.progress import Reporter
from tests.data.synthetic import caption, picture, write_tar

HOSTILE = "\x1b]0;owned\x07\x1b[2J\x9b1A\rerror: none\x7f"
SHOWN = r"\x1b]0;owned\x07\x1b[2J\x9b1A\x0derror: none\x7f"


def commands_in(text):
    """Return the control characters of a text."""
    return {letter for letter in text if letter != "\n" and (ord(letter) < 32 or 127 <= ord(letter) < 160)}


def test_control_characters_become_escapes_and_nothing_else_does():
    assert printable(HOSTILE) == SHOWN
    assert printable("größer\tthan\n世界 \udce9") == "größer\tthan\n世界 \udce9"


def test_a_stream_lets_progress_begin_its_line_anew_and_rich_use_colors():
    raw = io.StringIO()
    plain = PlainStream(raw)
    print("\r50 %\rx", file=plain)
    plain.writelines(["\x07", "a"])
    assert raw.getvalue() == "\r50 %\\x0dx\n\\x07a"
    assert behind(plain) is behind(raw) is raw
    with Progress(console=Console(file=plain, force_terminal=True)):
        assert behind(sys.stdout) is not sys.stdout
    assert "\x1b[" in raw.getvalue()


def wrong_setting(folder):
    return ["plan", "--config", "quickstart", "--gpus", "8", "--gpu", "h100", f"{HOSTILE}=1"]


def wrong_host(folder):
    (folder / "hosts").write_text(f"worker{HOSTILE.replace(chr(13), '')} slots=1\n")
    return ["launch", "--hostfile", str(folder / "hosts"), "--config", "quickstart"]


def names_left_out(folder):
    members = {f"{HOSTILE}.log": b"", "b.png": picture(1), "b.json": caption(HOSTILE)}
    write_tar(folder / "0.tar", members)
    return ["data", "stats", "--config", "quickstart", "data.heldout=[]", f"data.train=[{{name: x, shards: {folder}}}]"]


def no_folder(folder):
    return ["report", str(folder / HOSTILE)]


@pytest.mark.parametrize("make", [wrong_setting, wrong_host, names_left_out, no_folder])
def test_a_command_shows_hostile_text_as_escapes(make, tmp_path, capsys):
    main(make(tmp_path))
    shown = "".join(capsys.readouterr())
    assert "owned" in shown
    assert commands_in(shown) == set()


def test_tables_and_sentences_of_a_run_show_hostile_text_as_escapes(capsys):
    Sheet().table(["name", "what"], [[HOSTILE, "x"]])
    Reporter(0, 1).say(f"sample {HOSTILE} is set aside")
    print_sections(Reporter(0, 1).console, [Section(HOSTILE, HOSTILE, (HOSTILE,), ((HOSTILE, (Cell(HOSTILE),)),))])
    shown = capsys.readouterr().out
    assert "owned" in shown
    assert commands_in(shown) == set()


def test_nothing_that_a_command_makes_is_open_to_all(tmp_path):
    """Whatever the umask is: who may write into a run folder may put checkpoints there."""
    made = tmp_path / "run"

    def write():
        RunFolder(made).open(load_config("quickstart"), 0)
        with new_folder(made / "other") as folder:
            (folder / "file").touch()

    before = os.umask(0)
    try:
        assert run(click.Command("x", callback=write), [], "x") == 0
    finally:
        os.umask(before)
    paths = [made, *made.rglob("*")]
    assert len(paths) == 7
    assert [path for path in paths if path.stat().st_mode & stat.S_IWOTH] == []
