"""One line of the long CSV that kernel benchmarks write and the page of a run draws."""

import json
from typing import Any, NamedTuple


class Measurement(NamedTuple):
    """What was measured of one provider of one kernel at one size; fields are the CSV's columns."""

    kernel: str
    provider: str
    mode: str
    metric: str
    """`milliseconds` or `peak_bytes` (above the inputs; GPU only)."""
    x: int
    median: float
    q20: float
    q80: float
    config: str
    """JSON: the shape by name."""
    device: str
    versions: str
    commit: str

    @classmethod
    def of_line(cls, line: dict[str, Any]) -> "Measurement":
        """Return the measurement of a line that `csv.DictReader` gives; columns of other versions are left out.

        Raises:
            KeyError: A column is missing.
            TypeError: The line is cut short.
            ValueError: Something is no number.
        """
        numbers = {"x": int, "median": float, "q20": float, "q80": float}
        values: dict[str, Any] = {name: numbers.get(name, _text)(line[name]) for name in cls._fields}
        return cls(**values)

    @property
    def shape(self) -> dict[str, Any]:
        """The shape by name.

        Raises:
            ValueError: `config` holds no object.
        """
        found = json.loads(self.config)
        if not isinstance(found, dict):
            raise ValueError(f"expected an object in config, got {self.config}")
        return found


def _text(value: Any) -> str:
    if not isinstance(value, str):
        raise TypeError(f"expected text, got {value!r}")
    return value
