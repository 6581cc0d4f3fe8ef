"""How many samples a configuration's data sets have, and what they are like.

Counts and bytes are of all samples; what needs opening them is measured on a sample drawn by key, decoded on the CPU.
"""

from collections import Counter
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np

from sclds.batch.duplicates import normalized_caption
from sclds.config import Config, DatasetConfig
from sclds.config.errors import UserError
from sclds.data.keys import generator
from sclds.data.media.decode import BadMediaError, Decoder
from sclds.data.prepare.progress import Advance, counting
from sclds.data.samples import HELDOUT, SampleMaker
from sclds.data.storage.shards import BadSampleError, SampleIndex, ShardReader, cache_of, open_index, tally_of
from sclds.data.tokenizer import Tokenizer, load_tokenizer

_DECODED_AT_ONCE = 32
_NO_LIMIT = 1 << 20


def all_statistics(config: Config, sample: int) -> dict[str, dict[str, Any]]:
    """Return the statistics of every data set by its name, with the `role` in which it is used (train or heldout).

    Args:
        config: Names the data sets.
        sample: Samples of each that are opened, at most.

    Raises:
        UserError: `sample` is less than 1.
        DataError: Shards are missing or unreadable.
    """
    if sample < 1:
        raise UserError(f"--sample is {sample}: give at least 1")
    tokenizer = load_tokenizer(config.data.tokenizer)
    rows = [(row, role) for role in ("train", "heldout") for row in getattr(config.data, role)]
    indices = [open_index([row], cache_of(config.data)) for row, _ in rows]
    found = {}
    with counting("opened", sum(min(len(index), sample) for index in indices)) as advance:
        for (row, role), index in zip(rows, indices, strict=True):
            found[row.name] = {"role": role, **statistics(row, index, config, tokenizer, sample, advance)}
    return found


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
    captions_left_out: Counter[str] = field(default_factory=Counter)


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
    times = Counter(map(normalized_caption, opened.captions))
    repeated = sum(count for count in times.values() if count > 1)
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
        "captions_left_out": dict(opened.captions_left_out.most_common()),
        "left_out": [asdict(one) for one in tally_of(index)],
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
            captions, odd = reader.caption_parts(*index.locate(number))
            opened.captions_left_out.update(odd)
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
            opened.unusable["its image or video cannot be decoded"] += len(fault.rows)
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
