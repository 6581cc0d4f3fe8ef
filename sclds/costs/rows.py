"""How many rows of everything a micro-batch has: tokens of views and pairs, and what heads and losses read."""

from collections.abc import Mapping
from dataclasses import dataclass, fields

from sclds.config import Config
from sclds.costs.counts import Kind, pairs_of, task_pairs, views_of
from sclds.objectives import objectives_in_use, view_names
from sclds.tasks import task_of


@dataclass(frozen=True)
class Rows:
    """Rows of a micro-batch, or of one sample."""

    samples: int = 0
    text: int = 0
    """Tokens of the text views."""
    vision: int = 0
    """Tokens of the vision views."""
    patches: int = 0
    """Patches of all frames, each embedded once."""
    frames: int = 0
    """[CLS] tokens of the complete vision view."""
    view_frames: int = 0
    """[CLS] tokens of all vision views."""
    video: int = 0
    """Tokens of the vision views of videos."""
    video_frames: int = 0
    """[CLS] tokens among these, which attend to all frames."""
    pair_text: int = 0
    """Text tokens of all pairs."""
    pair_vision: int = 0
    """Vision tokens of all pairs."""
    read_text: int = 0
    """Text rows of the last fusion layer that are read."""
    read_vision: int = 0
    """The same for vision."""
    last_text: int = 0
    """Text tokens of the pairs of which text rows are read."""
    last_text_other: int = 0
    """Vision tokens of these."""
    last_vision: int = 0
    """Vision tokens of the pairs of which vision rows are read."""
    last_vision_other: int = 0
    """Text tokens of these."""
    words: int = 0
    """Words that MLM predicts."""
    completed: int = 0
    """Masked positions of t2 that are compared."""
    replaced: int = 0
    """Replaced patches that are compared."""

    def times(self, count: int) -> "Rows":
        """Return the rows of `count` of these."""
        return Rows(**{field.name: count * getattr(self, field.name) for field in fields(self)})

    def plus(self, other: "Rows") -> "Rows":
        """Return the rows of both."""
        return Rows(**{field.name: getattr(self, field.name) + getattr(other, field.name) for field in fields(self)})


def micro_batch_rows(config: Config, samples: Mapping[Kind, int], text_tokens: int) -> Rows:
    """Return the rows of a micro-batch with so many samples of each kind."""
    rows = Rows()
    for kind, count in samples.items():
        rows = rows.plus(rows_of(config, kind, text_tokens).times(count))
    return rows


def rows_of(config: Config, kind: Kind, text_tokens: int) -> Rows:
    """Return the rows of one sample, or of one example of a downstream task."""
    views, objectives = views_of(config, kind, text_tokens), objectives_in_use(config.losses)
    texts, visions = view_names(objectives)
    pairs, images = pairs_of(config, views), 1
    if config.task is not None:
        pairs, images, objectives = task_pairs(config, views), task_of(config).images, ()
        texts, visions = ("t0",), tuple(f"v0.{number}" for number in range(images))
    tokens = {name: views.vision(name.partition(".")[0]) for name in visions}
    vision, frames, video = sum(tokens.values()), views.frames * len(visions), kind == "video"
    both = [(pair, views.text, tokens[pair.vision]) for pair in pairs.values()]
    reads = {read.rows for objective in objectives for read in objective.reads}
    text_read = [(text, seen) for pair, text, seen in both if pair.text_rows]
    vision_read = [(text, seen) for pair, text, seen in both if pair.vision_rows]
    replaced = views.frames * int(views.patches["v0"] * config.masking.mltc_vision_ratio)
    return Rows(
        samples=1,
        text=len(texts) * views.text,
        vision=vision,
        patches=images * views.frames * views.patches["v0"],
        frames=views.frames,
        view_frames=frames,
        video=vision * video,
        video_frames=frames * video,
        pair_text=sum(text for _, text, _ in both),
        pair_vision=sum(seen for _, _, seen in both),
        read_text=sum(pair.text_rows for pair, _, _ in both),
        read_vision=sum(pair.vision_rows for pair, _, _ in both),
        last_text=sum(text for text, _ in text_read),
        last_text_other=sum(seen for _, seen in text_read),
        last_vision=sum(seen for _, seen in vision_read),
        last_vision_other=sum(text for text, _ in vision_read),
        words=views.predicted if "predicted" in reads else 0,
        completed=views.completed if "completed" in reads else 0,
        replaced=replaced if "replaced" in reads else 0,
    )
