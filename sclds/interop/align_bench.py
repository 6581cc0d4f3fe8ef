"""ALIGN-BENCH run on a model: what `sclds evaluate --align-bench` measures."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from sclds.config.errors import DataError
from sclds.data.storage.shards import BadSampleError
from sclds.evaluation.align_bench import FORMS, Pair, global_scores, local_scores, pair_names, read_pair
from sclds.evaluation.heldout import Progress
from sclds.interop.loaded import BATCH, LoadedModel

SCORES = ("global", "local")
EVEN = "even_"
"""Before the score of a map that is the same everywhere: the share of the image that the regions take."""


def measure_alignment(model: LoadedModel, folder: Path, progress: Progress) -> dict[str, Any]:
    """Return the scores of a model on a folder of ALIGN-BENCH.

    Images are resized to the model's own square by Pillow's bicubic filter; captions are cut as everywhere.

    Args:
        model: The model.
        folder: With `images/` and `pkls/`.
        progress: Is told what is done, how much of it, and of how much.

    Returns:
        For `global` and `local` each `box` and `pixel`, means over captions, what an even map would have there as
        `even_box` and `even_pixel`, and `n`, the captions that have the score; `pairs` that were read; `left_out` by
        reason, with the number of pairs and the first of them.

    Raises:
        DataError: There is no such folder, or no pair of it can be used.
    """
    names = pair_names(folder)
    found: list[tuple[dict[str, float], ...]] = []
    left_out: dict[str, dict[str, Any]] = {}
    for start in range(0, len(names), BATCH):
        pairs = []
        for name in names[start : start + BATCH]:
            try:
                pairs.append(read_pair(folder, name))
            except BadSampleError as fault:
                left_out.setdefault(str(fault), {"pairs": 0, "first": name})["pairs"] += 1
        found += _scores(model, pairs)
        progress("Measuring alignment", min(start + BATCH, len(names)), len(names))
    if not found:
        reason, first = next(iter(left_out.items()))
        raise DataError(f"none of the {len(names)} pairs of {folder} can be used: of {first['first']}, {reason}")
    means: dict[str, Any] = {}
    for name, scores in zip(SCORES, zip(*found, strict=True), strict=True):
        known = [one for one in scores if one]
        forms = (*FORMS, *(f"{EVEN}{form}" for form in FORMS))
        means[name] = {form: _mean(known, form) for form in forms} | {"n": len(known)}
    return means | {"pairs": len(found), "left_out": left_out}


def _scores(model: LoadedModel, pairs: Sequence[Pair]) -> list[tuple[dict[str, float], ...]]:
    """Return the global and the local scores of pairs, those of an even map among them."""
    size = model.preprocessing.image_size
    images = [pair.image.resize((size, size), Image.Resampling.BICUBIC) for pair in pairs]
    scores = []
    for pair, weights in zip(pairs, model.attention([pair.caption for pair in pairs], images), strict=True):
        tokens = weights.amax(dim=0)[:, 1:].double().numpy()  # largest of the heads, without the [CLS] of the image
        grid = round(tokens.shape[1] ** 0.5)
        maps = tokens.reshape(-1, grid, grid)
        even, pieces = np.ones_like(maps), _pieces(model, pair.caption)
        of_pair = (
            (global_scores(maps[0], pair), global_scores(even[0], pair)),
            (local_scores(maps, pieces, pair), local_scores(even, pieces, pair)),
        )
        scores.append(tuple(own | {f"{EVEN}{form}": of for form, of in flat.items()} for own, flat in of_pair))
    return scores


def _pieces(model: LoadedModel, caption: str) -> list[tuple[str, int]]:
    """Return the text of every token of a caption and the word it belongs to."""
    ids, words = model.tokenizer.encode(caption, model.preprocessing.max_text_tokens)
    return list(zip(("", *model.tokenizer.pieces(ids[1:-1]), ""), words, strict=True))


def _mean(scores: Sequence[dict[str, float]], form: str) -> float | None:
    """Return the mean over captions; None of none."""
    return float(np.mean([one[form] for one in scores])) if scores else None
