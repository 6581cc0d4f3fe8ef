"""The folder of weights that `sclds convert` writes: names of its files, and the settings that it brings to a run.

A run that starts from a folder has the folder's architecture: what the configuration leaves out is the folder's, what
it says has to be equal. How the weights were shown their data is the folder's where the configuration leaves it out.
"""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf

WEIGHTS, CONFIG, ORIGIN, UNUSED = "model.safetensors", "config.yaml", "origin.json", "unused.safetensors"
PREPROCESSING, TOKENIZER = "preprocessing.json", "tokenizer"
OF_THE_RUN = frozenset(
    {
        *("init_from", "init_std", "initial_temperature", "text.vocab_size=0"),
        *("text.dropout", "text.attention_dropout", "fusion.dropout", "fusion.attention_dropout"),
    }
)
"""Keys of the `model` section that are no architecture; a vocabulary of 0 leaves its size to others."""
EMBEDDED = "embedded"
"""The tokenizer that every installation has, so that a run needs no folder for it."""
SHOWN = ("mean", "std", "tokenizer")
"""Keys of the `data` section that a folder brings."""


def misfits(wanted: Mapping[str, Sequence[int]], given: Mapping[str, Sequence[int]]) -> str:
    """Return how weights differ from the parameters of a model, with names and shapes; empty where they fit.

    Args:
        wanted: Shapes of the parameters by name.
        given: Shapes of the weights.
    """
    faults = {
        "have another shape": [
            f"{name}: {tuple(given[name])} where the model has {tuple(wanted[name])}"
            for name in sorted(wanted.keys() & given.keys())
            if tuple(wanted[name]) != tuple(given[name])
        ],
        "are missing": sorted(wanted.keys() - given.keys()),
        "are unknown": sorted(given.keys() - wanted.keys()),
    }
    return "; ".join(
        f"{len(names)} parameters {what} ({', '.join(names[:3])})" for what, names in faults.items() if names
    )


def complete_from_weights(tree: dict[Any, Any]) -> None:
    """Give a tree of settings what the folder in `model.init_from` says and the tree leaves out, in place.

    Nothing happens where it names no such folder: the start of the run says what is wrong with it.
    """
    found = _folder_of(tree)
    if found is None:
        return
    folder, architecture, shown = found
    _complete(tree["model"], architecture, "")
    data = tree.get("data")
    if isinstance(data, dict):
        own = shown.get("tokenizer") != EMBEDDED and (folder / TOKENIZER).is_dir()
        for key, value in (shown | ({"tokenizer": str(folder / TOKENIZER)} if own else {})).items():
            if key in SHOWN:
                data.setdefault(key, value)


def architecture_problems(tree: dict[Any, Any]) -> list[str]:
    """Return a sentence for every setting of the architecture that differs from the folder in `model.init_from`."""
    found = _folder_of(tree)
    if found is None:
        return []
    return [
        f"model.{key}={said} differs from {value}, which the weights of model.init_from={found[0]} have; leave the "
        f"setting out, or give another folder"
        for key, said, value in _differing(tree["model"], found[1], "")
    ]


def _folder_of(tree: dict[Any, Any]) -> tuple[Path, dict[Any, Any], dict[Any, Any]] | None:
    """Return the folder in `model.init_from`, its `model` section, and how its weights were shown their data."""
    model = tree.get("model")
    source = model.get("init_from") if isinstance(model, dict) else None
    if not isinstance(source, str):
        return None
    folder = Path(source) if Path(source).is_dir() else Path(source).parent
    if not all((folder / name).is_file() for name in (WEIGHTS, CONFIG, ORIGIN)):
        return None
    try:
        theirs = OmegaConf.to_container(OmegaConf.load(folder / CONFIG))
        shown = (
            json.loads((folder / PREPROCESSING).read_text(encoding="utf-8"))
            if (folder / PREPROCESSING).is_file()
            else {}
        )
    except Exception:  # a damaged file has its own sentence when the weights are read
        return None
    return (folder, theirs, shown) if isinstance(theirs, dict) and isinstance(shown, dict) else None


def _complete(own: dict[str, Any], theirs: dict[Any, Any], prefix: str) -> None:
    """Give a section what a folder's section has and it leaves out."""
    for name, value in theirs.items():
        key, said = f"{prefix}{name}", own.get(name)
        if isinstance(value, dict) and isinstance(own.setdefault(name, {}), dict):
            _complete(own[name], value, f"{key}.")
        elif key != "init_from" and (name not in own or f"{key}={said}" in OF_THE_RUN):
            own[name] = value


def _differing(own: dict[str, Any], theirs: dict[Any, Any], prefix: str) -> list[tuple[str, Any, Any]]:
    """Return key and both values of every setting of an architecture that is not equal."""
    found: list[tuple[str, Any, Any]] = []
    for name, value in theirs.items():
        key, said = f"{prefix}{name}", own.get(name)
        if isinstance(value, dict):
            found += _differing(said, value, f"{key}.") if isinstance(said, dict) else []
        elif key not in OF_THE_RUN and said != value:
            found.append((key, said, value))
    return found
