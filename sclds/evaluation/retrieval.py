"""Retrieval on held-out samples: by the contrastive projections, and by the matching head over the first candidates.

Every rank ends with the same figures, whatever the number of ranks.
"""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from sclds.config import Config
from sclds.evaluation.heldout import Encoded, evenly_spaced
from sclds.evaluation.ranking import chance_of_hit, contrastive_ranks, reranked
from sclds.evaluation.section import Cell, Section

EXAMPLES = 8
"""Queries shown in the report."""
RETRIEVED = 5
"""Best matches shown for each."""
RECALLS = (1, 5, 10)
DIRECTIONS = {"text_to_vision": "caption → {}", "vision_to_text": "{} → caption"}
"""Direction of a query, and how it is shown for a kind."""
NOTE = (
    "On held-out samples that training never saw. R@k is how often a right one is among the first k of the candidates; "
    "the small figure and the mark are what chance gives, which depends on their number: recalls over different "
    "numbers of candidates do not compare."
)
MEDIAN = "median_rank"
MATCHING = "matching_"
"""Before the figures of the matching head."""
FIGURES = (*(f"r{k}" for k in RECALLS), MEDIAN)
"""What is told of a direction, by its key in `results.json`."""


def evaluate_retrieval(sets: Mapping[str, Encoded]) -> dict[str, Any]:
    """Rank the held-out pairs of every kind: those of all sets of a kind are candidates of one another.

    Returns:
        `retrieval` by kind (only kinds that are held out), and `examples`: for some queries the caption, its sample,
        the rank of the right one and the best five. Empty where nothing is held out.
    """
    kinds = _by_kind(sets)
    ranked = {kind: rank_set(encoded)["retrieval"] for kind, encoded in kinds.items()}
    return {"retrieval": ranked, "examples": _examples(kinds)}


def rank_set(encoded: Encoded) -> dict[str, Any]:
    """Rank the samples of one held-out set, see `rank_metrics`.

    Returns:
        `retrieval` by the contrastive scores, and `matching` where the first candidates were scored by the matching
        head.
    """
    text, vision, owner = torch.cat(encoded.text), torch.cat(encoded.vision), owners_of(encoded)
    contrastive = contrastive_ranks(text, vision, owner)
    found: dict[str, Any] = {"retrieval": _metrics(contrastive, owner)}
    if encoded.shortlist is not None:
        listed = encoded.shortlist
        own_images = owner[:, None] == listed.images
        own_texts = owner[listed.texts] == torch.arange(len(vision))[:, None]
        matched = (
            reranked(contrastive[0], listed.image_scores, own_images),
            reranked(contrastive[1], listed.text_scores, own_texts),
        )
        found["matching"] = _metrics(matched, owner)
    return found


def protocol_of(config: Config) -> dict[str, Any]:
    """Return what made the figures of a run, as `results.json` and the page tell it."""
    evaluation = config.evaluation
    return {
        "captions": evaluation.captions,
        "rerank": evaluation.rerank,
        "frames": evaluation.frames or config.data.frames,
        "weights": "fine-tuned" if config.task is not None else "zero-shot",
    }


def owners_of(encoded: Encoded) -> Tensor:
    """Return the (T,) sample of each text."""
    return torch.tensor(encoded.owners) if encoded.owners else torch.arange(len(encoded.sample_ids))


def retrieval_figures(row: Mapping[str, Any]) -> dict[str, float]:
    """Return the figures of a set's row of `results.json` by `DIRECTION_FIGURE`, and the number of candidates.

    Those of the matching head are `matching_DIRECTION_FIGURE`.
    """
    found: dict[str, float] = {}
    for key, before in (("retrieval", ""), ("matching", MATCHING)):
        ranked = row.get(key, {})
        found |= {f"{before}{direction}_{name}": ranked[direction][name] for direction in ranked for name in FIGURES}
    ranked = row.get("retrieval", {})
    return found | ({"candidates": ranked["text_to_vision"]["candidates"]} if ranked else {})


def retrieval_names(config: Config) -> list[str]:
    """Return the names of `retrieval_figures` in a run."""
    ways = ("", MATCHING) if config.evaluation.rerank else ("",)
    return [f"{way}{direction}_{key}" for way in ways for direction in DIRECTIONS for key in FIGURES]


def _by_kind(sets: Mapping[str, Encoded]) -> dict[str, Encoded]:
    """Return the samples of all sets of a kind together, in the order of the sets."""
    kinds: dict[str, Encoded] = {}
    for encoded in sets.values():
        whole = kinds.setdefault(encoded.kind, Encoded(encoded.kind))
        whole.owners += (owners_of(encoded) + len(whole.sample_ids)).tolist()
        for name in ("text", "vision", "sample_ids", "captions"):
            getattr(whole, name).extend(getattr(encoded, name))
    return kinds


def retrieval_sections(results: Mapping[str, Any]) -> list[Section]:
    """Return the table of recalls beside chance, set by set; none where nothing was ranked."""
    sets = {name: row for name, row in results.get("sets", {}).items() if row.get("retrieval")}
    ranked = [
        (f"{name}{_way(key, row)}", row["kind"], row[key])
        for name, row in sets.items()
        for key in ("retrieval", "matching")
        if key in row
    ]
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
    protocol = next((row["protocol"] for row in sets.values() if "protocol" in row), None)
    return [Section("Retrieval", f"{_told(protocol)}{NOTE}", columns, rows)] if rows else []


def _way(key: str, row: Mapping[str, Any]) -> str:
    """Return how a row was ranked, where there are two ways."""
    if "matching" not in row:
        return ""
    return ", contrastive" if key == "retrieval" else f", matching head over the first {row['protocol']['rerank']}"


def _told(protocol: Mapping[str, Any] | None) -> str:
    """Return the protocol as a sentence."""
    if protocol is None:
        return "Zero-shot. "
    captions = "every caption of a sample counts" if protocol["captions"] == "all" else "the first caption counts"
    weights = "Fine-tuned" if protocol["weights"] == "fine-tuned" else "Zero-shot"
    return f"{weights}; {captions}; videos show {protocol['frames']} frames. "


def _cells(row: Mapping[str, float]) -> tuple[Cell, ...]:
    candidates, right = int(row.get("candidates", row["n"])), row.get("right", 1)
    chances = {k: row.get(f"chance_r{k}", min(1.0, k / candidates)) for k in RECALLS}
    recalls = [Cell(f"{row[f'r{k}']:.1%}", f"{chance:.1%}", row[f"r{k}"], chance) for k, chance in chances.items()]
    middle = (candidates + 1) / (right + 1)
    return (*recalls, Cell(f"{row[MEDIAN]:g}", f"{middle:.4g}"), Cell(f"{candidates:,}"))


def rank_metrics(text: Tensor, vision: Tensor, owner: Tensor | None = None) -> dict[str, dict[str, float]]:
    """Rank every sample's other half by cosine similarity, in both directions.

    Args:
        text: (T, D) projections of the captions.
        vision: (V, D) projections of the images or videos.
        owner: (T,) row of `vision` to which each caption belongs; by default row i to row i.

    Returns:
        For `text_to_vision` and `vision_to_text`: n queries, the number of candidates and how many of them are right
        (a mean), recall at 1, 5 and 10 as fractions, the median rank (1 is best), and what chance gives for the
        recalls. A tie counts against us, and so does what is not a number.
    """
    if not len(text) or not len(vision):
        raise ValueError("there is no pair to rank")
    owner = torch.arange(len(vision), device=vision.device) if owner is None else owner
    return _metrics(contrastive_ranks(text, vision, owner), owner)


def _metrics(ranked: tuple[Tensor, Tensor], owner: Tensor) -> dict[str, dict[str, float]]:
    of_texts, of_media = ranked
    right = torch.bincount(owner, minlength=len(of_media)).tolist()
    return {
        "text_to_vision": _directed(of_texts, len(of_media), [1]),
        "vision_to_text": _directed(of_media, len(of_texts), right),
    }


def _directed(ranked: Tensor, candidates: int, right: list[int]) -> dict[str, float]:
    """Return the metrics of queries with these ranks; `right` candidates of each query, or of all alike."""
    counts = sorted(set(right))
    recalls = {f"r{k}": float((ranked <= min(k, candidates)).double().mean()) for k in RECALLS}
    chances = {
        f"chance_r{k}": sum(right.count(m) * chance_of_hit(candidates, m, k) for m in counts) / len(right)
        for k in RECALLS
    }
    return {
        "n": len(ranked),
        "candidates": candidates,
        "right": sum(right) / len(right),
        **recalls,
        MEDIAN: float(ranked.double().quantile(0.5)),
        **chances,
    }


def cosine(text: Tensor, vision: Tensor) -> Tensor:
    """Return (T, V) cosine similarities in double precision."""
    return functional.normalize(text.double(), dim=1) @ functional.normalize(vision.double(), dim=1).T


def _examples(kinds: Mapping[str, Encoded]) -> list[dict[str, Any]]:
    """Return evenly spaced text queries (not chosen by result), shared between the kinds, with their best matches."""
    examples = []
    for turn, (kind, encoded) in enumerate(sorted(kinds.items())):
        wanted = EXAMPLES // len(kinds) + (turn < EXAMPLES % len(kinds))
        text, vision, owner = torch.cat(encoded.text), torch.cat(encoded.vision), owners_of(encoded)
        n = len(encoded.sample_ids)
        found, _ = contrastive_ranks(text, vision, owner)
        for query in evenly_spaced(len(text), wanted):
            best = cosine(text[query : query + 1], vision)[0].topk(min(RETRIEVED, n)).indices.tolist()
            examples.append(
                {
                    "kind": kind,
                    "sample_id": encoded.sample_ids[int(owner[query])],
                    "caption": encoded.captions[query],
                    "rank": int(found[query]),
                    "of": n,
                    "retrieved": [encoded.sample_ids[i] for i in best],
                }
            )
    return examples
