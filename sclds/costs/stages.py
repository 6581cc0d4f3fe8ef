"""Memory of the model's state under ZeRO, and from where its third stage pays: closed formulas.

P parameters on W GPUs take, with bf16 and gradients added up in fp32 (2 bytes a parameter, 4 its gradient, 12 its fp32
weight and Adam's two moments), per GPU:

    stage 0    18·P
    stage 1    (6 + 12/W)·P
    stage 2    (2 + 16/W)·P
    stage 3    18/W·P + 2·min(P, L)       L: parameters that may stay gathered, a thousand million by default

Stages 1 and 2 send less and do less on the host. So stage 3 pays where they no longer fit, and it saves nothing before
P > L·W/(W - 1).
"""

from sclds.config import Config

MAX_LIVE_PARAMETERS = 1_000_000_000
"""Parameters that ZeRO-3 may hold gathered at once (DeepSpeed's default)."""
STAGE_3_HOST_TIME = 1.5
"""Host time of a step at stage 3 over that at stage 1, as `sclds benchmark engine` measured it (docs/costs.md)."""


def gradient_bytes(config: Config) -> int:
    """Return the bytes of a value of a gradient, as it is kept and sent; at stage 0 our own optimizer adds in fp32."""
    return 2 if config.engine.gradient_precision == "bf16" and config.engine.zero_stage else 4


def value_bytes(config: Config) -> int:
    """Return the bytes of a parameter in the type that the model computes in."""
    return 2 if config.engine.precision == "bf16" else 4


def state_bytes(config: Config, parameters: int, world_size: int) -> dict[str, int]:
    """Return the bytes of model state on one GPU, by part.

    Args:
        config: Of which the stage and the types count.
        parameters: Of the model.
        world_size: GPUs.
    """
    stage, value = config.engine.zero_stage, value_bytes(config)
    master = 4 if stage or config.engine.precision == "bf16" else 0  # at stages 1 to 3 DeepSpeed has its own
    shards = {part: world_size if stage >= least else 1 for part, least in _SHARDED_FROM.items()}
    gathered = min(parameters, MAX_LIVE_PARAMETERS) * value if stage == 3 and world_size > 1 else 0
    return {
        "parameters": parameters * value // shards["parameters"],
        "gathered parameters": gathered,
        "gradients": parameters * gradient_bytes(config) // shards["gradients"],
        "optimizer state": parameters * (8 + master) // shards["optimizer state"],
    }


_SHARDED_FROM = {"optimizer state": 1, "gradients": 2, "parameters": 3}
"""The stage from which each part is sharded."""


def largest_model(config: Config, world_size: int, free: float) -> int:
    """Return the parameters whose state fits at the configuration's stage.

    Args:
        config: Of which the stage and the types count.
        world_size: GPUs.
        free: Bytes of a GPU that state may take.
    """
    live = MAX_LIVE_PARAMETERS
    below, at = (sum(state_bytes(config, count, world_size).values()) for count in (live // 2, live))
    if free <= at:
        return int(free * live / at)
    slope = (at - below) / (live - live // 2)
    if config.engine.zero_stage == 3 and world_size > 1:
        slope -= value_bytes(config)
    return live + int((free - at) / slope)
