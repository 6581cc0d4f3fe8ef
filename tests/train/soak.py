"""Random faults on small real runs for as long as you like: `python -m tests.train.soak --minutes 60` (`make soak`).

Every run ends as the one that nobody touched: equal losses at every step, so that no sample was lost or seen twice, and
equal weights bit for bit; after every fault no process and no shared memory is left. Stops at the first difference.
"""

import argparse
import contextlib
import os
import random
import resource
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

import torch

from sclds.config.overrides import replaced
from sclds.run.checkpoints import complete_checkpoints, newest_checkpoint
from sclds.run.folder import RunFolder
from sclds.run.metrics import read_metrics
from sclds.run.processes import process
from sclds.train.consolidate import consolidated_weights
from sclds.train.launch import launcher_environment, pretrain, pretrain_command
from tests.train.test_killed_run import CONFIG, SETTINGS

PROCESSES = 2
LIMIT = 900
WITHOUT_MEASUREMENTS = ("data.heldout=[]", "checkpoint.keep=3", "schedule.steps=24")
STOPPED = "limits.step=20"
"""Ends a run one of whose ranks is stopped."""


class Soak:
    """Faults on runs in a folder, drawn from a seed."""

    def __init__(self, folder, seed):
        self.folder, self.draw = folder, random.Random(seed)
        self.done = Counter()
        self.shared_memory = shared_memory()
        self.job = None

    def settings(self, name):
        return replaced(SETTINGS, [*WITHOUT_MEASUREMENTS, f"run_dir={self.folder / name}"])

    def start(self, *settings, most_bytes=None):
        """Start the run in the background; no file may grow beyond `most_bytes`, as on a full disk."""
        limit = None if most_bytes is None else lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (most_bytes,) * 2)
        with (self.folder / "log").open("ab") as log:
            self.job = subprocess.Popen(
                pretrain_command(CONFIG, [*self.settings("run"), *settings], PROCESSES),
                env=launcher_environment(PROCESSES),
                stdout=log,
                stderr=log,
                start_new_session=True,
                preexec_fn=limit,
            )

    def workers(self):
        """Return the numbers of the processes that train in this run."""
        word = f"run_dir={self.folder / 'run'}"
        found = [one for name in os.listdir("/proc") if name.isdigit() and (one := process(int(name)))]
        return sorted(
            one.number for one in found if word in one.command and any("--local_rank" in a for a in one.command)
        )

    def until_step(self, step):
        """Wait until a step is logged, or the run is over; return whether it still runs."""
        metrics, end = RunFolder(self.folder / "run").metrics, time.monotonic() + LIMIT
        while step not in [line["step"] for line in read_metrics(metrics)] and self.job.poll() is None:
            assert time.monotonic() < end, f"step {step} does not come"
            time.sleep(0.05)
        return self.job.poll() is None

    def until_gone(self):
        """Wait for the launcher, its workers and their shared memory to be gone."""
        end = time.monotonic() + LIMIT
        self.job.wait(LIMIT)
        while self.workers() or shared_memory() - self.shared_memory:
            assert time.monotonic() < end, f"left: {self.workers()}, {shared_memory() - self.shared_memory}"
            time.sleep(0.2)

    def fault(self, kind, last):
        """Bring a fault upon the run while it goes through its steps; return whether it still had some to go."""
        first = newest_checkpoint(self.folder / "run" / "checkpoints")
        done = first.step if first else 0
        if done >= last:
            return False
        step = self.draw.randint(done + 1, last)
        self.start(STOPPED, **({"most_bytes": 20_000} if kind == "full disk" else {}))
        running = self.until_step(step)
        if running and kind != "full disk":
            getattr(self, f"_{kind.replace(' ', '_')}")()
        self.until_gone()
        self.done[kind] += 1
        return True

    def _signal(self, number, signum):
        with contextlib.suppress(ProcessLookupError):
            os.kill(number, signum)

    def _killed_rank(self):
        self._signal(self.draw.choice(self.workers() or [self.job.pid]), signal.SIGKILL)

    def _killed_launcher(self):
        self._signal(self.job.pid, signal.SIGKILL)

    def _killed_all(self):
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.job.pid, signal.SIGKILL)

    def _stopped_rank(self):
        self._signal(self.draw.choice(self.workers() or [self.job.pid]), signal.SIGSTOP)

    def _told_to_stop(self):
        for worker in self.workers():
            self._signal(worker, signal.SIGTERM)

    def _damaged(self, change):
        self._killed_all()
        self.job.wait()
        found = complete_checkpoints(self.folder / "run" / "checkpoints")
        if len(found) > 1:  # one stays sound, as the run ends where none is
            files = sorted(file for file in found[0].folder.rglob("*") if file.is_file() and file.stat().st_size)
            change(self.draw.choice(files))

    def _flipped_bit(self):
        def flip(file):
            content = bytearray(file.read_bytes())
            content[self.draw.randrange(len(content))] ^= 1 << self.draw.randrange(8)
            file.write_bytes(content)

        self._damaged(flip)

    def _cut_file(self):
        self._damaged(lambda file: os.truncate(file, self.draw.randrange(file.stat().st_size)))

    def _missing_file(self):
        self._damaged(Path.unlink)

    def _cut_metrics(self):
        self._killed_all()
        self.job.wait()
        metrics = RunFolder(self.folder / "run").metrics
        os.truncate(metrics, max(0, metrics.stat().st_size - self.draw.randrange(1, 200)))


KINDS = (
    *("killed rank", "killed launcher", "killed all", "stopped rank", "told to stop"),
    *("flipped bit", "cut file", "missing file", "cut metrics", "full disk"),
)


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
    with tempfile.TemporaryDirectory() as place:
        soak = Soak(Path(place), given.seed)
        pretrain("untouched", CONFIG, soak.settings("untouched"), PROCESSES, LIMIT)
        last = read_metrics(RunFolder(soak.folder / "untouched").metrics)[-1]["step"]
        runs = 0
        while time.monotonic() < end and soak.done.total() < given.faults:
            for _ in range(soak.draw.randint(2, 5)):
                kind = soak.draw.choice(KINDS)
                if not soak.fault(kind, last - 1) or time.monotonic() > end:
                    break
                print(f"{time.strftime('%H:%M:%S')} {soak.done.total():4} {kind}", flush=True)
            pretrain("the run", CONFIG, soak.settings("run"), PROCESSES, LIMIT)
            told = differences(soak.folder / "run", soak.folder / "untouched")
            if told:
                print(f"differs: {told[:10]}; {soak.folder} is kept", flush=True)
                shutil.copytree(soak.folder, f"{place}-kept")
                return 1
            runs += 1
            print(f"{time.strftime('%H:%M:%S')} run {runs} equals the untouched one", flush=True)
            shutil.rmtree(soak.folder / "run")
        print(f"{soak.done.total()} faults in {runs} runs, no difference: {dict(soak.done)}", flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
