"""Sizes of launches; Triton's own functions for them take microseconds each, as much as a small launch."""


def cdiv(size: int, step: int) -> int:
    """Return size / step rounded up."""
    return -(-size // step)


def power_of_two(size: int) -> int:
    """Return the smallest power of two that is at least `size`, which is at least 1."""
    return 1 << (size - 1).bit_length()
