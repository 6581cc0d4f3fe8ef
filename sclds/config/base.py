"""What every section of the configuration is made of: its base, the bounds of its fields, and what may change."""

from typing import Annotated, TypeVar

from pydantic import BaseModel, ConfigDict, Field

Share = Annotated[float, Field(ge=0.0, le=1.0)]
Probability = Annotated[float, Field(ge=0.0, lt=1.0)]
Positive = Annotated[int, Field(ge=1)]
Weight = Annotated[float, Field(ge=0.0)]
Epsilon = Annotated[float, Field(ge=1e-30)]
"""What keeps a division from one by 0; less than that fp32 rounds to 0."""


class MayChangeMark:
    """Marks a field for `keys_that_may_change`."""


T = TypeVar("T")
MayChange = Annotated[T, MayChangeMark()]
"""A setting that a resumed run may have other than its checkpoint: it does not change what a step computes."""


class Section(BaseModel):
    """Base of all sections: unknown keys are refused, values keep their type, field docstrings are descriptions.

    No setting may be infinite or not a number.
    """

    model_config = ConfigDict(
        extra="forbid", frozen=True, use_attribute_docstrings=True, validate_default=True, allow_inf_nan=False
    )
