"""The objectives of a step as one table, which packing, heads, losses, costs, pages and tests loop over."""

from sclds.objectives.pairs import PAIRS, Pair, pairs_in_use, view_names
from sclds.objectives.table import OBJECTIVES, Objective, Output, Read, compares_globally, objectives_in_use

__all__ = [
    "OBJECTIVES",
    "PAIRS",
    "Objective",
    "Output",
    "Pair",
    "Read",
    "compares_globally",
    "objectives_in_use",
    "pairs_in_use",
    "view_names",
]
