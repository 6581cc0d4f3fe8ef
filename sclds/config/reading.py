"""Settings from a YAML file and the command line to a validated configuration, with every fault as a sentence.

A file is merged over the defaults of `sclds.config` (OmegaConf, so `${name}` interpolates), `key=value` pairs over
that, and the result is validated in one go.
"""

import copy
import difflib
import os
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException
from pydantic import ValidationError

from sclds.config import Config, Section, cross_field_problems
from sclds.config.errors import ConfigError
from sclds.config.shipped import config_file

DATA_SETS = Path(__file__).parents[1] / "data" / "data_sets.yaml"
"""Catalogue of the data sets that `sclds prepare` writes, a row each."""


def load_config(path: str | Path, overrides: list[str] | None = None) -> Config:
    """Read a YAML file, merge `key=value` overrides over it, and validate everything.

    Args:
        path: The file, or the name of a shipped configuration (`config_file`).
        overrides: Settings over those of the file.

    Raises:
        ConfigError: With one sentence for every fault found.
    """
    return parse_config(read_settings(path, overrides))


def read_settings(path: str | Path, overrides: list[str] | None = None) -> Any:
    """Read a YAML file and merge `key=value` overrides over it; nothing is validated.

    Raises:
        ConfigError: The file or an override cannot be read.
    """
    path = config_file(path)
    malformed = [o for o in overrides or [] if "=" not in o]
    if malformed:
        raise ConfigError([f"'{o}' is not of the form key=value (for example schedule.steps=100)" for o in malformed])
    try:
        merged = OmegaConf.load(path)
        _complete_data_sets(merged)
        for override in overrides or []:
            _override(merged, override)
        _complete_data_sets(merged)
        merged.setdefault("run_dir", Config.model_fields["run_dir"].default)
        tree = OmegaConf.to_container(merged, resolve=True)
    except ConfigError:
        raise
    except (OmegaConfBaseException, ValueError, AttributeError) as fault:
        raise ConfigError([f"{path} cannot be read as YAML settings: {fault}"]) from fault
    except Exception as fault:  # PyYAML's errors share no base with OmegaConf's
        if type(fault).__module__.startswith("yaml"):
            raise ConfigError([f"{path} is not valid YAML: {' '.join(str(fault).split())}"]) from fault
        raise
    return tree


def _complete_data_sets(tree: Any) -> None:
    """Give every row of `data` that names a known data set and no shards what the catalogue says of it."""
    for role in ("train", "heldout"):
        rows: Any = OmegaConf.select(tree, f"data.{role}")
        for i, row in enumerate(rows if OmegaConf.is_list(rows) else []):
            if not OmegaConf.is_dict(row) or "shards" in row or "name" not in row:
                continue
            known = OmegaConf.load(DATA_SETS)
            if row.name not in known:
                nearest = difflib.get_close_matches(str(row.name), list(known), n=1, cutoff=0.5)
                hint = f"did you mean '{nearest[0]}'?" if nearest else f"it has {', '.join(known)}"
                raise ConfigError([f"data.{role}.{i}: gives no shards, and '{row.name}' is not in {DATA_SETS}; {hint}"])
            rows[i] = OmegaConf.merge(known[row.name], row)


def _override(tree: Any, override: str) -> None:
    """Put `key=value` into a tree; unlike a merge, this reaches into lists (`data.train.0.shards=…`)."""
    # what a locale without UTF-8 has made of the command line, YAML refuses
    key, _, value = os.fsencode(override).decode("utf-8", "surrogateescape").partition("=")
    try:
        OmegaConf.update(tree, key, OmegaConf.from_dotlist([f"value={value}"])["value"], force_add=True)
    except (OmegaConfBaseException, ValueError, AttributeError, IndexError, TypeError) as fault:
        raise ConfigError([f"{override}: does not fit the file ({str(fault).splitlines()[0]})"]) from fault


def parse_config(tree: Any) -> Config:
    """Validate a tree of plain values.

    Raises:
        ConfigError: With one sentence for every fault found.
    """
    try:
        config = Config.model_validate(tree)
    except ValidationError as fault:
        problems = [_sentence(error) for error in fault.errors()]
        raise ConfigError(problems + _other_problems(tree, fault)) from fault
    problems = cross_field_problems(config)
    if problems:
        raise ConfigError(problems)
    return config


def _other_problems(tree: Any, fault: ValidationError) -> list[str]:
    """Return what contradicts itself once the faulty settings are at their defaults, so that all comes at once."""
    rest = copy.deepcopy(tree)
    for error in fault.errors():
        *parents, key = [part for part in error["loc"] if not str(part).startswith("function-")] or [""]
        place = rest
        try:
            for part in parents:
                place = place[part]
            del place[key]
        except (KeyError, IndexError, TypeError):
            continue
    try:
        return cross_field_problems(Config.model_validate(rest))
    except ValidationError:
        return []


def dump_config(config: Config) -> str:
    """Return the resolved configuration as YAML; `load_config` of it gives an equal one."""
    return OmegaConf.to_yaml(OmegaConf.create(config.model_dump(mode="json")))


def _sentence(error: Any) -> str:
    """Turn one pydantic error into a sentence that names key, value and remedy."""
    location = [part for part in error["loc"] if not str(part).startswith("function-")]
    key = ".".join(str(part) for part in location)
    if error["type"] == "extra_forbidden":
        nearest = difflib.get_close_matches(str(location[-1]), _keys_beside(location), n=1, cutoff=0.5)
        hint = f"did you mean '{nearest[0]}'?" if nearest else f"known keys: {', '.join(_keys_beside(location))}"
        return f"{key}: unknown key; {hint}"
    if error["type"] == "missing":
        return f"{key}: is required and missing"
    return f"{key}={error['input']!r}: {error['msg'][0].lower()}{error['msg'][1:]}"


def _keys_beside(location: list[str | int]) -> list[str]:
    """Return the valid keys of the section in which `location` lies."""
    section: type[Section] = Config
    for part in location[:-1]:
        if isinstance(part, int):
            continue
        annotation = section.model_fields[part].annotation
        for candidate in [annotation, *getattr(annotation, "__args__", ())]:
            if isinstance(candidate, type) and issubclass(candidate, Section):
                section = candidate
    return list(section.model_fields)
