"""What a run says of itself before its first step."""

import torch
from torch import nn

from sclds.batch.split import Split
from sclds.config import Config
from sclds.costs.plan import faster_stage
from sclds.machine.implementations import Implementations
from sclds.train.deepspeed_settings import overriding
from sclds.train.distributed import memory_per_process
from sclds.train.engine import count_parameters, largest_block


def described(
    config: Config, split: Split, implementations: Implementations, device: torch.device, model: nn.Module
) -> list[str]:
    """Return lines on the settings that replace ours, on what the run uses, and on a stage that may be faster."""
    engine = config.engine
    faster = faster_stage(config, split, memory_per_process(device))
    return [
        *overriding(engine, largest_block(model)),
        f"Model        {count_parameters(model) / 1e6:.2f} M parameters",
        f"Batch        {config.batch.global_size} = {split.micro} samples × {split.world_size} processes × "
        f"{split.accumulation} accumulation steps",
        f"DeepSpeed    ZeRO stage {engine.zero_stage}, {engine.precision}, on {device.type}",
        f"Kernels      {implementations.kernels};  attention {implementations.attention};  "
        f"norms {implementations.norms};  AdamW {config.optimizer.implementation}",
        f"Run folder   {config.run_dir}",
        *([faster] if faster else ()),
    ]
