"""What a fine-tuned model is to those who take its weights: one like those of pre-training, or one that answers."""

from collections.abc import Mapping

import torch
import torch.nn.functional as F
from torch import Tensor

from sclds.config import Config
from sclds.interop.folder import AnswerHead
from sclds.tasks import task_of
from sclds.tasks.annotations import classes_of
from sclds.tasks.model import CONTRASTIVE, FROM_MATCHING, HEAD, PRETRAINING_HEADS

_WORDS = "mlm_score"
"""The head that a model of retrieval does not have and nothing of retrieval reads."""


def as_pretrained(
    weights: Mapping[str, Tensor], names: Mapping[str, torch.Size]
) -> tuple[dict[str, Tensor], list[str]]:
    """Return the weights of a model of retrieval by the names of pre-training, and the parameters that it lacks.

    Its ranking head is the matching head's: the log-odds of a match are the score.
    """
    own = dict(weights)
    for name, matching in FROM_MATCHING.items():
        score = own.pop(f"{HEAD}.{name}")
        own[matching] = torch.cat((torch.zeros_like(score), score))
    return own, [name for name in names if name not in own and name.startswith(f"{_WORDS}.")]


def head_of(config: Config, weights: Mapping[str, Tensor]) -> AnswerHead:
    """Return the head of a run that was fine-tuned for answers.

    Raises:
        DataError: The run folder has lost the answers that it learned.
    """
    assert config.task is not None
    prefix = f"{HEAD}."
    head = {name.removeprefix(prefix): weights[name] for name in weights if name.startswith(prefix)}
    return AnswerHead(config.task.name, classes_of(config), head, task_of(config).images, config.task.use_image)


def absent(name: str) -> bool:
    """Return whether a model that answers has no such parameter of pre-training."""
    return name.split(".")[0] in (*PRETRAINING_HEADS, *CONTRASTIVE)


def class_logits(head: Mapping[str, Tensor], pooled: Tensor, eps: float) -> Tensor:
    """Return the logits (N, classes) of what a head reads of N examples, as `sclds.tasks.model.TaskHead` does."""
    x = F.linear(pooled, head["dense.weight"], head["dense.bias"])
    x = F.layer_norm(x, x.shape[-1:], head["norm.weight"], head["norm.bias"], eps)
    return F.linear(F.gelu(x), head["out.weight"], head["out.bias"])
