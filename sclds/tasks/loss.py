"""The loss of a downstream task beside those over the global batch: shares that add up over ranks and accumulation."""

from collections.abc import Mapping

import torch.nn.functional as F
from torch import Tensor

from sclds.batch import Batch
from sclds.losses.ranks import hits
from sclds.tasks import TASKS
from sclds.tasks.loader import TENTHS, TaskBatch
from sclds.tasks.model import LOGITS

Terms = dict[str, Tensor]


def with_task(
    total: Tensor, terms: Terms, outputs: Mapping[str, Tensor], batch: Batch, samples: float, name: str
) -> tuple[Tensor, Terms]:
    """Return a step's total and terms with those of its downstream task.

    Args:
        total: () of the objectives.
        terms: Theirs, by name.
        outputs: Of the model.
        batch: The micro-batch.
        samples: Of the global batch, over which the mean is taken.
        name: Of the task.
    """
    assert isinstance(batch, TaskBatch)
    logits = outputs[LOGITS].float()
    scores = batch.scores.float() / TENTHS
    if TASKS[name].loss == "soft":
        summed = F.binary_cross_entropy_with_logits(logits, scores, reduction="sum")
        right = scores.gather(1, logits.argmax(1, keepdim=True)).sum()
    else:
        labels = batch.scores.argmax(1)
        summed = F.cross_entropy(logits, labels, reduction="sum")
        right = hits(logits.detach(), labels).sum()
    share = summed / samples
    total = total + share
    found = {name: share.detach(), f"{name}_accuracy": right.detach() / samples, "total": total.detach()}
    return total, terms | found
