"""`sclds prepare SOURCE`: the owner's files of a public data set into shards."""

import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from sclds.cli.arguments import FILE, Whole
from sclds.cli.command import STOPPED, Command, Group

if TYPE_CHECKING:
    from sclds.data.prepare.sources import Source

_REASONS = 8  # that are printed; the report has all


class Sources(Group):
    """`sclds prepare`: besides its own commands one for every public data set, known when the group is called."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Return the names, those of the public data sets last."""
        self._know_sources()
        return super().list_commands(ctx)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Return the command of a name."""
        if cmd_name not in self.commands:
            self._know_sources()
        return super().get_command(ctx, cmd_name)

    def _know_sources(self) -> None:
        from sclds.data.prepare.sources import SOURCES

        for name in SOURCES:
            if name not in self.commands:
                self.add_command(source_command(name))


def source_command(name: str) -> click.Command:
    """Return the command that prepares one public data set; all have the same arguments."""
    from sclds.data.prepare.sources import SOURCES

    source = SOURCES[name]
    needs = "; ".join(f"{split}: {', '.join(places)}" for split, places in source.splits.items())

    def command(
        root: Path,
        out: Path,
        splits: str | None,
        workers: int,
        shard_samples: int,
        first_image: int | None,
        folder_rows: int | None,
    ) -> int:
        options = _options(source, first_image=first_image, folder_rows=folder_rows)
        return _prepare(name, root, out, splits, workers, shard_samples, options)

    for option in (
        click.option(
            "--folder-rows",
            type=Whole(0),
            help="of images named by number inside numbered folders: the rows of the list that each folder stands for",
        ),
        click.option(
            "--first-image",
            type=Whole(0),
            help="of images named by row number: the number of the list's first row, if that cannot be told",
        ),
        click.option("--shard-samples", type=Whole(1, 1_000_000), default=1000, help="samples a shard"),
        click.option(
            "--workers", type=Whole(1, 1024), default=os.cpu_count() or 1, show_default="all cores", help="processes"
        ),
        click.option("--splits", show_default="all", help="some of the splits named above, with commas"),
        click.option(
            "--out", type=FILE, required=True, metavar="FOLDER", help="folder for the shards, one folder a split in it"
        ),
        click.option(
            "--root", type=FILE, required=True, metavar="FOLDER", help="folder of the owner's files, as they unpack"
        ),
    ):
        command = option(command)
    text = f"{source.title}: {source.obtain}. Below --root must lie, for {needs}."
    return click.command(name, cls=Command, help=text, short_help=f"{source.title} from its owner's files")(command)


def _options(source: "Source", **given: int | None) -> dict[str, int]:
    """Return what the user says about the files.

    Raises:
        UserError: The source has no use for it.
    """
    from sclds.config.errors import UserError

    said = {name: value for name, value in given.items() if value is not None}
    for name in said:
        if name not in source.options:
            option = f"--{name.replace('_', '-')}"
            raise UserError(f"{option} has no effect on {source.title}: its files are not named by row number")
    return said


def _prepare(
    name: str,
    root: Path,
    out: Path,
    splits: str | None,
    workers: int,
    shard_samples: int,
    options: dict[str, int],
) -> int:
    """Prepare the chosen source; started again, it goes on where it stopped. Returns the exit code."""
    from sclds.data.prepare.engine import finished_shards, prepare
    from sclds.data.prepare.sources import SOURCES, row_name

    source = SOURCES[name]
    for split in source.chosen(root, splits.split(",") if splits else None):
        folder = out / split
        try:
            report = prepare(name, source, root, folder, split, workers, shard_samples, options)
        except KeyboardInterrupt:
            print(f"stopped: {finished_shards(folder)} shards are finished; the same command goes on from there")
            return STOPPED
        _print(report, source.title, folder)
        if "expected" in report:
            print(report["expected"]["sentence"])
        row = f"{{name: {row_name(name, split)}, shards: {folder.absolute()}, kind: {source.kind}}}"
        purpose = "" if source.member == "json" else " of a fine-tuning"
        print(f"A row for data.train or data.heldout{purpose}:\n  - {row}")
    return 0


def _print(report: dict[str, Any], title: str, out: Path) -> None:
    """Print the report as a table."""
    from sclds.cli.printing import Sheet

    samples, texts, repeated = report["samples"], report["texts"], report["duplicates"]
    rows = [("kept", f"{samples['kept']:,} of {samples['read']:,}")]
    reasons = list(report["dropped"].items())
    first = report["first_dropped"]
    rows += [("dropped", f"{count:,}: {reason}; the first: {first[reason]}") for reason, count in reasons[:_REASONS]]
    if reasons[_REASONS:]:
        rows.append(("dropped", f"{sum(count for _, count in reasons[_REASONS:]):,} for other reasons"))
    rows += [
        ("left out of samples", f"{count:,}: {reason}") for reason, count in [*report["left_out"].items()][:_REASONS]
    ]
    rows += [("read as", note) for note in report["notes"]]
    if texts["count"]:
        words = texts["words"]
        rows.append(("texts", f"{texts['count']:,}, {texts['count'] / samples['kept']:.2f} a sample"))
        spread = (
            f"median {words['median']}, mean {words['mean']:.1f}, 95 % up to {words['p95']}, longest {words['max']}"
        )
        rows.append(("words a text", spread))
    rows.append(("repeated", f"{repeated['media']:,} images or videos, {repeated['texts']:,} texts"))
    rows.append(("shards", f"{report['shards']:,}, {report['bytes'] / 1e9:.2f} GB in {out}"))
    Sheet().table(("", ""), rows, f"{title}, {report['split']}")
