"""A run that was killed between checkpoints, and started again, is the run that nobody touched, bit for bit.

The one that is killed measures its held-out sets every few steps besides, the other one never: training must not
notice.
"""

import os
import signal
import subprocess
import time
from pathlib import Path

import pytest
import torch

from sclds.interop.measure import find_target, measure
from sclds.run.checkpoints import newest_checkpoint
from sclds.run.folder import RunFolder
from sclds.run.metrics import HELDOUT, read_metrics
from sclds.train.consolidate import consolidated_weights
from sclds.train.launch import launcher_environment, pretrain, pretrain_command
from tests.evaluation.test_align_bench import pixels, write_pair
from tests.train.one_process import OneProcess

CONFIG = Path(__file__).parents[2] / "configs" / "quickstart.yaml"
PROCESSES, LIMIT = 2, 300
KILLED_AT = {2: 0, 6: 5}
"""Step after which all processes die → last checkpoint before it."""
SETTINGS = [
    *("data.image_size=16", "data.video_size=16", "data.frames=2"),
    *("batch.global_size=16", "batch.group_size=4", "batch.max_micro_size=4"),
    *("model.vision.width=32", "model.vision.layers=1", "model.vision.pretrained_image_size=16"),
    "model.vision.patch_size=4",
    *("model.text.width=32", "model.text.layers=1", "model.text.dropout=0.1"),
    *("model.fusion.width=32", "model.fusion.layers=2", "model.fusion.dropout=0.1", "model.projection=16"),
    *("losses.itm_negatives=hard", "losses.mltc_image=0.2", "losses.mltc_text=0.2"),
    *("schedule.steps=9", "checkpoint.every=4", "log.every=1", "log.tensorboard=false", "log.pictures_every=0"),
]
MEASURED = [
    *("evaluation.every=5", "evaluation.share=0.5", "evaluation.batch_size=8", "evaluation.max_samples=16"),
    *("checkpoint.best=heldout/clips-heldout/total", "checkpoint.keep=1"),
    "evaluation.tasks=[losses,retrieval,align_bench]",
]
"""Beside `SETTINGS`: the first measurement, after step 5, is the best one and leaves a checkpoint."""
FIGURES = ["total", "itm_accuracy", "text_to_vision_r10", "candidates"]
ALIGNMENT = ["global_box", "global_pixel", "local_box", "local_pixel"]


def steps_in(folder):
    return [line["step"] for line in read_metrics(folder / "metrics.jsonl")]


def newest_step(folder):
    checkpoint = newest_checkpoint(folder / "checkpoints")
    return checkpoint.step if checkpoint else 0


def measured_in(folder):
    """Return the settings of the run that measures, ALIGN-BENCH among it."""
    return [*SETTINGS, *MEASURED, f"evaluation.align_bench={folder.parent / 'bench'}", f"run_dir={folder}"]


def kill_after(step, saved, folder):
    """Start the run, and kill launcher and processes when `step` is logged and the checkpoint of `saved` is whole."""
    command = pretrain_command(CONFIG, measured_in(folder), PROCESSES)
    process = subprocess.Popen(
        command,
        env=launcher_environment(PROCESSES),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    try:
        end = time.monotonic() + LIMIT
        while step not in steps_in(folder) or newest_step(folder) != saved:
            assert process.poll() is None, "the run ended by itself"
            assert time.monotonic() < end
            time.sleep(0.02)
    finally:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()


@pytest.mark.multiprocess
@pytest.mark.slow
def test_killed_twice_and_resumed_equals_untouched(tmp_path):
    """With dropout, accumulation, hard negatives and ZeRO-3: equal losses at every step, and equal weights."""
    untouched, killed = tmp_path / "untouched", tmp_path / "killed"
    for number in range(9):
        region = [number % 3, 0, number % 3 + 2, 4], pixels((number % 4, 1))
        write_pair(tmp_path / "bench", f"p{number}", f"a dog beside {number} cats", {"dog": [region]})
    pretrain("untouched", CONFIG, [*SETTINGS, "data.heldout=[]", f"run_dir={untouched}"], PROCESSES, LIMIT)
    for step, saved in KILLED_AT.items():
        kill_after(step, saved, killed)
        assert newest_step(killed) == saved
    pretrain("killed", CONFIG, measured_in(killed), PROCESSES, LIMIT)
    lines, wanted = (read_metrics(folder / "metrics.jsonl") for folder in (killed, untouched))
    assert [line["step"] for line in lines] == list(range(1, 10))
    assert [line["loss"] for line in lines] == [line["loss"] for line in wanted]
    assert [line["grad_norm"] for line in lines] == [line["grad_norm"] for line in wanted]
    weights, untouched_weights = (
        consolidated_weights(newest_checkpoint(folder / "checkpoints").folder) for folder in (killed, untouched)
    )
    for name, weight in untouched_weights.items():
        assert torch.equal(weights[name], weight), name
    figures = [
        {name for name, value in line.items() if name.startswith(HELDOUT) and value is not None} for line in lines
    ]
    assert [line["step"] for line, found in zip(lines, figures, strict=True) if found] == [5]
    names = {f"heldout/{of}/{figure}" for of in ("pictures-heldout", "clips-heldout") for figure in FIGURES}
    assert names | {f"heldout/align_bench/{name}" for name in ALIGNMENT} <= figures[4]
    assert (killed / "checkpoints" / "best").read_text() == "step-0000005"
    assert sorted(p.name for p in (killed / "checkpoints").glob("step-*")) == ["step-0000005", "step-0000009"]
    starts = RunFolder(killed).read_starts()
    assert [(one.first_step, one.outcome) for one in starts] == [(0, ""), (0, ""), (5, "finished")]
    assert starts[-1].world_size == PROCESSES
    results = RunFolder(killed).read_results()
    assert results["sets"]["clips-heldout"]["samples"] == 16
    assert set(results["sets"]["clips-heldout"]["losses"]) == {"initial", "final"}
    assert_alignment_is_that_of_one_process(killed, results["align_bench"])


def assert_alignment_is_that_of_one_process(run, measured):
    """Two processes that hold a part of every layer each find what one finds that holds all of them."""
    target = find_target(run, None, [], [], run.parent / "bench")
    alone = measure(target, OneProcess())["align_bench"]
    assert (measured["pairs"], measured["left_out"]) == (9, {})
    for score in ("global", "local"):
        assert measured[score] == pytest.approx(alone[score], rel=1e-5)
        assert measured[score]["n"] == 9
