"""Says so when training waits for its data."""

from collections import deque

STEPS = 50
"""Steps over which the share is taken: a slow start or one slow shard is no reason to speak."""
SHARE = 0.1
"""Share of the time above which somebody should know."""


class DataWait:
    """Watches how long steps wait for data; speaks once each time that it becomes too long."""

    def __init__(self) -> None:
        self._steps: deque[tuple[float, float]] = deque(maxlen=STEPS)
        self._spoken = False

    def add(self, waited: float, total: float) -> str | None:
        """Count one step.

        Args:
            waited: Seconds until every rank had its data.
            total: Seconds of the whole step.

        Returns:
            A sentence for the user, or nothing.
        """
        self._steps.append((waited, total))
        if len(self._steps) < STEPS:
            return None
        share = sum(step[0] for step in self._steps) / sum(step[1] for step in self._steps)
        speaking = share > SHARE and not self._spoken
        self._spoken = share > SHARE
        if not speaking:
            return None
        return (
            f"Training waits for data: {share:.0%} of the last {STEPS} steps' time. Raise data.decode_threads where "
            f"cores are idle, or decode on the GPU (data.device=mixed); `sclds benchmark data` measures the pace here"
        )
