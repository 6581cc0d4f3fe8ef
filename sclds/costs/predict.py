"""How long a step takes: pure functions of what it computes, moves and sends, and of the figures of a cluster.

A device works on matrix products and element-wise operators one after the other,

    product       2·m·k·n / (share · peak)  +  bytes of (m, k), (k, n) and (m, n) / bandwidth
    element-wise  bytes / bandwidth

so that a product of few rows or narrow layers reaches less of the peak than a large one: at half the peak's share the
two terms are equal. `share` of a kind of device is the one fitted number (`sclds.costs.published`); the bandwidth is
the data sheet's by a fixed share. The host launches meanwhile and the cores decode, so that the slowest of the three
decides; what a network sends is hidden behind the device up to `OVERLAP`, and what has nothing to hide behind is added.
All wait for the slowest machine, which takes `WAITING` more with every doubling of their number.
"""

import math
from collections.abc import Iterable
from dataclasses import dataclass, field, replace

from sclds.costs.clusters import Cluster

OVERLAP = 0.8
"""Of the device's time, what messages of forward and backward can hide behind: the first gather and the last reduction
have nothing beside them."""
ATTENTION_SHARE = 0.5
"""Fused attention reaches this share of what large products do (FlashAttention 2, arXiv 2307.08691: 225 TFLOP/s of
forward and backward on an A100 at head width 128, less at 64)."""
WAITING = 0.01
"""Of a step for every doubling of the machines: from 1 to 16 of them NeMo's ViT and CLIP and torchtitan's Llama 8B
lost 2.3 to 7.5 % of their speed, half of them 4 % (published_runs.yaml)."""
PARTS = ("products", "element-wise", "host", "exposed communication", "data", "waiting")


@dataclass(frozen=True)
class Product:
    """Matrix products of one shape, (rows, inner) by (inner, outer)."""

    rows: float
    inner: float
    outer: float
    times: float = 1.0

    @property
    def flops(self) -> float:
        """Operations of all of them."""
        return 2 * self.rows * self.inner * self.outer * self.times

    def operand_values(self) -> float:
        """Return the values of all operands and results."""
        each = self.rows * self.inner + self.inner * self.outer + self.rows * self.outer
        return each * self.times


@dataclass(frozen=True)
class Message:
    """Collectives of one purpose in a step."""

    count: float
    bytes: float
    """That one device receives, over all of them."""
    hidden: bool = True
    """Whether they run beside the device's work."""


@dataclass(frozen=True)
class StepWork:
    """What one device does in an optimizer step, all micro-batches and passes included."""

    samples: float
    """Of this device."""
    model_flops: float
    """Operations of the products that the model needs: three forwards, whatever is computed again."""
    products: tuple[Product, ...]
    attention_flops: float
    elementwise_bytes: float
    value_bytes: int = 2
    """Of an operand of a product."""
    precision: str = "bf16"
    host_seconds: float = 0.0
    core_seconds: float = 0.0
    """Of reading and decoding this device's samples on one core."""
    messages: dict[str, Message] = field(default_factory=dict)


@dataclass(frozen=True)
class StepTime:
    """Seconds of an optimizer step; what runs side by side is not added up."""

    products: float
    elementwise: float
    host: float
    communication: float
    """Of all messages, hidden ones included."""
    exposed: float
    """What of it nothing hides."""
    data: float
    waiting: float
    """For the slowest machine."""
    serial: bool = False
    """Whether the device is the host, so that nothing runs beside anything."""

    @property
    def device(self) -> float:
        """Of the device's own work."""
        return self.products + self.elementwise

    @property
    def total(self) -> float:
        """Of the step."""
        parts = (self.device, self.host, self.data)
        return (sum(parts) if self.serial else max(parts)) + self.exposed + self.waiting

    @property
    def limit(self) -> str:
        """What decides: compute, memory traffic, host, decode or link."""
        device = "compute" if self.products >= self.elementwise else "memory traffic"
        alone = {device: self.device, "host": self.host, "decode": self.data}
        slowest = max(alone, key=lambda name: alone[name])
        return "link" if self.exposed > alone[slowest] else slowest

    def breakdown(self) -> dict[str, float]:
        """Return seconds by part."""
        seconds = (self.products, self.elementwise, self.host, self.exposed, self.data, self.waiting)
        return dict(zip(PARTS, seconds, strict=True))


def layer_products(rows: float, width: int, inner: int, times: float) -> tuple[Product, ...]:
    """Return the products of transformer layers: queries, keys and values at once, output, feed-forward network.

    Args:
        rows: Tokens that are multiplied at once.
        width: Channels.
        inner: Of the feed-forward network.
        times: Layers times passes.
    """
    shapes = ((width, 3 * width), (width, width), (width, inner), (inner, width))
    return tuple(Product(rows, *shape, times) for shape in shapes)


def scaled(products: Iterable[Product], flops: float) -> tuple[Product, ...]:
    """Return products of the same shapes, in the same proportions, that have `flops` operations together."""
    found = tuple(products)
    own = sum(product.flops for product in found)
    factor = flops / own if own else 0.0
    return tuple(Product(p.rows, p.inner, p.outer, p.times * factor) for p in found)


def product_seconds(work: StepWork, cluster: Cluster) -> float:
    """Return the time of a step's matrix products, attention included."""
    kind = cluster.kind
    rate = kind.peak(work.precision) * kind.matmul_share
    operands = work.value_bytes * sum(product.operand_values() for product in work.products)
    moved = operands / (kind.memory_bandwidth * kind.operand_share)
    multiplied = sum(product.flops for product in work.products) / rate
    return multiplied + moved + work.attention_flops / (rate * ATTENTION_SHARE)


def predict(work: StepWork, cluster: Cluster) -> StepTime:
    """Return how long a step takes on a cluster.

    Args:
        work: Of one device.
        cluster: Of all.
    """
    kind = cluster.kind
    products = product_seconds(work, cluster) * kind.device_factor
    elementwise = work.elementwise_bytes / kind.bandwidth * kind.device_factor
    host = work.host_seconds * kind.host_factor
    data = work.core_seconds / kind.cores_per_gpu
    hidden = sum(cluster.message_seconds(m.count, m.bytes) for m in work.messages.values() if m.hidden)
    open_ = sum(cluster.message_seconds(m.count, m.bytes) for m in work.messages.values() if not m.hidden)
    beside = max(products + elementwise, host) if kind.asynchronous else 0.0
    exposed = max(0.0, hidden - OVERLAP * beside) + open_
    time = StepTime(products, elementwise, host, hidden + open_, exposed, data, 0.0, not kind.asynchronous)
    return replace(time, waiting=WAITING * math.log2(cluster.nodes) * time.total)
