"""The pre-trained model with the head of a downstream task; what the task does not read is left out."""

from collections.abc import Callable, Mapping
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sclds.batch import Batch
from sclds.batch.matches import FRAME_CLS, TEXT_CLS
from sclds.config import ModelConfig, TaskConfig
from sclds.machine.phase_clock import phase
from sclds.model.fusion import fuse
from sclds.model.groups import ParameterGroup
from sclds.model.heads import TokenType
from sclds.model.layers import LayerNorm
from sclds.model.scl import Outputs, SCLModel
from sclds.objectives.table import TEMPERATURE, TEXT_PROJECTION, VISION_PROJECTION
from sclds.tasks import TASKS
from sclds.tasks.definition import Task
from sclds.tasks.loader import TaskBatch

HEAD = "task_head"
LOGITS = "task_logits"
"""Key of the head's logits among the model's outputs."""
FROM_MATCHING = {"weight": "itm_score.weight", "bias": "itm_score.bias"}
"""What the head of `retrieval` starts from: the matching head's row for a match."""
PRETRAINING_HEADS = ("mlm_score", "itm_score", "pairwise_logit")
CONTRASTIVE = ("text_projection", "vision_projection", "temperature")


class TaskHead(nn.Module):
    """Linear(in → hidden), LayerNorm, GELU, Linear(hidden → classes) (docs/method.md, fine-tuning)."""

    parameter_group: ClassVar[ParameterGroup] = "heads"

    def __init__(self, inputs: int, hidden: int, classes: int, eps: float):
        super().__init__()
        self.dense = nn.Linear(inputs, hidden)
        self.norm = LayerNorm(hidden, eps=eps)
        self.out = nn.Linear(hidden, classes)

    def forward(self, x_NC: Tensor) -> Tensor:
        """Return (N, classes) logits."""
        return self.out(F.gelu(self.norm(self.dense(x_NC))))


class RankHead(nn.Linear):
    """One score a pair."""

    parameter_group: ClassVar[ParameterGroup] = "heads"


class TypesOfTwo(TokenType):
    """Token types of text, of an image, and of a second image (row 2)."""

    def of_two(self, text: Tensor, vision: Tensor, second: Tensor) -> tuple[Tensor, Tensor]:
        """Return both streams with their type added; `second` (Nv,) marks tokens of a second image."""
        return text + self.weight[0], vision + torch.where(second[:, None], self.weight[2], self.weight[1])

    def forward(  # type: ignore[override]
        self, text: Tensor, vision: Tensor, second: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """Return both streams, (N, C) each, with their type added."""
        return super().forward(text, vision) if second is None else self.of_two(text, vision, second)


class TaskModel(SCLModel):
    """Encoders and fusion of `SCLModel` by the same names, and `task_head`.

    Args:
        config: Architecture.
        vocab_size: Rows of the word embedding.
        task: What is asked.
        classes: Classes of the task.
        recompute: Activation checkpointing.
    """

    def __init__(self, config: ModelConfig, vocab_size: int, task: Task, classes: int, recompute: bool = False):
        super().__init__(config, vocab_size, recompute)
        self.task = task
        for name in PRETRAINING_HEADS if task.reads_captions else (*PRETRAINING_HEADS, *CONTRASTIVE):
            delattr(self, name)
        width = config.fusion.width
        if task.images == 2:
            self.token_type_embeddings = TypesOfTwo(3, width)
        inputs = 2 * width * task.images
        if task.reads_captions:
            self.task_head: nn.Module = RankHead(inputs, 1)
        else:
            self.task_head = TaskHead(inputs, int(task.hidden * width), classes, config.text.layer_norm_eps)

    def forward(self, batch: Batch, before_fusion: Callable[[Outputs], None] | None = None) -> Outputs:
        """Return `task_logits` (n, classes), or (n, captions of a group) of `retrieval`, with the projections.

        A batch that is not of the task is only encoded and projected, for retrieval.

        Args:
            batch: The micro-batch.
            before_fusion: As of `SCLModel`.
        """
        text, vision = self.encode(batch)
        outputs: Outputs = {"text_views": text, "vision_views": vision}
        if self.task.reads_captions:
            projections = self.project(text, vision, batch)
            outputs |= dict(zip((TEXT_PROJECTION.name, VISION_PROJECTION.name), projections, strict=True))
            outputs[TEMPERATURE] = self.temperature()
        else:
            outputs[TEMPERATURE] = text.new_zeros((), dtype=torch.float32)
        if before_fusion is not None:
            before_fusion(outputs)
        if not isinstance(batch, TaskBatch):
            return outputs
        two = (batch.second,) if self.task.images == 2 else ()
        layers, places = (self.cross_modal_text_layers, self.cross_modal_image_layers), batch.reads.places
        with phase("fusion"):
            typed = self.token_type_embeddings(text, vision, *two)
            fused = fuse(*layers, typed, batch, self.recompute and self.training)
        with phase("heads"):
            pooled = self.pooled(*fused, places[TEXT_CLS], places[FRAME_CLS])
            if self.task.reads_captions:
                return outputs | {LOGITS: self.task_head(pooled).view(-1, batch.pairs_per_example)}
            return outputs | {LOGITS: self.task_head(pooled.view(len(batch.scores), -1))}

    def match_score(self, pooled: Tensor) -> Tensor:
        """Return how well pairs match, (P,) float32, by the ranking head."""
        return self.task_head(pooled).float().squeeze(1)

    def adopted(self, weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Return what weights of pre-training give this model, by its own names.

        The ranking head is the matching head's row for a match, a third token type the second one's copy.
        """
        own = dict(weights)
        types = "token_type_embeddings.weight"
        if self.task.images == 2 and types in own and len(own[types]) == 2:
            own[types] = torch.cat((own[types], own[types][1:]))
        if self.task.reads_captions:
            own |= {
                f"{HEAD}.{name}": own[source][1:]
                for name, source in FROM_MATCHING.items()
                if source in own and f"{HEAD}.{name}" not in own
            }
        left = PRETRAINING_HEADS if self.task.reads_captions else (*PRETRAINING_HEADS, *CONTRASTIVE)
        return {name: tensor for name, tensor in own.items() if name.split(".")[0] not in left}


def build_task_model(
    config: ModelConfig, vocab_size: int, task: TaskConfig, classes: int, recompute: bool
) -> TaskModel:
    """Return the model of a fine-tuning."""
    return TaskModel(config, vocab_size, TASKS[task.name], classes, recompute)
