"""The lock that a killed compilation leaves behind, for which every later start would wait without a word."""

import contextlib
import os
import time
from pathlib import Path

from torch.utils.cpp_extension import get_default_build_root

STALE_SECONDS = 600
"""A lock older than this belongs to nobody: DeepSpeed's small operations compile within a minute or two."""


def remove_stale_locks(root: Path | None = None) -> list[Path]:
    """Remove locks of DeepSpeed's compiled operations that are older than `STALE_SECONDS`, and return them.

    Args:
        root: Folder of torch's compiled extensions; by default the one that torch uses.
    """
    root = root or Path(os.environ.get("TORCH_EXTENSIONS_DIR") or get_default_build_root())
    removed = []
    for lock in [*root.glob("deepspeed_*/lock"), *root.glob("*/deepspeed_*/lock")]:
        with contextlib.suppress(OSError):  # another process may have removed it just now
            if time.time() - lock.stat().st_mtime > STALE_SECONDS:
                lock.unlink()
                removed.append(lock)
    return removed
