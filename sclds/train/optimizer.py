"""AdamW with the method's parameter groups, from torch, DeepSpeed or NVIDIA Apex."""

from typing import Any

import torch
from torch import Tensor, nn

from scl_kernels.optional import library
from sclds.config import OptimizerConfig
from sclds.config.errors import ConfigError
from sclds.model.blocks import weight_decays
from sclds.model.groups import parameter_group

WITHOUT_DECAY = "-no-decay"
"""How the names of groups end whose weights do not decay."""


DECAYED, NOT_DECAYED = "decayed_weights", "other_weights"
"""Last parts of the names of parameters that hold several weights (`sclds.train.flat_blocks`)."""


def decays(name: str, dimensions: int) -> bool:
    """Return whether weight decay applies to a parameter: to matrices, not to biases, norms and the temperature."""
    return name.endswith(f".{DECAYED}") or weight_decays(name, dimensions)


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
                "name": f"{part}{'' if decayed else WITHOUT_DECAY}",
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


def learning_rates(optimizer: Any) -> dict[str, float]:
    """Return the rates of a torch or DeepSpeed optimizer by part of the model: encoders, fusion, heads."""
    return {group["name"].removesuffix(WITHOUT_DECAY): float(group["lr"]) for group in optimizer.param_groups}


def total_norm(gradients: list[Tensor]) -> Tensor:
    """Return the norm of all gradients together, summed in fp64.

    A sum in fp32 was off by 6e-6 of the norm at 3.6 M parameters. ZeRO's stages sum per shard and do better, and what
    they clip by has to be the same number.
    """
    return torch.stack([torch.linalg.vector_norm(g, dtype=torch.float64) for g in gradients]).norm()


MASTERS = "masters"
"""Where a checkpoint of ZeRO stage 0 has the fp32 weights of a model that computes in another type."""


class ReplicatedAdamW(torch.optim.AdamW):
    """AdamW for ZeRO stage 0: fp32 weights and gradients whatever type the model computes in, clipped and checked.

    DeepSpeed's own optimizer for bf16 at this stage steps once on zero gradients when it is built (weights decay, and
    the bias correction is one step ahead for the whole run), and adds gradients up in bf16. The engine takes this one
    as it is: it sums over ranks what `get_grads_for_reduction` returns, and reads `overflow` and `_global_grad_norm`.

    Args:
        params: Groups of names and fp32 parameters of the model, which are cast to `dtype` in place.
        clip_norm: Largest norm of all gradients; 0 does not clip.
        dtype: What the model computes in; of another than fp32 the weights are copies of fp32 ones kept here.
        kwargs: AdamW's.
    """

    def __init__(self, params: Any, clip_norm: float, dtype: torch.dtype = torch.float32, **kwargs: Any):
        super().__init__(params, **kwargs)
        self.clip_norm = clip_norm
        self.overflow = False
        self._global_grad_norm = 0.0
        self._copies: dict[str, tuple[nn.Parameter, nn.Parameter]] = {}
        """By name the model's parameter and its fp32 weights; empty where the model computes in fp32."""
        for group in self.param_groups:
            if dtype != torch.float32:
                names = group["param_names"]
                group["params"] = [self._master_of(*named, dtype) for named in zip(names, group["params"], strict=True)]

    def _master_of(self, name: str, parameter: nn.Parameter, dtype: torch.dtype) -> nn.Parameter:
        """Return the fp32 weights of a parameter, into whose gradient every micro-batch's is added."""
        master = nn.Parameter(parameter.detach().clone())
        parameter.data = parameter.data.to(dtype)

        def take_gradient(computed: Tensor) -> None:
            assert computed.grad is not None
            master.grad = computed.grad.float() if master.grad is None else master.grad.add_(computed.grad)
            computed.grad = None

        parameter.register_post_accumulate_grad_hook(take_gradient)
        self._copies[name] = parameter, master
        return master

    def masters(self) -> dict[str, nn.Parameter]:
        """Return the fp32 weights by name: the model's own, where it computes in fp32."""
        return {
            name: parameter
            for group in self.param_groups
            for name, parameter in zip(group["param_names"], group["params"], strict=True)
        }

    def get_grads_for_reduction(self) -> tuple[list[Tensor], dict[str, list[Tensor]]]:
        """Return the gradients that the engine averages over ranks in place (zeros where it has none), no experts'."""
        weights = list(self.masters().values())
        for each in weights:
            if each.grad is None:
                each.grad = torch.zeros_like(each)
        return [each.grad for each in weights if each.grad is not None], {}

    def step(self, closure: Any = None) -> Any:
        """Clip, then update, unless the norm is not finite."""
        parameters = [p for p in self.masters().values() if p.grad is not None]
        norm = total_norm([p.grad for p in parameters if p.grad is not None])
        self._global_grad_norm = float(norm)
        self.overflow = not bool(torch.isfinite(norm))
        if not self.overflow:
            if self.clip_norm > 0:
                torch.nn.utils.clip_grads_with_norm_(parameters, self.clip_norm, norm)
            super().step(closure)
            self.hand_down()
        for each in parameters:
            each.grad = None

    def state_dict(self) -> dict[str, Any]:
        """Return AdamW's state, and under `MASTERS` by name the fp32 weights that the model only has rounded."""
        return super().state_dict() | {MASTERS: {name: master.detach() for name, (_, master) in self._copies.items()}}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take the state that `state_dict` returned, and give the model its weights."""
        super().load_state_dict(state_dict)
        with torch.no_grad():
            for name, (_, master) in self._copies.items():
                master.copy_(state_dict[MASTERS][name])
        self.hand_down()

    @torch.no_grad()
    def hand_down(self) -> None:
        """Round the fp32 weights into the model's, after they were changed."""
        for parameter, master in self._copies.values():
            parameter.copy_(master)


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


def build_optimizer(
    model: nn.Module, optimizer: OptimizerConfig, replicated: torch.dtype | None = None
) -> torch.optim.Optimizer:
    """Return AdamW over the method's groups.

    Args:
        model: With fp32 parameters where `replicated` is given.
        optimizer: Its settings.
        replicated: At ZeRO stage 0 what the model shall compute in; None elsewhere, where DeepSpeed wraps this.
    """
    problems = implementation_problems(optimizer)
    if problems:
        raise ConfigError(problems)
    groups = parameter_groups(model, optimizer)
    if not groups:
        raise ConfigError(["the model has no parameter to train: none of it requires a gradient"])
    settings: dict[str, Any] = {"betas": optimizer.betas, "eps": optimizer.eps}
    if replicated is not None:
        names = {parameter: name for name, parameter in model.named_parameters()}
        named = [group | {"params": [(names[p], p) for p in group["params"]]} for group in groups]
        return ReplicatedAdamW(named, optimizer.clip_norm, replicated, **settings)
    if optimizer.implementation == "apex":
        from apex.optimizers import FusedAdam as ApexAdam

        return ApexAdam(groups, adam_w_mode=True, **settings)
    if optimizer.implementation == "deepspeed":
        from deepspeed.ops.adam import FusedAdam

        return FusedAdam(groups, adam_w_mode=True, **settings)
    return torch.optim.AdamW(groups, fused=torch.cuda.is_available(), **settings)
