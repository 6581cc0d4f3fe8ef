"""AdamW with the method's parameter groups, from torch, DeepSpeed or NVIDIA Apex."""

from typing import Any

import torch
from torch import Tensor, nn

from scl_kernels.optional import library
from sclds.config import OptimizerConfig
from sclds.config.errors import ConfigError
from sclds.model.groups import parameter_group


def decays(name: str, dimensions: int) -> bool:
    """Return whether weight decay applies to a parameter: to matrices, not to biases, norms and the temperature."""
    return dimensions > 1 and not name.endswith("bias")


def dimensions_of(parameter: nn.Parameter) -> int:
    """Return the number of dimensions of a parameter, also of one that ZeRO-3 has partitioned."""
    return len(getattr(parameter, "ds_shape", parameter.shape))


def parameter_groups(model: nn.Module, optimizer: OptimizerConfig) -> list[dict[str, Any]]:
    """Return AdamW's groups: those that modules declare, each with and without decay; `peak` is its highest rate."""
    multiplier = {"encoders": 1.0, "fusion": optimizer.fusion_multiplier, "heads": optimizer.heads_multiplier}
    groups: dict[tuple[str, bool], dict[str, Any]] = {}
    for name, parameter in model.named_parameters():
        if not parameter.requires_grad:
            continue
        part, decayed = key = parameter_group(model, name), decays(name, dimensions_of(parameter))
        if key not in groups:
            peak = optimizer.learning_rate * multiplier[part]
            groups[key] = {
                "params": [],
                "name": f"{part}{'' if decayed else '-no-decay'}",
                "peak": peak,
                "lr": peak,
                "weight_decay": optimizer.weight_decay if decayed else 0.0,
            }
        groups[key]["params"].append(parameter)
    return [groups[key] for key in sorted(groups)]


def set_learning_rate(optimizer: Any, factor: float) -> None:
    """Set every group of a torch or DeepSpeed optimizer to `factor` of its peak."""
    for group in optimizer.param_groups:
        group["lr"] = group["peak"] * factor


def total_norm(gradients: list[Tensor]) -> Tensor:
    """Return the norm of all gradients together, summed in fp64.

    A sum in fp32 was off by 6e-6 of the norm at 3.6 M parameters. ZeRO's stages sum per shard and do better, and what
    they clip by has to be the same number.
    """
    return torch.stack([torch.linalg.vector_norm(g, dtype=torch.float64) for g in gradients]).norm()


class GuardedAdamW(torch.optim.AdamW):
    """AdamW for ZeRO stage 0: clips, and skips a step whose gradient is not finite, as DeepSpeed's ZeRO stages do.

    The engine reads `overflow` and `_global_grad_norm` from whatever optimizer it holds.
    """

    def __init__(self, params: Any, clip_norm: float, **kwargs: Any):
        super().__init__(params, **kwargs)
        self.clip_norm = clip_norm
        self.overflow = False
        self._global_grad_norm = 0.0

    def step(self, closure: Any = None) -> Any:
        """Clip to `clip_norm` (0 does not clip), then update, unless the norm is not finite."""
        parameters = [p for group in self.param_groups for p in group["params"] if p.grad is not None]
        norm = total_norm([p.grad for p in parameters if p.grad is not None])
        self._global_grad_norm = float(norm)
        self.overflow = not bool(torch.isfinite(norm))
        if self.overflow:
            return None
        if self.clip_norm > 0:
            torch.nn.utils.clip_grads_with_norm_(parameters, self.clip_norm, norm)
        return super().step(closure)


def implementation_problems(optimizer: OptimizerConfig) -> list[str]:
    """Return a sentence if the chosen implementation cannot run here."""
    apex = library("NVIDIA Apex")
    if optimizer.implementation == "apex" and not apex.present:
        return [
            f"optimizer.implementation=apex needs {apex.name}, which is missing ({apex.why}); {apex.remedy}, or use "
            f"optimizer.implementation=torch"
        ]
    if optimizer.implementation != "torch" and not torch.cuda.is_available():
        return [
            f"optimizer.implementation={optimizer.implementation} needs a CUDA device, and there is none; "
            f"use optimizer.implementation=torch"
        ]
    return []


def build_optimizer(model: nn.Module, optimizer: OptimizerConfig, guard: bool) -> torch.optim.Optimizer:
    """Return AdamW over the method's groups; `guard` clips and checks in the optimizer itself (ZeRO stage 0, fp32)."""
    problems = implementation_problems(optimizer)
    if problems:
        raise ConfigError(problems)
    groups = parameter_groups(model, optimizer)
    settings: dict[str, Any] = {"betas": optimizer.betas, "eps": optimizer.eps}
    if guard:
        return GuardedAdamW(groups, clip_norm=optimizer.clip_norm, **settings)
    if optimizer.implementation == "apex":
        from apex.optimizers import FusedAdam as ApexAdam

        return ApexAdam(groups, adam_w_mode=True, **settings)
    if optimizer.implementation == "deepspeed":
        from deepspeed.ops.adam import FusedAdam

        return FusedAdam(groups, adam_w_mode=True, **settings)
    return torch.optim.AdamW(groups, fused=torch.cuda.is_available(), **settings)
