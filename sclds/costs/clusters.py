"""Clusters that a plan is made for: the figures of clusters.yaml, and those of a user's file over them."""

import difflib
import functools
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import yaml
from pydantic import Field, model_validator

from sclds.config.base import Section
from sclds.config.errors import ConfigError, UserError
from sclds.config.reading import override_section

TABLE = Path(__file__).with_name("clusters.yaml")
ALIASES = {"a100": "a100-80"}
"""Names that stand for one of several kinds; whoever takes one is told."""
Above = Annotated[float, Field(gt=0.0)]
AtMostOne = Annotated[float, Field(gt=0.0, le=1.0)]
Count = Annotated[int, Field(ge=1)]


class Kind(Section):
    """A kind of accelerator and of the machine around it; bytes, seconds, operations per second."""

    memory: Above
    """Bytes."""
    memory_bandwidth: Above
    """Bytes per second that the data sheet gives."""
    peak_bf16: Above
    """Dense bf16 operations per second of matrix products, by the data sheet."""
    peak_fp32: Above
    """The same for fp32, which runs as TF32 on these GPUs."""
    matmul_share: AtMostOne
    """Of the peak, what large matrix products reach inside a training step."""
    bandwidth_share: AtMostOne
    """Of the memory bandwidth, what long element-wise operators reach."""
    operand_share: Above
    """Of the memory bandwidth, at what products read and write their operands; above 1 where caches hold them."""
    capability: tuple[int, int]
    """Compute capability, which decides on attention backends; (0, 0) for a CPU."""
    asynchronous: bool
    """Whether it computes, sends and lets others decode while the host goes on; a CPU does one after the other."""
    gpus_per_node: Count
    """Devices of one machine."""
    node_link: Above
    """Bytes per second that a device receives in a collective inside a machine."""
    port: Above
    """Bytes per second of a device's own network port, which the machine's ring shares out."""
    message_seconds: Above
    """A collective takes so long beside its bytes and hops."""
    hop_seconds: Above
    """Of a ring, from a device to the next one in a machine."""
    node_hop_seconds: Above
    """Of a ring, from a machine to the next."""
    host_link: Above
    """Bytes per second from a device into the memory of its host."""
    cores_per_gpu: Count
    """Processor cores of a machine over its devices."""
    device_factor: Above
    """What a device took in a measured run, as a multiple of what is computed."""
    host_factor: Above
    """The same of the host."""
    mttf_hours: Above
    """Mean hours to failure of a job on 1,024 devices; fewer fail more rarely, in proportion."""
    sources: dict[str, str]
    """Where each figure is from."""

    @model_validator(mode="after")
    def _has_sources(self) -> "Kind":
        figures = set(type(self).model_fields) - {"sources"}
        if missing := sorted(figures - set(self.sources)):
            raise ValueError(f"gives no source for {', '.join(missing)}; add a line each under `sources`")
        if unknown := sorted(set(self.sources) - figures):
            raise ValueError(f"sources names {', '.join(unknown)}, which are no figures of a kind")
        return self

    def peak(self, precision: str) -> float:
        """Return the operations per second of the data sheet in `bf16` or `fp32`."""
        return self.peak_bf16 if precision == "bf16" else self.peak_fp32

    @property
    def bandwidth(self) -> float:
        """Bytes per second that element-wise operators move."""
        return self.memory_bandwidth * self.bandwidth_share

    def with_figures(self, source: str, **figures: Any) -> "Kind":
        """Return this kind with other figures.

        Args:
            source: Where they are from.
            figures: By name.
        """
        return self.model_copy(update=figures | {"sources": self.sources | dict.fromkeys(figures, source)})


@dataclass(frozen=True)
class Cluster:
    """Devices of one kind on equal machines."""

    name: str
    kind: Kind
    gpus: int
    nodes: int

    @property
    def per_node(self) -> int:
        """Devices of each machine."""
        return self.gpus // self.nodes

    @property
    def link(self) -> float:
        """Bytes per second that a device receives in a collective of all of them.

        A ring passes a machine's border through every device's port at once, so that the ports of a machine add up, but
        it is never faster than the link inside.
        """
        return self.kind.node_link if self.nodes == 1 else min(self.kind.node_link, self.per_node * self.kind.port)

    def message_seconds(self, count: float, size: float) -> float:
        """Return the time of `count` collectives in which a device receives `size` bytes in all."""
        if self.gpus == 1:
            return 0.0
        between = self.nodes if self.nodes > 1 else 0
        hops = (self.gpus - 1 - between) * self.kind.hop_seconds + between * self.kind.node_hop_seconds
        return count * (self.kind.message_seconds + max(0.0, hops)) + size / self.link


def known_kinds(file: Path | None = None) -> dict[str, Kind]:
    """Return all kinds by name: those of the table, and those of a user's file over them.

    Raises:
        ConfigError: The user's file cannot be read, or says something wrong.
    """
    if file is None:
        return dict(_own_kinds())
    try:
        own = yaml.safe_load(file.read_text(encoding="utf-8"))
    except (OSError, ValueError, yaml.YAMLError) as fault:
        raise ConfigError([f"--clusters {file} cannot be read as YAML: {' '.join(str(fault).split())}"]) from fault
    rows = own.get("kinds") if isinstance(own, dict) and set(own) == {"kinds"} else None
    if not isinstance(rows, dict) or not all(isinstance(row, dict) for row in rows.values()):
        raise ConfigError([f"--clusters {file}: expected `kinds:`, and below it a name with its figures"])
    return _validated(merged(_own_tree(), rows, f"--clusters {file}"), f"--clusters {file}")


def _own_tree() -> dict[str, Any]:
    tree: dict[str, Any] = yaml.safe_load(TABLE.read_text(encoding="utf-8"))["kinds"]
    return tree


@functools.cache
def _own_kinds() -> dict[str, Kind]:
    return _validated(_own_tree(), str(TABLE))


def merged(known: dict[str, Any], rows: dict[str, Any], where: str) -> dict[str, Any]:
    """Return the trees of known kinds with a user's rows over them; `like` names the kind that a new row starts from.

    Raises:
        ConfigError: `like` names a kind that is not known.
    """
    found = dict(known)
    for name, row in rows.items():
        parent = row.get("like", name if name in found else None)
        if parent is not None and parent not in found:
            raise ConfigError([f"{where}: kinds.{name}.like={parent!r}: known are {', '.join(found)}"])
        base = found[parent] if parent is not None else {"sources": {}}
        own = {key: value for key, value in row.items() if key not in ("like", "sources")}
        given = row.get("sources") if isinstance(row.get("sources"), dict) else {}
        # a figure that is given anew does not keep the other figure's source
        kept = {key: text for key, text in base["sources"].items() if key not in own}
        found[str(name)] = base | own | {"sources": kept | given}
    return found


def _validated(rows: dict[str, Any], where: str) -> dict[str, Kind]:
    """Return the kinds that rows of a file are, or tell everything that is wrong with any of them."""
    kinds: dict[str, Kind] = {}
    problems: list[str] = []
    for name, row in rows.items():
        try:
            kinds[name] = override_section(Kind, row, [])
        except ConfigError as fault:
            problems += [f"{where}: kinds.{name}: {problem}" for problem in fault.problems]
    if problems:
        raise ConfigError(problems)
    return kinds


def cluster_of(kinds: dict[str, Kind], name: str, gpus: int, nodes: int | None = None) -> Cluster:
    """Return a cluster of a kind.

    Args:
        kinds: Known ones.
        name: Of the kind, as `--gpu` gives it.
        gpus: Of the cluster.
        nodes: Machines; by default as few as the kind's size allows.

    Raises:
        UserError: The kind is not known, or the GPUs cannot be spread evenly over that many machines.
    """
    kind = kinds.get(ALIASES.get(name, name))
    if kind is None:
        near = difflib.get_close_matches(name, [*kinds, *ALIASES], n=2, cutoff=0.5)
        hint = f"; did you mean {' or '.join(near)}?" if near else ""
        raise UserError(f"--gpu {name} is not known; known are {', '.join(kinds)}{hint}")
    if nodes is None:
        nodes = _fewest(gpus, kind.gpus_per_node)
    elif gpus % nodes:
        near_counts = sorted({gpus // nodes * nodes or nodes, (gpus // nodes + 1) * nodes})
        raise UserError(
            f"--gpus {gpus} cannot be spread evenly over --nodes {nodes}: give {_either(near_counts)} GPUs, or "
            f"{_fewest(gpus, kind.gpus_per_node)} nodes of {gpus // _fewest(gpus, kind.gpus_per_node)}"
        )
    return Cluster(ALIASES.get(name, name), kind, gpus, nodes)


def _fewest(gpus: int, per_node: int) -> int:
    """Return the fewest equal machines of at most `per_node` devices."""
    return next(nodes for nodes in range(-(-gpus // per_node), gpus + 1) if gpus % nodes == 0)


def _either(values: Sequence[int]) -> str:
    return " or ".join(map(str, values))
