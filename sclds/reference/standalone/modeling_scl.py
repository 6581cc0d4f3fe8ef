# SPDX-License-Identifier: Apache-2.0
"""The model as transformers knows it: both encoders, fusion and heads behind padded inputs.

`AutoModel.from_pretrained(FOLDER, trust_remote_code=True)` loads it where nothing but PyTorch and transformers is
installed; outputs are those of training (in evaluation mode) to rounding.
"""

from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn
from transformers import PreTrainedModel
from transformers.utils import ModelOutput

from .configuration_scl import SCLConfig
from .parameters_scl import PlainSCL
from .plain_scl import patches_of, word_logits


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
        self.scl = PlainSCL(config.architecture, config.pad_token_id)
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
        return self.scl.project_text(self.scl.encode_text(input_ids, mask), mask)

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
        text, vision = self.scl.encode_text(input_ids, mask), self._vision(pixels, video)
        frames = pixels.shape[1]
        fused_text, fused_vision = self.scl.fuse(text, mask, vision)
        return SCLOutput(
            text_embeds=self.scl.project_text(text, mask),
            vision_embeds=self.scl.project_vision(vision, frames),
            itm_logits=self.scl.match(fused_text, mask, fused_vision, frames),
            temperature=self._temperature(),
            fused_text=fused_text,
            fused_vision=fused_vision,
        )

    def _temperature(self) -> Tensor:
        value, least = (
            self.scl.get_parameter("temperature.value")[0].float(),
            self.config.architecture["min_temperature"],
        )
        return value if value >= least else 2 * least - value

    def _mask(self, input_ids: Tensor, attention_mask: Tensor | None) -> Tensor:
        return input_ids != self.config.pad_token_id if attention_mask is None else attention_mask.bool()

    def _vision(self, pixels_BF3HW: Tensor, video: bool) -> Tensor:
        return self.scl.encode_vision(patches_of(pixels_BF3HW, self.config.architecture["vision"]["patch_size"]), video)

    def _vision_features(self, pixels_BF3HW: Tensor, video: bool) -> Tensor:
        return self.scl.project_vision(self._vision(pixels_BF3HW, video), pixels_BF3HW.shape[1])
