"""What share of the machine's own speed limit a run reaches."""

import statistics
from typing import Any

from sclds.batch.split import split_batch
from sclds.config import Config
from sclds.config.errors import DataError
from sclds.costs.counts import Kind, packed_forward
from sclds.costs.plan import DEFAULT_TEXT_TOKENS, vocabulary_size
from sclds.costs.step import kind_shares, step_factor
from sclds.data.storage.shards import cache_of, open_index


def machine_profile(config: Config, processes: int, peak_flops: float) -> dict[str, Any]:
    """Return what the report needs beside the metrics, to be stored as `profile` in results.json.

    Args:
        config: The run.
        processes: Processes that trained.
        peak_flops: FLOPs per second that they reached together (`measured_peak`).

    Returns:
        Processes, their peak, the length of a usual caption, and the matmul FLOPs of training on a sample with it:
        forward, twice that for backward, and what is recomputed.
    """
    return {
        "processes": processes,
        "peak_flops": peak_flops,
        "text_tokens": DEFAULT_TEXT_TOKENS,
        "flops_per_sample": training_flops(config, processes, DEFAULT_TEXT_TOKENS),
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
