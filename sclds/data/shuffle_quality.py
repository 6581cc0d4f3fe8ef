"""How shards are read and how well samples are shuffled, computed from the order itself, without any data."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from sclds.data.keys import generator
from sclds.data.order import Order
from sclds.data.storage.files import StoredFile
from sclds.data.storage.sample_index import SampleIndex, Shard

_BATCHES = 128
_WELL_MIXED = 0.02
"""Share of a batch's pairs that may come from one shard, above a perfect shuffle's, whatever the shards hold."""
_PLOTTED = 4000


@dataclass(frozen=True)
class Pattern:
    """What an epoch looks like to the disk and to the loss."""

    open_shards: float
    """Shards that a global batch reads from, on average."""
    most_open: float
    """The most that one reads from."""
    used: float
    """Of the shards that the samples of one block touch, the share that is read by the end of the block: what of whole
    shards, or of read-ahead, is not fetched in vain."""
    same_shard: float
    """Share of the pairs of a batch that come from one shard."""
    travel: float
    """Mean distance of a sample from where it lies in the unshuffled data, as a share of the epoch."""


def simulate(shards: int, samples: int, block: int, batch: int) -> Pattern:
    """Return the pattern of some batches all over the first epoch."""
    order = synthetic_order(shards, samples, block, batch)
    first = np.concatenate([_numbers(order, step) for step in range(-(-block * samples // batch))])[: block * samples]
    every = order.epoch_size // batch
    # drawn, not evenly spaced: even steps would meet the ends of blocks always or never
    steps = generator(0, "simulate").choice(every, size=min(every, _BATCHES), replace=False).tolist()
    opened, pairs, travelled = [], 0, 0.0
    for step in steps:
        numbers = _numbers(order, step)
        _, counts = np.unique(numbers // samples, return_counts=True)
        opened.append(len(counts))
        pairs += int((counts * (counts - 1)).sum())
        travelled += float(np.abs(numbers - np.arange(step * batch, (step + 1) * batch)).sum())
    return Pattern(
        open_shards=sum(opened) / len(steps),
        most_open=max(opened),
        used=len(first) / samples / len(np.unique(first // samples)),
        same_shard=pairs / max(1, len(steps) * batch * (batch - 1)),
        travel=travelled / (len(steps) * batch) / (shards * samples),
    )


def perfect_shuffle(shards: int, samples: int, block: int, batch: int) -> Pattern:
    """Return what is expected of a permutation of all samples, read for as long as a block lasts."""
    opened, touched = (shards * (1 - (1 - 1 / shards) ** reads) for reads in (batch, block * samples))
    same_shard = (samples - 1) / max(1, shards * samples - 1)
    return Pattern(opened, opened, min(1.0, block / touched), same_shard, 1 / 3)


def verdict(own: Pattern, perfect: Pattern, held: float) -> str:
    """Return in a line whether the block is large enough, and what it costs."""
    cost = f"needs {held:.2f} GB of page cache per machine, behind a URL data.cache_bytes of twice that"
    if own.same_shard - perfect.same_shard <= _WELL_MIXED:
        return f"mixes well whatever the shards hold; {cost}"
    return (
        f"{own.same_shard:.0%} of a batch's pairs share a shard: good if shards hold mixed samples; if each holds one "
        f"topic or source, raise the block; {cost}"
    )


def synthetic_order(shards: int, samples: int, block: int, batch: int) -> Order:
    """Return the order of a data set that is not there.

    Args:
        shards: Of the data set.
        samples: Of a shard.
        block: Shards shuffled together.
        batch: Samples of an optimizer step.
    """
    index = SampleIndex(
        [Shard("set", "image", StoredFile(f"{i}.tar", 0, ""), str(i), {}, 0, samples) for i in range(shards)]
    )
    return Order(index, {"set": 1.0}, 0, batch, block)


def _numbers(order: Order, step: int) -> NDArray[np.int64]:
    return np.array([place.sample for place in order.global_batch(step)])


def plot(path: Path, shards: int, samples: int, block: int, batch: int) -> None:
    """Draw which shard each read goes to over the epoch."""
    import matplotlib.pyplot as plt

    numbers = synthetic_order(shards, samples, block, batch).epoch(0)
    position = np.unique(np.linspace(0, len(numbers) - 1, _PLOTTED).astype(int))
    figure, axes = plt.subplots(figsize=(7, 4), layout="constrained")
    axes.scatter(position / len(numbers), numbers[position] // samples, s=2, color="#2a78d6")
    axes.set(xlabel="epoch", ylabel="shard", title=f"which shard is read when, {block} shuffled together")
    figure.savefig(path, dpi=150)
    plt.close(figure)
