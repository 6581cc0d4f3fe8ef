"""What the page of `sclds explore` shows: plain data, which `sclds.interop.explore` computes."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from torch import Tensor

from sclds.evaluation.completion import Completion, Gallery


@dataclass(frozen=True)
class Example:
    """One sample that is shown; F frames of g x g patches."""

    number: int
    """Among the samples of its kind."""
    frames: Tensor
    """(F, 3, g·p, g·p) float in [0, 1], as the model sees it."""
    hidden: Tensor
    """(F, g, g) bool, patches that the masked view does not show."""
    words: tuple[str, ...]
    """Of the caption, as white space parts them."""
    attention: Tensor
    """(1 + words, F, g, g) attention to every patch, of the text [CLS] and of each word; with the frame [CLS] a row
    sums to 1."""
    masked: tuple[tuple[str, bool], ...]
    """Pieces of the caption, spaces included, and whether the masked caption hides them."""


@dataclass(frozen=True)
class ExploredKind:
    """The held-out samples of one kind."""

    kind: str
    """`image` or `video`."""
    sample_ids: Sequence[str]
    captions: Sequence[str]
    wrong: Sequence[int]
    """Number of the sample whose caption, image or video is the wrong one; -1 where there is none."""
    vision: Mapping[Gallery, Completion]
    """Of masked images or videos, recovered with a caption."""
    text: Mapping[Gallery, Completion]
    """Of masked captions, recovered with an image or video."""
    examples: Sequence[Example]


@dataclass(frozen=True)
class Explored:
    """What one page shows."""

    name: str
    """Of the model."""
    source: str
    """Where the weights come from, as a clause."""
    vision_ratio: float
    """Share of the patches that the masked view drops."""
    text_ratio: float
    """Draws of hidden tokens as a share of a caption's."""
    untrained: Sequence[str]
    """Objectives of completion that the run did not train; empty where that is not known."""
    unusable: int
    """Samples that cannot be used and are left out."""
    kinds: Sequence[ExploredKind]
