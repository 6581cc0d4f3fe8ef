"""DeepSpeed's hostfile, a line a host: `worker-1 slots=8`; with every fault as a sentence, where DeepSpeed guesses."""

import re
import shutil
import socket
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from sclds.config.errors import ConfigError

_HOST = re.compile(r"(?:[A-Za-z0-9_][A-Za-z0-9_.-]*@)?[A-Za-z0-9_:][A-Za-z0-9_.:-]*")
_FORM = "a line is of the form `worker-1 slots=8`"
_TOOLS = {
    "pdsh": {"pdsh": "pdsh (apt-get install pdsh, dnf install pdsh)", "ssh": "an ssh client (openssh-client)"},
    "openmpi": {"ompi_info": "OpenMPI (openmpi-bin)", "mpirun": "OpenMPI (openmpi-bin)", "ssh": "an ssh client"},
}
"""What each launcher calls, and what brings it."""


def read_hostfile(path: Path) -> dict[str, int]:
    """Return the number of processes of each host, in the order of the file.

    Raises:
        ConfigError: With a sentence for every line that is wrong.
    """
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as fault:
        reason = fault.strerror if isinstance(fault, OSError) else "it is no text"
        raise ConfigError([f"hostfile {path} cannot be read ({reason}); {_FORM}"]) from fault
    hosts: dict[str, int] = {}
    first: dict[str, int] = {}
    problems = []
    for number, line in enumerate(lines, 1):
        words = line.partition("#")[0].split()
        if not words:
            continue
        problem = _line_problem(words)
        if problem is None and words[0] in hosts:
            problem = f"{words[0]} stands in line {first[words[0]]} already; give it once, with all its slots"
        if problem is not None:
            problems.append(f"{path}, line {number}: {problem}")
            continue
        hosts[words[0]], first[words[0]] = int(words[1].removeprefix("slots=")), number
    if not hosts and not problems:
        problems.append(f"hostfile {path} names no host; {_FORM}")
    if problems:
        raise ConfigError(problems)
    return hosts


def _line_problem(words: list[str]) -> str | None:
    if not _HOST.fullmatch(words[0]):
        return f"'{words[0]}' is not the name or address of a host; {_FORM}"
    if len(words) != 2 or not words[1].startswith("slots="):
        return f"expected the host's name and slots=, got '{' '.join(words)}'; {_FORM}"
    slots = words[1].removeprefix("slots=")
    if not (slots.isascii() and slots.isdecimal()) or not 0 < int(slots[:9]) <= 1024:
        return f"{words[1]} is not the number of the host's GPUs, 1 or more; leave a host out to use none"
    return None


def chosen_hosts(hosts: dict[str, int], include: str, exclude: str) -> dict[str, int]:
    """Return the processes of the hosts that DeepSpeed's --include and --exclude leave.

    Raises:
        ConfigError: The filter cannot be read, names no host or slot of the file, or leaves nothing.
    """
    if not include and not exclude:
        return hosts
    from deepspeed.launcher.runner import parse_inclusion_exclusion

    given = " ".join(f"{name} {text}" for name, text in (("--include", include), ("--exclude", exclude)) if text)
    form = "the form is worker-1@worker-2:0,2, one of --include and --exclude"
    try:
        left = parse_inclusion_exclusion(hosts, include, exclude)
    except ValueError as fault:
        raise ConfigError([f"{given}: {fault}; {form}"]) from fault
    if not left:
        raise ConfigError([f"{given} leaves no host of {', '.join(hosts)}; {form}"])
    return {host: len(slots) for host, slots in left.items()}


def is_here(host: str) -> bool:
    """Return whether a name of a hostfile is this host's own."""
    own = socket.gethostname()
    return host.rpartition("@")[2] in ("localhost", "127.0.0.1", "::1", own, own.partition(".")[0])


def missing_tools(launcher: str) -> list[str]:
    """Return a sentence for every program that a launcher calls and this host lacks."""
    return [
        f"--launcher {launcher} calls {program}, which is not on this host's PATH: install {package}"
        for program, package in _TOOLS[launcher].items()
        if shutil.which(program) is None
    ]


def unknown_hosts(hosts: list[str]) -> list[str]:
    """Return the hosts whose name this host cannot resolve; ssh may still know them by its own configuration."""

    def known(host: str) -> bool:
        try:
            return bool(socket.getaddrinfo(host.rpartition("@")[2], None))
        except OSError:
            return False

    with ThreadPoolExecutor(32) as pool:
        return [host for host, found in zip(hosts, pool.map(known, hosts), strict=True) if not found]
