import importlib

import pytest

from sclds.cli.main import COMMANDS, main


def test_every_row_of_the_table_exists():
    for module, line in COMMANDS.values():
        loaded = importlib.import_module(module)
        assert callable(loaded.add_arguments)
        assert callable(loaded.run)
        assert line


def test_help_lists_the_commands(capsys):
    with pytest.raises(SystemExit) as end:
        main(["--help"])
    assert end.value.code == 0
    shown = capsys.readouterr().out
    assert all(name in shown for name in COMMANDS)


def test_an_unknown_command_is_refused(capsys):
    with pytest.raises(SystemExit) as end:
        main(["no-such-command"])
    assert end.value.code == 2
