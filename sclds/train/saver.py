"""Checkpoints written while the run goes on: an update waits for the copy into memory, another process for the disk.

DeepSpeed's own decoupled engine waits for the disk before the next optimizer step, does not notice that its process
died, and tells that every file is written where it is not; hence a checkpoint engine of our own in its place.
"""

import json
import re
import shutil
import socket
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sclds.config import CheckpointConfig, Config
from sclds.config.errors import CheckpointError, SharedCheckpointError
from sclds.config.reading import config_sha256
from sclds.machine.packages import installed_version
from sclds.run.checkpoints import (
    ENGINE_TAG,
    HAS_MANIFEST,
    STATE_FILE,
    TRAINED_ON,
    checkpoint_name,
    is_checkpoint_name,
    newest_checkpoint,
    step_of,
)
from sclds.run.files import free_space, remedy
from sclds.run.writer_process import WriterProcess
from sclds.train.copying import Copy, MemoryCheckpointEngine, UpdateAfterCopy
from sclds.train.distributed import ProcessGroup
from sclds.train.flat_blocks import layout_of
from sclds.train.guard import broken_state, state_is_finite
from sclds.train.task import trained_on

TOLD = 1.0
"""Seconds of waiting for the checkpoint before that a person is told of."""


@dataclass
class _Flight:
    """A checkpoint that is being written."""

    step: int
    partial: Path
    best: int | None
    broken: bool = False
    """This rank's part of the state is not finite, and not written."""
    completing: bool = False
    """Every rank's files are written; rank 0 makes a checkpoint of them."""


class CheckpointSaver:
    """Writes the checkpoints of a run, one at a time; all ranks call the same methods after the same steps.

    Args:
        engine: DeepSpeed's, which saves through this from now on.
        checkpoints: Folder of all checkpoints of the run.
        config: The run.
        group: All processes.
        say: Tells a person a sentence, on rank 0.
        saved: Called with the step of every checkpoint that is complete.
    """

    def __init__(
        self,
        engine: Any,
        checkpoints: Path,
        config: Config,
        group: ProcessGroup,
        say: Callable[[str], None] = lambda sentence: None,
        saved: Callable[[int], None] = lambda step: None,
    ):
        self._engine, self._checkpoints, self._config, self._group = engine, checkpoints, config, group
        self._say, self._saved = say, saved
        self._trained_on = trained_on(config) if group.rank == 0 else {}  # as it is now, and not at a later save
        self._memory = engine.checkpoint_engine = MemoryCheckpointEngine()
        self._copy: Copy | None = None
        self._writer = WriterProcess()
        self._flight: _Flight | None = None
        self.engine = UpdateAfterCopy(engine, self.finish_copy)
        """What steps are taken with."""

    def save(self, step: int, client_state: dict[str, Any] | None = None, best: int | None = None) -> None:
        """Have the engine's whole state after `step` optimizer steps written; it is copied until the next update.

        Where the one before is still being written, it is waited for, and that is said: memory holds one.

        Args:
            step: Optimizer steps done.
            client_state: Plain values that `load_checkpoint` returns.
            best: Step whose checkpoint is never removed, and named in the file `best` beside it.

        Raises:
            SharedCheckpointError: On every rank, if the checkpoint before could not be written.
        """
        if self._flight is not None:
            waited_for, begun = self._flight.step, time.perf_counter()
            self.wait()
            if (seconds := time.perf_counter() - begun) >= TOLD:
                self._say(
                    f"Step {step} waited {seconds:.1f} s for the checkpoint of step {waited_for}, which was still "
                    f"being written; a larger checkpoint.every avoids that"
                )
        partial = self._checkpoints / f"{checkpoint_name(step)}.tmp"
        self._memory.clear()
        self._agreed(self._emptied(partial), partial)
        try:
            self._engine.save_checkpoint(
                str(partial), tag=ENGINE_TAG, client_state=client_state or {}, save_latest=False
            )
        except OSError as fault:
            # other ranks wait in a barrier of DeepSpeed's, which they leave when this process ends
            raise CheckpointError(_sentence(partial, _told(str(fault), partial))) from fault
        self._copy = Copy(self._copied, self._group.device)
        self._flight = _Flight(step, partial, best)

    def finish_copy(self) -> None:
        """Wait until the state is copied, and have it written; nothing to do where it is.

        Raises:
            CheckpointError: On this rank, if it has no memory for the copy.
        """
        if self._copy is None:
            return
        copy, self._copy, flight = self._copy, None, self._flight
        assert flight is not None
        partial = flight.partial
        try:
            flight.broken = not copy.result()
        except OSError as fault:
            raise CheckpointError(_sentence(partial, _told(str(fault), partial))) from fault
        if flight.broken:
            return
        files = [(path.relative_to(partial).as_posix(), size) for path, size in self._memory.files]
        there = [path for path in partial.rglob("*") if path.is_file()] if self._group.rank == 0 else []
        # every rank's state is written by its own process; what else DeepSpeed leaves there is rank 0's
        others = [path.relative_to(partial).as_posix() for path in there if path.suffix != ".pt"]
        work = {"folder": str(partial), "files": files, "others": others}
        self._writer.start("write", work, self._memory.descriptors())

    def _copied(self) -> bool:
        """Copy the state, unless it is worth no checkpoint; return whether it is."""
        finite = state_is_finite(self._engine)
        if finite:
            self._memory.copy()
        return finite

    def poll(self) -> None:
        """Go on with the checkpoint that is being written, where all ranks have come to wait for it; never waits.

        Raises:
            SharedCheckpointError: On every rank, if weights or optimizer are not finite, or the checkpoint could not be
                written; the one before stands.
        """
        if self._flight is not None:
            if self._copy is not None and not self._copy.busy:
                self.finish_copy()
            [busy] = self._group.any(self._copy is not None or self._writer.busy())
            if not busy:
                self._advance(self._flight)

    def wait(self) -> None:
        """Wait until nothing is being written; see `poll`."""
        while self._flight is not None:
            self._advance(self._flight)

    def close(self) -> None:
        """Give up memory and process; what is being written stays half-written."""
        if self._copy is not None:  # or it would write into what is closed, and then another file
            self._copy.leave()
        self._writer.close()
        self._memory.close()

    def _advance(self, flight: _Flight) -> None:
        """Take what the processes answer, and have rank 0's complete the checkpoint, or be done with it."""
        self.finish_copy()
        result, fault = self._writer.answer()
        if not flight.completing:
            self._refuse_broken(flight)
        try:
            told = self._agreed(fault, flight.partial, result)
        except SharedCheckpointError:
            self._flight = None
            raise
        if flight.completing:
            self._flight = None
            self._saved(flight.step)
            return
        flight.completing = True
        if self._group.rank == 0:
            records = {name: record for of_rank in told for name, record in of_rank.items()}
            self._writer.start("complete", self._completion(flight, records))

    def _refuse_broken(self, flight: _Flight) -> None:
        """End the run on every rank where the state is not finite on any, and remove what the others wrote."""
        [broken] = self._group.any(flight.broken)
        if broken:
            self._flight = None
            if self._group.rank == 0:
                shutil.rmtree(flight.partial, ignore_errors=True)
            raise SharedCheckpointError(broken_state(flight.step))

    def _completion(self, flight: _Flight, records: dict[str, Any]) -> dict[str, Any]:
        config = self._config
        state = {
            "step": flight.step,
            "world_size": self._group.world_size,
            "config": config.model_dump(mode="json"),
            "layout": layout_of(self._engine.module),
            HAS_MANIFEST: True,
            TRAINED_ON: self._trained_on,
        }
        facts = {
            "step": flight.step,
            "samples": flight.step * config.batch.global_size,
            "config_sha256": config_sha256(config),
            "versions": {name: installed_version(name) or "unknown" for name in ("sclds", "torch", "deepspeed")},
        }
        return {
            "partial": str(flight.partial),
            "records": records,
            "state": (STATE_FILE, json.dumps(state)),
            "facts": facts,
            "best": None if flight.best is None else checkpoint_name(flight.best),
            "remove": superfluous(self._checkpoints, flight.step, config.checkpoint, flight.best),
        }

    def _emptied(self, partial: Path) -> str | None:
        """Make an empty folder, on rank 0; return what is in the way."""
        if self._group.rank == 0:
            try:
                shutil.rmtree(partial, ignore_errors=True)
                partial.mkdir(parents=True)
            except OSError as fault:
                return str(fault)
        return None

    def _agreed(self, fault: str | None, partial: Path, value: Any = None) -> list[Any]:
        """Return every rank's value; a fault of any rank ends all of them, so that nobody waits for one that left."""
        told = self._group.gather_objects((fault and _told(fault, partial), value))
        if reasons := [reason for reason, _ in told if reason]:
            raise SharedCheckpointError(_sentence(partial, reasons[0]))
        return [value for _, value in told]


def superfluous(checkpoints: Path, step: int, config: CheckpointConfig, best: int | None) -> list[str]:
    """Return the names of folders that go when the checkpoint of `step` is complete, half-written ones among them.

    The newest `config.keep` stay, those at multiples of `config.keep_every`, and the best one.
    """
    names = {path.name for path in checkpoints.iterdir() if path.is_dir()}
    complete = sorted({name for name in names if is_checkpoint_name(name)} | {checkpoint_name(step)})
    every = config.keep_every
    old = [name for name in complete[: -config.keep] if not (every and step_of(name) % every == 0)]
    partial = [name for name in names if name.endswith(".tmp") and is_checkpoint_name(name.removesuffix(".tmp"))]
    staying = {f"{checkpoint_name(step)}.tmp", "" if best is None else checkpoint_name(best)}
    return sorted({*old, *partial} - staying)


def _told(fault: str, partial: Path) -> str:
    return f"{' '.join(fault.split())}; on {socket.gethostname()}, {free_space(partial.parent)}"


def _sentence(partial: Path, reason: str) -> str:
    number = re.search(r"\[Errno (\d+)\]", reason)
    before = newest_checkpoint(partial.parent)
    stands = "it would have been the first" if before is None else f"{before.folder.name} stands"
    return (
        f"the checkpoint {partial.with_suffix('')} cannot be written ({reason}); "
        f"{remedy(int(number[1]) if number else None)}; {stands}"
    )
