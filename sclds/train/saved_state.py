"""What a checkpoint holds, by name of weight, whatever ZeRO stage, layout and number of processes wrote it.

Files are mapped, not read: only what is asked for comes into memory, so that a checkpoint may be larger than that.
"""

import math
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from sclds.config.errors import CheckpointError
from sclds.run.checkpoints import ENGINE_TAG
from sclds.train.flat_blocks import FlatLayout
from sclds.train.optimizer import MASTERS

MODEL_FILE = "mp_rank_00_model_states.pt"
"""DeepSpeed's file of the weights that no process shards."""
_MODEL_FILE_OF_STAGE_3 = "zero_pp_rank_0_mp_rank_00_model_states.pt"
_MOMENTS = ("exp_avg", "exp_avg_sq")
KINDS = ("fp32", *_MOMENTS)
"""What there is of a weight: its values, and Adam's moments of its gradient."""
OWN_CLASSES = frozenset(
    {
        "deepspeed.utils.tensor_fragment.fragment_address",
        "deepspeed.runtime.fp16.loss_scaler.LossScaler",
        "deepspeed.runtime.fp16.loss_scaler.DynamicLossScaler",
        "deepspeed.runtime.zero.config.ZeroStageEnum",
    }
)
"""What DeepSpeed's own files name beside tensors and plain values; a file that names anything else is not opened."""


def refuse_foreign_code(file: Path) -> None:
    """Look through a pickle without running it.

    Raises:
        CheckpointError: It cannot be read, or names what no checkpoint of a run contains.
    """
    try:
        named = torch.serialization.get_unsafe_globals_in_checkpoint(file)
    except (OSError, RuntimeError, ValueError, EOFError) as fault:
        raise CheckpointError(f"{file} cannot be read ({fault}); take an older checkpoint") from fault
    foreign = [name for name in named if name not in OWN_CLASSES]
    if foreign:
        raise CheckpointError(
            f"{file} names code that no checkpoint of a run contains ({', '.join(foreign)}); it is not opened"
        )


class SavedState:
    """The weights of a checkpoint by their names in `SCLModel`, and what its optimizer knows of them.

    Args:
        folder: Of the checkpoint (`step-…`).
        layout: Which weights lie in which of its parameters; every other parameter is a weight.

    Raises:
        CheckpointError: Files are missing, cannot be read, or name code that no run writes.
    """

    def __init__(self, folder: Path, layout: FlatLayout):
        self._folder = folder
        self._files = sorted((folder / ENGINE_TAG).glob("*.pt"))
        for file in self._files:
            refuse_foreign_code(file)
        self.shapes: dict[str, torch.Size] = {}
        """By weight."""
        self._whole: dict[str, torch.Size] = {}
        """By parameter."""
        self._places: dict[str, tuple[str, int]] = {}
        """By weight the parameter that it lies in, and where it begins there."""
        self.optimizer_step = 0.0
        """Steps that Adam corrects its moments for."""
        self._pieces: dict[str, dict[str, list[Tensor]]] = {kind: {} for kind in KINDS}
        """By kind and parameter one-dimensional tensors in mapped files, which make it up one after the other."""
        shards = [file for file in self._files if file.name.endswith("_optim_states.pt")]
        try:
            self.client: dict[str, Any] = self._read_model(_MODEL_FILE_OF_STAGE_3, MODEL_FILE)
            if shards:
                self._refuse_missing([_rank_of(file) for file in shards])
                self._add_shards([_load(file)["optimizer_state_dict"] for file in sorted(shards, key=_rank_of)])
            else:
                self._add_replicated()
            self._place_weights(layout)
        except CheckpointError:
            raise
        except (KeyError, IndexError, TypeError, ValueError, RuntimeError) as fault:
            raise CheckpointError(f"{folder} cannot be put together out of its shards ({fault!r})") from fault
        self._refuse_gaps()

    def _read_model(self, *names: str) -> dict[str, Any]:
        """Return what the first of the files that is there holds beside shards."""
        file = next((path for name in names if (path := self._folder / ENGINE_TAG / name).is_file()), None)
        if file is None:
            raise CheckpointError(f"{self._folder} has no weights: {names[-1]} is missing; take an older checkpoint")
        return _load(file)

    def _refuse_missing(self, ranks: list[int]) -> None:
        absent = sorted(set(range(self.client["dp_world_size"])).symmetric_difference(ranks))
        if absent:
            raise CheckpointError(
                f"{self._folder} cannot be put together: of {self.client['dp_world_size']} shards that of rank "
                f"{absent[0]} is missing, or another run's; take an older checkpoint"
            )

    def _add_replicated(self) -> None:
        """Take stage 0: one file with all weights, the fp32 ones beside those that the model has rounded."""
        optimizer = self.client["optimizer"] or {}
        for name, weight in (self.client["module"] | optimizer.get(MASTERS, {})).items():
            self._whole[name] = weight.shape
            self._pieces["fp32"][name] = [weight.flatten()]
        for group in optimizer.get("param_groups", ()):
            for name, number in zip(group["param_names"], group["params"], strict=True):
                state = optimizer["state"].get(number, {})
                self._note_step(state, group)
                for kind in _MOMENTS & state.keys():
                    self._pieces[kind][name] = [state[kind].flatten()]

    def _add_shards(self, ranks: list[dict[str, Any]]) -> None:
        """Take stages 1, 2 and 3: every rank holds a piece of each group of parameters, or of each parameter."""
        if "fp32_flat_groups" in ranks[0]:
            self._whole = {name: torch.Size(s) for group in self.client["param_shapes"] for name, s in group.items()}
            self._add_frozen(len(ranks))
            for rank, shard in enumerate(ranks):
                for number, names in enumerate(self.client["param_shapes"]):
                    self._add_group(shard["fp32_flat_groups"], shard["optimizer_state_dict"], number)
                    self._cut_parameters(names, rank, len(ranks))
            return
        self._whole = {name: weight.shape for name, weight in self.client["module"].items()}
        for shard in ranks:
            for number, places in enumerate(shard["param_slice_mappings"]):
                self._add_group(shard["single_partition_of_fp32_groups"], shard["base_optimizer_state"], number)
                for name, place in places.items():
                    self._take(name, place.start, place.numel)
        for name in self._whole.keys() - self._pieces["fp32"].keys():  # what no optimizer steps
            self._pieces["fp32"][name] = [self.client["module"][name].flatten()]

    def _add_group(self, weights: list[Tensor], optimizer: dict[str, Any], number: int) -> None:
        """Open a rank's piece of a group, out of which parameters are cut."""
        state = optimizer["state"].get(number, {})
        self._note_step(state, optimizer["param_groups"][min(number, len(optimizer["param_groups"]) - 1)])
        self._open = {"fp32": weights[number]} | {kind: state[kind] for kind in _MOMENTS if kind in state}

    def _cut_parameters(self, names: Iterable[str], rank: int, ranks: int) -> None:
        """Cut parameters out of a rank's group of stage 3, where each is padded to a multiple of the ranks."""
        start = 0
        for name in names:
            size = -(-self._whole[name].numel() // ranks)
            self._take(name, start, max(0, min(size, self._whole[name].numel() - rank * size)))
            start += size

    def _take(self, name: str, start: int, numel: int) -> None:
        for kind, flat in self._open.items():
            self._pieces[kind].setdefault(name, []).append(flat.detach().narrow(0, start, numel))

    def _add_frozen(self, ranks: int) -> None:
        """Take what no optimizer steps: stage 3 has it in the files of the model."""
        shapes = self.client.get("frozen_param_shapes") or {}
        for rank in range(ranks if shapes else 0):
            fragments = self._read_model(f"zero_pp_rank_{rank}_mp_rank_00_model_states.pt")["frozen_param_fragments"]
            for name, shape in shapes.items():
                left = torch.Size(shape).numel() - rank * fragments[name].numel()
                piece = fragments[name].flatten()[: max(0, left)]
                self._pieces["fp32"].setdefault(name, []).append(piece)
                self._whole[name] = torch.Size(shape)

    def _note_step(self, state: dict[str, Any], group: dict[str, Any]) -> None:
        self.optimizer_step = max(self.optimizer_step, float(state.get("step", group.get("step", 0))))

    def _place_weights(self, layout: FlatLayout) -> None:
        """Find the weights in the parameters."""
        for name, whole in self._whole.items():
            start = 0
            for weight, shape in layout.get(name, {name: list(whole)}).items():
                self.shapes[weight], self._places[weight] = torch.Size(shape), (name, start)
                start += math.prod(shape)
            if start != whole.numel():
                raise ValueError(f"{name} has {whole.numel():,} values, and the weights in it {start:,}")
        if absent := layout.keys() - self._whole.keys():
            raise ValueError(f"{min(absent)} is not there")

    def _refuse_gaps(self) -> None:
        for name, shape in self._whole.items():
            found = sum(piece.numel() for piece in self._pieces["fp32"].get(name, ()))
            if found != shape.numel():
                raise CheckpointError(
                    f"{self._folder} cannot be put together out of its shards: {name} is not whole ({found:,} of "
                    f"{shape.numel():,} values); take an older checkpoint"
                )

    def has_moments(self) -> bool:
        """Return whether the optimizer had stepped."""
        return bool(self._pieces[_MOMENTS[0]])

    def read(self, name: str, kind: str = "fp32", start: int = 0, stop: int | None = None) -> Tensor:
        """Return the values `start` to `stop` of a flattened weight, in fp32, as a tensor of their own.

        Args:
            name: Of the weight.
            kind: One of `KINDS`.
            start: The first value.
            stop: The one after the last; the weight's end when not given.
        """
        stop = self.shapes[name].numel() if stop is None else stop
        parameter, offset = self._places[name]
        pieces, values = self._pieces[kind][parameter], torch.empty(stop - start)
        for number, inside, place in overlaps([piece.numel() for piece in pieces], offset + start, offset + stop):
            values[place].copy_(pieces[number][inside])
        return values


def overlaps(sizes: Iterable[int], start: int, stop: int) -> Iterator[tuple[int, slice, slice]]:
    """Return where values `start` to `stop` lie in pieces of `sizes` that follow each other.

    Returns:
        Per piece that has some of them: its number, which of its values these are, and their places from `start` on.
    """
    begin = 0
    for number, size in enumerate(sizes):
        first, last = max(start, begin), min(stop, begin + size)
        if first < last:
            yield number, slice(first - begin, last - begin), slice(first - start, last - start)
        begin += size


def _load(file: Path) -> dict[str, Any]:
    """Map a file of DeepSpeed's, which keeps objects of its own beside tensors, hence the check of its names before."""
    loaded: dict[str, Any] = torch.load(file, map_location="cpu", weights_only=False, mmap=True)
    return loaded


def _rank_of(shard: Path) -> int:
    return int(shard.name.partition("zero_pp_rank_")[2].split("_")[0])
