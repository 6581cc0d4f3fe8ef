"""What can be known of the hosts of a run in seconds, before they build anything: clocks, disks, links, the run folder.

What keeps the run from being right is refused; what makes it slow, or its times hard to read, is said.
"""

import json
import shutil
import stat
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from sclds.config.errors import SharedError
from sclds.losses.communicator import gather_records
from sclds.run.lease import LEASE_FILE
from sclds.train.distributed import ProcessGroup
from sclds.train.place import this_place

CLOCK_TOLERANCE = 5.0
"""Seconds by which the clocks of hosts may differ; what the measurement itself takes lies far below."""
MESSAGE = 4 * 2**20
"""Bytes that two hosts exchange: 3 ms over 10 Gbit/s, 3 s over 10 Mbit/s."""
ROUNDS = 3
"""Neighbors on either side that a host exchanges with."""
SLOW_LINK = 100e6
"""Bytes/s of Gigabit Ethernet, below which a link is named."""
BEHIND = 4.0
"""Times by which a host's best link may be slower than that of the median host."""
BYTES_PER_PARAMETER = 16
"""Weights in bf16, and fp32 weights and two moments: what a checkpoint takes."""
_SEEN_WITHIN = 10.0
"""Seconds after which a network file system shows a file that another host wrote."""


def preflight(folder: Path, parameters: int, group: ProcessGroup, say: Callable[[str], None]) -> None:
    """Look at all hosts and their links; collective.

    Args:
        folder: The run folder, whose lease rank 0 holds.
        parameters: Of the model.
        group: All processes.
        say: Prints a sentence, on rank 0.

    Raises:
        SharedError: On every rank, with the hosts whose run folder is another one, or too full for a checkpoint.
    """
    place = this_place()
    group.barrier()
    clock = time.time()  # all leave the barrier within the time of a message
    lease = _seen_lease(folder, None) if group.rank == 0 else None
    lease = group.gather_objects(lease)[0]
    own: dict[str, Any] = {"host": place.host, "clock": clock, "first": place.local_rank == 0}
    if own["first"]:
        own |= {"lease": _seen_lease(folder, lease), "free": shutil.disk_usage(_existing(folder)).free}
    records = gather_records(own, group, group.device)
    hosts = [record for record in records if record["first"]]
    problems = folder_problems(hosts, folder, lease) + disk_problems(hosts, folder, parameters * BYTES_PER_PARAMETER)
    if problems:
        raise SharedError("; ".join(problems))
    for sentence in (*open_folder_sentences(folder), *clock_sentences(hosts)):
        say(sentence)
    ranks = [rank for rank, record in enumerate(records) if record["first"]]
    if len(ranks) > 1:
        for sentence in link_sentences(_link_speeds(ranks, [record["host"] for record in hosts], group)):
            say(sentence)


def folder_problems(hosts: Sequence[Mapping[str, Any]], folder: Path, lease: Any) -> list[str]:
    """Return a sentence for the hosts that do not see what rank 0, which holds `lease`, wrote into the run folder."""
    others = [host["host"] for host in hosts if host["lease"] != lease]
    return [
        f"{host} does not see what {hosts[0]['host']} wrote into {folder}: run_dir has to be one folder that all hosts "
        f"share"
        for host in others
    ]


def disk_problems(hosts: Sequence[Mapping[str, Any]], folder: Path, needed: int) -> list[str]:
    """Return a sentence for the hosts on which a checkpoint of `needed` bytes does not fit into the run folder."""
    return [
        f"{host['host']} has {host['free'] / 2**30:.2f} GiB free in {folder}, and a checkpoint takes about "
        f"{needed / 2**30:.2f} GiB; make room, or name another run_dir"
        for host in hosts
        if host["free"] < needed
    ]


def open_folder_sentences(folder: Path) -> list[str]:
    """Return a sentence if everybody may write into the run folder; what a run makes there is not open to all."""
    mode = stat.S_IMODE(_existing(folder).stat().st_mode)
    if not mode & stat.S_IWOTH:
        return []
    return [
        f"note: every user of this machine may write into {folder}, checkpoints of their own too: chmod o-w {folder}"
    ]


def clock_sentences(hosts: Sequence[Mapping[str, Any]]) -> list[str]:
    """Return a sentence for each host whose clock is not that of most; of two hosts, for the second."""
    usual = hosts[0]["clock"] if len(hosts) == 2 else statistics.median(host["clock"] for host in hosts)
    told = []
    for host in hosts:
        apart = host["clock"] - usual
        if abs(apart) > CLOCK_TOLERANCE:
            name, side = hosts[0]["host"] if len(hosts) == 2 else "most hosts", "ahead of" if apart > 0 else "behind"
            told.append(
                f"note: the clock of {host['host']} is {abs(apart):.0f} s {side} that of {name}: times of files and "
                f"messages there are off (chronyc tracking, timedatectl)"
            )
    return told


def link_sentences(speeds: Mapping[tuple[str, str], float]) -> list[str]:
    """Return a line on the links between hosts, and a note for each host that is far behind, or link that is slow.

    Args:
        speeds: Bytes/s of each pair of hosts that was measured.
    """
    best: dict[str, float] = {}
    for pair, speed in speeds.items():
        for host in pair:
            best[host] = max(best.get(host, 0.0), speed)
    slowest = min(speeds, key=speeds.__getitem__)
    usual = statistics.median(best.values())
    told = [
        f"Links        {len(best)} hosts; median {_rate(usual)}, slowest {_rate(speeds[slowest])} between "
        f"{slowest[0]} and {slowest[1]} (TCP, {MESSAGE >> 20} MiB)"
    ]
    behind = [host for host, speed in best.items() if speed * BEHIND < usual]
    told += [
        f"note: every link of {host} is slow: its best carries {_rate(best[host])}, where those of most hosts carry "
        f"{_rate(usual)}; look at its network card and cable"
        for host in behind
    ]
    rest = [pair for pair, speed in speeds.items() if speed < SLOW_LINK and not set(pair) & set(behind)]
    if rest:
        pair = min(rest, key=speeds.__getitem__)
        told.append(
            f"note: the link between {pair[0]} and {pair[1]} carries {_rate(speeds[pair])}, less than Gigabit "
            f"Ethernet; is it the interface that was meant (GLOO_SOCKET_IFNAME, NCCL_SOCKET_IFNAME)?"
        )
    return told


def _link_speeds(ranks: Sequence[int], hosts: Sequence[str], group: ProcessGroup) -> dict[tuple[str, str], float]:
    """Return the bytes/s that each host's first rank receives from its next neighbors in a ring; collective."""
    own: list[tuple[str, str, float]] = []
    count = len(ranks)
    for shift in range(1, min(ROUNDS, count // 2) + 1):
        group.barrier()  # so that nobody's time is spent waiting for another round
        if group.rank in ranks:
            here = ranks.index(group.rank)
            after, before = (here + shift) % count, (here - shift) % count
            seconds = group.exchange(ranks[after], ranks[before], MESSAGE)
            own.append((hosts[before], hosts[here], MESSAGE / seconds))
    return {(a, b): speed for links in gather_records(own, group, group.device) for a, b, speed in links}


def _seen_lease(folder: Path, expected: Any) -> Any:
    """Return who holds the run folder, as this host sees it; waits a while for the one that is expected."""
    end = time.monotonic() + _SEEN_WITHIN
    while True:
        try:
            list(folder.iterdir())  # has a network file system look again
            found = json.loads((folder / LEASE_FILE).read_text(encoding="utf-8"))
            found = [found.get("host"), found.get("process")]
        except (OSError, ValueError, AttributeError):
            found = None
        if expected is None or found == expected or time.monotonic() > end:
            return found
        time.sleep(0.2)


def _existing(folder: Path) -> Path:
    return folder if folder.exists() else _existing(folder.parent)


def _rate(speed: float) -> str:
    return f"{speed / 1e6:.{0 if speed > 20e6 else 1}f} MB/s"
