"""The folder that `sclds convert` writes and `model.init_from` reads: weights, architecture, and where they came from.

* `model.safetensors`: every parameter of `SCLModel` by name
* `config.yaml`: the `model` section that fits them
* `preprocessing.json`, `tokenizer/`: what the weights were shown, so that they are shown the same elsewhere
* `origin.json`: the source, and what going back needs: released names in order, shapes, parts drawn by seed
* `unused.safetensors`: released tensors that nothing here reads, kept so that going back is complete
"""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException
from pydantic import ValidationError
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from sclds.config import ModelConfig
from sclds.config.errors import CheckpointError
from sclds.config.weights import CONFIG, ORIGIN, PREPROCESSING, TOKENIZER, UNUSED, WEIGHTS, misfits
from sclds.interop.preprocessing import Preprocessing
from sclds.interop.weights_file import write_weights
from sclds.model.scl import SCLModel
from sclds.run.files import new_folder
from sclds.run.foreign import refuse_foreign


@dataclass(frozen=True)
class Origin:
    """Where weights came from."""

    source: str
    """`released`, `run`, `encoders`, …"""
    seed: int = 0
    """Keyed the draw of `initialized`."""
    initialized: list[str] = field(default_factory=list)
    """Parameters that the source did not have."""
    released_shapes: dict[str, list[int]] = field(default_factory=dict)
    """Name and shape of every tensor of a released state, in its order."""
    dropped: list[str] = field(default_factory=list)
    """Tensors of the source that are not kept, by permission or because the method has no use for them."""
    training_data: list[str] = field(default_factory=list)
    """Names of the data sets of a run."""
    results: dict[str, Any] = field(default_factory=dict)
    """`retrieval` of a run's results.json, measured with these weights."""


@dataclass(frozen=True)
class AnswerHead:
    """The head of a fine-tuned model that answers; it stands in no folder, only in the run."""

    task: str
    """`task.name`."""
    classes: tuple[str, ...]
    weights: Mapping[str, Tensor]
    """By the names of `sclds.tasks.model.TaskHead`."""
    images: int
    """Images of a question or statement."""
    use_image: bool
    """Whether it was shown images, and no blank ones."""


@dataclass(frozen=True)
class ModelFolder:
    """What such a folder holds."""

    config: ModelConfig
    weights: Mapping[str, Tensor]
    origin: Origin
    unused: dict[str, Tensor] = field(default_factory=dict)
    preprocessing: Preprocessing | None = None
    """What the weights were shown; None in a folder that an older version wrote."""
    tokenizer: dict[str, bytes] = field(default_factory=dict)
    """Files of the tokenizer by name; none where it could not be had."""
    answers: AnswerHead | None = None
    """Of a fine-tuned model that answers, which lacks the heads of pre-training."""


def parameter_shapes(config: ModelConfig) -> dict[str, torch.Size]:
    """Return name and shape of every parameter, without allocating one."""
    with torch.device("meta"):
        return {name: p.shape for name, p in _model(config).named_parameters()}


def build_model(config: ModelConfig, weights: Mapping[str, Tensor] | None = None, seed: int = 0) -> SCLModel:
    """Return the model with `weights`; parameters that they lack are drawn by seed and name."""
    model = _model(config)
    model.initialize(seed)
    if weights:
        model.load_state_dict(dict(weights), strict=False)
    return model


def _model(config: ModelConfig) -> SCLModel:
    return SCLModel(config, config.text.vocab_size)


def completed(config: ModelConfig, weights: Mapping[str, Tensor], missing: list[str], seed: int) -> dict[str, Tensor]:
    """Return `weights` with the missing parameters drawn by seed and name."""
    drawn = dict(build_model(config, seed=seed).named_parameters()) if missing else {}
    return {**weights, **{name: drawn[name].detach().clone() for name in missing}}


def write_folder(path: Path, content: ModelFolder) -> None:
    """Write a new folder.

    Raises:
        CheckpointError: If there is something at `path` already.
    """
    if path.exists():
        raise CheckpointError(f"{path} exists already; name a new folder, or remove it")
    with new_folder(path) as part:
        write_weights(part / WEIGHTS, content.weights)
        if content.unused:
            save_file(_own(content.unused), part / UNUSED, metadata={"format": "pt"})
        section = content.config.model_copy(update={"init_from": None}).model_dump(mode="json")
        (part / CONFIG).write_text(OmegaConf.to_yaml(OmegaConf.create(section)), encoding="utf-8")
        (part / ORIGIN).write_text(json.dumps(asdict(content.origin), indent=1) + "\n", encoding="utf-8")
        if content.preprocessing is not None:
            (part / PREPROCESSING).write_text(content.preprocessing.model_dump_json(indent=1) + "\n", encoding="utf-8")
        for name, file in content.tokenizer.items():
            (part / TOKENIZER).mkdir(exist_ok=True)
            (part / TOKENIZER / name).write_bytes(file)


def read_folder(path: Path) -> ModelFolder:
    """Read a folder that `write_folder` wrote.

    Raises:
        CheckpointError: If a file is missing or damaged, or the weights do not fit the architecture.
    """
    refuse_foreign(path, "a folder that `sclds convert` wrote")
    for name in (WEIGHTS, CONFIG, ORIGIN):
        if not (path / name).is_file():
            raise CheckpointError(f"{path} has no {name}; give a folder that `sclds convert` wrote")
    try:
        weights = load_file(path / WEIGHTS)
        unused = load_file(path / UNUSED) if (path / UNUSED).is_file() else {}
        config = ModelConfig.model_validate(OmegaConf.to_container(OmegaConf.load(path / CONFIG)))
        origin = Origin(**_mapping(json.loads((path / ORIGIN).read_text(encoding="utf-8"))))
        shown = path / PREPROCESSING
        preprocessing = (
            Preprocessing.model_validate_json(shown.read_text(encoding="utf-8")) if shown.is_file() else None
        )
        tokenizer = {file.name: file.read_bytes() for file in sorted((path / TOKENIZER).glob("*"))}
    except (SafetensorError, OSError, ValidationError, ValueError, TypeError, OmegaConfBaseException) as fault:
        raise CheckpointError(f"{path} cannot be read ({' '.join(str(fault).split())}); convert again") from fault
    shapes = parameter_shapes(config)
    if told := misfits(shapes, {name: tensor.shape for name, tensor in weights.items()}):
        raise CheckpointError(f"{path}: {CONFIG} and {WEIGHTS} do not fit one another: {told}; convert again")
    return ModelFolder(config, weights, origin, unused, preprocessing, tokenizer)


def _mapping(value: Any) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise ValueError(f"{ORIGIN} holds no object")
    return value


def _own(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Give every tensor its own memory, as safetensors asks."""
    return {name: tensor.detach().clone().contiguous() for name, tensor in tensors.items()}
