"""Features of the global batch: what losses over it compare, gathered over ranks and accumulation steps once a step.

The global order is by accumulation step, then rank, then row: the order of the samples in the global batch.
"""

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate

import torch
from torch import Tensor

from scl_kernels import Duplicates, InfoNCEProblem, InfoNCEStatistics, duplicates_of, infonce_statistics
from sclds.batch import Batch
from sclds.config import LossesConfig
from sclds.losses.communicator import Communicator, gather_ragged
from sclds.losses.scaled_gradient import scaled_gradient
from sclds.objectives import Objective, objectives_in_use
from sclds.objectives.table import TEMPERATURE

Features = Mapping[str, Tensor]
"""The model's outputs by name, without gradient."""


@dataclass(frozen=True)
class GlobalCounts:
    """What the means of the global batch are taken over."""

    samples: float
    words: float
    completed: float
    replaced: float
    frames: int
    """The most of a sample."""

    def of(self, objective: Objective) -> float:
        """Return what an objective's mean is taken over; at least 1."""
        return max(float(getattr(self, objective.count)), 1.0)


@dataclass(frozen=True)
class Term:
    """One comparison of an objective: all of it, or one frame number of it."""

    objective: Objective
    frame: int | None = None


@dataclass(frozen=True)
class Rows:
    """Own rows of one term, of one micro-batch."""

    a: Tensor
    """(n, C)."""
    b: Tensor
    """(n, C) partners."""
    weight: Tensor
    """(n,) fp32 weight of each row in the objective's mean."""
    ids: Tensor
    """(n, 2) int64 identities, by either of which rows are duplicates; (n, 0) where nobody asks or all differ."""


@dataclass(frozen=True)
class Candidates:
    """One term over the global batch, as this rank sees it."""

    a_all: Tensor
    b_all: Tensor
    weight_all: Tensor
    row_lse_all: Tensor
    col_lse_all: Tensor
    offsets: list[int]
    """First own row, for every accumulation step."""
    statistics: list[InfoNCEStatistics]
    """Of the own rows, for every accumulation step."""
    duplicates: Duplicates | None
    """None where they are negatives."""


class GlobalFeatures:
    """Features of all samples of an optimizer step, and the counts that normalize the means.

    Build it with `gather`, once a step, on all ranks.
    """

    def __init__(self, candidates: dict[Term, Candidates], counts: GlobalCounts):
        self.candidates = candidates
        self.counts = counts

    @classmethod
    def gather(
        cls,
        features: Sequence[Features],
        batches: Sequence[Batch],
        losses: LossesConfig,
        communicator: Communicator,
        step_batches: Sequence[Batch] | None = None,
    ) -> "GlobalFeatures":
        """Gather features over ranks and accumulation steps.

        Args:
            features: Of every accumulation step whose samples are negatives of one another.
            batches: Their micro-batches.
            losses: Objectives in use.
            communicator: The processes.
            step_batches: All micro-batches of the step, which normalize the means; by default `batches`.
        """
        counts = _global_counts(step_batches or batches, features[0][TEMPERATURE].device, communicator)
        own = [own_rows(f, b, counts, losses) for f, b in zip(features, batches, strict=True)]
        if not own[0]:
            return cls({}, counts)
        return cls(_gather_candidates(own, features, losses, counts, communicator), counts)


def features_of(outputs: Mapping[str, Tensor], batch: Batch) -> Features:
    """Return, detached, what losses compare over the global batch."""
    names = [
        output.name
        for objective in batch.objectives
        if objective.loss != "group_nce"
        for output in objective.compared or ()
    ]
    return {name: outputs[name].detach() for name in (*names, TEMPERATURE)}


def own_rows(
    outputs: Mapping[str, Tensor], batch: Batch, counts: GlobalCounts, losses: LossesConfig
) -> dict[Term, Rows]:
    """Return the own rows of every comparison over the global batch in use.

    MVSC is one nce per frame number: frame f competes with frame f of all samples that have one, and a sample's frames
    share its weight, which for videos of equal length is the mean over frames of docs/method.md §4.
    """
    own = {}
    for objective in objectives_in_use(losses):
        if objective.loss not in ("nce", "sigmoid"):
            continue
        assert objective.compared is not None
        a, b = (outputs[output.name] for output in objective.compared)
        frames = batch.vision.frame_count
        ids = _identities(objective, batch, len(frames) if objective.per_frame else len(a))
        if not objective.per_frame:
            weight = a.new_full((len(a),), 1 / counts.of(objective), dtype=torch.float32)
            own[Term(objective)] = Rows(a, b, weight, ids)
            continue
        first = frames.cumsum(0) - frames
        for number in range(counts.frames):
            has = frames > number
            rows = (first + number)[has]
            weight = 1 / (frames[has].float() * counts.of(objective))
            own[Term(objective, number)] = Rows(a[rows], b[rows], weight, ids[has])
    return own


def _identities(objective: Objective, batch: Batch, rows: int) -> Tensor:
    """Return the identities of the samples that an objective compares, (B, 2) int64, or of no rows, (rows, 0).

    Images that show the same are no duplicates for captions that are completed, nor the other way round.
    """
    identities = batch.identities
    if identities is None or objective.duplicates is None:
        return batch.vision.frame_count.new_empty(rows, 0)
    caption, image = identities.caption, identities.image
    by = {"caption": (caption, caption), "image": (image, image), "either": (caption, image)}
    return torch.stack(by[objective.duplicates], dim=1)


def weighed(rows: Rows, losses: LossesConfig) -> tuple[Tensor, Tensor]:
    """Return own rows, whose gradient `losses.scaling: published` divides."""
    if losses.scaling == "exact":
        return rows.a, rows.b
    a, b = (scaled_gradient(x, 1 / losses.published_world_size) for x in (rows.a, rows.b))
    return a, b


def problem_of(
    term: Term, rows: Rows, candidates: Candidates, step: int, temperature: Tensor, losses: LossesConfig
) -> InfoNCEProblem:
    """Put own rows, which carry gradient, before the global ones, which do not."""
    a, b = weighed(rows, losses)
    tau = temperature if term.objective.learnable_temperature else losses.completion_temperature
    return InfoNCEProblem(
        a,
        b,
        candidates.a_all,
        candidates.b_all,
        tau,
        candidates.offsets[step],
        candidates.weight_all,
        candidates.duplicates,
    )


def _gather_candidates(
    own: list[dict[Term, Rows]],
    features: Sequence[Features],
    losses: LossesConfig,
    counts: GlobalCounts,
    communicator: Communicator,
) -> dict[Term, Candidates]:
    """Gather the rows of all ranks in one message, then the log-sum-exps of every nce in another."""
    terms, dtype = list(own[0]), next(iter(own[0].values())).a.dtype
    # identities travel as they are, 64 bits each, in the message of the features
    sent = (x for step in own for rows in step.values() for x in (rows.a, rows.b, rows.ids.view(dtype)))
    ranks = gather_ragged(list(sent), communicator)
    found: dict[Term, Candidates] = {}
    for k, term in enumerate(terms):
        places = [3 * (s * len(terms) + k) for s in range(len(own))]
        a_all = torch.cat([rank[p] for p in places for rank in ranks])
        b_all = torch.cat([rank[p + 1] for p in places for rank in ranks])
        sent_ids = torch.cat([rank[p + 2] for p in places for rank in ranks])
        lengths = [[len(rank[p]) for rank in ranks] for p in places]
        earlier_steps = [0, *accumulate(map(sum, lengths))]
        offsets = [earlier_steps[s] + sum(lengths[s][: communicator.rank]) for s in range(len(own))]
        empty = a_all.new_zeros(0)
        # those of an nce may differ from row to row, and come with the log-sum-exps
        weights = a_all.new_full((len(a_all),), 1 / counts.of(term.objective), dtype=torch.float32)
        duplicates = _duplicates(sent_ids, losses)
        found[term] = Candidates(a_all, b_all, weights, empty, empty, offsets, [], duplicates)
    compared = {term: candidates for term, candidates in found.items() if term.objective.loss == "nce"}
    if not compared:
        return found
    statistics = [
        infonce_statistics(
            [problem_of(term, step[term], c, s, features[s][TEMPERATURE], losses) for term, c in compared.items()]
        )
        for s, step in enumerate(own)
    ]
    return found | _with_log_sum_exps(own, compared, statistics, communicator)


def _duplicates(sent: Tensor, losses: LossesConfig) -> Duplicates | None:
    """Return which of a term's N rows are duplicates, of the identities that were sent; of none: no two rows are."""
    if losses.duplicates == "negatives":
        return None
    ids_all = sent.view(torch.int64).T.contiguous() if sent.shape[1] else None
    if ids_all is None:
        ids_all = torch.arange(len(sent), device=sent.device).repeat(2, 1)
    return duplicates_of(ids_all, losses.duplicates)


def _with_log_sum_exps(
    own: list[dict[Term, Rows]],
    found: dict[Term, Candidates],
    statistics: list[list[InfoNCEStatistics]],
    communicator: Communicator,
) -> dict[Term, Candidates]:
    """Gather the log-sum-exps and weights of all ranks."""
    flat = [
        torch.stack((x.row_lse, x.col_lse, step[term].weight.to(x.row_lse.dtype)), dim=1)
        for step, of_step in zip(own, statistics, strict=True)
        for term, x in zip(found, of_step, strict=True)
    ]
    ranks = gather_ragged(flat, communicator)
    whole = {}
    for k, (term, candidates) in enumerate(found.items()):
        table = torch.cat([rank[s * len(found) + k] for s in range(len(own)) for rank in ranks])
        row_lse, col_lse, weight = table.unbind(1)
        whole[term] = dataclasses.replace(
            candidates,
            row_lse_all=row_lse.contiguous(),
            col_lse_all=col_lse.contiguous(),
            weight_all=weight.contiguous(),
            statistics=[of_step[k] for of_step in statistics],
        )
    return whole


def _global_counts(batches: Sequence[Batch], device: torch.device, communicator: Communicator) -> GlobalCounts:
    own = [
        sum(batch.counts.samples for batch in batches),
        sum(batch.counts.words for batch in batches),
        sum(batch.counts.completed for batch in batches),
        sum(batch.counts.replaced for batch in batches),
        max(batch.counts.most_frames for batch in batches),
    ]
    ranks = communicator.all_gather(torch.tensor(own, dtype=torch.float64, device=device))
    samples, words, completed, replaced, _ = ranks.sum(0).tolist()
    return GlobalCounts(samples, words, completed, replaced, frames=int(ranks[:, -1].max()))
