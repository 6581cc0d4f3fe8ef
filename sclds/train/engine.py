"""DeepSpeed: its settings, the model under `zero.Init`, and the engine around both."""

import contextlib
from pathlib import Path
from typing import Any

import deepspeed
import torch
from torch import Tensor, nn

from sclds.batch.split import Split
from sclds.config import Config
from sclds.config.errors import CheckpointError
from sclds.config.weights import WEIGHTS
from sclds.data.tokenizer import Tokenizer
from sclds.run.foreign import refuse_foreign
from sclds.train.distributed import ProcessGroup
from sclds.train.optimizer import build_optimizer


def deepspeed_settings(config: Config, split: Split, load_universal: bool = False) -> dict[str, Any]:
    """Return DeepSpeed's configuration for a run.

    Small parameters that stay gathered are sent around one by one after every step, which over gloo takes a fifth of a
    quickstart's step (0.24 of 1.19 s); gathered with their modules instead, the step takes 0.98 s.
    """
    on_cuda = torch.cuda.is_available()
    stage = config.engine.zero_stage
    return {
        "train_batch_size": config.batch.global_size,
        "train_micro_batch_size_per_gpu": split.micro,
        "gradient_accumulation_steps": split.accumulation,
        "gradient_clipping": 0.0 if guards_itself(config) else config.optimizer.clip_norm,
        "bf16": {"enabled": config.engine.precision == "bf16"},
        "zero_optimization": {
            "stage": stage,
            "overlap_comm": on_cuda and stage > 0,
            "contiguous_gradients": True,
            "stage3_gather_16bit_weights_on_model_save": False,
            **({} if on_cuda else {"stage3_param_persistence_threshold": 0}),
        },
        "zero_allow_untested_optimizer": True,
        "checkpoint": {"load_universal": load_universal},
        "steps_per_print": 10**12,
        "wall_clock_breakdown": False,
    }


def guards_itself(config: Config) -> bool:
    """Return whether our optimizer clips and checks for finite gradients, because no DeepSpeed wrapper is around it."""
    return config.engine.zero_stage == 0 and config.engine.precision == "fp32"


def build_model(config: Config, tokenizer: Tokenizer, settings: dict[str, Any], group: ProcessGroup) -> nn.Module:
    """Return the model with its initial weights; under stage 3 no process ever holds all of it."""
    from sclds.model.scl import SCLModel

    sharded = config.engine.zero_stage == 3
    context = deepspeed.zero.Init(config_dict_or_path=settings) if sharded else contextlib.nullcontext()
    with context:
        model = SCLModel(
            config.model,
            vocab_size=config.model.text.vocab_size or tokenizer.vocab_size,
            recompute=config.engine.activation_checkpointing,
            sigmoid=config.losses.sigmoid > 0,
        )
    weights = _read_weights(Path(config.model.init_from), model) if config.model.init_from else {}
    fill_parameters(model, config.seed, weights, sharded, group.rank)
    return model


OF_AN_OBJECTIVE = "pairwise_logit."
"""First part of the names of parameters that only some objectives have: `losses.sigmoid`'s scale and bias."""


def fill_parameters(model: nn.Module, seed: int, weights: dict[str, Tensor], sharded: bool, rank: int) -> None:
    """Give every parameter its value out of `weights`, or its own draw, which is keyed by seed and name."""
    for name, parameter in model.named_parameters():
        context = (
            deepspeed.zero.GatheredParameters([parameter], modifier_rank=0) if sharded else contextlib.nullcontext()
        )
        with context, torch.no_grad():
            if sharded and rank != 0:
                continue
            if name in weights:
                parameter.data.copy_(weights[name])
            else:
                model.initialize_parameter(name, parameter.data, seed)  # type: ignore[operator]


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
    shapes = {n: tuple(getattr(p, "ds_shape", p.shape)) for n, p in model.named_parameters()}
    wrong = sorted(n for n in shapes.keys() & weights.keys() if shapes[n] != tuple(weights[n].shape))
    faults = {
        "have another shape": wrong,
        "are missing": sorted(n for n in shapes.keys() - weights.keys() if not n.startswith(OF_AN_OBJECTIVE)),
        "are unknown": sorted(weights.keys() - shapes.keys()),
    }
    told = [f"{len(names)} parameters {what} ({', '.join(names[:3])})" for what, names in faults.items() if names]
    if told:
        raise CheckpointError(
            f"model.init_from: {file} does not fit the model: {'; '.join(told)}; compare the `model` section with the "
            f"one beside the weights, or convert them again with `sclds convert`"
        )
    return weights


def build_engine(
    config: Config, tokenizer: Tokenizer, split: Split, group: ProcessGroup, load_universal: bool = False
) -> Any:
    """Return the DeepSpeed engine of a run, model and optimizer inside."""
    settings = deepspeed_settings(config, split, load_universal)
    model = build_model(config, tokenizer, settings, group)
    if config.engine.zero_stage < 3 and config.engine.precision == "bf16":
        model.to(torch.bfloat16)
    optimizer = build_optimizer(model, config.optimizer, guard=guards_itself(config))
    engine, *_ = deepspeed.initialize(model=model, optimizer=optimizer, config=settings, dist_init_required=False)
    return engine


def count_parameters(model: nn.Module) -> int:
    """Return the number of weights, partitioned or not."""
    return sum(int(getattr(p, "ds_numel", p.numel())) for p in model.parameters())
