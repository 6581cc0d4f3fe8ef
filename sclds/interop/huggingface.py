"""A model as a Hugging Face folder that needs nothing of this package, and such a folder back as ours.

Beside weights, tokenizer and settings of the preprocessing lie the files of `sclds.reference.standalone`, the plain
definition that the packed model is tested against, so that

```python
model = AutoModel.from_pretrained("folder", trust_remote_code=True)
processor = AutoProcessor.from_pretrained("folder", trust_remote_code=True)
```

load where `sclds` is not installed.
"""

import importlib.resources
import json
from pathlib import Path
from typing import Any

from pydantic import ValidationError
from safetensors.torch import load_file
from torch import Tensor

from sclds.config import ModelConfig
from sclds.config.errors import CheckpointError, UserError
from sclds.config.weights import WEIGHTS, misfits
from sclds.interop.folder import ModelFolder, Origin, parameter_shapes
from sclds.interop.model_card import model_card
from sclds.interop.preprocessing import Preprocessing, files_of, tokenizer_in
from sclds.reference import standalone
from sclds.run.files import new_folder
from sclds.run.foreign import damage

CODE = {
    "AutoConfig": "configuration_scl.SCLConfig",
    "AutoModel": "modeling_scl.SCLModel",
    "AutoImageProcessor": "image_processing_scl.SCLImageProcessor",
    "AutoProcessor": "processing_scl.SCLProcessor",
}
"""Where transformers finds its classes in the folder."""
_SETTINGS, _IMAGES, _PROCESSOR, _CARD = "config.json", "preprocessor_config.json", "processor_config.json", "README.md"
_PREFIX = "scl."
"""Of the names of parameters in the exported model."""
_TOKENIZER = ("tokenizer.json", "tokenizer_config.json")


def export(folder: ModelFolder, out: Path, tokenizer: str | None = None, license_id: str | None = None) -> None:
    """Write a folder that `AutoModel` and `AutoProcessor` load with `trust_remote_code=True`.

    Args:
        folder: Weights, architecture, preprocessing and tokenizer.
        out: New folder.
        tokenizer: `embedded`, or a Hugging Face name or folder, instead of the folder's own.
        license_id: License of the weights as the hub names it, for the model card.

    Raises:
        UserError: If the folder does not say how the weights were shown their data, or its tokenizer is not to be had.
    """
    preprocessing = folder.preprocessing
    if preprocessing is None:
        raise UserError(
            "the folder does not say how its weights were shown images and texts: an older version wrote it; convert "
            "the run or the checkpoint again"
        )
    rows, tokens = folder.config.text.vocab_size, preprocessing.max_text_tokens
    files = folder.tokenizer
    if tokenizer is not None or not files:
        files = files_of(tokenizer or preprocessing.tokenizer, tokens, rows)
    pad_id = tokenizer_in(files, tokenizer or preprocessing.tokenizer).pad_id
    with new_folder(out) as part:
        _save_model(folder, pad_id, part)
        for name in _TOKENIZER:
            (part / name).write_bytes(files[name])
        _write_json(part / _IMAGES, _image_settings(preprocessing))
        _write_json(part / _PROCESSOR, {"processor_class": "SCLProcessor", "auto_map": _code("AutoProcessor")})
        source = importlib.resources.files(standalone)
        for name in standalone.FILES:
            (part / name).write_bytes((source / name).read_bytes())
        captions = importlib.resources.files("sclds.data") / "captions.py"
        (part / standalone.CAPTIONS).write_bytes(captions.read_bytes())
        (part / _CARD).write_text(model_card(folder, license_id), encoding="utf-8")


def _save_model(folder: ModelFolder, pad_id: int, out: Path) -> None:
    """Write weights and settings by the library's own means."""
    from sclds.reference.standalone.configuration_scl import SCLConfig
    from sclds.reference.standalone.modeling_scl import SCLModel

    architecture = folder.config.model_copy(update={"init_from": None}).model_dump(mode="json")
    origin = folder.origin
    config = SCLConfig(
        architecture,
        pad_token_id=pad_id,
        auto_map=_code("AutoConfig", "AutoModel"),
        architectures=["SCLModel"],
        origin={"source": origin.source, "training_data": origin.training_data, "results": origin.results},
    )
    model = SCLModel(config)
    model.scl.load_state_dict(folder.weights)
    model.save_pretrained(out)


def _code(*kinds: str) -> dict[str, str]:
    return {kind: CODE[kind] for kind in kinds}


def _image_settings(preprocessing: Preprocessing) -> dict[str, Any]:
    """Return the settings of the image processor."""
    side = preprocessing.image_size
    return {
        "image_processor_type": "SCLImageProcessor",
        "auto_map": _code("AutoImageProcessor", "AutoProcessor"),
        "size": {"height": side, "width": side},
        "video_size": preprocessing.video_size,
        "num_frames": preprocessing.frames,
        "image_mean": list(preprocessing.mean),
        "image_std": list(preprocessing.std),
        "resample": "bilinear",
        "do_center_crop": False,
    }


def _read_image_settings(path: Path) -> dict[str, Any]:
    """Return the settings of the image processor: its own file, or its place in the processor's, saved there again."""
    if (path / _IMAGES).is_file():
        return json.loads((path / _IMAGES).read_text(encoding="utf-8"))
    return json.loads((path / _PROCESSOR).read_text(encoding="utf-8"))["image_processor"]


def _write_json(path: Path, content: dict[str, Any]) -> None:
    path.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")


def read_exported(path: Path) -> ModelFolder:
    """Read a folder that `export` wrote.

    Raises:
        CheckpointError: If a file is missing or damaged, or weights and architecture do not fit one another.
    """
    if problem := damage(path):
        raise CheckpointError(problem)
    try:
        settings = json.loads((path / _SETTINGS).read_text(encoding="utf-8"))
        config = ModelConfig.model_validate(settings["architecture"])
        weights = _weights(path)
        images = _read_image_settings(path)
        preprocessing = Preprocessing(
            image_size=images["size"]["height"],
            video_size=images["video_size"],
            frames=images["num_frames"],
            mean=images["image_mean"],
            std=images["image_std"],
            max_text_tokens=json.loads((path / "tokenizer_config.json").read_text(encoding="utf-8"))[
                "model_max_length"
            ],
            tokenizer=str(path),
        )
        tokenizer = {name: (path / name).read_bytes() for name in _TOKENIZER}
        origin = Origin(**settings.get("origin", {"source": str(path)}))
    except (OSError, ValueError, KeyError, TypeError, ValidationError) as fault:
        raise CheckpointError(f"{path} is no complete export ({' '.join(str(fault).split())}); export again") from fault
    shapes = parameter_shapes(config)
    if told := misfits(shapes, {name: tensor.shape for name, tensor in weights.items()}):
        raise CheckpointError(f"{path}: {_SETTINGS} and the weights do not fit one another: {told}; export again")
    return ModelFolder(config, weights, origin, preprocessing=preprocessing, tokenizer=tokenizer)


def _weights(path: Path) -> dict[str, Tensor]:
    """Return the parameters of an export, of one file or several, under our names."""
    index = path / f"{WEIGHTS}.index.json"
    files = (
        sorted(set(json.loads(index.read_text(encoding="utf-8"))["weight_map"].values()))
        if index.is_file()
        else [WEIGHTS]
    )
    found: dict[str, Tensor] = {}
    for file in files:
        found |= {name.removeprefix(_PREFIX): tensor for name, tensor in load_file(path / file).items()}
    return found
