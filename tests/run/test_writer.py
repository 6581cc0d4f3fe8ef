"""The process that writes: it dies with the rank that started it, and leaves nothing of its memory behind."""

import hashlib
import os
import signal
import subprocess
import sys
import time

from sclds.run.processes import is_running, process
from sclds.run.writer_process import WriterProcess

RANK = """
import os, sys, time
from sclds.run.writer_process import WriterProcess
writer = WriterProcess()
memory = os.memfd_create("sclds-checkpoint")
os.write(memory, bytes(1 << 20))
writer.start("write", {"folder": sys.argv[1], "files": [["a/x", 1 << 20]], "others": []}, [memory])
writer.answer()
os.kill(writer._process.pid, 19)
writer.start("write", {"folder": sys.argv[1], "files": [["a/y", 1 << 20]], "others": []}, [memory])
print(writer._process.pid, flush=True)
time.sleep(60)
"""


def test_a_killed_rank_takes_its_writer_along(tmp_path):
    before = set(os.listdir("/dev/shm"))
    rank = subprocess.Popen([sys.executable, "-c", RANK, str(tmp_path)], stdout=subprocess.PIPE)
    try:
        writer = process(int(rank.stdout.readline()))
        assert is_running(writer.number, writer.started)
    finally:
        rank.send_signal(signal.SIGKILL)
        rank.wait()
    end = time.monotonic() + 10
    while is_running(writer.number, writer.started):
        assert time.monotonic() < end
        time.sleep(0.01)
    assert [path.name for path in (tmp_path / "a").iterdir()] == ["x"]
    assert set(os.listdir("/dev/shm")) <= before


def test_files_come_with_their_records(tmp_path):
    content = os.urandom(9_000_001)
    memory = os.memfd_create("sclds-checkpoint")
    os.write(memory, content + b"of an earlier, longer file")
    (tmp_path / "other").write_bytes(b"123")
    writer = WriterProcess()
    writer.start("write", {"folder": str(tmp_path), "files": [("a/b", len(content))], "others": ["other"]}, [memory])
    os.close(memory)
    records, fault = writer.answer()
    writer.close()
    assert fault is None
    assert (tmp_path / "a" / "b").read_bytes() == content
    assert records == {
        "a/b": [len(content), hashlib.sha256(content).hexdigest()],
        "other": [3, hashlib.sha256(b"123").hexdigest()],
    }
