"""Records of a public data set into shards, by several processes, resumable, with a report at the end.

Records are cut into shards in the order of the annotations, before anything is dropped, so the result does not depend
on the number of processes. A shard whose account lies beside it is finished and is not written again.
"""

import json
import multiprocessing
import os
from collections import Counter, deque
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np

from sclds.config.errors import DataError
from sclds.data.prepare.expected import found
from sclds.data.prepare.progress import counting
from sclds.data.prepare.records import Dropped, Record
from sclds.data.prepare.shard_job import ACCOUNTS, Account, ShardJob, load_account, text_hash, write_json, write_one
from sclds.data.prepare.sources import Source
from sclds.data.prepare.workers import start_worker
from sclds.run.files import replacing

REPORT, DROPPED = "report.json", "dropped.jsonl"


def prepare(
    name: str,
    source: Source,
    root: Path,
    out: Path,
    split: str,
    workers: int,
    shard_samples: int,
    options: Mapping[str, int] | None = None,
) -> Any:
    """Prepare one split.

    Args:
        name: Of the data set.
        source: Reads it.
        root: Folder of the owner's files.
        out: Folder for the shards of this split.
        split: One of the source's.
        workers: Processes.
        shard_samples: Entries of the annotations that go into one shard.
        options: What the user says about the files, of the source's own options.

    Returns:
        The report, as written to report.json.

    Raises:
        DataError: The annotations cannot be read, the folder holds shards of something else, or nothing was kept.
    """
    records = source.read(root, split, **(options or {}))
    _claim(out)
    items = _without_repeats(root, _within(root, records.items))
    jobs = _jobs(items, out, source, shard_samples)
    accounts = []
    try:
        with counting(f"{name} {split}", records.count) as advance:
            for account in _finished(jobs, workers):
                accounts.append(account)
                advance(account.kept + len(account.dropped))
    except BrokenProcessPool as fault:
        raise DataError(
            "a process that wrote shards was killed, perhaps for want of memory: finished shards are kept, so start "
            "again, with fewer --workers"
        ) from fault
    except OSError as fault:
        raise DataError(f"{out}: a shard cannot be written ({fault.strerror}); finished shards are kept") from fault
    report = _report(name, split, accounts) | {"notes": list(records.notes)}
    expected = source.expected.get(records.variant or split)
    if expected is not None:
        report["expected"] = found(report["samples"]["kept"], expected)
    _write_dropped(out / DROPPED, accounts)
    write_json(out / REPORT, report)
    if not report["samples"]["kept"]:
        first = report["first_dropped"]
        most = list(report["dropped"].items())[:3]
        reasons = "; ".join(f"{reason}: {count}, the first {first[reason]}" for reason, count in most)
        why = "; ".join(filter(None, (reasons or "the list is empty", *records.notes)))
        raise DataError(f"no sample of {name} {split} can be used ({why}): see {out / DROPPED}")
    return report


def _claim(out: Path) -> None:
    """Make the folder of a split, or see that it is one."""
    if any(out.glob("*.tar")) and not (out / ACCOUNTS).is_dir():
        raise DataError(f"{out} holds .tar files that `sclds prepare` did not write: give another --out")
    (out / ACCOUNTS).mkdir(parents=True, exist_ok=True)


def _within(root: Path, items: Iterator[Record | Dropped]) -> Iterator[Record | Dropped]:
    """Drop what a list names outside of its folder: others' shards would hold this machine's files."""
    top = Path(os.path.normpath(root))
    for item in items:
        if isinstance(item, Record):
            outside = [file for _, file in item.files if not Path(os.path.normpath(file)).is_relative_to(top)]
            if outside:
                yield Dropped(item.key, outside[0], f"its file lies outside of {root}", item.place)
                continue
        yield item


def _without_repeats(root: Path, items: Iterator[Record | Dropped]) -> Iterator[Record | Dropped]:
    """Drop what is listed twice; of two files whose keys only come out alike, the later one gets a key of its own."""
    files: dict[int, int] = {}  # by key, both as hashes, which take less memory
    for item in items:
        if isinstance(item, Record):
            file = text_hash("\0".join(os.path.relpath(path, root) for _, path in item.files))
            if files.get(text_hash(item.key), file) != file:
                item = replace(item, key=f"{item.key}-{file:016x}")
            key = text_hash(item.key)
            if key in files:
                yield Dropped(item.key, item.files[0][1], "its key repeats that of an earlier sample", item.place)
                continue
            files[key] = file
        yield item


def _jobs(items: Iterator[Record | Dropped], out: Path, source: Source, shard_samples: int) -> Iterator[ShardJob]:
    number = 0
    while chunk := tuple(islice(items, shard_samples)):
        yield ShardJob(number, out, source.kind, source.member, chunk)
        number += 1


def _finished(jobs: Iterator[ShardJob], workers: int) -> Iterator[Account]:
    """Yield the account of every job in order; jobs that an earlier run finished are not done again."""
    if workers == 1:
        for job in jobs:
            yield _earlier(job) or write_one(job)
        return
    context = multiprocessing.get_context("spawn")  # a fork would copy the progress display's locks
    pool = ProcessPoolExecutor(workers, mp_context=context, initializer=start_worker)
    ahead: deque[Callable[[], Account]] = deque()
    try:
        for job in jobs:
            ahead.append(_started(pool, job))
            if len(ahead) > 2 * workers:
                yield ahead.popleft()()
        while ahead:
            yield ahead.popleft()()
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


def _started(pool: ProcessPoolExecutor, job: ShardJob) -> Callable[[], Account]:
    account = _earlier(job)
    if account is not None:
        found = account
        return lambda: found
    future: Future[Account] = pool.submit(write_one, job)
    return future.result


def _earlier(job: ShardJob) -> Account | None:
    """Return the account of an earlier run, or None if this shard is still to be written.

    Raises:
        DataError: There is a shard made from something else.
    """
    try:
        account = load_account(job.account)
    except FileNotFoundError:
        return None
    except (OSError, ValueError, KeyError, TypeError):
        account = Account("unreadable")
    if account.fingerprint != job.fingerprint():
        raise DataError(
            f"{job.folder} holds shards that were made from other annotations, from other paths or with another "
            f"--shard-samples: give another --out, or remove that folder"
        )
    if account.kept and (not job.shard.exists() or job.shard.stat().st_size != account.size):
        return None
    return account


def _write_dropped(path: Path, accounts: list[Account]) -> None:
    """Name every entry without a sample, a JSON line each."""
    with replacing(path) as out:
        for number, account in enumerate(accounts):
            for entry in account.dropped:
                line = {"sample": entry.key, "file": entry.file, "reason": entry.reason, "shard": number}
                line |= {"entry": entry.place} if entry.place else {}
                out.write(json.dumps(line).encode() + b"\n")


def _report(name: str, split: str, accounts: list[Account]) -> dict[str, Any]:
    reasons: Counter[str] = Counter()
    first: dict[str, str] = {}
    for entry in (entry for account in accounts for entry in account.dropped):
        reasons[entry.reason] += 1
        first.setdefault(entry.reason, entry.place or entry.file)
    words: Counter[int] = sum((account.words for account in accounts), Counter())
    left_out: Counter[str] = sum((account.left_out for account in accounts), Counter())
    kept, dropped = sum(a.kept for a in accounts), sum(reasons.values())
    return {
        "data_set": name,
        "split": split,
        "shards": sum(a.size > 0 for a in accounts),
        "bytes": sum(a.size for a in accounts),
        "samples": {"read": kept + dropped, "kept": kept, "dropped": dropped},
        "dropped": _by_count(reasons),
        "first_dropped": dict(sorted(first.items())),
        "left_out": _by_count(left_out),
        "texts": {"count": words.total(), "words": quantiles(words)},
        "duplicates": {
            "media": _repeats([a.media for a in accounts]),
            "texts": _repeats([a.texts for a in accounts]),
        },
    }


def _by_count(reasons: Counter[str]) -> dict[str, int]:
    return dict(sorted(reasons.items(), key=lambda pair: (-pair[1], pair[0])))


def quantiles(lengths: Counter[int]) -> dict[str, float]:
    """Return mean, least, median, 95th percentile and most of counted lengths; nothing for none."""
    if not lengths:
        return {}
    values = np.array(sorted(lengths))
    upto = np.cumsum([lengths[int(v)] for v in values])
    total = int(upto[-1])
    at = {name: int(values[np.searchsorted(upto, share * total)]) for name, share in (("median", 0.5), ("p95", 0.95))}
    mean = sum(length * count for length, count in lengths.items()) / total
    return {"mean": round(mean, 2), "min": int(values[0]), **at, "max": int(values[-1])}


def _repeats(hashes: list[Any]) -> int:
    """Return how many of all are the same as an earlier one."""
    everything = np.concatenate(hashes) if hashes else np.empty(0, np.uint64)
    return len(everything) - len(np.unique(everything))


def finished_shards(out: Path) -> int:
    """Return how many shards of a split are complete."""
    return sum(1 for _ in (out / ACCOUNTS).glob("*.json"))
