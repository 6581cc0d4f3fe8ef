"""The model's parameters as the engine holds them: which tensors there are, how long, and in which order they are used.

ZeRO shards, gathers and reduces tensors, not weights: at stages 1 to 3 a block is two flat tensors, one that decays and
one that does not (`sclds.model.blocks`, `sclds.train.flat_blocks`). They are read off the model, which is built without
memory.
"""

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from functools import lru_cache

import torch
from torch import nn

from sclds.config import Config, ModelConfig
from sclds.model.blocks import LARGEST_PIECE, blocks_of, weight_decays
from sclds.model.groups import parameter_group
from sclds.model.scl import SCLModel
from sclds.objectives import objectives_in_use

PARTS = ("vision encoder", "text encoder", "fusion", "heads")
"""Of the model, in which parameters, FLOPs and activations are told."""
_ENCODERS = {"vision_encoder": "vision encoder", "text_encoder": "text encoder"}
_FUSION = ("cross_modal_text_layers", "cross_modal_image_layers", "token_type_embeddings")
_POOLERS = ("cross_modal_text_pooler", "cross_modal_image_pooler", "itm_score")
_ORDER = (
    "text_encoder",
    "cross_modal_text_transform",
    "vision_encoder",
    "cross_modal_image_transform",
    "text_projection",
    "vision_projection",
    "temperature",
    "pairwise_logit",
    "token_type_embeddings",
    "cross_modal_text_layers",
    "cross_modal_image_layers",
    "mlm_score",
    *_POOLERS,
)
"""Modules of `SCLModel` in the order of its forward; of the layers of fusion, the text's and the vision's in turn."""


@dataclass(frozen=True)
class ParameterTensor:
    """One parameter of the engine's model."""

    module: str
    """The module that owns it, whose parameters stage 3 fetches together."""
    part: str
    """One of `PARTS`."""
    group: tuple[str, bool]
    """Its group of the optimizer: learning rate, and whether it decays."""
    numel: int
    used: bool
    """Whether the objectives in use compute with it, so that it is gathered."""
    learned: bool
    """Whether it has a gradient."""
    leaf: bool
    """Whether DeepSpeed takes the module that owns it, with others inside, for one."""


@dataclass(frozen=True)
class Weight:
    """One weight of the model."""

    name: str
    part: str
    """One of `PARTS`."""
    group: str
    decays: bool
    numel: int


@lru_cache(maxsize=16)
def _weights(
    model_config: ModelConfig, vocab_size: int, sigmoid: bool
) -> tuple[tuple[Weight, ...], frozenset[str], Mapping[str, bool]]:
    """Return all weights, the names of the transformer layers, and of blocks, with whether they are leaf modules."""
    with torch.device("meta"):
        model = SCLModel(model_config, vocab_size, sigmoid=sigmoid)
    layers = {
        f"{name}.{number}"
        for name, module in model.named_modules()
        if isinstance(module, nn.ModuleList)
        for number in range(len(module))
    }
    weights = []
    for name, parameter in model.named_parameters():
        group = parameter_group(model, name)
        part = _ENCODERS.get(name.split(".")[0], "fusion" if group == "fusion" else "heads")
        weights.append(Weight(name, part, group, weight_decays(name, parameter.dim()), parameter.numel()))
    blocks = {name: next(block.children(), None) is not None for name, block in blocks_of(model)}
    return tuple(weights), frozenset(layers), blocks


def model_weights(config: Config, vocab_size: int) -> tuple[Weight, ...]:
    """Return all weights of the model."""
    return _weights(config.model, vocab_size, config.losses.sigmoid > 0)[0]


def largest_block(config: Config, vocab_size: int) -> int:
    """Return the number of weights of the largest transformer layer."""
    return _largest_block(config.model, vocab_size, config.losses.sigmoid > 0)


@lru_cache(maxsize=16)
def _largest_block(model_config: ModelConfig, vocab_size: int, sigmoid: bool) -> int:
    weights, layers, _ = _weights(model_config, vocab_size, sigmoid)
    sizes = dict.fromkeys(layers, 0)
    for weight in weights:
        if (layer := _inside(weight.name, layers)) is not None:
            sizes[layer] += weight.numel
    return max(sizes.values(), default=0)


def parameter_tensors(config: Config, vocab_size: int) -> tuple[ParameterTensor, ...]:
    """Return the tensors of the engine's model in the order in which a forward first uses them."""
    sigmoid, flat = config.losses.sigmoid > 0, config.engine.zero_stage > 0
    return _tensors(config.model, vocab_size, sigmoid, flat, _unused(config), _unlearned(config))


@lru_cache(maxsize=64)
def _tensors(
    model_config: ModelConfig,
    vocab_size: int,
    sigmoid: bool,
    flat: bool,
    unused: frozenset[str],
    unlearned: frozenset[str],
) -> tuple[ParameterTensor, ...]:
    weights, _, blocks = _weights(model_config, vocab_size, sigmoid)
    found: dict[tuple[str, str], list[Weight]] = {}
    for weight in weights:
        block = _inside(weight.name, blocks) if flat else None
        alone = block is None or weight.numel > LARGEST_PIECE
        kind = weight.name if alone else f"{block} {weight.decays}"
        found.setdefault((block or weight.name.rpartition(".")[0], kind), []).append(weight)
    tensors = [
        ParameterTensor(
            module,
            inside[0].part,
            (inside[0].group, inside[0].decays),
            sum(weight.numel for weight in inside),
            module.split(".")[0] not in unused,
            module.split(".")[0] not in unused | unlearned,
            flat and blocks.get(module, False),
        )
        for (module, _), inside in found.items()
    ]
    return tuple(sorted(tensors, key=_place))


def _inside(name: str, modules: Collection[str]) -> str | None:
    """Return which of the modules a weight lies in."""
    parts = name.split(".")
    return next((module for end in range(1, len(parts)) if (module := ".".join(parts[:end])) in modules), None)


def _place(tensor: ParameterTensor) -> tuple[int, int, int]:
    top, _, rest = tensor.module.partition(".")
    stream = _ORDER.index(top)
    if top not in _FUSION[:2]:
        return stream, 0, 0
    return _ORDER.index(_FUSION[0]), int(rest.split(".")[0]), stream


def _unused(config: Config) -> frozenset[str]:
    """Return the modules with which no objective in use computes."""
    if config.task is not None:
        return frozenset()
    objectives = objectives_in_use(config.losses)
    heads = {objective.head for objective in objectives}
    unused = set() if "mlm" in heads else {"mlm_score"}
    unused |= set() if "itm" in heads else set(_POOLERS)
    return frozenset(unused if any(objective.reads for objective in objectives) else unused | set(_FUSION))


def _unlearned(config: Config) -> frozenset[str]:
    """Return the modules with which the model computes what no objective in use compares."""
    compares = any(objective.compared and not objective.reads for objective in objectives_in_use(config.losses))
    return frozenset() if compares else frozenset(("text_projection", "vision_projection", "temperature"))
