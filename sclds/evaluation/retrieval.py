"""Zero-shot retrieval on held-out pairs with the contrastive projections.

Every rank ends with the same figures, whatever the number of ranks.
"""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from sclds.evaluation.heldout import Encoded
from sclds.evaluation.section import Cell, Section
from sclds.losses.ranks import hits, ranks

EXAMPLES = 8
"""Queries shown in the report."""
RETRIEVED = 5
"""Best matches shown for each."""
RECALLS = (1, 5, 10)
DIRECTIONS = {"text_to_vision": "caption → {}", "vision_to_text": "{} → caption"}
"""Direction of a query, and how it is shown for a kind."""


def evaluate_retrieval(kinds: dict[str, Encoded]) -> dict[str, Any]:
    """Rank the held-out pairs of every kind.

    Returns:
        `retrieval` by kind (only kinds that are held out), and `examples`: for some queries the caption, its sample,
        the rank of the right one and the best five. Empty where nothing is held out.
    """
    return {
        "retrieval": {kind: rank_metrics(torch.cat(e.text), torch.cat(e.vision)) for kind, e in kinds.items()},
        "examples": _examples(kinds),
    }


def retrieval_section(results: Mapping[str, Any]) -> Section | None:
    """Return the table of recalls beside chance; None where nothing was ranked."""
    rows = []
    for kind, directions in results.get("retrieval", {}).items():
        for direction, label in DIRECTIONS.items():
            row = directions[direction]
            recalls = [
                Cell(f"{row[f'r{k}']:.1%}", f"{min(1, k / row['n']):.1%}", row[f"r{k}"], k / row["n"]) for k in RECALLS
            ]
            rows.append((label.format(kind), (*recalls, Cell(f"{row['median_rank']:g}"), Cell(f"{row['n']:,}"))))
    if not rows:
        return None
    note = (
        "Zero-shot, on held-out pairs that training never saw. R@k is how often the right one is among the first k; "
        "the small figure and the mark are what chance gives."
    )
    return Section("Retrieval", note, (*(f"R@{k}" for k in RECALLS), "median rank", "candidates"), tuple(rows))


def rank_metrics(text: Tensor, vision: Tensor) -> dict[str, dict[str, float]]:
    """Rank every sample's other half by cosine similarity, in both directions.

    Args:
        text: (N, D) projections of the captions.
        vision: (N, D) projections of the images or videos; row i belongs to row i of `text`.

    Returns:
        For `text_to_vision` and `vision_to_text`: n, recall at 1, 5 and 10 as fractions, the median rank (1 is best),
        and what chance gives at 10. A tie counts against us, and so does what is not a number.
    """
    similarity = cosine(text, vision)
    return {"text_to_vision": _directed(similarity), "vision_to_text": _directed(similarity.T)}


def cosine(text: Tensor, vision: Tensor) -> Tensor:
    """Return (N, N) cosine similarities in double precision."""
    return functional.normalize(text.double(), dim=1) @ functional.normalize(vision.double(), dim=1).T


def _directed(similarity: Tensor) -> dict[str, float]:
    """Return the metrics of queries in rows over candidates in columns."""
    n = len(similarity)
    if not n:
        raise ValueError("there is no pair to rank")
    own = torch.arange(n, device=similarity.device)
    recalls = {f"r{k}": float(hits(similarity, own, k).double().mean()) for k in RECALLS}
    return {
        "n": n,
        **recalls,
        "median_rank": float(ranks(similarity, own).double().quantile(0.5)),
        "chance_r10": min(1.0, 10 / n),
    }


def _examples(kinds: dict[str, Encoded]) -> list[dict[str, Any]]:
    """Return evenly spaced text queries (not chosen by result), shared between the kinds, with their best matches."""
    examples = []
    for turn, (kind, encoded) in enumerate(sorted(kinds.items())):
        wanted = EXAMPLES // len(kinds) + (turn < EXAMPLES % len(kinds))
        similarity = cosine(torch.cat(encoded.text), torch.cat(encoded.vision))
        n = len(encoded.sample_ids)
        found = ranks(similarity, torch.arange(n, device=similarity.device))
        for query in evenly_spaced(n, wanted):
            best = similarity[query].topk(min(RETRIEVED, n)).indices.tolist()
            examples.append(
                {
                    "kind": kind,
                    "sample_id": encoded.sample_ids[query],
                    "caption": encoded.captions[query],
                    "rank": int(found[query]),
                    "of": n,
                    "retrieved": [encoded.sample_ids[i] for i in best],
                }
            )
    return examples


def evenly_spaced(n: int, wanted: int) -> list[int]:
    """Return up to `wanted` different indices below n, evenly spaced."""
    count = min(n, wanted)
    return [(2 * i + 1) * n // (2 * count) for i in range(count)]
