import importlib
import subprocess
import sys

import pytest

from sclds.cli.main import COMMANDS, main
from sclds.cli.table import Group, entries


def test_every_row_of_the_table_exists():
    for words, command in entries(COMMANDS).items():
        loaded = importlib.import_module(command.module)
        assert callable(loaded.add_arguments), words
        assert callable(loaded.run), words
        assert command.line


def test_help_lists_the_commands(capsys):
    with pytest.raises(SystemExit) as end:
        main(["--help"])
    assert end.value.code == 0
    shown = capsys.readouterr().out
    assert all(name in shown for name in COMMANDS)


@pytest.mark.parametrize("group", [name for name, entry in COMMANDS.items() if isinstance(entry, Group)])
def test_help_of_a_group_lists_its_commands(group, capsys):
    with pytest.raises(SystemExit) as end:
        main([group, "--help"])
    assert end.value.code == 0
    shown = capsys.readouterr().out
    assert all(name in shown for name in COMMANDS[group].table())


@pytest.mark.parametrize("words", entries(COMMANDS), ids=" ".join)
def test_every_command_explains_itself(words, capsys):
    with pytest.raises(SystemExit) as end:
        main([*words, "--help"])
    assert end.value.code == 0
    assert f"usage: sclds {' '.join(words)}" in " ".join(capsys.readouterr().out.split())


@pytest.mark.parametrize("words", [["no-such-command"], ["data"], ["data", "no-such-command"], []])
def test_an_unknown_command_is_refused(words, capsys):
    with pytest.raises(SystemExit) as end:
        main(words)
    assert end.value.code == 2


def test_a_command_is_imported_when_it_is_called():
    """Help and the table come without torch, which takes seconds."""
    line = "import sys; from sclds.cli.main import main; main(['--help'])"
    code = f"import atexit, sys; atexit.register(lambda: print('torch' in sys.modules)); {line}"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "False"


def test_the_package_is_the_command():
    done = subprocess.run([sys.executable, "-m", "sclds", "--help"], capture_output=True, text=True, check=True)
    assert done.stdout.startswith("usage: sclds")
