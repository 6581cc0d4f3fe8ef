"""The settings of runs by dotted name, and which of them differ."""

from collections.abc import Mapping
from typing import Any

import yaml

from sclds.report.run_contents import Run

NEVER_SAME = ("name", "run_dir")
"""Settings that say which run it is, not what it does."""
ABSENT = "–"


def settings_of(run: Run) -> dict[str, Any]:
    """Return a run's settings by dotted name, lists in one piece; also those that this version cannot use."""
    if run.config is not None:
        return _flat(run.config.model_dump(mode="json"))
    try:
        tree = yaml.safe_load(run.settings)
    except (yaml.YAMLError, ValueError, RecursionError):
        return {}
    return _flat(tree) if isinstance(tree, dict) else {}


def setting_differences(runs: Mapping[str, Run | Mapping[str, Any]]) -> dict[str, list[str]]:
    """Return the settings that differ between runs, each with its value for every run.

    Args:
        runs: Runs, or their settings by dotted name; one without any is left out of the comparison.
    """
    all_of = [settings_of(run) if isinstance(run, Run) else run for run in runs.values()]
    known = [settings for settings in all_of if settings]
    names = [name for name in dict.fromkeys(name for one in known for name in one) if name not in NEVER_SAME]
    return {
        name: [_text(settings[name]) if name in settings else ABSENT for settings in all_of]
        for name in names
        if len({_text(settings.get(name, ABSENT)) for settings in known}) > 1
    }


def _flat(tree: Mapping[Any, Any], before: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, value in tree.items():
        name = f"{before}{key}"
        flat |= _flat(value, f"{name}.") if isinstance(value, dict) and value else {name: value}
    return flat


def _text(value: Any) -> str:
    if value is None:
        return "none"
    if isinstance(value, float):
        return f"{value:g}"
    if isinstance(value, list):
        return ", ".join(_row(one) for one in value) or "none"
    return str(value)


def _row(value: Any) -> str:
    """Return an entry of a list; a data set is known by its name and weight."""
    if not isinstance(value, dict):
        return _text(value)
    return " ".join(f"{key}={_text(one)}" for key, one in value.items() if key in ("name", "shards", "weight"))
