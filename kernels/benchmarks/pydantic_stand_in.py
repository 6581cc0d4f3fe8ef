"""What `sclds.config` needs of pydantic, for a GPU machine that has PyTorch and Triton and little else.

Defaults and nested sections, without any check: the benchmarks build their configurations themselves. With pydantic
installed `install` does nothing.
"""

import importlib.util
import sys
import types
from typing import Any, NamedTuple, Self, get_type_hints


class FieldInfo(NamedTuple):
    """What is known of a field."""

    annotation: Any
    default: Any


class BaseModel:
    """A section: every annotated name is a field, its value in the class the default."""

    model_fields: dict[str, Any] = {}  # noqa: RUF012  # as pydantic has it, one per class

    def __init_subclass__(cls) -> None:
        hints = {name: hint for name, hint in get_type_hints(cls).items() if name != "model_fields"}
        cls.model_fields = {name: FieldInfo(hint, getattr(cls, name, None)) for name, hint in hints.items()}

    def __init__(self, **values: Any):
        for name, (hint, default) in self.model_fields.items():
            value = values.get(name, default)
            nested = isinstance(value, dict) and isinstance(hint, type) and issubclass(hint, BaseModel)
            setattr(self, name, hint(**value) if nested else value)

    @classmethod
    def model_validate(cls, values: dict[str, Any]) -> Self:
        """Return a section with these fields; others keep their defaults."""
        return cls(**values)


def install() -> None:
    """Stand in for pydantic where it is missing."""
    if "pydantic" in sys.modules or importlib.util.find_spec("pydantic") is not None:
        return
    module: Any = types.ModuleType("pydantic")
    module.BaseModel = BaseModel
    module.ConfigDict = dict
    module.Field = lambda **bounds: None
    module.model_validator = lambda **when: lambda check: check
    sys.modules["pydantic"] = module
