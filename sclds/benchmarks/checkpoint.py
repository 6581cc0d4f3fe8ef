"""How long a checkpoint holds up the run: written before the next step, and written while steps go on, in turns.

What a step computes is stood for by matrix products, which last as long as a step of many samples: the copy into
memory has that time, and takes some of the processor from it, which is told apart.
"""

import json
import os
import shutil
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import torch

from sclds.batch.split import split_batch
from sclds.benchmarks.rows import Row, quantiles, write
from sclds.config import Config
from sclds.config.reading import load_config
from sclds.data.tokenizer import load_tokenizer
from sclds.machine.packages import installed_version
from sclds.run.files import flush
from sclds.run.manifest import record_files
from sclds.train.distributed import ProcessGroup
from sclds.train.engine import build_engine
from sclds.train.saver import CheckpointSaver

PROVIDERS = ("synchronous", "asynchronous")
LAYERS = 6
COMPUTE = 1.0
"""Seconds of forward and backward between two updates."""
_PRODUCT = 1024
"""Side of the matrices that stand for them."""
_HEAD = 64
"""Channels of an attention head."""


class Stall(NamedTuple):
    """One checkpoint, in seconds."""

    stall: float
    """Before the next step may begin, and before its update may."""
    complete: float
    """Until it stands on the disk."""
    slowdown: float = 0.0
    """By which a step computes longer beside the copy."""


def compare_savings(width: int, rounds: int, out: Path) -> tuple[list[Row], float]:
    """Save the same state in both ways in turns; return rows, and the bytes of the state.

    Args:
        width: Channels of a model with `LAYERS` layers in every part, a multiple of 64.
        rounds: Checkpoints of each way, after one that is not counted.
        out: Folder for `checkpoint.csv` and `checkpoint.png`; the checkpoints lie there meanwhile.
    """
    config = _config(width)
    group = ProcessGroup()
    folder = out / "checkpoints"
    try:
        engine = build_engine(config, load_tokenizer("embedded"), split_batch(config.batch, group.world_size), group)
        _take_step(engine.optimizer)
        ways = _ways(engine, folder, config, group)
        taken: dict[str, list[Stall]] = {name: [] for name in PROVIDERS}
        size = 0
        for turn in range(rounds + 1):
            for name in PROVIDERS:
                if torch.cuda.is_available():
                    torch.cuda.synchronize()
                stall = ways[name](turn)
                size = sum(path.stat().st_size for path in folder.rglob("*.pt"))
                shutil.rmtree(folder)
                folder.mkdir()
                if turn:
                    taken[name].append(stall)
    finally:
        group.close()
        shutil.rmtree(folder, ignore_errors=True)
    rows = _rows(taken, {"width": width, "layers": LAYERS, "bytes": size}, str(group.device))
    write(rows, out, "checkpoint", "What a checkpoint holds up")
    return rows, size


def _config(width: int) -> Config:
    sizes = {"width": width, "layers": LAYERS, "heads": width // _HEAD}
    settings = [f"model.{part}.{key}={value}" for part in ("vision", "text", "fusion") for key, value in sizes.items()]
    return load_config("quickstart", [*settings, "engine.zero_stage=0", "engine.precision=fp32", "checkpoint.keep=1"])


def _take_step(optimizer: Any) -> None:
    """Give Adam its moments."""
    for weight in optimizer.masters().values():
        weight.grad = torch.zeros_like(weight)
    optimizer.step()


def _ways(engine: Any, folder: Path, config: Config, group: ProcessGroup) -> dict[str, Callable[[int], Stall]]:
    """Return a function for each way, which saves as of a step."""
    to_disk = engine.checkpoint_engine
    saver = CheckpointSaver(engine, folder, config, group)
    to_memory = engine.checkpoint_engine
    compute = _computation(group.device)

    def synchronous(step: int) -> Stall:
        """Write through DeepSpeed's own checkpoint engine, force it onto the disk and hash it."""
        engine.checkpoint_engine = to_disk
        begun = time.perf_counter()
        engine.save_checkpoint(str(folder), tag=f"step-{step}", save_latest=False)
        files = [path for path in folder.rglob("*") if path.is_file()]
        for path in files:
            flush(path)
        record_files(folder, files)
        seconds = time.perf_counter() - begun
        return Stall(seconds, seconds)

    def asynchronous(step: int) -> Stall:
        engine.checkpoint_engine = to_memory
        alone = compute()
        begun = time.perf_counter()
        saver.save(step)
        stall = time.perf_counter() - begun
        beside = compute()
        resumed = time.perf_counter()
        saver.finish_copy()
        stall += time.perf_counter() - resumed
        saver.wait()
        return Stall(stall, time.perf_counter() - begun - beside, beside - alone)

    return dict(zip(PROVIDERS, (synchronous, asynchronous), strict=True))


def _computation(device: torch.device) -> Callable[[], float]:
    """Return what computes for about `COMPUTE` seconds, always as much, and returns how long it took."""
    factor = torch.ones(_PRODUCT, _PRODUCT, device=device)

    def compute(products: int) -> float:
        begun = time.perf_counter()
        for _ in range(products):
            factor @ factor
        if device.type == "cuda":
            torch.cuda.synchronize()
        return time.perf_counter() - begun

    compute(3)
    products = max(1, round(COMPUTE / (compute(10) / 10)))
    return lambda: compute(products)


def _rows(taken: dict[str, list[Stall]], sizes: dict[str, int], device: str) -> list[Row]:
    versions = ", ".join(f"{name} {installed_version(name)}" for name in ("torch", "deepspeed"))
    where = f"{device}, {os.cpu_count()} cores"
    told = (json.dumps(sizes), where, versions)
    rows = []
    for metric in Stall._fields:
        for name in PROVIDERS[metric == "slowdown" :]:
            values = [getattr(stall, metric) for stall in taken[name]]
            rows.append(Row(name, f"{metric}_seconds", *quantiles(values), len(values), *told))
    shares = [ours.stall / theirs.stall for ours, theirs in zip(taken[PROVIDERS[1]], taken[PROVIDERS[0]], strict=True)]
    rows.append(Row(PROVIDERS[1], "share_of_stall", *quantiles(shares), len(shares), *told))
    return rows
