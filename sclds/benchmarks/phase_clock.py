"""What measuring a step takes of it: the packed step with a phase clock and without one, in turns.

The model has the base model's depth and next to no width, as in `sclds.benchmarks.engine`: the shorter the step, the
larger the share of its marks.
"""

import json
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median

import torch

from sclds.benchmarks.engine import BASE_DEPTH
from sclds.benchmarks.rows import Row, quantiles, write
from sclds.benchmarks.step import build_model, totals
from sclds.machine.phase_clock import Label, PhaseClock, phase

PROVIDERS = ("measured", "plain")
CUTS = 2000
"""Phases in a row whose time is taken, to know what one costs."""


class _CountingClock(PhaseClock):
    """Counts the phases that steps enter."""

    entered = 0

    def enter(self, label: Label) -> None:
        """Begin a phase."""
        self.entered += 1
        super().enter(label)


def step_of(device: str) -> Callable[[], None]:
    """Return an optimizer step with the marks that a run's has."""
    model = build_model(BASE_DEPTH).to(device).train()
    total = totals(BASE_DEPTH, device)["packed"]
    optimizer = torch.optim.AdamW(model.parameters(), 1e-4)

    def step() -> None:
        with phase("forward"):
            loss = total(model)
        with phase("backward"):
            loss.backward()
        with phase("optimizer"):
            optimizer.step()
            optimizer.zero_grad()

    return step


def compare(rounds: int, folder: Path) -> list[Row]:
    """Measure both in turns, and write phases.csv and phases.png.

    Args:
        rounds: Steps of each.
        folder: For the files.
    """
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    now = time.perf_counter if device.type == "cuda" else time.process_time
    step, clock = step_of(str(device)), _CountingClock(device)
    seconds: dict[str, list[float]] = {name: [] for name in PROVIDERS}
    for turn in range(rounds + 1):
        for name in sorted(PROVIDERS, reverse=bool(turn % 2)):
            begun = now()
            if name == "measured":
                clock.begin()
            step()
            if name == "measured":
                clock.end()
            _wait(device)
            if turn:  # the first one warms up
                seconds[name].append(now() - begun)
        clock.taken()
    return _rows(seconds, clock.entered // (rounds + 1), _cost_of_a_phase(device, now), str(device), folder)


def _cost_of_a_phase(device: torch.device, now: Callable[[], float]) -> float:
    """Return the seconds that the host needs for one phase."""
    clock = PhaseClock(device)
    costs = []
    for _ in range(5):
        clock.begin()
        begun = now()
        for _ in range(CUTS):
            with phase("fusion"):
                pass
        costs.append((now() - begun) / CUTS)
        clock.end()
        _wait(device)
        clock.taken()
    return median(costs)


def _rows(seconds: dict[str, list[float]], marks: int, cost: float, device: str, folder: Path) -> list[Row]:
    config, versions = json.dumps(BASE_DEPTH), f"torch {torch.__version__}"
    ratios = [one / other for one, other in zip(seconds["measured"], seconds["plain"], strict=True)]
    shares = [marks * cost / one for one in seconds["plain"]]
    measured = [(name, "seconds", values) for name, values in seconds.items()]
    measured += [("measured/plain", "ratio", ratios), ("marks", "share", shares)]
    measured += [("marks", "number", [marks]), ("a mark", "microseconds", [1e6 * cost])]
    rows = [Row(name, metric, *quantiles(x), len(x), config, device, versions) for name, metric, x in measured]
    write(rows, folder, "phases", f"a step with and without marks: {device}")
    return rows


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize()
