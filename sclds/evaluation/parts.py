"""Finished parts of a long measurement, so that one that was killed goes on where it was.

A part is a file of tensors and a record, with a digest in front; it is whole or absent. All parts of a measurement lie
in a folder named by a hash of everything that its figures follow from: weights, settings, samples, this program and the
device. So a part is never taken for that of another measurement. The number of processes is none of these: a part is a
batch of samples, or a stretch of pairs within one, whoever works on it.
"""

import hashlib
import json
import logging
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load, save
from torch import Tensor

from sclds.run.files import replacing

_DIGEST_BYTES = 32
_RECORD = "record"
"""Tensor that holds the record's JSON."""
_SUFFIX = ".sclpart"
_log = logging.getLogger(__name__)


class Parts:
    """The parts of one measurement.

    Args:
        folder: Beside the results; it holds a folder a measurement.
        key: Of `sclds.evaluation.identity.key_of`.
    """

    def __init__(self, folder: Path, key: str):
        self._folder = folder / key
        self._can_write = True

    def examine(self) -> list[str]:
        """Remove damaged parts, which are then made again; return a sentence on these, and on what is taken over."""
        told, counts = [], {"encoded": 0, "matched": 0}
        for path in sorted(self._folder.glob(f"*{_SUFFIX}")):
            if _content(path) is None:
                path.unlink(missing_ok=True)
                told.append(f"{path.name} of an evaluation that did not end is damaged: that part is computed again")
            else:
                counts[path.name.split("-")[0]] += 1
        if any(counts.values()):
            told.append(
                f"Taken over from an evaluation of these weights, settings and samples that did not end: "
                f"{counts['encoded']:,} batches of samples, {counts['matched']:,} stretches of matched pairs"
            )
        others = self._folder.parent.glob("*") if self._folder.parent.is_dir() else ()
        if any(other != self._folder for other in others):
            told.append(
                f"{self._folder.parent} also holds parts of an evaluation of other weights, settings or samples, which "
                "are not used; they are removed when this one is done"
            )
        return told

    def take(self, name: str) -> tuple[dict[str, Tensor], dict[str, Any]] | None:
        """Return tensors and record of a part; None where it is not there, or damaged."""
        content = _content(self._folder / f"{name}{_SUFFIX}")
        if content is None:
            return None
        tensors = load(content)
        return tensors, json.loads(tensors.pop(_RECORD).numpy().tobytes())

    def keep(self, name: str, tensors: Mapping[str, Tensor], record: Mapping[str, Any]) -> None:
        """Write a part; where that fails, as on a full disk, this is said, and nothing more is kept."""
        if not self._can_write:
            return
        said = torch.frombuffer(bytearray(json.dumps(record).encode("ascii")), dtype=torch.uint8)
        content = save({**{key: tensor.contiguous() for key, tensor in tensors.items()}, _RECORD: said})
        try:
            with replacing(self._folder / f"{name}{_SUFFIX}") as file:
                file.write(hashlib.sha256(content).digest())
                file.write(content)
        except OSError as fault:
            self._can_write = False
            _log.warning(
                "Parts of this evaluation cannot be kept in %s (%s): if it is killed, it starts over",
                *(self._folder, fault.strerror),
            )


def remove_parts(folder: Path) -> None:
    """Remove the parts of all measurements in a folder."""
    shutil.rmtree(folder, ignore_errors=True)


def _content(path: Path) -> bytes | None:
    """Return what a part holds; None where it is not there, or is not what was written."""
    try:
        whole = path.read_bytes()
    except OSError:
        return None
    content = whole[_DIGEST_BYTES:]
    return content if whole[:_DIGEST_BYTES] == hashlib.sha256(content).digest() else None
