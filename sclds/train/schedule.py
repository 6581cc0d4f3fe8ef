"""Learning-rate schedule: linear warm-up, linear decay to zero."""

from sclds.config import ScheduleConfig


def learning_rate_factor(step: int, schedule: ScheduleConfig) -> float:
    """Return the share of the peak rate at which optimizer step `step` (counted from 0) runs.

    The factor rises from 0 at step 0 to 1 at the end of the warm-up, and falls to 0 at `schedule.steps`.
    """
    warmup = schedule.warmup_share * schedule.steps
    if step < warmup:
        return step / warmup
    return max(0.0, (schedule.steps - step) / max(1.0, schedule.steps - warmup))
