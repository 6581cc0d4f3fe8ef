"""How much the words of the captions differ in frequency: what can be predicted of a word without reading anything."""

from collections import Counter
from collections.abc import Sequence

import numpy as np

from sclds.config import Config, DatasetConfig
from sclds.data.keys import generator
from sclds.data.storage.files import is_url
from sclds.data.storage.shards import BadSampleError, ShardReader, cache_of, open_index
from sclds.data.tokenizer import Tokenizer

SAMPLE = 2000
"""Captions that are looked at."""


def word_entropy(config: Config, tokenizer: Tokenizer, sample: int = SAMPLE) -> float | None:
    """Return the entropy of the tokens of training captions, in nats; None where all shards lie behind a URL.

    Captions are drawn by key, from each data set as many as its share of the epoch. Reading one from a shard that is
    not on this machine would fetch the whole shard, so such sets do not count.

    Raises:
        DataError: Shards are missing or unreadable.
    """
    counts: Counter[int] = Counter()
    rows = [row for row in config.data.train if not is_url(row.shards)]
    indexes = [open_index([row], cache_of(config.data)) for row in rows]
    total = sum(len(index) * row.weight for index, row in zip(indexes, rows, strict=True))
    reader = ShardReader()
    try:
        for row, index in zip(rows, indexes, strict=True):
            wanted = min(len(index), round(sample * len(index) * row.weight / total))
            for number in _drawn(config, row, len(index), wanted):
                try:
                    captions = reader.captions(*index.locate(number))
                except BadSampleError:  # training names it
                    continue
                tokens, _ = tokenizer.encode(captions[0], config.data.max_text_tokens)
                counts.update(tokens[1:-1])
    finally:
        reader.close()
    return entropy(list(counts.values())) if counts else None


def entropy(counts: Sequence[int]) -> float:
    """Return the entropy of what was counted, in nats, with Miller's correction for what was not seen."""
    number = np.asarray(counts, np.float64)
    share = number / number.sum()
    return float(-(share * np.log(share)).sum() + (len(number) - 1) / (2 * number.sum()))


def _drawn(config: Config, row: DatasetConfig, count: int, wanted: int) -> list[int]:
    draw = generator(config.seed, "words", row.name)
    return [int(number) for number in np.sort(draw.choice(count, size=wanted, replace=False))]
