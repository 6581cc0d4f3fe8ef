"""A checkpoint back into an engine: as DeepSpeed does it, or weight by weight where the shards lie otherwise."""

import contextlib
import io
import json
from typing import Any

import torch
from torch import Tensor

from sclds.config import Config
from sclds.config.errors import CheckpointError
from sclds.run.checkpoints import ENGINE_TAG, Checkpoint
from sclds.train.distributed import ProcessGroup
from sclds.train.flat_blocks import FlatLayout, layout_of, weight_shapes
from sclds.train.optimizer import ReplicatedAdamW
from sclds.train.saved_state import KINDS, SavedState, overlaps


def fits(checkpoint: Checkpoint, config: Config, world_size: int, layout: FlatLayout) -> bool:
    """Return whether the checkpoint's shards are those that these processes hold, at this ZeRO stage and layout."""
    stage = config.engine.zero_stage
    written = checkpoint.config.get("engine", {}).get("zero_stage", stage)
    if written != stage or json.dumps(checkpoint.layout) != json.dumps(layout):  # the order of weights counts
        return False
    return stage == 0 or checkpoint.world_size == world_size


def load_checkpoint(engine: Any, checkpoint: Checkpoint, config: Config, group: ProcessGroup) -> dict[str, Any]:
    """Put a checkpoint's weights and optimizer state into the engine; return its client state.

    Raises:
        CheckpointError: It cannot be read, or its optimizer is another one.
    """
    if fits(checkpoint, config, group.world_size, layout_of(engine.module)):
        try:
            with contextlib.redirect_stdout(io.StringIO()):  # DeepSpeed prints names of its own
                path, saved = engine.load_checkpoint(str(checkpoint.folder), tag=ENGINE_TAG)
        except (KeyError, ValueError, TypeError, AttributeError, AssertionError):
            # of a version that had another optimizer of DeepSpeed's for bf16
            return _load_across(engine, checkpoint, group.rank)
        if path is None:
            raise CheckpointError(f"{checkpoint.folder} cannot be read; remove it, and the one before is taken")
        return saved or {}
    return _load_across(engine, checkpoint, group.rank)


def _another_state(checkpoint: Checkpoint, reason: str) -> CheckpointError:
    return CheckpointError(
        f"{checkpoint.folder} has another optimizer state than this version writes ({reason}); start over in another "
        f"run_dir with model.init_from set to what `sclds convert run` makes of it"
    )


def _load_across(engine: Any, checkpoint: Checkpoint, rank: int) -> dict[str, Any]:
    """Read what this rank holds of every parameter out of shards of other processes, another stage, another layout.

    DeepSpeed's universal format leads from one number of processes to another, but not from one stage or layout to
    another, gives all groups the settings of the first, and needs the checkpoint's size once more on the disk.
    """
    found = SavedState(checkpoint.folder, checkpoint.layout)
    saved, wanted = SavedParameters(found, layout_of(engine.module)), weight_shapes(engine.module)
    names = [name for name, parameter in engine.module.named_parameters() if parameter.requires_grad]
    weights = [weight for name in names for weight in saved.inside(name)]
    if lacking := sorted(weight for weight in weights if found.shapes.get(weight) != wanted[weight]):
        raise _another_state(checkpoint, f"it lacks {', '.join(lacking[:3])}, or has another shape of it")
    if checkpoint.step and not saved.has_moments():
        raise _another_state(checkpoint, "it has no moments of Adam's by name")
    optimizer = engine.optimizer
    if isinstance(optimizer, ReplicatedAdamW):
        _fill_replicated(optimizer, saved)
    elif hasattr(optimizer, "fp32_partitioned_groups_flat"):
        _fill_stage_3(engine, saved, rank)
    else:
        _fill_stages_1_and_2(engine, saved)
    for count in ("global_steps", "global_samples", "skipped_steps"):
        setattr(engine, count, saved.client[count])
    return saved.client


class SavedParameters:
    """A saved state by the parameters of an engine, of which some hold several weights.

    Args:
        saved: What a checkpoint holds.
        layout: Of the engine.
    """

    def __init__(self, saved: SavedState, layout: FlatLayout):
        self._saved, self._layout = saved, layout
        self.client, self.optimizer_step, self.has_moments = saved.client, saved.optimizer_step, saved.has_moments

    def inside(self, name: str) -> list[str]:
        """Return the weights in a parameter, in their order."""
        return list(self._layout.get(name, (name,)))

    def numel(self, name: str) -> int:
        """Return how many values a parameter has."""
        return sum(self._saved.shapes[weight].numel() for weight in self.inside(name))

    def read(self, name: str, kind: str, start: int = 0, stop: int | None = None) -> Tensor:
        """Return the values `start` to `stop` of a flattened parameter, in fp32; see `SavedState.read`."""
        weights, stop = self.inside(name), self.numel(name) if stop is None else stop
        values = torch.empty(stop - start)
        sizes = [self._saved.shapes[weight].numel() for weight in weights]
        for number, inside, place in overlaps(sizes, start, stop):
            values[place] = self._saved.read(weights[number], kind, inside.start, inside.stop)
        return values


def _fill_replicated(optimizer: ReplicatedAdamW, saved: SavedParameters) -> None:
    groups = [group for group in optimizer.param_groups for _ in group["params"]]
    for (name, weight), group in zip(optimizer.masters().items(), groups, strict=True):
        tensors = {"fp32": weight.detach()} | _moments(optimizer, weight, group, saved)
        for kind, tensor in tensors.items():
            tensor.copy_(saved.read(name, kind).view(tensor.shape))
    optimizer.hand_down()


def _fill_stages_1_and_2(engine: Any, saved: SavedParameters) -> None:
    """Fill this rank's piece of every group, which holds consecutive parameters, the first and the last of them cut."""
    optimizer = engine.optimizer
    for group, places in zip(optimizer.optimizer.param_groups, optimizer._param_slice_mappings, strict=True):
        [flat] = group["params"]
        tensors = {"fp32": flat.detach()} | _moments(optimizer.optimizer, flat, group, saved)
        for name, place in places.items():
            start = engine.module.get_parameter(name)._hp_mapping.lp_fragment_address.start
            for kind, tensor in tensors.items():
                tensor.narrow(0, place.start, place.numel).copy_(saved.read(name, kind, start, start + place.numel))
    optimizer.update_lp_params()


def _fill_stage_3(engine: Any, saved: SavedParameters, rank: int) -> None:
    """Fill this rank's piece of every parameter; all ranks' are equally long, and the last ends in padding."""
    optimizer = engine.optimizer
    optimizer.checkpoint_event_prologue()
    names = {parameter: name for name, parameter in engine.module.named_parameters()}
    for number, (parameters, flat) in enumerate(
        zip(optimizer.fp16_groups, optimizer.fp32_partitioned_groups_flat, strict=True)
    ):
        group = optimizer.optimizer.param_groups[optimizer.sub_group_to_group_id[number]]
        tensors = {"fp32": flat.detach()} | _moments(optimizer.optimizer, flat, group, saved)
        place = 0
        for parameter in parameters:
            name, size = names[parameter], parameter.partition_numel()
            start = min(rank * size, saved.numel(name))
            numel = min(size, saved.numel(name) - start)
            for kind, tensor in tensors.items():
                own = tensor.narrow(0, place, size)
                own.zero_()[:numel].copy_(saved.read(name, kind, start, start + numel))
            parameter.ds_tensor.copy_(flat.detach().narrow(0, place, size))
            place += size
    optimizer.checkpoint_event_epilogue()


def _moments(optimizer: Any, weight: Tensor, group: dict[str, Any], saved: SavedParameters) -> dict[str, Tensor]:
    """Give an optimizer the state of `weight` that it would have had after the saved steps; return what to fill."""
    if not saved.has_moments():
        return {}
    state = optimizer.state[weight]
    for kind in KINDS[1:]:
        state[kind] = torch.zeros_like(weight)
    if isinstance(optimizer, torch.optim.AdamW):
        on = weight.device if group.get("fused") or group.get("capturable") else "cpu"
        state["step"] = torch.tensor(saved.optimizer_step, dtype=torch.float32, device=on)
    else:  # Apex's and DeepSpeed's count by group
        group["step"] = state["step"] = int(saved.optimizer_step)
    return {kind: state[kind] for kind in KINDS[1:]}
