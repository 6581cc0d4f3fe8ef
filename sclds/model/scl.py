"""The step's forward: all text views, all vision views and all fusion pairs, each once (docs/method.md §3)."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from scl_kernels import gather_rows
from sclds.batch.packing import Batch
from sclds.config import ModelConfig
from sclds.model.fusion import FusionLayer, fuse
from sclds.model.heads import MLMHead, Pooler, Projection, Temperature, TokenType, frame_mean
from sclds.model.initial import initialise_parameter
from sclds.model.negatives import with_hard_negatives
from sclds.model.text import TextEncoder
from sclds.model.vision import VisionEncoder

Outputs = dict[str, Tensor]


class SCLModel(nn.Module):
    """Vision encoder, text encoder, fusion and heads. Names of the fusion parts are those of the released weights.

    Args:
        config: Architecture.
        vocab_size: Rows of the word embedding and of the MLM decoder.
        grids: Patch grids (patches per side) that batches contain, see `sclds.batch.packing.grids_of`.
        recompute: Activation checkpointing.
    """

    def __init__(self, config: ModelConfig, vocab_size: int, grids: Sequence[int], recompute: bool = False):
        super().__init__()
        self.config = config
        self.recompute = recompute
        fusion, text, vision = config.fusion, config.text, config.vision
        self.vision_encoder = VisionEncoder(vision, tuple(grids), recompute)
        self.text_encoder = TextEncoder(text, vocab_size, recompute)
        self.cross_modal_text_transform = nn.Linear(text.width, fusion.width)
        self.cross_modal_image_transform = nn.Linear(vision.width, fusion.width)
        self.token_type_embeddings = TokenType(fusion.token_types, fusion.width)
        self.cross_modal_text_layers = nn.ModuleList(FusionLayer(fusion) for _ in range(fusion.layers))
        self.cross_modal_image_layers = nn.ModuleList(FusionLayer(fusion) for _ in range(fusion.layers))
        self.cross_modal_text_pooler = Pooler(fusion.width, fusion.width)
        self.cross_modal_image_pooler = Pooler(fusion.width, fusion.width)
        self.mlm_score = MLMHead(fusion.width, vocab_size, fusion.layer_norm_eps)
        self.itm_score = nn.Linear(2 * fusion.width, 2)
        self.text_projection = Projection(fusion.width, config.projection, text.layer_norm_eps)
        self.vision_projection = Projection(fusion.width, config.projection, vision.layer_norm_eps)
        self.temperature = Temperature()

    def initialise(self, seed: int) -> None:
        """Fill every parameter; a function of (seed, parameter name) alone."""
        for name, parameter in self.named_parameters():
            self.initialise_parameter(name, parameter.data, seed)

    def initialise_parameter(self, name: str, tensor: Tensor, seed: int) -> None:
        """Fill one full (unsharded) parameter in place."""
        initialise_parameter(name, tensor, seed, self.config)

    def forward(self, batch: Batch) -> Outputs:
        """Run every view and pair once.

        Returns:
            text_proj, vision_proj (B, P); temperature (); where the pairs exist: mlm_logits (masked words, vocabulary),
            itm_logits (B, 2); text_recovered, text_target (B, C); vision_recovered, vision_target (all frames, C);
            and for GLSCL the token rows that mltc compares. Targets are detached. Also text_views and vision_views,
            the packed encoder outputs after the transform, for those who look inside.
        """
        text, vision = self.encode(batch)
        text_proj, vision_proj = self.project(text, vision, batch)
        outputs: Outputs = {
            "text_proj": text_proj,
            "vision_proj": vision_proj,
            "temperature": self.temperature(),
            "text_views": text,
            "vision_views": vision,
        }
        if "itm_allowed" in batch:
            batch = with_hard_negatives(text_proj, vision_proj, outputs["temperature"], batch)
        if batch["roles"]:
            fused_text, fused_vision = fuse(
                self.cross_modal_text_layers,
                self.cross_modal_image_layers,
                self.token_type_embeddings(text, vision),
                batch,
                self.recompute and self.training,
            )
            outputs |= self.read_heads(fused_text, fused_vision, batch)
        return outputs

    def encode(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """Encode all views: (Nt, C) and (Nv, C), after the linear transforms and without token types."""
        text = self.cross_modal_text_transform(self.text_encoder(batch))
        return text, self.cross_modal_image_transform(self.vision_encoder(batch))

    def project(self, text: Tensor, vision: Tensor, batch: Batch) -> tuple[Tensor, Tensor]:
        """Project [CLS] of t0 and the mean frame [CLS] of v0 for the contrastive loss: (B, P) each."""
        text_cls = gather_rows(text, batch["text_cls"])
        return self.text_projection(text_cls), self.vision_projection(frame_mean(vision, batch["vision_cls"]))

    def read_heads(self, text: Tensor, vision: Tensor, batch: Batch) -> Outputs:
        """Read the rows of the last fusion layer that objectives compare; targets are detached (docs/method.md §3)."""
        outputs: Outputs = {}
        roles = batch["roles"]
        if "head_mlm" in batch:
            outputs["mlm_logits"] = self.mlm_score(gather_rows(text, batch["head_mlm"]))
        if "itm" in roles:
            pooled_text = self.cross_modal_text_pooler(gather_rows(text, batch["head_itm_text"]))
            pooled_vision = self.cross_modal_image_pooler(frame_mean(vision, batch["head_itm_vision"]))
            outputs["itm_logits"] = self.itm_score(torch.cat((pooled_text, pooled_vision), dim=1))
        if "mvsc" in roles:
            outputs["vision_recovered"] = gather_rows(vision, batch["head_mvsc_vision"])
            outputs["text_target"] = gather_rows(text, batch["head_mvsc_text"]).detach()
            outputs["text_recovered"] = gather_rows(text, batch["head_mlsc_text"])
            outputs["vision_target"] = gather_rows(vision, batch["head_mlsc_vision"]).detach()
        if "head_mvsc_text_tokens" in batch:
            outputs["text_tokens_recovered"] = gather_rows(text, batch["head_mlsc_text_tokens"])
            outputs["text_tokens_target"] = gather_rows(text, batch["head_mvsc_text_tokens"]).detach()
        if "head_mltc_vision_tokens" in batch:
            outputs["vision_tokens_recovered"] = gather_rows(vision, batch["head_mltc_vision_tokens"])
            outputs["vision_tokens_target"] = gather_rows(vision, batch["head_mlsc_vision_tokens"]).detach()
        return outputs
