"""What every command is made with: click's command and group in this project's manner, and how one is run.

A module of a command imports nothing but this room before its function is called, so that help comes at once.
"""

import io
import os
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import click

from sclds.cli.arguments import Several

STOPPED = 130
"""What a shell reports of a program that Ctrl-C ended."""
PIPE_CLOSED = 141
"""What a shell reports of a program whose reader left."""
USAGE_ERROR = 2
_OF_ALL = 0o002
"""What no file or folder that a command makes allows: that everybody writes there, as into a run's checkpoints."""
SETTINGS = {"help_option_names": ["-h", "--help"], "show_default": True, "max_content_width": 100}


class Command(click.Command):
    """A command: options may take several words, and what is wrong is told with what to give instead."""

    def __init__(self, *given: Any, **settings: Any):
        settings["context_settings"] = SETTINGS | settings.get("context_settings", {})
        super().__init__(*given, **settings)

    def format_usage(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the usage line."""
        formatter.write_usage(ctx.command_path, " ".join(self.collect_usage_pieces(ctx)), prefix="usage: ")

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Read the words; a configuration or a setting given in another form than ours is told in the right one."""
        words = list(args)
        several = {name: option for option in self.params if isinstance(option, Several) for name in option.opts}
        _refuse_repeated(ctx, words, self.params)
        try:
            return super().parse_args(ctx, _repeated(words, several))
        except click.NoSuchOption as fault:
            given = next((w for w in words if w.partition("=")[0] == fault.option_name), fault.option_name)
            if any(option.name == "overrides" for option in self.params) and _is_setting(given):
                setting = given.lstrip("-") if "=" in given else f"{given.lstrip('-')}=VALUE"
                raise click.UsageError(f"{given}: a setting has no dashes before it: give {setting}", ctx) from fault
            raise
        except click.MissingParameter as fault:
            given = next((w for w in words if not w.startswith("-") and "=" not in w), "")
            if fault.param is None or fault.param.name != "config":
                raise
            hint = f": give --config {given}" if given else "; a shipped one is named quickstart"
            raise click.UsageError(f"Missing option --config{hint}", ctx) from fault


class Group(click.Group):
    """Commands under one name."""

    command_class = Command

    def __init__(self, name: str, line: str, commands: Sequence[click.Command] = (), **settings: Any):
        settings["context_settings"] = SETTINGS | settings.get("context_settings", {})
        super().__init__(name, help=line, **settings)
        for command in commands:
            self.add_command(command)

    def format_usage(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the usage line."""
        formatter.write_usage(ctx.command_path, " ".join(self.collect_usage_pieces(ctx)), prefix="usage: ")

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Return the names in the order in which they were added."""
        return list(self.commands)

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Read the words; a group by itself is told which commands it has."""
        if not args and not self.invoke_without_command:
            raise click.UsageError(f"Missing command: give one of {', '.join(self.list_commands(ctx))}", ctx)
        return super().parse_args(ctx, args)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the commands, each with its whole line."""
        commands = [command for name in self.list_commands(ctx) if (command := self.get_command(ctx, name))]
        _write_commands(formatter, "Commands", commands)


class Program(Group):
    """The whole: its commands stand in help under headings."""

    def __init__(self, name: str, line: str, headings: dict[str, Sequence[click.Command]], **settings: Any):
        super().__init__(name, line, [c for commands in headings.values() for c in commands], **settings)
        self.headings = headings

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write a paragraph for each heading."""
        for heading, commands in self.headings.items():
            _write_commands(formatter, heading, commands)


def _write_commands(formatter: click.HelpFormatter, heading: str, commands: Sequence[click.Command]) -> None:
    with formatter.section(heading):
        formatter.write_dl([(str(command.name), command.get_short_help_str(200)) for command in commands])


class Constant:
    """A default that lies in a lower room, which is imported when the command runs or explains itself."""

    def __init__(self, module: str, name: str, key: str | None = None):
        self.place = (module, name, key)

    def __call__(self) -> Any:
        """Return the value."""
        import importlib

        module, name, key = self.place
        value = getattr(importlib.import_module(module), name)
        return value if key is None else value[key]

    def __str__(self) -> str:
        """Return what help shows."""
        return str(self())


def run(command: click.Command, argv: Sequence[str] | None, name: str) -> int:
    """Run a command and return its exit code; a user's fault is a sentence and 2.

    Args:
        command: The program, or one command of it.
        argv: The words behind its name; None takes those of this process.
        name: What usage and messages call it.
    """
    os.umask(os.umask(0o077) | _OF_ALL)
    with _plain_output():
        return _carried_out(command, argv, name)


def _carried_out(command: click.Command, argv: Sequence[str] | None, name: str) -> int:
    try:
        with command.make_context(name, list(sys.argv[1:] if argv is None else argv)) as context:
            code = int(command.invoke(context) or 0)
        sys.stdout.flush()
        return code
    except click.exceptions.Exit as end:
        return end.exit_code
    except click.ClickException as fault:
        print(f"error: {fault.format_message()}", file=sys.stderr)
        context_of_fault = getattr(fault, "ctx", None)
        print(f"see {context_of_fault.command_path if context_of_fault else name} --help", file=sys.stderr)
        return USAGE_ERROR
    except BrokenPipeError:  # whoever reads has enough, as `head` does
        sys.stdout = open(os.devnull, "w", encoding="utf-8")  # noqa: SIM115  # else Python flushes into the pipe once more when it ends
        return PIPE_CLOSED
    except KeyboardInterrupt:
        print("stopped", file=sys.stderr)
        return STOPPED
    except ValueError as fault:
        from sclds.config.errors import UserError

        if not isinstance(fault, UserError):
            raise
        print(f"error: {fault}", file=sys.stderr)
        return USAGE_ERROR


@contextmanager
def _plain_output() -> Iterator[None]:
    """Have characters that command a terminal, or that its encoding lacks, printed as escapes.

    By itself Python would obey the first kind, and end the command at the second.
    """
    from sclds.run.terminal import PlainStream

    outputs = sys.stdout, sys.stderr
    for stream in outputs:
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")
    plain = tuple(PlainStream(stream) for stream in outputs)
    sys.stdout, sys.stderr = plain
    try:
        yield
    finally:
        if sys.stdout is plain[0]:  # it is another one where the reader left
            sys.stdout = outputs[0]
        sys.stderr = outputs[1]


def _repeated(words: list[str], several: dict[str, Several]) -> list[str]:
    """Write the name of an option that takes several words before each of them, which is the form that click reads."""
    found: list[str] = []
    current: str | None = None
    for number, word in enumerate(words):
        if word == "--":
            return found + words[number:]
        name = word.partition("=")[0]
        if name in several:
            current = name
            alone = word == name
            following = words[number + 1] if number + 1 < len(words) else "--"
            if not alone or not several[name].takes(following):
                found.append(word)
        elif current is not None and several[current].takes(word):
            found += [current, word]
        else:
            current = None
            found.append(word)
    return found


def _refuse_repeated(ctx: click.Context, words: list[str], params: list[click.Parameter]) -> None:
    """Raise where an option has two values, of which click would take the last and say nothing."""
    once = {name for p in params if isinstance(p, click.Option) and not (p.multiple or p.is_flag) for name in p.opts}
    given = [name for word in words if (name := word.partition("=")[0]) in once]
    for name in given:
        if given.count(name) > 1:
            raise click.UsageError(f"{name} is given twice: give it once", ctx)


def _is_setting(word: str) -> bool:
    """Return whether a word that was taken for an option is the key of a setting."""
    from sclds.config import Config

    return word.lstrip("-").partition("=")[0].partition(".")[0] in Config.model_fields
