"""Micro-batch and accumulation out of one global batch size and the number of processes."""

from dataclasses import dataclass

from sclds.config import BatchConfig
from sclds.config.errors import ConfigError


@dataclass(frozen=True)
class Split:
    """How one global batch is cut: `micro` samples a process and pass, `accumulation` passes an optimizer step."""

    micro: int
    accumulation: int
    world_size: int


def split_batch(batch: BatchConfig, world_size: int) -> Split:
    """Return the largest micro-batch that `batch` allows on `world_size` processes.

    Raises:
        ConfigError: No whole number of groups per process gives the global batch; the message names what would.
    """
    micro = _largest_micro(batch.global_size, batch.max_micro_size, batch.group_size, world_size)
    if micro is None:
        raise ConfigError([_impossible(batch, world_size)])
    return Split(micro, batch.global_size // (micro * world_size), world_size)


def _largest_micro(global_size: int, max_micro: int, group: int, world_size: int) -> int | None:
    """Return the largest multiple of `group` up to `max_micro` that divides every process's part, or none."""
    if global_size % world_size:
        return None
    part = global_size // world_size
    largest = min(max_micro, part) // group * group
    return next((micro for micro in range(largest, 0, -group) if part % micro == 0), None)


def _impossible(batch: BatchConfig, world_size: int) -> str:
    """Return the sentence that says why there is no split, and which settings have one."""
    groups = batch.global_size // batch.group_size
    worlds = [
        w
        for w in range(1, groups + 1)
        if _largest_micro(batch.global_size, batch.max_micro_size, batch.group_size, w) is not None
    ]
    near = sorted(sorted(worlds, key=lambda w: abs(w - world_size))[:6])
    unit = batch.group_size * world_size
    sizes = sorted({max(1, batch.global_size // unit) * unit, (batch.global_size // unit + 1) * unit})
    return (
        f"batch.global_size={batch.global_size} cannot be split over {world_size} processes in micro-batches of at "
        f"most batch.max_micro_size={batch.max_micro_size} that are multiples of batch.group_size={batch.group_size}; "
        f"start {' or '.join(map(str, near))} processes, or set batch.global_size to {' or '.join(map(str, sizes))}"
    )
