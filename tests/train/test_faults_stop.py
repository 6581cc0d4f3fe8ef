"""Too many bad samples end a run on every rank at the same step, with the reason from the rank that met them."""

import json
import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from sclds.config.reading import dump_config
from tests.data.faults import WORDS, write_shard
from tests.data.synthetic import picture
from tests.data.test_faults import config_over

ROOT = Path(__file__).resolve().parents[2]


@pytest.mark.slow
@pytest.mark.multiprocess
def test_two_processes_stop_together(tmp_path):
    samples = {f"{k:02d}": [(".png", picture(k) if k % 2 else b"bad"), (".json", WORDS)] for k in range(40)}
    shard = write_shard(tmp_path / "0.tar", samples)
    config = config_over([], train=[{"name": "set", "shards": str(shard)}], max_bad_share=0.25)
    (tmp_path / "config.yaml").write_text(dump_config(config))
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    files = [tmp_path / "config.yaml", tmp_path / "quarantine.jsonl"]
    command = [sys.executable, "-m", "tests.train.fault_worker", *files]
    shared = {"DS_ACCELERATOR": "cpu", "OMP_NUM_THREADS": "1", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    children = []
    for rank in (0, 1):
        environment = os.environ | shared | {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": "2"}
        pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
        children.append(subprocess.Popen(command, cwd=ROOT, env=environment, **pipes))
    try:
        (out, err), (other_out, other_err) = [child.communicate(timeout=120) for child in children]
    finally:
        for child in children:
            child.kill()
    assert [child.returncode for child in children] == [2, 2], err + other_err
    assert "stopped at step 49" in out, "the 50th micro-batch of 4 completes the first 200 samples"
    assert "stopped at step 49" in other_out
    assert "samples read are unusable, more than data.max_bad_share=0.25" in err
    assert "cannot be used" not in other_err, "a host tells once why its processes end"
    lines = [json.loads(line)["sample"] for line in (tmp_path / "quarantine.jsonl").read_text().splitlines()]
    assert sorted(lines) == [f"set/0/{k:02d}" for k in range(0, 40, 2)], "two processes name each sample once"
