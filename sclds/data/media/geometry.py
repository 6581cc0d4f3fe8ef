"""Which part of an image is seen: whole pixels, drawn from an explicit generator, so the same on every device.

A window is a region, scaled to the output, then moved and mirrored there.
"""

import math
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from sclds.config import DataConfig

_ASPECT = (3 / 4, 4 / 3)  # of the crop, as random resized crops have it since Inception
_ATTEMPTS = 10


class Region(NamedTuple):
    """A rectangle in pixels of the image as shown."""

    top: int
    left: int
    height: int
    width: int


@dataclass(frozen=True, slots=True)
class Window:
    """What is seen of an image."""

    region: Region | None = None
    """The part that is scaled to the output; None is all of it."""
    down: int = 0
    """Pixels of the output by which the image is moved down; what comes in repeats the edge."""
    right: int = 0
    """Pixels of the output by which the image is moved to the right."""
    mirrored: bool = False
    """Left and right are exchanged, after the move."""


WHOLE = Window()
"""A plain resize."""


def training_window(data: DataConfig, width: int, height: int, rng: np.random.Generator) -> Window:
    """Draw the window of one sample by `data.augmentation`; a video uses it for all frames.

    Args:
        data: Kind and range of the augmentation.
        width: Of the encoded image, in pixels.
        height: Of the encoded image, in pixels.
        rng: Generator keyed to this sample and epoch.
    """
    region, down, right = None, 0, 0
    if data.augmentation == "random_resized_crop":
        region = _crop(data.crop_area, width, height, rng)
    elif data.augmentation == "shift":
        down, right = rng.integers(-data.shift_pixels, data.shift_pixels + 1, size=2).tolist()
    return Window(region, down, right, bool(data.flip and rng.random() < 0.5))


def _crop(area: tuple[float, float], width: int, height: int, rng: np.random.Generator) -> Region:
    """Draw area and aspect until the crop fits; else take the middle, with the nearest aspect allowed."""
    for _ in range(_ATTEMPTS):
        pixels = rng.uniform(*area) * width * height
        aspect = math.exp(rng.uniform(math.log(_ASPECT[0]), math.log(_ASPECT[1])))
        wide, high = round(math.sqrt(pixels * aspect)), round(math.sqrt(pixels / aspect))
        if 0 < wide <= width and 0 < high <= height:
            top, left = rng.integers(0, (height - high + 1, width - wide + 1)).tolist()
            return Region(top, left, high, wide)
    aspect = min(max(width / height, _ASPECT[0]), _ASPECT[1])
    wide, high = min(width, max(1, round(height * aspect))), min(height, max(1, round(width / aspect)))
    return Region((height - high) // 2, (width - wide) // 2, high, wide)
