"""The machine's own speed limit: how fast it multiplies matrices, and what share of that a run reaches."""

import statistics
import time
from typing import Any

import torch

from sclds.batch.split import split_batch
from sclds.config import Config
from sclds.config.errors import DataError
from sclds.costs.counts import Kind, packed_forward
from sclds.costs.plan import DEFAULT_TEXT_TOKENS, kind_shares, step_factor, vocabulary_size
from sclds.data.storage.shards import cache_of, open_index
from sclds.machine.implementations import compute_dtype

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


def machine_profile(config: Config, processes: int, text_tokens: float | None = None) -> dict[str, Any]:
    """Return what the report needs beside the metrics, to be stored as `profile` in results.json.

    Call it on all ranks at once, so that they share the machine as they do in training, and keep rank 0's.

    Args:
        config: The run.
        processes: Processes that trained.
        text_tokens: Mean tokens of a caption; by default a usual one's.

    Returns:
        Processes, peak FLOPs per second of all of them (this process's times their number), the caption length, and
        the matmul FLOPs of training on a sample: forward, twice that for backward, and what is recomputed.
    """
    tokens = round(text_tokens or DEFAULT_TEXT_TOKENS)
    return {
        "processes": processes,
        "peak_flops": measure_peak_flops(compute_dtype(config)) * processes,
        "text_tokens": tokens,
        "flops_per_sample": training_flops(config, processes, tokens),
    }


def training_flops(config: Config, processes: int, text_tokens: int) -> int:
    """Return the matmul FLOPs of training on one sample, over the mix of samples."""
    vocabulary = vocabulary_size(config)
    forward = sum(
        share * sum(packed_forward(config, kind, text_tokens, vocabulary).values())
        for kind, share in sample_shares(config).items()
    )
    factor = step_factor(config, split_batch(config.batch, processes).accumulation)
    return round(forward * factor)


def sample_shares(config: Config) -> dict[Kind, float]:
    """Return the share of each kind among the samples of an epoch: sizes of the sets times their weights.

    Sets that are not on this machine are taken as equally large.
    """
    try:
        sizes = [len(open_index([dataset], cache_of(config.data))) * dataset.weight for dataset in config.data.train]
    except DataError:
        return kind_shares(config)
    shares: dict[Kind, float] = {}
    for dataset, size in zip(config.data.train, sizes, strict=True):
        shares[dataset.kind] = shares.get(dataset.kind, 0.0) + size / sum(sizes)
    return shares


def summarize_steps(metrics: list[dict[str, Any]]) -> dict[str, Any]:
    """Return the median pace and the mean seconds of every stage; the first logged step warms up and does not count.

    Args:
        metrics: Lines of metrics.jsonl.

    Returns:
        `samples_per_second`, and `seconds` by stage (data, forward, backward, optimizer, other, total); empty
        without a line that was timed.
    """
    timed = [line for line in metrics if line.get("seconds") and line.get("samples_per_second")]
    timed = timed[1:] or timed
    if not timed:
        return {}
    stages = ("data", "forward", "backward", "optimizer", "total")
    seconds = {stage: statistics.fmean(line["seconds"].get(stage, 0.0) for line in timed) for stage in stages}
    known = sum(seconds[stage] for stage in stages[:-1])
    seconds["other"] = max(0.0, seconds["total"] - known)
    return {
        "samples_per_second": statistics.median(line["samples_per_second"] for line in timed),
        "seconds": seconds,
    }


def _wait(device: torch.device) -> None:
    """Wait for the device to finish."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
