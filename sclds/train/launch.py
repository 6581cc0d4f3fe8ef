"""Run `sclds train` as a user would, through the `deepspeed` launcher, and wait for its end."""

import os
import signal
import socket
import subprocess
import sys
from functools import partial
from pathlib import Path

import torch

from sclds.config.errors import UserError
from sclds.run.processes import end_with_parent

_END = 2000
"""Characters of the end of an output that an error shows."""
TRAIN = "sclds.cli.train"
"""What the launcher starts, by name: a string, since commands lie above this room."""


def pretrain_command(config: str | Path, overrides: list[str], processes: int) -> list[str]:
    """Return the command that trains `config` on `processes` processes of this machine, on a port that is free now."""
    return module_command(TRAIN, ["--config", str(config), *overrides], processes)


def module_command(module: str, arguments: list[str], processes: int) -> list[str]:
    """Return the command that starts a module in `processes` processes of this machine, on a port that is free now."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    return [
        *(sys.executable, "-m", "sclds.train.runner"),
        *("--quiet", "--num_gpus", str(processes), "--master_port", str(port)),
        *("--module", module, *arguments),
    ]


def launcher_environment(processes: int) -> dict[str, str]:
    """Return the launcher's environment: the CPU where there are too few devices for every process."""
    binaries = Path(sys.executable).parent
    environment = os.environ | {"PATH": f"{binaries}{os.pathsep}{os.environ.get('PATH', '')}"}
    if torch.cuda.device_count() < processes:
        environment |= {"DS_ACCELERATOR": "cpu", "CUDA_VISIBLE_DEVICES": ""}
        environment.setdefault("OMP_NUM_THREADS", "1")
    return environment


def pretrain(
    name: str, config: str | Path, overrides: list[str], processes: int, time_limit: float | None = None
) -> None:
    """Train to the end.

    Args:
        name: What errors call this run.
        config: YAML file, or the name of a shipped configuration.
        overrides: `key=value` settings over it.
        processes: Of this machine.
        time_limit: Seconds after which the run is given up.

    Raises:
        UserError: If the run fails or takes too long; the message carries the end of its output.
    """
    finish(name, pretrain_command(config, overrides, processes), processes, time_limit)


def finish(name: str, command: list[str], processes: int, time_limit: float | None = None) -> None:
    """Run a launcher's command to its end.

    Args:
        name: What errors call it.
        command: Of `module_command`.
        processes: That it starts.
        time_limit: Seconds after which it is given up.

    Raises:
        UserError: If it fails or takes too long; the message carries the end of its output.
    """
    environment = launcher_environment(processes)
    try:
        done = subprocess.run(
            command,
            env=environment,
            capture_output=True,
            timeout=time_limit,
            encoding="utf-8",
            errors="replace",
            preexec_fn=partial(end_with_parent, signal.SIGTERM),
        )
    except subprocess.TimeoutExpired as fault:
        raise UserError(f"{name} did not end within {time_limit} s; give fewer or smaller steps") from fault
    if done.returncode:
        raise UserError(f"{name} ended with exit code {done.returncode}:\n{_end_of(done.stdout + done.stderr)}")


def _end_of(output: str) -> str:
    """Return the last characters of an output, behind the errors that it told of before: stacks may follow on those."""
    end = output[-_END:]
    errors = [line for line in output[:-_END].splitlines() if line.startswith("error: ")]
    return "\n".join([*dict.fromkeys(errors), end])
