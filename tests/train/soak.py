"""Random faults on small real runs for as long as you like: `python -m tests.train.soak --minutes 60` (`make soak`).

Every run ends as the one of the same split that nobody touched: equal losses at every step, so that no sample was lost
or seen twice, and equal weights bit for bit; after every fault no process and no shared memory is left. Stops at the
first difference.

Processes are forks of this one, which has read all of the code and done nothing with it: that saves each start its
imports, and nothing else is spared. One launch in `REAL` goes through DeepSpeed's launcher all the same.
"""

import argparse
import contextlib
import json
import os
import random
import resource
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import traceback
from collections import Counter
from pathlib import Path

import torch

import sclds.data.loader
import sclds.evaluation.heldout
import sclds.report.run_page
import sclds.train.loop  # noqa: F401  # for all forks at once
from sclds.cli.train import main as train
from sclds.config.overrides import replaced
from sclds.run.checkpoints import complete_checkpoints, newest_checkpoint
from sclds.run.folder import RunFolder
from sclds.run.metrics import read_metrics
from sclds.train.consolidate import consolidated_weights
from sclds.train.launch import launcher_environment, pretrain_command
from tests.train.test_killed_run import CONFIG, SETTINGS

LIMIT = 600
INTERRUPTED = 130
STEPS = 12
REAL = 40
SLOW = ("stopped rank",)
"""Kinds that take the limit of a step until they show."""
SHORT = [
    *(
        "data.heldout=[]",
        "checkpoint.keep=3",
        "checkpoint.every=2",
        f"schedule.steps={STEPS}",
        "limits.step=20",
        "limits.start=120",
    ),
    *("batch.global_size=8", "batch.group_size=4", "batch.max_micro_size=4"),
]
ENDS = ("killed rank", "killed all", "told to stop", "interrupted", "killed writer", "full disk", *SLOW)
"""Kinds that end a start."""
DAMAGES = ("flipped bit", "cut file", "missing file", "foreign file", "cut metrics", "half a line", "damaged events")
"""Kinds that the next start finds."""
EXIT_CODES = {
    "told to stop": {0, -signal.SIGTERM},
    "interrupted": {0, INTERRUPTED},
    "full disk": {1, 2},
    "killed writer": {0, 1, 2, -signal.SIGKILL, -signal.SIGTERM},
}
"""What survivors may end with; 1, or SIGKILL, elsewhere. A signal may come before steps begin, or after their end."""


class Launch:
    """The processes of one start, and what they print.

    Args:
        folder: Of the run.
        processes: That train.
        log: Takes what they print.
        most_bytes: No file may grow beyond, as on a full disk.
        real: Whether DeepSpeed's launcher starts them.
    """

    def __init__(self, folder, processes, log, most_bytes=None, real=False):
        self.folder, self.real, self.codes, self.begun = folder, real, {}, time.time() - 0.001
        words = [*replaced(SETTINGS, SHORT), f"run_dir={folder}"]
        log.write_bytes(b"")  # what a start prints stays below the size that files may have
        if real:
            environment = launcher_environment(processes)
            with log.open("ab") as output:
                command = pretrain_command(CONFIG, words, processes)
                self.job = subprocess.Popen(
                    command, env=environment, stdout=output, stderr=output, start_new_session=True
                )
            self.sessions = [self.job.pid]
            return
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        meeting = {"WORLD_SIZE": processes, "LOCAL_WORLD_SIZE": processes, "MASTER_ADDR": "127.0.0.1"}
        self.sessions = [
            forked(words, log, meeting | {"MASTER_PORT": port, "RANK": rank, "LOCAL_RANK": rank}, most_bytes)
            for rank in range(processes)
        ]

    def running(self):
        """Return the processes of this start that are not over, the writers of checkpoints among them."""
        found = in_sessions(self.sessions)
        for pid in [] if self.real else self.sessions:
            if pid not in self.codes:
                ended, status = os.waitpid(pid, os.WNOHANG)
                if ended:
                    self.codes[pid] = os.waitstatus_to_exitcode(status)
        if self.real and (code := self.job.poll()) is not None:
            self.codes[self.job.pid] = code
        # one whose main thread is over may still have others, until which its parent cannot take its code
        return sorted({*found, *self.sessions} - set(self.codes))

    def workers(self):
        """Return those of them that train."""
        running = self.running()
        return [pid for pid in running if "--local_rank" in command(pid)] if self.real else self.own(running)

    def own(self, running):
        """Return those of some processes that were forked here."""
        return [pid for pid in running if pid in self.sessions]

    def writers(self):
        """Return those of them that write checkpoints."""
        return [pid for pid in self.running() if "sclds.run.writer" in command(pid)]

    def until_step(self, step):
        """Wait until a step is logged, or the run is over; return whether it still runs."""
        metrics, end = RunFolder(self.folder).metrics, time.monotonic() + LIMIT
        while self.running():
            if any(line["step"] >= step and line["time"] >= self.begun for line in read_metrics(metrics)):
                return True
            assert time.monotonic() < end, f"step {step} does not come"
            time.sleep(0.02)
        return False

    def until_gone(self):
        """Wait until no process of this start is left."""
        end = time.monotonic() + LIMIT
        while left := self.running():
            assert time.monotonic() < end, f"left: {[(pid, command(pid)) for pid in left]}"
            time.sleep(0.02)


def forked(words, log, variables, most_bytes):
    """Return a process that trains as `sclds train` does with some words."""
    sys.stdout.flush()
    pid = os.fork()
    if pid:
        return pid
    code = 99
    try:
        os.setsid()
        output = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        for stream in (1, 2):
            os.dup2(output, stream)
        os.environ.update({name: str(value) for name, value in variables.items()})
        if most_bytes is not None:
            resource.setrlimit(resource.RLIMIT_FSIZE, (most_bytes, most_bytes))
        code = train(["--config", str(CONFIG), *words])
    except KeyboardInterrupt:  # a second one, while the first one ends the process
        code = INTERRUPTED
    except BaseException:
        traceback.print_exc()
    finally:
        with contextlib.suppress(OSError, ValueError):
            sys.stdout.flush()
        os._exit(code)


def command(pid):
    """Return the words of a process, joined; empty if it is gone."""
    with contextlib.suppress(OSError):
        return Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode("utf-8", "replace")
    return ""


def in_sessions(sessions):
    """Return the processes of some sessions that are not dead."""
    found = []
    for name in filter(str.isdigit, os.listdir("/proc")):
        with contextlib.suppress(OSError, IndexError):
            state, _, _, session = Path(f"/proc/{name}/stat").read_text(encoding="utf-8").rpartition(")")[2].split()[:4]
            if int(session) in sessions and state != "Z":
                found.append(int(name))
    return found


class Soak:
    """Faults on runs in a folder, drawn from a seed."""

    def __init__(self, folder, seed):
        self.folder, self.draw = folder, random.Random(seed)
        self.done, self.launches = Counter(), Counter()
        self.shared_memory = shared_memory()
        self.run = folder / "run"

    def finish(self, name, processes):
        """Take a run to its end without a fault."""
        launch = Launch(self.folder / name, processes, self.folder / f"{name}.log")
        launch.until_gone()
        told = (self.folder / f"{name}.log").read_text(encoding="utf-8", errors="replace")[-3000:]
        assert set(launch.codes.values()) == {0}, f"{name} ended with {launch.codes}: {told}"

    def fault(self, processes):
        """Bring a start to an end, and damage what it left; return the kinds, none if the run has ended."""
        newest = newest_checkpoint(self.run / "checkpoints")
        done = newest.step if newest else 0
        if done > STEPS - 3:
            return []
        self.launches["all"] += 1
        real = self.launches["all"] % REAL == 0
        kinds = ENDS if self.draw.random() < 0.03 else tuple(kind for kind in ENDS if kind not in SLOW)
        kind = "killed launcher" if real else self.draw.choice(kinds)
        self.launches["by DeepSpeed's launcher"] += real
        most_bytes = 20_000 if kind == "full disk" else None
        launch = Launch(self.run, processes, self.folder / "run.log", most_bytes, real)
        running = launch.until_step(done + self.draw.randint(1, 4))
        time.sleep(self.draw.random() * 0.2)
        if running and kind != "full disk":
            getattr(self, f"_{kind.replace(' ', '_')}")(launch)
        launch.until_gone()
        self._check(kind, launch, running)
        damages = [self.draw.choice(DAMAGES) for _ in range(self.draw.randint(0, 4))]
        kinds = [kind, *[damage for damage in damages if getattr(self, f"_{damage.replace(' ', '_')}")()]]
        self.done.update(kinds)
        return kinds

    def _check(self, kind, launch, running):
        """Hold what survivors ended with to what it should be, and wait for shared memory to be gone."""
        allowed = EXIT_CODES.get(kind, {1, -signal.SIGKILL})
        codes = set(launch.codes.values())
        finished = newest_checkpoint(self.run / "checkpoints")
        if not running and finished and finished.step == STEPS:  # it was faster than the fault
            allowed = allowed | {0}
        assert launch.real or codes <= allowed, f"'{kind}': {codes}, not {allowed}: {self._said()}"
        end = time.monotonic() + LIMIT
        while left := shared_memory() - self.shared_memory:
            assert time.monotonic() < end, f"left: {left}"
            time.sleep(0.2)

    def _said(self):
        return (self.folder / "run.log").read_text(encoding="utf-8", errors="replace")[-2000:]

    def _killed_rank(self, launch):
        send(self.draw.choice(launch.workers() or [0]), signal.SIGKILL)

    def _killed_launcher(self, launch):
        send(launch.job.pid, signal.SIGKILL)

    def _killed_all(self, launch):
        for pid in launch.running():
            send(pid, signal.SIGKILL)

    def _stopped_rank(self, launch):
        stopped = self.draw.choice(launch.workers() or [0])
        send(stopped, signal.SIGSTOP)
        end = time.monotonic() + LIMIT
        while [pid for pid in launch.workers() if pid != stopped]:
            assert time.monotonic() < end, "nobody misses the rank that is stopped"
            time.sleep(0.1)
        send(stopped, signal.SIGKILL)  # as a person does, or the launcher

    def _told_to_stop(self, launch):
        for pid in launch.workers():
            send(pid, signal.SIGTERM)

    def _interrupted(self, launch):
        for pid in launch.workers() * 2:
            send(pid, signal.SIGINT)

    def _killed_writer(self, launch):
        send(self.draw.choice(launch.writers() or launch.workers() or [0]), signal.SIGKILL)
        time.sleep(self.draw.random())
        for pid in launch.workers():  # where nothing was being written, the run would go on
            send(pid, signal.SIGTERM)

    def _damaged(self, change):
        found = complete_checkpoints(self.run / "checkpoints")
        # one stays sound, as the run ends where none is; a finished one only says that its last is damaged
        if len(found) < 2 or found[0].step == STEPS:
            return False
        files = sorted(file for file in found[0].folder.rglob("*") if file.is_file() and file.stat().st_size)
        if not files:
            return False
        change(self.draw.choice(files))
        return True

    def _flipped_bit(self):
        def flip(file):
            content = bytearray(file.read_bytes())
            content[self.draw.randrange(len(content))] ^= 1 << self.draw.randrange(8)
            file.write_bytes(content)

        return self._damaged(flip)

    def _cut_file(self):
        return self._damaged(lambda file: os.truncate(file, self.draw.randrange(file.stat().st_size)))

    def _missing_file(self):
        return self._damaged(Path.unlink)

    def _foreign_file(self):
        return self._damaged(lambda file: file.write_bytes(self.draw.randbytes(self.draw.randrange(1, 5000))))

    def _cut_metrics(self):
        metrics = RunFolder(self.run).metrics
        if metrics.is_file():
            os.truncate(metrics, max(0, metrics.stat().st_size - self.draw.randrange(1, 200)))
        return metrics.is_file()

    def _half_a_line(self):
        if RunFolder(self.run).metrics.is_file():
            with RunFolder(self.run).metrics.open("a", encoding="utf-8") as file:
                file.write('{"step": 7, "lo')
        return RunFolder(self.run).metrics.is_file()

    def _damaged_events(self):
        files = [RunFolder(self.run).events, RunFolder(self.run).environment, RunFolder(self.run).quarantine]
        file = self.draw.choice([file for file in files if file.is_file()] or [self.run / "none"])
        if file.is_file():
            file.write_bytes(file.read_bytes()[: self.draw.randrange(1 + file.stat().st_size)] + self.draw.randbytes(9))
        return file.is_file()


def send(pid, number):
    """Send a signal to a process that may be gone."""
    if pid:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, number)


def shared_memory():
    """Return the shared memory of torch's processes by name."""
    return {name for name in os.listdir("/dev/shm") if name.startswith(("torch_", "sem.", "psm_"))}


def differences(run, untouched):
    """Return what differs between two finished runs."""
    told = []
    lines, wanted = (read_metrics(RunFolder(folder).metrics) for folder in (run, untouched))
    for name in ("step", "loss", "grad_norm"):
        # lines that a fault cut off are gone for good; those that are there have to be the same
        known = {line["step"]: line[name] for line in wanted}
        told += [f"{name} of step {line['step']}" for line in lines if line[name] != known[line["step"]]]
    weights, sound = (consolidated_weights(newest_checkpoint(f / "checkpoints").folder) for f in (run, untouched))
    return told + [name for name in sound if not torch.equal(weights[name], sound[name])]


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--minutes", type=float, default=60)
    parser.add_argument("--faults", type=int, default=500)
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    end = time.monotonic() + 60 * given.minutes
    with tempfile.TemporaryDirectory(prefix="soak-") as place:
        soak, equal = Soak(Path(place), given.seed), 0
        for processes in (1, 2):
            soak.finish(f"untouched-{processes}", processes)
        while time.monotonic() < end and soak.done.total() < given.faults:
            processes = 1 + (soak.draw.random() < 0.4)
            while time.monotonic() < end and (kinds := soak.fault(processes)):
                print(f"{time.strftime('%H:%M:%S')} {soak.done.total():4} {', '.join(kinds)}", flush=True)
            soak.finish("run", processes)
            if told := differences(soak.run, soak.folder / f"untouched-{processes}"):
                kept = shutil.copytree(soak.folder, f"{place}-kept")
                print(f"differs: {told[:10]}; {kept} is kept", flush=True)
                return 1
            equal += 1
            print(f"{time.strftime('%H:%M:%S')} run {equal}, {processes} processes: equal", flush=True)
            shutil.rmtree(soak.run)
        told = {"faults": dict(soak.done.most_common()), "launches": dict(soak.launches), "runs": equal}
        print(f"{soak.done.total()} faults, no difference: {json.dumps(told)}", flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
