"""`sclds data stats`: how many samples a configuration's data sets have, and what they are like."""

import json
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import click

from sclds.cli.arguments import Whole, configured
from sclds.cli.command import Command

if TYPE_CHECKING:
    from sclds.config import Config


@click.command("stats", cls=Command)
@configured
@click.option("--sample", type=Whole(), default=1000, help="samples of each data set that are opened, at most")
@click.option("--json", "as_json", is_flag=True, help="print JSON instead of a table")
def command(config: str, overrides: tuple[str, ...], sample: int, as_json: bool) -> None:
    """Count and measure the samples of every data set."""
    from sclds.config.reading import load_config
    from sclds.data.stats import all_statistics

    settings = load_config(config, list(overrides))
    found = all_statistics(settings, sample)
    if as_json:
        print(json.dumps({"config": settings.name, "data_sets": found}, indent=2))
    else:
        _print(found, settings)


def _print(found: dict[str, dict[str, Any]], config: "Config") -> None:
    """Print a table with a column for each data set, or where these are too many for the width, a list of each."""
    from sclds.cli.printing import Sheet
    from sclds.data.storage.left_out import LeftOut

    sheet = Sheet()
    rows = [(label, *(cell(one) for one in found.values())) for label, cell in _CELLS.items()]
    sheet.table(("", *found), rows, f"{config.name}: data", right=True)
    sheet.text(
        f"Counts and bytes are of all samples, the rest of those opened. Captions are cut at "
        f"data.max_text_tokens={config.data.max_text_tokens}; shared are those that another of them equals, which "
        f"losses.duplicates={config.losses.duplicates} is about."
    )
    for name, one in found.items():
        for reason, count in one["unusable"].items():
            print(f"{name}: {count} unusable, {reason}")
        for reason, count in one["captions_left_out"].items():
            print(f"{name}: {count} captions left out beside others, {reason}")
        for fields in one["left_out"]:
            print(f"{name}: left out of all its shards: {LeftOut(**fields)}")


def _range(spread: dict[str, float] | None) -> str:
    if spread is None:
        return "-"
    low, middle, high = (f"{spread[name]:,.0f}" for name in ("min", "median", "max"))
    return low if low == high else f"{middle} ({low} to {high})"


def _percent(share: float | None) -> str:
    return "-" if share is None else f"{share:.2%}"


_CELLS: dict[str, Callable[[dict[str, Any]], str]] = {
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
