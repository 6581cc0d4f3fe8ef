"""Vision-language pre-training with Semantic Completion Learning under DeepSpeed ZeRO-3."""

from os import PathLike
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from sclds.interop.loaded import LoadedModel

__version__ = "0.1.0"


def load(path: "str | PathLike[str]", device: str = "cpu") -> "LoadedModel":
    """Load a model for use: features of texts, images and videos, and how well they match.

    Args:
        path: A run folder, one checkpoint of it, a folder that `sclds convert` wrote, or an exported folder.
        device: Where it computes, such as `cpu` or `cuda`.

    Raises:
        UserError: The path is none of these, or damaged; the sentence says what it is and what to do.
    """
    from pathlib import Path

    from sclds.interop.conversions import read_model
    from sclds.interop.loaded import LoadedModel

    return LoadedModel(read_model(Path(path), answers=True), device)
