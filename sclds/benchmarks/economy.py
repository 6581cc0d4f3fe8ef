"""The exact and the economy mode, which differ where MLM finds its masked words (docs/costs.md)."""

from sclds.benchmarks.comparison import Comparison, Way
from sclds.config import Config

EXACT, ECONOMY = "exact", "economy"


def _problems(config: Config) -> list[str]:
    if config.losses.mlm and config.losses.mlsc:
        return []
    return ["the modes differ where MLM and MLSC are both in use; give losses.mlm and losses.mlsc weights"]


COMPARISON = Comparison(
    name="economy",
    ways=(
        Way(EXACT, "exact", ("losses.mlm_view=t1",), "#2a78d6"),
        Way(ECONOMY, "economy", ("losses.mlm_view=t2",), "#1a9e72"),
    ),
    clock=EXACT,
    tested=((ECONOMY, EXACT),),
    problems=_problems,
)
