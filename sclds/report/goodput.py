"""The section of a run's page on what it went through: where its time went over all starts, and its last faults."""

from collections.abc import Sequence
from html import escape

from sclds.report.charts import stacked_bar
from sclds.report.parts import note, section
from sclds.run.events import Event
from sclds.run.goodput import Goodput, goodput_of

TITLES = {
    "step": ("forward", "Steps that stand"),
    "data": ("data", "Waiting for data"),
    "start": ("optimizer", "Starting"),
    "checkpoint": ("backward", "Checkpoints"),
    "evaluation": ("other", "Held-out sets"),
    "lost": ("data", "Steps taken again"),
    "restart": ("optimizer", "Between starts"),
    "other": ("other", "The rest"),
}
"""Class of the color and label of each part."""
ROUTINE = ("start", "training", "checkpoint", "evaluation", "finish")
"""Kinds of events that every run has."""
_SHOWN = 12


def goodput_section(events: Sequence[Event]) -> str:
    """Return the section; nothing for a run that wrote no events."""
    found = goodput_of(events)
    if found is None or not found.wall:
        return ""
    starts = sum(event.kind == "start" and event.rank == 0 for event in events)
    spent = [(TITLES[part][1].lower(), seconds) for part, seconds in found.seconds.items() if seconds]
    told = ", ".join(f"{what} {seconds:,.0f} s" for what, seconds in spent)
    text = (
        f"Of {found.wall:,.0f} s since the first of {starts} start{'s' if starts != 1 else ''}, {found.share:.1%} went "
        f"into steps that its result holds (goodput): {told}."
    )
    return section(
        "What it went through",
        f'{note(text)}<div class="card">{goodput_bar(found)}</div>{_faults(events)}',
    )


def goodput_bar(found: Goodput) -> str:
    """Return a bar of a run's time by part."""
    return stacked_bar([(*TITLES[part], found.seconds[part]) for part in TITLES])


def _faults(events: Sequence[Event]) -> str:
    """Return the newest events that not every run has."""
    odd = [event for event in events if event.kind not in ROUTINE]
    if not odd:
        return ""
    rows = "".join(
        f"<div><dt>{escape(event.date[:19].replace('T', ' '))}{'' if event.step is None else f', step {event.step:,}'}"
        f"</dt><dd>{escape(event.kind.replace('_', ' '))}: {escape(event.cause)}</dd></div>"
        for event in odd[-_SHOWN:]
    )
    more = f" of {len(odd)}, all in events.jsonl" if len(odd) > _SHOWN else ""
    return f'<p class="note">Its last events{more}.</p><div class="card"><dl class="facts">{rows}</dl></div>'
