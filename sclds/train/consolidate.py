"""The whole weights of a checkpoint in fp32, whatever ZeRO stage and number of processes wrote it."""

import contextlib
import io
from pathlib import Path

import torch
from torch import Tensor

from sclds.config.errors import CheckpointError
from sclds.run.checkpoints import ENGINE_TAG, STATE_FILE
from sclds.run.manifest import file_problems, manifest_of
from sclds.train.optimizer import MASTERS

MODEL_FILE = "mp_rank_00_model_states.pt"
"""DeepSpeed's file of the weights that no process shards."""
BF16_SHARD = "bf16_zero_pp_rank_"
"""How DeepSpeed's files of sharded fp32 weights begin with bf16."""
OWN_CLASSES = frozenset(
    {
        "deepspeed.utils.tensor_fragment.fragment_address",
        "deepspeed.runtime.fp16.loss_scaler.LossScaler",
        "deepspeed.runtime.fp16.loss_scaler.DynamicLossScaler",
        "deepspeed.runtime.zero.config.ZeroStageEnum",
    }
)
"""What DeepSpeed's own files name beside tensors and plain values; a file that names anything else is not opened."""


def consolidated_weights(folder: str | Path) -> dict[str, Tensor]:
    """Return every parameter of a checkpoint folder (`step-…`) by name, whole and in fp32 on the CPU.

    Raises:
        CheckpointError: If the folder is no complete checkpoint, its files are not those that were written, or they
            name code that no run writes.
    """
    folder = Path(folder)
    if not (folder / STATE_FILE).is_file():
        raise CheckpointError(f"{folder} is not a complete checkpoint: it has no {STATE_FILE}; name a folder `step-…`")
    _refuse_damage(folder)
    files = sorted((folder / ENGINE_TAG).glob("*.pt"))
    for file in files:
        refuse_foreign_code(file)
    shards = [file for file in files if file.name.endswith("_optim_states.pt")]
    if shards and _names_no_stage(shards[0]):
        state = _of_bf16_shards(folder / ENGINE_TAG / MODEL_FILE, shards)
    elif shards:
        from deepspeed.utils.zero_to_fp32 import get_fp32_state_dict_from_zero_checkpoint

        quiet = io.StringIO()
        try:
            with contextlib.redirect_stdout(quiet), contextlib.redirect_stderr(quiet):
                state = get_fp32_state_dict_from_zero_checkpoint(str(folder), tag=ENGINE_TAG)
        except (OSError, ValueError, KeyError, RuntimeError) as fault:
            raise CheckpointError(f"{folder} cannot be put together out of its shards: {fault}") from fault
    elif (folder / ENGINE_TAG / MODEL_FILE).is_file():
        # DeepSpeed keeps objects of its own beside the weights, hence the check above in place of weights_only
        saved = torch.load(folder / ENGINE_TAG / MODEL_FILE, map_location="cpu", weights_only=False)
        state = saved["module"] | (saved["optimizer"] or {}).get(MASTERS, {})
    else:
        raise CheckpointError(f"{folder} has no weights: {MODEL_FILE} is missing; take an older checkpoint")
    return {name: tensor[...].detach().float().contiguous() for name, tensor in state.items()}


def _refuse_damage(folder: Path) -> None:
    """Compare a checkpoint with its manifest; one of a version that wrote none is taken as it is."""
    try:
        listed = manifest_of(folder) or {}
    except ValueError as fault:
        raise CheckpointError(f"{folder}: {fault}; take an older checkpoint") from fault
    if problems := file_problems(folder, listed, listed):
        raise CheckpointError(f"{folder} is damaged: {'; '.join(problems[:3])}; take an older checkpoint")


def _names_no_stage(shard: Path) -> bool:
    """Return whether a shard is of ZeRO stage 1 with bf16, whose optimizer is another one than the other stages'."""
    state = torch.load(shard, map_location="cpu", weights_only=False, mmap=True)["optimizer_state_dict"]
    return "zero_stage" not in state


def _of_bf16_shards(model: Path, shards: list[Path]) -> dict[str, Tensor]:
    """Put together the fp32 weights of ZeRO stage 1 with bf16, whose files DeepSpeed's own converter does not know.

    Raises:
        CheckpointError: A shard is missing.
    """
    whole = torch.load(model, map_location="cpu", weights_only=False)["module"]
    parts: dict[str, list[Tensor]] = {name: [] for name in whole}
    # ranks hold consecutive pieces of every group of parameters
    for shard in sorted(shards, key=lambda file: int(file.name.removeprefix(BF16_SHARD).split("_")[0])):
        state = torch.load(shard, map_location="cpu", weights_only=False)["optimizer_state_dict"]
        for weights, places in zip(
            state["single_partition_of_fp32_groups"], state["param_slice_mappings"], strict=True
        ):
            for name, place in places.items():
                parts[name].append(weights.detach().narrow(0, place.start, place.numel))
    wrong = [name for name, tensor in whole.items() if sum(part.numel() for part in parts[name]) != tensor.numel()]
    if wrong:
        raise CheckpointError(f"{model.parent} cannot be put together out of its shards: {wrong[0]} is not whole")
    return {name: torch.cat(parts[name]).view(tensor.shape) for name, tensor in whole.items()}


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
