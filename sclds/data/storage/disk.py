"""Faults of this machine, which are never those of the data: they end a run instead of setting samples aside."""

import errno
import os
from pathlib import Path

from sclds.config.errors import DataError
from sclds.run.files import free_space

_OTHER_FOLDER = "give another data.cache_dir"
_FULL = f"free some, lower data.cache_bytes, or {_OTHER_FOLDER}"
_CLOSED = f"make it writable for this user, or {_OTHER_FOLDER}"
_BROKEN = f"the disk may be failing: {_OTHER_FOLDER}"
_OF_WRITING = {
    errno.ENOSPC: _FULL,
    errno.EDQUOT: _FULL,
    errno.EFBIG: f"raise the limit on a file's size (`ulimit -f`), or {_OTHER_FOLDER}",
    errno.EROFS: _CLOSED,
}
"""Faults that only writing has, and what to do."""
_OF_EITHER = {errno.EIO: _BROKEN, errno.EACCES: _CLOSED, errno.EPERM: _CLOSED, errno.ENODEV: _BROKEN}
"""Faults that the storage read from may have as well as the disk written to, and what to do about the latter."""
_OF_RESOURCES = {
    errno.EMFILE: "raise the limit of a process (`ulimit -n`)",
    errno.ENFILE: "raise the machine's limit (`sysctl fs.file-max`)",
    errno.ENOMEM: "lower data.prefetch or data.decode_threads, or start fewer processes",
}
"""What a machine may run out of wherever files lie, and what to do."""
_PROBE = bytes(4096)


class MachineFaultError(DataError):
    """A fault of this machine, in a sentence with path and remedy."""


def disk_fault(folder: Path, fault: OSError) -> MachineFaultError:
    """Return what to raise if the cache's disk cannot be used: path, free space, remedy."""
    if fault.errno in _OF_RESOURCES:
        return MachineFaultError(f"{folder}: {fault.strerror}; {_OF_RESOURCES[fault.errno]}")
    remedy = _OF_WRITING.get(fault.errno or 0) or _OF_EITHER.get(fault.errno or 0) or _OTHER_FOLDER
    return MachineFaultError(
        f"the shard cache {folder} cannot be used: {fault.strerror or fault}; {free_space(folder)}. "
        f"{remedy[0].upper()}{remedy[1:]}."
    )


def spoils_writing(fault: OSError, handle: int) -> bool:
    """Return whether a fault met while a file was fetched lies in the disk written to, and not in the storage.

    Args:
        fault: What was met.
        handle: The file written to; what it holds is of no use any more.
    """
    if fault.errno in _OF_WRITING or fault.errno in _OF_RESOURCES:
        return True
    if fault.errno not in _OF_EITHER:
        return False
    try:  # both ends have such faults: the one that has it still has it
        os.pwrite(handle, _PROBE, 0)
        os.fsync(handle)
    except OSError:
        return True
    return False


def machine_fault(fault: OSError, cache: Path | None) -> MachineFaultError | None:
    """Return what to raise if a shard cannot be read for a fault of this machine; None if the shard is at fault.

    Args:
        fault: What was met.
        cache: The cache's folder, if its copy of the shard was being read.
    """
    if fault.errno in _OF_RESOURCES:
        return MachineFaultError(f"a shard cannot be opened: {fault.strerror}; {_OF_RESOURCES[fault.errno]}")
    if cache is not None and fault.errno == errno.EIO:
        return disk_fault(cache, fault)
    return None
