"""How a model was shown its data: what has to go along with weights so that they see the same elsewhere."""

import json
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated

from pydantic import Field

from sclds.config import Config, DataConfig, ModelConfig, Section
from sclds.config.errors import UserError
from sclds.data.tokenizer import Tokenizer, load_tokenizer
from sclds.run.files import sentence_of_full_disk

CLIP_NORMALIZATION = (
    tuple(DataConfig.model_fields["mean"].default),
    tuple(DataConfig.model_fields["std"].default),
)
"""Means and deviations of CLIP's channels."""
HALF_NORMALIZATION = ((0.5, 0.5, 0.5), (0.5, 0.5, 0.5))
"""Those of SigLIP 2 and Perception Encoder: pixels between -1 and 1."""
Normalization = tuple[tuple[float, ...], tuple[float, ...]]


class Preprocessing(Section):
    """What held-out evaluation does to an image, a video and a text; fields are those of the `data` section.

    An image is stretched to a square (bilinear, weighted by area), of a video the middle frames of equal stretches are
    taken: there is no setting of either.
    """

    image_size: Annotated[int, Field(ge=1)]
    """Side of an image in pixels."""
    video_size: Annotated[int, Field(ge=1)]
    """Side of a frame of a video in pixels."""
    frames: Annotated[int, Field(ge=1)]
    """Frames taken of a video."""
    mean: tuple[float, float, float]
    """Channel means that are subtracted."""
    std: tuple[float, float, float]
    """Channel deviations that pixels are divided by."""
    max_text_tokens: Annotated[int, Field(ge=3)]
    """Longest text, beginning and end included."""
    tokenizer: str
    """Name by which the tokenizer was loaded; its files lie beside the weights where they could be had."""


def of_run(config: Config) -> Preprocessing:
    """Return the preprocessing of a run."""
    return Preprocessing(**{name: getattr(config.data, name) for name in Preprocessing.model_fields})


def of_encoders(config: ModelConfig, normalization: Normalization, tokenizer: str) -> Preprocessing:
    """Return the preprocessing that encoders of others were trained with, at the method's number of frames."""
    size, data = config.vision.pretrained_image_size, DataConfig.model_fields
    tokens = min(data["max_text_tokens"].default, config.text.max_positions - 2)
    mean, std = normalization
    return Preprocessing.model_validate(
        {
            "image_size": size,
            "video_size": size,
            "frames": min(data["frames"].default, config.vision.max_frames),
            "mean": mean,
            "std": std,
            "max_text_tokens": tokens,
            "tokenizer": tokenizer,
        }
    )


def tokenizer_files(tokenizer: Tokenizer, max_text_tokens: int) -> dict[str, bytes]:
    """Return the files from which transformers loads a tokenizer that encodes as ours does, by name.

    Beginning and end are put around every text, longer ones are cut where the caller asks for truncation, and special
    tokens written out in a text are plain text.
    """
    from tokenizers import Tokenizer as Backend
    from tokenizers.processors import TemplateProcessing
    from transformers import PreTrainedTokenizerFast

    backend = Backend.from_str(tokenizer.to_json())
    bos, eos = tokenizer.special["bos"], tokenizer.special["eos"]
    backend.post_processor = TemplateProcessing(
        single=f"{bos}:0 $A:0 {eos}:0", special_tokens=[(bos, tokenizer.bos_id), (eos, tokenizer.eos_id)]
    )
    found = PreTrainedTokenizerFast(
        tokenizer_object=backend,
        model_max_length=max_text_tokens,
        split_special_tokens=True,
        model_input_names=["input_ids", "attention_mask"],
        cls_token=bos,
        sep_token=eos,
        **{f"{role}_token": token for role, token in tokenizer.special.items()},
    )
    with tempfile.TemporaryDirectory() as folder, sentence_of_full_disk(Path(folder)):
        found.save_pretrained(folder)
        return {file.name: file.read_bytes() for file in sorted(Path(folder).iterdir())}


def files_of(name: str, max_text_tokens: int, vocabulary: int) -> dict[str, bytes]:
    """Return the files of a tokenizer by name.

    Args:
        name: As in `data.tokenizer`.
        max_text_tokens: Longest text.
        vocabulary: Rows of the word embedding, which bound its ids.

    Raises:
        UserError: The tokenizer cannot be loaded, or has more entries than the model.
    """
    tokenizer = load_tokenizer(name)
    if tokenizer.vocab_size > vocabulary:
        raise UserError(
            f"the tokenizer {name!r} has {tokenizer.vocab_size} entries and the model {vocabulary}; give its own"
        )
    return tokenizer_files(tokenizer, max_text_tokens)


def tokenizer_in(files: Mapping[str, bytes], where: str) -> Tokenizer:
    """Return the tokenizer out of files that `tokenizer_files` made, `where` for messages.

    Raises:
        UserError: A file is missing or damaged.
    """
    from tokenizers import Tokenizer as Backend

    try:
        special = json.loads(files["tokenizer_config.json"])
        backend = Backend.from_str(files["tokenizer.json"].decode())
        return Tokenizer(backend, where, *(special[f"{role}_token"] for role in ("bos", "eos", "pad", "mask")))
    except UserError:
        raise
    except Exception as fault:  # the library raises plain exceptions on damaged files
        reason = " ".join(f"{type(fault).__name__}: {fault}".split())
        raise UserError(f"the files of the tokenizer {where!r} cannot be read ({reason}); convert again") from fault
