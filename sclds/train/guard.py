"""What keeps a run from going on with a broken model: skipped steps are counted, broken states are not saved."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from sclds.config.errors import SharedError

CLIENT_STATE = "sclds_skips"
"""Where DeepSpeed's checkpoints keep what a guard knows."""


class SkipGuard:
    """Counts the steps that changed nothing because their gradient was not finite, over all starts of a run.

    Args:
        most_in_a_row: Such steps on end that end the run.
        say: Is told of every one.
    """

    def __init__(self, most_in_a_row: int, say: Callable[[str], None]):
        self._most, self._say = most_in_a_row, say
        self.total = self.in_a_row = 0

    def count(self, step: int, applied: bool) -> None:
        """Count and tell step number `step` if it changed nothing."""
        if applied:
            self.in_a_row = 0
            return
        self.total += 1
        self.in_a_row += 1
        self._say(
            f"Step {step} is skipped: its gradient is not finite ({self.in_a_row} in a row, {self.total} in this run)"
        )

    def stop_if_stuck(self, step: int) -> None:
        """End the run where too many steps on end changed nothing; call it when the last one is written down.

        Raises:
            SharedError: On every rank, since all skip alike.
        """
        if self.in_a_row >= self._most:
            raise SharedError(
                f"Training stopped at step {step}: {self.in_a_row} steps in a row had a gradient that is not finite "
                f"(optimizer.max_skipped_in_a_row={self._most}). Start over in another run_dir with a lower "
                f"optimizer.learning_rate or a longer schedule.warmup_share; the same command goes on from the last "
                f"checkpoint"
            )

    def state(self) -> dict[str, Any]:
        """Return what a checkpoint keeps."""
        return {CLIENT_STATE: {"total": self.total, "in_a_row": self.in_a_row}}

    def resume(self, saved: dict[str, Any]) -> None:
        """Go on counting from what a checkpoint kept; older ones kept nothing."""
        counts = saved.get(CLIENT_STATE, {})
        self.total, self.in_a_row = counts.get("total", 0), counts.get("in_a_row", 0)


def state_is_finite(engine: Any) -> bool:
    """Return whether this rank's fp32 weights and its part of the optimizer's state are all finite."""
    optimizer = engine.optimizer
    inner = getattr(optimizer, "optimizer", optimizer)
    # stage 3 has its fp32 weights in neither the model nor the groups
    weights = getattr(optimizer, "fp32_partitioned_groups_flat", None) or [
        parameter for group in inner.param_groups for parameter in group["params"]
    ]
    state = [value for of_one in inner.state.values() for value in of_one.values() if isinstance(value, Tensor)]
    return all(_is_finite(tensor.detach()) for tensor in (*weights, *state) if tensor.numel())


def _is_finite(values: Tensor) -> bool:
    """Return whether all values are finite: their sum tells, and where it is too large for its type, their extremes."""
    if torch.isfinite(values.sum()):
        return True
    return bool(torch.isfinite(torch.stack(torch.aminmax(values))).all())  # a NaN is both


def broken_state(step: int) -> str:
    """Return the sentence of a state that is worth no checkpoint."""
    return (
        f"the weights or the optimizer's state after step {step} are not finite, so that no checkpoint of them is "
        f"written and the ones before are kept. Start over in another run_dir with a lower optimizer.learning_rate "
        f"or a larger optimizer.eps; the same command goes on from the last checkpoint"
    )
