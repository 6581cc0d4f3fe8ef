"""Pre-train: `deepspeed [--hostfile hosts] launchers/pretrain.py --config C [key=value …]`, or as one process."""

import argparse
import os
import sys
from pathlib import Path

# a script's own folder comes first on the path, where the profile.py beside this file would hide Python's `profile`
sys.path[:] = [p for p in sys.path if Path(p or ".").resolve() != Path(__file__).resolve().parent]


def arguments() -> argparse.Namespace:
    """Read the command line; `--local_rank` comes from the launcher."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--config", required=True, help="YAML file, see configs/")
    parser.add_argument("--local_rank", type=int, default=0, help=argparse.SUPPRESS)
    parser.add_argument("overrides", nargs="*", metavar="key=value", help="settings over those of the file")
    return parser.parse_args()


def main() -> int:
    """Check everything, then train, or go on, or show the result of a run that is done."""
    from sclds.train.startup import checked_config, exit_code

    given = arguments()
    rank = int(os.environ.get("RANK", "0"))

    def run() -> int:
        config = checked_config(given.config, given.overrides, int(os.environ.get("WORLD_SIZE", "1")))
        from sclds.train.pretrain import pretrain

        return pretrain(config)

    return exit_code(run, rank)


if __name__ == "__main__":
    sys.exit(main())
