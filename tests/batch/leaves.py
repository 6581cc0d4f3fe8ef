"""Every tensor and value of a batch by the path of its field, for comparisons."""

from dataclasses import fields, is_dataclass

import torch


def leaves(value, path="batch"):
    """Return a flat dictionary of what a dataclass, tuple or dictionary holds."""
    if is_dataclass(value):
        items = [(f.name, getattr(value, f.name)) for f in fields(value)]
    elif isinstance(value, dict):
        items = [(str(key), item) for key, item in value.items()]
    elif isinstance(value, tuple) and value and not isinstance(value[0], str | int):
        items = [(str(number), item) for number, item in enumerate(value)]
    else:
        return {path: value}
    return {name: leaf for key, item in items for name, leaf in leaves(item, f"{path}.{key}").items()}


def assert_equal_batches(first, second):
    ours, theirs = leaves(first), leaves(second)
    assert ours.keys() == theirs.keys()
    for name, value in ours.items():
        same = torch.equal(value, theirs[name]) if isinstance(value, torch.Tensor) else value == theirs[name]
        assert same, name
