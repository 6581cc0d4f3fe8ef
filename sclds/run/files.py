"""Files and folders that are whole or absent: written beside their place, flushed to the disk, renamed."""

import errno
import os
import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

from sclds.config.errors import UserError


def write_atomically(path: Path, content: str | bytes, private: bool = False) -> None:
    """Replace a file at once: a reader sees the old one or the new one, also after a power cut.

    Args:
        path: The file; its folder is made if it is not there.
        content: Bytes, or text that is written as UTF-8; what a tar's names hold that is no Unicode is escaped.
        private: Whether nobody but the owner may read it, at any time.

    Raises:
        OSError: The file cannot be written; what was there is left as it was.
    """
    with replacing(path) as file:
        if private:
            os.fchmod(file.fileno(), 0o600)
        file.write(content if isinstance(content, bytes) else content.encode("utf-8", "backslashreplace"))


@contextmanager
def replacing(path: Path) -> Iterator[BinaryIO]:
    """Give a file to write, which takes the place of `path` when the block ends well.

    It is written under the name `….part`. One that a killed process left behind is overwritten by the next attempt, so
    two processes must not write the same file at a time.

    Raises:
        OSError: The file cannot be written; what was there is left as it was.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f"{path.name}.part")
    try:
        with part.open("wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        part.replace(path)
    except BaseException:
        part.unlink(missing_ok=True)
        raise
    flush(path.parent)


def flush(path: Path) -> None:
    """Force a file, or the names that a folder holds, onto the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


@contextmanager
def new_folder(path: Path) -> Iterator[Path]:
    """Give a folder to fill, which becomes `path` when the block ends well; its files have the mode of new files.

    Libraries that write through a temporary file leave it readable to its owner alone; here the umask decides.

    Raises:
        FileExistsError: There is something at `path` already.
        UserError: The folder cannot be written; nothing is left behind.
    """
    if path.exists():
        raise FileExistsError(f"{path} exists already")
    part = path.with_name(f"{path.name}.part")
    shutil.rmtree(part, ignore_errors=True)
    try:
        part.mkdir(parents=True)
    except OSError as fault:
        raise unwritable(path, fault.errno) from fault
    try:
        with sentence_of_full_disk(path):
            yield part
            probe = part / ".mode"
            probe.touch()
            mode = probe.stat().st_mode
            probe.unlink()
            for file in part.rglob("*"):
                if file.is_file():
                    file.chmod(mode)
            part.rename(path)
    except BaseException:
        shutil.rmtree(part, ignore_errors=True)
        raise


_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
_REMEDIES = {
    "free space": _FULL,
    "let this user write there": (errno.EACCES, errno.EPERM),
    "mount that disk for writing": (errno.EROFS,),
    "look at that disk and its mount": (errno.EIO, errno.ESTALE, errno.ENODEV, errno.ENOTCONN),
}


def remedy(number: int | None, other: str = "run_dir") -> str:
    """Return what to do about a fault of a disk, by its number in `errno`; one that is not known says less.

    Args:
        number: The fault.
        other: Of what another one may be given.
    """
    told = next((told for told, numbers in _REMEDIES.items() if number in numbers), None)
    return (
        f"give another {other}, on a disk that can be written" if told is None else f"{told}, or give another {other}"
    )


def unwritable(path: Path, number: int | None) -> UserError:
    """Return the sentence of a file or folder that a disk does not take, by the number of the fault in `errno`."""
    why = os.strerror(number or errno.EIO)
    return UserError(f"{path} cannot be written ({why}; {free_space(path.parent)}): {remedy(number, 'name')}")


@contextmanager
def sentence_of_full_disk(path: Path) -> Iterator[None]:
    """Have a fault that only writing has, also one that a library tells in words alone, told as one of `path`.

    Raises:
        UserError: There was such a fault.
    """
    try:
        yield
    except Exception as fault:
        told = re.search(r"\(os error (\d+)\)", str(fault))
        number = fault.errno if isinstance(fault, OSError) else int(told[1]) if told else None
        if number not in (*_FULL, errno.EROFS):
            raise
        raise unwritable(path, number) from fault


def free_space(folder: Path) -> str:
    """Return what the disk of a folder, which need not be there yet, says of its room, as a part of a sentence."""
    place = next((one for one in (folder, *folder.parents) if one.exists()), Path("/"))
    try:
        usage = shutil.disk_usage(place)
    except OSError as fault:
        return f"its disk tells nothing of itself ({fault.strerror})"
    return f"{usage.free / 1e9:.3f} of {usage.total / 1e9:.3f} GB are free there"
