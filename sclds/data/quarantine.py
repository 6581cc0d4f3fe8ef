"""Samples that cannot be used: counted, named, set aside; a run goes on until a configured share is bad.

`quarantine.jsonl` is a record for people and never an input: what is used is judged anew from the bytes each time, so a
shard that has been mended is read again by the next start. A sample stands there once for each reason, whichever
process met it first, in whichever epoch, before or after a restart.
"""

import contextlib
import fcntl
import json
import threading
from pathlib import Path
from typing import Any, BinaryIO

from sclds.config.errors import DataError
from sclds.data.storage.disk import MachineFaultError
from sclds.run.files import free_space, remedy

_SEEN_BEFORE_JUDGING = 200


class Quarantine:
    """Counts samples and appends one JSON line for each bad one. Safe for several threads and processes.

    Args:
        path: The file, only ever appended to; None only counts.
    """

    def __init__(self, path: Path | None = None):
        self._path = path
        self._lock = threading.Lock()
        self._named: set[tuple[str, str]] = set()
        self._known_bytes = 0
        self._last = ""
        self.seen = 0
        self.bad = 0

    def __reduce__(self) -> tuple[type["Quarantine"], tuple[Path | None]]:
        """Let another process have one that writes into the same file and counts from 0."""
        return Quarantine, (self._path,)

    def count(self, seen: int, bad: int) -> None:
        """Count samples that were wanted, whether they could be used or not.

        Args:
            seen: How many; what stands in for a bad one is not counted, or one bad sample would weigh several times.
            bad: How many of them could not be used.
        """
        with self._lock:
            self.seen += seen
            self.bad += bad

    def record(self, sample: str, shard: str, dataset: str, reason: str, step: int) -> None:
        """Name a sample that is set aside, unless it was named before for the same reason.

        Args:
            sample: Its id.
            shard: Path or URL of its tar.
            dataset: Name of its data set.
            reason: What is wrong, as a clause about the sample.
            step: Optimizer step that wanted it; -1 for held-out samples.

        Raises:
            MachineFaultError: The file cannot be written.
        """
        entry = {"sample": sample, "shard": shard, "dataset": dataset, "reason": reason, "step": step}
        with self._lock:
            self._last = f"{sample} ({reason})"
            if (sample, reason) in self._named:
                return
            if self._path is None:
                self._named.add((sample, reason))
                return
            try:
                self._append(self._path, entry)
            except OSError as fault:
                raise MachineFaultError(
                    f"{self._path} cannot be written ({fault.strerror or fault}; {free_space(self._path.parent)}): "
                    f"{remedy(fault.errno)}"
                ) from fault

    def _append(self, path: Path, entry: dict[str, Any]) -> None:
        """Write a line, unless another process named that sample for that reason."""
        named = (entry["sample"], entry["reason"])
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("ab+") as file:
            with contextlib.suppress(OSError):  # some network disks cannot lock: there a line may stand twice
                fcntl.flock(file, fcntl.LOCK_EX)
            half = self._catch_up(file)
            if named not in self._named:
                text = json.dumps(entry, ensure_ascii=False)
                # one write, so that a kill leaves a whole line or none; what another kill left behind is closed
                file.write((b"\n" if half else b"") + text.encode("utf-8", "backslashreplace") + b"\n")
                self._named.add(named)

    def named(self) -> list[tuple[str, str]]:
        """Return sample and reason of all that this process knows to be set aside, by name."""
        with self._lock:
            return sorted(self._named)

    def _catch_up(self, file: BinaryIO) -> bool:
        """Learn what was named by others since the last look; return whether the file ends in half a line."""
        file.seek(self._known_bytes)
        news = file.read()
        whole = news[: news.rfind(b"\n") + 1]
        self._known_bytes += len(whole)
        self._named |= {(str(entry.get("sample")), str(entry.get("reason"))) for entry in _entries(whole)}
        return len(whole) < len(news)

    def check(self, max_bad_share: float) -> None:
        """Stop the run if too many samples are bad, judged from 200 samples on.

        Each process judges what it has read itself, by the order of its data and not by time: so it stops at the same
        step whenever it runs, and its fault stops the others at that step (`Run.train`).

        Raises:
            DataError: More than `max_bad_share` of the samples wanted are bad.
        """
        with self._lock:
            seen, bad, last = self.seen, self.bad, self._last
        if seen < _SEEN_BEFORE_JUDGING or bad <= max_bad_share * seen:
            return
        where = f"they are named in {self._path}" if self._path else "no file was given to name them in"
        raise DataError(
            f"{bad} of the {seen} samples read are unusable, more than data.max_bad_share={max_bad_share:g}: {where}"
            f"{f', the last one is {last}' if last else ''}. Mend the shards, or raise data.max_bad_share."
        )


def read_quarantine(path: Path) -> list[dict[str, Any]]:
    """Return the lines of a quarantine file; none if there is no file, and without what a kill cut short."""
    return _entries(path.read_bytes()) if path.is_file() else []


def _entries(content: bytes) -> list[dict[str, Any]]:
    entries = []
    for line in content.splitlines():
        with contextlib.suppress(ValueError):
            entry = json.loads(line)
            if isinstance(entry, dict):
                entries.append(entry)
    return entries
