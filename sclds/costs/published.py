"""The model of time against published training runs: predicted, measured, and the shares that were fitted on some.

`published_runs.yaml` holds the runs. Those with `fit` decide on `matmul_share` of A100 and H100 and on the slowdown of
one stack; the others judge. What a source does not say is written beside each run.
"""

import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from pydantic import Field

from sclds.config.base import Section
from sclds.config.reading import override_section
from sclds.costs.clusters import TABLE, Kind, cluster_of, merged
from sclds.costs.predict import Message, Product, StepTime, StepWork, predict

RUNS = Path(__file__).with_name("published_runs.yaml")
SCORE_VALUES = 20
"""Reads and writes of an attention weight: in forward written by the product, scaled, softmax, dropout with its mask,
read by the product (8.5); in backward written, dropout, softmax, scaled, and read by three products (11.5)."""
OPTIMIZER_BYTES = 40
"""That AdamW moves per parameter: fp32 weight and two moments read and written, gradient read, copy written, and the
gradients' norm."""
FITTED = ("a100", "h100", "open_clip")
"""The fitted numbers: share of the peak by the beginning of a kind's name, and the slowdown of a stack."""


class Tower(Section):
    """Equal transformer layers."""

    width: int
    layers: int
    heads: int
    inner: int
    tokens: int
    keys: int | None = None
    gated: bool = False
    vocabulary: int = 0
    crossed: int = 0
    """Tokens of the other stream that each layer also attends to."""


class Stack(Section):
    """How a code base runs element-wise work."""

    values_moved: float
    slowdown: Annotated[float, Field(gt=0)]


class Run(Section):
    """A published run."""

    name: str
    model: str
    kind: str
    gpus: int
    micro: int
    stack: str
    attention: Literal["scores", "fused", "causal"]
    samples_per_second: Annotated[float, Field(gt=0)]
    source: str
    recomputed: Annotated[float, Field(ge=0, le=1)] = 0.0
    precision: Literal["bf16", "fp32"] = "bf16"
    optimizer: Literal["replicated", "sharded"] = "replicated"
    fit: bool = False
    unknown: str = ""


class Published(Section):
    """All of the file."""

    clusters: dict[str, Any]
    models: dict[str, list[Tower]]
    stacks: dict[str, Stack]
    sources: dict[str, str]
    runs: list[Run]


@dataclass(frozen=True)
class Back:
    """A run beside what is predicted of it."""

    run: Run
    time: StepTime
    predicted: float
    source: str

    @property
    def deviation(self) -> float:
        """Of the prediction, as a share of what was measured; above 0 is too fast."""
        return self.predicted / self.run.samples_per_second - 1


@cache
def published_runs() -> Published:
    """Return the runs of published_runs.yaml."""
    return override_section(Published, yaml.safe_load(RUNS.read_text(encoding="utf-8")), [])


def back_test(fitted: Mapping[str, float] | None = None, runs: Sequence[Run] = ()) -> list[Back]:
    """Predict published runs.

    Args:
        fitted: Numbers by the names of `FITTED` that replace those of the files.
        runs: Which; by default all.
    """
    published, kinds = published_runs(), _kinds()
    found = []
    for run in runs or published.runs:
        kind, stack = kinds[run.kind], published.stacks[run.stack]
        family = _family(kind)
        if fitted and family in fitted:
            kind = kind.model_copy(update={"matmul_share": fitted[family]})
        if fitted and run.stack in fitted:
            stack = stack.model_copy(update={"slowdown": fitted[run.stack]})
        kind = kind.model_copy(update={"device_factor": stack.slowdown})
        cluster = cluster_of(kinds | {run.kind: kind}, run.kind, run.gpus)
        time = predict(work_of(run, published.models[run.model], stack), cluster)
        predicted = run.micro * run.gpus / time.total
        found.append(Back(run, time, predicted, published.sources[run.source]))
    return found


def fit() -> dict[str, float]:
    """Return the fitted numbers: those with the least sum of squared logarithms of deviation on the runs with `fit`.

    One after the other over a grid, since each run depends on one share and at most one slowdown.
    """
    grids = {"a100": (0.3, 1.0), "h100": (0.3, 1.0), "open_clip": (1.0, 4.0)}
    values = {"a100": 0.7, "h100": 0.6, "open_clip": 2.0}
    for _ in range(2):
        for name, (least, most) in grids.items():
            tried = [least + (most - least) * step / 70 for step in range(71)]
            values[name] = min(tried, key=lambda value, name=name: _error(values | {name: value}))  # type: ignore[misc]
    return values


def median_error(rows: list[Back]) -> float:
    """Return the median size of the deviations."""
    return statistics.median(abs(row.deviation) for row in rows)


def _error(values: Mapping[str, float]) -> float:
    used = [run for run in published_runs().runs if run.fit]
    return sum(math.log1p(row.deviation) ** 2 for row in back_test(values, used))


@cache
def _kinds() -> dict[str, Kind]:
    tree = yaml.safe_load(TABLE.read_text(encoding="utf-8"))["kinds"]
    rows = merged(tree, yaml.safe_load(RUNS.read_text(encoding="utf-8"))["clusters"], str(RUNS))
    return {name: override_section(Kind, row, []) for name, row in rows.items()}


def _family(kind: Kind) -> str:
    return "h100" if kind.capability == (9, 0) else "a100"


def work_of(run: Run, towers: list[Tower], stack: Stack) -> StepWork:
    """Return what one device of a published run does in a step."""
    value, passes = (2 if run.precision == "bf16" else 4), 3 + run.recomputed
    products: list[Product] = []
    attended = moved = 0.0
    for tower in towers:
        rows, layers = run.micro * tower.tokens, tower.layers
        products += _products(run, tower, passes)
        scores = run.micro * layers * tower.tokens * (tower.tokens + tower.crossed)
        # fused attention computes the scores once more in backward, and keeps none; causal, it leaves out half
        again, share = (0.0, 1.0) if run.attention == "scores" else (0.5, 0.5 if run.attention == "causal" else 1.0)
        attended += 4 * scores * tower.width * (passes + again) * share
        moved += layers * rows * tower.width * value * stack.values_moved * passes / 3
        moved += rows * tower.vocabulary * 4 * 6
        if run.attention == "scores":
            moved += scores * tower.heads * value * SCORE_VALUES * passes / 3
    parameters = _parameters(towers)
    stepped = parameters / (run.gpus if run.optimizer == "sharded" else 1)
    return StepWork(
        samples=run.micro,
        model_flops=3 / passes * (sum(product.flops for product in products) + attended),
        products=tuple(products),
        attention_flops=attended,
        elementwise_bytes=moved + OPTIMIZER_BYTES * stepped,
        value_bytes=value,
        precision=run.precision,
        messages=_messages(run, parameters, sum(tower.layers for tower in towers)),
    )


def _products(run: Run, tower: Tower, passes: float) -> list[Product]:
    rows, width, times = run.micro * tower.tokens, tower.width, tower.layers * passes
    keys = tower.keys or width
    shapes = [(width, width + 2 * keys), (width, width), (width, tower.inner * (2 if tower.gated else 1))]
    found = [Product(rows, *shape, times) for shape in (*shapes, (tower.inner, width))]
    if tower.crossed:
        found += [Product(rows, width, 2 * width, times), Product(run.micro * tower.crossed, width, 2 * width, times)]
    if tower.vocabulary:
        found.append(Product(rows, width, tower.vocabulary, 3))
    return found


def _parameters(towers: list[Tower]) -> float:
    return sum(
        t.layers * t.width * (2 * t.width + 2 * (t.keys or t.width) + t.inner * (3 if t.gated else 2))
        + 2 * t.vocabulary * t.width
        for t in towers
    )


def _messages(run: Run, parameters: float, layers: int) -> dict[str, Message]:
    """Return one reduction of fp32 gradients, in buckets of 25 MB as DDP's, or the gathers and the scatter of FSDP."""
    others = (run.gpus - 1) / run.gpus
    if run.optimizer == "replicated":
        return {"gradients": Message(max(1, parameters * 4 / 25e6), 2 * 4 * parameters * others)}
    return {
        "parameters": Message(2 * layers, 2 * 2 * parameters * others),
        "gradients": Message(layers, 4 * parameters * others),
    }
