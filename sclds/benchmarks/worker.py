"""What the processes of a benchmark share that a launcher starts: arguments, their meeting, and the file they leave."""

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from sclds.config.schema import LimitsConfig
from sclds.run.files import write_atomically
from sclds.train.distributed import ProcessGroup
from sclds.train.measuring import Limit, measuring


def work(measure: Callable[[Any, int, ProcessGroup, Limit], object]) -> None:
    """Measure as the command line says, and write on rank 0 what comes of it as JSON.

    Processes wait for one another as long as those of a run do that sets no limits of its own.

    Args:
        measure: Given what the first argument holds as JSON, the whole number of the second, all processes, and what
            holds each of their steps to its limit; the third argument is the file.
    """
    given, count, file = sys.argv[-3:]  # the launcher puts --local_rank in front
    with measuring(LimitsConfig()) as (group, limit), limit("the measurement between steps", "step"):
        found = measure(json.loads(given), int(count), group, limit)
        if group.rank == 0:
            write_atomically(Path(file), json.dumps(found))
        group.barrier()
