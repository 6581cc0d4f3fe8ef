"""`sclds profile`: measure training speed; alone, or as `deepspeed --module sclds.cli.profile --config C --steps N`.

Runs the real step on the real data, without held-out measurements, checkpoints or a run folder, and writes a profile:
time of every phase, shares of the peak, bytes, memory; alone or beside variants.
"""

import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import click

from sclds.cli.arguments import FILE, Several, Whole, configured
from sclds.cli.command import Command, run

VERSION = 1
"""Of the form of `profile.json`."""


class VariantName(click.ParamType):
    """The name of a variant, or `all`."""

    name = "name"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> str:
        """Return the name, or say which ones there are."""
        from sclds.benchmarks.variants import ALL, VARIANTS

        if value not in (ALL, *VARIANTS):
            raise click.UsageError(f"--compare {value} is no variant: give {', '.join(VARIANTS)}, or {ALL}", ctx)
        return str(value)


@click.command("profile", cls=Command)
@configured
@click.option("--steps", type=Whole(1, 1_000_000), default=20, help="steps that count; two more warm up")
@click.option("--out", type=FILE, metavar="FOLDER", help="folder for profile.json; by default profiles/NAME")
@click.option("--trace", is_flag=True, help="write a trace of every rank for Chrome and Perfetto")
@click.option(
    "--compare", cls=Several, type=VariantName(), metavar="NAME...", help="run variants side by side in turn; or `all`"
)
@click.option("--rounds", type=Whole(1, 1000), default=2, help="turns of a comparison")
@click.option(
    "--limit", type=Whole(1, 10**6), default=1800, help="seconds after which a variant of a comparison is given up"
)
@click.option("--json", "as_json", is_flag=True, help="print JSON instead of text")
@click.option("--into", type=FILE, hidden=True)
@click.option("--trace-into", type=FILE, hidden=True)
@click.option("--published", is_flag=True, hidden=True)
@click.option("--local_rank", type=Whole(-1), default=0, hidden=True, expose_value=False)
def command(config: str, overrides: tuple[str, ...], **options: Any) -> int:
    """Measure training speed and where the time of a step goes.

    The real step on the real data, without held-out measurements, checkpoints or a run folder; alone, or as
    `deepspeed --module sclds.cli.profile --config …`.
    """
    from sclds.config.overrides import replaced
    from sclds.config.rules import refuse_task
    from sclds.train.place import this_place
    from sclds.train.progress import drop_banners
    from sclds.train.startup import checked_start, exit_code

    def work() -> int:
        place = this_place()
        drop_banners(place.rank)
        # nothing is written there; another folder keeps the checks from comparing with a run that is there
        elsewhere = f"run_dir={Path(tempfile.gettempdir()) / 'sclds-profile'}"
        settings = checked_start(config, replaced(overrides, [elsewhere]), place.world_size).config
        refuse_task(settings, "sclds profile")
        folder = options["out"] or Path("profiles") / settings.name
        if options["compare"]:
            found = _compared(config, overrides, folder, settings.name, options)
        else:
            traces = options["trace_into"] or (folder / "traces" if options["trace"] else None)
            found = _measured(settings, traces, options)
        if found is None:
            return 0
        if options["into"]:
            _write(options["into"], found)
            return 0
        profile = _profile(settings.name, found)
        _write(folder / "profile.json", profile)
        _show(profile, folder, options["as_json"])
        return int(all(variant["failed"] for variant in profile["variants"]))

    return exit_code(work, "measures again")


def _measured(settings: Any, traces: Path | None, options: Mapping[str, Any]) -> dict[str, Any] | None:
    """Measure one variant, on all ranks; the first one has the figures."""
    from sclds.train.profile_steps import profile_steps

    if not options["published"]:
        return profile_steps(settings, options["steps"], traces)
    from sclds.benchmarks.published_run import profile_published

    return profile_published(settings, options["steps"], traces)


def _compared(
    config: str, overrides: Sequence[str], folder: Path, name: str, options: Mapping[str, Any]
) -> dict[str, Any] | None:
    """Run variants in turn, and write after each what is known; the first rank has the figures."""
    from sclds.benchmarks.variants import Comparison, chosen, compare
    from sclds.cli.printing import say
    from sclds.train.place import this_place

    names, rank = chosen(options["compare"]), this_place().rank
    traces = folder / "traces" if options["trace"] else None
    steps, rounds, limit = options["steps"], options["rounds"], float(options["limit"])
    asked = Comparison(config, tuple(overrides), names, steps, rounds, traces, limit)
    return compare(
        asked,
        say if rank == 0 else lambda text: None,
        lambda found: _write(folder / "profile.json", _profile(name, found)),
    )


def _profile(name: str, found: Mapping[str, Any]) -> dict[str, Any]:
    """Return what `profile.json` holds."""
    variants = found["variants"] if "variants" in found else [found["variant"]]
    parts = {"environment": found["environment"], "config": found["config"], "variants": variants}
    return {"kind": "profile", "version": VERSION, "name": name, **parts}


def _write(path: Path, tree: Mapping[str, Any]) -> None:
    import json

    from sclds.config.errors import UserError
    from sclds.run.files import write_atomically

    try:
        write_atomically(path, json.dumps(tree, indent=1) + "\n")
    except OSError as fault:
        raise UserError(f"{path} cannot be written ({fault.strerror or fault}): name another folder") from fault


def _show(profile: Mapping[str, Any], folder: Path, as_json: bool) -> None:
    """Print a profile, and where it lies."""
    import json

    variants = profile["variants"]
    if len(variants) > 1:
        from sclds.benchmarks.variants import write_table

        write_table(variants, folder / "profile.csv")
    if as_json:
        print(json.dumps(profile, indent=1))
        return
    if len(variants) > 1:
        _print_comparison(variants)
    else:
        _print(profile, variants[0])
    print(f"Written to {folder / 'profile.json'}" + (" and profile.csv" if len(variants) > 1 else ""))


def _print(profile: Mapping[str, Any], variant: Mapping[str, Any]) -> None:
    """Print the figures of one variant."""
    from sclds.cli.printing import Sheet, amount, duration

    sheet, whole = Sheet(), sum(variant["seconds"].values())
    processes = profile["environment"]["processes"]
    sheet.text(
        f"{profile['name']}: {amount(variant['samples_per_second'], 'samples/s')}, "
        f"{amount(variant['tokens_per_second'], 'tokens/s')} on {processes} processes, {variant['steps']} steps"
    )
    rows = [
        (
            name,
            duration(seconds),
            f"{seconds / whole:.1%}",
            " to ".join(duration(q) for q in variant["quantiles"][name]),
        )
        for name, seconds in variant["seconds"].items()
        if seconds
    ]
    sheet.table(("phase", "median", "of the step", "20 % to 80 %"), rows, right=True)
    for label, text in _figures(variant):
        sheet.text(f"{label}: {text}")


def _figures(variant: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Return what is said below the phases."""
    from sclds.cli.printing import amount, duration

    def share(name: str) -> str:
        return "unknown" if variant[name] is None else f"{variant[name]:.1%}"

    peak = amount(variant["peak_flops"], "FLOP/s")
    return [
        ("MFU", f"{share('mfu_measured')} of the {peak} measured here; of the data sheet {share('mfu')}"),
        ("HFU", f"{share('hfu_measured')} of the measured; of the data sheet {share('hfu')}"),
        ("On the wire", f"{amount(variant['wire_bytes'], 'B')} a step and process; overlapped {share('overlap')}"),
        ("Memory", amount(variant["memory_bytes"], "B")),
        ("Padding avoided", share("padding_avoided")),
        ("Host", f"{duration(variant['host_seconds'])} to ask for forward and backward"),
    ]


def _print_comparison(variants: Sequence[Mapping[str, Any]]) -> None:
    """Print a row a variant, and why those that failed did."""
    from sclds.benchmarks.variants import ratios
    from sclds.cli.printing import Sheet, amount

    sheet, rows = Sheet(), []
    for variant, ratio in zip(variants, ratios(variants), strict=True):
        if variant["failed"]:
            continue
        peak = variant["mfu_measured"]
        rows.append(
            (
                variant["name"],
                f"{variant['samples_per_second']:.4g}",
                "" if ratio is None else f"{ratio[0]:.2f} ({ratio[1]:.2f} to {ratio[2]:.2f})",
                "" if peak is None else f"{peak:.1%}",
                amount(variant["wire_bytes"], "B"),
                amount(variant["memory_bytes"], "B"),
            )
        )
    headings = ("variant", "samples/s", f"of {variants[0]['name']}", "MFU", "wire", "memory")
    sheet.table(headings, rows, right=True)
    for variant in variants:
        if variant["failed"]:
            sheet.text(f"{variant['name']} cannot run here: {variant['failed']}")


def main(argv: list[str] | None = None) -> int:
    """Run the command by itself, as a launcher starts it, and return its exit code."""
    return run(command, argv, "sclds profile")


if __name__ == "__main__":
    sys.exit(main())
