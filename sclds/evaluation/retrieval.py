"""Zero-shot retrieval on held-out pairs with the contrastive projections.

Every rank ends with the same figures, whatever the number of ranks.
"""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from sclds.evaluation.heldout import Encoded, evenly_spaced
from sclds.evaluation.section import Cell, Section
from sclds.losses.ranks import hits, ranks

EXAMPLES = 8
"""Queries shown in the report."""
RETRIEVED = 5
"""Best matches shown for each."""
RECALLS = (1, 5, 10)
DIRECTIONS = {"text_to_vision": "caption → {}", "vision_to_text": "{} → caption"}
"""Direction of a query, and how it is shown for a kind."""
NOTE = (
    "Zero-shot, on held-out pairs that training never saw. R@k is how often the right one is among the first k of the "
    "candidates; the small figure and the mark are what chance gives, which depends on their number: recalls over "
    "different numbers of candidates do not compare."
)
MEDIAN = "median_rank"
FIGURES = (*(f"r{k}" for k in RECALLS), MEDIAN)
"""What is told of a direction, by its key in `results.json`."""


def evaluate_retrieval(sets: Mapping[str, Encoded]) -> dict[str, Any]:
    """Rank the held-out pairs of every kind: those of all sets of a kind are candidates of one another.

    Returns:
        `retrieval` by kind (only kinds that are held out), and `examples`: for some queries the caption, its sample,
        the rank of the right one and the best five. Empty where nothing is held out.
    """
    kinds = _by_kind(sets)
    return {"retrieval": {kind: rank_set(encoded) for kind, encoded in kinds.items()}, "examples": _examples(kinds)}


def rank_set(encoded: Encoded) -> dict[str, dict[str, float]]:
    """Rank the pairs of one held-out set, see `rank_metrics`."""
    return rank_metrics(torch.cat(encoded.text), torch.cat(encoded.vision))


def retrieval_figures(row: Mapping[str, Any]) -> dict[str, float]:
    """Return the figures of a set's row of `results.json` by `DIRECTION_FIGURE`, and the number of candidates."""
    ranked = row.get("retrieval", {})
    found = {f"{direction}_{key}": ranked[direction][key] for direction in ranked for key in FIGURES}
    return found | ({"candidates": next(iter(ranked.values()))["n"]} if ranked else {})


def _by_kind(sets: Mapping[str, Encoded]) -> dict[str, Encoded]:
    """Return the samples of all sets of a kind together, in the order of the sets."""
    kinds: dict[str, Encoded] = {}
    for encoded in sets.values():
        whole = kinds.setdefault(encoded.kind, Encoded(encoded.kind))
        for name in ("text", "vision", "sample_ids", "captions"):
            getattr(whole, name).extend(getattr(encoded, name))
    return kinds


def retrieval_sections(results: Mapping[str, Any]) -> list[Section]:
    """Return the table of recalls beside chance, set by set; none where nothing was ranked."""
    sets = {name: row for name, row in results.get("sets", {}).items() if row.get("retrieval")}
    ranked = [(name, row["kind"], row["retrieval"]) for name, row in sets.items()]
    kinds = [row["kind"] for row in sets.values()]
    for kind, directions in results.get("retrieval", {}).items():
        if kinds.count(kind) != 1:  # of a single set it would say the same again
            ranked.append(("all sets" if sets else "held out", kind, directions))
    rows = tuple(
        (f"{name}: {label.format(kind)}", _cells(directions[direction]))
        for name, kind, directions in ranked
        for direction, label in DIRECTIONS.items()
    )
    columns = (*(f"R@{k}" for k in RECALLS), "median rank", "candidates")
    return [Section("Retrieval", NOTE, columns, rows)] if rows else []


def _cells(row: Mapping[str, float]) -> tuple[Cell, ...]:
    chances = {k: min(1.0, k / row["n"]) for k in RECALLS}
    recalls = [Cell(f"{row[f'r{k}']:.1%}", f"{chance:.1%}", row[f"r{k}"], chance) for k, chance in chances.items()]
    return (*recalls, Cell(f"{row[MEDIAN]:g}", f"{(row['n'] + 1) / 2:g}"), Cell(f"{row['n']:,}"))


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
        MEDIAN: float(ranks(similarity, own).double().quantile(0.5)),
        "chance_r10": min(1.0, 10 / n),
    }


def _examples(kinds: Mapping[str, Encoded]) -> list[dict[str, Any]]:
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
