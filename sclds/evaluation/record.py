"""What `results.json` records of a measurement beside its figures: of which step and sets it is, and how it was made.

A set is known by its samples, wherever they lie: by the names, sizes and places of the members of its shards. So moved
shards are the same set, and shards with other samples under an old name are another one.
"""

import hashlib
from collections.abc import Mapping
from typing import Any

from sclds.config import Config, DatasetConfig, EvaluationConfig
from sclds.config.errors import DataError
from sclds.data.storage.shards import cache_of, open_index, shard_files
from sclds.evaluation.answers import PREDICTIONS
from sclds.tasks import task_of

SETTINGS = ("batch_size", "max_samples", "tasks", "captions", "rerank", "frames", "align_bench")
"""Settings of `evaluation` on which the figures depend."""


def set_identity(dataset: DatasetConfig, config: Config) -> str:
    """Return a hash over the index of a held-out set.

    Raises:
        DataError: Shards are missing or unreadable.
    """
    digest = hashlib.sha256(dataset.kind.encode())
    if config.task is not None and not task_of(config).reads_captions:  # annotated shards have no such index
        for file in shard_files(dataset):
            digest.update(f"\n{file.name.encode('utf-8', 'surrogateescape')!r} {file.size}\n".encode())
        return digest.hexdigest()
    for shard in open_index([dataset], cache_of(config.data)).shards:
        rows = slice(shard.first, shard.first + shard.count)
        ends = shard.columns["key_end"]
        start, end = (int(ends[place - 1]) if place else 0 for place in (rows.start, rows.stop))
        digest.update(f"\n{shard.file.name.encode('utf-8', 'surrogateescape')!r} {shard.count}\n".encode())
        for part in (shard.columns["keys"][start:end], shard.columns["offset"][rows], shard.columns["size"][rows]):
            digest.update(part.tobytes())
    return digest.hexdigest()


def recorded(measured: Mapping[str, Any], config: Config, step: int, before: Mapping[str, Any]) -> dict[str, Any]:
    """Return a whole `results.json` out of a last measurement.

    Args:
        measured: What `evaluate` gave.
        config: The run.
        step: Optimizer steps of the weights.
        before: The file so far: the losses before training stay, as far as they are of the same sets.

    Raises:
        DataError: A held-out set is gone.
    """
    losses = {"final": measured["losses"]} if "losses" in measured else {}
    rows, first = {}, before.get("sets", {})
    for dataset in config.data.heldout:
        row: dict[str, Any] = {"kind": dataset.kind, "samples": 0} | dict(measured["sets"].get(dataset.name, {}))
        row["index"] = set_identity(dataset, config)
        old = first.get(dataset.name, {})
        initial = old.get("losses", {}).get("initial") if old.get("index") == row["index"] else None
        if "losses" in row:
            row["losses"] = {"final": row["losses"]} | ({"initial": initial} if initial else {})
        rows[dataset.name] = row
    same = first.keys() == rows.keys() and all(first[name].get("index") == rows[name]["index"] for name in rows)
    if same and losses and "initial" in before.get("losses", {}):
        losses["initial"] = before["losses"]["initial"]
    settings = {key: getattr(config.evaluation, key) for key in SETTINGS}
    measured = {key: value for key, value in measured.items() if key != PREDICTIONS}
    return {**measured, "sets": rows, "evaluation": settings, "steps": step} | ({"losses": losses} if losses else {})


def recorded_start(measured: Mapping[str, Any], config: Config) -> dict[str, Any]:
    """Return a `results.json` that holds the losses before the first step alone."""
    whole = recorded(measured, config, 0, {})
    for place in (whole, *whole["sets"].values()):
        if "losses" in place:
            place["losses"] = {"initial": place["losses"]["final"]}
    return {key: whole[key] for key in ("losses", "sets") if key in whole}


def differences(results: Mapping[str, Any], config: Config, step: int) -> list[str]:
    """Return a sentence for each way in which results are not those of a run at `step` over its held-out sets.

    Sets that are not on this machine are compared by their names alone.
    """
    if "steps" not in results:
        return []
    told = []
    if results["steps"] != step:
        told.append(f"they were measured after step {results['steps']:,}, and the run is at step {step:,}")
    if "evaluation" not in results:
        return [*told, "the version that wrote them did not record of which held-out sets they are"]
    names, rows = [dataset.name for dataset in config.data.heldout], results.get("sets", {})
    if list(rows) != names:
        told.append(f"they are of {_listed(list(rows))}, and the run's held-out sets are {_listed(names)}")
    told += [
        f"the samples of {dataset.name} have changed since they were measured"
        for dataset in config.data.heldout
        if dataset.name in rows and _changed(dataset, config, rows[dataset.name])
    ]
    before = {key: EvaluationConfig.model_fields[key].default for key in SETTINGS} | results["evaluation"]
    told += [
        f"evaluation.{key} was {before[key]} and is {getattr(config.evaluation, key)}"
        for key in SETTINGS
        if before[key] != getattr(config.evaluation, key)
    ]
    return told


def _changed(dataset: DatasetConfig, config: Config, row: Mapping[str, Any]) -> bool:
    try:
        return row.get("index") != set_identity(dataset, config)
    except DataError:
        return False


def _listed(names: list[str]) -> str:
    return ", ".join(names) or "none"
