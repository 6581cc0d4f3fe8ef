"""What configs/cluster/ starts: ranks, words and signals under Slurm; flags that exist on Kubernetes and SkyPilot."""

import os
import re
import shlex
import subprocess
from pathlib import Path

import pytest
import yaml
from torch.distributed.run import get_args_parser

from sclds.cli import train
from sclds.config.reading import load_config

CLUSTER = Path(__file__).parents[2] / "configs" / "cluster"
SRUN = """#!/bin/bash
# as the real one: options, then a program, started once a task with nothing between
echo "$SRUN_CPUS_PER_TASK $MASTER_ADDR $MASTER_PORT $*" > srun
while [[ $1 == --* ]]; do shift; done
export SLURM_NTASKS=2
for task in 0 1; do SLURM_PROCID=$task SLURM_LOCALID=$task "$@" & started+=($!); done
sleep 0.5
kill -TERM "${started[@]}"
wait
"""
PYTHON = """#!/bin/bash
printf '%s\\n' "$RANK $LOCAL_RANK $WORLD_SIZE $MASTER_ADDR" "$@" > "process-$RANK"
trap 'echo told to end >> "process-$RANK"; exit' TERM
while true; do sleep 0.05; done
"""


def test_slurm_starts_a_process_a_task_with_its_rank_its_words_and_its_signals(tmp_path):
    for name, text in (
        ("bin/srun", SRUN),
        ("bin/scontrol", "#!/bin/bash\nprintf 'node-3\\nnode-4\\n'\n"),
        (".venv/bin/python", PYTHON),
    ):
        file = tmp_path / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text)
        file.chmod(0o755)
    given = ["--config", "quickstart", "name=$(id) {0..3} *", "batch.global_size=8"]
    slurm = {"SLURM_JOB_NODELIST": "node-[3-4]", "SLURM_JOB_ID": "123456", "SLURM_CPUS_PER_TASK": "12"}
    environment = os.environ | slurm | {"PATH": f"{tmp_path / 'bin'}{os.pathsep}{os.environ['PATH']}"}
    command = ["bash", str(CLUSTER / "pretrain.sbatch"), *given]
    subprocess.run(command, cwd=tmp_path, env=environment, check=True, timeout=60)
    for rank in (0, 1):
        said = (tmp_path / f"process-{rank}").read_text().splitlines()
        assert said == [f"{rank} {rank} 2 node-3", "-u", "-m", "sclds.cli.train", *given, "told to end"]
    assert (tmp_path / "srun").read_text().startswith("12 node-3 23456 --kill-on-bad-exit=1 ")


def torchrun_words(name):
    """Return the words behind torchrun in an example, with a number for each variable."""
    tree = yaml.safe_load((CLUSTER / name).read_text())
    if name == "skypilot.yml":
        return shlex.split(re.sub(r"\$\(.*?\)|\$\w+", "2", tree["run"].replace("\\\n", " ")))[1:]
    node = tree["spec"]["replicatedJobs"][0]["template"]["spec"]
    assert f"--nnodes={node['parallelism']}" in node["template"]["spec"]["containers"][0]["args"]
    return [re.sub(r"\$\(.*?\)", "2", word) for word in node["template"]["spec"]["containers"][0]["args"]]


@pytest.mark.parametrize("name", ["jobset.yml", "skypilot.yml"])
def test_examples_start_what_exists(name):
    given = get_args_parser().parse_args(torchrun_words(name))
    assert (given.module, given.training_script, given.shutdown_timeout) == (True, "sclds.cli.train", 280)
    start = train.command.make_context("sclds train", given.training_script_args).params
    config = load_config(start["config"], list(start["overrides"]))
    assert config.batch.global_size % (2 * 8) == 0
    assert config.run_dir.startswith("/shared/")
