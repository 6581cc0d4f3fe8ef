"""What the engine and the host do around the model's passes: gradients, the optimizer's step, hooks, messages.

The host's time is a sum of four: of launches, of gradients that ZeRO takes over (stages 1 to 3), of modules passed
through at stage 3, and of messages. Coefficients are the processor time of `sclds benchmark engine` (a model of the
base model's depth and width 64, one process, AMD EPYC; docs/costs.md): what a launch computes there is in them, so that
on a GPU they are upper bounds.
"""

from sclds.batch.split import Split
from sclds.config import Config
from sclds.costs.operators import FP32, Pass
from sclds.costs.stages import gradient_bytes, value_bytes
from sclds.costs.tensors import parameter_tensors

LAUNCH = 33e-6
"""Seconds of a launch and its share of autograd: 89 ms of a plain forward and backward, which launch 2,726 times."""
GRADIENT = 0.18e-3
"""Seconds that ZeRO takes over the gradient of a tensor: 17 ms that stage 1 needs beyond a plain step, 93 tensors."""
HOOK = 0.61e-3
"""Seconds of a pass through a module at stage 3: 59 ms beyond stage 1, forward and backward of 48 modules."""
MESSAGE = 50e-6
"""Seconds of starting a message: an all-gather of 4 kB over gloo in one process, which waits for nobody."""
ADAM_VALUES = 7
"""Values that AdamW reads and writes per weight: weight, gradient and two moments in, all but the gradient out."""


def engine_work(config: Config, vocab_size: int, split: Split) -> Pass:
    """Return the operators of one optimizer step around the model's passes, and the bytes that they move.

    Every micro-batch joins the gradients of a flat tensor and copies them into a bucket (stages 1 to 3), or adds them
    up (stage 0); the step takes the norm, clips, steps, and rounds the weights.
    """
    stage, value, gradient = config.engine.zero_stage, value_bytes(config), gradient_bytes(config)
    tensors = parameter_tensors(config, vocab_size)
    whole, groups = sum(t.numel for t in tensors), len({t.group for t in tensors})
    own = whole // (split.world_size if stage else 1)
    work = Pass()
    for _ in range(split.accumulation):
        if stage:
            work.run(2 * value * whole, len(tensors))
        work.run((value + gradient) * whole, len(tensors))
    norms = groups if stage else len(tensors)
    work.run((FP32 * (1 + 2 + ADAM_VALUES) + FP32 + value) * own, norms + 3 * groups)
    return work


def hooked(config: Config, vocab_size: int) -> int:
    """Return the modules through whose hooks stage 3 goes in every pass: layers, and others with weights."""
    return len({tensor.module for tensor in parameter_tensors(config, vocab_size)})


def host_seconds(launches: int, gradients: int, hooked: int, messages: int) -> float:
    """Return the host's time of so many launches, gradients taken over, passes through modules, and messages."""
    return LAUNCH * launches + GRADIENT * gradients + HOOK * hooked + MESSAGE * messages
