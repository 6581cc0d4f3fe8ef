"""The `sclds` command: all commands by what they are for; each imports what it needs when it is called."""

import sys

import click

from sclds.cli import (
    benchmark_bookkeeping,
    benchmark_checkpoint,
    benchmark_data,
    benchmark_economy,
    benchmark_engine,
    benchmark_goodput,
    benchmark_guards,
    benchmark_objectives,
    benchmark_phases,
    benchmark_plan,
    benchmark_step,
    convert_encoders,
    convert_from_huggingface,
    convert_huggingface,
    convert_released,
    convert_run,
    convert_to_released,
    data_order,
    data_show,
    data_stats,
    doctor,
    evaluate,
    explore,
    finetune,
    launch,
    plan,
    prepare_embedded,
    prepare_index,
    prepare_public,
    profile,
    report,
    train,
    verify_invariance,
    verify_reference,
)
from sclds.cli.command import Group, Program, run

ABOUT = """Vision-language pre-training with Semantic Completion Learning under DeepSpeed ZeRO-3.

`sclds COMMAND --help` explains a command. A configuration is a YAML file or the name of a shipped one, and every
setting of it can be given behind it: sclds train --config quickstart schedule.steps=100
"""


def _print_version(ctx: click.Context, param: click.Parameter, wanted: bool) -> None:
    """Print this package's version and those of the libraries that decide what a run computes."""
    if not wanted:
        return
    from sclds import __version__
    from sclds.machine.packages import installed_version

    libraries = (f"{name} {installed_version(name) or 'not installed'}" for name in ("torch", "deepspeed"))
    click.echo(", ".join((f"sclds {__version__}", *libraries)))
    ctx.exit()


def _show_help() -> None:
    ctx = click.get_current_context()
    if ctx.invoked_subcommand is None:
        click.echo(ctx.get_help())


PROGRAM = Program(
    "sclds",
    ABOUT,
    {
        "Data": (
            prepare_public.Sources(
                "prepare", "Turn a public data set into shards.", (prepare_embedded.command, prepare_index.command)
            ),
            Group(
                "data",
                "Look at what a configuration reads: a page, order, statistics.",
                (data_show.command, data_order.command, data_stats.command),
            ),
        ),
        "Before a run": (doctor.command, plan.command, profile.command),
        "Runs": (train.command, finetune.command, launch.command, evaluate.command, explore.command, report.command),
        "Weights": (
            Group(
                "convert",
                "Bring weights in and out: released, Hugging Face, a run's checkpoint.",
                (
                    convert_released.command,
                    convert_to_released.command,
                    convert_run.command,
                    convert_encoders.command,
                    convert_huggingface.command,
                    convert_from_huggingface.command,
                ),
            ),
        ),
        "Proofs and comparisons": (
            Group(
                "verify",
                "Compare with published numbers, and one split over processes with another.",
                (verify_reference.command, verify_invariance.command),
            ),
            Group(
                "benchmark",
                "Measure the step and the data beside what is usual, on this machine.",
                (
                    benchmark_step.command,
                    benchmark_data.command,
                    benchmark_economy.command,
                    benchmark_objectives.command,
                    benchmark_engine.command,
                    benchmark_phases.command,
                    benchmark_bookkeeping.command,
                    benchmark_goodput.command,
                    benchmark_plan.command,
                    benchmark_checkpoint.command,
                    benchmark_guards.command,
                ),
            ),
        ),
    },
    invoke_without_command=True,
    callback=_show_help,
    params=[
        click.Option(
            ["--version"],
            is_flag=True,
            is_eager=True,
            expose_value=False,
            callback=_print_version,
            help="show versions and exit",
        )
    ],
)
"""Every command under its heading."""


def main(argv: list[str] | None = None) -> int:
    """Run one command and return its exit code."""
    return run(PROGRAM, argv, "sclds")


if __name__ == "__main__":
    sys.exit(main())
