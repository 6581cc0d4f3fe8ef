"""Which objectives help: contrastive alone, and what each group of the others adds (docs/does_scl_help.md)."""

from sclds.benchmarks.comparison import Comparison, Way
from sclds.config import Config, LossesConfig
from sclds.config.schema import LOSS_WEIGHTS

CONTRASTIVE, PLAIN, VISION, LANGUAGE, ALL, LOCAL, SIGMOID = (
    "contrastive",
    "+ ITM + MLM",
    "+ ITM + MLM + MVSC",
    "+ ITM + MLM + MLSC",
    "all five",
    "all five + local terms",
    "all five, sigmoid for contrastive",
)
FIVE = ("contrastive", "itm", "mlm", "mvsc", "mlsc")
LOCAL_WEIGHT = 0.2
"""Of either local term, as published."""
SIGMOID_WEIGHT = 6
"""Of the sigmoid loss: the quickstart's of the contrastive one whose place it takes."""


def _problems(config: Config) -> list[str]:
    """Say which of the five a configuration lacks, and which others it has."""
    losses = config.losses
    missing = [name for name in FIVE if not getattr(losses, name)]
    others = [name for name in LOSS_WEIGHTS if name not in FIVE and getattr(losses, name)]
    problems = [f"losses.{name} has no weight; give it one: ways without it switch it off" for name in missing]
    problems += [f"losses.{name} has a weight; remove it: ways with it switch it on" for name in others]
    if losses.mlm_view != LossesConfig().mlm_view or losses.itm_negatives != LossesConfig().itm_negatives:
        problems.append("losses.mlm_view and losses.itm_negatives need objectives that are switched off; remove them")
    return problems


def _without(*names: str) -> tuple[str, ...]:
    return tuple(f"losses.{name}=0" for name in names)


COMPARISON = Comparison(
    name="objectives",
    ways=(
        Way(CONTRASTIVE, "contrastive", _without("itm", "mlm", "mvsc", "mlsc"), "#b4b3ab"),
        Way(PLAIN, "itm-mlm", _without("mvsc", "mlsc"), "#2a78d6"),
        Way(VISION, "mvsc", _without("mlsc"), "#1a9e72"),
        Way(LANGUAGE, "mlsc", _without("mvsc"), "#d99100"),
        Way(ALL, "all", (), "#c8443b"),
        Way(LOCAL, "local", tuple(f"losses.{name}={LOCAL_WEIGHT}" for name in ("mltc_image", "mltc_text")), "#7d4bb8"),
        Way(SIGMOID, "sigmoid", (f"losses.sigmoid={SIGMOID_WEIGHT}", *_without("contrastive")), "#0f7f8c"),
    ),
    clock=ALL,
    tested=(
        (PLAIN, CONTRASTIVE),
        (VISION, PLAIN),
        (LANGUAGE, PLAIN),
        (ALL, PLAIN),
        (ALL, CONTRASTIVE),
        (LOCAL, ALL),
        (SIGMOID, ALL),
    ),
    problems=_problems,
)
