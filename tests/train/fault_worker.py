"""One of two processes that fetch half bad data: `python -m tests.train.fault_worker CONFIG.yaml QUARANTINE.jsonl`."""

import sys
from pathlib import Path

import torch
import torch.distributed as dist

from sclds.config.reading import load_config
from sclds.data.loader import Quarantine, TrainingBatches
from sclds.data.tokenizer import load_tokenizer
from sclds.train.ahead import Ahead
from sclds.train.distributed import ProcessGroup
from sclds.train.startup import exit_code


def work() -> int:
    """Fetch as a run does until the data end it; rank 1 by itself would take anything."""
    config = load_config(sys.argv[1])
    dist.init_process_group("gloo")
    group = object.__new__(ProcessGroup)  # without DeepSpeed, of which the agreement of ranks needs nothing
    group._hosts = None  # gloo takes part in all
    group.device, group.rank, group.world_size = torch.device("cpu"), dist.get_rank(), dist.get_world_size()
    if group.rank == 1:
        config = config.model_copy(update={"data": config.data.model_copy(update={"max_bad_share": 1.0})})
    micro = config.batch.global_size // group.world_size
    quarantine = Quarantine(Path(sys.argv[2]))
    tokenizer = load_tokenizer(config.data.tokenizer)
    batches = iter(TrainingBatches(config, tokenizer, group.rank, group.world_size, micro, 1, 0, quarantine))
    ahead, step = Ahead(batches, 1, config.model.vision.max_frames, group, lambda: False, lambda: None), 0
    try:
        while ahead.take():
            step += 1
    finally:
        print(f"stopped at step {step}", flush=True)
        batches.close()
        dist.destroy_process_group()
    return 0


if __name__ == "__main__":
    sys.exit(exit_code(work))
