"""Initial weights, a pure function of (seed, parameter name): the same on every rank and for every ZeRO stage."""

import hashlib

import torch
from torch import Tensor

from sclds.config import ModelConfig


def initialise_parameter(name: str, tensor: Tensor, seed: int, config: ModelConfig) -> None:
    """Fill a parameter in place.

    Vision from scratch follows CLIP's own scheme (arXiv 2103.00020, released code); text and what follows the
    encoders is normal with `init_std`; projections keep the framework's default (docs/method.md §2).
    """
    leaf = name.rsplit(".", 1)[-1]
    if name.startswith("temperature."):
        values = torch.full(tensor.shape, config.initial_temperature)
    elif leaf.endswith("bias"):
        projection = "_projection." in name and ".norm." not in name
        values = _uniform(name, tensor, seed, config.fusion.width**-0.5) if projection else torch.zeros(tensor.shape)
    elif ("norm" in name.rsplit(".", 2)[-2] or leaf == "norm_weight") and leaf.endswith("weight"):
        values = torch.ones(tensor.shape)
    elif "_projection." in name:
        values = _uniform(name, tensor, seed, tensor.shape[1] ** -0.5)
    else:
        values = torch.randn(tensor.shape, generator=_generator(seed, name)) * _std(name, config)
    tensor.copy_(values)


def _std(name: str, config: ModelConfig) -> float:
    if not name.startswith("vision_encoder."):
        return config.init_std
    width, layers = config.vision.width, config.vision.layers
    if name.endswith("patch_weight"):
        # The framework's uniform ±1/√fan_in of a convolution has this deviation.
        return (3 * config.vision.patch_size**2 * 3) ** -0.5
    if ".mlp.up." in name:
        return (2 * width) ** -0.5
    if ".out." in name or ".mlp.down." in name:
        return width**-0.5 * (2 * layers) ** -0.5
    if name.endswith("temporal_embedding") or name.endswith("mask_token"):
        return config.init_std
    return width**-0.5


def _uniform(name: str, tensor: Tensor, seed: int, bound: float) -> Tensor:
    return (torch.rand(tensor.shape, generator=_generator(seed, name)) * 2 - 1) * bound


def _generator(seed: int, name: str) -> torch.Generator:
    digest = hashlib.blake2b(f"{seed}/{name}".encode(), digest_size=8).digest()
    return torch.Generator().manual_seed(int.from_bytes(digest, "big") >> 1)
