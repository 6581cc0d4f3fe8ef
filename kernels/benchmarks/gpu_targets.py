"""What the GPU path aims for: each target with its figure out of the check's files, and a verdict.

A figure that nothing measured is said to be missing, never left out.
"""

import csv
import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from harness import Measurement, read

NOISE = 0.03
"""By how much a median may exceed eager code's before it counts as slower: what one program's two runs differ by."""
MFU = 0.40
"""Share of the published bf16 peak that `sclds plan` assumes."""
LOSS_BYTES = 0.25e9
"""Above its inputs: siglip-kernel publishes 0.64 to 0.74 GB at 65,536, `inf_cl` 0.36 GB for a rank of 8."""
SIGLIP_MILLISECONDS = 48.8
"""siglip-kernel's own figure, forward and backward at 65,536 rows on an H100."""


SHARES = {"infonce": 0.5, "sigmoid": 0.5, "masked_gather": 0.8, "dropout_norm": 0.8, "bias_activation": 0.8}
"""Of the device's peak, by operation."""


_TIMED = ("full", "milliseconds")
"""Mode and metric of what is compared: forward and backward."""


class Target(NamedTuple):
    """One goal."""

    name: str
    wanted: str
    figure: Callable[["Found"], float | None]
    """None where nothing measured it."""
    met: Callable[[float], bool]
    unit: str = ""


class Found:
    """All rows that a check has written, whatever of it was stopped.

    Args:
        folder: With the files.
        ended: How each stage did, as `gpu_check.run_all` says.
    """

    def __init__(self, folder: Path, ended: Mapping[str, str]):
        self._folder, self._ended = folder, ended
        self.rows = [row for path in sorted(folder.glob("*.csv")) if has_rows(path) for row in read(path)]

    def value(self, kernel: str, provider: str, mode: str, metric: str = "milliseconds", x: int | None = None) -> Any:
        """Return the median of the largest size measured, or of size `x`."""
        fitting = [r for r in self.rows if (r.kernel, r.provider, r.mode, r.metric) == (kernel, provider, mode, metric)]
        fitting = [r for r in fitting if x in (None, r.x)]
        return max(fitting, key=lambda row: row.x).median if fitting else None

    def whole(self, stage: str) -> bool:
        """Return whether a stage came to its end."""
        return self._ended.get(stage) == "ok"

    def sizes(self, kernel: str, provider: str) -> set[int]:
        """Return the sizes at which a provider was timed."""
        return {r.x for r in self.rows if (r.kernel, r.provider, r.mode, r.metric) == (kernel, provider, *_TIMED)}

    def lines(self, name: str) -> list[dict[str, str]]:
        """Return the lines of a stage's own file, none where it did not run; without one that a kill cut short."""
        path = self._folder / f"{name}.csv"
        if not path.is_file():
            return []
        with path.open(newline="", encoding="utf-8") as file:
            return [line for line in csv.DictReader(file) if None not in line.values() and None not in line]


def has_rows(path: Path) -> bool:
    """Return whether a CSV holds rows of benchmarks."""
    with path.open(encoding="utf-8") as file:
        return file.readline().strip() == ",".join(Measurement._fields)


def _flag(stage: str, name: str, column: str, bad: Callable[[str], bool]) -> Callable[[Found], float | None]:
    """Return what counts the bad lines of a stage's file; None while there are none and it has not come to its end."""

    def count(found: Found) -> float | None:
        wrong = sum(bad(line[column]) for line in found.lines(name))
        return float(wrong) if wrong or found.whole(stage) else None

    return count


def _ratio(kernel: str, one: str, other: str) -> Callable[[Found], float | None]:
    """Return what gives one provider's time by another's at the largest size at which both were timed."""

    def ratio(found: Found) -> float | None:
        both = found.sizes(kernel, one) & found.sizes(kernel, other)
        if not both:
            return None
        a, b = (found.value(kernel, provider, *_TIMED, x=max(both)) for provider in (one, other))
        return float(a / b)

    return ratio


def _evaluated(what: str) -> Callable[[Found], float | None]:
    """Return what counts the figures of the evaluation on the device whose name ends so, and that are not 0."""

    def count(found: Found) -> float | None:
        lines = [line for line in found.lines("evaluation") if line["what"].endswith(what)]
        return float(sum(float(line["figure"]) > 0 for line in lines)) if lines else None

    return count


def _utilization(provider: str, peak: float | None) -> Callable[[Found], float | None]:
    """Return what gives the share of the peak that the base model's matrix products reach."""

    def share(found: Found) -> float | None:
        rows = [r for r in found.rows if (r.kernel, r.provider, r.metric) == ("base_step", provider, "milliseconds")]
        if not rows or peak is None:
            return None
        return float(json.loads(rows[0].config)["flops"]) / (rows[0].median / 1e3) / peak

    return share


def _share_of_work(name: str, device: Any) -> Callable[[Found], float | None]:
    """Return what gives the share of a device's peak at the largest size at which an operation has a target."""
    from scl_kernels.registry import operations

    def share(found: Found) -> float | None:
        operation = next(o for o in operations() if o.name == name)
        best = None
        for row in found.rows:
            if (row.kernel, row.provider, row.mode, row.metric) == (name, "triton", "full", "milliseconds") and device:
                work = operation.work(row.x, json.loads(row.config), row.mode)
                if work is not None and work.target is not None:
                    best = work.amount / {"bytes": device.bytes_per_second, "FLOPs": device.flops}[work.unit]
                    best /= row.median / 1e3
        return best

    return share


def _samples_per_second(found: Found) -> float | None:
    rows = [r for r in found.rows if (r.kernel, r.provider, r.metric) == ("base_step", "ours", "milliseconds")]
    return 1e3 * rows[0].x / rows[0].median if rows else None


def targets(device: Any, names: Sequence[str]) -> list[Target]:
    """Return every goal of the GPU path.

    Args:
        device: Its published peaks, see `scl_kernels.roofline`; None where none are stored.
        names: Of the operations.
    """
    none, wrong = (lambda figure: figure == 0), (lambda passed: passed != "True")
    goals = [
        Target("kernels that differ from fp64", "0", _flag("correctness", "correctness", "passed", wrong), none),
        Target(
            "attention that differs from fp64", "0", _flag("attention_check", "attention_check", "passed", wrong), none
        ),
        Target("steps that a kernel changes", "0", _flag("step", "real_step", "passed", wrong), none),
        Target("steps that wait for the device", "0", _flag("waits", "waits", "waits", bool), none),
        Target("held-out sets measured there", ">= 1", _evaluated("samples measured"), lambda x: x >= 1),
        Target("pictures drawn of a batch there", ">= 1", _evaluated("pictures"), lambda x: x >= 1),
        Target("base step, MFU", f">= {MFU:.0%}", _utilization("ours", device and device.flops), lambda x: x >= MFU),
        Target("base step, samples/s", "measured", _samples_per_second, bool),
        Target(
            "recomputed base step, time against ours",
            "<= 1.34",
            _ratio("base_step", "recomputed", "ours"),
            lambda x: x <= 1.34,
        ),
        Target("base step, time against no kernel", "< 1", _ratio("base_step", "ours", "references"), lambda x: x < 1),
        Target(
            "packed step, times as fast as published",
            ">= 2.0",
            _ratio("packed_step", "published", "ours"),
            lambda x: x >= 2,
        ),
        *_loss_targets(),
        Target(
            "bf16 peak measured, random data",
            "measured",
            lambda f: max((float(line["flops_per_second"]) / 1e12 for line in f.lines("peak")), default=None),
            bool,
            " TFLOP/s",
        ),
        Target(
            "decoding with data.device=mixed",
            "measured",
            lambda f: next((float(line["images_per_second"]) for line in f.lines("decoding")), None),
            bool,
            " images/s",
        ),
    ]
    for name, wanted in SHARES.items():
        share = _share_of_work(name, device)
        goals.append(Target(f"{name}, share of peak", f">= {wanted:.0%}", share, lambda x, w=wanted: x >= w))
    for name in [*names, *(f"attention_{case}" for case in ("image", "video", "text", "cross"))]:
        ratio = _never_slower(name)
        goals.append(Target(f"{name} against eager", f"<= {1 + NOISE}", ratio, lambda x: x <= 1 + NOISE))
    return goals


def _never_slower(name: str) -> Callable[[Found], float | None]:
    """Return what gives the worst ratio over all sizes; of attention, with the best backend at each size."""

    def worst(found: Found) -> float | None:
        times: dict[int, dict[str, float]] = {}
        for row in found.rows:
            if (row.kernel, row.mode, row.metric) == (name, "full", "milliseconds"):
                times.setdefault(row.x, {})[row.provider] = row.median
        ratios = []
        for of_size in times.values():
            own = [v for p, v in of_size.items() if p in ("ours", "flash_attn", "torch_varlen", "sdpa")]
            if own and "eager" in of_size:
                ratios.append(min(own) / of_size["eager"])
        return max(ratios, default=None)

    return worst


def _loss_targets() -> list[Target]:
    """Return the goals that other packages' published figures set."""
    small = lambda figure: figure <= LOSS_BYTES / 1e9  # noqa: E731

    def gigabytes(kernel: str) -> Callable[[Found], float | None]:
        def figure(found: Found) -> float | None:
            value = found.value(kernel, "ours", "full", "peak_bytes")
            return None if value is None else value / 1e9

        return figure

    return [
        Target("sigmoid at 65,536, memory", "<= 0.25 GB", gigabytes("sigmoid_published"), small, " GB"),
        Target(
            "sigmoid at 65,536, time",
            f"<= {SIGLIP_MILLISECONDS} ms",
            lambda f: f.value("sigmoid_published", "ours", "full"),
            lambda x: x <= SIGLIP_MILLISECONDS,
            " ms",
        ),
        Target("infonce, a rank of 8 at 65,536, memory", "<= 0.25 GB", gigabytes("infonce_published"), small, " GB"),
        Target(
            "sigmoid against siglip_kernel, time",
            "<= 1",
            _ratio("sigmoid_published", "ours", "siglip_kernel"),
            lambda x: x <= 1,
        ),
        Target(
            "infonce against inf_cl, time",
            "<= 1",
            _ratio("infonce", "ours", "inf_cl"),
            lambda x: x <= 1,
        ),
    ]


def table(folder: Path, device: Any, names: Sequence[str], ended: Mapping[str, str]) -> list[str]:
    """Return a line per target: its figure, what is aimed for, and `met`, `MISSED` or `missing`.

    Args:
        folder: With the files of the stages.
        device: As of `targets`.
        names: As of `targets`.
        ended: How each stage did.
    """
    found, lines = Found(folder, ended), [f"{'target':42} {'figure':>16}  {'aimed for':12} verdict"]
    for target in targets(device, names):
        figure = target.figure(found)
        shown = "-" if figure is None else f"{figure:.4g}{target.unit}"
        verdict = "missing: not measured" if figure is None else "met" if target.met(figure) else "MISSED"
        lines.append(f"{target.name:42} {shown:>16}  {target.wanted:12} {verdict}")
    return lines
