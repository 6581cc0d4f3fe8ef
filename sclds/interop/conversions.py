"""Whole conversions between files: what `sclds convert` does; each returns what it wrote."""

import contextlib
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor

from sclds.config import Config, ModelConfig
from sclds.config.errors import CheckpointError, UserError
from sclds.config.reading import parse_config
from sclds.interop.encoders import from_encoders
from sclds.interop.fine_tuned import absent, as_pretrained, head_of
from sclds.interop.folder import ModelFolder, Origin, completed, parameter_shapes, read_folder, write_folder
from sclds.interop.huggingface import export, read_exported
from sclds.interop.preprocessing import files_of, of_run
from sclds.interop.released import architecture_of, from_released, read_released, to_released
from sclds.run.checkpoints import checkpoint_of
from sclds.run.files import replacing, unwritable
from sclds.run.folder import RunFolder
from sclds.run.foreign import foreign
from sclds.tasks import task_of
from sclds.train.consolidate import SavedWeights

_WORDS, _TYPES = "text_encoder.embedding.word_embedding", "token_type_embeddings.weight"
"""Tables whose rows the settings of a run need not say."""


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
    folder = _with_tokenizer(from_released(state, architecture_of(state, settings), allow, seed))
    write_folder(out, folder)
    return folder


def folder_to_released(folder: Path, out: Path) -> int:
    """Write a folder as a torch file with the released names; return the number of its tensors.

    Raises:
        UserError: If the folder cannot be used, or `out` is there already.
    """
    _refuse_existing(out)
    state = to_released(read_folder(folder))
    try:
        with replacing(out) as file:
            torch.save({"state_dict": state}, file)
    except OSError as fault:
        raise unwritable(out, fault.errno) from fault
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


def from_run(path: Path, answers: bool = False) -> ModelFolder:
    """Return the weights of a run's newest checkpoint, or of the one that `path` is, with all that shows them data.

    A model that was fine-tuned for retrieval is one of pre-training: its ranking head is the matching head's, and the
    head of masked words, which it does not have, is drawn.

    Args:
        path: Run folder or checkpoint.
        answers: Whether a fine-tuned model that answers will do, which has other heads.

    Raises:
        UserError: If there is none, it is not complete, or the run's tokenizer cannot be had.
    """
    checkpoint = checkpoint_of(path)
    if checkpoint is None:
        raise CheckpointError(f"{path} holds no complete checkpoint; name a run folder, or a `step-…` folder of one")
    run = checkpoint.folder.parents[1]
    settings: Config = parse_config(checkpoint.config).model_copy(update={"run_dir": str(run)})
    task = None if settings.task is None else task_of(settings)
    if task is not None and not task.reads_captions and not answers:
        raise CheckpointError(
            f"{checkpoint.folder} was fine-tuned for task.name={task.name}: a folder holds a pre-trained model, with "
            f"heads that this one does not have; convert the run that it started from, or answer with "
            f"`sclds.load` from Python"
        )
    saved = SavedWeights(checkpoint.folder)
    config = _architecture(settings, saved)
    shapes = parameter_shapes(config)
    weights: Mapping[str, Tensor] = saved
    drawn: list[str] = []
    if task is not None and task.reads_captions:
        weights, drawn = as_pretrained(saved, shapes)
    head = None if task is None or task.reads_captions else head_of(settings, saved)
    names = [name for name in shapes if name not in drawn and (head is None or not absent(name))]
    lacking = [name for name in names if name not in weights]
    if lacking:
        raise CheckpointError(f"{checkpoint.folder} lacks {', '.join(lacking[:5])}; it is of another version")
    results = RunFolder(run).read_results()
    origin = Origin(
        f"run {settings.name}, step {checkpoint.step}",
        initialized=drawn,
        dropped=[name for name in saved if name not in shapes],
        training_data=[dataset.name for dataset in settings.data.train],
        results=results.get("retrieval", {}) if results.get("steps") == checkpoint.step else {},
    )
    preprocessing = of_run(settings)
    files = files_of(preprocessing.tokenizer, preprocessing.max_text_tokens, config.text.vocab_size)
    kept = saved.only(names) if weights is saved else completed(config, weights, drawn, origin.seed)
    return ModelFolder(config, kept, origin, preprocessing=preprocessing, tokenizer=files, answers=head)


def _architecture(settings: Config, weights: Mapping[str, Tensor]) -> ModelConfig:
    """Return the architecture of a run, with the tables as large as its weights have them."""
    words, types = (len(weights[name]) for name in (_WORDS, _TYPES))
    text = settings.model.text.model_copy(update={"vocab_size": words})
    fusion = settings.model.fusion.model_copy(update={"token_types": types})
    return settings.model.model_copy(update={"text": text, "fusion": fusion, "init_from": None})


def read_model(path: Path, answers: bool = False) -> ModelFolder:
    """Return the model in a run folder, a checkpoint of one, a folder of `sclds convert`, or an exported folder.

    Args:
        path: One of these.
        answers: As of `from_run`.

    Raises:
        UserError: If it is none of these, or damaged; the sentence says what it is.
    """
    if not path.exists():
        raise CheckpointError(f"{path} does not exist; name a run folder, or a folder that `sclds convert` wrote")
    remedy = found.remedy if (found := foreign(path)) else ""
    if "`sclds convert run " in remedy:
        return from_run(path, answers)
    if "`sclds convert from-huggingface " in remedy and path.is_dir():
        return read_exported(path)
    return read_folder(path)


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
    folder = _with_tokenizer(from_encoders(vision, text, settings, seed))
    write_folder(out, folder)
    return folder


def model_to_hugging_face(source: Path, out: Path, tokenizer: str | None = None, license_id: str | None = None) -> None:
    """Write a model as a Hugging Face folder: code, config, safetensors, processor, tokenizer, model card.

    Args:
        source: As `read_model` takes it.
        out: New folder.
        tokenizer: Instead of the model's own: `embedded`, or a Hugging Face name or folder.
        license_id: License of the weights, for the model card.

    Raises:
        UserError: If the model or tokenizer cannot be used, or `out` is there already.
    """
    _refuse_existing(out)
    export(read_model(source), out, tokenizer, license_id)


def hugging_face_to_folder(exported: Path, out: Path) -> ModelFolder:
    """Write an exported folder as a folder of `sclds convert`.

    Raises:
        UserError: If the export cannot be used, or `out` is there already.
    """
    _refuse_existing(out)
    folder = read_exported(exported)
    write_folder(out, folder)
    return folder


def _with_tokenizer(folder: ModelFolder) -> ModelFolder:
    """Return a folder with the files of its tokenizer, where they can be had; `tell` says where not."""
    assert folder.preprocessing is not None
    shown, rows = folder.preprocessing, folder.config.text.vocab_size
    with contextlib.suppress(UserError):
        return replace(folder, tokenizer=files_of(shown.tokenizer, shown.max_text_tokens, rows))
    return folder


def _refuse_existing(out: Path) -> None:
    if out.exists():
        raise UserError(f"{out} exists already; name a new one, or remove it")
