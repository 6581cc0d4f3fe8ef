# SPDX-License-Identifier: Apache-2.0
"""The model as transformers knows it: both encoders, fusion and heads behind padded inputs.

`AutoModel.from_pretrained(FOLDER, trust_remote_code=True)` loads it where nothing but PyTorch and transformers is
installed; outputs are those of training (in evaluation mode) to rounding.
"""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel
from transformers.utils import ModelOutput

from .configuration_scl import SCLConfig
from .plain_scl import PlainSCL, fused, match_logits, patches_of, projection, text_tokens, vision_tokens, word_logits


@dataclass
class SCLOutput(ModelOutput):
    """What a call returns for B pairs of a text and an image or video."""

    text_embeds: Tensor | None = None
    """(B, P) contrastive projection of the texts, not normalized."""
    vision_embeds: Tensor | None = None
    """(B, P) contrastive projection of the images or videos, not normalized."""
    itm_logits: Tensor | None = None
    """(B, 2) logits of "does not match" and "matches" for text i beside image or video i."""
    temperature: Tensor | None = None
    """() temperature by which contrastive similarities are divided."""
    fused_text: Tensor | None = None
    """(B, T, C) text tokens after fusion; rows of padding mean nothing."""
    fused_vision: Tensor | None = None
    """(B, F + F·L, C) vision tokens after fusion: the [CLS] of every frame, then patches frame by frame."""


class SCLModel(PreTrainedModel):
    """Vision encoder, text encoder, fusion and heads."""

    config_class = SCLConfig
    base_model_prefix = "scl"
    main_input_name = "pixel_values"

    def __init__(self, config: SCLConfig):
        super().__init__(config)
        self.scl = PlainSCL(config.architecture)
        self.post_init()

    def _init_weights(self, module: nn.Module) -> None:
        """Leave weights alone: they come from a folder."""

    def get_text_features(self, input_ids: Tensor, attention_mask: Tensor | None = None) -> Tensor:
        """Return the contrastive projections of texts (B, P), not normalized.

        Args:
            input_ids: (B, T) token ids, padded on either side.
            attention_mask: (B, T), 1 where a token is real; without it, every token but the padding is.
        """
        mask = self._mask(input_ids, attention_mask)
        return projection(self.scl.text_projection, _cls(self._text(input_ids, mask), mask))

    def get_image_features(self, pixel_values: Tensor) -> Tensor:
        """Return the contrastive projections of images (B, 3, S, S), normalized pixels, as (B, P), not normalized."""
        return self._vision_features(pixel_values[:, None], video=False)

    def get_video_features(self, pixel_values_videos: Tensor) -> Tensor:
        """Return the contrastive projections of videos (B, F, 3, S, S) as (B, P), not normalized."""
        return self._vision_features(pixel_values_videos, video=True)

    def get_word_logits(self, fused_text: Tensor) -> Tensor:
        """Return the logits (…, vocabulary) of words at positions of `SCLOutput.fused_text`."""
        return word_logits(self.scl.mlm_score, fused_text)

    def forward(
        self,
        input_ids: Tensor,
        attention_mask: Tensor | None = None,
        pixel_values: Tensor | None = None,
        pixel_values_videos: Tensor | None = None,
        **unused: Any,
    ) -> SCLOutput:
        """Encode and fuse B pairs.

        Args:
            input_ids: (B, T) token ids.
            attention_mask: (B, T), 1 where a token is real; without it, every token but the padding is.
            pixel_values: (B, 3, S, S) images, normalized; S is a multiple of the patch.
            pixel_values_videos: (B, F, 3, S, S) videos, instead of images.
            unused: What a processor may return beside them.

        Raises:
            ValueError: Images and videos are given together, or neither.
        """
        if (pixel_values is None) == (pixel_values_videos is None):
            raise ValueError("expected pixel_values or pixel_values_videos beside the texts, got both or neither")
        video = pixel_values is None
        pixels = pixel_values_videos if pixel_values is None else pixel_values[:, None]
        assert pixels is not None
        mask = self._mask(input_ids, attention_mask)
        text, vision = self._text(input_ids, mask), self._vision(pixels, video)
        frames = pixels.shape[1]
        fused_text, fused_vision = fused(self.scl, text, mask, vision, None)
        return SCLOutput(
            text_embeds=projection(self.scl.text_projection, _cls(text, mask)),
            vision_embeds=projection(self.scl.vision_projection, vision[:, :frames].mean(dim=1)),
            itm_logits=match_logits(self.scl, _cls(fused_text, mask), fused_vision[:, :frames].mean(dim=1)),
            temperature=self.scl.temperature.value[0].float(),
            fused_text=fused_text,
            fused_vision=fused_vision,
        )

    def _mask(self, input_ids: Tensor, attention_mask: Tensor | None) -> Tensor:
        return input_ids != self.config.pad_token_id if attention_mask is None else attention_mask.bool()

    def _text(self, input_ids: Tensor, mask: Tensor) -> Tensor:
        tokens = text_tokens(self.scl.text_encoder, input_ids, mask, self.config.pad_token_id)
        return self.scl.cross_modal_text_transform(tokens)

    def _vision(self, pixels_BF3HW: Tensor, video: bool) -> Tensor:
        section = self.config.architecture["vision"]
        patches = patches_of(pixels_BF3HW, section["patch_size"])
        tokens = vision_tokens(self.scl.vision_encoder, section["type"], patches, video)
        return self.scl.cross_modal_image_transform(tokens)

    def _vision_features(self, pixels_BF3HW: Tensor, video: bool) -> Tensor:
        frames = pixels_BF3HW.shape[1]
        return projection(self.scl.vision_projection, self._vision(pixels_BF3HW, video)[:, :frames].mean(dim=1))


def _cls(tokens_BTC: Tensor, mask_BT: Tensor) -> Tensor:
    """Return the first real token of every text (B, C)."""
    return tokens_BTC[torch.arange(len(tokens_BTC), device=tokens_BTC.device), mask_BT.long().argmax(dim=1)]
