"""`python -m sclds`: the same as the `sclds` command."""

import sys

from sclds.cli.main import main

if __name__ == "__main__":
    sys.exit(main())
