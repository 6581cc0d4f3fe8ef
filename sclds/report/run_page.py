"""The page of a run: what it learned, how, how fast; one HTML file that needs nothing else.

It is built from the run folder alone. What a run did not leave behind becomes a sentence instead of a section.
"""

from collections import Counter
from collections.abc import Sequence
from html import escape
from pathlib import Path
from typing import Any

from sclds.costs.peak import summarize_steps
from sclds.evaluation.losses import loss_titles
from sclds.evaluation.record import differences
from sclds.evaluation.retrieval import DIRECTIONS
from sclds.evaluation.section import Cell, Section
from sclds.evaluation.tasks import sections
from sclds.report.charts import share_bar, stacked_bar
from sclds.report.curves import heldout_curves, training_curves
from sclds.report.goodput import goodput_section
from sclds.report.page import document, write_page
from sclds.report.run_contents import Run, read_run
from sclds.report.starts import describe_start
from sclds.report.style import STYLE
from sclds.report.thumbnails import thumbnails
from sclds.run.folder import RunFolder
from sclds.run.health import health_of

KINDS = {"image": "images", "video": "videos"}
STAGES = {
    "data": "Waiting for data",
    "forward": "Forward",
    "backward": "Backward",
    "optimizer": "Optimizer",
    "other": "Logging and the rest",
}


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
    """Return the whole page."""
    name = run.config.name if run.config else run.folder.name
    body = "".join(
        (
            f"<header><h1>{escape(name)}</h1><p class=lead>{escape(_lead(run))}</p></header>",
            _warnings(run),
            _tiles(run),
            _set_aside(run),
            _task_sections(run),
            _section("Queries", _queries(run)),
            _section("Losses", _curves(run)),
            _heldout(run),
            _section("Where the time went", _time(run)),
            goodput_section(run.events),
            _section("Where it ran", _starts(run)),
            _section("Do it again", _commands(run)),
            _section("Settings", _settings(run)),
        )
    )
    return document(name, body, STYLE)


def _section(title: str, content: str) -> str:
    return f"<section><h2>{escape(title)}</h2>{content}</section>"


def _note(sentence: str) -> str:
    return f'<p class="note">{sentence}</p>'


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
    return _listed(told)


def _listed(sentences: Sequence[str]) -> str:
    """Return sentences that call for attention; nothing where there is none."""
    return f'<ul class="card warn">{"".join(f"<li>{escape(one)}</li>" for one in sentences)}</ul>' if sentences else ""


def _tiles(run: Run) -> str:
    """Return the headline figures."""
    tiles = []
    for kind, directions in run.results.get("retrieval", {}).items():
        for direction, label in DIRECTIONS.items():
            row = directions[direction]
            chance = min(1.0, 10 / row["n"])
            note = f"{row['r10'] / chance:.1f}× chance ({chance:.1%}) of {row['n']:,} candidates"
            tiles.append((f"{label.format(kind)}, R@10", f"{row['r10']:.0%}", note))
    pace = summarize_steps(run.metrics)
    if pace:
        share = _share_of_peak(run)
        note = f"{share:.0%} of peak matmul speed" if share else "training, median"
        tiles.append(("Speed", f"{pace['samples_per_second']:,.0f}/s", f"samples; {note}"))
    cards = "".join(
        f'<div class="card tile"><span>{escape(a)}</span><b>{b}</b><small>{escape(c)}</small></div>'
        for a, b, c in tiles
    )
    return f'<div class="tiles">{cards}</div>' if tiles else ""


def _set_aside(run: Run) -> str:
    """Return how many samples could not be used, the most frequent reasons, and where they are named."""
    if not run.quarantine:
        return ""
    reasons = Counter(str(entry.get("reason")) for entry in run.quarantine).most_common(3)
    count = len({str(entry.get("sample")) for entry in run.quarantine})
    samples = "1 sample" if count == 1 else f"{count:,} samples"
    why = "; ".join(f"{number:,} × {reason}" for reason, number in reasons)
    return _note(escape(f"Set aside as unusable: {samples}, named in {run.folder / 'quarantine.jsonl'} ({why})."))


def _task_sections(run: Run) -> str:
    """Return the tables of every task that has left something, in the order of the tasks."""
    shown = sections(run.results)
    if not shown:
        return _section("Results", _note("No held-out result yet: it is measured when the run ends."))
    return "".join(
        _section(section.title, (_note(escape(section.note)) if section.note else "") + _table(section))
        for section in shown
    )


def _table(section: Section) -> str:
    head = "".join(f'<th scope="col">{escape(column)}</th>' for column in ("", *section.columns))
    rows = "".join(
        f"<tr><td>{escape(name)}</td>"
        f"{''.join(_cell(label, cell) for label, cell in zip(section.columns, cells, strict=True))}</tr>"
        for name, cells in section.rows
    )
    # what is too wide scrolls in a box of its own, by keys too; on a narrow screen rows become blocks
    return (
        f'<div class="card scroll" role="region" aria-label="{escape(section.title)}" tabindex="0">'
        f"<table><thead><tr>{head}</tr></thead><tbody>{rows}</tbody></table></div>"
    )


def _cell(label: str, cell: Cell) -> str:
    if not cell.text:
        return "<td></td>"
    chance = f"<small>{escape(cell.chance)}</small>" if cell.chance else ""
    bar = "" if cell.share is None else share_bar(cell.share, cell.chance_share)
    return f'<td data-label="{escape(label)}">{escape(cell.text)}{chance}{bar}</td>'


def _queries(run: Run) -> str:
    """Return the example queries with the images that they retrieved."""
    examples = run.results.get("examples", [])
    if not examples:
        return _note("No example queries yet: they are written with the result.")
    wanted = {i for example in examples for i in (*example["retrieved"], example["sample_id"])}
    images = thumbnails(run.config, wanted) if run.config else {}
    missing = "" if images else " The shards are not on this machine, so the images are left out."
    return (
        _note(
            f"Held-out captions at even distances, not chosen by result, and their best five. The right one is framed; "
            f"if it is not among the five, it stands at the end.{missing}"
        )
        + f'<div class="queries">{"".join(_query(example, images) for example in examples)}</div>'
    )


def _query(example: dict[str, Any], images: dict[str, str]) -> str:
    """Return one query's card."""
    right, rank = example["sample_id"], example["rank"]
    hits = [_hit(i, images, place, i == right) for place, i in enumerate(example["retrieved"], 1)]
    if right not in example["retrieved"]:
        hits.append(_hit(right, images, rank, True, " missed"))
    return (
        f'<div class="card query"><p>{escape(example["caption"])}</p>'
        f'<p class="note">rank {rank} of {example["of"]:,} {escape(KINDS.get(example["kind"], "samples"))}</p>'
        f'<div class="hits">{"".join(hits)}</div></div>'
    )


def _hit(sample_id: str, images: dict[str, str], rank: int, right: bool, extra: str = "") -> str:
    """Return one retrieved image."""
    shown = images.get(sample_id)
    content = f'<img src="{shown}" alt="{escape(sample_id)}">' if shown else "no image"
    label = f"{rank} · right" if right else str(rank)
    return (
        f'<figure class="hit{" right" if right else ""}{extra}" title="{escape(sample_id)}">'
        f'<div class="frame">{content}</div><figcaption>{label}</figcaption></figure>'
    )


def _curves(run: Run) -> str:
    """Return the charts of training, and which losses stayed at what guessing gives."""
    charts = training_curves(run.metrics)
    if not charts:
        return _note("No loss was logged yet.")
    note = (
        "On the training batches; the strong line is a running mean, the dashed one what guessing gives: for "
        "contrastive and completion losses the logarithm of the number of candidates, both directions added, for "
        "matching ln 2, for masked words their entropy."
    )
    if run.config is None:
        return _note(note) + charts
    config = run.config
    health = health_of(run.metrics, config.schedule.steps, config.log.stuck_share)
    stuck = [one.sentence(loss_titles().get(one.term, one.term)) for one in health.stuck.values()]
    size, part = config.batch.global_size, config.losses.negatives == "micro_batch"
    note += f" Candidates are {'those that run at the same time of ' if part else ''}the {size:,} samples of a batch."
    return _note(note) + _listed(stuck) + charts


def _heldout(run: Run) -> str:
    """Return the charts of what was measured during training; nothing where that was not asked for."""
    charts = heldout_curves(run.metrics, run.results)
    if not charts:
        return ""
    note = "Measured during training"
    if run.config is not None:
        evaluation = run.config.evaluation
        share = f" on {evaluation.share:.0%} of the batches of each set" if evaluation.share < 1 else ""
        size = f"{evaluation.batch_size:,} samples"
        note += f"{share}; losses over batches of {size}, which do not compare with those of training"
    return _section("Held-out sets during training", _note(escape(f"{note}.")) + charts)


def _starts(run: Run) -> str:
    """Return where and with what the run ran, the last start first; earlier ones are folded."""
    if not run.starts:
        return _note("Where and with what this run ran was not recorded.")
    tables = [
        "".join(f"<div><dt>{escape(what)}</dt><dd>{escape(value)}</dd></div>" for what, value in describe_start(start))
        for start in reversed(run.starts)
    ]
    last, *earlier = (f'<dl class="facts">{table}</dl>' for table in tables)
    starts = "1 earlier start" if len(earlier) == 1 else f"{len(earlier)} earlier starts"
    folded = f"<details><summary>{starts}</summary>{''.join(earlier)}</details>" if earlier else ""
    return f'<div class="card">{last}{folded}</div>'


def _time(run: Run) -> str:
    """Return where the time of a step went, and how fast that is."""
    pace = summarize_steps(run.metrics)
    if not pace:
        return _note("No step was timed yet.")
    seconds = pace["seconds"]
    bar = stacked_bar([(stage, label, seconds[stage]) for stage, label in STAGES.items()])
    sentence = f"An optimizer step takes {seconds['total']:.3f} s; {pace['samples_per_second']:,.0f} samples/s."
    profile, share = run.results.get("profile", {}), _share_of_peak(run)
    if share is None:
        speed = "FLOPs and the share of the peak were not measured in this run."
    else:
        rate = profile["flops_per_sample"] * pace["samples_per_second"]
        speed = (
            f"{rate / 1e9:,.0f} GFLOP/s of matrix products: {share:.1%} of the {profile['peak_flops'] / 1e9:,.0f} "
            f"GFLOP/s at which {_processes(profile['processes'])} on this machine multiplied large matrices. FLOPs are "
            f"counted from the configuration, at {profile['text_tokens']} tokens a caption."
        )
    return f'{_note(sentence)}<div class="card">{bar}</div>{_note(speed)}'


def _processes(count: int) -> str:
    return "1 process" if count == 1 else f"{count} processes"


def _share_of_peak(run: Run) -> float | None:
    """Return the share of the machine's peak matmul speed that training reached, or None if it is not known."""
    profile, pace = run.results.get("profile", {}), summarize_steps(run.metrics)
    if not pace or not {"flops_per_sample", "peak_flops", "processes", "text_tokens"} <= set(profile):
        return None
    if not profile["peak_flops"]:
        return None
    return float(profile["flops_per_sample"] * pace["samples_per_second"] / profile["peak_flops"])


def _about_pretraining(settings: Path) -> Sequence[tuple[str, str]]:
    return (
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
        *(_about_pretraining(settings) if run.config is None or run.config.task is None else ()),
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
        return _note("The run folder holds no config.yaml.")
    return f'<details class="card"><summary>config.yaml, resolved</summary><pre>{escape(run.settings)}</pre></details>'
