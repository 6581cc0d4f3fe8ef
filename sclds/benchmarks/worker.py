"""What the processes of a benchmark share that a launcher starts: arguments, their meeting, and the file they leave."""

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from sclds.run.files import write_atomically
from sclds.train.distributed import ProcessGroup
from sclds.train.measuring import measuring


def work(measure: Callable[[Any, int, ProcessGroup], object]) -> None:
    """Measure as the command line says, and write on rank 0 what comes of it as JSON.

    Args:
        measure: Given what the first argument holds as JSON, the whole number of the second, and all processes; the
            third argument is the file.
    """
    given, count, file = sys.argv[-3:]  # the launcher puts --local_rank in front
    with measuring() as group:
        found = measure(json.loads(given), int(count), group)
        if group.rank == 0:
            write_atomically(Path(file), json.dumps(found))
        group.barrier()
