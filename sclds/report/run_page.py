"""The page of a run: what it learned, how, how fast; one HTML file that needs nothing else.

It is built from the run folder alone. What a run did not leave behind becomes a sentence instead of a section.
"""

from collections.abc import Sequence
from html import escape
from pathlib import Path

from sclds.config import keys_that_may_change
from sclds.costs.peak import summarize_steps
from sclds.evaluation.answers import first_figures
from sclds.evaluation.losses import loss_titles
from sclds.evaluation.record import differences
from sclds.evaluation.retrieval import DIRECTIONS
from sclds.report.charts import cards
from sclds.report.curves import accuracy_charts, heldout_charts, loss_charts
from sclds.report.goodput import goodput_section
from sclds.report.page import document, write_page
from sclds.report.parts import Tile, contents, facts, folded, listed, note, section, tiles
from sclds.report.planned import planned_section
from sclds.report.reference import Reference, reference_of
from sclds.report.results import queries, set_aside, task_sections
from sclds.report.run_contents import Run, read_run
from sclds.report.settings import setting_differences, settings_of
from sclds.report.starts import describe_start
from sclds.report.style import STYLE
from sclds.report.throughput import parts_of, phases, throughput
from sclds.run.folder import RunFolder
from sclds.run.goodput import goodput_of
from sclds.run.health import health_of

NO_KERNELS = (
    "No kernel was measured beside this run. `python kernels/benchmarks/run.py` writes a CSV; `sclds report RUN "
    "runs/kernel-benchmarks` draws both on one page."
)


def write_report(run_dir: Path) -> Path:
    """Write `report.html` into a run folder and return its path; an older one is replaced in one go.

    Raises:
        UserError: The folder is not there or not a run's, or the page cannot be written.
    """
    found = read_run(run_dir)
    target = RunFolder(found.folder).report
    write_page(target, page(found), "make the folder writable")
    return target


def page(run: Run) -> str:
    """Return the whole page of a run alone."""
    return document(run.name, run_body(run, reference_of(run), section("Roofline of kernels", note(NO_KERNELS))), STYLE)


def run_body(run: Run, reference: Reference | None, kernels: str) -> str:
    """Return what the page of a run holds.

    Args:
        run: It.
        reference: Curves behind its own.
        kernels: The section of measured kernels.
    """
    sections = "".join(
        (
            section("Losses", _curves(run, reference)),
            _heldout(run, reference),
            task_sections(run),
            queries(run),
            section("Throughput", throughput({run.name: run})),
            section("Where the time went", _time(run)),
            goodput_section(run.events),
            section("Plan against measured", planned_section(run)),
            kernels,
            section("Where it ran", _starts(run)),
            section("Do it again", _commands(run)),
            section("Settings", _settings(run)),
        )
    )
    return (
        f"<header><h1>{escape(run.name)}</h1><p class=lead>{escape(_lead(run))}</p></header>"
        f"{contents(sections)}{_warnings(run)}{tiles(headline(run))}{set_aside(run)}{sections}"
    )


def _lead(run: Run) -> str:
    """Return one sentence on what was trained."""
    if not run.metrics:
        return "This run has not logged a step yet."
    step = run.metrics[-1]["step"]
    if run.config is None:
        return f"Semantic Completion Learning, {step:,} steps."
    config = run.config
    done = f"{step:,} of {config.schedule.steps:,} steps" if step < config.schedule.steps else f"{step:,} steps"
    return (
        f"Semantic Completion Learning, {done} of {config.batch.global_size:,} samples, from "
        f"{', '.join(d.name for d in config.data.train)}. ZeRO stage {config.engine.zero_stage}, "
        f"{config.engine.precision}."
    )


def _warnings(run: Run) -> str:
    """Return what of the folder is damaged, and whether its results are of another state of the run."""
    told = list(run.problems)
    if run.config is not None:
        step = run.metrics[-1]["step"] if run.metrics else run.results.get("steps", 0)
        stale = differences(run.results, run.config, step)
        told += [f"The results below are not of the run as it stands: {one}" for one in stale]
        if stale:
            told.append("The command that continues the run measures them again.")
    return listed(told + long_run(run))


def long_run(run: Run) -> list[str]:
    """Return how much of a long run is drawn, where that is not all."""
    if not run.even:
        return []
    return [
        f"Drawn from {len(run.metrics):,} of {run.logged:,} logged steps: of every stretch the first, and those with "
        f"the least and the largest total loss, gradient norm and rate (M4, Jugel et al., VLDB 2014); means and "
        f"medians are those of the {len(run.even):,} at even distances"
    ]


def headline(run: Run) -> list[Tile]:
    """Return the headline figures."""
    found = []
    for kind, directions in run.results.get("retrieval", {}).items():
        for direction, label in DIRECTIONS.items():
            row = directions[direction]
            chance = min(1.0, 10 / row["n"])
            against = f"{row['r10'] / chance:.1f}× chance ({chance:.1%}) of {row['n']:,} candidates"
            found.append(Tile(f"{label.format(kind)}, R@10", f"{row['r10']:.0%}", against))
    for name, figure in first_figures(run.results):
        against, chance = f"of {figure['n']:,} examples", figure["chance"]
        against += "" if chance is None else f"; {chance:.1%} by the most frequent answer"
        found.append(Tile(f"{name}, {figure['title']}", f"{figure['value']:.1%}", against))
    pace = summarize_steps(run.evenly)
    if pace:
        share = _share_of_peak(run)
        against = f"{share:.0%} of peak matmul speed" if share else "training, median"
        found.append(Tile("Speed", f"{pace['samples_per_second']:,.0f}/s", f"samples; {against}"))
    for entry, against in (("mfu", "of the data sheet's peak, last line"), ("tokens_per_second", "last line")):
        values = [value for line in run.evenly for value in parts_of(line, entry).values()]
        if values:
            title, text = ("MFU", f"{values[-1]:.1%}") if entry == "mfu" else ("Tokens", f"{values[-1]:,.0f}/s")
            found.append(Tile(title, text, against))
    good = goodput_of(run.events)
    if good and good.wall:
        found.append(Tile("Goodput", f"{good.share:.0%}", "of its time in steps that stand"))
    return found


def _curves(run: Run, reference: Reference | None) -> str:
    """Return the charts of training, and which losses stayed at what guessing gives."""
    runs = {run.name: run}
    charts = loss_charts(runs, reference.curves if reference else None)
    if not charts:
        return note("No loss was logged yet.")
    said = (
        "On the training batches; the strong line is a running mean, the dashed one what guessing gives: for "
        "contrastive and completion losses the logarithm of the number of candidates, both directions added, for "
        "matching ln 2, for masked words their entropy."
    )
    stuck: list[str] = []
    if run.config is not None:
        config = run.config
        health = health_of(run.evenly, config.schedule.steps, config.log.stuck_share)
        stuck = [one.sentence(loss_titles().get(one.term, one.term)) for one in health.stuck.values()]
        size, part = config.batch.global_size, config.losses.negatives == "micro_batch"
        said += (
            f" Candidates are {'those that run at the same time of ' if part else ''}the {size:,} samples of a batch."
        )
    beside = note(_about_reference(run, reference)) if reference else ""
    right = folded("How often the right one was found", cards(accuracy_charts(runs)))
    return note(said) + beside + listed(stuck) + cards(charts) + (f'<div class="more">{right}</div>' if right else "")


def _about_reference(run: Run, reference: Reference) -> str:
    """Return whose curves stand behind, and which of its settings are other."""
    told = f"Behind it, dotted and gray, a reference: {reference.source}."
    free = tuple(keys_that_may_change())
    there = {name: value for name, value in reference.settings.items() if not name.startswith(free)}
    here = {name: value for name, value in settings_of(run).items() if name in there}
    differing = setting_differences({"here": here, "there": {name: there[name] for name in here}})
    if not differing:
        return f"{told} What its settings compute is what those of this run do."
    shown = "; ".join(f"{name} {there} instead of {here}" for name, (here, there) in list(differing.items())[:6])
    more = f"; and {len(differing) - 6} more" if len(differing) > 6 else ""
    return f"{told} Its settings differ: {shown}{more}."


def _heldout(run: Run, reference: Reference | None) -> str:
    """Return the charts of what was measured during training; nothing where that was not asked for."""
    charts = heldout_charts({run.name: run}, reference.curves if reference else None)
    if not charts:
        return ""
    said = "Measured during training"
    if run.config is not None:
        evaluation = run.config.evaluation
        share = f" on {evaluation.share:.0%} of the batches of each set" if evaluation.share < 1 else ""
        size = f"{evaluation.batch_size:,} samples"
        said += f"{share}; losses over batches of {size}, which do not compare with those of training"
    return section("Held-out sets during training", note(f"{said}.") + cards(charts))


def _starts(run: Run) -> str:
    """Return where and with what the run ran, the last start first; earlier ones are folded."""
    if not run.starts:
        return note("Where and with what this run ran was not recorded.")
    tables = [facts(describe_start(start)) for start in reversed(run.starts)]
    last, *earlier = (f'<dl class="facts">{table}</dl>' for table in tables)
    starts = "1 earlier start" if len(earlier) == 1 else f"{len(earlier)} earlier starts"
    return f'<div class="card">{last}{folded(starts, "".join(earlier))}</div>'


def _time(run: Run) -> str:
    """Return where the time of a step went, and how fast that is."""
    pace = summarize_steps(run.evenly)
    profile, share = run.results.get("profile", {}), _share_of_peak(run)
    if not pace:
        return note("No step was timed yet.")
    if share is None:
        speed = "FLOPs and the share of the peak were not measured in this run."
    else:
        rate = profile["flops_per_sample"] * pace["samples_per_second"]
        speed = (
            f"{rate / 1e9:,.0f} GFLOP/s of matrix products: {share:.1%} of the {profile['peak_flops'] / 1e9:,.0f} "
            f"GFLOP/s at which {_processes(profile['processes'])} on this machine multiplied large matrices. FLOPs are "
            f"counted from the configuration, at {profile['text_tokens']} tokens a caption."
        )
    return phases({run.name: run}) + note(speed)


def _processes(count: int) -> str:
    return "1 process" if count == 1 else f"{count} processes"


def _share_of_peak(run: Run) -> float | None:
    """Return the share of the machine's peak matmul speed that training reached, or None if it is not known."""
    profile, pace = run.results.get("profile", {}), summarize_steps(run.evenly)
    if not pace or not {"flops_per_sample", "peak_flops", "processes", "text_tokens"} <= set(profile):
        return None
    if not profile["peak_flops"]:
        return None
    return float(profile["flops_per_sample"] * pace["samples_per_second"] / profile["peak_flops"])


def _about_pretraining(folder: Path) -> Sequence[tuple[str, str]]:
    settings = folder / "config.yaml"
    return (
        ("See what the model completes", f"sclds explore {folder}"),
        ("Measure speed alone", f"sclds profile --config {settings} --steps 20"),
        ("Plan it for a cluster", f"sclds plan --config {settings} --gpus 8 --gpu h100"),
    )


def _commands(run: Run) -> str:
    """Return the commands that repeat, continue and look into the run."""
    processes = run.starts[-1].world_size if run.starts else run.results.get("profile", {}).get("processes", 1)
    settings = run.folder / "config.yaml"
    train = f"deepspeed --num_gpus {processes} --module sclds.cli.train --config {settings}"
    commands: Sequence[tuple[str, str]] = (
        ("Train again, elsewhere", f"{train} run_dir=runs/again"),
        ("Continue after an interruption", train),
        ("Follow the curves", f"tensorboard --logdir {run.folder / 'tensorboard'}"),
        *(_about_pretraining(run.folder) if run.config is None or run.config.task is None else ()),
        ("Write this page again", f"sclds report {run.folder}"),
    )
    rows = "".join(
        f'<div class="command"><div>{escape(what)}<pre>{escape(line)}</pre></div>'
        f'<button data-copy="{escape(line)}">copy</button></div>'
        for what, line in commands
    )
    return f'<div class="card">{rows}</div>'


def _settings(run: Run) -> str:
    """Return the resolved configuration, folded."""
    if not run.settings:
        return note("The run folder holds no config.yaml.")
    return f'<details class="card"><summary>config.yaml, resolved</summary><pre>{escape(run.settings)}</pre></details>'
