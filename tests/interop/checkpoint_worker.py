"""One of two processes that take a step and save, once per case: `python -m tests.interop.checkpoint_worker FOLDER`."""

import sys
from pathlib import Path

import deepspeed
import torch

from sclds.batch.split import split_batch
from sclds.data.tokenizer import load_tokenizer
from sclds.train.distributed import ProcessGroup
from sclds.train.engine import build_engine
from sclds.train.flat_blocks import layout_of
from sclds.train.saver import CheckpointSaver
from sclds.train.step import train_step
from tests.train.flat import split_flat
from tests.train.synthetic import MAKE_UPS, batch_of, tiny_config

CASES = [(0, "fp32"), (1, "fp32"), (2, "fp32"), (3, "fp32"), (0, "bf16"), (1, "bf16"), (3, "bf16")]


def save_case(folder, stage, precision, group):
    """Write a run's checkpoint, and beside it the weights that the processes hold."""
    text = tiny_config().model.text.model_dump() | {"vocab_size": 4096}  # the tokenizer's, which goes along
    config = tiny_config(engine={"zero_stage": stage, "precision": precision}, model={"text": text})
    split = split_batch(config.batch, group.world_size)
    engine = build_engine(config, load_tokenizer("embedded"), split, group)
    first = group.rank * split.micro
    batch = batch_of(config, 1, range(first, first + split.micro), *MAKE_UPS["mixed"])
    train_step(engine, [batch], 1, config, split, group)
    saver = CheckpointSaver(engine, folder / "checkpoints", config, group)
    saver.save(1)
    saver.wait()
    saver.close()
    weights = {}
    for name, parameter in engine.module.named_parameters():
        with deepspeed.zero.GatheredParameters([parameter]):
            weights[name] = parameter.detach().clone()
    if group.rank == 0:
        torch.save(split_flat(weights, layout_of(engine.module)), folder / "weights.pt")
    engine.destroy()


def main():
    group = ProcessGroup()
    for stage, precision in CASES:
        save_case(Path(sys.argv[1]) / f"{precision}-{stage}", stage, precision, group)
    group.close()


if __name__ == "__main__":
    main()
