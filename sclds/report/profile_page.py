"""The page of a profile: each variant's speed beside the first one's, phases of a step, memory and traffic."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from html import escape
from pathlib import Path
from typing import Any

from sclds.config.errors import UserError
from sclds.report.chart import amount, shown
from sclds.report.parts import Tile, contents, facts, folded, listed, note, section, table, tiles
from sclds.report.throughput import phase_bar, phase_color, phase_title

FILE = "profile.json"
KIND, VERSION = "profile", 1
NUMBERS = {
    "samples_per_second": ("Samples per second", ""),
    "tokens_per_second": ("Tokens per second", ""),
    "mfu": ("MFU, of the data sheet's peak", "%"),
    "mfu_measured": ("MFU, of the measured peak", "%"),
    "hfu": ("HFU, recomputation counted", "%"),
    "hfu_measured": ("HFU, of the measured peak", "%"),
    "flops_per_step": ("FLOPs per step", "B"),
    "memory_bytes": ("Memory", "B"),
    "wire_bytes": ("Over the network, per step", "B"),
    "overlap": ("Communication behind computing", "%"),
    "padding_avoided": ("Padding avoided", "%"),
    "host_seconds": ("Host time of a step", "s"),
}
"""Entry of a variant → its title and unit."""


@dataclass
class Profile:
    """What a profile's folder holds, as far as it can be read."""

    folder: Path
    name: str = ""
    variants: list[dict[str, Any]] = field(default_factory=list)
    environment: Any = None
    config: Any = None
    problems: list[str] = field(default_factory=list)


def read_profile(folder: Path) -> Profile:
    """Read a folder that holds a profile; what is damaged or of another version is said, and the rest is there."""
    found = Profile(folder, folder.resolve().name)
    try:
        tree = json.loads((folder / FILE).read_bytes())
    except (OSError, ValueError, RecursionError) as fault:
        found.problems.append(f"{FILE} cannot be read ({' '.join(str(fault).split())})")
        return found
    if not isinstance(tree, dict):
        found.problems.append(f"{FILE} holds no profile, but a {type(tree).__name__}")
        return found
    if tree.get("kind") != KIND or tree.get("version") != VERSION:
        found.problems.append(
            f"{FILE} is a {tree.get('kind', 'file of no kind')} of version {tree.get('version', 'unknown')}, expected "
            f"a profile of version {VERSION}: what of it this version knows is shown"
        )
    found.name = str(tree.get("name") or found.name)
    found.environment, found.config = tree.get("environment"), tree.get("config")
    variants = tree.get("variants", [])
    for number, variant in enumerate(variants if isinstance(variants, list) else [], 1):
        if isinstance(variant, dict):
            found.variants.append({**variant, "name": str(variant.get("name") or f"variant {number}")})
        else:
            found.problems.append(f"{FILE}: variant {number} is damaged and left out")
    return found


def profile_body(found: Profile, kernels: str) -> str:
    """Return what the page of a profile holds.

    Args:
        found: It.
        kernels: The section of measured kernels; empty where none were given.
    """
    done = [variant for variant in found.variants if not variant.get("failed")]
    sections = "".join(
        (
            section("Variants", _variants(done)),
            section("Phases of a step", _phases(done)),
            section("Variants that failed", _failed(found.variants)),
            kernels,
            section("Traces", _traces(found.folder)),
            section("Where it ran", _environment(found.environment)),
            section("Settings", _settings(found.config)),
        )
    )
    lead = "Where the time of a step goes."
    if len(done) > 1:
        lead = f"Where the time of a step goes, in {len(done)} variants that were measured in turn."
    return (
        f"<header><h1>{escape(found.name)}: profile</h1><p class=lead>{escape(lead)}</p></header>{contents(sections)}"
        f"{listed(found.problems)}{tiles(_headline(done))}{sections}"
    )


def number_of(variant: Mapping[str, Any], entry: str) -> float | None:
    """Return an entry of a variant as one number; the sum of a table's."""
    value = variant.get(entry)
    if isinstance(value, dict):
        parts = [part for part in value.values() if isinstance(part, int | float)]
        return float(sum(parts)) if parts else None
    return float(value) if isinstance(value, int | float) and not isinstance(value, bool) else None


def seconds_of(variant: Mapping[str, Any]) -> dict[str, float]:
    """Return the median seconds of each phase, without their sum."""
    found = variant.get("seconds")
    known = found.items() if isinstance(found, dict) else ()
    return {str(name): float(s) for name, s in known if isinstance(s, int | float) and name not in ("total", "step")}


def _headline(done: Sequence[Mapping[str, Any]]) -> list[Tile]:
    rated = [(v, rate) for v in done if (rate := number_of(v, "samples_per_second"))]
    if not rated:
        return []
    best, rate = max(rated, key=lambda one: one[1])
    found = [Tile("Fastest", f"{rate:,.0f}/s", f"samples; {best['name']}")]
    if len(rated) > 1:
        found.append(Tile("Against the first", f"{rate / rated[0][1]:.2f}×", str(rated[0][0]["name"])))
    for entry, title in (("mfu", "MFU"), ("mfu_measured", "Of measured peak"), ("overlap", "Overlap")):
        value = number_of(best, entry)
        if value is not None:
            found.append(Tile(title, f"{value:.0%}", str(best["name"])))
    return found


def _variants(variants: Sequence[Mapping[str, Any]]) -> str:
    """Return a table of all figures, a column for each variant, with the ratio of speeds to the first one's."""
    if not variants:
        return note("This profile holds no variant yet that was measured.")
    first = next((rate for v in variants if (rate := number_of(v, "samples_per_second"))), None)
    rows = [("Settings", [_overrides(variant) for variant in variants])]
    for entry, (title, unit) in NUMBERS.items():
        values = [number_of(variant, entry) for variant in variants]
        if any(value is not None for value in values):
            rows.append((title, ["" if value is None else _shown(value, entry, unit) for value in values]))
        if entry == "samples_per_second" and first and len(variants) > 1:
            rows.append(("Times as fast as the first", [f"{v / first:.2f}" if v else "" for v in values]))
    rows.append(("Steps measured", [str(variant.get("steps", "")) for variant in variants]))
    return table("Variants", [variant["name"] for variant in variants], rows, kind="wrap")


def _shown(value: float, entry: str, unit: str) -> str:
    return shown(value, unit).removesuffix("B") + "FLOP" if entry == "flops_per_step" else shown(value, unit)


def _overrides(variant: Mapping[str, Any]) -> str:
    overrides = variant.get("overrides")
    if isinstance(overrides, dict):
        return " ".join(f"{key}={value}" for key, value in overrides.items()) or "as given"
    return " ".join(map(str, overrides)) if isinstance(overrides, list) and overrides else "as given"


def _phases(done: Sequence[Mapping[str, Any]]) -> str:
    """Return a bar for each variant, all on one scale, and a table of phases."""
    known = {variant["name"]: seconds for variant in done if (seconds := seconds_of(variant))}
    if not known:
        return note("No phase was measured.")
    names = list(dict.fromkeys(name for seconds in known.values() for name in seconds))
    longest = max(sum(seconds.values()) for seconds in known.values()) or 1.0
    bars = "".join(
        f'<h4>{escape(name)}</h4><div class="scaled" style="max-width:{100 * sum(seconds.values()) / longest:.1f}%">'
        f"{phase_bar(seconds, names)}</div>"
        for name, seconds in known.items()
    )
    key = "".join(
        f'<li><i class="{phase_color(place)}"></i>{escape(phase_title(name))}</li>' for place, name in enumerate(names)
    )
    of_name = {variant["name"]: variant for variant in done}
    rows = [(phase_title(name), [_median(of_name[one], s, name) for one, s in known.items()]) for name in names]
    rows.append(("All", [shown(1e3 * sum(seconds.values()), "ms") for seconds in known.values()]))
    said = "Medians over the measured steps, and their 20 % and 80 % quantiles; a longer bar is a longer step."
    return (
        note(said)
        + f'<div class="card">{bars}<ul class="legend key">{key}</ul></div>'
        + table("Phases of a step", list(known), rows)
    )


def _median(variant: Mapping[str, Any], seconds: Mapping[str, float], phase: str) -> str:
    """Return the time of a phase, with the quantiles where they were kept."""
    if phase not in seconds:
        return ""
    quantiles = variant.get("quantiles")
    ends = quantiles.get(phase) if isinstance(quantiles, dict) else None
    text = shown(1e3 * seconds[phase], "ms")
    if isinstance(ends, list) and len(ends) == 2 and all(isinstance(end, int | float) for end in ends):
        return f"{text} ({shown(1e3 * ends[0])} to {shown(1e3 * ends[1])})"
    return text


def _failed(variants: Sequence[Mapping[str, Any]]) -> str:
    failed = [(variant["name"], str(variant["failed"])) for variant in variants if variant.get("failed")]
    return f'<div class="card"><dl class="facts">{facts(failed)}</dl></div>' if failed else ""


def _environment(environment: Any) -> str:
    if not environment:
        return note("Where this profile was measured was not recorded.")
    if not isinstance(environment, dict):
        return note(str(environment))
    rows = [(str(name).replace("_", " ").capitalize(), _plain(value)) for name, value in environment.items()]
    return f'<div class="card"><dl class="facts">{facts(rows)}</dl></div>'


def _traces(folder: Path) -> str:
    """Return the traces beside a profile, and what opens them."""
    found = sorted(path.relative_to(folder).as_posix() for path in (folder / "traces").rglob("*.json*"))
    if not found:
        return ""
    names = "".join(f"<li><code>{escape(name)}</code></li>" for name in found)
    return f"{note('Each opens in Perfetto (ui.perfetto.dev) or in chrome://tracing.')}<ul class=card>{names}</ul>"


def _plain(value: Any) -> str:
    if isinstance(value, float) and abs(value) >= 1e6:
        return amount(value, "").rstrip()
    if isinstance(value, dict):
        return ", ".join(f"{key} {_plain(one)}" for key, one in value.items())
    if isinstance(value, list):
        return "; ".join(_plain(one) for one in value)
    return str(value)


def _settings(config: Any) -> str:
    if not config:
        return ""
    text = config if isinstance(config, str) else json.dumps(config, indent=2, ensure_ascii=False)
    return f'<div class="card">{folded("resolved configuration", f"<pre>{escape(text)}</pre>")}</div>'


def of_folder(folder: Path) -> bool:
    """Return whether a profile was written into a folder."""
    return (folder / FILE).is_file()


def refuse_empty(found: Profile) -> None:
    """Refuse a profile of which nothing can be shown.

    Raises:
        UserError: So it is.
    """
    if not found.variants and found.environment is None and found.config is None and found.problems:
        raise UserError(f"{found.folder}: {found.problems[0]}; profile again, or give another folder")
