"""Arguments that several commands share, and the kinds of numbers that options take, each with its bounds."""

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import click

F = TypeVar("F", bound=Callable[..., Any])
MANY = 1_000_000_000
"""Most of anything that is counted, where nothing nearer bounds it."""
FILE = click.Path(path_type=Path)


class Whole(click.ParamType):
    """A whole number.

    Args:
        least: Smallest allowed.
        most: Largest allowed.
    """

    name = "number"

    def __init__(self, least: int = 1, most: int = MANY):
        self.least, self.most = least, most

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int:
        """Return the number that a word is, or say what is wrong with it."""
        word = str(value)
        digits = word[1:] if word[:1] in ("-", "+") else word
        if not (digits.isascii() and digits.isdecimal()):
            raise click.UsageError(f"{_called(param)} is '{_short(word)}': give a whole number", ctx)
        # more digits than a bound has are not turned into a number: Python refuses thousands of them
        number = int(word) if len(digits) <= 30 else (-1 if word[0] == "-" else 1) * 10**30
        _bounded(number, word, self.least, self.most, param, ctx)
        return number


class Share(click.ParamType):
    """A number above 0 and at most 1."""

    name = "share"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        """Return the number that a word is, or say what is wrong with it."""
        try:
            number = float(value)
        except ValueError:
            number = math.nan
        if not 0 < number <= 1:
            raise click.UsageError(
                f"{_called(param)} {_short(str(value))} is not a share between 0 and 1; 0.4 is a usual one", ctx
            )
        return number


class Several(click.Option):
    """An option that takes several words, `--seeds 0 1 2`, or is given several times."""

    def __init__(self, *given: Any, **settings: Any):
        super().__init__(*given, **settings | {"multiple": True})

    def takes(self, word: str) -> bool:
        """Return whether a word that follows belongs to this option: settings end numbers and names, options all."""
        if isinstance(self.type, Whole) or self.type.name == "name":
            return not word.startswith("--") and "=" not in word
        return not word.startswith("-")


def configured(command: F) -> F:
    """Declare the configuration that a command reads, and the settings that replace those of the file."""
    overrides = click.argument("overrides", nargs=-1, metavar="[KEY=VALUE]...")
    text = "YAML file, or the name of a shipped configuration such as quickstart; KEY=VALUE replaces settings of it."
    return click.option("--config", required=True, metavar="FILE", help=text)(overrides(command))


def _bounded(
    number: int, word: str, least: int, most: int, param: click.Parameter | None, ctx: click.Context | None
) -> None:
    if number < least:
        raise click.UsageError(f"{_called(param)} is {_short(word)}: give at least {least}", ctx)
    if number > most:
        raise click.UsageError(f"{_called(param)} is {_short(word)}: give at most {most}", ctx)


def _called(param: click.Parameter | None) -> str:
    return "the number" if param is None else str(param.opts[0])


def _short(word: str) -> str:
    return word if len(word) <= 40 else f"{word[:40]}…"
