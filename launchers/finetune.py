"""Fine-tune: `deepspeed [--hostfile hosts] launchers/finetune.py --config C [key=value …]`.

The same as `sclds finetune`.
"""

import sys
from pathlib import Path

# a script's own folder comes first on the path, where the profile.py beside this file would hide Python's `profile`
sys.path[:] = [p for p in sys.path if Path(p or ".").resolve() != Path(__file__).resolve().parent]

if __name__ == "__main__":
    from sclds.cli.finetune import main

    sys.exit(main())
