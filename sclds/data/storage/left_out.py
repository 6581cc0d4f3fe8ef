"""What shards hold and training does not use: counted by reason, a few named, so that nothing is lost unsaid."""

from collections.abc import Iterable
from dataclasses import dataclass, replace

_NAMED = 3
"""Names that are kept of each reason."""
_LONGEST = 80
"""Characters of a name that are kept."""


@dataclass(frozen=True)
class LeftOut:
    """What was left out for one reason."""

    reason: str
    """What the things are, as one of them is called: "symbolic link"."""
    count: int
    names: tuple[str, ...]
    """The first of them."""
    remedy: str = ""
    """What has them used after all, if something does."""

    def __str__(self) -> str:
        shown = ", ".join(map(_printable, self.names)) + ", …" * (self.count > len(self.names))
        return f"{self.count} × {self.reason} ({shown})" + f": {self.remedy}" * bool(self.remedy)


class Tally:
    """Counts what is left out."""

    def __init__(self) -> None:
        self._found: dict[str, LeftOut] = {}

    def add(self, reason: str, name: str, remedy: str = "") -> None:
        """Count one more thing of a name."""
        self.merge([LeftOut(reason, 1, (name[:_LONGEST],), remedy)])

    def merge(self, others: Iterable[LeftOut]) -> None:
        """Add what another tally has found."""
        for one in others:
            known = self._found.get(one.reason)
            if known is not None:
                one = replace(known, count=known.count + one.count, names=(known.names + one.names)[:_NAMED])
            self._found[one.reason] = one

    def found(self) -> tuple[LeftOut, ...]:
        """Return what was found, the most frequent reason first."""
        return tuple(sorted(self._found.values(), key=lambda one: (-one.count, one.reason)))


def _printable(name: str) -> str:
    return "".join(sign if sign.isprintable() else ascii(sign)[1:-1] for sign in name)
