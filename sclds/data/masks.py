"""What the masked views hide: pure functions of their inputs and of an explicit generator (METHOD: views)."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from sclds.data.tokenizer import NO_WORD, Tokenizer

Ids = NDArray[np.int64]

_MASKED, _RANDOM = 0.8, 0.1  # BERT's split of the chosen tokens; the rest keeps its token


def mlm_mask(
    ids: Ids, word_index: Sequence[int], tokenizer: Tokenizer, ratio: float, rng: np.random.Generator
) -> tuple[Ids, Ids, Ids]:
    """Choose whole words for masked language modeling and corrupt their tokens as BERT does.

    Of the words, `max(1, round(words * ratio))` are chosen. Each of their tokens becomes the mask token (80 %), a
    random ordinary token (10 %), or stays (10 %).

    Args:
        ids: (n,) token ids, beginning and end included.
        word_index: (n,) word of each token; special tokens are `NO_WORD`.
        tokenizer: Gives the mask token and the ordinary tokens.
        ratio: Share of the words; 0 masks nothing.
        rng: Generator keyed to this sample and purpose.

    Returns:
        t1: (n,) ids of the masked text.
        positions: (k,) positions that are predicted, ascending; empty for a text without a word.
        labels: (k,) true ids at these positions.
    """
    words = sorted({word for word in word_index if word != NO_WORD})
    if not words or ratio == 0:
        return ids.copy(), np.empty(0, np.int64), np.empty(0, np.int64)
    # at the length of a caption one call for all draws, and plain lists, take half the time of array operations
    draws = rng.random(len(words) + 2 * len(ids)).tolist()
    by_draw = sorted(range(len(words)), key=draws.__getitem__)
    hidden = {words[i] for i in by_draw[: max(1, round(len(words) * ratio))]}
    positions = [i for i, word in enumerate(word_index) if word in hidden]
    truth, ordinary = ids.tolist(), tokenizer.ordinary_ids
    masked = truth.copy()
    for i in positions:
        fate, token = draws[len(words) + 2 * i : len(words) + 2 * i + 2]
        if fate < _MASKED:
            masked[i] = tokenizer.mask_id
        elif fate < _MASKED + _RANDOM:
            masked[i] = ordinary[int(token * len(ordinary))]
    return np.array(masked), np.array(positions), np.array([truth[i] for i in positions])


def scl_text_mask(ids: Ids, tokenizer: Tokenizer, ratio: float, rng: np.random.Generator) -> tuple[Ids, Ids]:
    """Mask inner tokens for semantic completion: `int((n - 2) * ratio) + 1` draws with replacement.

    Args:
        ids: (n,) token ids, beginning and end included; these two are never masked.
        tokenizer: Gives the mask token.
        ratio: Draws as a share of the inner tokens.
        rng: Generator keyed to this sample and purpose.

    Returns:
        t2: (n,) ids of the masked text.
        positions: (s,) distinct masked positions, ascending; empty for n <= 2.
    """
    masked, inner = ids.copy(), len(ids) - 2
    if inner <= 0:
        return masked, np.empty(0, np.int64)
    hidden = np.array(sorted({1 + int(draw * inner) for draw in rng.random(int(inner * ratio) + 1).tolist()}))
    masked[hidden] = tokenizer.mask_id
    return masked, hidden


def scl_vision_keep(patches: int, ratio: float, rng: np.random.Generator) -> Ids:
    """Choose the patches that v1 keeps, the same for all frames of a video.

    Args:
        patches: L, patches of one frame.
        ratio: Share that is dropped.
        rng: Generator keyed to this sample and purpose.

    Returns:
        (int(L * (1 - ratio)),) distinct patch ids, ascending; evaluated in floating point as the method does, so 64
        patches at 0.8 keep 12.
    """
    return np.sort(rng.permutation(patches)[: int(patches * (1 - ratio))])


def mltc_vision_replace(patches: int, ratio: float, rng: np.random.Generator) -> Ids:
    """Choose the patches that v2 replaces by the mask token, the same for all frames of a video.

    Args:
        patches: L, patches of one frame.
        ratio: Share that is replaced.
        rng: Generator keyed to this sample and purpose.

    Returns:
        (int(L * ratio),) distinct patch ids, ascending.
    """
    return np.sort(rng.permutation(patches)[: int(patches * ratio)])
