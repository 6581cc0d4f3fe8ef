"""What a run found on held-out data: the tables of its tasks, example queries, and what could not be used."""

from collections import Counter
from html import escape
from typing import Any

from sclds.evaluation.section import Cell, Section
from sclds.evaluation.tasks import sections
from sclds.report.charts import share_bar
from sclds.report.parts import note, scrolling, section
from sclds.report.run_contents import Run
from sclds.report.thumbnails import thumbnails

KINDS = {"image": "images", "video": "videos"}


def set_aside(run: Run) -> str:
    """Return how many samples could not be used, the most frequent reasons, and where they are named."""
    if not run.quarantine:
        return ""
    reasons = Counter(str(entry.get("reason")) for entry in run.quarantine).most_common(3)
    count = len({str(entry.get("sample")) for entry in run.quarantine})
    samples = "1 sample" if count == 1 else f"{count:,} samples"
    why = "; ".join(f"{number:,} × {reason}" for reason, number in reasons)
    return note(f"Set aside as unusable: {samples}, named in {run.folder / 'quarantine.jsonl'} ({why}).")


def task_sections(run: Run) -> str:
    """Return the tables of every task that has left something, in the order of the tasks."""
    shown = sections(run.results)
    if not shown:
        return section("Results", note("No held-out result yet: it is measured when the run ends."))
    return "".join(section(found.title, note(found.note) + _table(found)) for found in shown)


def _table(found: Section) -> str:
    head = "".join(f'<th scope="col">{escape(column)}</th>' for column in ("", *found.columns))
    rows = "".join(
        f"<tr><td>{escape(name)}</td>"
        f"{''.join(_cell(label, cell) for label, cell in zip(found.columns, cells, strict=True))}</tr>"
        for name, cells in found.rows
    )
    return scrolling(found.title, f"<thead><tr>{head}</tr></thead><tbody>{rows}</tbody>")


def _cell(label: str, cell: Cell) -> str:
    if not cell.text:
        return "<td></td>"
    chance = f"<small>{escape(cell.chance)}</small>" if cell.chance else ""
    bar = "" if cell.share is None else share_bar(cell.share, cell.chance_share)
    return f'<td data-label="{escape(label)}">{escape(cell.text)}{chance}{bar}</td>'


def queries(run: Run) -> str:
    """Return the section of example queries with the images that they retrieved; empty of a run without retrieval."""
    examples = run.results.get("examples", [])
    if not examples:
        asked = run.config is None or "retrieval" in run.config.evaluation.tasks
        return section("Queries", note("No example queries yet: they are written with the result.")) if asked else ""
    wanted = {i for example in examples for i in (*example["retrieved"], example["sample_id"])}
    images = thumbnails(run.config, wanted) if run.config else {}
    missing = "" if images else " The shards are not on this machine, so the images are left out."
    said = note(
        f"Held-out captions at even distances, not chosen by result, and their best five. The right one is framed; "
        f"if it is not among the five, it stands at the end.{missing}"
    )
    shown = "".join(_query(example, images) for example in examples)
    return section("Queries", f'{said}<div class="queries">{shown}</div>')


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
