"""Which rows hold frame f of the samples that have one, for comparisons frame number by frame number."""

import numpy as np
import torch

from sclds.batch.ragged import Ints, exclusive_sum
from sclds.batch.types import FrameRows


def frames_by_number(frames: Ints, most: int) -> tuple[FrameRows, ...]:
    """Return the rows of every frame number below `most` among the frames of all samples, one sample behind the other.

    Args:
        frames: (B,) frames of each sample, `most` at the largest.
        most: The most frames of a sample of the run, so that batches have as many entries whatever they hold.
    """
    first, found = exclusive_sum(frames), []
    for number in range(most):
        samples = np.flatnonzero(frames > number)
        arrays = (first[samples] + number, samples, frames[samples])
        found.append(FrameRows(*(torch.from_numpy(array.astype(np.int64)) for array in arrays)))
    return tuple(found)
