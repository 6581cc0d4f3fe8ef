"""`sclds prepare index`: the index of a folder of shards."""

import os
from typing import TYPE_CHECKING, Literal

import click

from sclds.cli.arguments import Whole
from sclds.cli.command import STOPPED, Command

if TYPE_CHECKING:
    from sclds.data.prepare.index import Indexed


@click.command("index", cls=Command)
@click.argument("folder")
@click.option("--kind", type=click.Choice(("image", "video")), default="image", help="what a sample shows")
@click.option(
    "--key-ends",
    type=click.Choice(("first_dot", "last_dot")),
    default="first_dot",
    help="where a sample's key ends in its members' names, as the data set's row says: v1.0.jpg is of sample v1, "
    "or with last_dot of v1.0",
)
@click.option("--workers", type=Whole(1, 1024), default=os.cpu_count() or 1, show_default="all cores", help="processes")
@click.option("--verify", is_flag=True, help="read every shard again and name those whose content is not what it was")
def command(
    folder: str,
    kind: Literal["image", "video"],
    key_ends: Literal["first_dot", "last_dot"],
    workers: int,
    verify: bool,
) -> int:
    """Write or renew the index of a FOLDER of .tar shards: a path, or a URL such as s3://bucket/folder.

    Runs open it instead of reading every shard's headers. Started again, it goes on where it stopped.
    """
    from sclds.data.prepare.index import finished_parts, prepare_index, work_folder
    from sclds.data.storage.left_out import Tally

    place, work = work_folder(folder)
    try:
        done = prepare_index(place, kind, workers, work, verify, key_ends)
    except KeyboardInterrupt:
        print(f"stopped: {finished_parts(work)} shards are finished; the same command goes on from there")
        return STOPPED
    if done.why_anew is not None:
        print(f"the index that was there {done.why_anew}: every shard was read again")
    _print(done)
    tally = Tally()
    for entry in done.index.shards:
        tally.merge(entry.left_out)
    for one in tally.found():
        print(f"left out: {one}")
    for name in done.changed:
        print(f"{name}: its content is not what it was, although size and time are; the index is renewed")
    return 0


def _print(done: "Indexed") -> None:
    """Print what the index holds as a table."""
    import numpy as np

    from sclds.cli.printing import Sheet
    from sclds.data.storage.index_file import ABSENT
    from sclds.data.storage.tar_members import MEDIA

    index, columns = done.index, done.index.columns
    media = columns["size"][:, MEDIA]
    here = media != ABSENT
    seen = columns["width"] > 0
    lengths = columns["caption_length"]
    rows = [
        ("shards", f"{len(index.shards):,}, of which {done.read:,} were read now"),
        ("samples", f"{len(media):,}, {media[here].sum(dtype=np.int64) / 1e9:.2f} GB of images or videos"),
    ]
    if seen.any():
        middle = [int(np.median(columns[name][seen])) for name in ("width", "height", "frames")]
        shown = f"{middle[0]} x {middle[1]} pixels" + (f", {middle[2]} frames" if index.kind == "video" else "")
        rows.append(("median", f"{shown}, {int(np.median(lengths))} characters of caption"))
    rows.append(("unusable", f"{int((~seen).sum()):,} images or videos, {int((lengths == 0).sum()):,} captions"))
    Sheet().table(("", ""), rows, str(done.place))
