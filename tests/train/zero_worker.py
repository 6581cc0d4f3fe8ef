"""One of several processes that train the tiny model: `python -m tests.train.zero_worker CASES.json OUT.pt`."""

import json
import sys
from pathlib import Path

import deepspeed
import torch

from sclds.batch.split import split_batch
from sclds.data.tokenizer import load_tokenizer
from sclds.run.checkpoints import newest_checkpoint
from sclds.train.checkpoint import convert_to_universal, load_checkpoint, needs_conversion, save_checkpoint
from sclds.train.distributed import ProcessGroup
from sclds.train.engine import build_engine
from sclds.train.step import train_step
from tests.train.synthetic import MAKE_UPS, batch_of, tiny_config

STEPS = 3


def run_case(case, group):
    """Train `STEPS` steps through the real engine and step; return summed losses and the full weights."""
    config = tiny_config(**case["config"])
    split = split_batch(config.batch, group.world_size)
    folder = Path(case["folder"]) if "folder" in case else None
    checkpoint = newest_checkpoint(folder) if folder else None
    universal = checkpoint is not None and needs_conversion(checkpoint, config, group.world_size)
    if universal and group.rank == 0:
        convert_to_universal(checkpoint)
    group.barrier()
    engine = build_engine(config, load_tokenizer("embedded"), split, group, universal)
    if checkpoint is not None:
        load_checkpoint(engine, checkpoint, universal)
    kinds, words = MAKE_UPS[case["make_up"]]
    history = []
    for step in range(checkpoint.step if checkpoint else 0, case.get("steps", STEPS)):
        batches = []
        for a in range(split.accumulation):
            first = (a * group.world_size + group.rank) * split.micro
            batches.append(batch_of(config, step, range(first, first + split.micro), kinds, words))
        if case.get("poison") == step and group.rank == 0:
            batches[0].vision.patches[0] = float("nan")
        report = train_step(engine, batches, step, config, split, group, measure=True)
        terms = {name: group.all_reduce_sum(value.float()).item() for name, value in sorted(report.terms.items())}
        history.append({"terms": terms, "norm": float(engine.get_global_grad_norm()), "applied": report.applied})
    if folder and checkpoint is None:
        save_checkpoint(engine, folder, case["steps"], config, group, keep=1)
    weights = {}
    for name, parameter in engine.module.named_parameters():
        with deepspeed.zero.GatheredParameters([parameter]):
            weights[name] = parameter.detach().float().clone()
    engine.destroy()
    return {"history": history, "weights": weights}


def main():
    with open(sys.argv[1], encoding="utf-8") as file:
        cases = json.load(file)
    group = ProcessGroup()
    results = {name: run_case(case, group) for name, case in cases.items()}
    if group.rank == 0:
        torch.save(results, sys.argv[2])
    group.barrier()
    group.close()


if __name__ == "__main__":
    main()
