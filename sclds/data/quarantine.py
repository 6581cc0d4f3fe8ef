"""Samples that cannot be used: counted, named, set aside; a run goes on until a configured share is bad."""

import json
import threading
from pathlib import Path

from sclds.errors import DataError

_SEEN_BEFORE_JUDGING = 200


class Quarantine:
    """Counts samples and appends one JSON line for each bad one. Safe for several threads and processes.

    Args:
        path: The file, only ever appended to; None only counts.
    """

    def __init__(self, path: Path | None = None):
        self._path = path
        self._lock = threading.Lock()
        self.seen = 0
        self.bad = 0

    def passed(self, count: int) -> None:
        """Count samples that were used."""
        with self._lock:
            self.seen += count

    def record(self, sample: str, shard: str, dataset: str, reason: str, step: int) -> None:
        """Set a sample aside.

        Args:
            sample: Its id.
            shard: Path or URL of its tar.
            dataset: Name of its data set.
            reason: What is wrong, as a clause about the sample.
            step: Optimiser step that wanted it; -1 for held-out samples.
        """
        line = json.dumps({"sample": sample, "shard": shard, "dataset": dataset, "reason": reason, "step": step})
        with self._lock:
            self.seen += 1
            self.bad += 1
            if self._path is not None:
                self._path.parent.mkdir(parents=True, exist_ok=True)
                with self._path.open("a", encoding="utf-8") as file:
                    file.write(line + "\n")

    def check(self, max_bad_share: float) -> None:
        """Stop the run if too many samples are bad, judged from 200 samples on.

        Raises:
            DataError: More than `max_bad_share` of the samples read are bad.
        """
        with self._lock:
            seen, bad = self.seen, self.bad
        if seen < _SEEN_BEFORE_JUDGING or bad <= max_bad_share * seen:
            return
        where = f"they are named in {self._path}" if self._path else "no file was given to name them in"
        raise DataError(
            f"{bad} of the {seen} samples read are unusable, more than data.max_bad_share={max_bad_share:g}: {where}. "
            f"Mend the shards, or raise data.max_bad_share."
        )
