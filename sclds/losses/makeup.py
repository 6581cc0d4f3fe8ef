"""What a batch is made up of, as far as the levels of its objectives depend on it."""

from sclds.batch import Batch
from sclds.objectives.levels import Makeup, grouped_level


def makeup_of(batch: Batch, most_frames: int) -> Makeup:
    """Return the counts of a batch.

    Args:
        batch: On any device; the counts are known on the host.
        most_frames: Of any sample of the run, so that the counts of several batches have one shape.
    """
    frames = batch.samples.frames
    return Makeup(
        completed=batch.counts.completed,
        replaced=batch.counts.replaced,
        replaced_level=sum(grouped_level(replaced) for replaced in batch.counts.replaced_per_group),
        with_frames=tuple(float(frames.count(number)) for number in range(1, most_frames + 1)),
    )
