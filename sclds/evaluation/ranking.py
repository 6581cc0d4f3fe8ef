"""Ranks of right candidates where an image has several captions, a stretch of queries at a time.

Published retrieval on COCO and Flickr30k takes all (five) captions of an image as right: a caption has to find its
image, an image any one of its captions. A rank counts the *other* samples' candidates that do not score less than the
best right one, so that captions of one image never stand in one another's way. A tie counts against us, and so does a
score that is not a number. Nothing larger than `CHUNK` queries x candidates is ever held.

Shape suffixes: T texts, V images or videos, K first candidates, P projection channels.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

CHUNK = 2**22
"""Similarities that are held at once: 32 MiB in double precision."""


@dataclass(frozen=True)
class Shortlist:
    """What the contrastive scores put first, and how the matching head scored that."""

    images: Tensor
    """(T, K) int64 candidates of every text, best first."""
    image_scores: Tensor
    """(T, K) of the matching head; higher matches better."""
    texts: Tensor
    """(V, K) int64 candidates of every image or video, best first."""
    text_scores: Tensor
    """(V, K)."""


def similarity_chunks(queries: Tensor, candidates: Tensor) -> Iterator[tuple[range, Tensor]]:
    """Yield stretches of queries and their (n, candidates) cosine similarities in double precision."""
    found = functional.normalize(candidates.double(), dim=1).T
    rows = max(1, CHUNK // max(1, len(candidates)))
    for start in range(0, len(queries), rows):
        part = functional.normalize(queries[start : start + rows].double(), dim=1)
        yield range(start, start + len(part)), part @ found


def ranks_among(scores: Tensor, own: Tensor) -> Tensor:
    """Return the place of the best right candidate of each row among it and all wrong ones; 1 is best.

    Args:
        scores: (N, C).
        own: (N, C) bool, which candidates are right; at least one in each row.

    Returns:
        (N,) int64; C + 1, which is among no first ones, where a right one's score is not a number.
    """
    best = scores.masked_fill(~own, -torch.inf).amax(1, keepdim=True)
    place = 1 + (~(scores < best) & ~own).sum(1)
    # the largest of some numbers is not a number where one of them is none
    lost = (scores.isnan() & own).any(1)
    return torch.where(lost, scores.shape[1] + 1, place)


def contrastive_ranks(text: Tensor, vision: Tensor, owner: Tensor) -> tuple[Tensor, Tensor]:
    """Return the ranks of all queries by cosine similarity.

    Args:
        text: (T, P).
        vision: (V, P).
        owner: (T,) int64 number of the image or video of each text; each has at least one.

    Returns:
        (T,) of texts that look for their image, (V,) of images that look for any of their texts.
    """
    media = torch.arange(len(vision), device=owner.device)
    of_texts = [
        ranks_among(scores, owner[rows.start : rows.stop, None] == media)
        for rows, scores in similarity_chunks(text, vision)
    ]
    of_media = [
        ranks_among(scores, media[rows.start : rows.stop, None] == owner)
        for rows, scores in similarity_chunks(vision, text)
    ]
    return torch.cat(of_texts), torch.cat(of_media)


def first_candidates(queries: Tensor, candidates: Tensor, k: int) -> Tensor:
    """Return the (N, K) first candidates of every query, best first; K is k, or all candidates if these are fewer."""
    k = min(k, len(candidates))
    return torch.cat([scores.topk(k).indices for _, scores in similarity_chunks(queries, candidates)])


def reranked(contrastive: Tensor, scores: Tensor, own: Tensor) -> Tensor:
    """Return ranks where the matching head sorts a shortlist anew, and what is behind it stays as it was.

    Args:
        contrastive: (N,) ranks by similarity, behind the shortlist where no right one is in it.
        scores: (N, K) of the matching head, for the shortlist.
        own: (N, K) bool, which of the shortlist are right.
    """
    listed = own.any(1)
    place = ranks_among(scores, own | ~listed[:, None])
    return torch.where(listed, place, contrastive)


def chance_of_hit(candidates: int, right: int, k: int) -> float:
    """Return how often one of `right` candidates is among k drawn ones."""
    return 1.0 - math.comb(candidates - right, k) / math.comb(candidates, k) if k < candidates else 1.0
