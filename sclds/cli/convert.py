"""`sclds convert`: weights into the folders that `model.init_from` reads, and out of them."""

import argparse
import sys
from pathlib import Path

import torch

from sclds.config import Config
from sclds.config.errors import CheckpointError, UserError
from sclds.config.reading import parse_config
from sclds.interop.encoders import from_encoders
from sclds.interop.folder import ModelFolder, Origin, parameter_shapes, read_folder, write_folder
from sclds.interop.released import architecture_of, from_released, read_released, to_released

VISION_HELP = (
    "CLIP, SigLIP 2 or Perception Encoder: hub name or folder of Hugging Face, folder of open_clip, PE's own file"
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the conversions."""
    kinds = parser.add_subparsers(dest="kind", required=True, metavar="kind")

    line = "a released SCL or GLSCL checkpoint (torch file) into a folder"
    released = kinds.add_parser("released", help=line, description=line)
    released.add_argument("file", type=Path, help="released checkpoint, read with weights_only")
    released.add_argument("out", type=Path, help="new folder")
    released.add_argument(
        "--allow", action="append", default=[], metavar="NAME", help="a name that may be missing or unknown; repeatable"
    )
    _add_model_settings(released)
    released.set_defaults(convert=convert_released)

    line = "a folder into a torch file with the released names"
    back = kinds.add_parser("to-released", help=line, description=line)
    back.add_argument("folder", type=Path, help="folder that `sclds convert` wrote")
    back.add_argument("out", type=Path, help="new torch file with `state_dict`")
    back.set_defaults(convert=convert_to_released)

    line = "the newest checkpoint of a run, of any ZeRO stage, into a folder"
    run_line = kinds.add_parser("run", help=line, description=line)
    run_line.add_argument("run", type=Path, help="run folder, or one checkpoint `step-…` of it")
    run_line.add_argument("out", type=Path, help="new folder")
    run_line.set_defaults(convert=convert_run)

    line = "a vision and a text encoder of Hugging Face or open_clip into a folder, fusion drawn by seed"
    encoders = kinds.add_parser("encoders", help=line, description=line)
    encoders.add_argument("out", type=Path, help="new folder")
    encoders.add_argument("--vision", default="openai/clip-vit-base-patch16", help=VISION_HELP)
    encoders.add_argument("--text", default="roberta-base", help="RoBERTa or XLM-RoBERTa: hub name or folder")
    _add_model_settings(encoders)
    encoders.set_defaults(convert=convert_encoders)

    line = "a folder into a Hugging Face folder: config, safetensors, processor, model card"
    hub = kinds.add_parser("huggingface", help=line, description=line)
    hub.add_argument("folder", type=Path, help="folder that `sclds convert` wrote")
    hub.add_argument("out", type=Path, help="new folder")
    hub.add_argument("--tokenizer", default="roberta-base", help="`embedded`, or a Hugging Face name or folder")
    hub.set_defaults(convert=convert_to_hugging_face)


def _add_model_settings(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--seed", type=int, default=0, help="keys the draw of what the source lacks")
    parser.add_argument(
        "--model",
        nargs="+",
        default=[],
        metavar="key=value",
        help="settings of the `model` section that the source does not tell, such as text.heads=4",
    )


def run(arguments: argparse.Namespace) -> int:
    """Run the chosen conversion."""
    if arguments.out.exists():
        raise UserError(f"{arguments.out} exists already; name a new one, or remove it")
    arguments.convert(arguments)
    return 0


def convert_released(arguments: argparse.Namespace) -> None:
    """Released → ours."""
    state = read_released(arguments.file)
    config = architecture_of(state, arguments.model)
    folder = from_released(state, config, arguments.allow, arguments.seed)
    write_folder(arguments.out, folder)
    _tell(arguments.out, folder)
    heads = f"vision.heads={config.vision.heads} text.heads={config.text.heads} fusion.heads={config.fusion.heads}"
    _say(f"Head counts are not in the tensors; taken: {heads}")


def convert_to_released(arguments: argparse.Namespace) -> None:
    """Ours → released."""
    state = to_released(read_folder(arguments.folder))
    torch.save({"state_dict": state}, arguments.out)
    _say(f"{arguments.out}: {len(state)} tensors under the released names")


def convert_run(arguments: argparse.Namespace) -> None:
    """A run's checkpoint → ours."""
    folder = from_run(arguments.run)
    write_folder(arguments.out, folder)
    _tell(arguments.out, folder)


def from_run(path: Path) -> ModelFolder:
    """Return the weights of a run's newest checkpoint, or of the one that `path` is.

    Raises:
        CheckpointError: If there is none, or it is not complete.
    """
    from sclds.train.checkpoint import newest_checkpoint, read_checkpoint
    from sclds.train.consolidate import consolidated_weights

    checkpoint = read_checkpoint(path) or newest_checkpoint(path / "checkpoints")
    if checkpoint is None:
        raise CheckpointError(f"{path} holds no complete checkpoint; name a run folder, or a `step-…` folder of one")
    weights = consolidated_weights(checkpoint.folder)
    settings: Config = parse_config(checkpoint.config)
    vocabulary = weights["text_encoder.embedding.word_embedding"].shape[0]
    text = settings.model.text.model_copy(update={"vocab_size": vocabulary})
    config = settings.model.model_copy(update={"text": text, "init_from": None})
    lacking = [name for name in parameter_shapes(config) if name not in weights]
    if lacking:
        raise CheckpointError(f"{checkpoint.folder} lacks {', '.join(lacking[:5])}; it is of another version")
    return ModelFolder(config, weights, Origin(f"run {settings.name}, step {checkpoint.step}"))


def convert_encoders(arguments: argparse.Namespace) -> None:
    """CLIP and RoBERTa → ours."""
    folder = from_encoders(arguments.vision, arguments.text, arguments.model, arguments.seed)
    write_folder(arguments.out, folder)
    _tell(arguments.out, folder)


def convert_to_hugging_face(arguments: argparse.Namespace) -> None:
    """Ours → a Hugging Face folder."""
    from sclds.interop.huggingface import export

    export(read_folder(arguments.folder), arguments.out, arguments.tokenizer)
    _say(f"{arguments.out}: loads with `import sclds.interop.huggingface` and `AutoModel.from_pretrained`")


def _tell(out: Path, folder: ModelFolder) -> None:
    """List everything that happened to a name."""
    origin = folder.origin
    _say(f"{out}: {len(folder.weights)} parameters; start from it with model.init_from={out}")
    for names, what in (
        (origin.initialised, f"not in the source, drawn by seed {origin.seed}"),
        (sorted(folder.unused), "not used by the method, kept beside"),
        (origin.dropped, "left out"),
    ):
        if names:
            _say(f"{len(names)} {what}:\n" + "\n".join(f"  {name}" for name in names))


def _say(text: str) -> None:
    sys.stdout.write(text + "\n")
