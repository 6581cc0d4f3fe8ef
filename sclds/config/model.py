"""The architecture: `model` of the configuration, which checkpoints and exported folders carry."""

from typing import Annotated, Literal

from pydantic import Field

from sclds.config.base import Epsilon, MayChange, Positive, Probability, Section


class VisionConfig(Section):
    """The vision tower; the defaults are the paper's, CLIP ViT-B/16 without its last block (docs/method.md §2)."""

    type: Literal["clip", "siglip2", "perception_encoder"] = "clip"
    """`clip` (also OpenCLIP), `siglip2` (no [CLS] token: its attention pooling makes the [CLS] of every frame), or
    `perception_encoder` (PE core, rotary positions)."""
    width: Positive = 768
    """Channels."""
    layers: Positive = 11
    """Transformer blocks: CLIP ViT-B/16 has 12, the last is left out."""
    heads: Positive = 12
    """Attention heads; CLIP has width / 64, OpenCLIP's H/14 width / 80."""
    mlp_width: Annotated[int, Field(ge=0)] = 0
    """Inner width of the feed-forward network; 0 is 4 × width."""
    activation: Literal["quick_gelu", "gelu", "gelu_tanh"] | None = None
    """Of the feed-forward network; none is the tower's own: quick_gelu (clip), gelu_tanh (siglip2), gelu
    (perception_encoder). OpenCLIP's own models have gelu."""
    patch_size: Positive = 16
    """Side of a patch in pixels."""
    pretrained_image_size: Positive = 224
    """Resolution whose patch grid the position table holds; other resolutions interpolate it."""
    max_frames: Positive = 8
    """Rows of the learned temporal embedding: the most frames a video may have."""
    layer_norm_eps: Epsilon = 1e-5
    """Epsilon of every LayerNorm of the encoder; SigLIP 2 has 1e-6."""

    @property
    def inner_width(self) -> int:
        """Inner width of the feed-forward network."""
        return self.mlp_width or 4 * self.width

    @property
    def pools_frames(self) -> bool:
        """Whether the tower has no [CLS] token, so that attention pooling fills the [CLS] row of every frame."""
        return self.type == "siglip2"


class TextConfig(Section):
    """The text tower; the defaults are RoBERTa-base (docs/method.md §2)."""

    type: Literal["roberta", "xlm_roberta"] = "roberta"
    """`roberta`, or `xlm_roberta`: the same layers with a vocabulary of 250,002 pieces for a hundred languages."""
    width: Positive = 768
    """Channels."""
    layers: Positive = 12
    """Transformer layers."""
    heads: Positive = 12
    """Attention heads."""
    vocab_size: Annotated[int, Field(ge=0)] = 0
    """Rows of the word embedding; 0 takes the tokenizer's size."""
    max_positions: Positive = 514
    """Rows of the position table, the offset `pad_id + 1` included."""
    layer_norm_eps: Epsilon = 1e-5
    """Epsilon of every LayerNorm of the encoder."""
    dropout: Probability = 0.1
    """Dropout of embeddings and sub-layer outputs."""
    attention_dropout: Probability | None = None
    """Dropout of attention weights; none is `dropout`, as published. 0 lets attention take kernels without dropout."""

    @property
    def dropout_of_attention(self) -> float:
        """Probability of dropping an attention weight."""
        return self.dropout if self.attention_dropout is None else self.attention_dropout


class FusionConfig(Section):
    """The two cross-modal streams (METHOD: fusion encoder)."""

    width: Positive = 768
    """Channels of both streams."""
    layers: Positive = 6
    """Layers per stream."""
    heads: Positive = 12
    """Attention heads."""
    mlp_ratio: Positive = 4
    """Inner width of the feed-forward network, as a multiple of the width."""
    layer_norm_eps: Epsilon = 1e-12
    """Epsilon of every LayerNorm of fusion and of the MLM head."""
    dropout: Probability = 0.1
    """Dropout of sub-layer outputs."""
    attention_dropout: Probability | None = None
    """Dropout of attention weights in self- and cross-attention; none is `dropout`, as published."""
    token_types: Annotated[int, Field(ge=2)] = 2
    """Rows of the token-type table: 0 text, 1 vision; NLVR2 adds a third."""

    @property
    def dropout_of_attention(self) -> float:
        """Probability of dropping an attention weight."""
        return self.dropout if self.attention_dropout is None else self.attention_dropout


class ModelConfig(Section):
    """Architecture; the defaults are the paper's base model."""

    vision: VisionConfig = VisionConfig()
    """Vision encoder."""
    text: TextConfig = TextConfig()
    """Text encoder."""
    fusion: FusionConfig = FusionConfig()
    """Fusion encoder."""
    projection: Positive = 512
    """Width of the contrastive projections."""
    initial_temperature: Annotated[float, Field(gt=0.0)] = 0.07
    """Start value of the learnable contrastive temperature."""
    min_temperature: Annotated[float, Field(gt=0.0)] = 0.01
    """Lowest contrastive temperature; CLIP's bound (arXiv 2103.00020, section 2.5: logits scaled by 100 at most). A
    higher one keeps a model of little data from being sure of what it has learned by heart."""
    init_std: Annotated[float, Field(gt=0.0)] = 0.02
    """Standard deviation of new weights."""
    init_from: MayChange[str | None] = None
    """Weights to start from: a folder or file that `sclds convert` wrote; none starts from random weights."""
