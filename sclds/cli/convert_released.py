"""`sclds convert released`: a released checkpoint into a folder that `model.init_from` reads."""

import argparse
from pathlib import Path

from sclds.cli.converted import add_model_settings, tell
from sclds.interop.conversions import released_to_folder


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments."""
    parser.add_argument("file", type=Path, help="released checkpoint, read with weights_only")
    parser.add_argument("out", type=Path, help="new folder")
    parser.add_argument(
        "--allow", action="append", default=[], metavar="NAME", help="a name that may be missing or unknown; repeatable"
    )
    add_model_settings(parser)


def run(arguments: argparse.Namespace) -> int:
    """Convert, and list what happened to every name; returns the exit code."""
    folder = released_to_folder(arguments.file, arguments.out, arguments.model, arguments.allow, arguments.seed)
    tell(arguments.out, folder)
    model = folder.config
    heads = f"vision.heads={model.vision.heads} text.heads={model.text.heads} fusion.heads={model.fusion.heads}"
    print(f"Head counts are not in the tensors; taken: {heads}")
    return 0
