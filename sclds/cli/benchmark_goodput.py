"""`sclds benchmark goodput`: what failures cost a run on many GPUs, and how often it should save."""

import click

from sclds.cli.arguments import Several, Whole
from sclds.cli.command import Command


@click.command("goodput", cls=Command)
@click.option("--gpus", cls=Several, type=Whole(1, 10_000_000), default=(64, 1024, 16384), help="sizes of the job")
@click.option("--stall-ms", type=Whole(1, 10**7), default=1000, help="milliseconds that a checkpoint holds training up")
@click.option("--restart", type=Whole(0, 10**6), default=120, help="seconds from the processes' end to the first step")
@click.option("--detection", type=Whole(0, 10**6), default=10, help="seconds from a failure to the processes' end")
@click.option("--mttf-minutes", type=Whole(1, 10**7), default=474, help="mean time to failure of a job on 1,024 GPUs")
def command(gpus: tuple[int, ...], stall_ms: int, restart: int, detection: int, mttf_minutes: int) -> None:
    """Simulate failures: the best interval between checkpoints, and the share of the time that is not lost.

    Give it the times of your own runs: the page of a run and its events.jsonl have them. docs/bad_days.md names the
    source of the time to failure.
    """
    from sclds.cli.printing import Sheet, duration
    from sclds.costs import failures

    costs = failures.Costs(stall_ms / 1000, restart, detection)
    rows = []
    for count in gpus:
        mean = failures.mean_seconds_between_failures(count, mttf_minutes / 60)
        best = failures.daly_interval(costs.stall, mean)
        rows.append(
            (
                f"{count:,}",
                duration(mean),
                duration(failures.young_interval(costs.stall, mean)),
                duration(best),
                f"{failures.expected_goodput(best, costs, mean):.2%}",
                f"{failures.simulated_goodput(best, costs, mean):.2%}",
            )
        )
    Sheet().table(
        ("GPUs", "time to failure", "interval (Young)", "interval (Daly)", "goodput, closed form", "simulated"),
        rows,
        title=f"Checkpoints that stall {costs.stall:g} s, restarts of {restart} s, noticed after {detection} s",
        right=True,
    )
