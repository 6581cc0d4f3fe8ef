"""The real step on the real data, timed, without held-out measurements, checkpoints or a run folder."""

import time
from typing import Any

from sclds.batch.split import split_batch
from sclds.config import Config
from sclds.costs.peak import machine_profile, summarize_steps
from sclds.data.loader import TrainingBatches
from sclds.data.tokenizer import load_tokenizer
from sclds.machine.implementations import choose, use
from sclds.train.agreement import refuse_strangers
from sclds.train.distributed import ProcessGroup
from sclds.train.engine import build_engine
from sclds.train.step import train_step


def profile_steps(config: Config, steps: int) -> dict[str, Any] | None:
    """Run `steps` steps after one that warms up, on all processes that the launcher started.

    Returns:
        On rank 0, pace and seconds by stage (`summarize_steps`), the machine (`machine_profile`), `name` and `steps`;
        None on the others.
    """
    group = ProcessGroup()
    try:
        refuse_strangers(config, group)
        use(choose(config))
        split = split_batch(config.batch, group.world_size)
        tokenizer = load_tokenizer(config.data.tokenizer)
        engine = build_engine(config, tokenizer, split, group)
        training = TrainingBatches(config, tokenizer, group.rank, group.world_size, split.micro, split.accumulation)
        batches, lines, tokens = iter(training), [], 0
        for step in range(steps + 1):
            begun = time.perf_counter()
            micro_batches = next(batches)
            waited = time.perf_counter() - begun
            report = train_step(engine, micro_batches, step, config, split, group, measure=True)
            total = time.perf_counter() - begun
            seconds = {**report.seconds, "data": report.seconds["data"] + waited, "total": total}
            pace = config.batch.global_size / total
            lines.append({"step": step, "samples_per_second": pace, "seconds": seconds})
            tokens += sum(int(batch.lengths.text_cu_seqlens[batch.counts.samples]) for batch in micro_batches)
        batches.close()  # type: ignore[attr-defined]  # a generator
        # t0 of every sample of this rank
        mean_tokens = tokens / ((steps + 1) * split.micro * split.accumulation)
        profile = {**summarize_steps(lines), **machine_profile(config, group.world_size, mean_tokens)}
        return {"name": config.name, "steps": steps, **profile} if group.rank == 0 else None
    finally:
        group.close()
