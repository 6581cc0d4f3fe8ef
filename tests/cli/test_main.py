"""The command line as a whole: help, versions, unknown words, and what every command has in common."""

import os
import subprocess
import sys
import time

import click
import pytest

from sclds.cli.main import PROGRAM, main
from tests.cli.commands import commands

COMMANDS = dict(commands())
GROUPS = [name for name, command in PROGRAM.commands.items() if isinstance(command, click.Group)]


def test_help_lists_the_commands_under_headings(capsys):
    assert main(["--help"]) == 0
    shown = capsys.readouterr().out
    assert shown.startswith("usage: sclds")
    assert all(f"{heading}:\n" in shown for heading in PROGRAM.headings)
    assert all(f"\n  {name} " in shown for name in PROGRAM.commands)


def test_the_bare_program_says_what_it_is(capsys):
    assert main([]) == 0
    bare = capsys.readouterr().out
    assert main(["--help"]) == 0
    assert bare.rstrip() == capsys.readouterr().out.rstrip()
    assert "Semantic Completion Learning" in bare


def test_the_version_names_what_decides_a_run(capsys):
    assert main(["--version"]) == 0
    words = capsys.readouterr().out.split()
    assert words[::2] == ["sclds", "torch", "deepspeed"]


@pytest.mark.parametrize("group", GROUPS)
def test_help_of_a_group_lists_its_commands(group, capsys):
    assert main([group, "--help"]) == 0
    shown = capsys.readouterr().out
    names = [words[1] for words in COMMANDS if words[0] == group]
    assert names
    assert all(f"\n  {name} " in shown for name in names)
    assert "..." not in shown.partition("Commands:")[2], "a line is cut"


@pytest.mark.parametrize("words", COMMANDS, ids=" ".join)
def test_every_command_explains_itself(words, capsys):
    assert main([*words, "--help"]) == 0
    shown = capsys.readouterr().out
    assert f"usage: sclds {' '.join(words)}" in " ".join(shown.split())
    undescribed = [p.name for p in COMMANDS[words].params if isinstance(p, click.Option) and not (p.help or p.hidden)]
    assert undescribed == []


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["no-such-command"], "No such command"),
        (["trian"], "Did you mean 'train'?"),
        (["data"], "give one of show, order, stats"),
        (["data", "stat"], "Did you mean 'stats'?"),
        (["prepare", "cocoo"], "Did you mean 'coco'?"),
        (["plan", "--config", "quickstart", "--gpuss", "3"], "'--gpus'"),
        (["plan", "quickstart"], "give --config quickstart"),
        (["data", "show"], "Missing option --config"),
        (["train", "--config", "quickstart", "--schedule.steps=3"], "give schedule.steps=3"),
        (["train", "--config", "quickstart", "--seed", "3"], "give seed=VALUE"),
        (["plan", "--config"], "requires an argument"),
        (["plan", "--config", "quickstart", "--gpus", "2", "--gpus=4"], "--gpus is given twice"),
        (["plan", "--config", "a", "--config", "b"], "--config is given twice"),
        (["prepare", "index", "folder", "--kind", "clip"], "'clip' is not one of"),
        (["verify", "invariance", "--config", "quickstart", "--processes"], "requires an argument"),
    ],
)
def test_what_no_command_line_has_is_refused_with_what_is_nearest(words, told, capsys):
    assert main(words) == 2
    error = capsys.readouterr().err
    assert told in error
    assert error.startswith("error: ")
    assert "--help" in error.splitlines()[-1]


def test_every_command_with_a_configuration_takes_it_alike():
    for words, command in COMMANDS.items():
        options = {p.name: p for p in command.params}
        assert ("config" in options) == ("overrides" in options), words
        if "config" in options:
            assert options["config"].opts == ["--config"], words
            # what is measured may be a run, which has a configuration
            assert options["config"].required == (words not in (("evaluate",), ("explore",))), words


def test_an_option_takes_several_words(monkeypatch):
    from sclds.reference import invariance

    given = []
    monkeypatch.setattr(invariance, "check_invariance", lambda *words: given.append(words) or [])
    line = ["verify", "invariance", "--config", "quickstart", "--processes", "1", "2", "--stages=0", "3"]
    for more in (["--json", "seed=1"], ["--processes", "4", "seed=1", "--json"]):
        assert main([*line, *more]) == 0
    assert [words[3:5] for words in given] == [((1, 2), (0, 3)), ((1, 2, 4), (0, 3))]
    assert [words[1] for words in given] == [["seed=1"]] * 2


def test_an_interrupted_command_says_so(monkeypatch, capsys):
    from sclds.costs import plan

    def interrupted(*given):
        raise KeyboardInterrupt

    monkeypatch.setattr(plan, "plan", interrupted)
    assert main(["plan", "--config", "quickstart"]) == 130
    assert "stopped" in capsys.readouterr().err


def test_a_reader_that_has_enough_is_no_fault():
    """As `sclds --help | head -1`, here with a pipe that nobody reads."""
    reading, writing = os.pipe()
    os.close(reading)
    done = subprocess.run(
        [sys.executable, "-m", "sclds", "--help"], stdout=writing, stderr=subprocess.PIPE, check=False
    )
    os.close(writing)
    assert (done.returncode, done.stderr) == (141, b"")


def seconds_of(*words: str) -> float:
    begin = time.perf_counter()
    subprocess.run([sys.executable, *words], capture_output=True, check=True)
    return time.perf_counter() - begin


def test_help_comes_at_once():
    """No more than half a second after Python itself; the shortest of three, since other work runs beside."""
    bare, help_ = (min(seconds_of(*words) for _ in range(3)) for words in (["-c", ""], ["-m", "sclds", "--help"]))
    assert help_ - bare < 0.5


def test_a_command_imports_what_it_needs_when_it_is_called():
    code = "import sys, sclds.cli.main; print([m for m in ('torch', 'numpy', 'pydantic', 'rich') if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_the_package_is_the_command():
    done = subprocess.run([sys.executable, "-m", "sclds", "--help"], capture_output=True, text=True, check=True)
    assert done.stdout.startswith("usage: sclds")
