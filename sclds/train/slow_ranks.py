"""Says so when a rank, or a host, is slower than the others: all of them wait for it in every step."""

from collections import Counter

from sclds.train.measures import RankTimes

LINES = 2
"""Lines of the metrics on end in which a rank must be slow: one alone is a hiccup, or the first step."""


class SlowRanks:
    """Watches the ranks' times; speaks once each time that another host becomes the slowest.

    Args:
        times: Of the middle rank's time, above which a rank is slow (`log.slow_rank`).
    """

    def __init__(self, times: float):
        self._limit = times
        self._slow: dict[int, int] = {}
        self._told: set[int] = set()

    def add(self, ranks: RankTimes) -> str | None:
        """Take the times of one line.

        Args:
            ranks: Work without waits, so that a rank for which the others wait stands out, and not they.

        Returns:
            A sentence for the user, or nothing.
        """
        seconds, limit = ranks.seconds, self._limit * ranks.median
        slow = {rank for rank, one in enumerate(seconds) if one > limit}
        self._slow = {rank: self._slow.get(rank, 0) + 1 for rank in slow}
        lasting = {rank for rank, lines in self._slow.items() if lines >= LINES}
        new = lasting - self._told
        self._told = (self._told & slow) | lasting
        return self._sentence(ranks, lasting) if new else None

    def _sentence(self, ranks: RankTimes, slow: set[int]) -> str:
        worst = max(slow, key=lambda rank: ranks.seconds[rank])
        host = ranks.hosts[worst]
        there = Counter(ranks.hosts)[host]
        of_host = sum(ranks.hosts[rank] == host for rank in slow)
        others = len(slow) - of_host
        which = f"all {there} ranks of host {host}" if 1 < there == of_host else f"rank {worst} on host {host}"
        more = f", and {others} ranks of other hosts" if others else ""
        return (
            f"Slow: {which}{more}: {ranks.seconds[worst]:.3g} s of work a step where the middle rank needs "
            f"{ranks.median:.3g} s ({ranks.seconds[worst] / ranks.median:.2f} times; log.slow_rank={self._limit:g}), "
            f"most of it in {ranks.phase_of(worst)}. All other ranks wait for it in every step"
        )
