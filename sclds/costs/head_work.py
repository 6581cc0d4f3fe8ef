"""The operators of heads and losses, see `sclds.costs.layers`.

Losses are small beside the layers: their launches are counted per comparison, their bytes by how often features pass.
"""

from sclds.costs.operators import FP32, Counted, Work
from sclds.objectives import objectives_in_use
from sclds.objectives.table import Objective, Stream

DUPLICATE_LAUNCHES = 24
"""Launches of finding the duplicates of one comparison."""
COMPARISON_LAUNCHES = {"nce": (31, 1), "sigmoid": (22, 9)}
"""Launches of one comparison over the global batch, forward and backward."""


def count_heads(work: Work, counted: Counted) -> None:
    """Count projections, what objectives read, poolers and the classifying heads."""
    model, rows = counted.config.model, counted.rows
    width, samples = model.fusion.width, rows.samples
    projections = counted.work(lambda own: _projections(own, counted))
    work.forward.run(projections.forward.bytes, projections.forward.launches)
    work.kept += projections.kept
    if any(o.compared and not o.reads for o in objectives_in_use(counted.config.losses)):  # else there is no gradient
        work.backward.run(projections.backward.bytes, projections.backward.launches)
    tables: dict[Stream, int] = {"text": rows.read_text, "vision": rows.read_vision}
    counts = {"cls": samples, "frame_cls": rows.frames, "completed": rows.completed, "replaced": rows.replaced}
    readers: dict[Stream, int] = {"text": 0, "vision": 0}
    for objective in objectives_in_use(counted.config.losses):
        for output in objective.compared or ():
            if output.read is not None:
                work.gather(tables[output.read.stream], counts[output.read.rows], width, gradient=not output.detached)
                readers[output.read.stream] += not output.detached
        if objective.head is not None:
            _classify(work, counted, objective)
            for read in objective.head_reads:
                readers[read.stream] += 1
    for name, count in readers.items():
        for _ in range(count - 1):
            work.add_gradients(tables[name], width)


def _projections(work: Work, counted: Counted) -> None:
    model, rows = counted.config.model, counted.rows
    width, samples = model.fusion.width, rows.samples
    work.gather(rows.text, samples, width)
    _frame_mean(work, rows.vision, samples, rows.frames, width)
    for stream in (rows.text, rows.vision):
        if rows.pair_text:
            work.add_gradients(stream, width)
        work.keep(4 * samples * width)
        work.linear(samples, width, width)
        work.layer_norm(samples, width)
        work.forward.run(2 * work.value * samples * width)
        work.backward.run(3 * work.value * samples * width)
        work.linear(samples, width, model.projection)
    work.forward.run()  # the temperature in fp32
    work.backward.run(launches=2)


def _classify(work: Work, counted: Counted, objective: Objective) -> None:
    rows, width = counted.rows, counted.config.model.fusion.width
    if objective.head == "mlm":
        words = rows.words
        work.gather(rows.read_text, words, width)
        work.keep(4 * words * width)
        work.linear(words, width, width)
        work.forward.run(2 * work.value * words * width)
        work.backward.run(3 * work.value * words * width)
        work.layer_norm(words, width)
        work.linear(words, width, counted.vocab_size)
        return
    pairs = rows.samples
    work.gather(rows.read_text, pairs, width)
    _frame_mean(work, rows.read_vision, pairs, rows.frames, width)
    for _ in ("text", "vision"):
        work.keep(2 * pairs * width)
        work.linear(pairs, width, width)
        work.forward.run(2 * work.value * pairs * width)
        work.backward.run(3 * work.value * pairs * width)
    work.keep(2 * pairs * width)
    work.forward.run(4 * work.value * pairs * width)
    work.linear(pairs, 2 * width, 2)


def _frame_mean(work: Work, table: int, samples: int, frames: int, width: int) -> None:
    """Average the [CLS] rows of a sample's frames."""
    work.gather(table, frames, width)
    work.forward.run(work.value * (3 * frames + samples) * width, 7)
    work.backward.run(2 * work.value * frames * width)


def count_losses(work: Work, counted: Counted) -> None:
    """Count the comparisons over the global batch, as one process has it, and the cross-entropies."""
    model, rows, v = counted.config.model, counted.rows, work.value
    objectives = objectives_in_use(counted.config.losses)
    compared = [o for o in objectives if o.loss in ("nce", "sigmoid")]
    most_frames = counted.config.data.frames if rows.video else 1
    treated = DUPLICATE_LAUNCHES if counted.config.losses.duplicates != "negatives" else 0
    for objective in compared:
        width = model.fusion.width if objective.reads else model.projection
        terms = most_frames if objective.per_frame else 1
        count = rows.completed if objective.count == "completed" else rows.frames if terms > 1 else rows.samples
        forward, backward = COMPARISON_LAUNCHES[objective.loss]
        work.forward.run(v * 20 * count * width, terms * (forward + 12 * objective.per_frame + treated))
        work.backward.run(v * 8 * count * width, terms * (backward + 2 * objective.per_frame))
        work.kept += v * 4 * count * width + 2 * v * count * width * objective.per_frame
    if compared:
        work.forward.run(0, 5)
    if any(o.loss == "nce" for o in compared):
        work.forward.run(0, 15)
        work.backward.run(0, 10)
    for objective in objectives:
        if objective.loss == "group_nce":
            groups = -(-rows.samples // counted.config.batch.group_size)
            work.forward.run(20 * v * rows.replaced * model.fusion.width, 19 + 7 * groups)
            work.backward.run(8 * v * rows.replaced * model.fusion.width, 4 + 2 * groups)
            work.kept += 4 * v * rows.replaced * model.fusion.width
        if objective.loss == "cross_entropy":
            classes = objective.classes or counted.vocab_size
            logits = (rows.words if objective.head == "mlm" else rows.samples) * classes
            work.forward.run((3 * FP32 + v + 2 * FP32 + 5 + 2 + 1) * logits, 17)
            work.backward.run((5 * FP32 + 2 * FP32 + v) * logits, 5)
            work.kept += FP32 * logits
            work.hold(logits, logits * FP32 / v)
