"""A rank's part of a variant: what its end becomes for all ranks, soon, and that it does not outlive who started it."""

import json
import os
import signal
import subprocess
import sys
import time

import pytest

from sclds.benchmarks.variant_process import Ranks, reason, run_part
from sclds.config.errors import UserError
from sclds.run.processes import process
from tests.train.peers import free_port

WAITS = [sys.executable, "-c", "import time; time.sleep(600)"]
RANK = """
import json, os, sys
from sclds.benchmarks.variant_process import Ranks, run_part
from sclds.train.distributed import meeting_store
ranks = Ranks(meeting_store(), int(os.environ["RANK"]), 2)
found = [run_part(command, os.environ, 300, number, ranks) for number, command in enumerate(json.loads(sys.argv[1]))]
ranks.part()
print(json.dumps(found))
"""


def of_ranks(*commands):
    """Run a list of commands on each of two ranks; return what each rank finds."""
    shared = os.environ | {"WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free_port())}
    started = [
        subprocess.Popen(
            [sys.executable, "-c", RANK, json.dumps(own)],
            env=shared | {"RANK": str(rank)},
            stdout=subprocess.PIPE,
            text=True,
        )
        for rank, own in enumerate(commands)
    ]
    return [json.loads(one.communicate(timeout=120)[0].splitlines()[-1]) for one in started]


def script(text):
    return [sys.executable, "-c", text]


@pytest.mark.multiprocess
def test_a_rank_whose_process_dies_before_the_others_meet_it_ends_all_of_them_at_once():
    killed = script("import os; os.kill(os.getpid(), 9)")
    refused, silent = script("import sys; sys.exit('error: no such file')"), script("import sys; sys.exit(2)")
    passes = script("")
    begun = time.monotonic()
    found = of_ranks([WAITS, passes, passes, silent], [killed, passes, refused, silent])
    expected = ["it was ended by SIGKILL", None, "no such file", "it was refused"]
    assert found == [expected, expected], "all ranks take the same variants for failed"
    assert time.monotonic() - begun < 100


def test_one_that_takes_too_long_is_ended():
    assert run_part(WAITS, os.environ, 1.0, 0, Ranks()) == "it did not end within 1 s"


def test_a_part_ends_with_who_started_it(tmp_path):
    file = tmp_path / "number"
    part = script(f"import os, time; open({str(file)!r}, 'w').write(str(os.getpid())); time.sleep(600)")
    text = f"import os; from sclds.benchmarks.variant_process import *; run_part({part!r}, os.environ, 600, 0, Ranks())"
    with subprocess.Popen(script(text)) as starter:
        until(lambda: file.exists() and file.read_text())
        starter.send_signal(signal.SIGKILL)
    until(lambda: process(int(file.read_text())) is None)


def until(holds):
    end = time.monotonic() + 60
    while not holds():
        assert time.monotonic() < end
        time.sleep(0.1)


def test_a_rank_that_does_not_answer_is_a_sentence():
    class Gone:
        def add(self, key, amount):
            raise RuntimeError("Connection reset by peer")

    with pytest.raises(UserError, match="another process of this comparison is gone"):
        Ranks(Gone(), 1, 2).agree(0, True, "it failed", 1.0)


@pytest.mark.parametrize(
    ("stderr", "code", "why"),
    [
        ("noise\nerror: bf16 is not supported here; set fp32\n", 2, "bf16 is not supported here; set fp32"),
        (
            "error: 1 problem in the configuration:\n  - engine.kernels=triton needs CUDA\n",
            2,
            "engine.kernels=triton needs CUDA",
        ),
        (
            "error: rank 0 on a waited 9 s in the step (limits.step=8); no sign of life from rank 1 on b\n"
            "rank 0: this process ends, its threads were at:\n"
            'Thread 0x1 (most recent call first):\n  File "step.py", line 1 in step\n',
            1,
            "rank 0 on a waited 9 s in the step (limits.step=8); no sign of life from rank 1 on b",
        ),
        ("Traceback\n  ...\nRuntimeError: out of memory\n", 1, "RuntimeError: out of memory"),
        ("", 9, "it ended with exit code 9"),
        ("FutureWarning: it is deprecated\n", -9, "it was ended by SIGKILL"),
        ("FutureWarning: it is deprecated\n", 2, ""),
    ],
)
def test_why_a_variant_failed_is_a_sentence(stderr, code, why):
    assert reason(stderr, code) == why
