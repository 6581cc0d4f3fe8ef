"""The checkpoints of a run: what one holds, the newest complete one, and whether a run may go on from it."""

import contextlib
import copy
import hashlib
import json
import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from sclds.config import Config, keys_that_may_change
from sclds.config.errors import CheckpointError
from sclds.run.manifest import MANIFEST_FILE, FileRecord, manifest_of

STATE_FILE = "state.json"
"""Written last; a folder without it is not a checkpoint."""
HAS_MANIFEST = "manifest"
"""Key of the state: without it, a lost manifest would look like a checkpoint of the version that wrote none."""
TRAINED_ON = "trained_on"
"""Key of the state, see `Checkpoint.trained_on`."""
ENGINE_TAG = "engine"
"""DeepSpeed's own files lie in this folder of a checkpoint."""
_ABSENT = "absent"
_LENGTHEN = (
    "the learning rate is a function of the share of steps done, so all steps so far would have had another one; to "
    "train on from these weights, with a warm-up of its own: `sclds convert run`, then model.init_from=… and another "
    "run_dir; else "
)
"""What another number of steps means."""


@dataclass(frozen=True)
class Checkpoint:
    """A complete checkpoint: its folder, the optimizer steps done, and what the run was."""

    folder: Path
    step: int
    world_size: int
    config: dict[str, Any]
    """Settings as the version that wrote them knew them."""
    layout: dict[str, dict[str, list[int]]] = field(default_factory=dict)
    """By the name of a parameter that holds several weights those weights: name and shape, in order. Empty where each
    weight was a parameter, as in checkpoints of versions before flat blocks."""
    has_manifest: bool = False
    """Whether it was written with a manifest, as all are but those of the first version."""
    trained_on: dict[str, str] = field(default_factory=dict)
    """Digests of what its weights come from besides the settings (`sclds.train.task.trained_on`); empty in checkpoints
    of versions before."""

    def files(self) -> dict[str, FileRecord] | None:
        """Return the files that its manifest lists; None for one that was written without.

        Raises:
            ValueError: The manifest is missing, or cannot be understood.
        """
        listed = manifest_of(self.folder)
        if listed is None and self.has_manifest:
            raise ValueError(f"its {MANIFEST_FILE} is missing")
        return listed


def newest_checkpoint(checkpoints: Path) -> Checkpoint | None:
    """Return the newest complete checkpoint of a run's folder; half-written ones are ignored."""
    return next(iter(complete_checkpoints(checkpoints)), None)


def complete_checkpoints(checkpoints: Path) -> list[Checkpoint]:
    """Return the complete checkpoints of a run's folder, the newest first; contents are not compared."""
    if not checkpoints.is_dir():
        return []
    folders = [folder for folder in checkpoints.iterdir() if is_checkpoint_name(folder.name)]
    found = [checkpoint for folder in folders if (checkpoint := read_checkpoint(folder)) is not None]
    return sorted(found, key=lambda checkpoint: checkpoint.folder.name, reverse=True)


def incomplete_checkpoints(checkpoints: Path) -> list[tuple[Path, str]]:
    """Return the folders with a checkpoint's name that are none, each with the reason."""
    if not checkpoints.is_dir():
        return []
    folders = (folder for folder in sorted(checkpoints.iterdir()) if is_checkpoint_name(folder.name))
    return [(folder, found) for folder in folders if isinstance(found := _read(folder), str)]


def read_checkpoint(folder: Path) -> Checkpoint | None:
    """Return the checkpoint that `folder` is, or nothing if it is none or not complete."""
    found = _read(folder)
    return None if isinstance(found, str) else found


def checkpoint_of(path: Path) -> Checkpoint | None:
    """Return the checkpoint that `path` is, or the newest one of the run that it is; nothing if it is neither.

    Raises:
        CheckpointError: What would be the newest is damaged: an older one is another model, to be asked for by name.
    """
    checkpoint = read_checkpoint(path) or newest_checkpoint(path / "checkpoints")
    own = [(path, found)] if isinstance(found := _read(path), str) else []
    for folder, why in [*own, *incomplete_checkpoints(path / "checkpoints")]:
        newest = checkpoint is None or folder.name > checkpoint.folder.name
        if is_damaged(folder) and newest:
            raise CheckpointError(f"{folder} is damaged: {why}; take an older checkpoint")
    return checkpoint


def is_damaged(incomplete: Path) -> bool:
    """Return whether a folder that is no checkpoint was one: what is half-written has no manifest yet."""
    return (incomplete / MANIFEST_FILE).exists()


def _read(folder: Path) -> Checkpoint | str:
    """Return the checkpoint that `folder` is, or why it is none."""
    try:
        content = (folder / STATE_FILE).read_bytes()
    except OSError as fault:
        return f"its {STATE_FILE} {'is missing' if isinstance(fault, FileNotFoundError) else 'cannot be read'}"
    with contextlib.suppress(ValueError):  # what is wrong with a manifest is told where files are compared
        noted = (manifest_of(folder) or {}).get(STATE_FILE)
        if noted is not None and hashlib.sha256(content).hexdigest() != noted.sha256:
            return f"its {STATE_FILE} has another content than was written"
    try:
        state = json.loads(content)
        layout = dict(state.get("layout", {}))
        known = bool(state.get(HAS_MANIFEST, False))
        trained_on = dict(state.get(TRAINED_ON, {}))
        size = int(state["world_size"])
        return Checkpoint(folder, int(state["step"]), size, state["config"], layout, known, trained_on)
    except (ValueError, KeyError, TypeError, AttributeError):
        return f"its {STATE_FILE} cannot be read"


def checkpoint_name(step: int) -> str:
    """Return the name of the folder of a checkpoint; names in order of steps are in order of letters."""
    return f"step-{step:07d}"


def step_of(name: str) -> int:
    """Return the step in the name of a checkpoint."""
    return int(name.removeprefix("step-"))


def is_checkpoint_name(name: str) -> bool:
    """Return whether a folder has the name of a checkpoint, complete or not."""
    return re.fullmatch(r"step-\d+", name) is not None


def resume_problems(checkpoint: Checkpoint, config: Config) -> list[str]:
    """Return a sentence for everything in which the run differs from the checkpoint that it would resume.

    The checkpoint's settings are read by today's schema: what was added since stands at its default, and settings that
    may change are not looked at, so that a checkpoint of an older version resumes.
    """
    now = config.model_dump(mode="json")
    tree = _with_what_may_change(checkpoint.config, now)
    start_over = f"set it back, or start over with another run_dir (or after removing {checkpoint.folder.parent})"
    try:
        before = _flat(Config.model_validate(tree).model_dump(mode="json"))
    except ValidationError as fault:
        keys = sorted({".".join(map(str, error["loc"])) for error in fault.errors()})
        return [
            f"{key}: {checkpoint.folder} was written with a setting that this version does not have; use the version "
            f"that wrote it, or start with another run_dir"
            for key in keys
        ]
    after = _flat(now)
    return [
        f"{key}={after.get(key, _ABSENT)} differs from {before.get(key, _ABSENT)}, with which {checkpoint.folder} was "
        f"written; {_LENGTHEN if key == 'schedule.steps' else ''}{start_over}"
        for key in sorted(before.keys() | after.keys())
        if (key in before) != (key in after) or before.get(key) != after.get(key)
    ]


def _with_what_may_change(before: dict[str, Any], now: dict[str, Any]) -> dict[str, Any]:
    """Return the settings `before` with those that a resumed run may have other as they are `now`."""
    tree = copy.deepcopy(before)
    for key in keys_that_may_change():
        *sections, name = key.split(".")
        place, source = tree, now
        for section in sections:
            place, source = place.setdefault(section, {}), source[section]
        place[name] = copy.deepcopy(source[name])
    return tree


def _flat(tree: Any, prefix: str = "") -> dict[str, Any]:
    """Return the leaves of nested dicts and lists under dotted keys."""
    if not isinstance(tree, dict | list) or not tree:
        return {prefix: tree}
    items = tree.items() if isinstance(tree, dict) else enumerate(tree)
    leaves: dict[str, Any] = {}
    for key, value in items:
        leaves |= _flat(value, f"{prefix}.{key}" if prefix else str(key))
    return leaves
