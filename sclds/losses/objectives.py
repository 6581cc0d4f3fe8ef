"""The objectives of docs/method.md §4, exact over the global batch, and the one place that forms their total.

`nce(A, B; τ)` normalises rows, divides similarities by τ, and sums both directions' mean cross-entropies with the
diagonal as the positive. Every rank computes the share of its own rows; shares, and their gradients, add up over ranks
and accumulation steps to those of one process on the whole batch.
"""

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from scl_kernels import InfoNCEProblem, InfoNCEStatistics, infonce, infonce_statistics
from sclds.config import LossesConfig
from sclds.losses.communicator import Communicator, gather_ragged

Features = dict[str, Tensor]
_PAIRS = {
    "contrastive": ("text_proj", "vision_proj"),
    "mvsc": ("vision_recovered", "vision_target"),
    "mlsc": ("text_recovered", "text_target"),
    "mltc_text": ("text_tokens_recovered", "text_tokens_target"),
}
"""Objective: the rows that are compared over the global batch."""


@dataclass(frozen=True)
class Rows:
    """Own rows of one nce, of one micro-batch."""

    a: Tensor
    """(n, C)."""
    b: Tensor
    """(n, C) partners."""
    weight: Tensor
    """(n,) fp32 weight of each row in the objective's mean."""


@dataclass(frozen=True)
class Candidates:
    """One nce over the global batch, as this rank sees it."""

    a_all: Tensor
    b_all: Tensor
    weight_all: Tensor
    row_lse_all: Tensor
    col_lse_all: Tensor
    offsets: list[int]
    """First own row, for every accumulation step."""
    statistics: list[InfoNCEStatistics]
    """Of the own rows, for every accumulation step."""


def features_of(outputs: dict[str, Tensor]) -> Features:
    """Return, detached, what the losses compare over the global batch."""
    names = [name for pair in _PAIRS.values() for name in pair if name in outputs]
    return {name: outputs[name].detach() for name in [*names, "temperature"]}


class GlobalBatch:
    """Features of all samples of an optimiser step, and the counts that normalise the means.

    Build it with `gather`, once a step, on all ranks.
    """

    def __init__(self, candidates: dict[str, Candidates], counts: dict[str, float]):
        self.candidates = candidates
        self.counts = counts

    @classmethod
    def gather(
        cls,
        features: Sequence[Features],
        batches: Sequence[dict[str, Any]],
        losses: LossesConfig,
        communicator: Communicator,
        step_batches: Sequence[dict[str, Any]] | None = None,
    ) -> "GlobalBatch":
        """Gather features over ranks and accumulation steps.

        Args:
            features: Of every accumulation step whose samples are negatives of one another.
            batches: Their micro-batches.
            losses: Objectives in use.
            communicator: The processes.
            step_batches: All micro-batches of the step, which normalise the means; by default `batches`.
        """
        device = features[0]["text_proj"].device
        counts = _counts(step_batches or batches, device, communicator)
        own = [_own_rows(f, b, counts, losses) for f, b in zip(features, batches, strict=True)]
        if not own[0]:
            return cls({}, counts)
        return cls(_gather_candidates(own, features, losses, communicator), counts)


def step_loss(
    outputs: dict[str, Tensor],
    batch: dict[str, Any],
    everybody: GlobalBatch,
    accumulation_step: int,
    losses: LossesConfig,
) -> tuple[Tensor, dict[str, Tensor]]:
    """Return this micro-batch's share of the weighted total, and of every term.

    Args:
        outputs: Of the model, with gradient.
        batch: The micro-batch.
        everybody: The step's global batch.
        accumulation_step: Which of the micro-batches that `everybody` was gathered from.
        losses: Weights; 0 is off and not computed.

    Returns:
        The total () and detached terms by name; accuracies beside them. Sums over ranks and accumulation steps are the
        values of the global batch.
    """
    terms = _global_terms(outputs, batch, everybody, accumulation_step, losses)
    counts = everybody.counts
    if losses.mlm > 0:
        logits, labels = outputs["mlm_logits"].float(), batch["mlm_label"]
        terms["mlm"] = F.cross_entropy(logits, labels, reduction="sum") / max(counts["words"], 1)
        terms["mlm_accuracy"] = (logits.argmax(1) == labels).sum() / max(counts["words"], 1)
    if losses.itm > 0:
        logits, labels = outputs["itm_logits"].float(), batch["itm_label"]
        terms["itm"] = F.cross_entropy(logits, labels, reduction="sum") / counts["samples"]
        terms["itm_accuracy"] = (logits.argmax(1) == labels).sum() / counts["samples"]
    if losses.mltc_image > 0:
        terms["mltc_image"] = _mltc_image(outputs, batch, counts, losses)
    total = sum(
        (getattr(losses, name) * value for name, value in terms.items() if name in LossesConfig.model_fields),
        start=outputs["temperature"].new_zeros(()),
    )
    return total, {name: value.detach() for name, value in terms.items()} | {"total": total.detach()}


def _global_terms(
    outputs: dict[str, Tensor], batch: dict[str, Any], everybody: GlobalBatch, step: int, losses: LossesConfig
) -> dict[str, Tensor]:
    """Return the terms whose negatives are the global batch, from one kernel launch."""
    own = _own_rows(outputs, batch, everybody.counts, losses)
    if not own:
        return {}
    candidates = [everybody.candidates[key] for key in own]
    problems = [
        _problem(key, rows, c, step, outputs["temperature"], losses)
        for (key, rows), c in zip(own.items(), candidates, strict=True)
    ]
    statistics = [c.statistics[step] for c in candidates]
    values = infonce(problems, [c.row_lse_all for c in candidates], [c.col_lse_all for c in candidates], statistics)
    terms: dict[str, Tensor] = {}
    for key, rows, value, s in zip(own, own.values(), values, statistics, strict=True):
        name = _objective(key)
        accuracy = ((s.row_correct.float() + s.col_correct.float()) / 2 * rows.weight).sum()
        terms[name] = terms[name] + value if name in terms else value
        terms[f"{name}_accuracy"] = terms.get(f"{name}_accuracy", 0) + accuracy
    return terms


def _problem(
    key: str, rows: Rows, candidates: Candidates, step: int, temperature: Tensor, losses: LossesConfig
) -> InfoNCEProblem:
    """Put own rows, which carry gradient, before the global batch, which does not."""
    a, b = rows.a, rows.b
    if losses.scaling == "published":
        a, b = (_ScaledGradient.apply(x, 1 / losses.published_world_size) for x in (a, b))
    tau = temperature if key == "contrastive" else losses.completion_temperature
    return InfoNCEProblem(
        a, b, candidates.a_all, candidates.b_all, tau, candidates.offsets[step], candidates.weight_all
    )


def _own_rows(
    outputs: dict[str, Tensor], batch: dict[str, Any], counts: dict[str, float], losses: LossesConfig
) -> dict[str, Rows]:
    """Return the own rows of every nce in use.

    MVSC is one nce per frame number: frame f competes with frame f of all samples that have one, and a sample's frames
    share its weight, which for clips of equal length is the mean over frames of docs/method.md §4.
    """
    own = {}
    for name, (left, right) in _PAIRS.items():
        if getattr(losses, name) == 0 or left not in outputs:
            continue
        a, b = outputs[left], outputs[right]
        if name != "mvsc":
            count = counts["hidden_words" if name == "mltc_text" else "samples"]
            own[name] = Rows(a, b, a.new_full((len(a),), 1 / max(count, 1), dtype=torch.float32))
            continue
        frames = batch["frame_count"]
        first = frames.cumsum(0) - frames
        for number in range(int(counts["frames"])):
            rows = (first + number)[frames > number]
            weight = 1 / (frames[frames > number].float() * counts["samples"])
            own[f"{name}/{number}"] = Rows(a[rows], b[rows], weight)
    return own


def _objective(key: str) -> str:
    return key.split("/")[0]


def _gather_candidates(
    own: list[dict[str, Rows]], features: Sequence[Features], losses: LossesConfig, communicator: Communicator
) -> dict[str, Candidates]:
    """Gather everybody's rows in one message, then everybody's log-sum-exps in another.

    The global order is by accumulation step, then rank, then row: the order of the samples in the global batch.
    """
    keys = list(own[0])
    flat = [x for step in own for rows in step.values() for x in (rows.a, rows.b)]
    everybody = gather_ragged(flat, communicator)
    found: dict[str, Candidates] = {}
    for k, key in enumerate(keys):
        places = [2 * (s * len(keys) + k) for s in range(len(own))]
        a_all = torch.cat([rank[p] for p in places for rank in everybody])
        b_all = torch.cat([rank[p + 1] for p in places for rank in everybody])
        lengths = [[len(rank[p]) for rank in everybody] for p in places]
        before = [sum(map(sum, lengths[:s])) for s in range(len(own))]
        offsets = [n + sum(lengths[s][: communicator.rank]) for s, n in enumerate(before)]
        empty = a_all.new_zeros(0)
        found[key] = Candidates(
            a_all, b_all, a_all.new_zeros(len(a_all), dtype=torch.float32), empty, empty, offsets, []
        )
    statistics = [
        infonce_statistics(
            [_problem(key, step[key], found[key], s, features[s]["temperature"], losses) for key in keys]
        )
        for s, step in enumerate(own)
    ]
    flat = [
        torch.stack((x.row_lse, x.col_lse, step[key].weight.to(x.row_lse.dtype)), dim=1)
        for step, of_step in zip(own, statistics, strict=True)
        for key, x in zip(keys, of_step, strict=True)
    ]
    everybody = gather_ragged(flat, communicator)
    for k, key in enumerate(keys):
        table = torch.cat([rank[s * len(keys) + k] for s in range(len(own)) for rank in everybody])
        row_lse, col_lse, weight = table.unbind(1)
        found[key] = dataclasses.replace(
            found[key],
            row_lse_all=row_lse.contiguous(),
            col_lse_all=col_lse.contiguous(),
            weight_all=weight.contiguous(),
            statistics=[of_step[k] for of_step in statistics],
        )
    return found


def _mltc_image(
    outputs: dict[str, Tensor], batch: dict[str, Any], counts: dict[str, float], losses: LossesConfig
) -> Tensor:
    """Replaced patch tokens against their complete twins, among the tokens of one group of samples.

    The published loss compares within a rank's batch; a group of fixed size is the same thing without depending on the
    number of ranks.
    """
    recovered, target = outputs["vision_tokens_recovered"], outputs["vision_tokens_target"]
    problems, start = [], 0
    for length in batch["replaced_per_group"]:
        a, b = recovered[start : start + length], target[start : start + length]
        start += length
        weight = a.new_full((length,), 1 / max(counts["replaced"], 1), dtype=torch.float32)
        problems.append(InfoNCEProblem(a, b, a.detach(), b, losses.completion_temperature, 0, weight))
    if not problems:
        return 0 * recovered.sum().float()
    statistics = infonce_statistics(problems)
    values = infonce(problems, [s.row_lse for s in statistics], [s.col_lse for s in statistics], statistics)
    return torch.stack(values).sum()


def _counts(batches: Sequence[dict[str, Any]], device: torch.device, communicator: Communicator) -> dict[str, float]:
    """Count what the means of the global batch are taken over, and the most frames of a sample."""
    mine = {
        "samples": sum(len(b["sample_ids"]) for b in batches),
        "words": sum(len(b["mlm_label"]) for b in batches),
        "hidden_words": sum(len(b["head_mlsc_text_tokens"]) for b in batches if "head_mlsc_text_tokens" in b),
        "replaced": sum(sum(b["replaced_per_group"]) for b in batches),
        "frames": max(b["most_frames"] for b in batches),
    }
    everybody = communicator.all_gather(torch.tensor(list(mine.values()), dtype=torch.float64, device=device))
    counts = dict(zip(mine, everybody.sum(0).tolist(), strict=True))
    return counts | {"frames": everybody[:, -1].max().item()}


class _ScaledGradient(torch.autograd.Function):
    """Identity whose gradient is multiplied."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, factor: float) -> Tensor:
        ctx.factor = factor
        return x.view_as(x)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        return gradient * ctx.factor, None
