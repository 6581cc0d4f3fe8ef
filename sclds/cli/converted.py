"""What the commands of `sclds convert` share: settings of the model, and the account of what a folder holds."""

from pathlib import Path
from typing import TYPE_CHECKING

import click

from sclds.cli.arguments import F, Several, Whole

if TYPE_CHECKING:
    from sclds.interop.folder import ModelFolder


def model_settings(command: F) -> F:
    """Declare the seed and the settings that a source does not tell."""
    seed = click.option("--seed", type=Whole(0, 2**63 - 1), default=0, help="keys the draw of what the source lacks")
    text = "settings of the `model` section that the source does not tell, such as text.heads=4"
    return click.option("--model", cls=Several, metavar="KEY=VALUE...", help=text)(seed(command))


def tell(out: Path, folder: "ModelFolder") -> None:
    """Print everything that happened to a name."""
    origin, shown = folder.origin, folder.preprocessing
    print(f"{out}: {len(folder.weights)} parameters; start from it with model.init_from={out}")
    for names, what in (
        (origin.initialized, f"not in the source, drawn by seed {origin.seed}"),
        (sorted(folder.unused), "not used by the method, kept beside"),
        (origin.dropped, "left out"),
    ):
        if names:
            print(f"{len(names)} {what}:\n" + "\n".join(f"  {name}" for name in names))
    if shown is not None and not folder.tokenizer:
        print(f"The tokenizer {shown.tokenizer!r} could not be loaded: the folder has its name and not its files")
