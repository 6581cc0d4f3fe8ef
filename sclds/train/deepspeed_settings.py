"""What DeepSpeed is told: our settings, and those of `engine.deepspeed` over them, checked before a run starts."""

import difflib
from importlib.util import find_spec
from types import MappingProxyType
from typing import Any, Literal

import torch
from deepspeed.accelerator import get_accelerator
from deepspeed.monitor.config import CometConfig, CSVConfig, TensorBoardConfig, WandbConfig
from deepspeed.runtime.zero.config import DeepSpeedZeroConfig
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from sclds.batch.split import Split
from sclds.config import Config, EngineConfig
from sclds.config.errors import ConfigError
from sclds.costs.communication import bucket_size

PREFIX = "engine.deepspeed"
_OTHER_PARALLELISM = "the model is run by ZeRO alone; remove it"
_OTHER_TRAINING = "it changes what a step computes; remove it"
_OTHER_DIVISION = "losses are already shares of the global batch; remove it"
_OTHER_OPTIMIZER = "it needs an optimizer of DeepSpeed's own; remove it"
REFUSED = MappingProxyType(
    {
        "train_batch_size": "set batch.global_size",
        "train_micro_batch_size_per_gpu": "set batch.max_micro_size",
        "gradient_accumulation_steps": "it follows from batch.global_size and batch.max_micro_size",
        "managed_gradient_accumulation": "it follows from batch.global_size and batch.max_micro_size; remove it",
        "gradient_clipping": "set optimizer.clip_norm",
        "optimizer": "set the section optimizer",
        "scheduler": "set the section schedule",
        "zero_allow_untested_optimizer": "set optimizer.implementation",
        "bf16": "set engine.precision",
        "bfloat16": "set engine.precision",
        "fp16": "set engine.precision",
        "amp": "set engine.precision",
        "torch_autocast": "set engine.precision",
        "data_types": "set engine.gradient_precision",
        "communication_data_type": "set engine.gradient_precision",
        "activation_checkpointing": "set engine.activation_checkpointing",
        "gradient_allreduce_op": _OTHER_TRAINING,
        "sparse_gradients": _OTHER_TRAINING,
        "prescale_gradients": _OTHER_DIVISION,
        "gradient_predivide_factor": _OTHER_DIVISION,
        "data_efficiency": _OTHER_TRAINING,
        "curriculum_learning": _OTHER_TRAINING,
        "progressive_layer_drop": _OTHER_TRAINING,
        "compression_training": _OTHER_TRAINING,
        "quantize_training": _OTHER_TRAINING,
        "weight_quantization": _OTHER_TRAINING,
        "hybrid_engine": _OTHER_TRAINING,
        "elasticity": "a run resumes on any number of processes by itself; remove it",
        "autotuning": "`sclds plan` names micro-batch and stage; remove it",
        "compile": "the engine is not compiled, so that it has no effect; remove it",
        "tensor_parallel": _OTHER_PARALLELISM,
        "expert_parallel": _OTHER_PARALLELISM,
        "pipeline": _OTHER_PARALLELISM,
        "sequence_parallel_size": _OTHER_PARALLELISM,
        "zero_optimization.stage": "set engine.zero_stage",
        "zero_optimization.legacy_stage1": "DeepSpeed has it no more; remove it",
        "zero_optimization.cpu_offload": "set zero_optimization.offload_optimizer.device=cpu",
        "zero_optimization.cpu_offload_params": "set zero_optimization.offload_param.device=cpu",
        "zero_optimization.zenflow": _OTHER_OPTIMIZER,
        "zero_optimization.zero_quantized_nontrainable_weights": "no weight of the model is frozen; remove it",
        "zero_optimization.compute_grad_norm": "steps are clipped and checked by the norm; remove it",
        "zero_optimization.load_from_fp32_weights": "a resumed run goes on from its fp32 weights; remove it",
        "checkpoint.load_universal": "a run resumes on any number of processes by itself; remove it",
    }
)
"""Keys that would break what a run promises, and what to do instead."""


MONITORS = MappingProxyType(
    {
        "wandb": ("wandb", "pip install wandb"),
        "comet": ("comet_ml", "pip install comet_ml"),
        "tensorboard": ("tensorboard", "pip install tensorboard"),
    }
)
"""Where DeepSpeed can write its own figures, and the package that each takes."""

OFFLOADS = ("offload_optimizer", "offload_param")
"""Sections of `zero_optimization` that move state out of the GPU's memory."""
OF_STAGE_3 = ("offload_param", "zero_hpz_partition_size", "zero_quantized_weights", "zero_quantized_gradients")
"""Keys of `zero_optimization` that have no effect at the other stages."""


class _Part(BaseModel):
    model_config = ConfigDict(extra="forbid")


class FlopsProfiler(_Part):
    """DeepSpeed's `flops_profiler`, which it reads without a class of its own."""

    enabled: bool = False
    recompute_fwd_factor: float = 0.0
    profile_step: int = 1
    module_depth: int = -1
    top_modules: int = 1
    detailed: bool = True
    output_file: str | None = None


class CommsLogger(_Part):
    """DeepSpeed's `comms_logger`, whose class lies beside its collectives."""

    enabled: bool = False
    prof_all: bool = True
    prof_ops: list[str] = []
    verbose: bool = False
    debug: bool = False


class CheckpointFiles(_Part):
    """DeepSpeed's `checkpoint`, which it reads without a class of its own too."""

    load_universal: bool = False
    tag_validation: Literal["Ignore", "Warn", "Fail"] = "Warn"
    use_node_local_storage: bool = False
    parallel_write: dict[str, bool] = {}


class DeepSpeedKeys(_Part):
    """The keys of DeepSpeed's configuration that `engine.deepspeed` may set."""

    zero_optimization: DeepSpeedZeroConfig = DeepSpeedZeroConfig()
    comms_logger: CommsLogger = CommsLogger()
    tensorboard: TensorBoardConfig = TensorBoardConfig()
    wandb: WandbConfig = WandbConfig()
    csv_monitor: CSVConfig = CSVConfig()
    comet: CometConfig = CometConfig()
    flops_profiler: FlopsProfiler = FlopsProfiler()
    checkpoint: CheckpointFiles = CheckpointFiles()
    steps_per_print: int = Field(1, ge=1)
    wall_clock_breakdown: bool = False
    memory_breakdown: bool = False
    dump_state: bool = False
    disable_python_gc: bool = False


def deepspeed_settings(config: Config, split: Split, largest_block: int) -> dict[str, Any]:
    """Return DeepSpeed's configuration for a run.

    Args:
        config: The run.
        split: Of its global batch.
        largest_block: Weights of the model's largest block, from which buckets follow.

    Raises:
        ConfigError: `engine.deepspeed` cannot be had.
    """
    if problems := deepspeed_problems(config.engine):
        raise ConfigError(problems)
    settings = _own_settings(config.engine, largest_block) | {
        "train_batch_size": config.batch.global_size,
        "train_micro_batch_size_per_gpu": split.micro,
        "gradient_accumulation_steps": split.accumulation,
        # at stage 0 our own optimizer clips
        "gradient_clipping": config.optimizer.clip_norm if config.engine.zero_stage else 0.0,
    }
    return _merged(settings, config.engine.deepspeed)


def _own_settings(engine: EngineConfig, largest_block: int) -> dict[str, Any]:
    """Return what we set whatever the batch.

    Small parameters that stay gathered (DeepSpeed's persistence threshold) are sent around one by one in every
    optimizer step, 372 messages for the base model; gathered with their blocks they cost nothing of their own.
    """
    on_cuda, stage = torch.cuda.is_available(), engine.zero_stage
    settings: dict[str, Any] = {
        # at stage 0 the model's type is our own optimizer's matter, and to DeepSpeed all is fp32
        "bf16": {"enabled": engine.precision == "bf16" and stage > 0},
        "zero_optimization": {
            "stage": stage,
            "overlap_comm": on_cuda and stage > 0,
            "contiguous_gradients": True,
            "reduce_bucket_size": bucket_size(largest_block),
            "stage3_prefetch_bucket_size": bucket_size(largest_block),
            "stage3_param_persistence_threshold": 0,
            "stage3_gather_16bit_weights_on_model_save": False,
            # blocks do better by themselves: `sclds.train.flat_blocks`
            "memory_efficient_linear": False,
        },
        "zero_allow_untested_optimizer": True,
        # offloaded state is stepped by the same AdamW, not by another one that DeepSpeed compiles
        **({"zero_force_ds_cpu_optimizer": False} if any(_zero(engine, key) for key in OFFLOADS) else {}),
        "steps_per_print": 10**12,
        "wall_clock_breakdown": False,
        # waits for the device at the beginning and at the end of every micro-batch, for a figure that nobody reads
        "timers": {"throughput": {"enabled": False}},
    }
    if engine.precision == "bf16" and stage > 0:
        # without these DeepSpeed adds micro-batches and ranks up in the model's type
        settings["data_types"] = {"grad_accum_dtype": engine.gradient_precision}
        settings["communication_data_type"] = engine.gradient_precision
    return settings


def overriding(engine: EngineConfig, largest_block: int) -> list[str]:
    """Return a line for every key of `engine.deepspeed` that replaces one of ours."""
    ours, theirs = _leaves(_own_settings(engine, largest_block)), _leaves(engine.deepspeed)
    return [
        f"{PREFIX}.{key}={value} replaces {ours[key]}"
        for key, value in theirs.items()
        if key in ours and ours[key] != value
    ]


def deepspeed_problems(engine: EngineConfig) -> list[str]:
    """Return a sentence for everything that DeepSpeed would refuse here, and that of it which we refuse ourselves."""
    problems = []
    if engine.precision == "bf16" and not get_accelerator().is_bf16_supported():
        problems.append("engine.precision=bf16 is not supported by this machine's device; set engine.precision=fp32")
    return problems + _problems_of_keys(engine)


def offload_problems(config: Config) -> list[str]:
    """Return a sentence if the state lies where the optimizer cannot step it."""
    offload, implementation = _zero(config.engine, "offload_optimizer"), config.optimizer.implementation
    if not offload or implementation == "torch":
        return []
    return [
        f"optimizer.implementation={implementation} steps on the GPU alone, and {PREFIX}.zero_optimization."
        f"offload_optimizer moves its state to the host; use optimizer.implementation=torch"
    ]


def _problems_at_scale(engine: EngineConfig) -> list[str]:
    """Return a sentence for everything that ZeRO's settings for many GPUs need and do not have."""
    problems = []
    for key in OFFLOADS:
        device = (_zero(engine, key) or {}).get("device")
        if device not in (None, "none", "cpu"):
            problems.append(
                f"{PREFIX}.zero_optimization.{key}.device={device} is refused: a checkpoint vouches for files that "
                f"each rank writes from memory, and this state lies in others; use cpu"
            )
    for key in OF_STAGE_3:
        if engine.zero_stage < 3 and _zero(engine, key):
            problems.append(
                f"{PREFIX}.zero_optimization.{key} has no effect with engine.zero_stage={engine.zero_stage}; set "
                f"engine.zero_stage=3, or remove it"
            )
    for key in ("zero_quantized_weights", "zero_quantized_gradients"):
        if _zero(engine, key) and not torch.cuda.is_available():
            problems.append(f"{PREFIX}.zero_optimization.{key} needs a CUDA device, and there is none; remove it")
    return problems


def _zero(engine: EngineConfig, key: str) -> Any:
    """Return what `engine.deepspeed` says of a key of ZeRO's, if anything."""
    zero = engine.deepspeed.get("zero_optimization")
    return zero.get(key) if isinstance(zero, dict) else None


def _problems_of_keys(engine: EngineConfig) -> list[str]:
    """Return a sentence for every key of `engine.deepspeed` that is unknown, wrong, without effect or refused."""
    refused = [key for key in REFUSED if _has(engine.deepspeed, key.split("."))]
    problems = [f"{PREFIX}.{key} is refused: {REFUSED[key]}" for key in refused]
    if engine.zero_stage == 0 and "zero_optimization" in engine.deepspeed:
        problems.append(f"{PREFIX}.zero_optimization has no effect with engine.zero_stage=0; remove it")
    rest = _without(engine.deepspeed, refused)
    try:
        DeepSpeedKeys.model_validate(rest)
        problems += _problems_at_scale(engine)
    except ValidationError as fault:
        problems += [_sentence(error) for error in fault.errors()]
    except (AssertionError, ValueError) as fault:  # of DeepSpeed's own checks between keys
        problems.append(f"{PREFIX}: {fault}")
    for monitor, (package, remedy) in MONITORS.items():
        if _has(rest, [monitor, "enabled"]) and rest[monitor]["enabled"] and find_spec(package) is None:
            problems.append(f"{PREFIX}.{monitor} needs {package}, which is missing; {remedy}, or remove it")
    return problems


def _sentence(error: Any) -> str:
    """Turn one pydantic error into a sentence that names the key, and the nearest one where it is unknown."""
    location = [str(part) for part in error["loc"] if not str(part).startswith("function-")]
    key = ".".join([PREFIX, *location])
    if error["type"] != "extra_forbidden":
        return f"{key}={error['input']!r}: {error['msg'][0].lower()}{error['msg'][1:]}"
    known = _keys_beside(location)
    nearest = difflib.get_close_matches(location[-1], known, n=1, cutoff=0.5)
    hint = f"did you mean '{nearest[0]}'?" if nearest else f"known keys: {', '.join(known)}"
    return f"{key}: unknown key of DeepSpeed; {hint}"


def _keys_beside(location: list[str]) -> list[str]:
    """Return the keys of the section in which `location` lies."""
    section: type[BaseModel] = DeepSpeedKeys
    for part in location[:-1]:
        inner = section.model_fields[part].annotation if part in section.model_fields else None
        candidates = [inner, *getattr(inner, "__args__", ())]
        section = next((c for c in candidates if isinstance(c, type) and issubclass(c, BaseModel)), section)
    names = {name for key, field in section.model_fields.items() for name in (key, field.alias) if name}
    tops = {key for key in REFUSED if "." not in key} if section is DeepSpeedKeys else set()
    return sorted(names | tops)


def _merged(ours: dict[str, Any], theirs: dict[str, Any]) -> dict[str, Any]:
    """Return `ours` with the leaves of `theirs` over it."""
    merged = dict(ours)
    for key, value in theirs.items():
        inner = merged.get(key)
        merged[key] = _merged(inner, value) if isinstance(inner, dict) and isinstance(value, dict) else value
    return merged


def _leaves(tree: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """Return the values under dotted keys."""
    leaves: dict[str, Any] = {}
    for key, value in tree.items():
        leaves |= _leaves(value, f"{prefix}{key}.") if isinstance(value, dict) else {f"{prefix}{key}": value}
    return leaves


def _without(tree: dict[str, Any], keys: list[str], prefix: str = "") -> dict[str, Any]:
    """Return nested dicts without some dotted keys."""
    return {
        key: _without(value, keys, f"{prefix}{key}.") if isinstance(value, dict) else value
        for key, value in tree.items()
        if f"{prefix}{key}" not in keys
    }


def _has(tree: Any, path: list[str]) -> bool:
    """Return whether nested dicts hold a path."""
    for part in path:
        if not isinstance(tree, dict) or part not in tree:
            return False
        tree = tree[part]
    return True
