"""Measure training speed: `deepspeed [--hostfile hosts] launchers/profile.py --config C --steps N [key=value …]`.

Runs the real step on the real data, without held-out measurements, checkpoints or a run folder, and prints samples/s,
where the time went, and the share of the machine's peak matmul speed.
"""

import argparse
import json
import os
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

# a script's own folder comes first on the path, where this file's name would hide Python's `profile`
sys.path[:] = [p for p in sys.path if Path(p or ".").resolve() != Path(__file__).resolve().parent]

STAGES = ("data", "forward", "backward", "optimizer", "other")


def arguments() -> argparse.Namespace:
    """Read the command line; `--local_rank` comes from the launcher."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--config", required=True, help="YAML file, see configs/")
    parser.add_argument("--steps", type=int, default=20, help="steps that count (default 20); one more warms up")
    parser.add_argument("--json", action="store_true", help="print JSON instead of text")
    parser.add_argument("--local_rank", type=int, default=0, help=argparse.SUPPRESS)
    parser.add_argument("overrides", nargs="*", metavar="key=value", help="settings over those of the file")
    return parser.parse_args()


def measure(config: Any, steps: int) -> dict[str, Any] | None:
    """Run the steps and return the figures on rank 0."""
    from sclds.batch.split import split_batch
    from sclds.costs.peak import machine_profile, summarise_steps
    from sclds.data.loader import TrainingBatches
    from sclds.data.tokenizer import load_tokenizer
    from sclds.machine.implementations import choose, use
    from sclds.train.distributed import ProcessGroup
    from sclds.train.engine import build_engine
    from sclds.train.step import train_step

    group = ProcessGroup()
    try:
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
        batches.close()
        # t0 of every sample of this rank
        mean_tokens = tokens / ((steps + 1) * split.micro * split.accumulation)
        profile = {**summarise_steps(lines), **machine_profile(config, group.world_size, mean_tokens)}
        return {"name": config.name, "steps": steps, **profile} if group.rank == 0 else None
    finally:
        group.close()


def show(found: dict[str, Any]) -> None:
    """Print the figures for people."""
    seconds, rate = found["seconds"], found["flops_per_sample"] * found["samples_per_second"]
    print(f"\n{found['name']}: {found['samples_per_second']:,.1f} samples/s on {found['processes']} processes")
    for stage in STAGES:
        print(f"  {stage:<10} {seconds[stage]:8.3f} s  {seconds[stage] / seconds['total']:6.1%}")
    print(f"  {'step':<10} {seconds['total']:8.3f} s")
    print(
        f"  {rate / 1e9:,.1f} GFLOP/s of matrix products, {rate / found['peak_flops']:.1%} of this machine's "
        f"{found['peak_flops'] / 1e9:,.0f} GFLOP/s"
    )


def main() -> int:
    """Check everything, then measure and print."""
    from sclds.train.progress import drop_banners
    from sclds.train.startup import checked_config, exit_code

    given, rank = arguments(), int(os.environ.get("RANK", "0"))
    drop_banners(rank)
    if given.steps < 1:
        print("error: --steps must be at least 1", file=sys.stderr)
        return 2

    def run() -> int:
        # nothing is written; another folder keeps the checks from comparing with a run that is there
        elsewhere = f"run_dir={Path(tempfile.gettempdir()) / 'sclds-profile'}"
        config = checked_config(given.config, [*given.overrides, elsewhere], int(os.environ.get("WORLD_SIZE", "1")))
        found = measure(config, given.steps)
        if found is not None:
            print(json.dumps(found, indent=2)) if given.json else show(found)
        return 0

    return exit_code(run, rank)


if __name__ == "__main__":
    sys.exit(main())
