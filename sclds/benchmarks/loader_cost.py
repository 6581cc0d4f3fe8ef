"""What the loader takes of the training process's processor time: by its thread, and from a process of its own.

Kernel launches and whatever Python the loader runs want the same interpreter lock. What all threads of the training
process compute while the step only takes batches out is at most what the lock is held for; of a thread's, decoding in
C leaves the lock to others. Only user time counts: while the kernel frees a batch's memory, the lock is free.
"""

import resource

from sclds.config import Config
from sclds.data.loader import TrainingBatches
from sclds.data.tokenizer import Tokenizer

WAYS = {"thread": False, "process": True}
"""Who makes batches, and whether it is a process of its own."""
GOAL = 0.01
"""Most of a host's time that loading may take beside a GPU."""


def host_seconds(config: Config, tokenizer: Tokenizer, batches: int, own_process: bool) -> float:
    """Return the user time of this process per sample, in seconds, over `batches` batches after those made ahead."""
    size = config.batch.global_size
    loader = iter(TrainingBatches(config, tokenizer, 0, 1, size, 1, own_process=own_process))
    try:
        for _ in range(config.data.prefetch + 1):
            next(loader)
        begun = _user_seconds()
        for _ in range(batches):
            next(loader)
        return (_user_seconds() - begun) / (batches * size)
    finally:
        loader.close()  # type: ignore[attr-defined]


def _user_seconds() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_utime


def told(seconds: dict[str, float], decoding: float, pace: float) -> str:
    """Return what loading takes of a host beside a GPU, as a sentence.

    Args:
        seconds: Of `host_seconds`, by `WAYS`.
        decoding: Seconds of a sample's decoding, in C.
        pace: Samples a second that the GPU takes.
    """
    python = max(0.0, seconds["thread"] - decoding)
    verdict = "met" if seconds["process"] * pace < GOAL else "MISSED"
    return (
        f"beside an H100 at {pace:.0f} samples/s a loader's thread takes {python * pace:.1%} of the host's interpreter "
        f"({1e6 * python:.0f} µs a sample, decoding left out), a process of its own {seconds['process'] * pace:.1%} "
        f"({1e6 * seconds['process']:.0f} µs; goal: less than {GOAL:.0%}, {verdict})"
    )
