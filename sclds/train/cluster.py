"""A run on the hosts of a file: settings checked and written once, then DeepSpeed's runner with words for any shell.

DeepSpeed's runner hands a command to remote shells without quotes, so what a host reads there may be another text than
was given: `{00000..00331}` is its last part, `$(…)` is executed. Here settings travel as a file in the run folder.
"""

import os
import re
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

from sclds.batch.split import split_batch
from sclds.config import Config
from sclds.config.errors import ConfigError, UserError
from sclds.config.reading import dump_config
from sclds.run.files import write_atomically
from sclds.train.hostfile import chosen_hosts, is_here, missing_tools, read_hostfile, unknown_hosts
from sclds.train.launch import TRAIN
from sclds.train.launcher import STOP_SECONDS
from sclds.train.startup import checked_start
from sclds.train.supervise import Restarts, Supervisor

_SAFE_PATH = re.compile(r"[A-Za-z0-9_./=-]+")
_SAFE_VALUE = re.compile(r"[A-Za-z0-9_@+=:,./-]*")
_EXPORTED = ("PYTHON", "NCCL", "UCX", "MV2", "MLFLOW")
"""How the names begin that DeepSpeed's runner exports unasked, in double quotes."""
_EXPANDED = re.compile(r'[$`"\\\n]')
"""What a shell changes inside double quotes."""
SETTINGS_FILE = "launch.yaml"
ENVIRONMENT_FILE = "launch.env"
HOSTS_FILE = "launch.hosts"
"""Those that are left, where a run goes on with fewer."""
_ALWAYS = ("DS_ACCELERATOR",)
"""Variables that every host gets if they are set, since they decide what runs there."""


@dataclass(frozen=True)
class Hosts:
    """Where a run is launched, and how.

    Args:
        hostfile: DeepSpeed's, a line a host.
        launcher: What reaches the hosts.
        include: DeepSpeed's choice of hosts and slots; empty for all.
        exclude: DeepSpeed's choice of those that are left out.
        master_addr: Address of the first host; empty asks DeepSpeed to find it.
        master_port: Port on it, at which the processes meet.
        launcher_args: Further words for pdsh or mpirun.
    """

    hostfile: Path
    launcher: str = "pdsh"
    include: str = ""
    exclude: str = ""
    master_addr: str = ""
    master_port: int = 29500
    launcher_args: str = ""


def launch(
    path: str, overrides: list[str], hosts: Hosts, say: Callable[[str], None], restarts: Restarts | None = None
) -> int:
    """Start a run on all hosts and return its exit code; unless it may be restarted, this process becomes the runner.

    Args:
        path: The configuration.
        overrides: Settings over those of the file.
        hosts: Where to run.
        say: Gets a sentence that does not keep the run from starting.
        restarts: How often, and on how few hosts; None: never.

    Raises:
        ConfigError: With a sentence for everything that stands in the way; nothing was started or written.
        UserError: The run folder cannot be written.
    """
    slots, config = _checked(path, overrides, hosts)
    for host in unknown_hosts(list(slots)):
        say(f"note: {host} is not known to this host's resolver; ssh has to know it by its own configuration")
    folder = Path(config.run_dir).absolute()
    try:
        write_atomically(folder / SETTINGS_FILE, dump_config(config))
        _write_environment(folder, config, hosts, next(iter(slots)))
    except OSError as fault:
        raise UserError(f"run_dir={folder} cannot be written ({fault.strerror}); name another folder") from fault
    say(f"Starting {sum(slots.values())} processes on {', '.join(slots)}; settings are in {folder / SETTINGS_FILE}")
    sys.stdout.flush()
    environment = os.environ | {"DS_ENV_FILE": str(folder / ENVIRONMENT_FILE)} | _limits(config)
    if restarts is not None:
        return _supervised(config, hosts, slots, restarts, environment, say)
    command = runner_command(hosts, slots, folder / SETTINGS_FILE)
    os.execve(command[0], command, environment)  # signals reach the runner itself


def _supervised(
    config: Config,
    hosts: Hosts,
    slots: dict[str, int],
    restarts: Restarts,
    environment: dict[str, str],
    say: Callable[[str], None],
) -> int:
    """Run, and run again after a fault; return the last exit code."""
    folder = Path(config.run_dir).absolute()

    def start(on: dict[str, int]) -> "subprocess.Popen[bytes]":
        which = hosts if on == slots else _fewer(hosts, on, next(iter(slots)), folder)
        _write_environment(folder, config, which, next(iter(on)))
        return subprocess.Popen(runner_command(which, on, folder / SETTINGS_FILE), env=environment)

    def fits(processes: int) -> bool:
        try:
            return bool(split_batch(config.batch, processes))
        except ConfigError:
            return False

    return Supervisor(folder, slots, restarts, start, fits, say).run()


def _write_environment(folder: Path, config: Config, hosts: Hosts, first: str) -> None:
    # values may be secrets
    write_atomically(folder / ENVIRONMENT_FILE, _environment_text(config, hosts, first), private=True)


def _limits(config: Config) -> dict[str, str]:
    """Return what launchers are told of the run's limits."""
    return {STOP_SECONDS: f"{config.limits.step + config.limits.save:.0f}"}


def _fewer(hosts: Hosts, on: dict[str, int], first: str, folder: Path) -> Hosts:
    """Return where a run goes on with some of its hosts; the address of the first one goes with it."""
    hostfile = folder / HOSTS_FILE
    write_atomically(hostfile, "".join(f"{host} slots={count}\n" for host, count in on.items()))
    address = hosts.master_addr if first in on else ""
    return replace(hosts, hostfile=hostfile, include="", exclude="", master_addr=address)


def runner_command(hosts: Hosts, slots: dict[str, int], settings: Path) -> list[str]:
    """Return the command of DeepSpeed's runner, see `sclds.train.runner`.

    Args:
        hosts: Where to run.
        slots: Processes of each host that takes part.
        settings: The file that all of them read.
    """
    words = [sys.executable, "-m", "sclds.train.runner", str(settings.parent)]
    words += ["--hostfile", str(hosts.hostfile.absolute())]
    words += ["--launcher", hosts.launcher, "--master_port", str(hosts.master_port)]
    for name in ("include", "exclude", "launcher_args"):
        if getattr(hosts, name):
            words.append(f"--{name}={getattr(hosts, name)}")
    address = hosts.master_addr
    if _all_here(slots):
        words.append("--no_ssh_check")
        address = address or "127.0.0.1"
    elif len(slots) == 1:
        words.append("--force_multi")  # else the runner would start a single host's processes here
    if hosts.launcher == "openmpi":
        address = address or next(iter(slots)).rpartition("@")[2]
    words += ["--master_addr", address] if address else []
    return [*words, "--module", TRAIN, "--config", str(settings), "--hostfile-run"]


def _all_here(slots: dict[str, int]) -> bool:
    return len(slots) == 1 and is_here(next(iter(slots)))


def _checked(path: str, overrides: list[str], hosts: Hosts) -> tuple[dict[str, int], Config]:
    """Return the hosts and the settings, or raise with all that is wrong with either."""
    problems: list[str] = []
    slots: dict[str, int] = {}
    try:
        slots = chosen_hosts(read_hostfile(hosts.hostfile), hosts.include, hosts.exclude)
    except ConfigError as fault:
        problems += fault.problems
    if not _all_here(slots):
        problems += missing_tools(hosts.launcher)
    if hosts.launcher == "openmpi" and (hosts.include or hosts.exclude):
        problems.append("--launcher openmpi takes no --include or --exclude; give a hostfile of those hosts")
    trains = any(is_here(host) for host in slots)
    try:
        # without hosts the batch is held against one process, over which every batch divides
        config = checked_start(path, overrides, sum(slots.values()) or 1, bool(slots), trains).config
    except ConfigError as fault:
        raise ConfigError(problems + fault.problems) from fault
    problems += _words_problems(config)
    problems += _value_problems(config)
    problems += _own_environment()[1]
    if problems:
        raise ConfigError(problems)
    return slots, config


def _words_problems(config: Config) -> list[str]:
    """Return which paths on the remote command line a shell could change."""
    places = {
        "run_dir": str(Path(config.run_dir).absolute()),
        "the current folder": os.getcwd(),
        "Python": sys.executable,
    }
    return [
        f"{name} is {place}, which a remote shell may read as something else; of a path only letters, digits and "
        f". _ / = - reach every host unchanged"
        for name, place in places.items()
        if not _SAFE_PATH.fullmatch(place)
    ]


def _value_problems(config: Config) -> list[str]:
    """Return which variables a remote shell would change, ours and those that DeepSpeed exports by itself."""
    ours = [name for name in _handed_on(config) if not _SAFE_VALUE.fullmatch(os.environ[name])]
    deepspeeds = [n for n, value in os.environ.items() if n.startswith(_EXPORTED) and _EXPANDED.search(value)]
    return [
        f"environment variable {name} holds a character that a remote shell may change; only letters, digits and "
        f"@ + = : , . / - _ are handed on"
        for name in ours
    ] + [
        f"environment variable {name}, which DeepSpeed exports on every host, holds a quote, $, ` or backslash, which "
        f"a remote shell changes; unset it, or write it without"
        for name in deepspeeds
    ]


def _handed_on(config: Config) -> list[str]:
    return [name for name in dict.fromkeys((*config.engine.env, *_ALWAYS)) if name in os.environ]


def _own_environment() -> tuple[dict[str, str], list[str]]:
    """Return what the user's own .deepspeed_env files set, which DeepSpeed would read, and what is wrong with them."""
    name = os.environ.get("DS_ENV_FILE", ".deepspeed_env")
    found: dict[str, str] = {}
    problems = []
    for file in dict.fromkeys((Path.home() / name, Path.cwd() / name)):
        lines = file.read_text(encoding="utf-8", errors="replace").splitlines() if file.is_file() else []
        for number, line in enumerate(lines, 1):
            key, equals, value = line.partition("=")
            if not line.strip() or line.lstrip().startswith("#"):
                continue
            if not equals:
                problems.append(f"{file}, line {number}: expected NAME=VALUE, got '{line}'")
            found[key.strip()] = value.strip()
    return found, problems


def _environment_text(config: Config, hosts: Hosts, first: str) -> str:
    """Return what DeepSpeed exports on every host: the user's own file, then what the settings name."""
    values = _own_environment()[0] | {name: os.environ[name] for name in _handed_on(config)} | _limits(config)
    if hosts.launcher == "openmpi":  # the runner gives mpirun's tasks neither
        address = hosts.master_addr or first.rpartition("@")[2]
        values |= {"MASTER_ADDR": address, "MASTER_PORT": str(hosts.master_port)}
    return "".join(f"{name}={value}\n" for name, value in values.items())
