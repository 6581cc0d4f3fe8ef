"""Losses that leave their band: the run goes back to a checkpoint before, and leaves out the batches that led there.

This is the practice of PaLM (Chowdhery et al. 2022, §5.1: "we re-started training from a checkpoint roughly 100 steps
before the spike started, and skipped roughly 200-500 data batches"), without a person. What a run computes stays a
function of its settings and the windows left out: they are in every checkpoint, and `data.skip_batches` repeats them.
"""

import statistics
from collections import Counter, deque
from dataclasses import dataclass
from typing import Any

from sclds.config import GuardsConfig
from sclds.config.errors import SharedError
from sclds.data.skips import batch_of_step, same_until

CLIENT_STATE = "sclds_spikes"
"""Where DeepSpeed's checkpoints keep what the guard knows."""
MOST_RETURNS = 3
"""Times that a run goes back to the same checkpoint before it gives up."""
_NORMAL = 1.4826
"""Standard deviations of a normal distribution in a median absolute deviation."""
_LEAST_SPREAD = 0.005
"""Of the median: a loss that hardly moves would otherwise leave its band by rounding."""


@dataclass(frozen=True)
class Spike:
    """A loss out of its band."""

    step: int
    """Optimizer steps done when it was read."""
    last_good: int
    """The same of the value before it."""
    value: float
    median: float
    bound: float

    def sentence(self) -> str:
        """Return what is to be said of it."""
        return (
            f"The loss is {self.value:.4g} at step {self.step}, above {self.bound:.4g}; the median of those before it "
            f"is {self.median:.4g}"
        )


class SpikeGuard:
    """Follows the total loss at logged steps, and knows which batches are left out.

    Args:
        guards: Its settings.
        log_every: Optimizer steps between the values that are judged; others that are logged are not.
        skipped: `data.skip_batches`.
    """

    def __init__(self, guards: GuardsConfig, log_every: int, skipped: list[tuple[int, int]]):
        self._deviations, self._skip = guards.spike_deviations, guards.spike_skip
        self._every, self._given = log_every, list(skipped)
        self._values: deque[float] = deque(maxlen=guards.spike_window)
        self._last_good = 0
        self._returns: Counter[int] = Counter()
        self.windows: list[tuple[int, int]] = []
        """What this guard left out, as `(first batch, batches)`."""

    def judge(self, step: int, line: dict[str, Any] | None) -> Spike | None:
        """Take the loss of a logged step in; return the spike that it is, if it is one.

        A value that is not finite is left to the guard of skipped steps. Nothing is judged before half of the window is
        full.
        """
        if not self._deviations or line is None or step % self._every:
            return None
        value = line["loss"].get("total")
        if value is None or not -float("inf") < value < float("inf"):
            return None
        if 2 * len(self._values) >= (self._values.maxlen or 0):
            median = statistics.median(self._values)
            spread = _NORMAL * statistics.median(abs(one - median) for one in self._values)
            bound = median + self._deviations * max(spread, _LEAST_SPREAD * abs(median))
            if value > bound:
                return Spike(step, self._last_good, value, median, bound)
        self._values.append(value)
        self._last_good = step
        return None

    def leave_out(self, spike: Spike, step: int) -> tuple[int, int]:
        """Return the window that is left out from now on, where the run goes back to the checkpoint of `step`.

        It begins with the checkpoint's next batch and holds at least those up to the spike.

        Raises:
            SharedError: On every rank: the run went back to this checkpoint too often.
        """
        self._returns[step] += 1
        if self._returns[step] > MOST_RETURNS:
            raise SharedError(
                f"Training stopped: {spike.sentence()}. {MOST_RETURNS} windows of batches after the checkpoint of step "
                f"{step} were left out (guards.spike_skip={self._skip}), and it left its band again. Start over with a "
                f"lower optimizer.learning_rate, or raise guards.spike_deviations={self._deviations:g}"
            )
        window = (batch_of_step(step, self.all_windows), max(self._skip, spike.step - step))
        self.windows.append(window)
        return window

    def settled(self, step: int, before: list[tuple[int, int]]) -> str | None:
        """Return what is to be said where a run goes on at `step` with other windows in its settings than `before`.

        Raises:
            SharedError: On every rank: steps that are done would have read other batches.
        """
        then = [(first, count) for first, count in before]
        if then == self._given:
            return None
        told, now = [list(window) for window in then], [list(window) for window in self._given]
        following = batch_of_step(step, [*then, *self.windows])
        if not same_until(step, [*then, *self.windows], self.all_windows):
            raise SharedError(
                f"data.skip_batches={now} differs from {told} in batches that the {step} steps so far have come to: "
                f"some would be read twice, or never. Only windows from batch {following} on may change; set it back, "
                f"or start over with another run_dir"
            )
        return (
            f"data.skip_batches is {now} from here on, and was {told}: step {step} reads batch "
            f"{batch_of_step(step, self.all_windows)}"
        )

    @property
    def all_windows(self) -> list[tuple[int, int]]:
        """What no step reads: by the settings and by this guard."""
        return [*self._given, *self.windows]

    def state(self) -> dict[str, Any]:
        """Return what a checkpoint keeps."""
        windows = [list(window) for window in self.windows]
        return {CLIENT_STATE: {"values": list(self._values), "last_good": self._last_good, "windows": windows}}

    def resume(self, saved: dict[str, Any], keep_windows: bool = False) -> None:
        """Go on from what a checkpoint kept; older ones kept nothing.

        Args:
            saved: The checkpoint's client state.
            keep_windows: Whether the windows of now stay, as where a run goes back.
        """
        kept = saved.get(CLIENT_STATE, {})
        self._values = deque(kept.get("values", ()), maxlen=self._values.maxlen)
        self._last_good = kept.get("last_good", 0)
        if not keep_windows:
            self.windows = [(first, count) for first, count in kept.get("windows", ())]
