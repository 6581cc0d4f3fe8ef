"""`key=value` settings of a command line, read by the type of the setting that they name.

A shell has already taken its quotes off, so text means itself: where the schema has text, all behind the first `=` is
the value, whatever YAML or OmegaConf would see in it. Numbers and switches are read as such. Lists and sections are
YAML in brackets, of which JSON is a part, and inside them the same holds for every value. Below a dictionary,
whose keys another library names, a value is what it is in JSON, and else text.
"""

import json
import math
import os
import re
import types
from collections.abc import Iterator, Sequence
from typing import Annotated, Any, Literal, TypeAlias, Union, get_args, get_origin

import yaml

from sclds.config.base import Section
from sclds.config.errors import ConfigError

Path: TypeAlias = tuple[str, ...]
"""The parts of a dotted key."""
_RANGE = re.compile(r"\{[\w-]+\.\.[\w-]+\}|\$\{[^{}\s,'\"]*\}")
"""Braces that belong to a text inside a list or section: a range of shards, or what looks like an interpolation."""
_HIDDEN = {"{": "\uf8d0", "}": "\uf8d1"}
"""What stands for such braces while YAML is read, which would take them for a mapping."""
_SHOWN = str.maketrans({hidden: brace for brace, hidden in _HIDDEN.items()})
_NONE = "null"
"""What unsets a setting that may be none."""


def apply_overrides(tree: dict[Any, Any], overrides: Sequence[str], schema: type[Section]) -> None:
    """Put `key=value` settings into a tree that OmegaConf will resolve.

    Args:
        tree: Plain values; changed in place. What is missing of it stands at the schema's defaults.
        overrides: Settings; sections are merged, lists replaced, elements of lists reached by number.
        schema: Of the tree.

    Raises:
        ConfigError: With a sentence for every override that cannot be read or is given twice.
    """
    problems: list[str] = []
    given: dict[Path, str] = {}
    repeated: set[Path] = set()
    for given_override in overrides:
        # what a locale without UTF-8 has made of the command line, YAML refuses
        override = os.fsencode(given_override).decode("utf-8", "surrogateescape")
        try:
            path, text = _split(override)
            for place, value in _settings(path, _typed(_type_at(schema, path), text, override), override):
                if place in repeated:
                    continue
                earlier = [before for before in given if before[: len(place)] == place]
                if earlier:
                    repeated.add(place)
                    problems.append(_twice(place, earlier[0], given[earlier[0]], override))
                    continue
                given[place] = override
                _put(tree, place, value, schema, override)
        except ConfigError as fault:
            problems += fault.problems
    if problems:
        raise ConfigError(problems)


def replaced(settings: Sequence[str], by: Sequence[str]) -> list[str]:
    """Return `settings` followed by the settings `by`, without those of the first whose key is among the second."""
    taken = [_path_of(setting) for setting in by]
    kept = [s for s in settings if not any(_path_of(s)[: len(path)] == path for path in taken)]
    return [*kept, *by]


def literal(value: Any) -> Any:
    """Return a plain value whose text OmegaConf resolves to itself: `${` in it is no interpolation."""
    if isinstance(value, str):
        return re.sub(r"(\\*)\$\{", lambda found: f"{found[1]}{found[1]}\\${{", value)
    if isinstance(value, dict):
        return {key: literal(inner) for key, inner in value.items()}
    return [literal(inner) for inner in value] if isinstance(value, list | tuple) else value


def _path_of(override: str) -> Path:
    return tuple(re.sub(r"\[(\d+)\]", r".\1", override.partition("=")[0]).split("."))


def _split(override: str) -> tuple[Path, str]:
    """Return the key's parts and the text of an override."""
    key, equals, text = override.partition("=")
    if not equals:
        hint = f"; a configuration file is given as --config {override}" if override.endswith((".yaml", ".yml")) else ""
        raise ConfigError(
            [
                f"'{override}' is not of the form key=value (for example schedule.steps=100){hint}; "
                f"quote a setting that holds spaces"
            ]
        )
    if key.startswith("-"):
        raise ConfigError([f"{override}: a setting has no dashes before it: give {override.lstrip('-')}"])
    if key != key.strip() or not all(_path_of(override)):
        raise ConfigError([f"'{override}': the key '{key}' is not of names with dots between, such as schedule.steps"])
    if not text:
        raise ConfigError(
            [f"{override} gives no value; a shell variable in it may be empty. A setting that may be none takes null"]
        )
    return _path_of(override), text


def _twice(place: Path, earlier: Path, first: str, second: str) -> str:
    """Say that two overrides set the same."""
    if earlier != place:
        return f"{second} replaces what {first} set before it; give it first, or once"
    return (
        f"{'.'.join(place)} is given twice, {first} and {second}; give it once. A shell expands braces and wildcards "
        f"that are not quoted: write '{'.'.join(place)}=a{{0..3}}.tar' in quotes"
    )


def bare_type(annotation: Any) -> tuple[Any, bool]:
    """Return a type without its marks and without None, and whether it may be None."""
    while get_origin(annotation) is Annotated:
        annotation = get_args(annotation)[0]
    if get_origin(annotation) not in (Union, types.UnionType):
        return annotation, False
    (inner,) = (arg for arg in get_args(annotation) if arg is not type(None))
    return bare_type(inner)[0], True


def inner_type(annotation: Any, part: str) -> Any:
    """Return the type of a setting of a section, or of an element of a list; None where there is no such.

    What lies in a dictionary, whose keys are another library's, is Any, and so is all below it.
    """
    kind, _ = bare_type(annotation)
    if kind is Any or get_origin(kind) is dict:
        return Any
    if isinstance(kind, type) and issubclass(kind, Section):
        field = kind.model_fields.get(part)
        return None if field is None else field.annotation
    of = get_args(kind) if get_origin(kind) in (list, tuple) else ()
    if not of or not part.isdecimal():
        return None
    return of[0] if get_origin(kind) is list else of[min(int(part), len(of) - 1)]


def _type_at(schema: Any, path: Path) -> Any:
    for part in path:
        schema = inner_type(schema, part)
    return schema


def _is_structure(kind: Any) -> bool:
    """Return whether a value in brackets may be given."""
    return kind is Any or get_origin(kind) in (list, tuple, dict) or _is_section(kind)


def _is_section(kind: Any) -> bool:
    return isinstance(kind, type) and issubclass(kind, Section)


def _typed(annotation: Any, text: str, override: str) -> Any:
    """Return the value of a text by the type of its setting."""
    kind, optional = bare_type(annotation)
    if optional and text == _NONE:
        return None
    if _is_structure(kind) and text.lstrip()[:1] in ("[", "{"):
        return _from_node(annotation, _node(text, override), override)
    return _scalar(kind, text)


def _scalar(kind: Any, text: str) -> Any:
    """Return a number where one is wanted and the text is written like one; else the text, for the schema to judge.

    A number that would be shown otherwise than it was given stays text too, so that a message names what was typed.
    """
    if kind is Any:
        return _untyped(text)
    of = get_args(kind) if get_origin(kind) is Literal else ()
    if kind is int or any(isinstance(choice, int) for choice in of):
        if re.fullmatch(r"-?\d{1,18}", text) and str(int(text)) == text:
            return int(text)
        if kind is int and re.fullmatch(r"\+?\d+(\.\d+)?[eE]\+?\d{1,2}", text) and float(text).is_integer():
            return int(float(text))
    if kind is float:
        for read in (int, float):
            try:
                if str(read(text)) == text and math.isfinite(read(text)):
                    return read(text)
            except ValueError:
                continue
    return text


def _untyped(text: str) -> Any:
    """Return the number, switch or nothing that a text is in JSON, else the text; True and False are switches, too."""
    try:
        value = json.loads(text.lower() if text in ("True", "False") else text)
    except ValueError:
        return text
    is_scalar = value is None or isinstance(value, bool | int | float)
    return value if is_scalar and (not isinstance(value, float) or math.isfinite(value)) else text


def _node(text: str, override: str) -> yaml.Node:
    """Return the one YAML node in brackets that a text is; nothing in it is cut off or refers to anything else."""
    text = _RANGE.sub(lambda found: found[0].replace("{", _HIDDEN["{"]).replace("}", _HIDDEN["}"]), text)
    remedy = "give a list as [a, b] and a section as {key: value}, and quote text that holds , : # [ ] { } or a quote"
    try:
        rest = list(text)
        for event in yaml.parse(text, Loader=yaml.SafeLoader):
            if getattr(event, "anchor", None) or getattr(event, "tag", None):
                raise ConfigError([f"{override}: anchors, aliases and tags of YAML (& * !) mean nothing; quote text"])
            if isinstance(event, yaml.ScalarEvent):
                start, end = (mark.index for mark in (event.start_mark, event.end_mark) if mark)
                rest[start:end] = " " * (end - start)
        if "#" in rest:
            raise ConfigError([f"{override}: # would begin a comment and cut off the rest; {remedy}"])
        node = yaml.compose(text, Loader=yaml.SafeLoader)
        assert node is not None, "a text that begins with a bracket holds a node"
        return node
    except (yaml.YAMLError, RecursionError) as fault:
        comment = "# would begin a comment and cut off the rest" if re.search(r"\s#", text) else None
        reason = comment or getattr(fault, "problem", None) or str(fault).splitlines()[0]
        raise ConfigError([f"{override}: cannot be read ({reason.translate(_SHOWN)}); {remedy}"]) from fault


def _from_node(annotation: Any, node: yaml.Node, override: str) -> Any:
    """Return the value of a YAML node by the type of its setting."""
    kind, optional = bare_type(annotation)
    if isinstance(node, yaml.SequenceNode):
        return [_from_node(inner_type(annotation, str(i)), one, override) for i, one in enumerate(node.value)]
    if isinstance(node, yaml.MappingNode):
        values: dict[str, Any] = {}
        for key, value in node.value:
            if not isinstance(key, yaml.ScalarNode):
                raise ConfigError([f"{override}: a key is a name, not a list or a section"])
            name = key.value.translate(_SHOWN)
            if name in values:
                raise ConfigError([f"{override}: '{name}' is given twice; give it once"])
            values[name] = _from_node(inner_type(annotation, name), value, override)
        return values
    plain, text = getattr(node, "style", None) is None, str(node.value).translate(_SHOWN)
    if plain and not text:
        raise ConfigError([f"{override}: a key or an element has no value; write it out, empty text as ''"])
    if kind is Any and not plain:
        return text
    return None if optional and plain and text == _NONE else _scalar(kind, text)


def _settings(path: Path, value: Any, override: str) -> Iterator[tuple[Path, Any]]:
    """Give the settings that an override makes: those of a section one by one, a list as a whole."""
    if not isinstance(value, dict):
        yield path, value
        return
    if not value:
        raise ConfigError([f"{override} gives no setting of the section; name one, or leave it out"])
    for key, inner in value.items():
        yield from _settings((*path, key), inner, override)


def _put(tree: dict[Any, Any], path: Path, value: Any, schema: type[Section], override: str) -> None:
    """Set one setting of a tree, making the sections on the way and taking lists on the way from the defaults."""
    place: Any = tree
    for done, part in enumerate(path):
        name = ".".join(path[:done])
        if isinstance(place, list):
            if not part.isdecimal() or int(part) >= len(place):
                there = f"0 to {len(place) - 1}" if place else "none: it is empty"
                raise ConfigError([f"{override}: {name} is a list and has no element '{part}'; it has {there}"])
            key: Any = int(part)
        elif isinstance(place, dict):
            key = part
            if place.get(part) is None and done < len(path) - 1:
                place[part] = _default(schema, path[: done + 1])
        else:
            raise ConfigError([f"{override}: {name} is {place!r}, which has no settings of its own"])
        if done == len(path) - 1:
            place[key] = literal(value)
        place = place[key]


def _default(schema: type[Section], path: Path) -> Any:
    """Return what a missing section or list starts from when a setting inside it is given."""
    section, _ = bare_type(_type_at(schema, path[:-1]))
    field = section.model_fields.get(path[-1]) if _is_section(section) else None
    default = None if field is None else field.default
    if not isinstance(default, list | tuple):
        return {}
    return [one.model_dump(mode="json") if isinstance(one, Section) else one for one in default]
