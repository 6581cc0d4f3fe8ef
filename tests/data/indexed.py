"""A folder of three shards, its index, and all that an index finds."""

from sclds.config import DatasetConfig
from sclds.data.prepare.index import prepare_index
from sclds.data.storage.shards import ShardReader

from .synthetic import image_members, write_tar


def dataset(shards, kind="image"):
    return DatasetConfig(name="set", shards=str(shards), kind=kind)


def prepared(folder, kind="image", **options):
    work = options.pop("work", None) or folder / ".index-parts"
    return prepare_index(str(folder), kind, 1, work, **options)


def three_shards(folder):
    """Write nine images in three shards and return the folder."""
    for number, keys in enumerate(("abc", "de", "fghi")):
        write_tar(folder / f"{number:05d}.tar", image_members(list(keys)))
    return folder


def everything(index):
    """Return the id, captions and media of every sample of an index."""
    reader = ShardReader()
    places = [index.locate(number) for number in range(len(index))]
    found = [(s.sample_id(row), reader.captions(s, row), reader.media(s, row)) for s, row in places]
    reader.close()
    return found
