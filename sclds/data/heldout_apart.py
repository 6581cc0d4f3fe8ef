"""Whether held-out data sets are what their name says: shards, images and videos that training does not read."""

import contextlib
import os

import numpy as np
from numpy.typing import NDArray

from sclds.config import DataConfig, DatasetConfig
from sclds.config.errors import DataError
from sclds.data.storage.cache import ShardCache
from sclds.data.storage.files import as_text, is_url, stored
from sclds.data.storage.index_file import INDEX_NAME
from sclds.data.storage.shards import MEDIA, SampleIndex, Shard, cache_of, open_index, shard_files

Contents = NDArray[np.uint64]
"""Checksum and size of images or videos, as one number each."""
SAID = "what is measured on it is in part what was learned by heart"


def shared_shards(data: DataConfig) -> list[str]:
    """Return a sentence for each held-out set of which training reads shards too, by whatever name it knows them.

    Of the others, where sets have an index, images and videos of equal content are counted, and the first is named.
    Training sets that cannot be reached any more, as when a run is measured elsewhere, are passed over.
    """
    trained: dict[str, str] = {}
    for dataset in data.train:
        with contextlib.suppress(DataError, OSError):
            trained |= {_one_name(file.place): dataset.name for file in shard_files(dataset)}
    sentences, apart = [], []
    for dataset in data.heldout:
        found = [file.place for file in shard_files(dataset) if _one_name(file.place) in trained]
        if found:
            also, first = trained[_one_name(found[0])], as_text(found[0])
            sentences.append(
                f"Held-out data set '{dataset.name}' has {len(found)} shards that training set '{also}' reads too, "
                f"such as {first}: {SAID}"
            )
        else:
            apart.append(dataset)
    return sentences + _shared_contents(data.train, apart, cache_of(data))


def _shared_contents(train: list[DatasetConfig], heldout: list[DatasetConfig], cache: ShardCache | None) -> list[str]:
    """Return a sentence for each pair of sets with images or videos of equal content."""
    held = {dataset.name: index for dataset in heldout if (index := _indexed(dataset, cache))}
    contents = {name: np.concatenate([_contents(shard) for shard in index.shards]) for name, index in held.items()}
    sentences = []
    for dataset in train if held else ():
        index = _indexed(dataset, cache)
        known = {name: np.zeros(len(own), np.bool_) for name, own in contents.items()}
        for shard in index.shards if index else ():
            trained = _contents(shard)
            for name, own in contents.items():
                known[name] |= np.isin(own, trained)
        for name, also in known.items():
            if also.any():
                shard, row = held[name].locate(int(also.argmax()))
                sentences.append(
                    f"Held-out data set '{name}' has {int(also.sum()):,} images or videos whose content training set "
                    f"'{dataset.name}' has too, such as {as_text(shard.sample_id(row))}: {SAID}"
                )
    return sentences


def _indexed(dataset: DatasetConfig, cache: ShardCache | None) -> SampleIndex | None:
    """Return the samples of a set all of whose folders have an index; without one every image would have to be read."""
    with contextlib.suppress(DataError, OSError):
        folders = {file.folder for file in shard_files(dataset)}
        if folders and all(stored(f"{folder}/{INDEX_NAME}") for folder in folders):
            return open_index([dataset], cache)
    return None


def _contents(shard: Shard) -> Contents:
    rows = slice(shard.first, shard.first + shard.count)
    noted, size = shard.columns["crc32"][rows], shard.columns["size"][rows, MEDIA]
    checksum = noted if noted.ndim == 1 else noted[:, MEDIA]  # version 1 has those of images and videos alone
    return checksum.astype(np.uint64) << np.uint64(32) | size


def _one_name(place: str) -> str:
    return place if is_url(place) else os.path.realpath(place)
