"""Features of the global batch: what losses over it compare, gathered over ranks and accumulation steps once a step.

The global order is by accumulation step, then rank, then row: the order of the samples in the global batch.
"""

import dataclasses
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import accumulate
from typing import ClassVar

import numpy as np
import torch
from torch import Tensor

from scl_kernels import Duplicates, InfoNCEProblem, InfoNCEStatistics, duplicates_of, infonce_statistics
from sclds.batch import Batch
from sclds.config import LossesConfig
from sclds.losses.communicator import Communicator, Ints, gather_rows, start_gather_rows
from sclds.losses.scaled_gradient import scaled_gradient
from sclds.machine.phase_clock import LOSS, Label, phase, shares_of
from sclds.objectives import Objective, objectives_in_use
from sclds.objectives.table import TEMPERATURE

Features = Mapping[str, Tensor]
"""The model's outputs by name, without gradient."""
_GLOBAL = ("nce", "sigmoid")
"""Losses that compare over the global batch."""


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


class StepSizes:
    """How many rows every rank brings to each comparison of an optimizer step, known on the host before the forward.

    Args:
        table: (W, A, 4 + F) of every rank and accumulation step: samples, words, completed tokens, replaced patches,
            and by frame number the samples that have it.
    """

    FIXED: ClassVar[int] = 4
    """Columns before those of frame numbers."""

    def __init__(self, table: Ints):
        by_rank = np.ascontiguousarray(table.transpose(1, 2, 0))  # ranks side by side: sums over them read memory once
        samples, words, completed, replaced, *with_frame = by_rank.sum(axis=2).sum(axis=0).tolist()
        self.counts = GlobalCounts(samples, words, completed, replaced, frames=sum(n > 0 for n in with_frame))
        self.of_all = [list(of_step) for of_step in by_rank]
        """By accumulation step and column, (W,) of all ranks."""

    @classmethod
    def gather(cls, batches: Sequence[Batch], communicator: Communicator) -> "StepSizes":
        """Exchange the sizes of all micro-batches of a step, from host to host."""
        return cls.of(communicator.gather_counts(cls.numbers(batches)), len(batches))

    @classmethod
    def of(cls, told: Ints, steps: int) -> "StepSizes":
        """Return the sizes of (W, numbers) that every rank told of as many accumulation steps."""
        return cls(told.reshape(len(told), steps, -1))

    @staticmethod
    def numbers(batches: Sequence[Batch]) -> list[int]:
        """Return what a rank tells the others of its micro-batches of a step."""
        counts = (batch.counts for batch in batches)
        return [n for c in counts for n in (c.samples, c.words, c.completed, c.replaced, *c.samples_with_frame)]

    def rows(self, term: Term, step: int) -> Ints:
        """Return (W,) rows that each rank brings to a comparison at an accumulation step; equal ones are one array."""
        if term.frame is not None:
            return self.of_all[step][self.FIXED + term.frame]
        return self.of_all[step][{"samples": 0, "words": 1, "completed": 2, "replaced": 3}[term.objective.count]]


class GlobalFeatures:
    """Features of all samples of an optimizer step, and the counts that normalize the means.

    `FeatureGather` sends them while the model runs; `gather` does it all at once. On all ranks alike.
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
        sizes: StepSizes | None = None,
        first_step: int = 0,
    ) -> "GlobalFeatures":
        """Gather features over ranks and accumulation steps.

        Args:
            features: Of every accumulation step whose samples are negatives of one another.
            batches: Their micro-batches.
            losses: Objectives in use.
            communicator: The processes.
            sizes: Of all micro-batches of the step, which normalize the means; by default those of `batches`.
            first_step: Accumulation step of the first of `batches` among those of `sizes`.
        """
        gather = FeatureGather(losses, communicator, sizes or StepSizes.gather(batches, communicator))
        for step, (of_batch, batch) in enumerate(zip(features, batches, strict=True), first_step):
            gather.send(step, batch, of_batch)
        return gather.wait()


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
    outputs: Mapping[str, Tensor], batch: Batch, counts: GlobalCounts, objectives: Sequence[Objective]
) -> dict[Term, Rows]:
    """Return the own rows of every comparison over the global batch of these objectives.

    MVSC is one nce per frame number: frame f competes with frame f of all samples that have one, and a sample's frames
    share its weight, which for videos of equal length is the mean over frames of docs/method.md §4.
    """
    own = {}
    for objective in objectives:
        if objective.loss not in _GLOBAL:
            continue
        assert objective.compared is not None
        a, b = (outputs[output.name] for output in objective.compared)
        ids = _identities(objective, batch, a)
        if not objective.per_frame:
            weight = a.new_full((len(a),), 1 / counts.of(objective), dtype=torch.float32)
            own[Term(objective)] = Rows(a, b, weight, ids)
            continue
        for number, frame in enumerate(batch.vision.frames[: counts.frames]):
            weight = 1 / (frame.frame_count.float() * counts.of(objective))
            of_frame = ids if ids.shape[1] == 0 else ids[frame.samples]
            own[Term(objective, number)] = Rows(a[frame.rows], b[frame.rows], weight, of_frame[: len(weight)])
    return own


def _identities(objective: Objective, batch: Batch, rows: Tensor) -> Tensor:
    """Return the identities of the samples that an objective compares, (B, 2) int64, or none of `rows`, (n, 0).

    Images that show the same are no duplicates for captions that are completed, nor the other way round.
    """
    identities = batch.identities
    if identities is None or objective.duplicates is None:
        return rows.new_empty(len(rows), 0, dtype=torch.int64)
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


def nce_phases(terms: Iterable[Term], problems: Sequence[InfoNCEProblem]) -> Label:
    """Return the phases that one launch computes: its time is shared by the products that each term asks for."""
    work: dict[str, float] = {}
    for term, problem in zip(terms, problems, strict=True):
        name = LOSS + term.objective.name
        work[name] = work.get(name, 0.0) + len(problem.a) * len(problem.a_all) * problem.a.shape[1]
    return shares_of(work)


class FeatureGather:
    """Features on their way to all ranks: sent as soon as the model has them, waited for where a loss reads them.

    So projections, which exist before fusion, travel while it runs, and the features of one micro-batch travel while
    the next one is encoded. Every rank sends the same objectives in the same order.

    Args:
        losses: Objectives in use.
        communicator: The processes.
        sizes: Of all micro-batches of the step.
    """

    def __init__(self, losses: LossesConfig, communicator: Communicator, sizes: StepSizes):
        self._losses, self._communicator, self._sizes = losses, communicator, sizes
        self._objectives = [objective for objective in objectives_in_use(losses) if objective.loss in _GLOBAL]
        self._sent: dict[int, _Sent] = {}

    def send(self, step: int, batch: Batch, outputs: Mapping[str, Tensor]) -> None:
        """Send what the losses compare of a micro-batch, as far as it is there and has not been sent.

        Args:
            step: Accumulation step of the micro-batch; steps follow one another.
            batch: The micro-batch.
            outputs: What the model has computed so far, at least its temperature.
        """
        with phase("features"):
            self._send(step, batch, outputs)

    def _send(self, step: int, batch: Batch, outputs: Mapping[str, Tensor]) -> None:
        sent = self._sent.setdefault(step, _Sent(outputs[TEMPERATURE].detach()))
        new = [o for o in self._objectives if o not in sent.objectives and _compared(o) <= outputs.keys()]
        detached = {name: outputs[name].detach() for objective in new for name in _compared(objective)}
        own = own_rows(detached, batch, self._sizes.counts, new)
        sent.objectives += new
        sent.own |= own
        if not own:
            return
        # identities travel as they are, 64 bits each, in the message of the features
        tensors = [x for rows in own.values() for x in (rows.a, rows.b, rows.ids.view(rows.a.dtype))]
        by_tensor = [self._sizes.rows(term, step) for term in own for _ in range(3)]
        sent.messages.append((list(own), start_gather_rows(tensors, by_tensor, self._communicator)))

    def wait(self) -> GlobalFeatures:
        """Return the features of all ranks and of all micro-batches sent; asks the device for nothing."""
        with phase("features"):
            return self._wait()

    def _wait(self) -> GlobalFeatures:
        sent, counts = list(self._sent.values()), self._sizes.counts
        assert all(of_step.objectives == self._objectives for of_step in sent), "sent in full, and in order"
        own = [of_step.own for of_step in sent]
        if not own[0]:
            return GlobalFeatures({}, counts)
        steps = range(min(self._sent), min(self._sent) + len(sent))
        assert list(self._sent) == list(steps)
        lengths = {term: [self._sizes.rows(term, step) for step in steps] for term in own[0]}
        found = self._candidates([of_step.arrived() for of_step in sent], lengths)
        compared = {term: candidates for term, candidates in found.items() if term.objective.loss == "nce"}
        if not compared:
            return GlobalFeatures(found, counts)
        statistics = []
        for s, of_step in enumerate(sent):
            problems = [
                problem_of(t, of_step.own[t], c, s, of_step.temperature, self._losses) for t, c in compared.items()
            ]
            with phase(nce_phases(compared, problems)):
                statistics.append(infonce_statistics(problems))
        return GlobalFeatures(
            found | _with_log_sum_exps(own, lengths, compared, statistics, self._communicator), counts
        )

    def _candidates(
        self, arrived: list[dict[Term, list[Tensor]]], lengths: Mapping[Term, Sequence[Ints]]
    ) -> dict[Term, Candidates]:
        """Put the rows of all ranks in the global order; log-sum-exps are still to come."""
        found: dict[Term, Candidates] = {}
        for term in arrived[0]:
            a_all, b_all, ids = (torch.cat([of_step[term][i] for of_step in arrived]) for i in range(3))
            offsets = first_rows(lengths[term], self._communicator.rank)
            empty = a_all.new_zeros(0)
            # those of an nce may differ from row to row, and come with the log-sum-exps
            weight = 1 / self._sizes.counts.of(term.objective)
            weights = a_all.new_full((len(a_all),), weight, dtype=torch.float32)
            found[term] = Candidates(a_all, b_all, weights, empty, empty, offsets, [], _duplicates(ids, self._losses))
        return found


@dataclass
class _Sent:
    """What was sent of one micro-batch."""

    temperature: Tensor
    objectives: list[Objective] = field(default_factory=list)
    own: dict[Term, Rows] = field(default_factory=dict)
    messages: list[tuple[list[Term], Callable[[], list[Tensor]]]] = field(default_factory=list)

    def arrived(self) -> dict[Term, list[Tensor]]:
        """Wait for the messages; return a, b and identities of all ranks by term."""
        found: dict[Term, list[Tensor]] = {}
        for terms, wait in self.messages:
            tensors = wait()
            found |= {term: tensors[3 * k : 3 * k + 3] for k, term in enumerate(terms)}
        return found


def _compared(objective: Objective) -> set[str]:
    """Return the names of the outputs that an objective compares."""
    return {output.name for output in objective.compared or ()}


def first_rows(lengths: Sequence[Ints], rank: int) -> list[int]:
    """Return a rank's first row in the global order, for every accumulation step, of (W,) rows of all ranks at each."""
    starts = accumulate((int(rows.sum()) for rows in lengths[:-1]), initial=0)
    return [start + int(rows[:rank].sum()) for start, rows in zip(starts, lengths, strict=True)]


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
    lengths: Mapping[Term, Sequence[Ints]],
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
    by_tensor = [lengths[term][s] for s in range(len(own)) for term in found]
    gathered = gather_rows(flat, by_tensor, communicator)
    whole = {}
    for k, (term, candidates) in enumerate(found.items()):
        table = torch.cat([gathered[s * len(found) + k] for s in range(len(own))])
        row_lse, col_lse, weight = table.unbind(1)
        whole[term] = dataclasses.replace(
            candidates,
            row_lse_all=row_lse.contiguous(),
            col_lse_all=col_lse.contiguous(),
            weight_all=weight.contiguous(),
            statistics=[of_step[k] for of_step in statistics],
        )
    return whole
