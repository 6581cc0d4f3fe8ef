"""The page of a run: what it learned, how, how fast; one HTML file that needs nothing else.

It is built from the run folder alone. What a run did not leave behind becomes a sentence instead of a section.
"""

import contextlib
import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from html import escape
from pathlib import Path
from typing import Any

from sclds.config import Config
from sclds.config.errors import ConfigError, UserError
from sclds.config.reading import load_config
from sclds.costs.peak import summarize_steps
from sclds.data.quarantine import read_quarantine
from sclds.evaluation.retrieval import DIRECTIONS
from sclds.evaluation.section import Cell, Section
from sclds.evaluation.tasks import TASKS
from sclds.objectives import table
from sclds.report.charts import line_chart, share_bar, stacked_bar
from sclds.report.page import document
from sclds.report.style import STYLE
from sclds.report.thumbnails import thumbnails
from sclds.run.files import write_atomically
from sclds.run.folder import RunFolder, read_metrics

KINDS = {"image": "images", "video": "videos"}
STAGES = {
    "data": "Waiting for data",
    "forward": "Forward",
    "backward": "Backward",
    "optimizer": "Optimizer",
    "other": "Logging and the rest",
}


@dataclass
class Run:
    """What a run folder holds."""

    folder: Path
    config: Config | None = None
    settings: str = ""
    metrics: list[dict[str, Any]] = field(default_factory=list)
    results: dict[str, Any] = field(default_factory=dict)
    quarantine: list[dict[str, Any]] = field(default_factory=list)


def write_report(run_dir: Path) -> Path:
    """Write `report.html` into a run folder and return its path; an older one is replaced in one go.

    Raises:
        UserError: The folder does not exist.
    """
    found = read_run(run_dir)
    target = RunFolder(found.folder).report
    write_atomically(target, page(found))
    return target


def read_run(run_dir: Path) -> Run:
    """Read what is there of config.yaml, metrics.jsonl, quarantine.jsonl and results.json.

    Raises:
        UserError: The folder does not exist.
    """
    folder = Path(run_dir)
    if not folder.is_dir():
        raise UserError(f"run folder {folder} does not exist; give the folder that holds a run's metrics.jsonl")
    run, files = Run(folder), RunFolder(folder)
    if files.config.is_file():
        run.settings = files.config.read_text(encoding="utf-8")
        with contextlib.suppress(ConfigError):  # written by another version: shown as text, the rest goes without
            run.config = load_config(files.config)
    run.metrics = read_metrics(files.metrics)
    run.quarantine = read_quarantine(files.quarantine)
    with contextlib.suppress(OSError, json.JSONDecodeError):
        run.results = files.read_results()
    return run


def page(run: Run) -> str:
    """Return the whole page."""
    name = run.config.name if run.config else run.folder.name
    body = "".join(
        (
            f"<header><h1>{escape(name)}</h1><p class=lead>{escape(_lead(run))}</p></header>",
            _tiles(run),
            _set_aside(run),
            _task_sections(run),
            _section("Queries", _queries(run)),
            _section("Losses", _curves(run) + _heldout_losses(run)),
            _section("Where the time went", _time(run)),
            _section("Do it again", _commands(run)),
            _section("Settings", _settings(run)),
        )
    )
    return document(name, body, STYLE)


def _section(title: str, content: str) -> str:
    return f"<section><h2>{title}</h2>{content}</section>"


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


def _tiles(run: Run) -> str:
    """Return the headline figures."""
    tiles = []
    for kind, directions in run.results.get("retrieval", {}).items():
        for direction, label in DIRECTIONS.items():
            row = directions[direction]
            note = f"{row['r10'] / row['chance_r10']:.1f}× chance ({row['chance_r10']:.1%})"
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
    count = len({entry.get("sample") for entry in run.quarantine})
    samples = "1 sample" if count == 1 else f"{count:,} samples"
    why = "; ".join(f"{number:,} × {reason}" for reason, number in reasons)
    return _note(escape(f"Set aside as unusable: {samples}, named in {run.folder / 'quarantine.jsonl'} ({why})."))


def _task_sections(run: Run) -> str:
    """Return the table of every task that has left something, in the order of the tasks."""
    shown = [section for task in TASKS.values() if (section := task.section(run.results)) is not None]
    if not shown:
        return _section("Results", _note("No held-out result yet: it is measured when the run ends."))
    return "".join(_section(section.title, _note(escape(section.note)) + _table(section)) for section in shown)


def _table(section: Section) -> str:
    head = "".join(f"<th>{escape(column)}</th>" for column in ("", *section.columns))
    rows = "".join(
        f"<tr><td>{escape(name)}</td>{''.join(_cell(cell) for cell in cells)}</tr>" for name, cells in section.rows
    )
    return f'<div class="card scroll"><table><thead><tr>{head}</tr></thead><tbody>{rows}</tbody></table></div>'


def _cell(cell: Cell) -> str:
    chance = f"<small>{escape(cell.chance)}</small>" if cell.chance else ""
    bar = "" if cell.share is None else share_bar(cell.share, cell.chance_share)
    return f"<td>{escape(cell.text)}{chance}{bar}</td>"


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
        f'<p class="note">rank {rank} of {example["of"]:,} {KINDS[example["kind"]]}</p>'
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


def loss_titles() -> dict[str, str]:
    """Return what people read for every term of a metrics line, in the order of the page."""
    return {"total": "Total, weighted"} | {objective.name: objective.title for objective in table.OBJECTIVES}


def _curves(run: Run) -> str:
    """Return a small chart per loss."""
    titles = loss_titles()
    names = [name for name in titles if any(name in line.get("loss", {}) for line in run.metrics)]
    if not names:
        return _note("No loss was logged yet.")
    cards = []
    for name in names:
        points = [(line["step"], line["loss"][name]) for line in run.metrics if line["loss"].get(name) is not None]
        cards.append(
            f'<div class="card"><h3>{titles[name]}<b>{points[-1][1]:.3g}</b></h3>'
            f"{line_chart(points, titles[name])}</div>"
        )
    return (
        _note("On the training batches; the strong line is a running mean.")
        + f'<div class="curves">{"".join(cards)}</div>'
    )


def _heldout_losses(run: Run) -> str:
    """Return the held-out losses before and after."""
    losses = run.results.get("losses", {})
    first, last = losses.get("initial", {}), losses.get("final", {})
    titles = loss_titles()
    names = [name for name in titles if name in first and name in last]
    if not names:
        return _note("Held-out losses before and after are written when the run ends.")
    rows = "".join(
        f"<tr><td>{titles[n]}</td><td>{first[n]:.3f}</td><td>{last[n]:.3f}</td>"
        f"<td>{(last[n] - first[n]) / (abs(first[n]) or 1):+.0%}</td>"
        f"<td>{_percent(first.get(f'{n}_accuracy'))}</td><td>{_percent(last.get(f'{n}_accuracy'))}</td></tr>"
        for n in names
    )
    head = (
        "<th>On held-out data</th><th>step 0</th><th>end</th><th>change</th><th>right, step 0</th><th>right, end</th>"
    )
    return (
        f'<div class="card scroll" style="margin-top:12px"><table><thead><tr>{head}</tr></thead>'
        f"<tbody>{rows}</tbody></table></div>"
    )


def _percent(share: float | None) -> str:
    """Return a share as text; nothing where it was not measured."""
    return "" if share is None else f"{share:.1%}"


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
    return float(profile["flops_per_sample"] * pace["samples_per_second"] / profile["peak_flops"])


def _commands(run: Run) -> str:
    """Return the commands that repeat, continue and look into the run."""
    processes = run.results.get("profile", {}).get("processes", 1)
    settings = run.folder / "config.yaml"
    train = f"deepspeed --num_gpus {processes} --module sclds.cli.train --config {settings}"
    commands: Sequence[tuple[str, str]] = (
        ("Train again, elsewhere", f"{train} run_dir=runs/again"),
        ("Continue after an interruption", train),
        ("Follow the curves", f"tensorboard --logdir {run.folder / 'tensorboard'}"),
        ("Measure speed alone", f"sclds profile --config {settings} --steps 20"),
        ("Plan it for a cluster", f"sclds plan --config {settings} --gpus 8 --gpu h100"),
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
