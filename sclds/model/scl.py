"""The step's forward: all text views, all vision views and all fusion pairs, each once (docs/method.md §3)."""

from collections.abc import Callable

import torch
from torch import Tensor, nn

from scl_kernels import gather_rows
from sclds.batch import Batch
from sclds.config import ModelConfig
from sclds.machine.phase_clock import phase
from sclds.model.fusion import FusionLayer, fuse
from sclds.model.heads import (
    ITMHead,
    MLMHead,
    PairwiseLogit,
    Pooler,
    Projection,
    Temperature,
    TokenType,
    Transform,
    frame_mean,
)
from sclds.model.initial import initial_value
from sclds.model.negatives import with_hard_negatives
from sclds.model.text import build_text_tower
from sclds.model.vision import build_vision_tower
from sclds.objectives import Objective, Read
from sclds.objectives.table import PAIRWISE_BIAS, PAIRWISE_SCALE, TEMPERATURE, TEXT_PROJECTION, VISION_PROJECTION

Outputs = dict[str, Tensor]


class SCLModel(nn.Module):
    """Vision encoder, text encoder, fusion and heads. Names of the fusion parts are those of the released weights.

    Args:
        config: Architecture.
        vocab_size: Rows of the word embedding and of the MLM decoder.
        recompute: Activation checkpointing.
        sigmoid: Whether the model has the scale and bias of `losses.sigmoid`.
    """

    def __init__(
        self,
        config: ModelConfig,
        vocab_size: int,
        recompute: bool = False,
        sigmoid: bool = False,
    ):
        super().__init__()
        self.config = config
        self.recompute = recompute
        fusion, text, vision = config.fusion, config.text, config.vision
        self.vision_encoder = build_vision_tower(vision, recompute)
        self.text_encoder = build_text_tower(text, vocab_size, recompute)
        self.cross_modal_text_transform = Transform(text.width, fusion.width)
        self.cross_modal_image_transform = Transform(vision.width, fusion.width)
        self.token_type_embeddings = TokenType(fusion.token_types, fusion.width)
        self.cross_modal_text_layers = nn.ModuleList(FusionLayer(fusion, "text", n) for n in range(fusion.layers))
        self.cross_modal_image_layers = nn.ModuleList(FusionLayer(fusion, "vision", n) for n in range(fusion.layers))
        self.cross_modal_text_pooler = Pooler(fusion.width, fusion.width)
        self.cross_modal_image_pooler = Pooler(fusion.width, fusion.width)
        self.mlm_score = MLMHead(fusion.width, vocab_size, fusion.layer_norm_eps)
        self.itm_score = ITMHead(fusion.width)
        self.text_projection = Projection(fusion.width, config.projection, text.layer_norm_eps)
        self.vision_projection = Projection(fusion.width, config.projection, vision.layer_norm_eps)
        self.temperature = Temperature(config.initial_temperature, config.min_temperature)
        self.pairwise_logit = PairwiseLogit() if sigmoid else None

    def initialize(self, seed: int) -> None:
        """Fill every parameter; a function of (seed, parameter name) alone."""
        for name, parameter in self.named_parameters():
            self.initialize_parameter(name, parameter.data, seed)

    def initialize_parameter(self, name: str, tensor: Tensor, seed: int) -> None:
        """Fill one full (unsharded) parameter in place."""
        tensor.copy_(initial_value(self, name, tensor.shape, seed, self.config.init_std))

    def forward(self, batch: Batch, before_fusion: Callable[[Outputs], None] | None = None) -> Outputs:
        """Run every view and pair once.

        Args:
            batch: The micro-batch.
            before_fusion: Gets what is there before fusion begins: projections that may travel while it runs.

        Returns:
            The projections (B, P) of text and vision and the temperature (); for every objective in use its outputs by
            the names of `sclds.objectives.OBJECTIVES`: logits of its head, or the fused rows that it compares, targets
            detached. Also text_views and vision_views, the packed encoder outputs after the transform, for those who
            look inside.
        """
        text, vision = self.encode(batch)
        text_proj, vision_proj = self.project(text, vision, batch)
        temperature = self.temperature()
        outputs: Outputs = {
            TEXT_PROJECTION.name: text_proj,
            VISION_PROJECTION.name: vision_proj,
            TEMPERATURE: temperature,
            "text_views": text,
            "vision_views": vision,
        }
        if self.pairwise_logit is not None:
            outputs[PAIRWISE_SCALE], outputs[PAIRWISE_BIAS] = self.pairwise_logit()
        if before_fusion is not None:
            before_fusion(outputs)
        if not batch.pairs.names:
            return outputs
        batch = with_hard_negatives(text_proj, vision_proj, temperature, batch)
        with phase("fusion"):
            fused_text, fused_vision = fuse(
                self.cross_modal_text_layers,
                self.cross_modal_image_layers,
                self.token_type_embeddings(text, vision),
                batch,
                self.recompute and self.training,
            )
        with phase("heads"):
            return outputs | self.read_heads(fused_text, fused_vision, batch)

    def encode(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """Encode all views: (Nt, C) and (Nv, C), after the linear transforms and without token types."""
        with phase("text_encoder"):
            text = self.cross_modal_text_transform(self.text_encoder(batch.text, batch.dropout_keys.text))
        with phase("vision_encoder"):
            return text, self.cross_modal_image_transform(self.vision_encoder(batch.vision))

    def project(self, text: Tensor, vision: Tensor, batch: Batch) -> tuple[Tensor, Tensor]:
        """Project [CLS] of t0 and the mean frame [CLS] of v0 for the contrastive loss: (B, P) each."""
        with phase("heads"):
            text_cls = gather_rows(text, batch.text.cls)
            return self.text_projection(text_cls), self.vision_projection(frame_mean(vision, batch.vision.cls))

    def read_heads(self, text: Tensor, vision: Tensor, batch: Batch) -> Outputs:
        """Make every objective's outputs of the rows of the last fusion layer (docs/method.md §3).

        Args:
            text: (read rows, C) of the text stream.
            vision: The same of the vision stream.
            batch: Where each reader finds its rows.
        """
        streams = {"text": text, "vision": vision}
        outputs: Outputs = {}
        for objective in batch.objectives:
            if objective.head is not None:
                outputs[objective.logits] = self._logits(objective, streams, batch)
            for output in objective.compared or ():
                if output.read is not None:
                    rows = gather_rows(streams[output.read.stream], batch.reads.places[output.read])
                    outputs[output.name] = rows.detach() if output.detached else rows
        return outputs

    def _logits(self, objective: Objective, streams: dict[str, Tensor], batch: Batch) -> Tensor:
        """Return what an objective's head says of the rows that it reads."""

        def places(read: Read) -> Tensor:
            return batch.reads.places[read]

        if objective.head == "mlm":
            (words,) = objective.head_reads
            return self.mlm_score(gather_rows(streams["text"], places(words)))
        text_cls, frame_cls = objective.head_reads
        return self.itm_score(self.pooled(streams["text"], streams["vision"], places(text_cls), places(frame_cls)))

    def pooled(self, text: Tensor, vision: Tensor, text_cls: Tensor, frame_cls: Tensor) -> Tensor:
        """Pool the [CLS] of both streams of every pair, (P, 2C).

        Args:
            text: (read rows, C) of the last fusion layer.
            vision: The same of the vision stream.
            text_cls: (P,) rows of `text`.
            frame_cls: (P, most frames) rows of `vision`, -1 where there is no such frame.
        """
        pooled_text = self.cross_modal_text_pooler(gather_rows(text, text_cls))
        return torch.cat((pooled_text, self.cross_modal_image_pooler(frame_mean(vision, frame_cls))), dim=1)

    def match_score(self, pooled: Tensor) -> Tensor:
        """Return how well pairs match, (P,) float32: the log-odds of the matching head of (P, 2C) pooled [CLS]."""
        logits = self.itm_score(pooled).float()
        return logits[:, 1] - logits[:, 0]
