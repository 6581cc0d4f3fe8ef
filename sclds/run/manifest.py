"""What a checkpoint consists of: size and SHA-256 of every file, written last, compared before anything is read.

A manifest vouches for its files: a flipped byte, a file that was cut short and another run's file in this one's place
are found before a process opens them. Ranks share the work of hashing, so that the cost falls with their number.
"""

import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from sclds.run.files import write_atomically

MANIFEST_FILE = "manifest.json"
"""Written after every other file of the folder, whose names it lists."""
_FORMAT = 1
_THREADS = 4
_BLOCK = 1 << 22


@dataclass(frozen=True)
class FileRecord:
    """One file as it was written."""

    size: int
    """Bytes."""
    sha256: str
    """Of the content, in hexadecimal."""


def record_files(folder: Path, files: Sequence[Path]) -> dict[str, FileRecord]:
    """Return size and SHA-256 of `files` by their names relative to `folder`; several are read at a time.

    Raises:
        OSError: A file cannot be read.
    """
    with ThreadPoolExecutor(_THREADS) as pool:  # hashlib lets other threads run
        digests = list(pool.map(_sha256, files))
    return {
        file.relative_to(folder).as_posix(): FileRecord(file.stat().st_size, digest)
        for file, digest in zip(files, digests, strict=True)
    }


def write_manifest(folder: Path, files: Mapping[str, FileRecord], facts: Mapping[str, Any] | None = None) -> None:
    """Write the manifest of a folder whose files are complete.

    Args:
        folder: That holds the files.
        files: Record of each by its relative name.
        facts: What else is to be known of the folder, as JSON.
    """
    tree = {"format": _FORMAT, **(facts or {}), "files": {name: asdict(files[name]) for name in sorted(files)}}
    write_atomically(folder / MANIFEST_FILE, json.dumps(tree, indent=1) + "\n")


def manifest_of(folder: Path) -> dict[str, FileRecord] | None:
    """Return the files that a folder's manifest lists; None for a folder of a version that wrote none.

    Raises:
        ValueError: There is a manifest that cannot be understood.
    """
    try:
        text = (folder / MANIFEST_FILE).read_text(encoding="utf-8")
    except FileNotFoundError:
        return None
    except OSError as fault:
        raise ValueError(f"its {MANIFEST_FILE} cannot be read ({fault.strerror})") from fault
    except UnicodeDecodeError as fault:
        raise ValueError(f"its {MANIFEST_FILE} is damaged (it is no text)") from fault
    try:
        tree = json.loads(text)
        if tree["format"] != _FORMAT:
            raise ValueError(f"its {MANIFEST_FILE} has format {tree['format']}, expected {_FORMAT}")
        return {str(name): FileRecord(int(r["size"]), str(r["sha256"])) for name, r in tree["files"].items()}
    except (KeyError, TypeError, AttributeError, json.JSONDecodeError) as fault:
        raise ValueError(f"its {MANIFEST_FILE} is damaged ({type(fault).__name__}: {fault})") from fault


def share_of(names: Iterable[str], rank: int, world_size: int) -> list[str]:
    """Return the names that a rank compares: every `world_size`-th in the order of letters."""
    return sorted(names)[rank::world_size]


def file_problems(folder: Path, files: Mapping[str, FileRecord], names: Iterable[str]) -> list[str]:
    """Return what is wrong with `names` out of a manifest; sizes first, then contents of those that have theirs.

    Args:
        folder: That holds the files.
        files: The folder's manifest.
        names: Those to compare.
    """
    problems, to_read = [], []
    for name in names:
        try:
            size = (folder / name).stat().st_size
        except OSError as fault:
            problems.append(f"{name} cannot be read ({fault.strerror})")
            continue
        if size != files[name].size:
            problems.append(f"{name} has {size:,} bytes, expected {files[name].size:,}")
        else:
            to_read.append(name)
    with ThreadPoolExecutor(_THREADS) as pool:
        for name, found in zip(to_read, pool.map(lambda name: _digest_or_fault(folder / name), to_read), strict=True):
            if found != files[name].sha256:
                problems.append(f"{name} {found if ' ' in found else 'has another content than was written'}")
    return problems


def _digest_or_fault(file: Path) -> str:
    try:
        return _sha256(file)
    except OSError as fault:
        return f"cannot be read ({fault.strerror})"


def _sha256(file: Path) -> str:
    digest = hashlib.sha256()
    with file.open("rb", buffering=0) as stream:
        while block := stream.read(_BLOCK):
            digest.update(block)
    return digest.hexdigest()
