"""RandAugment, drawn by key in Python and computed by DALI: nothing is drawn inside the pipeline.

Each of `data.randaugment_operations` rounds applies one operation, all at `data.randaugment_magnitude`; those that go
two ways (rotate left or right, brighten or darken) draw a sign. A video's frames all get the same.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sclds.config import MAGNITUDES, DataConfig

TRANSLATE_SHARE = 100 / 224  # of the side, at the largest magnitude; the 100 pixels of the paper's images
OPERATIONS = (
    "identity",
    "auto_contrast",
    "equalize",
    "rotate",
    "solarize",
    "color",
    "posterize",
    "contrast",
    "brightness",
    "sharpness",
    "shear_x",
    "shear_y",
    "translate_x",
    "translate_y",
)
"""By number as they are drawn; the set of the paper (arXiv 1909.13719)."""


@dataclass(frozen=True)
class Augmentation:
    """What RandAugment does to one sample."""

    operations: NDArray[np.int32]
    """(N,) numbers in `OPERATIONS`, in the order in which they are applied."""
    negated: NDArray[np.int32]
    """(N,) 1 where a magnitude that has a sign is negative."""


NOTHING = Augmentation(np.empty(0, np.int32), np.empty(0, np.int32))


def draw_augmentation(data: DataConfig, rng: np.random.Generator) -> Augmentation:
    """Draw `data.randaugment_operations` operations, with repeats, and their signs.

    Args:
        data: How many.
        rng: Generator keyed to this sample and epoch.
    """
    count = data.randaugment_operations
    return Augmentation(
        rng.integers(len(OPERATIONS), size=count, dtype=np.int32), rng.integers(2, size=count, dtype=np.int32)
    )


def filled(augmentation: Augmentation, data: DataConfig) -> Augmentation:
    """Return an augmentation of `data.randaugment_operations` rounds, the missing ones the identity."""
    missing = np.zeros(data.randaugment_operations - len(augmentation.operations), np.int32)
    return Augmentation(
        np.concatenate((augmentation.operations, missing)), np.concatenate((augmentation.negated, missing))
    )


def augmented(pixels: Any, operations: Any, negated: Any, data: DataConfig, size: int) -> Any:
    """Extend a DALI pipeline (with conditionals) by RandAugment.

    Args:
        pixels: (F, size, size, 3) or (size, size, 3) uint8 per sample.
        operations: (N,) int32 per sample, as `Augmentation`.
        negated: (N,) int32 per sample.
        data: Rounds and magnitude.
        size: Side of a frame.
    """
    from nvidia.dali.auto_aug.core import select, signed_bin

    magnitude = signed_bin(data.randaugment_magnitude, random_sign=negated)
    for turn in range(data.randaugment_operations):
        pixels = select(
            _suite(size),
            operations[turn],
            data=pixels,
            magnitude_bin=magnitude[turn],
            num_magnitude_bins=MAGNITUDES + 1,
        )
    return pixels


def _suite(size: int) -> list[Any]:
    """Return DALI's operations in the order of `OPERATIONS`, with RandAugment's ranges."""
    import nvidia.dali.fn
    from nvidia.dali.auto_aug import augmentations
    from nvidia.dali.auto_aug.core import augmentation
    from nvidia.dali.auto_aug.rand_augment import get_rand_augment_suite

    fn: Any = nvidia.dali.fn

    # DALI's own two still call operators by names that it has deprecated
    @augmentation
    def equalize(pixels: Any, _: Any) -> Any:
        return fn.equalize(pixels)

    @augmentation(
        mag_range=(0, 0.9), randomly_negate=True, mag_to_param=augmentations.sharpness_kernel, param_device="auto"
    )
    def sharpness(pixels: Any, kernel: Any) -> Any:
        return fn.filter(pixels, kernel)

    suite = {a.name: a for a in get_rand_augment_suite(max_translate_abs=round(TRANSLATE_SHARE * size))}
    suite |= {a.name: a for a in (equalize, sharpness)}
    return [suite[name] for name in OPERATIONS]
