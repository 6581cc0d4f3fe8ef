"""The shape of `results.json`, by which a damaged part is known, said and left out, so that the rest can be shown."""

from collections.abc import Mapping
from typing import Annotated, Any

from pydantic import BaseModel, Field, TypeAdapter, ValidationError

_Figures = dict[str, float | None]
_Count = Annotated[int, Field(ge=0)]


class _Ranked(BaseModel):
    n: Annotated[int, Field(ge=1)]
    r1: float
    r5: float
    r10: float
    median_rank: float


class _Directions(BaseModel):
    text_to_vision: _Ranked
    vision_to_text: _Ranked


class _Losses(BaseModel):
    initial: _Figures = {}
    final: _Figures = {}


class _Set(BaseModel):
    kind: str
    samples: _Count = 0
    index: str = ""
    losses: _Losses = _Losses()
    levels: _Figures = {}
    loss_samples: _Count = 0
    retrieval: _Directions | None = None


class _Example(BaseModel):
    kind: str
    sample_id: str
    caption: str
    rank: int
    of: int
    retrieved: list[str]


_SHAPES: Mapping[str, TypeAdapter[Any]] = {
    "retrieval": TypeAdapter(dict[str, _Directions]),
    "examples": TypeAdapter(list[_Example]),
    "losses": TypeAdapter(_Losses),
    "sets": TypeAdapter(dict[str, _Set]),
    "evaluation": TypeAdapter(dict[str, Any]),
    "profile": TypeAdapter(dict[str, float]),
    "steps": TypeAdapter(_Count),
}
"""By the keys that this program writes; others are left as they are."""


def sound_results(tree: Any, problems: list[str]) -> dict[str, Any]:
    """Return what of a `results.json` has the shape that it should have.

    Args:
        tree: What the file holds.
        problems: Is given a sentence for everything that is left out.
    """
    if not isinstance(tree, dict):
        problems.append(f"results.json is left out: it holds no object but a {type(tree).__name__}")
        return {}
    sound = {}
    for key, value in tree.items():
        try:
            if key in _SHAPES:
                _SHAPES[key].validate_python(value, strict=True)
        except ValidationError as fault:
            error = fault.errors()[0]
            where = ".".join([key, *map(str, error["loc"])])
            problems.append(f"results.json: `{key}` is damaged and left out: {where}: {_lower(error['msg'])}")
        else:
            sound[key] = value
    return sound


def _lower(sentence: str) -> str:
    return sentence[:1].lower() + sentence[1:]
