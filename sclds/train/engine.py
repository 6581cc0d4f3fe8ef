"""DeepSpeed: the model under `zero.Init` with its initial weights, and the engine around it."""

import contextlib
from pathlib import Path
from typing import Any

import deepspeed
import torch
from deepspeed.utils import safe_set_full_fp32_param, safe_set_local_fp32_param
from torch import Tensor, nn
from torch.nn import functional

from sclds.batch.split import Split
from sclds.config import Config
from sclds.config.errors import CheckpointError
from sclds.config.weights import WEIGHTS, misfits
from sclds.data.tokenizer import Tokenizer
from sclds.machine.implementations import compute_dtype
from sclds.model.initial import initial_value
from sclds.run.foreign import refuse_foreign
from sclds.train.deepspeed_settings import deepspeed_settings
from sclds.train.distributed import ProcessGroup
from sclds.train.flat_blocks import flatten_blocks, full_shape, layout_of, materialize, weight_shapes
from sclds.train.optimizer import build_optimizer


def model_outline(config: Config, tokenizer: Tokenizer) -> nn.Module:
    """Return the model on the meta device, where it takes no memory; its blocks are flat where ZeRO shards anything."""
    from sclds.model.scl import SCLModel
    from sclds.tasks.annotations import classes_of
    from sclds.tasks.model import build_task_model

    vocab_size, recompute = config.model.text.vocab_size or tokenizer.vocab_size, config.engine.activation_checkpointing
    classes = len(classes_of(config)) if config.task else 0
    with torch.device("meta"):
        if config.task is not None:
            model: nn.Module = build_task_model(config.model, vocab_size, config.task, classes, recompute)
        else:
            model = SCLModel(config.model, vocab_size, recompute, sigmoid=config.losses.sigmoid > 0)
    if config.engine.zero_stage > 0:
        flatten_blocks(model)
    return model


OF_AN_OBJECTIVE = ("pairwise_logit.", "task_head.")
"""First part of the names of parameters that only some runs have: `losses.sigmoid`'s scale and bias, a task's head."""


class InitialWeights:
    """What every parameter is before the first step, in fp32: out of `model.init_from`, or a draw.

    Args:
        config: The run.
        model: The model, sharded or not.

    Raises:
        CheckpointError: The file does not fit the model.
    """

    def __init__(self, config: Config, model: nn.Module):
        self._config, self._model = config, model
        self._shapes, self._layout = weight_shapes(model), layout_of(model)
        self._read = _read_weights(Path(config.model.init_from), model) if config.model.init_from else {}

    def of(self, name: str) -> Tensor:
        """Return the whole value of a parameter."""
        inside = self._layout.get(name)
        return self._of_weight(name) if inside is None else torch.cat([self._of_weight(w).flatten() for w in inside])

    def _of_weight(self, name: str) -> Tensor:
        """Return a weight by its name in `SCLModel`; a draw is keyed by seed and name."""
        if name in self._read:
            return self._read[name].float()
        return initial_value(self._model, name, self._shapes[name], self._config.seed, self._config.model.init_std)


def fill_parameters(model: nn.Module, initial: InitialWeights, group: ProcessGroup, sharded: bool) -> None:
    """Give every parameter its initial value, rounded to its own type."""
    for name, parameter in model.named_parameters():
        context = (
            deepspeed.zero.GatheredParameters([parameter], modifier_rank=0) if sharded else contextlib.nullcontext()
        )
        with context, torch.no_grad():
            if not sharded or group.rank == 0:
                parameter.data.copy_(initial.of(name))
        if sharded:
            clear_padding(parameter, group.rank)


def clear_padding(parameter: Any, rank: int) -> None:
    """Zero what lies behind the end of a parameter in a rank's partition, which DeepSpeed leaves as memory was.

    It would come into the fp32 weights and the optimizer's state, where a NaN looks like a broken run.
    """
    partition = parameter.ds_tensor
    filled = max(0, parameter.ds_numel - rank * partition.numel())
    partition[filled:].zero_()


def fill_masters(engine: Any, initial: InitialWeights, group: ProcessGroup) -> None:
    """Give the fp32 weights that DeepSpeed made of rounded ones their unrounded initial values."""
    for name, parameter in engine.module.named_parameters():
        value = initial.of(name).to(group.device)
        if not hasattr(parameter, "ds_id"):
            safe_set_full_fp32_param(parameter, value)
            continue
        size = parameter.ds_tensor.numel()
        # all partitions are equally long: the last one ends in padding
        padded = functional.pad(value.flatten(), (0, size * group.world_size - value.numel()))
        safe_set_local_fp32_param(parameter, padded[group.rank * size :][:size])


def weights_file(path: Path) -> Path:
    """Return the safetensors file that `model.init_from` names, itself or by its folder.

    Raises:
        CheckpointError: There is none, it is damaged, or the weights are somebody else's; the sentence says whose, and
            which command makes a folder of them.
    """
    refuse_foreign(path, "a folder that `sclds convert` wrote", "model.init_from")
    file = path / WEIGHTS if path.is_dir() else path
    if not file.is_file():
        raise CheckpointError(f"model.init_from: {file} does not exist; write it with `sclds convert`")
    if file.suffix != ".safetensors":
        raise CheckpointError(f"model.init_from: {file} is no file of safetensors; write one with `sclds convert`")
    return file


def _read_weights(path: Path, model: nn.Module) -> dict[str, Tensor]:
    """Return the weights of a safetensors file or folder.

    Every parameter must be there, with its shape, but for those that belong to an objective alone.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    file = weights_file(path)
    try:
        weights = load_file(file)
    except (SafetensorError, OSError) as fault:
        raise CheckpointError(f"model.init_from: {file} cannot be read ({fault}); write it again") from fault
    if adopted := getattr(model, "adopted", None):  # a downstream task takes what it has a use for
        weights = adopted(weights)
    own = {
        name: s for name, s in weight_shapes(model).items() if name in weights or not name.startswith(OF_AN_OBJECTIVE)
    }
    if told := misfits(own, {name: tensor.shape for name, tensor in weights.items()}):
        raise CheckpointError(
            f"model.init_from: {file} does not fit the model: {told}; compare the `model` section with the "
            f"one beside the weights, or convert them again with `sclds convert`"
        )
    return weights


def build_engine(config: Config, tokenizer: Tokenizer, split: Split, group: ProcessGroup) -> Any:
    """Return the DeepSpeed engine of a run, model and optimizer inside; no step is taken, and no weight is rounded.

    Raises:
        UserError: The weights to start from do not fit, or nothing can be trained.
    """
    stage, dtype = config.engine.zero_stage, compute_dtype(config)
    model = model_outline(config, tokenizer)
    settings = deepspeed_settings(config, split, largest_block(model))
    materialize(model, settings, sharded=stage == 3)
    initial = InitialWeights(config, model)
    fill_parameters(model, initial, group, sharded=stage == 3)
    if stage == 0:
        model.to(group.device)
        optimizer = build_optimizer(model, config.optimizer, replicated=dtype)
    else:
        model.to(dtype)
        optimizer = build_optimizer(model, config.optimizer)
    engine, *_ = deepspeed.initialize(model=model, optimizer=optimizer, config=settings, dist_init_required=False)
    if stage > 0 and dtype != torch.float32:
        fill_masters(engine, initial, group)
    return engine


def count_parameters(model: nn.Module) -> int:
    """Return the number of weights, partitioned or not."""
    return sum(full_shape(p).numel() for p in model.parameters())


def largest_block(model: nn.Module) -> int:
    """Return the number of weights of the largest block."""
    lists = [module for module in model.modules() if isinstance(module, nn.ModuleList)]
    return max((count_parameters(block) for blocks in lists for block in blocks), default=0)
