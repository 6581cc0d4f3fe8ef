"""One row per objective: what it is called, which rows of which fusion pairs it reads, and how they are compared.

A row is data. Packing gathers the rows that it reads, the model makes its outputs of them, `sclds.losses` compares
these, `sclds.costs` counts them and pages name them, all by looping over `objectives_in_use`. The independent plain
definition is `sclds.reference.published_schedule`.
"""

from dataclasses import dataclass, replace
from typing import Literal

from sclds.config import LossesConfig

Stream = Literal["text", "vision"]
Rows = Literal["cls", "predicted", "completed", "frame_cls", "replaced"]
"""Rows of a pair: the text [CLS], the words that MLM predicts, the tokens that t2 masks; the [CLS] of every frame, the
patches that v2 replaces."""
Loss = Literal["nce", "sigmoid", "group_nce", "cross_entropy"]
"""How outputs are compared: `nce` and `sigmoid` over the global batch, `group_nce` among the tokens of a group of
samples, `cross_entropy` with labels."""
Count = Literal["samples", "words", "completed", "replaced"]
"""What the mean of an objective is taken over, in the global batch."""
Head = Literal["mlm", "itm"]
Sameness = Literal["caption", "image", "either"]
"""By what two samples are duplicates for an objective: by what it compares."""


@dataclass(frozen=True)
class Read:
    """Rows of one stream of a fusion pair that the last fusion layer has to give."""

    pair: str
    """Name of a pair, see `sclds.objectives.pairs.PAIRS`."""
    stream: Stream
    rows: Rows


@dataclass(frozen=True)
class Output:
    """One tensor that the model returns for an objective."""

    name: str
    """Its key among the model's outputs."""
    read: Read | None = None
    """The fused rows that it consists of; None for a contrastive projection, which is taken before fusion."""
    detached: bool = False
    """Whether it is a target, through which no gradient flows."""


@dataclass(frozen=True)
class Objective:
    """One row of the table."""

    name: str
    """Key of its weight in the `losses` section, of its metric, and of its row in docs/method.md §4."""
    title: str
    """What people read on pages and charts."""
    loss: Loss
    count: Count
    compared: tuple[Output, Output] | None = None
    """The rows that are compared, partners at equal places; None for `cross_entropy`."""
    head: Head | None = None
    """The head that turns `reads` into logits, for `cross_entropy`."""
    logits: str = ""
    """Key of the head's logits among the model's outputs."""
    head_reads: tuple[Read, ...] = ()
    """What the head reads, in the order of its arguments."""
    learnable_temperature: bool = False
    """Whether similarities are divided by the model's temperature instead of `losses.completion_temperature`."""
    classes: int | None = None
    """Equally likely answers of a `cross_entropy`; None where the answers are words, which differ in frequency."""
    per_frame: bool = False
    """Whether frame f of a sample is compared with frame f of the others alone."""
    duplicates: Sameness | None = None
    """By what samples are duplicates where `losses.duplicates` says what these are to each other; None where rows are
    all different: tokens, whose negatives are the other tokens of their own sample too."""

    @property
    def compares_samples(self) -> bool:
        """Whether the candidates are the samples of a batch, so that their number says what the loss compares with."""
        return self.loss in ("nce", "sigmoid") and self.count == "samples"

    @property
    def reads(self) -> tuple[Read, ...]:
        """Everything that it reads of fusion."""
        return self.head_reads + tuple(output.read for output in self.compared or () if output.read is not None)


TEXT_PROJECTION, VISION_PROJECTION = Output("text_proj"), Output("vision_proj")
TEMPERATURE = "temperature"
"""Key of the learnable temperature among the model's outputs."""
PAIRWISE_SCALE, PAIRWISE_BIAS = "pairwise_scale", "pairwise_bias"
"""Keys of the learnable scale and bias of `sigmoid`."""
OBJECTIVES = (
    Objective(
        "contrastive",
        "Contrastive",
        loss="nce",
        count="samples",
        compared=(TEXT_PROJECTION, VISION_PROJECTION),
        learnable_temperature=True,
        duplicates="either",
    ),
    Objective(
        "sigmoid",
        "Pairwise sigmoid",
        loss="sigmoid",
        count="samples",
        compared=(TEXT_PROJECTION, VISION_PROJECTION),
        duplicates="either",
    ),
    Objective(
        "mlm",
        "Masked words (MLM)",
        loss="cross_entropy",
        count="words",
        head="mlm",
        logits="mlm_logits",
        head_reads=(Read("mlm", "text", "predicted"),),
    ),
    Objective(
        "itm",
        "Image-text matching (ITM)",
        loss="cross_entropy",
        count="samples",
        head="itm",
        logits="itm_logits",
        classes=2,
        head_reads=(Read("itm", "text", "cls"), Read("itm", "vision", "frame_cls")),
    ),
    Objective(
        "mvsc",
        "Vision completion (MVSC)",
        loss="nce",
        count="samples",
        compared=(
            Output("vision_recovered", Read("mvsc", "vision", "frame_cls")),
            Output("vision_target", Read("mlsc", "vision", "frame_cls"), detached=True),
        ),
        per_frame=True,
        duplicates="image",
    ),
    Objective(
        "mlsc",
        "Language completion (MLSC)",
        loss="nce",
        count="samples",
        compared=(
            Output("text_recovered", Read("mlsc", "text", "cls")),
            Output("text_target", Read("mvsc", "text", "cls"), detached=True),
        ),
        duplicates="caption",
    ),
    Objective(
        "mltc_image",
        "Local completion, image (MLTC)",
        loss="group_nce",
        count="replaced",
        compared=(
            Output("vision_tokens_recovered", Read("mltc", "vision", "replaced")),
            Output("vision_tokens_target", Read("mlsc", "vision", "replaced"), detached=True),
        ),
    ),
    Objective(
        "mltc_text",
        "Local completion, text (MLTC)",
        loss="nce",
        count="completed",
        compared=(
            Output("text_tokens_recovered", Read("mlsc", "text", "completed")),
            Output("text_tokens_target", Read("mvsc", "text", "completed"), detached=True),
        ),
    ),
)
"""All objectives, in the order of pages; terms are added up in it, those of the global batch first."""


def compares_globally(losses: LossesConfig) -> bool:
    """Return whether an objective in use compares over the global batch, whose features all have to be known first."""
    return any(objective.loss in ("nce", "sigmoid") for objective in objectives_in_use(losses))


def objectives_in_use(losses: LossesConfig) -> tuple[Objective, ...]:
    """Return the rows whose weight is above 0, as these settings have them.

    In economy mode (`losses.mlm_view: t2`) MLM reads its words off the pair of MLSC.
    """
    in_use = tuple(objective for objective in OBJECTIVES if getattr(losses, objective.name) > 0)
    if losses.mlm_view == "t1":
        return in_use
    words = (Read("mlsc", "text", "predicted"),)
    return tuple(replace(objective, head_reads=words) if objective.head == "mlm" else objective for objective in in_use)
