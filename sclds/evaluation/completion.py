"""What recovered features find: ranks of the complete feature with the right partner, with a wrong one, and with none.

The definition is that of `mvsc` and `mlsc` (docs/method.md §3): most of an image is hidden and its [CLS] recovered with
the caption, much of a caption and its [CLS] recovered with the image. A recovered feature is compared with the complete
features of all held-out samples of its kind. Those that training compares with have seen the other modality, masked: an
image beside its masked caption. A caption can find its own words in them, without any image. So there are two
galleries: these, and complete features that are made alone, in which only what the whole means can be found.

Shape suffixes: N samples, F frames (1 for texts and images), C channels, K first candidates.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal, get_args

import torch
from torch import Tensor
from torch.nn import functional

from sclds.evaluation.ranking import first_candidates, ranks_among, similarity_chunks

Condition = Literal["own", "wrong", "none"]
"""Beside which partner a feature was recovered: the sample's own, another sample's, or an empty one."""
CONDITIONS: tuple[Condition, ...] = get_args(Condition)
Gallery = Literal["trained", "alone"]
"""How complete features are made: as in training, beside the other modality's masked view, or beside none."""
GALLERIES: tuple[Gallery, ...] = get_args(Gallery)
RECALLS = (1, 10)


@dataclass(frozen=True)
class Gain:
    """How many samples are found earlier with their own partner than under another condition."""

    earlier: int
    alike: int
    later: int

    @property
    def samples(self) -> int:
        """Samples that were compared."""
        return self.earlier + self.alike + self.later


@dataclass(frozen=True)
class Completion:
    """What the recovered features of one modality find."""

    ranks: Mapping[Condition, Tensor]
    """(N,) int64 rank of the own complete feature, 1 is best; 0 where the sample has no such partner."""
    found: Mapping[Condition, Tensor]
    """(N, K) int64 samples whose complete features are nearest, best first."""

    def gain(self, over: Condition) -> Gain:
        """Return how the own partner compares with another condition, over the samples that have it."""
        own, other = self.ranks["own"], self.ranks[over]
        known = other > 0
        own, other = own[known], other[known]
        return Gain(int((own < other).sum()), int((own == other).sum()), int((own > other).sum()))

    def recall(self, condition: Condition, k: int) -> float:
        """Return the share of samples whose own complete feature is among the first k; NaN of none."""
        ranks = self._known(condition)
        return float((ranks <= k).double().mean())

    def median(self, condition: Condition) -> float:
        """Return the median rank; NaN of none."""
        ranks = self._known(condition)
        return float(ranks.double().quantile(0.5)) if len(ranks) else float("nan")

    def _known(self, condition: Condition) -> Tensor:
        ranks = self.ranks[condition]
        return ranks[ranks > 0]


def completion(
    recovered: Mapping[Condition, Tensor],
    complete: Tensor,
    identity: Tensor,
    has_wrong: Tensor,
    k: int,
) -> Completion:
    """Rank complete features by their cosine to recovered ones, of videos the mean of the cosines frame by frame.

    Args:
        recovered: (N, F, C) by condition.
        complete: (N, F, C).
        identity: (N,) int64, equal where samples say or show the same: any of them is right.
        has_wrong: (N,) bool, which samples were shown a wrong partner; the rows of `wrong` mean nothing elsewhere.
        k: First candidates that are kept.

    Returns:
        Ranks count the samples of other identity that are not farther than the nearest right one, so that a tie counts
        against the model.
    """
    candidates = _unit(complete)
    ranks, found = {}, {}
    for condition, rows in recovered.items():
        queries = _unit(rows)
        ranked = [
            ranks_among(scores, identity[part.start : part.stop, None] == identity)
            for part, scores in similarity_chunks(queries, candidates)
        ]
        ranks[condition] = torch.cat(ranked) if ranked else torch.zeros(0, dtype=torch.int64)
        found[condition] = first_candidates(queries, candidates, k)
    ranks["wrong"] = ranks["wrong"].where(has_wrong, 0)
    return Completion(ranks, found)


def _unit(features: Tensor) -> Tensor:
    """Return (N, F·C) rows whose cosine is the mean cosine of the frames."""
    return functional.normalize(features.double(), dim=2, eps=1e-8).flatten(1)


def wrong_partners(captions: Tensor, media: Tensor) -> Tensor:
    """Return (B,) for every sample another of its batch that says and shows something else; -1 where there is none.

    The search starts half the batch further on: neighbors of a data set are often alike.

    Args:
        captions: (B,) int64 identities of captions.
        media: (B,) of images or videos.
    """
    count = len(captions)
    chosen = torch.full((count,), -1)
    for offset in range(count - 1):
        other = (torch.arange(count) + max(1, count // 2) + offset) % count
        fits = (captions[other] != captions) & (media[other] != media) & (chosen < 0)
        chosen = torch.where(fits, other, chosen)
    return chosen
