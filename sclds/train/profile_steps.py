"""The real step on the real data, measured, without held-out measurements, checkpoints or a run folder."""

import contextlib
import statistics
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch

from sclds.batch import Batch
from sclds.batch.split import split_batch
from sclds.config import Config
from sclds.data.loader import TrainingBatches
from sclds.data.tokenizer import load_tokenizer
from sclds.losses.communicator import gather_records
from sclds.machine.description import git_state, this_process, versions
from sclds.machine.implementations import choose, compute_dtype, use
from sclds.machine.phase_clock import PhaseClock, phase
from sclds.train.agreement import refuse_strangers
from sclds.train.board import Board
from sclds.train.distributed import ProcessGroup, synchronize
from sclds.train.engine import build_engine
from sclds.train.measures import NANO, StepMeasures
from sclds.train.measuring import measuring
from sclds.train.record import measured_peak
from sclds.train.step import train_step

WARM_UP = 2
"""Steps that do not count: kernels are compiled, and ZeRO-3 looks on before it fetches ahead."""
TRACED = 2
"""Steps of a trace, behind those that count: what a profiler sees takes longer."""
TRACE = "rank{}.json.gz"
LONGEST = 25
"""Operators that the text beside a trace lists."""
TakeStep = Callable[..., Any]
"""As `train_step`."""


def profile_steps(
    config: Config,
    steps: int,
    traces: Path | None = None,
    batches: type[TrainingBatches] = TrainingBatches,
    take_step: TakeStep = train_step,
) -> dict[str, Any] | None:
    """Run `steps` steps after some that warm up, on all processes that the launcher started.

    Args:
        config: The run.
        steps: That count.
        traces: Folder for a Chrome trace of every rank, of further steps; None writes none.
        batches: Where micro-batches come from.
        take_step: Takes a step.

    Returns:
        On rank 0 `environment`, `config` and `variant` as a profile holds them; None on the others.
    """
    with measuring(config.limits) as (group, limit), limit("the measurement between steps", "step"):
        refuse_strangers(config, group)
        use(choose(config))
        split = split_batch(config.batch, group.world_size)
        tokenizer = load_tokenizer(config.data.tokenizer)
        engine = build_engine(config, tokenizer, split, group)
        processes = gather_records(this_process(group.device), group, group.device)
        peak = measured_peak(group, compute_dtype(config))
        measures = StepMeasures(config, split, group, [process["name"] for process in processes], peak)
        training = batches(config, tokenizer, group.rank, group.world_size, split.micro, split.accumulation)
        with _closing(iter(training)) as ahead:

            def take(step: int, clock: PhaseClock) -> list[Batch]:
                with limit("the step", "step"):
                    clock.begin()
                    with phase("data"):
                        micro_batches = next(ahead)
                    take_step(engine, micro_batches, step, config, split, group)
                    clock.end()
                return micro_batches

            found = _measured(take, steps, measures, group, config)
            if traces is not None:
                _trace(lambda step: take(step, PhaseClock(group.device, traced=True)), steps, traces, group)
        environment = {
            "versions": versions(),
            "git": git_state(),
            "processes": group.world_size,
            "hosts": processes,
            "device": group.device.type,
            "precision": config.engine.precision,
            "peak_flops": peak,
        }
        variant = {"name": "configured", "overrides": [], "steps": steps, **found, "peak_flops": peak, "failed": None}
        whole = {"environment": environment, "config": config.model_dump(mode="json"), "variant": variant}
        return whole if group.rank == 0 else None


def _measured(
    take: Callable[[int, PhaseClock], list[Batch]],
    steps: int,
    measures: StepMeasures,
    group: ProcessGroup,
    config: Config,
) -> dict[str, Any]:
    """Return the figures of `steps` steps, after those that warm up."""
    for step in range(WARM_UP):
        measures.add(take(step, measures.clock))
    synchronize()
    measures.figures(1.0)
    for step in range(WARM_UP, WARM_UP + steps):
        measures.add(take(step, measures.clock))
    synchronize()
    by_step = _by_step(measures, group)
    totals = by_step.sum(axis=1).tolist()
    pace = config.batch.global_size / statistics.median(totals)
    figures = measures.figures(pace)
    assert measures.ranks is not None
    names = list(figures.pop("phases"))
    low, middle, high = (np.quantile(by_step, q, axis=0).tolist() for q in (0.2, 0.5, 0.8))
    return {
        **figures,
        "seconds": dict(zip(names, middle, strict=True)),
        "quantiles": {name: [q20, q80] for name, q20, q80 in zip(names, low, high, strict=True)},
        "step_seconds": totals,
        "flops_per_step": figures["flops_per_sample"] * config.batch.global_size,
        "rank_seconds": measures.ranks.seconds,
    }


def _by_step(measures: StepMeasures, group: ProcessGroup) -> Any:
    """Return (steps, phases) seconds, each the mean over ranks."""
    table = measures.table()
    gathered = group.gather_counts([round(one / NANO) for row in table for one in row])
    return (gathered * NANO).mean(axis=0).reshape(len(table), -1)


def _trace(take: Callable[[int], Any], first: int, folder: Path, group: ProcessGroup) -> None:
    """Write what torch's profiler sees of some steps, and a text for TensorBoard that tells of it."""
    activities = [torch.profiler.ProfilerActivity.CPU]
    if torch.cuda.is_available():
        activities.append(torch.profiler.ProfilerActivity.CUDA)
    folder.mkdir(parents=True, exist_ok=True)
    with torch.profiler.profile(activities=activities) as profiler:
        for step in range(first, first + TRACED):
            take(step)
        synchronize()
    profiler.export_chrome_trace(str(folder / TRACE.format(group.rank)))
    if group.rank == 0:
        board = Board(folder, 0, print)
        board.text("trace", _about_trace(profiler.key_averages(), folder, group.world_size))
        board.close()


def _about_trace(operators: Iterable[Any], folder: Path, processes: int) -> str:
    """Return in Markdown where traces lie, what opens them, and what took longest on the first rank.

    Args:
        operators: Rows of torch's profiler, in microseconds.
        folder: Of the traces.
        processes: How many there are.
    """
    rows = [(one.self_device_time_total, one.self_cpu_time_total, one.key, one.count) for one in operators]
    rows = sorted((row for row in rows if row[0] or row[1]), reverse=True)[:LONGEST]
    last = f" to `{TRACE.format(processes - 1)}`" if processes > 1 else ""
    return "\n".join(
        (
            f"{TRACED} steps, a file a rank on the machine of its rank: `{folder / TRACE.format(0)}`{last}. Open one "
            f"at [ui.perfetto.dev](https://ui.perfetto.dev) (*Open trace file*) or chrome://tracing.",
            "",
            "Rank 0, time of its own:",
            "",
            "| operator | on the GPU, ms | on the host, ms | calls |",
            "|---|---|---|---|",
            *(f"| `{name}` | {gpu / 1e3:.3f} | {host / 1e3:.3f} | {calls:,} |" for gpu, host, name, calls in rows),
        )
    )


@contextlib.contextmanager
def _closing(batches: Iterator[list[Batch]]) -> Iterator[Iterator[list[Batch]]]:
    try:
        yield batches
    finally:
        batches.close()  # type: ignore[attr-defined]  # a generator
