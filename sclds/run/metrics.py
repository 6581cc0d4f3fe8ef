"""The lines of `metrics.jsonl`: one a logged step, read so that a damaged one costs itself alone."""

import json
import math
from pathlib import Path
from typing import Any

from pydantic_core import from_json

NAMED_LINES = 3
"""Lines that a sentence about damaged ones names."""
TABLES = ("loss", "seconds", "levels", "spent", "phases")
"""Entries of a line that hold numbers by name."""
SPEED = (
    *("samples_per_second", "tokens_per_second", "mfu", "mfu_measured", "hfu", "hfu_measured", "flops_per_sample"),
    *("wire_bytes", "memory_bytes", "padding_avoided", "overlap", "host_seconds"),
)
"""Figures of speed (docs/costs.md)."""
NUMBERS = ("step", "lr", "grad_norm", "skipped", "time", "goodput", *SPEED)
"""Entries that are numbers, or null where one was not finite or is not known."""
HELDOUT = "heldout/"
"""Before the names of figures of held-out sets, which stand in the line itself."""
LARGEST = 2**63
_NO_FIGURES = ("sets", "evaluation", "profile", "steps", "examples")
"""Of results.json."""
GROUPS = {"levels": "guessing", "learning_rates": "learning_rate"}
"""Entries of a line that go by another name where scalars are shown."""
_NAMES = ("rank",)
"""Entries of tables that say who, by number."""
_OF_TRAINING = ("grad_norm", "samples_per_second", "skipped", "goodput")
_OF_THE_LINE = ("step", "time", "spent", "lr")
"""Entries that are no scalars of their own: `lr` is one of `learning_rates`."""


def read_metrics(path: Path, problems: list[str] | None = None) -> list[dict[str, Any]]:
    """Return the lines of a metrics file in the order of their steps; empty if there is no file.

    A line that is no object of numbers, or that a killed process cut short, is left out. A resumed run may repeat
    steps: the later line counts.

    Args:
        path: The file.
        problems: Is given a sentence on what is left out.
    """
    steps: dict[int, dict[str, Any]] = {}
    damaged: list[int] = []
    try:
        content = path.read_bytes() if path.is_file() else b""
    except OSError as fault:
        content = b""
        _tell(problems, f"{path.name} cannot be read ({fault.strerror})")
    # not splitlines(): to that, some control characters inside a line end it
    texts = content.split(b"\n")
    for number, text in enumerate(texts, 1):
        line = parse_line(text)
        if line is not None:
            steps[line["step"]] = line
        elif text.strip():
            damaged.append(number)
    tell_damaged(problems, path.name, damaged, len(texts))
    return [steps[step] for step in sorted(steps)]


def tell_damaged(problems: list[str] | None, name: str, damaged: list[int], count: int, more: str = "") -> None:
    """Say which lines are left out, if any.

    Args:
        problems: Is given the sentence.
        name: Of the file.
        damaged: Numbers of lines, from 1.
        count: Of all lines.
        more: End of the sentence.
    """
    if damaged:
        which = ", ".join(map(str, damaged[:NAMED_LINES])) + (" and others" if len(damaged) > NAMED_LINES else "")
        cut = " (cut short, as a kill leaves it)" if damaged == [count] else ""
        lines = "1 damaged line is" if len(damaged) == 1 else f"{len(damaged)} damaged lines are"
        _tell(problems, f"{name}: {lines} left out: {which}{cut}{more}")


def scalars_of(line: dict[str, Any]) -> dict[str, float]:
    """Return the numbers of a line by the names that TensorBoard and trackers show; what was not finite is left out."""
    scalars: dict[str, Any] = {}
    for key, value in line.items():
        if isinstance(value, dict):
            named = {} if key in _OF_THE_LINE else {name: one for name, one in value.items() if name not in _NAMES}
            scalars |= {f"{GROUPS.get(key, key)}/{name}": one for name, one in named.items()}
        elif key.startswith(HELDOUT):
            scalars[key] = value
        elif key not in _OF_THE_LINE:
            scalars[f"{'training' if key in _OF_TRAINING else 'speed'}/{key}"] = value
    return {name: float(value) for name, value in scalars.items() if _is_number(value)}


def result_scalars(results: dict[str, Any]) -> dict[str, float]:
    """Return the figures of a `results.json` at its end by name, without those of single sets and of the machine."""
    figures = {key: value for key, value in results.items() if key not in _NO_FIGURES}
    if isinstance(figures.get("losses"), dict):
        figures["losses"] = figures["losses"].get("final", {})
    return _numbers_in(figures, "results")


def _numbers_in(tree: Any, name: str) -> dict[str, float]:
    if isinstance(tree, dict):
        return {n: v for key, value in tree.items() for n, v in _numbers_in(value, f"{name}/{key}").items()}
    return {name: float(tree)} if _is_number(tree) else {}


def finite(value: float) -> float | None:
    """Return a number as JSON can hold it; None for what is not finite."""
    return value if math.isfinite(value) else None


def parse_line(text: bytes) -> dict[str, Any] | None:
    """Return a line if it is an object with a step and numbers, or nothing."""
    try:
        line = _parsed(text)
    except (ValueError, RecursionError):
        return None
    if not isinstance(line, dict) or not isinstance(line.get("step"), int) or isinstance(line["step"], bool):
        return None
    tables = [line[name] for name in TABLES if name in line]
    if not all(isinstance(table, dict) for table in tables):
        return None
    numbers = [value for name, value in line.items() if name in NUMBERS or name.startswith(HELDOUT)]
    numbers += [value for table in tables for value in table.values()]
    return line if all(number is None or _is_number(number) for number in numbers) else None


def _parsed(text: bytes) -> Any:
    """Return what JSON holds: with pydantic's parser in a third of the time, and what that refuses with Python's."""
    try:
        return from_json(text)
    except ValueError:
        return json.loads(text)


def _is_number(value: Any) -> bool:
    return isinstance(value, float) or (isinstance(value, int) and not isinstance(value, bool) and abs(value) < LARGEST)


def _tell(problems: list[str] | None, sentence: str) -> None:
    if problems is not None:
        problems.append(sentence)
