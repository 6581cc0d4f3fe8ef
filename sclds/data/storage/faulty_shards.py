"""What is said of shards that cannot be used, by those who read them and by those who index them."""

import shlex

from sclds.data.storage.archive import AGAIN, ArchiveError
from sclds.data.storage.files import StoredFile
from sclds.data.storage.left_out import Tally
from sclds.data.storage.tar_members import EXTENSIONS, NOT_CAPTIONS, Kind


def unreadable(dataset: str | None, file: StoredFile, fault: Exception) -> str:
    """Return a sentence about a shard that cannot be read."""
    reason = "it is empty (0 bytes)" if file.size == 0 else str(fault)
    remedy = fault.remedy if isinstance(fault, ArchiveError) else AGAIN
    name = shlex.quote(file.place)
    return f"shard {file.place}{_of(dataset)} cannot be read: {reason}; {remedy.replace('FILE', name)}"


def hollow(dataset: str | None, kind: Kind, file: StoredFile, left_out: Tally) -> str:
    """Return a sentence about a shard without a sample of a kind, and what it has instead."""
    found = "; ".join(map(str, left_out.found()))
    return (
        f"shard {file.place}{_of(dataset)} holds no sample of kind '{kind}' "
        f"({', '.join(sorted(EXTENSIONS[kind]))}){f', but {found}' if found else ''}; remove it, or correct the data "
        f"set's kind"
    )


def _of(dataset: str | None) -> str:
    return "" if dataset is None else f" of data set '{dataset}'"


def other_task(dataset: str | None, place: str, extension: str) -> str:
    """Return a sentence about a shard whose samples are of a downstream task, as an extension in it shows."""
    return (
        f"shard {place}{_of(dataset)} holds {NOT_CAPTIONS[extension]}, which have no captions to pre-train on; "
        f"leave the data set out"
    )
