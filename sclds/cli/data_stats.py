"""`sclds data stats`: how many samples a configuration's data sets have, and what they are like."""

import argparse
import json
import sys
from typing import Any

from rich.console import Console
from rich.table import Table

from sclds.cli.arguments import add_config
from sclds.config import Config
from sclds.config.reading import load_config
from sclds.data.stats import all_statistics
from sclds.data.storage.left_out import LeftOut

_SAMPLE = 1000
_PAGE_WIDTH = 200  # characters, where no terminal sets it


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments."""
    add_config(parser, option=False)
    parser.add_argument(
        "--sample", type=int, default=_SAMPLE, help=f"samples of each data set that are opened; {_SAMPLE} by default"
    )
    parser.add_argument("--json", action="store_true", help="print JSON instead of a table")


def run(arguments: argparse.Namespace) -> int:
    """Print the statistics of every data set; returns the exit code."""
    config = load_config(arguments.config, arguments.overrides)
    found = all_statistics(config, arguments.sample)
    if arguments.json:
        print(json.dumps({"config": config.name, "data_sets": found}, indent=2))
    else:
        _print(found, config)
    return 0


def _print(found: dict[str, dict[str, Any]], config: Config) -> None:
    """Print a table with a column for each data set."""
    console = Console(highlight=False, width=None if sys.stdout.isatty() else _PAGE_WIDTH)
    table = Table(title=f"{config.name}: data", title_justify="left", header_style="bold")
    table.add_column("", no_wrap=True)
    for name in found:
        table.add_column(name, justify="right")
    for label, cell in _CELLS.items():
        table.add_row(label, *(cell(one) for one in found.values()))
    console.print(table)
    console.print(
        f"Counts and bytes are of all samples, the rest of those opened. Captions are cut at "
        f"data.max_text_tokens={config.data.max_text_tokens}; shared are those that another of them equals, which "
        f"losses.duplicates={config.losses.duplicates} is about."
    )
    for name, one in found.items():
        for reason, count in one["unusable"].items():
            console.print(f"{name}: {count} unusable, {reason}", markup=False)
        for reason, count in one["captions_left_out"].items():
            console.print(f"{name}: {count} captions left out beside others, {reason}", markup=False)
        for fields in one["left_out"]:
            console.print(f"{name}: left out of all its shards: {LeftOut(**fields)}", markup=False)


def _range(spread: dict[str, float] | None) -> str:
    if spread is None:
        return "-"
    low, middle, high = (f"{spread[name]:,.0f}" for name in ("min", "median", "max"))
    return low if low == high else f"{middle} ({low} to {high})"


def _percent(share: float | None) -> str:
    return "-" if share is None else f"{share:.2%}"


_CELLS: dict[str, Any] = {
    "used for": lambda one: one["role"],
    "kind": lambda one: one["kind"],
    "samples": lambda one: f"{one['samples']:,}",
    "shards": lambda one: f"{one['shards']:,}",
    "bytes": lambda one: f"{one['bytes'] / 1e6:,.1f} MB",
    "opened": lambda one: f"{one['opened']:,}",
    "width, px": lambda one: _range(one["width"]),
    "height, px": lambda one: _range(one["height"]),
    "frames": lambda one: _range(one["frames"]),
    "captions each": lambda one: _range(one["captions_per_sample"]),
    "tokens each": lambda one: _range(one["tokens"]),
    "captions cut": lambda one: _percent(one["cut_share"]),
    "captions shared": lambda one: _percent(one["repeated_caption_share"]),
    "unusable": lambda one: _percent(one["unusable_share"]),
}
"""Row of the table → what it shows of a data set's statistics."""
