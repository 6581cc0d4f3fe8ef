"""The machine's own speed limit: how fast it multiplies matrices; needs PyTorch alone."""

import time

import torch

CPU_SIZE, GPU_SIZE = 1024, 8192
"""Side of the square matrices: large enough to fill the machine, small enough for a second's work."""
REPEATS = 7


def measure_peak_flops(dtype: torch.dtype, device: torch.device | None = None) -> float:
    """Return the best matmul FLOPs per second of a few multiplications of two large square matrices.

    They hold normal values, as activations and weights do: with ones hardly any bit flips, a GPU draws less power and
    clocks higher, and the peak would be one that no training reaches.

    Args:
        dtype: Compute type.
        device: Where; by default the current CUDA device, or this process's share of the CPU (its threads).
    """
    device = device or torch.device("cuda" if torch.cuda.is_available() else "cpu")
    size = GPU_SIZE if device.type == "cuda" else CPU_SIZE
    generator = torch.Generator(device).manual_seed(0)
    left, right = (torch.randn(size, size, dtype=dtype, device=device, generator=generator) for _ in range(2))
    best = float("inf")
    for _ in range(REPEATS):
        _wait(device)
        start = time.perf_counter()
        torch.mm(left, right)
        _wait(device)
        best = min(best, time.perf_counter() - start)
    return 2 * size**3 / best


def _wait(device: torch.device) -> None:
    """Wait for the device to finish."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
