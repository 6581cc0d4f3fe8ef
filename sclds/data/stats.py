"""`sclds data stats`: how many samples a configuration's data sets have, and what they are like.

Counts and bytes are of all samples; what needs opening them is measured on a sample drawn by key, decoded on the CPU.
"""

import argparse
import json
import sys
from collections import Counter
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from sclds.cli.data import add_config
from sclds.config import Config, DatasetConfig
from sclds.config.errors import UserError
from sclds.config.reading import load_config
from sclds.data.keys import generator
from sclds.data.media.decode import BadMediaError, Decoder
from sclds.data.prepare.progress import Advance, counting
from sclds.data.samples import HELDOUT, SampleMaker
from sclds.data.storage.shards import BadSampleError, SampleIndex, ShardReader, cache_of, open_index
from sclds.data.tokenizer import Tokenizer, load_tokenizer

_SAMPLE = 1000
_DECODED_AT_ONCE = 32
_NO_LIMIT = 1 << 20
_PAGE_WIDTH = 200  # characters, where no terminal sets it


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options of `sclds data stats`."""
    add_config(parser)
    parser.add_argument(
        "--sample", type=int, default=_SAMPLE, help=f"samples of each data set that are opened; {_SAMPLE} by default"
    )
    parser.add_argument("--json", action="store_true", help="print JSON instead of a table")


def run(arguments: argparse.Namespace) -> int:
    """Print the statistics of every data set; returns the exit code."""
    config = load_config(arguments.config, arguments.overrides)
    if arguments.sample < 1:
        raise UserError(f"--sample is {arguments.sample}: give at least 1")
    tokenizer = load_tokenizer(config.data.tokenizer)
    rows = [(row, role) for role in ("train", "heldout") for row in getattr(config.data, role)]
    indices = [open_index([row], cache_of(config.data)) for row, _ in rows]
    found = {}
    with counting("opened", sum(min(len(index), arguments.sample) for index in indices)) as advance:
        for (row, role), index in zip(rows, indices, strict=True):
            found[row.name] = {"role": role, **statistics(row, index, config, tokenizer, arguments.sample, advance)}
    if arguments.json:
        sys.stdout.write(json.dumps({"config": config.name, "data_sets": found}, indent=2) + "\n")
    else:
        _print(found, config)
    return 0


@dataclass
class _Opened:
    """What was found of the samples that were opened."""

    widths: list[int] = field(default_factory=list)
    heights: list[int] = field(default_factory=list)
    frames: list[int] = field(default_factory=list)
    tokens: list[int] = field(default_factory=list)
    captions: list[str] = field(default_factory=list)
    per_sample: list[int] = field(default_factory=list)
    unusable: Counter[str] = field(default_factory=Counter)


def statistics(
    row: DatasetConfig,
    index: SampleIndex,
    config: Config,
    tokenizer: Tokenizer,
    sample: int,
    advance: Advance,
) -> dict[str, Any]:
    """Return the statistics of one data set.

    Args:
        row: The data set.
        index: Its samples.
        config: Sizes, limits and the seed.
        tokenizer: Counts tokens.
        sample: Most samples that are opened.
        advance: Is told how many were.
    """
    count = min(sample, len(index))
    draw = generator(config.seed, "stats", row.name)
    chosen = np.sort(draw.choice(len(index), size=count, replace=False)).tolist()
    opened = _open(index, config, tokenizer, chosen, advance)
    limit = config.data.max_text_tokens
    repeated = len(opened.captions) - len(set(opened.captions))
    return {
        "kind": row.kind,
        "shards": len(index.shards),
        "samples": len(index),
        "bytes": sum(shard.content_bytes() for shard in index.shards),
        "opened": count,
        "width": _spread(opened.widths),
        "height": _spread(opened.heights),
        "frames": _spread(opened.frames),
        "captions_per_sample": _spread(opened.per_sample),
        "tokens": _spread(opened.tokens),
        "cut_share": _share(sum(n > limit for n in opened.tokens), len(opened.tokens)),
        "repeated_caption_share": _share(repeated, len(opened.captions)),
        "unusable_share": _share(opened.unusable.total(), count),
        "unusable": dict(opened.unusable.most_common()),
    }


def _open(
    index: SampleIndex,
    config: Config,
    tokenizer: Tokenizer,
    chosen: list[int],
    advance: Advance,
) -> _Opened:
    """Read and decode samples as held-out data is read."""
    data = config.data.model_copy(update={"device": "cpu"})  # wherever this runs
    config = config.model_copy(update={"data": data})
    maker, decoder, reader = SampleMaker(config, tokenizer, index), Decoder(config, _DECODED_AT_ONCE), ShardReader()
    opened = _Opened()
    for start in range(0, len(chosen), _DECODED_AT_ONCE):
        part = chosen[start : start + _DECODED_AT_ONCE]
        encoded = []
        for number in part:
            try:
                one = maker(number, HELDOUT).encoded
            except BadSampleError as fault:
                opened.unusable[str(fault)] += 1
                continue
            captions = reader.captions(*index.locate(number))
            encoded.append(one)
            opened.widths.append(one.info.width)
            opened.heights.append(one.info.height)
            opened.frames.append(one.info.frames)
            opened.per_sample.append(len(captions))
            opened.captions += captions
            opened.tokens += [len(tokenizer.encode(caption, _NO_LIMIT)[0]) for caption in captions]
        try:
            if encoded:
                decoder(encoded)
        except BadMediaError as fault:
            opened.unusable["its picture or clip cannot be decoded"] += len(fault.rows)
        advance(len(part))
    reader.close()
    maker.close()
    return opened


def _spread(values: list[int]) -> dict[str, float] | None:
    """Return least, median, 95th percentile and most; None of nothing."""
    if not values:
        return None
    low, median, high, most = np.percentile(values, (0, 50, 95, 100), method="inverted_cdf").tolist()
    return {"min": low, "median": median, "p95": high, "max": most}


def _share(part: int, whole: int) -> float | None:
    return part / whole if whole else None


def _print(found: dict[str, dict[str, Any]], config: Config) -> None:
    """Print a table with a column for each data set."""
    from rich.console import Console
    from rich.table import Table

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
        f"data.max_text_tokens={config.data.max_text_tokens}."
    )
    for name, one in found.items():
        for reason, count in one["unusable"].items():
            console.print(f"{name}: {count} unusable, {reason}", markup=False)


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
    "captions repeated": lambda one: _percent(one["repeated_caption_share"]),
    "unusable": lambda one: _percent(one["unusable_share"]),
}
"""Row of the table → what it shows of a data set's statistics."""
