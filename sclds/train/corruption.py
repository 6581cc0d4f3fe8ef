"""Bits that change by themselves: found where nothing else may write, by sums that cost one read of memory.

Between an update and the next one, weights and the optimizer's state are read and never written; so are gradients
between two backward passes. Sums of their bits, taken at the beginning of such a time and compared at its end, differ
by any single flipped bit, and nothing else can make them differ: there is no false alarm to weigh. Sums and comparison
stay on the device; the host reads the result once in `guards.memory_every` steps, and before every checkpoint.

What this cannot see, and `Probe` sees in part: wrong arithmetic, and a link that changes what ZeRO-3 gathers.
"""

import hashlib
import socket
from collections.abc import Callable, Iterator
from typing import Any, Literal

import torch
from torch import Tensor

from sclds.batch import Batch
from sclds.config import Config
from sclds.data.keys import seed_of
from sclds.machine.implementations import compute_dtype
from sclds.train.distributed import ProcessGroup

Part = Literal["weights", "the optimizer's state", "gradients"]
PARTS: tuple[Part, ...] = ("weights", "the optimizer's state", "gradients")


class CorruptionError(RuntimeError):
    """A machine computes or keeps other bits than it should; the run must not go on there."""


def resident(engine: Any) -> dict[Part, list[Tensor]]:
    """Return the tensors that this rank keeps from step to step, each once; gradients as far as there are any.

    Args:
        engine: DeepSpeed's, of any ZeRO stage, nothing of it offloaded.
    """
    return {part: _once(kept(engine)) for part, kept in _KEPT.items()}


def _weights(engine: Any) -> list[Tensor]:
    optimizer = engine.optimizer
    if hasattr(optimizer, "fp16_partitioned_groups_flat"):  # stage 3
        return [*optimizer.fp16_partitioned_groups_flat, *optimizer.fp32_partitioned_groups_flat]
    if hasattr(optimizer, "bit16_groups_flat"):  # stages 1 and 2
        return [*optimizer.bit16_groups_flat, *optimizer.single_partition_of_fp32_groups]
    return [*engine.module.parameters(), *_masters(engine)]


def _state(engine: Any) -> list[Tensor]:
    of_all = _inner(engine).state.values()
    return [value for of_one in of_all for value in of_one.values() if isinstance(value, Tensor)]


def _gradients(engine: Any) -> list[Tensor]:
    optimizer = engine.optimizer
    if hasattr(optimizer, "fp16_partitioned_groups_flat"):  # stage 3
        return [optimizer.grad_partitions_flat_buffer]
    if not hasattr(optimizer, "bit16_groups_flat"):  # stage 0
        return [parameter.grad for parameter in _masters(engine) if parameter.grad is not None]
    kept = (*optimizer.averaged_gradients.values(), *optimizer.all_grad_tensors.values())
    gradients = [tensor for tensors in kept if tensors is not None for tensor in tensors]
    between = [weight for group in optimizer.bit16_groups for weight in group]
    added = [gradient for one in between for gradient in (one.grad, getattr(one, "grad_accum", None))]
    return gradients + [gradient for gradient in added if gradient is not None]


def _inner(engine: Any) -> Any:
    return getattr(engine.optimizer, "optimizer", engine.optimizer)


def _masters(engine: Any) -> list[Tensor]:
    return [parameter for group in _inner(engine).param_groups for parameter in group["params"]]


_KEPT: dict[Part, Callable[[Any], list[Tensor]]] = {
    "weights": _weights,
    "the optimizer's state": _state,
    "gradients": _gradients,
}


def kept_twice(engine: Any) -> bool:
    """Return whether weights are kept twice: those that are computed with are the optimizer's, bit for bit.

    So it is under ZeRO-3 in fp32: the one half of `resident`'s weights is a copy of the other.
    """
    optimizer = engine.optimizer
    computed = getattr(optimizer, "fp16_partitioned_groups_flat", [])
    copied = getattr(optimizer, "fp32_partitioned_groups_flat", [])
    of_same_type = bool(computed) and computed[0].dtype == copied[0].dtype
    return of_same_type and len(_once([*computed, *copied])) == len(_once(computed)) + len(_once(copied))


def _once(tensors: list[Tensor]) -> list[Tensor]:
    return list({(tensor.data_ptr(), tensor.numel()): tensor.detach() for tensor in tensors if tensor.numel()}.values())


def bit_sums(tensors: list[Tensor]) -> Tensor:
    """Return for each tensor the sum of its bits as whole numbers, (n,) int32 that wraps around, on its device.

    Any single flipped bit changes it by a power of two, which is not 0 modulo 2**32.
    """
    return torch.stack([_bit_sum(tensor) for tensor in tensors])


def _bit_sum(tensor: Tensor) -> Tensor:
    flat = tensor.reshape(-1)
    size = flat.element_size()
    if size == 8 or (size < 4 and flat.numel() * size % 4 == 0 and flat.storage_offset() * size % 4 == 0):
        flat = flat.view(torch.int32)
    words = {1: torch.int8, 2: torch.int16, 4: torch.int32}[flat.element_size()]
    return flat.view(words).sum(dtype=torch.int32)


class MemoryCheck:
    """DeepSpeed's engine with sums of its memory taken and compared around the places where it writes.

    It is called as the engine is; whatever else is asked of it, the engine answers.

    Weights that are kept twice are compared with each other, which costs half of comparing each with itself.

    Args:
        engine: DeepSpeed's.
        group: All processes.
    """

    def __init__(self, engine: Any, group: ProcessGroup):
        self._engine, self._group = engine, group
        self._taken: dict[Part, Tensor] = {}
        self._changed: dict[Part, Tensor] = {}
        self._since = 0

    def __getattr__(self, name: str) -> Any:
        return getattr(self._engine, name)

    def __call__(self, *inputs: Any) -> Any:
        """Run the engine's forward."""
        return self._engine(*inputs)

    def backward(self, loss: Tensor) -> None:
        """Run the engine's backward, which adds to gradients."""
        self._compare("gradients")
        self._engine.backward(loss)
        self._take("gradients")

    def step(self) -> None:
        """Run the engine's step, which at the end of an accumulation writes everything."""
        if not self._engine.is_gradient_accumulation_boundary():
            self._engine.step()
            return
        self._compare(*PARTS)
        self._engine.step()
        self._take("weights", "the optimizer's state")

    def begin(self, step: int) -> None:
        """Begin afresh with what the engine holds now, as at a start or after a checkpoint was loaded."""
        self._taken, self._changed, self._since = {}, {}, step
        self._take("weights", "the optimizer's state")

    def found(self, step: int) -> str | None:
        """Return, on all ranks alike, which bits have changed by themselves since the last reading, and where."""
        self._compare("weights", "the optimizer's state")
        flags = [int(part in self._changed and bool(self._changed[part])) for part in PARTS]
        told = self._group.gather_counts(flags)
        since, self._since, self._changed = self._since, step, {}
        if not told.any():
            return None
        hosts = self._group.gather_objects(socket.gethostname())
        where = [
            f"{part} of rank {rank} on {hosts[rank]}"
            for rank, of_rank in enumerate(told)
            for part, changed in zip(PARTS, of_rank, strict=True)
            if changed
        ]
        return f"bits changed by themselves between steps {since} and {step}: {'; '.join(where)}"

    def _take(self, *parts: Part) -> None:
        for part, tensors in self._tensors(parts):
            if not self._in_pairs(part):
                self._taken[part] = bit_sums(tensors)

    def _compare(self, *parts: Part) -> None:
        """Compare with what was taken; a part that the engine has built or dropped since is none of its own."""
        for part, tensors in self._tensors(parts):
            taken = self._taken.get(part)
            if self._in_pairs(part):
                one, other = bit_sums(tensors).chunk(2)
                differs = (one != other).any()
            elif taken is not None and len(taken) == len(tensors):
                differs = (bit_sums(tensors) != taken).any()
            else:
                continue
            self._changed[part] = self._changed[part] | differs if part in self._changed else differs
        if "gradients" in parts:
            self._taken.pop("gradients", None)

    def _in_pairs(self, part: Part) -> bool:
        return part == "weights" and kept_twice(self._engine)

    def _tensors(self, parts: tuple[Part, ...]) -> Iterator[tuple[Part, list[Tensor]]]:
        held = ((part, _once(_KEPT[part](self._engine))) for part in parts)
        return ((part, tensors) for part, tensors in held if tensors)


class Probe:
    """The same forward on every rank, compared bit for bit: wrong arithmetic and wrong copies differ between ranks.

    One micro-batch of rank 0, sent once, with the same dropout; under ZeRO-3 every rank gathers the weights for it. A
    single process computes it twice. Ranks have to be alike: on unlike GPUs or CPUs sums may differ in their last bits.

    Args:
        config: The run.
        engine: DeepSpeed's.
        group: All processes.
    """

    def __init__(self, config: Config, engine: Any, group: ProcessGroup):
        self._config, self._engine, self._group = config, engine, group
        self._batch: Batch | None = None

    def found(self, step: int, batch: Batch) -> str | None:
        """Return, on all ranks alike, which ranks compute another result than most.

        Args:
            step: Keys the dropout.
            batch: A micro-batch of this rank, on the host; the first one given on rank 0 is used for good.
        """
        if self._batch is None:
            self._batch = self._group.from_first(batch)
        own = self._digest(self._batch, step)
        digests = self._group.gather_objects(own)
        if self._group.world_size == 1:
            digests.append(self._digest(self._batch, step))
        usual = max(digests, key=digests.count)
        odd = [rank for rank, digest in enumerate(digests) if digest != usual]
        if not odd:
            return None
        hosts = [*self._group.gather_objects(socket.gethostname()), socket.gethostname()]
        named = ", ".join(f"rank {rank} on {hosts[rank]}" for rank in odd)
        return f"the same forward at step {step} gives other bits on {named} than on the rest"

    @torch.no_grad()
    def _digest(self, batch: Batch, step: int) -> str:
        torch.manual_seed(seed_of(self._config.seed, "probe", step))
        outputs = self._engine(batch.to(self._group.device, compute_dtype(self._config)))
        digest = hashlib.sha256()
        for _, tensor in sorted(outputs.items()):
            digest.update(tensor.reshape(-1).view(torch.uint8).cpu().numpy().tobytes())
        return digest.hexdigest()


class SelfCheck:
    """What a run looks at of its own machines: memory at `guards.memory_every`, arithmetic at `guards.probe_every`.

    Args:
        config: The run.
        engine: DeepSpeed's.
        group: All processes.
    """

    def __init__(self, config: Config, engine: Any, group: ProcessGroup):
        self._guards = config.guards
        self._memory = MemoryCheck(engine, group) if self._guards.memory_every else None
        self._probe = Probe(config, engine, group)
        self.engine = self._memory or engine
        """What steps are taken with."""

    def begin(self, step: int) -> None:
        """Begin with the state that the engine holds now."""
        if self._memory is not None:
            self._memory.begin(step)

    def memory_found(self, step: int) -> str | None:
        """Return, on all ranks alike, which bits changed by themselves."""
        return None if self._memory is None else self._memory.found(step)

    def found(self, step: int, batch: Batch) -> str | None:
        """Return, on all ranks alike, what is wrong after a step, where a look is due."""
        told = None
        if self._guards.memory_every and step % self._guards.memory_every == 0:
            told = self.memory_found(step)
        if told is None and self._guards.probe_every and step % self._guards.probe_every == 0:
            told = self._probe.found(step, batch)
        return told
