"""The typed batch: the one thing that data, model and losses share."""

from sclds.batch.packing import Recipe, pack, recipe_of
from sclds.batch.types import Batch, Counts, TextViews, VisionViews
from sclds.batch.views import ITM_DRAWS, SampleViews, grids_of

__all__ = [
    "ITM_DRAWS",
    "Batch",
    "Counts",
    "Recipe",
    "SampleViews",
    "TextViews",
    "VisionViews",
    "grids_of",
    "pack",
    "recipe_of",
]
