"""What every vision tower is: a class built from `model.vision`, which brings its parameter group and its FLOPs."""

from collections.abc import Sequence
from typing import ClassVar

from torch import Tensor, nn

from sclds.batch import VisionViews
from sclds.config import VisionConfig
from sclds.model.groups import ParameterGroup


class VisionTower(nn.Module):
    """All vision views of a micro-batch in one call.

    A tower has an `embedding`, `blocks`, and a final `norm`.
    """

    parameter_group: ClassVar[ParameterGroup] = "encoders"
    activation: ClassVar[str]
    """What `model.vision.activation` is where it is not set."""
    dropped_blocks: ClassVar[int] = 0
    """Blocks at the end of released weights that the method leaves out."""

    def __init__(self, config: VisionConfig, recompute: bool):
        super().__init__()

    def forward(self, views: VisionViews) -> Tensor:
        """Return (N, C) tokens in the packed order of `views.source`, a [CLS] at the head of every frame."""
        raise NotImplementedError

    @classmethod
    def flops(cls, config: VisionConfig, frames: int, patches: int, views: Sequence[int]) -> int:
        """Return the forward FLOPs of one sample.

        Args:
            config: Sizes.
            frames: Frames of the sample.
            patches: Patches of a frame, all of which are embedded once.
            views: Patches per frame that each view shows.
        """
        raise NotImplementedError
