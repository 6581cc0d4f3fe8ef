"""Held-out measurements of a run: the losses, and retrieval beside chance."""

from typing import Any

import torch

from sclds.config import Config
from sclds.data.tokenizer import Tokenizer
from sclds.train.distributed import ProcessGroup
from sclds.train.engine import to_device


@torch.no_grad()
def heldout_losses(engine: Any, config: Config, tokenizer: Tokenizer, group: ProcessGroup) -> dict[str, float]:
    """Return every loss term, averaged over the held-out batches; every rank computes all of them.

    Each batch is its own set of negatives, so values do not depend on the number of processes.
    """
    from sclds.data.loader import heldout_batches
    from sclds.losses.communicator import SingleProcess
    from sclds.losses.objectives import GlobalBatch, features_of, step_loss

    totals: dict[str, float] = {}
    count = 0
    engine.eval()
    for batch in heldout_batches(config, tokenizer):
        on_device = to_device(batch, group, config.engine.precision)
        outputs = engine(on_device)
        alone = GlobalBatch.gather([features_of(outputs)], [on_device], config.losses, SingleProcess())
        _, terms = step_loss(outputs, on_device, alone, 0, config.losses)
        for name, value in terms.items():
            totals[name] = totals.get(name, 0.0) + float(value)
        count += 1
    engine.train()
    return {name: total / count for name, total in totals.items()}


@torch.no_grad()
def heldout_retrieval(engine: Any, config: Config, tokenizer: Tokenizer, group: ProcessGroup) -> dict[str, Any]:
    """Return zero-shot retrieval on the held-out pairs, by kind and direction; every rank computes all of it."""
    from sclds.downstream.retrieval import evaluate

    engine.eval()
    measured = evaluate(engine, config, tokenizer, group.device)
    engine.train()
    return measured
