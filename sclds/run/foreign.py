"""What a folder or file of weights is, and what can be done with it: told by its settings and the names of its tensors.

Files are looked at and never run: names are read from headers, and out of a pickle without unpickling it.
"""

import json
import pickletools
import re
import zipfile
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from sclds.config.errors import CheckpointError
from sclds.config.weights import CONFIG, ORIGIN, WEIGHTS

_SUFFIXES = (".safetensors", ".bin", ".pt", ".pth", ".ckpt")
_START = "`sclds convert encoders OUT {role} {path}`, then model.init_from=OUT"
_AS_VISION = "as vision encoder of a start: " + _START.replace("{role}", "--vision")
_AS_TEXT = "as text encoder of a start: " + _START.replace("{role}", "--text")
_RELEASED = "`sclds convert released {path} OUT`, then OUT"
_NOWHERE = "there is no place for its weights here"
_ONE_STREAM = f"one stream for words and patches where this method has two encoders and co-attention, so {_NOWHERE}"
_BRIDGES = (
    f"bridge layers between encoders and fusion, which this method has not, so {_NOWHERE}; METER, the same without "
    f"them, is taken"
)
_TEXT_READS = f"fusion in the text stream alone, on BERT, where this method has two streams, so {_NOWHERE}"
_NO_ROBERTA = (
    "text encoders here are RoBERTa's (no token types, positions behind the padding id): give roberta or xlm-roberta"
)

_BY_TYPE: dict[str, tuple[str, str]] = {
    "scl": ("a Hugging Face folder of this package", "`sclds convert from-huggingface {path} OUT`, then OUT"),
    **{
        name: (f"a {title} model of Hugging Face", _AS_VISION)
        for name, title in (
            *(("clip", "CLIP"), ("clip_vision_model", "CLIP vision")),
            *(("siglip", "SigLIP"), ("siglip_vision_model", "SigLIP vision")),
            *(("siglip2", "SigLIP 2"), ("siglip2_vision_model", "SigLIP 2 vision")),
        )
    },
    "roberta": ("a RoBERTa model of Hugging Face", _AS_TEXT),
    "xlm-roberta": ("an XLM-RoBERTa model of Hugging Face", _AS_TEXT),
    "bert": ("a BERT model of Hugging Face", _NO_ROBERTA),
    "vilt": ("a ViLT model", _ONE_STREAM),
    "bridgetower": ("a BridgeTower model", _BRIDGES),
    "albef": ("an ALBEF model", _TEXT_READS),
    "blip": ("a BLIP model", _TEXT_READS),
}
"""What a `model_type` is, and what can be done with it."""
_BY_NAMES: tuple[tuple[tuple[str, ...], tuple[str, str]], ...] = (
    ((r"cross_modal_\w+_link_tower",), _BY_TYPE["bridgetower"]),
    ((r"(bridgetower|vit_model)\.", r"\w*link_tower"), _BY_TYPE["bridgetower"]),
    ((r"cross_modal_text_layers\.", r"vision_transformer\.visual\."), ("a released SCL checkpoint", _RELEASED)),
    ((r"cross_modal_text_layers\.", r"vit_model\.visual\."), ("a METER checkpoint", _RELEASED)),
    (
        (r"cross_modal_text_layers\.", r"vit_model\.layers\."),
        (
            "a METER checkpoint with a Swin vision encoder",
            f"vision encoders here are vision transformers, so {_NOWHERE}",
        ),
    ),
    ((r"scl\.vision_encoder\.", r"scl\.text_encoder\."), _BY_TYPE["scl"]),
    (
        (r"(vilt\.)?(transformer\.blocks|encoder\.layer)\.\d+", r"(vilt\.)?(embeddings\.)?text_embeddings\."),
        _BY_TYPE["vilt"],
    ),
    ((r"visual_encoder_m\.", r"text_encoder_m\."), _BY_TYPE["albef"]),
    ((r"visual_encoder\.blocks\.", r"text_(encoder|decoder)\."), _BY_TYPE["blip"]),
    ((r"vision_model\.encoder\.layers\.", r"text_model\."), ("a CLIP or SigLIP model of Hugging Face", _AS_VISION)),
    (
        (r"visual\.(transformer\.resblocks|trunk)\.",),
        ("a model of open_clip", f"{_AS_VISION} (the folder, with open_clip_config.json)"),
    ),
    ((r"bert\.embeddings\.",), _BY_TYPE["bert"]),
    ((r"(roberta\.)?embeddings\.word_embeddings\.", r"(roberta\.)?encoder\.layer\."), ("a text encoder", _AS_TEXT)),
)
"""Patterns of tensor names that a state has all of, in the order in which they are tried."""


@dataclass(frozen=True)
class Foreign:
    """What somebody else's weights are."""

    what: str
    remedy: str
    """What can be done with them, or why nothing can."""


def refuse_foreign(path: Path, wanted: str, where: str = "", allowed: str = "") -> None:
    """Refuse what is damaged, or no folder of weights of `sclds convert`, with a sentence that says what it is.

    Args:
        path: What was given.
        wanted: What was expected.
        where: Begins the sentence: the setting that named it.
        allowed: The command that asks; what it takes passes.

    Raises:
        CheckpointError: If the path is damaged, or known to be something else.
    """
    head = f"{where}: " if where else ""
    if problem := damage(path):
        raise CheckpointError(f"{head}{problem}")
    found = foreign(path)
    if found is not None and not (allowed and f"`{allowed} " in found.remedy):
        raise CheckpointError(f"{head}{path} is {found.what}, expected {wanted}: {found.remedy}")


def foreign(path: Path) -> Foreign | None:
    """Return what a path holds that is no folder of `sclds convert`; None for such a folder, and for the unknown."""
    if path.is_dir() and all((path / name).is_file() for name in (WEIGHTS, CONFIG, ORIGIN)):
        return None
    found = _folder(path) if path.is_dir() else _by_names(tensor_names(path))
    return None if found is None else Foreign(found[0], found[1].format(path=path))


def damage(path: Path) -> str | None:
    """Return a sentence if a file of weights, or one in a folder, is missing, cut short, or not what its name says."""
    if not path.is_dir():
        return _file_damage(path) if path.is_file() else None
    for index in sorted(path.glob("*.index.json")):
        try:
            shards = sorted(set(json.loads(index.read_text(encoding="utf-8"))["weight_map"].values()))
        except (OSError, ValueError, KeyError, AttributeError, TypeError):
            return f"{index} is no index of shards; get it again"
        lost = [name for name in shards if not (path / name).is_file()]
        if lost:
            return (
                f"{path} lacks {', '.join(lost[:3])} of the {len(shards)} files that {index.name} lists; get them again"
            )
    files = (file for file in sorted(path.iterdir()) if file.suffix in _SUFFIXES)
    return next((problem for file in files if (problem := _file_damage(file))), None)


def tensor_names(path: Path) -> list[str]:
    """Return the names of the tensors in a file, without those that wrap them; none where they cannot be read."""
    try:
        if path.suffix == ".safetensors":
            return [name for name in _header(path)[0] if name != "__metadata__"]
        with zipfile.ZipFile(path) as archive:
            content = archive.read(next(name for name in archive.namelist() if name.endswith("data.pkl")))
        return [str(argument) for code, argument, _ in pickletools.genops(content) if "UNICODE" in code.name]
    except (OSError, ValueError, StopIteration, zipfile.BadZipFile):
        return []


def _folder(path: Path) -> tuple[str, str] | None:
    """Return what a folder is."""
    if (path / "state.json").is_file() and (path / "engine").is_dir():
        return "a checkpoint of a run", "`sclds convert run {path} OUT`, then OUT"
    if (path / CONFIG).is_file() and (path / "checkpoints").is_dir():
        return "a run folder", "`sclds convert run {path} OUT`, then OUT"
    if (path / "config.json").is_file():
        try:
            kind = str(json.loads((path / "config.json").read_text(encoding="utf-8")).get("model_type", "unknown"))
        except (OSError, ValueError, AttributeError):
            return "a folder whose config.json is no JSON object", "get it again"
        return _BY_TYPE.get(
            kind, (f"a Hugging Face model of type {kind}", f"no architecture of this package, so {_NOWHERE}")
        )
    if (path / "open_clip_config.json").is_file():
        return "a folder of open_clip", _AS_VISION
    for file in sorted(path.iterdir()):
        if file.suffix in _SUFFIXES and (found := _by_names(tensor_names(file))):
            return found[0], found[1].replace("{path}", str(file) if "released" in found[1] else "{path}")
    return None


def _by_names(names: Iterable[str]) -> tuple[str, str] | None:
    plain = [re.sub(r"^(module|model)\.", "", name) for name in names]
    for patterns, found in _BY_NAMES:
        if all(any(re.match(pattern, name) for name in plain) for pattern in patterns):
            return found
    return None


def _file_damage(path: Path) -> str | None:
    with path.open("rb") as file:
        head = file.read(512)
    if not head:
        return f"{path} is empty (0 bytes); get it again"
    if head.startswith(b"version https://git-lfs"):
        return (
            f"{path} is a Git LFS pointer and not the weights; run `git lfs pull` in its folder, or download it again"
        )
    if head.lstrip().lower().startswith((b"<!doctype", b"<html", b"<?xml")):
        return f"{path} is a web page and not weights: the download was answered with a page; get it again"
    if path.suffix == ".safetensors":
        try:
            _, wanted = _header(path)
        except ValueError:
            return f"{path} has no header of a safetensors file; get it again"
        if path.stat().st_size < wanted:
            return f"{path} is truncated: it has {path.stat().st_size:,} of {wanted:,} bytes; get it again"
    elif head.startswith(b"PK\x03\x04") and not zipfile.is_zipfile(path):
        return f"{path} is truncated: the end of the archive is missing; get it again"
    return None


def _header(path: Path) -> tuple[dict[str, dict[str, list[int]]], int]:
    """Return the header of a safetensors file, and how many bytes the file has to have.

    Raises:
        ValueError: There is none.
    """
    with path.open("rb") as file:
        length = int.from_bytes(file.read(8), "little")
        if length > path.stat().st_size * 1000:
            raise ValueError("no header")
        content = file.read(length)
    if len(content) < length:
        return {}, 8 + length
    try:
        header = json.loads(content)
        ends = [entry["data_offsets"][1] for name, entry in header.items() if name != "__metadata__"]
    except (ValueError, KeyError, TypeError, AttributeError, IndexError) as fault:
        raise ValueError("no header") from fault
    return header, 8 + length + max(ends, default=0)
