"""Processes of a run that do not find, or lose, one another, each for another cause: `python -m tests.train.peers`.

Forks of one process that has read the code, for one after the other; prints what each said, and its exit code, as JSON.
"""

import contextlib
import json
import os
import resource
import signal
import socket
import sys
import time

from sclds.train.distributed import ProcessGroup
from sclds.train.startup import exit_code


def free_port():
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return found.getsockname()[1]


def process(rank, address, port, work):
    """Fork one that does `work` as a process of a run; return its number and the end of a pipe with what it says."""
    reader, writer = os.pipe()
    pid = os.fork()
    if pid:
        os.close(writer)
        return pid, reader
    os.dup2(writer, 2)
    place = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": 2, "MASTER_ADDR": address, "MASTER_PORT": port}
    os.environ.update({name: str(value) for name, value in place.items()})
    code = 99
    try:
        code = exit_code(work)
    finally:
        sys.stderr.flush()
        os._exit(code)


def ended(pid, reader):
    with os.fdopen(reader, encoding="utf-8", errors="replace") as said:
        text = said.read()
    return {"code": os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]), "said": text}


def meets(rank, address, port):
    """Return how a process ends that is alone."""
    return ended(*process(rank, address, port, lambda: ProcessGroup(2.0) and 0))


def loses(act):
    """Return how rank 0 ends after rank 1 did `act`."""
    port = free_port()

    def stays():
        group = ProcessGroup(60.0)
        group.barrier()
        group.wait_at_most(3.0)
        group.barrier()
        return 0

    def goes():
        group = ProcessGroup(60.0)
        group.barrier()
        group.wait_at_most(3.0)
        act()
        return 0

    pairs = [process(rank, "127.0.0.1", port, work) for rank, work in enumerate((stays, goes))]
    found = ended(*pairs[0])
    with contextlib.suppress(ProcessLookupError):
        os.kill(pairs[1][0], signal.SIGKILL)
    ended(*pairs[1])
    return found


def uses_up_memory():
    used = resource.getrlimit(resource.RLIMIT_AS)
    resource.setrlimit(resource.RLIMIT_AS, (2**32, used[1]))
    bytearray(2**33)


def main():
    found = {
        "rank 1 was not started": meets(0, "127.0.0.1", free_port()),
        "rank 0 was not started": meets(1, "127.0.0.1", free_port()),
        "no such host": meets(1, "no-such-host.invalid", free_port()),
    }
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        found["port in use"] = meets(0, "127.0.0.1", taken.getsockname()[1])
    acts = {
        "peer killed": lambda: os.kill(os.getpid(), signal.SIGKILL),
        "peer left": lambda: os._exit(0),
        "peer out of memory": uses_up_memory,
        "peer stopped": lambda: os.kill(os.getpid(), signal.SIGSTOP),
        "peer slow": lambda: time.sleep(60),
    }
    found |= {name: loses(act) for name, act in acts.items()}
    print(json.dumps(found))


if __name__ == "__main__":
    main()
