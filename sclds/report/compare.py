"""Several runs on one page: what differs in their settings, what they reached, and their curves over one another."""

from collections.abc import Mapping, Sequence
from html import escape

from sclds.costs.peak import summarize_steps
from sclds.evaluation.losses import loss_titles
from sclds.evaluation.retrieval import DIRECTIONS
from sclds.report.chart import shown
from sclds.report.charts import LINE_COLORS, cards
from sclds.report.curves import accuracy_charts, heldout_charts, loss_charts
from sclds.report.goodput import goodput_bar
from sclds.report.parts import contents, folded, listed, note, section, table
from sclds.report.reference import Reference
from sclds.report.run_contents import Run
from sclds.report.run_page import headline, long_run
from sclds.report.settings import setting_differences
from sclds.report.starts import describe_start
from sclds.report.throughput import phases, throughput
from sclds.run.goodput import goodput_of


def named(runs: Sequence[Run]) -> dict[str, Run]:
    """Return runs by names of their own: what they are called, or their folders where that is not enough."""
    by_name = {run.name: run for run in runs}
    if len(by_name) == len(runs):
        return by_name
    by_name = {run.folder.resolve().name: run for run in runs}
    return by_name if len(by_name) == len(runs) else {str(run.folder): run for run in runs}


def compared_body(runs: Mapping[str, Run], reference: Reference | None, kernels: str) -> str:
    """Return what the page of several runs holds."""
    losses = loss_charts(runs, reference.curves if reference else None)
    right = folded("How often the right one was found", cards(accuracy_charts(runs)))
    said = "Running means on the training batches; the dashed line is what guessing gives."
    sections = "".join(
        (
            section("Reached", _figures(runs)),
            section("Settings that differ", _differences(runs)),
            section("Losses", (note(said) + cards(losses) + right) if losses else note("No loss was logged yet.")),
            section("Held-out sets during training", cards(heldout_charts(runs))),
            section("Throughput", throughput(runs)),
            section("Where the time went", phases(runs)),
            section("What they went through", _goodput(runs)),
            kernels,
            section("Where they ran", _starts(runs)),
        )
    )
    problems = [f"{name}: {problem}" for name, run in runs.items() for problem in [*run.problems, *long_run(run)]]
    legend = "".join(
        f'<li><i class="line{place % LINE_COLORS}"></i>{escape(name)}<small>{escape(str(run.folder))}</small></li>'
        for place, (name, run) in enumerate(runs.items())
    )
    return (
        f"<header><h1>{len(runs)} runs compared</h1></header>"
        f'<ul class="legend runs">{legend}</ul>{contents(sections)}{listed(problems)}{sections}'
    )


def _figures(runs: Mapping[str, Run]) -> str:
    """Return a table of what each run reached: steps, last losses beside their levels, recalls, speed."""
    rows: dict[str, dict[str, str]] = {}
    for name, run in runs.items():
        if run.metrics:
            steps = f" of {run.config.schedule.steps:,}" if run.config else ""
            rows.setdefault("Steps", {})[name] = f"{run.metrics[-1]['step']:,}{steps}"
        for term, title in loss_titles().items():
            final = run.results.get("losses", {}).get("final", {}).get(term)
            if final is not None:
                rows.setdefault(f"Held-out loss: {title}", {})[name] = shown(final)
        for kind, directions in run.results.get("retrieval", {}).items():
            for direction, label in DIRECTIONS.items():
                found = directions[direction]
                text = f"{found['r10']:.1%} ({min(1.0, 10 / found['n']):.1%})"
                rows.setdefault(f"R@10 (chance), {label.format(kind)}", {})[name] = text
        pace = summarize_steps(run.evenly)
        if pace:
            rows.setdefault("Samples per second, median", {})[name] = shown(pace["samples_per_second"])
        for tile in headline(run):
            if tile.label in ("MFU", "Tokens", "Goodput"):
                rows.setdefault(tile.label, {})[name] = tile.value
    listed_rows = [(what, [values.get(name, "") for name in runs]) for what, values in rows.items()]
    return table("Reached", list(runs), listed_rows) if rows else note("No run has logged a step yet.")


def _differences(runs: Mapping[str, Run]) -> str:
    missing = [name for name, run in runs.items() if not run.settings]
    told = f"Without config.yaml, and so not compared: {', '.join(missing)}. " if missing else ""
    found = setting_differences(runs)
    if not found:
        return note(f"{told}The settings of these runs are the same, but for names and folders.")
    return note(told) + table("Settings that differ", list(runs), found.items(), kind="words")


def _goodput(runs: Mapping[str, Run]) -> str:
    told = []
    for name, run in runs.items():
        found = goodput_of(run.events)
        if found is not None and found.wall:
            sentence = f"{name}: {found.share:.1%} of {found.wall:,.0f} s in steps that stand."
            told.append(f'<div class="card">{note(sentence)}{goodput_bar(found)}</div>')
    return "".join(told)


def _starts(runs: Mapping[str, Run]) -> str:
    """Return where each ran last, what is the same for all of them once."""
    described = {name: dict(describe_start(run.starts[-1])) for name, run in runs.items() if run.starts}
    if not described:
        return note("Where these runs ran was not recorded.")
    names = dict.fromkeys(what for facts in described.values() for what in facts)
    rows = [(what, [described.get(name, {}).get(what, "") for name in runs]) for what in names]
    return table("Where they ran", list(runs), rows, kind="words")
