"""Whether held-out data sets are what their name says: shards that training does not read."""

import contextlib
import os

from sclds.config import DataConfig
from sclds.config.errors import DataError
from sclds.data.storage.files import as_text, is_url
from sclds.data.storage.shards import shard_files


def shared_shards(data: DataConfig) -> list[str]:
    """Return a sentence for each held-out set of which training reads shards too, by whatever name it knows them.

    Training sets that cannot be reached any more, as when a run is measured elsewhere, are passed over.
    """
    trained: dict[str, str] = {}
    for dataset in data.train:
        with contextlib.suppress(DataError, OSError):
            trained |= {_one_name(file.place): dataset.name for file in shard_files(dataset)}
    sentences = []
    for dataset in data.heldout:
        found = [file.place for file in shard_files(dataset) if _one_name(file.place) in trained]
        if found:
            also, first = trained[_one_name(found[0])], as_text(found[0])
            sentences.append(
                f"Held-out data set '{dataset.name}' has {len(found)} shards that training set '{also}' reads too, "
                f"such as {first}: what is measured on it is in part what was learned by heart"
            )
    return sentences


def _one_name(place: str) -> str:
    return place if is_url(place) else os.path.realpath(place)
