"""Measure training speed: `deepspeed [--hostfile hosts] launchers/profile.py --config C --steps N [key=value …]`.

The same as `sclds profile`.
"""

import sys
from pathlib import Path

# a script's own folder comes first on the path, where this file's name would hide Python's `profile`
sys.path[:] = [p for p in sys.path if Path(p or ".").resolve() != Path(__file__).resolve().parent]

if __name__ == "__main__":
    from sclds.cli.profile import main

    sys.exit(main())
