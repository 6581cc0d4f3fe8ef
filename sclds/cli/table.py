"""How the table of commands becomes a command line: a command is a module, a group is a table of its own."""

import argparse
import importlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TypeAlias


@dataclass(frozen=True)
class Command:
    """A command; its module is imported only when it is called."""

    module: str
    """Has `add_arguments(parser)` and `run(arguments) -> exit code`."""
    line: str
    """One line of help."""
    description: str = ""
    """What its own help says; `line` by default."""


@dataclass(frozen=True)
class Group:
    """Commands under one name."""

    line: str
    """One line of help."""
    metavar: str
    """What help calls the name of one of them."""
    commands: "Table | Callable[[], Table]"
    """By name; a function where the table is not known before the group is called."""

    def table(self) -> "Table":
        """Return the commands by name."""
        return self.commands() if callable(self.commands) else self.commands


Table: TypeAlias = Mapping[str, Command | Group]


def declare(parser: argparse.ArgumentParser, table: Table, metavar: str, argv: list[str], prefix: str = "") -> None:
    """Declare the names of a table as subcommands, and the arguments of the one that `argv` calls.

    The parsed arguments have the module's `run`, and the chosen name as `command`, or `GROUP_command` inside a group.

    Args:
        parser: Of the program or the group.
        table: By name.
        metavar: What help calls a name.
        argv: Words that follow the program's, or the group's, name.
        prefix: Of the chosen name's attribute.
    """
    parsers = parser.add_subparsers(dest=f"{prefix}command", required=True, metavar=metavar)
    for name, entry in table.items():
        own = parsers.add_parser(name, help=entry.line, description=getattr(entry, "description", "") or entry.line)
        if argv[:1] != [name]:
            continue
        if isinstance(entry, Group):
            declare(own, entry.table(), entry.metavar, argv[1:], f"{prefix}{name}_")
        else:
            module = importlib.import_module(entry.module)
            module.add_arguments(own)
            own.set_defaults(run=module.run)


def entries(table: Table, path: tuple[str, ...] = ()) -> dict[tuple[str, ...], Command]:
    """Return every command of a table, those in groups too, by the words that call it."""
    found: dict[tuple[str, ...], Command] = {}
    for name, entry in table.items():
        found |= entries(entry.table(), (*path, name)) if isinstance(entry, Group) else {(*path, name): entry}
    return found
