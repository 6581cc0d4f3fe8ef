"""Whole conversions between files: what `sclds convert` does; each returns what it wrote."""

from pathlib import Path

import torch

from sclds.config import Config
from sclds.config.errors import CheckpointError, UserError
from sclds.config.reading import parse_config
from sclds.interop.encoders import from_encoders
from sclds.interop.folder import ModelFolder, Origin, parameter_shapes, read_folder, write_folder
from sclds.interop.released import architecture_of, from_released, read_released, to_released
from sclds.run.checkpoints import newest_checkpoint, read_checkpoint
from sclds.train.consolidate import consolidated_weights


def released_to_folder(file: Path, out: Path, settings: list[str], allow: list[str], seed: int) -> ModelFolder:
    """Write a released SCL or GLSCL checkpoint as a folder.

    Args:
        file: Torch file.
        out: New folder.
        settings: `key=value` settings of the `model` section that the tensors do not tell.
        allow: Names that may be missing or unknown.
        seed: Keys the draw of what the file lacks.

    Raises:
        UserError: If the file cannot be used, or `out` is there already.
    """
    _refuse_existing(out)
    state = read_released(file)
    folder = from_released(state, architecture_of(state, settings), allow, seed)
    write_folder(out, folder)
    return folder


def folder_to_released(folder: Path, out: Path) -> int:
    """Write a folder as a torch file with the released names; return the number of its tensors.

    Raises:
        UserError: If the folder cannot be used, or `out` is there already.
    """
    _refuse_existing(out)
    state = to_released(read_folder(folder))
    torch.save({"state_dict": state}, out)
    return len(state)


def run_to_folder(run: Path, out: Path) -> ModelFolder:
    """Write the weights of a run's newest checkpoint, or of the one that `run` is, as a folder.

    Raises:
        UserError: If there is no complete checkpoint, or `out` is there already.
    """
    _refuse_existing(out)
    folder = from_run(run)
    write_folder(out, folder)
    return folder


def from_run(path: Path) -> ModelFolder:
    """Return the weights of a run's newest checkpoint, or of the one that `path` is.

    Raises:
        CheckpointError: If there is none, or it is not complete.
    """
    checkpoint = read_checkpoint(path) or newest_checkpoint(path / "checkpoints")
    if checkpoint is None:
        raise CheckpointError(f"{path} holds no complete checkpoint; name a run folder, or a `step-…` folder of one")
    weights = consolidated_weights(checkpoint.folder)
    settings: Config = parse_config(checkpoint.config)
    vocabulary = weights["text_encoder.embedding.word_embedding"].shape[0]
    text = settings.model.text.model_copy(update={"vocab_size": vocabulary})
    config = settings.model.model_copy(update={"text": text, "init_from": None})
    shapes = parameter_shapes(config)
    lacking = [name for name in shapes if name not in weights]
    if lacking:
        raise CheckpointError(f"{checkpoint.folder} lacks {', '.join(lacking[:5])}; it is of another version")
    dropped = [name for name in weights if name not in shapes]
    kept = {name: tensor for name, tensor in weights.items() if name in shapes}
    return ModelFolder(config, kept, Origin(f"run {settings.name}, step {checkpoint.step}", dropped=dropped))


def encoders_to_folder(vision: str, text: str, out: Path, settings: list[str], seed: int) -> ModelFolder:
    """Write Hugging Face's CLIP vision encoder and RoBERTa as a folder, with fusion drawn by seed.

    Args:
        vision: CLIP: hub name or folder.
        text: RoBERTa: hub name or folder.
        out: New folder.
        settings: `key=value` settings of the `model` section that the sources do not tell.
        seed: Keys the draw of what the sources lack.

    Raises:
        UserError: If a source cannot be used, or `out` is there already.
    """
    _refuse_existing(out)
    folder = from_encoders(vision, text, settings, seed)
    write_folder(out, folder)
    return folder


def folder_to_hugging_face(folder: Path, out: Path, tokenizer: str) -> None:
    """Write a folder as a Hugging Face folder: config, safetensors, processor, model card.

    Args:
        folder: That `sclds convert` wrote.
        out: New folder.
        tokenizer: `embedded`, or a Hugging Face name or folder.

    Raises:
        UserError: If the folder or tokenizer cannot be used, or `out` is there already.
    """
    from sclds.interop.huggingface import export

    _refuse_existing(out)
    export(read_folder(folder), out, tokenizer)


def _refuse_existing(out: Path) -> None:
    if out.exists():
        raise UserError(f"{out} exists already; name a new one, or remove it")
