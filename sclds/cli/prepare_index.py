"""`sclds prepare index`: the index of a folder of shards."""

import argparse
import os

import numpy as np
from rich.console import Console
from rich.table import Table

from sclds.config.errors import UserError
from sclds.data.prepare.index import Indexed, finished_parts, prepare_index, work_folder
from sclds.data.storage.index_file import ABSENT
from sclds.data.storage.left_out import Tally
from sclds.data.storage.tar_members import MEDIA

STOPPED = 130
"""What a shell reports of a program that Ctrl-C ended."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments."""
    parser.add_argument("folder", help="folder of .tar shards: a path, or a URL such as s3://bucket/folder")
    parser.add_argument("--kind", choices=("image", "video"), default="image", help="what a sample shows")
    parser.add_argument(
        "--key-ends",
        choices=("first_dot", "last_dot"),
        default="first_dot",
        help="where a sample's key ends in its members' names, as the data set's row says: v1.0.jpg is of sample v1, "
        "or with last_dot of v1.0",
    )
    parser.add_argument("--workers", type=int, default=os.cpu_count() or 1, help="processes; all cores by default")
    parser.add_argument(
        "--verify", action="store_true", help="read every shard again and name those whose content is not what it was"
    )


def run(arguments: argparse.Namespace) -> int:
    """Write or renew an index; started again, it goes on where it stopped. Returns the exit code."""
    if arguments.workers < 1:
        raise UserError(f"--workers is {arguments.workers}: give at least 1")
    folder, work = work_folder(arguments.folder)
    console = Console(highlight=False, soft_wrap=True)
    try:
        done = prepare_index(folder, arguments.kind, arguments.workers, work, arguments.verify, arguments.key_ends)
    except KeyboardInterrupt:
        console.print(f"stopped: {finished_parts(work)} shards are finished; the same command goes on from there")
        return STOPPED
    if done.why_anew is not None:
        console.print(f"the index that was there {done.why_anew}: every shard was read again")
    console.print(_table(done))
    tally = Tally()
    for entry in done.index.shards:
        tally.merge(entry.left_out)
    for one in tally.found():
        console.print(f"left out: {one}", markup=False)
    for name in done.changed:
        console.print(f"{name}: its content is not what it was, although size and time are; the index is renewed")
    return 0


def _table(done: Indexed) -> Table:
    """Return what the index holds as a table."""
    index, columns = done.index, done.index.columns
    media = columns["size"][:, MEDIA]
    here = media != ABSENT
    seen = columns["width"] > 0
    lengths = columns["caption_length"]
    table = Table(title=done.place, title_justify="left", show_header=False)
    table.add_row("shards", f"{len(index.shards):,}, of which {done.read:,} were read now")
    table.add_row("samples", f"{len(media):,}, {media[here].sum(dtype=np.int64) / 1e9:.2f} GB of images or videos")
    if seen.any():
        middle = [int(np.median(columns[name][seen])) for name in ("width", "height", "frames")]
        shown = f"{middle[0]} x {middle[1]} pixels" + (f", {middle[2]} frames" if index.kind == "video" else "")
        table.add_row("median", f"{shown}, {int(np.median(lengths))} characters of caption")
    table.add_row("unusable", f"{int((~seen).sum()):,} images or videos, {int((lengths == 0).sum()):,} captions")
    return table
