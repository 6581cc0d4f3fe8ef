"""The objectives of docs/method.md §4, exact over the global batch, and the one place that forms their total.

`nce(A, B; τ)` normalizes rows, divides similarities by τ, and sums both directions' mean cross-entropies with the
diagonal as the positive. Every rank computes the share of its own rows; shares, and their gradients, add up over ranks
and accumulation steps to those of one process on the whole batch.
"""

from collections.abc import Mapping

import torch
import torch.nn.functional as F
from torch import Tensor

from scl_kernels import InfoNCEProblem, SigmoidProblem, infonce, infonce_statistics, sigmoid_loss
from sclds.batch import Batch
from sclds.config import LossesConfig
from sclds.losses.global_features import (
    Candidates,
    FeatureGather,
    GlobalCounts,
    GlobalFeatures,
    Rows,
    StepSizes,
    features_of,
    nce_phases,
    own_rows,
    problem_of,
    weighed,
)
from sclds.losses.ranks import hits
from sclds.machine.phase_clock import LOSS, phase
from sclds.objectives import Objective, objectives_in_use
from sclds.objectives.table import PAIRWISE_BIAS, PAIRWISE_SCALE, TEMPERATURE

__all__ = ["FeatureGather", "GlobalFeatures", "StepSizes", "features_of", "step_loss"]

Outputs = Mapping[str, Tensor]
Terms = dict[str, Tensor]


def step_loss(
    outputs: Outputs, batch: Batch, global_features: GlobalFeatures, accumulation_step: int, losses: LossesConfig
) -> tuple[Tensor, Terms]:
    """Return this micro-batch's share of the weighted total, and of every term.

    Args:
        outputs: Of the model, with gradient.
        batch: The micro-batch.
        global_features: Of the step.
        accumulation_step: Which of the micro-batches that `global_features` was gathered from.
        losses: Weights; 0 is off and not computed.

    Returns:
        The total () and detached terms by name; accuracies beside them, and the share of texts that ITM has to show
        matched (`itm_alone`). Sums over ranks and accumulation steps are the
        values of the global batch.
    """
    counts = global_features.counts
    terms = _global_terms(outputs, batch, global_features, accumulation_step, losses)
    for objective in objectives_in_use(losses):
        if objective.loss == "cross_entropy":
            with phase(LOSS + objective.name):
                terms |= _cross_entropy(objective, outputs, batch, counts)
            if objective.head == "itm":
                alone = batch.counts.itm_alone / counts.of(objective)
                terms["itm_alone"] = outputs[TEMPERATURE].new_full((), alone, requires_grad=False)
        elif objective.loss == "group_nce":
            with phase(LOSS + objective.name):
                terms[objective.name] = _group_nce(objective, outputs, batch, counts, losses)
    in_use = {objective.name for objective in objectives_in_use(losses)}
    weighted = (getattr(losses, name) * value for name, value in terms.items() if name in in_use)
    total = sum(weighted, start=outputs[TEMPERATURE].new_zeros(()))
    return total, {name: value.detach() for name, value in terms.items()} | {"total": total.detach()}


def _global_terms(
    outputs: Outputs, batch: Batch, global_features: GlobalFeatures, step: int, losses: LossesConfig
) -> Terms:
    """Return the terms whose negatives are the global batch, every nce from one kernel launch."""
    rows_of = own_rows(outputs, batch, global_features.counts, objectives_in_use(losses))
    terms: Terms = {}
    for term, rows in rows_of.items():
        if term.objective.loss == "sigmoid":
            with phase(LOSS + term.objective.name):
                candidates_of = global_features.candidates[term]
                terms[term.objective.name] = _sigmoid(rows, candidates_of, step, outputs, losses)
    own = {term: rows for term, rows in rows_of.items() if term.objective.loss == "nce"}
    if not own:
        return terms
    candidates = [global_features.candidates[term] for term in own]
    problems = [
        problem_of(term, rows, c, step, outputs[TEMPERATURE], losses)
        for (term, rows), c in zip(own.items(), candidates, strict=True)
    ]
    statistics = [c.statistics[step] for c in candidates]
    with phase(nce_phases(own, problems)):
        values = infonce(problems, [c.row_lse_all for c in candidates], [c.col_lse_all for c in candidates], statistics)
    for (term, rows), value, s in zip(own.items(), values, statistics, strict=True):
        name = term.objective.name
        accuracy = ((s.row_correct.float() + s.col_correct.float()) / 2 * rows.weight).sum()
        terms[name] = terms[name] + value if name in terms else value
        terms[f"{name}_accuracy"] = terms.get(f"{name}_accuracy", 0) + accuracy
    return terms


def _sigmoid(rows: Rows, candidates: Candidates, step: int, outputs: Outputs, losses: LossesConfig) -> Tensor:
    """Return the share of own rows in SigLIP's pairwise loss."""
    return sigmoid_loss(
        SigmoidProblem(
            *weighed(rows, losses),
            candidates.a_all,
            candidates.b_all,
            outputs[PAIRWISE_SCALE],
            outputs[PAIRWISE_BIAS],
            candidates.offsets[step],
            candidates.weight_all,
            candidates.duplicates,
        )
    )


def _cross_entropy(objective: Objective, outputs: Outputs, batch: Batch, counts: GlobalCounts) -> Terms:
    """Return a head's cross-entropy and its accuracy, for which a tie is no hit."""
    logits, labels = outputs[objective.logits].float(), getattr(batch.labels, objective.name)
    return {
        objective.name: F.cross_entropy(logits, labels, reduction="sum") / counts.of(objective),
        f"{objective.name}_accuracy": hits(logits.detach(), labels).sum() / counts.of(objective),
    }


def _group_nce(
    objective: Objective, outputs: Outputs, batch: Batch, counts: GlobalCounts, losses: LossesConfig
) -> Tensor:
    """Compare tokens with their complete partners among the tokens of one group of samples.

    The published loss compares within a rank's batch; a group of fixed size is the same thing without depending on the
    number of ranks.
    """
    assert objective.compared is not None
    recovered, target = (outputs[output.name] for output in objective.compared)
    problems, start = [], 0
    for length in batch.counts.replaced_per_group:
        a, b = recovered[start : start + length], target[start : start + length]
        start += length
        weight = a.new_full((length,), 1 / counts.of(objective), dtype=torch.float32)
        problems.append(InfoNCEProblem(a, b, a.detach(), b, losses.completion_temperature, 0, weight))
    if not problems:
        return 0 * recovered.sum().float()
    statistics = infonce_statistics(problems)
    values = infonce(problems, [s.row_lse for s in statistics], [s.col_lse for s in statistics], statistics)
    return torch.stack(values).sum()
