"""Arguments that several commands share."""

import argparse
import io
import sys


def add_config(parser: argparse.ArgumentParser, option: bool = True) -> None:
    """Declare the configuration that a command reads, with settings that replace those of the file.

    Args:
        parser: Of the command.
        option: Whether the file is given as `--config FILE`, or in its place as the first argument.
    """
    text = "YAML file, or the name of a shipped configuration such as quickstart"
    if option:
        parser.add_argument("--config", required=True, help=text)
    else:
        parser.add_argument("config", help=text)
    parser.add_argument("overrides", nargs="*", metavar="key=value", help="settings that replace those of the file")


def show_any_text() -> None:
    """Have characters that the terminal's encoding lacks printed as escapes; by itself Python ends the command."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")
