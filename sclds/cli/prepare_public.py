"""`sclds prepare SOURCE`: the owner's files of a public data set into shards."""

import argparse
import os
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from sclds.cli.prepare_index import STOPPED
from sclds.config.errors import UserError
from sclds.data.prepare.engine import finished_shards, prepare
from sclds.data.prepare.linked import OPTIONS
from sclds.data.prepare.sources import SOURCES, Source, row_name

_SHARD_SAMPLES = 1000
_REASONS = 8  # that are printed; the report has all


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments, which are the same for every source; what a source has no use for is refused later."""
    parser.add_argument("--root", type=Path, required=True, help="folder of the owner's files, as they unpack")
    parser.add_argument("--out", type=Path, required=True, help="folder for the shards, one folder a split in it")
    parser.add_argument("--splits", help="some of the splits named above, with commas; all by default")
    parser.add_argument("--workers", type=int, default=os.cpu_count() or 1, help="processes; all cores by default")
    parser.add_argument(
        "--shard-samples", type=int, default=_SHARD_SAMPLES, help=f"samples a shard; {_SHARD_SAMPLES} by default"
    )
    parser.add_argument(
        "--first-image",
        type=int,
        help="of images named by row number: the number of the list's first row, if that cannot be told",
    )
    parser.add_argument(
        "--folder-rows",
        type=int,
        help="of images named by number inside numbered folders: the rows of the list that each folder stands for",
    )


def run(arguments: argparse.Namespace) -> int:
    """Prepare the chosen source; started again, it goes on where it stopped. Returns the exit code."""
    for option in ("workers", "shard_samples"):
        if getattr(arguments, option) < 1:
            raise UserError(f"--{option.replace('_', '-')} is {getattr(arguments, option)}: give at least 1")
    name, console = arguments.prepare_command, Console(highlight=False, soft_wrap=True)
    source = SOURCES[name]
    splits = source.chosen(arguments.root, arguments.splits.split(",") if arguments.splits else None)
    options = _options(arguments, source)
    for split in splits:
        out = arguments.out / split
        try:
            report = prepare(
                name, source, arguments.root, out, split, arguments.workers, arguments.shard_samples, options
            )
        except KeyboardInterrupt:
            console.print(f"stopped: {finished_shards(out)} shards are finished; the same command goes on from there")
            return STOPPED
        console.print(_table(report, source.title, out))
        if "expected" in report:
            console.print(report["expected"]["sentence"], markup=False)
        if source.member == "json":
            row = f"{{name: {row_name(name, split)}, shards: {out.absolute()}, kind: {source.kind}}}"
            console.print(f"A row for data.train or data.heldout:\n  - {row}", markup=False)
    return 0


def _options(arguments: argparse.Namespace, source: Source) -> dict[str, int]:
    """Return what the user says about the files.

    Raises:
        UserError: The source has no use for it, or it is negative.
    """
    said = {name: value for name in OPTIONS if (value := getattr(arguments, name)) is not None}
    for name, value in said.items():
        option = f"--{name.replace('_', '-')}"
        if name not in source.options:
            raise UserError(f"{option} has no effect on {source.title}: its files are not named by row number")
        if value < 0:
            raise UserError(f"{option} is {value}: give 0 or more")
    return said


def _table(report: dict[str, Any], title: str, out: Path) -> Table:
    """Return the report as a table."""
    samples, texts, repeated = report["samples"], report["texts"], report["duplicates"]
    table = Table(title=f"{title}, {report['split']}", title_justify="left", show_header=False)
    table.add_row("kept", f"{samples['kept']:,} of {samples['read']:,}")
    reasons = list(report["dropped"].items())
    for reason, count in reasons[:_REASONS]:
        table.add_row("dropped", escape(f"{count:,}: {reason}; the first: {report['first_dropped'][reason]}"))
    if reasons[_REASONS:]:
        table.add_row("dropped", f"{sum(count for _, count in reasons[_REASONS:]):,} for other reasons")
    for reason, count in list(report["left_out"].items())[:_REASONS]:
        table.add_row("left out of samples", escape(f"{count:,}: {reason}"))
    for note in report["notes"]:
        table.add_row("read as", escape(note))
    if texts["count"]:
        words = texts["words"]
        table.add_row("texts", f"{texts['count']:,}, {texts['count'] / samples['kept']:.2f} a sample")
        spread = (
            f"median {words['median']}, mean {words['mean']:.1f}, 95 % up to {words['p95']}, longest {words['max']}"
        )
        table.add_row("words a text", spread)
    table.add_row("repeated", f"{repeated['media']:,} images or videos, {repeated['texts']:,} texts")
    table.add_row("shards", f"{report['shards']:,}, {report['bytes'] / 1e9:.2f} GB in {out}")
    return table
