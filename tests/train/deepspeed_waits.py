"""Where DeepSpeed makes the host wait for the device: the lines that a step runs, and those that the documents list."""

import contextlib
import re
import sys
from pathlib import Path
from unittest import mock

import deepspeed
import torch
from deepspeed.accelerator import get_accelerator
from torch.utils._python_dispatch import TorchDispatchMode

PACKAGE = Path(deepspeed.__file__).parent
aten = torch.ops.aten
READS = (aten._local_scalar_dense.default, aten.nonzero.default, aten.equal.default, aten.is_nonzero.default)
"""Operators for which the host waits; `item`, `float`, `bool` and `if` on a tensor are the first."""
WAIT = re.compile(r"\.item\(\)|\.synchronize\(\)|\.any\(\)\)|if clip_coef <")
"""What such a line looks like."""
KNOWN = (f"{PACKAGE}/", "/sclds/", "/scl_kernels/", "/torch/optim/")
"""Whose code a wait is of: what our own does the pretend device tells, and fused AdamW reads nothing on the host."""
LISTED = Path(__file__).parents[2] / "docs" / "pretend_device.md"


@contextlib.contextmanager
def waits_that_run():
    """Collect, inside the block, lines of DeepSpeed's that make the host wait: `runtime/zero/stage3.py:12`."""
    found = set()

    def note(*_):
        frame = sys._getframe(1)
        while frame is not None and not any(part in frame.f_code.co_filename for part in KNOWN):
            frame = frame.f_back
        if frame is not None and frame.f_code.co_filename.startswith(str(PACKAGE)):
            found.add(f"{Path(frame.f_code.co_filename).relative_to(PACKAGE).as_posix()}:{frame.f_lineno}")

    class Reads(TorchDispatchMode):
        def __torch_dispatch__(self, function, types, args=(), kwargs=None):
            if function in READS:
                note()
            return function(*args, **kwargs or {})

    with Reads(), mock.patch.object(type(get_accelerator()), "synchronize", note):
        yield found


def listed():
    """Return DeepSpeed's version and the lines that docs/pretend_device.md names, as `waits_that_run` does."""
    text = LISTED.read_text(encoding="utf-8")
    version = re.search(r"Read in DeepSpeed (\S+)[ ,:(]", text)[1]
    found = set()
    for cell in re.findall(r"^\| (`(?:runtime|utils)/[^|]+)\|", text, re.MULTILINE):
        file = None
        for named in re.findall(r"`([^`]+)`", cell):
            file, _, line = named.rpartition(":") if ":" in named else (file, "", named)
            found.add(f"{file}:{line}")
    return version, found
