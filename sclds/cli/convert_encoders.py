"""`sclds convert encoders`: encoders of Hugging Face or open_clip into a folder that `model.init_from` reads."""

import argparse
from pathlib import Path

from sclds.cli.converted import add_model_settings, tell
from sclds.interop.conversions import encoders_to_folder

VISION_HELP = (
    "CLIP, SigLIP 2 or Perception Encoder: hub name or folder of Hugging Face, folder of open_clip, PE's own file"
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments."""
    parser.add_argument("out", type=Path, help="new folder")
    parser.add_argument("--vision", default="openai/clip-vit-base-patch16", help=VISION_HELP)
    parser.add_argument("--text", default="roberta-base", help="RoBERTa or XLM-RoBERTa: hub name or folder")
    add_model_settings(parser)


def run(arguments: argparse.Namespace) -> int:
    """Convert, and list what happened to every name; returns the exit code."""
    folder = encoders_to_folder(arguments.vision, arguments.text, arguments.out, arguments.model, arguments.seed)
    tell(arguments.out, folder)
    return 0
