"""Which part of a picture is seen: a rectangle that DALI scales to the output, drawn from an explicit generator."""

import math
from dataclasses import dataclass

import numpy as np

from sclds.config import DataConfig

_ASPECT = (3 / 4, 4 / 3)  # of the crop, as random resized crops have it since Inception
_ATTEMPTS = 10


@dataclass(frozen=True, slots=True)
class Window:
    """A rectangle in shares of the picture; what lies outside of it repeats its edge, swapped sides mirror it."""

    top: float = 0.0
    left: float = 0.0
    bottom: float = 1.0
    right: float = 1.0


WHOLE = Window()
"""A plain resize."""


def training_window(data: DataConfig, size: int, width: int, height: int, rng: np.random.Generator) -> Window:
    """Draw the window of one sample by `data.augmentation`; a clip uses it for all frames.

    Args:
        data: Kind and range of the augmentation.
        size: Side of the output in pixels.
        width: Of the encoded picture, in pixels.
        height: Of the encoded picture, in pixels.
        rng: Generator keyed to this sample and epoch.
    """
    if data.augmentation == "random_resized_crop":
        window = _crop(data.crop_area, width, height, rng)
    elif data.augmentation == "shift":
        down, right = (rng.integers(-data.shift_pixels, data.shift_pixels + 1, size=2) / size).tolist()
        window = Window(-down, -right, 1 - down, 1 - right)
    else:
        window = WHOLE
    if data.flip and rng.random() < 0.5:
        window = Window(window.top, window.right, window.bottom, window.left)
    return window


def _crop(area: tuple[float, float], width: int, height: int, rng: np.random.Generator) -> Window:
    """Draw area and aspect until the crop fits; else take the middle, with the nearest aspect allowed."""
    for _ in range(_ATTEMPTS):
        pixels = rng.uniform(*area) * width * height
        aspect = math.exp(rng.uniform(math.log(_ASPECT[0]), math.log(_ASPECT[1])))
        wide, high = math.sqrt(pixels * aspect) / width, math.sqrt(pixels / aspect) / height
        if 0 < wide <= 1 and 0 < high <= 1:
            top, left = rng.uniform(0, 1 - high), rng.uniform(0, 1 - wide)
            return Window(top, left, top + high, left + wide)
    aspect = min(max(width / height, _ASPECT[0]), _ASPECT[1])
    wide, high = min(1.0, height * aspect / width), min(1.0, width / aspect / height)
    return Window((1 - high) / 2, (1 - wide) / 2, (1 + high) / 2, (1 + wide) / 2)
