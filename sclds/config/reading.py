"""Settings from a YAML file and the command line to a validated configuration, with every fault as a sentence.

In a file OmegaConf resolves `${name}`; settings of the command line mean what they say (`sclds.config.overrides`). What
neither gives is at its default, and the result is validated in one go.
"""

import copy
import difflib
import hashlib
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal, TypeVar, get_args, get_origin

import yaml
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException
from pydantic import ValidationError

from sclds.config import Config, Section, cross_field_problems
from sclds.config.errors import ConfigError
from sclds.config.overrides import apply_overrides, bare_type, inner_type, literal
from sclds.config.shipped import config_file
from sclds.config.weights import complete_from_weights

_MISREAD = re.compile(r"[-+]?(0[0-9_]+|[0-9][0-9_]*(:[0-9]+)+(\.[0-9_]*)?|(?![0-9]{1,3}(_[0-9]{3})+$)[0-9]+_[0-9_.]*)")
"""Octal numbers, those to the base of 60, and underscores elsewhere than between thousands."""
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
    tree, problems = read_settings(path, overrides)
    with _collecting(problems):
        config = parse_config(tree)
    if problems:
        raise ConfigError(problems)
    return config


def read_settings(path: str | Path, overrides: list[str] | None = None) -> tuple[Any, list[str]]:
    """Return the settings of a file with overrides over them, and a sentence for each that cannot be read.

    Nothing is validated, so that all faults can be told together.

    Raises:
        ConfigError: The file cannot be read at all.
    """
    path = config_file(path)
    with _faults_of(path):
        problems = list(_misread_numbers(path))
        tree = OmegaConf.to_container(OmegaConf.load(path))
        if not isinstance(tree, dict):
            raise ConfigError([f"{path} holds a list; expected sections and settings, such as `name: first`"])
        with _collecting(problems):
            _complete_data_sets(tree)
    with _collecting(problems):
        apply_overrides(tree, overrides or [], Config)
    with _faults_of(path):
        with _collecting(problems):
            _complete_data_sets(tree)
        if "name" in tree:  # in which the default is written; without it the missing name is told
            tree.setdefault("run_dir", Config.model_fields["run_dir"].default)
        resolved: Any = OmegaConf.to_container(OmegaConf.create(tree), resolve=True)
    with _collecting(problems):
        complete_from_weights(resolved)
    return resolved, problems


@contextmanager
def _collecting(problems: list[str]) -> Iterator[None]:
    """Add what a block refuses to `problems`, once, so that a user reads all faults together."""
    try:
        yield
    except ConfigError as fault:
        problems += (problem for problem in fault.problems if problem not in problems)


@contextmanager
def _faults_of(path: Path) -> Iterator[None]:
    """Turn what YAML and OmegaConf raise over a file into a sentence that names it."""
    try:
        yield
    except ConfigError:
        raise
    except (OmegaConfBaseException, ValueError, AttributeError, OSError) as fault:
        raise ConfigError([f"{path} cannot be read as YAML settings: {fault}"]) from fault
    except yaml.YAMLError as fault:
        raise ConfigError([f"{path} is not valid YAML: {' '.join(str(fault).split())}"]) from fault


def _misread_numbers(path: Path) -> Iterator[str]:
    """Say what YAML 1.1 takes for another number than people do: 010 is 8, 1:40 is 100, 2024_01 is 202401."""
    for token in yaml.scan(path.read_text(encoding="utf-8"), Loader=yaml.SafeLoader):
        if isinstance(token, yaml.ScalarToken) and token.plain and _MISREAD.fullmatch(token.value):
            value = yaml.safe_load(token.value)
            if not isinstance(value, str):
                yield (
                    f"{path}, line {token.start_mark.line + 1}: {token.value} is {value} to YAML; write the number in "
                    f"full, or quote the text"
                )


def _complete_data_sets(tree: dict[Any, Any]) -> None:
    """Give every row of `data` that names a known data set and no shards what the catalogue says of it."""
    data: Any = tree.get("data")
    for role in ("train", "heldout"):
        rows: Any = data.get(role) if isinstance(data, dict) else None
        for i, row in enumerate(rows if isinstance(rows, list) else []):
            if not isinstance(row, dict) or "shards" in row or "name" not in row:
                continue
            name = OmegaConf.select(OmegaConf.create(tree), f"data.{role}.{i}.name")
            known: Any = OmegaConf.to_container(OmegaConf.load(DATA_SETS))
            if name not in known:
                nearest = difflib.get_close_matches(str(name), list(known), n=1, cutoff=0.5)
                hint = f"did you mean '{nearest[0]}'?" if nearest else f"it has {', '.join(known)}"
                raise ConfigError([f"data.{role}.{i}: gives no shards, and '{name}' is not in {DATA_SETS}; {hint}"])
            rows[i] = known[name] | row


def parse_config(tree: Any) -> Config:
    """Validate a tree of plain values.

    Raises:
        ConfigError: With one sentence for every fault found.
    """
    switches = list(_switches_for_numbers(tree, Config))
    try:
        config = Config.model_validate(tree)
    except ValidationError as fault:
        told = [_sentence(error, Config) for error in fault.errors()]
        raise ConfigError(switches + told + _other_problems(tree, fault)) from fault
    problems = switches + cross_field_problems(config)
    if problems:
        raise ConfigError(problems)
    return config


def _switches_for_numbers(value: Any, annotation: Any, key: str = "") -> Iterator[str]:
    """Say where `true` stands for a number, which Python would count as 1."""
    kind, _ = bare_type(annotation)
    numbers = {type(one) for one in get_args(kind)} if get_origin(kind) is Literal else {kind}
    if isinstance(value, bool) and numbers & {int, float}:
        yield f"{key}={value}: expected a number, got a switch"
    elif isinstance(value, dict | list):
        for part, inner in value.items() if isinstance(value, dict) else enumerate(value):
            yield from _switches_for_numbers(inner, inner_type(annotation, str(part)), f"{key}.{part}".lstrip("."))


S = TypeVar("S", bound=Section)


def override_section(schema: type[S], tree: dict[str, Any], overrides: list[str]) -> S:
    """Return the section that a tree of plain values is with `key=value` settings over it.

    Raises:
        ConfigError: With one sentence for every fault found.
    """
    merged = literal(tree)
    apply_overrides(merged, overrides, schema)
    try:
        return schema.model_validate(OmegaConf.to_container(OmegaConf.create(merged), resolve=True))
    except ValidationError as fault:
        raise ConfigError([_sentence(error, schema) for error in fault.errors()]) from fault


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
    return OmegaConf.to_yaml(OmegaConf.create(literal(config.model_dump(mode="json"))))


def config_sha256(config: Config) -> str:
    """Return the SHA-256 of the resolved configuration, in hexadecimal."""
    return hashlib.sha256(dump_config(config).encode()).hexdigest()


def _sentence(error: Any, schema: type[Section]) -> str:
    """Turn one pydantic error into a sentence that names key, value and remedy."""
    location = [part for part in error["loc"] if not str(part).startswith("function-")]
    key = ".".join(str(part) for part in location)
    if error["type"] == "extra_forbidden":
        known = _keys_beside(location, schema)
        nearest = difflib.get_close_matches(str(location[-1]), known, n=1, cutoff=0.5)
        hint = f"did you mean '{nearest[0]}'?" if nearest else f"known keys: {', '.join(known)}"
        return f"{key}: unknown key; {hint}"
    if error["type"] == "missing":
        return f"{key}: is required and missing"
    said = f"{key}={error['input']!r}: {error['msg'][0].lower()}{error['msg'][1:]}"
    if error["type"] == "string_type" and error["input"] is not None:
        return f"{said}; put it in quotes, without which YAML reads text as another value"
    if error["type"] == "model_type":
        return (
            f"{key}={error['input']!r}: expected a section of settings, such as {key}.{_keys_of(location, schema)[0]}"
        )
    return said


def _keys_beside(location: list[str | int], schema: type[Section]) -> list[str]:
    """Return the valid keys of the section in which `location` lies."""
    return _keys_of(location[:-1], schema)


def _keys_of(location: list[str | int], section: type[Section]) -> list[str]:
    """Return the valid keys of the section at `location`."""
    for part in location:
        if isinstance(part, int):
            continue
        annotation = section.model_fields[part].annotation
        for candidate in [annotation, *getattr(annotation, "__args__", ())]:
            if isinstance(candidate, type) and issubclass(candidate, Section):
                section = candidate
    return list(section.model_fields)
