"""The last collectives of every process, as a file in the run folder when some of them did not come to an end.

torch notes them in a ring in memory, for the price of a few events each ("flight recorder"). It writes the ring itself
when a collective of NCCL waits too long or fails; where our watchdog, whose limits are shorter, ends the process, it
has the file written first. `torchfrtrace FOLDER` says which ranks were in which collective (docs/bad_days.md).
"""

import os
import threading
from collections.abc import MutableMapping
from pathlib import Path
from typing import Any

import torch

PREFIX = "rank_"
"""Of the files, which end in the rank."""
ENTRIES = 2000
"""Collectives kept, tens of steps: a step under ZeRO-3 has one for every layer and direction."""
_SECONDS = 20.0
"""Longest wait for the file; a driver that hangs may never let go of the ring."""


def keep_collectives(folder: Path, environment: MutableMapping[str, str] | None = None) -> None:
    """Have torch keep the last collectives; before process groups exist, which read this once.

    Args:
        folder: Where files go. What the user has set in the environment stands.
        environment: This process's by default.
    """
    given = os.environ if environment is None else environment
    settings = (
        (str(ENTRIES), ("TORCH_FR_BUFFER_SIZE", "TORCH_NCCL_TRACE_BUFFER_SIZE")),
        (str(folder / PREFIX), ("TORCH_FR_DUMP_TEMP_FILE", "TORCH_NCCL_DEBUG_INFO_TEMP_FILE")),
        ("1", ("TORCH_NCCL_DUMP_ON_TIMEOUT",)),
    )
    for value, names in settings:  # the second name is that of torch before 2.9, by which people still know it
        if not any(name in given for name in names):
            given[names[0]] = value
    folder.mkdir(parents=True, exist_ok=True)


def write_collectives(rank: int) -> Path | None:
    """Write what is kept to where `keep_collectives` said; return the file, or None where nothing is kept or it hangs.

    Args:
        rank: Of this process.
    """
    given = os.environ
    prefix = given.get("TORCH_FR_DUMP_TEMP_FILE", given.get("TORCH_NCCL_DEBUG_INFO_TEMP_FILE"))
    if prefix is None:
        return None
    file = Path(f"{prefix}{rank}")
    writer = threading.Thread(target=_write, args=(file,), name="flight recorder", daemon=True)
    writer.start()
    writer.join(_SECONDS)
    return None if writer.is_alive() or not file.is_file() else file


def _write(file: Path) -> None:
    collectives: Any = torch._C._distributed_c10d  # torch's stubs lack both
    # with NCCL its own ring, else that of gloo; both without C++ stacks, which take minutes to resolve
    dump = getattr(collectives, "_dump_nccl_trace", None) or collectives._dump_fr_trace
    temporary = file.with_name(f".{file.name}.part")
    try:
        temporary.write_bytes(dump())
        os.replace(temporary, file)
    except (OSError, RuntimeError):  # the process ends for another reason, which is told
        temporary.unlink(missing_ok=True)
