"""One of the processes of `sclds benchmark engine`: times every provider in turn, and counts its messages."""

import time
from collections.abc import Callable
from functools import partial
from typing import Any

import torch

from sclds.batch.split import split_batch
from sclds.benchmarks.step import ModelLoss, build_model, model_section, totals
from sclds.benchmarks.worker import work
from sclds.config import Config
from sclds.config.reading import parse_config
from sclds.data.tokenizer import load_tokenizer
from sclds.machine.implementations import choose, compute_dtype, use
from sclds.train.distributed import ProcessGroup, counted_messages, synchronize
from sclds.train.engine import build_engine
from sclds.train.measuring import Limit
from sclds.train.optimizer import build_optimizer

PLAIN = "plain"
PROVIDERS = (PLAIN, *(f"stage {stage}" for stage in range(4)))
PHASES = ("forward", "backward", "step")
WARM_UP = 3
"""ZeRO-3 looks on for two steps before it fetches ahead."""
Mark = Callable[[str], None]
"""Is told when a phase has ended."""
Step = Callable[[Mark], float]
"""Takes an optimizer step; returns its loss."""


def configuration(sizes: dict[str, Any], stage: int, processes: int) -> Config:
    """Return a run of the sizes at a ZeRO stage: in bf16 on a GPU, in fp32 on a CPU."""
    size = sizes["image_size"]
    return parse_config(
        {
            "name": "engine",
            "run_dir": "unused",
            "data": {
                "train": [{"name": "none", "shards": "none"}],
                "tokenizer": "embedded",
                **dict.fromkeys(("image_size", "video_size"), size),
            },
            "batch": {
                "global_size": processes * sizes["batch"],
                "max_micro_size": sizes["batch"],
                "group_size": sizes["batch"],
            },
            "model": model_section(sizes),
            "engine": {"zero_stage": stage, "precision": "bf16" if torch.cuda.is_available() else "fp32"},
        }
    )


def steps_of(sizes: dict[str, Any], group: ProcessGroup) -> dict[str, Step]:
    """Build the model once per provider, from equal weights and on equal samples; return the step of each."""
    config = configuration(sizes, 0, group.world_size)
    use(choose(config))
    total = totals(sizes, str(group.device), compute_dtype(config))["packed"]
    steps = {PLAIN: _plain_step(sizes, config, total, group)}
    for stage, name in enumerate(PROVIDERS[1:]):
        steps[name] = _engine_step(configuration(sizes, stage, group.world_size), total, group)
    return steps


def _plain_step(sizes: dict[str, Any], config: Config, total: ModelLoss, group: ProcessGroup) -> Step:
    """Return what torch alone does with the model: nothing is sent, weights are of the type that it computes in."""
    model = build_model(sizes).to(group.device, compute_dtype(config)).train()
    optimizer = build_optimizer(model, config.optimizer)

    def step(mark: Mark) -> float:
        loss = total(model)
        mark("forward")
        loss.backward()
        mark("backward")
        torch.nn.utils.clip_grad_norm_(model.parameters(), config.optimizer.clip_norm)
        optimizer.step()
        optimizer.zero_grad()
        mark("step")
        return float(loss)

    return step


def _engine_step(config: Config, total: ModelLoss, group: ProcessGroup) -> Step:
    """Return what DeepSpeed's engine does with it."""
    tokenizer = load_tokenizer(config.data.tokenizer)
    engine = build_engine(config, tokenizer, split_batch(config.batch, group.world_size), group)
    engine.train()

    def step(mark: Mark) -> float:
        loss = total(engine)
        mark("forward")
        engine.backward(loss)
        mark("backward")
        engine.step()
        mark("step")
        return float(loss)

    return step


def measure(steps: dict[str, Step], rounds: int) -> dict[str, Any]:
    """Time `rounds` steps of every provider, which take turns, and count the messages of one more.

    Returns:
        Per provider `seconds`, lists by phase, and `messages`, by phase how many and how many bytes this process gave.

    Raises:
        RuntimeError: If first losses differ: then a comparison of speed would mean nothing.
    """
    for _ in range(WARM_UP):
        losses = {name: step(lambda _: None) for name, step in steps.items()}
        loosest = 1e-3 if torch.cuda.is_available() else 1e-4
        if any(abs(loss - losses[PLAIN]) > loosest * abs(losses[PLAIN]) for loss in losses.values()):
            raise RuntimeError(f"providers disagree on the loss: {losses}")
    seconds: dict[str, dict[str, list[float]]] = {name: {phase: [] for phase in PHASES} for name in steps}
    for turn in range(rounds):
        for name in sorted(steps, reverse=bool(turn % 2)):
            _timed(steps[name], seconds[name])
    return {name: {"seconds": seconds[name], "messages": _messages(step)} for name, step in steps.items()}


def _timed(step: Step, seconds: dict[str, list[float]]) -> None:
    """Time a step by the clock; on a CPU by what this process computed, whatever else the machine does."""
    clock = time.perf_counter if torch.cuda.is_available() else time.process_time
    synchronize()
    last = clock()

    def mark(phase: str) -> None:
        nonlocal last
        synchronize()
        now = clock()
        seconds[phase].append(now - last)
        last = now

    step(mark)


def _messages(step: Step) -> dict[str, dict[str, int]]:
    """Return the messages of every phase of one step."""
    found: dict[str, dict[str, int]] = {}
    with counted_messages() as sent:

        def mark(phase: str) -> None:
            found[phase] = sent()._asdict()

        step(mark)
    return found


def limited(steps: dict[str, Step], limit: Limit) -> dict[str, Step]:
    """Return the steps, each of which takes no longer than its limit."""

    def one(step: Step, mark: Mark) -> float:
        with limit("the step", "step"):
            return step(mark)

    return {name: partial(one, step) for name, step in steps.items()}


if __name__ == "__main__":
    work(lambda sizes, rounds, group, limit: measure(limited(steps_of(sizes, group), limit), rounds))
