"""What accounts of kernels are made of: published peaks, bytes, FLOPs, memory, and what a launch costs the host.

The accounts themselves stand beside each operation, as arithmetic that can be read and printed. Bytes are counted per
pass over the data; tables that fit in the L2 cache and per-token integers are counted where they are not negligible.
"""

from collections.abc import Sequence
from typing import Literal, NamedTuple

LAUNCH_SECONDS = 6e-6
"""A small eager operation on an idle GPU: what the host needs to issue it."""
OPERATOR_SECONDS = 30e-6
"""What the host needs to enter a custom operator and launch a Triton kernel, beyond an eager operation."""
CAUTION = 2
"""Factor on every estimate of the host's time, for what the counts leave out."""


class Device(NamedTuple):
    """Published peaks of a device and its limits per multiprocessor."""

    name: str
    bytes_per_second: float
    flops: float
    """bf16 with fp32 sums, dense."""
    shared_per_block: int
    shared_per_sm: int
    registers_per_sm: int = 65536
    warps_per_sm: int = 64


DEVICES = {
    80: Device("A100 SXM 80 GB", 2.039e12, 312e12, 163 * 1024, 164 * 1024),
    90: Device("H100 SXM 80 GB", 3.35e12, 989e12, 227 * 1024, 228 * 1024),
}


class Term(NamedTuple):
    """One step of an account: what it is and its amount."""

    what: str
    amount: float


def total(terms: Sequence[Term]) -> float:
    """Add an account up."""
    return sum(term.amount for term in terms)


class Account(NamedTuple):
    """Bytes of an operation against those of eager code, in one setting."""

    title: str
    """The operation and its sizes."""
    verb: str
    """`moves`, or `needs` where memory is counted."""
    ours: list[Term]
    eager: list[Term]
    target: float
    """How many times fewer the operation's have to be."""
    remarks: Sequence[str] = ()
    """Lines to print below."""


class Work(NamedTuple):
    """What one call of an operation has to do at least."""

    unit: Literal["bytes", "FLOPs"]
    amount: float
    target: float | None = None
    """Share of the peak that is aimed for."""


class Cost(NamedTuple):
    """What the host pays for a kernel in a small forward and backward pass, and what the device gains from it."""

    added_seconds: float
    """Of the host, beyond the reference's."""
    reason: str
    """What they are made of."""
    saved_bytes: float
    """Per unit of the operation's size."""


def launch_cost(kernel_launches: int, reference_launches: int, saved_bytes: float) -> Cost:
    """Return the cost of a kernel of two operators from launches counted in the code, for few tokens."""
    added = (kernel_launches - reference_launches) * LAUNCH_SECONDS + 2 * OPERATOR_SECONDS
    reason = (
        f"{kernel_launches} launches against {reference_launches}, {LAUNCH_SECONDS * 1e6:.0f} us each, and two "
        f"operators, {OPERATOR_SECONDS * 1e6:.0f} us each"
    )
    return Cost(CAUTION * added, f"{CAUTION} times {reason}", saved_bytes)
