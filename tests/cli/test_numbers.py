"""Every number of every command has bounds, and what lies outside them is a sentence, at once."""

import click
import pytest

from sclds.cli.arguments import Several, Share, Whole
from sclds.cli.main import main
from tests.cli.commands import commands

WORDS = ("0", "-1", "nan", "x", "", "1.5", "1e3", "1_000", "inf", "-8", "٣", str(10**30), "9" * 5000)
"""Given to every number; those that lie inside its bounds are left out."""


def numbers():
    """Give every option and argument that is a number, with the command it belongs to."""
    for words, command in commands():
        for param in command.params:
            if isinstance(param.type, Whole | Share):
                yield pytest.param(words, command, param, id=f"{' '.join(words)} {param.opts[0]}")


def required(command: click.Command, but: click.Parameter) -> list[str]:
    """Return words for everything else that a command cannot do without."""
    words: list[str] = []
    for param in command.params:
        if param.required and param is not but:
            word = "quickstart" if param.name == "config" else "1"
            words += [param.opts[0], word] if isinstance(param, click.Option) else [word]
    return words


def allowed(kind: Whole | Share, word: str) -> bool:
    try:
        return kind.least <= int(word) <= kind.most and word.lstrip("-").isascii() and "_" not in word
    except (AttributeError, ValueError):
        return False


@pytest.mark.parametrize(("words", "command", "param"), numbers())
def test_a_number_outside_its_bounds_is_a_sentence(words, command, param, capsys):
    for word in WORDS:
        if allowed(param.type, word):
            continue
        given = [f"{param.opts[0]}={word}"] if not isinstance(param, Several) else [param.opts[0], word]
        assert main([*words, *required(command, param), *given]) == 2, word
        first = capsys.readouterr().err.splitlines()[0]
        assert first.startswith(f"error: {param.opts[0]} "), first
        assert len(first) < 200


def test_no_number_is_read_in_another_way():
    """An option of click's own types would take what has no bounds."""
    loose = [
        f"{' '.join(words)} {param.opts[0]}"
        for words, command in commands()
        for param in command.params
        if isinstance(param.type, click.types.IntParamType | click.types.FloatParamType)
    ]
    assert loose == []


def test_a_number_says_what_would_do(capsys):
    for word, told in (("0", "give at least 1"), ("2000000", "give at most 1000000"), ("x", "give a whole number")):
        assert main(["plan", "--config", "quickstart", "--gpus", word]) == 2
        assert told in capsys.readouterr().err


def test_more_cores_than_there_are_is_a_sentence(capsys):
    assert main(["benchmark", "data", "--cores", "100000"]) == 2
    assert "--cores 100000 is not between 1 and" in capsys.readouterr().err
