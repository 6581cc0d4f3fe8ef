"""The configurations that ship with the package, by name: `quickstart`, `pretrain/scl_base_image`."""

import difflib
from pathlib import Path

from sclds.config.errors import ConfigError

_PACKAGE = Path(__file__).resolve().parents[1]
SHIPPED = next((f for f in (_PACKAGE / "configs", _PACKAGE.parent / "configs") if f.is_dir()), _PACKAGE / "configs")
"""Their folder: inside an installed package, or beside `sclds/` in a clone of the repository."""


def shipped_configs() -> dict[str, Path]:
    """Return the files of the shipped configurations by name, which is their path without the ending."""
    return {p.relative_to(SHIPPED).with_suffix("").as_posix(): p for p in sorted(SHIPPED.rglob("*.yaml"))}


def config_file(given: str | Path) -> Path:
    """Return the file that `given` is, or that of the shipped configuration of this name.

    Raises:
        ConfigError: If it is neither; the nearest names are told.
    """
    path = Path(given)
    if path.is_file():
        return path
    if path.is_dir():
        raise ConfigError([f"{path} is a folder; give a YAML file, such as the config.yaml of a run's folder"])
    shipped = shipped_configs()
    if path.as_posix() in shipped:
        return shipped[path.as_posix()]
    name = path.with_suffix("").as_posix().removeprefix("configs/")
    last = {known: known.rpartition("/")[2] for known in shipped}
    near = [known for known in shipped if known == name or last[known] == name.rpartition("/")[2]]
    near = near or difflib.get_close_matches(name, list(shipped), n=3, cutoff=0.5) or list(shipped)
    raise ConfigError(
        [f"configuration file {path} does not exist, and of the shipped ones the nearest are named: {', '.join(near)}"]
    )
