"""Every command of the program, found by walking it."""

from collections.abc import Iterator

import click

from sclds.cli.main import PROGRAM


def commands(
    group: click.Group = PROGRAM, words: tuple[str, ...] = ()
) -> Iterator[tuple[tuple[str, ...], click.Command]]:
    """Give every command with the words that call it."""
    context = click.Context(group)
    for name in group.list_commands(context):
        command = group.get_command(context, name)
        assert command is not None
        if isinstance(command, click.Group):
            yield from commands(command, (*words, name))
        else:
            yield (*words, name), command
