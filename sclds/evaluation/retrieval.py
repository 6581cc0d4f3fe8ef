"""Zero-shot retrieval on held-out pairs with the contrastive projections, and the held-out mean of every loss.

The result does not depend on the number of processes: batches are dealt to ranks in windows of one batch a rank, every
rank runs equally many forwards (ZeRO-3 needs that), and features are put back in the order of the data.
"""

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import islice
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from sclds.batch.packing import Batch
from sclds.config import Config
from sclds.config.errors import UserError
from sclds.data.loader import heldout_batches
from sclds.data.quarantine import Quarantine
from sclds.data.tokenizer import Tokenizer
from sclds.losses.communicator import Communicator, SingleProcess
from sclds.losses.objectives import GlobalBatch, features_of, step_loss

EXAMPLES = 8
"""Queries shown in the report."""
RETRIEVED = 5
"""Best matches shown for each."""
RECALLS = (1, 5, 10)


@dataclass
class Encoded:
    """Held-out samples of one kind in the order of the data."""

    text: list[Tensor] = field(default_factory=list)
    """Per batch, (B, P) on CPU."""
    vision: list[Tensor] = field(default_factory=list)
    """Per batch, (B, P) on CPU."""
    sample_ids: list[str] = field(default_factory=list)
    captions: list[str] = field(default_factory=list)
    losses: dict[str, list[float]] = field(default_factory=dict)
    """Per objective, a value a batch."""


def rank_metrics(text: Tensor, vision: Tensor) -> dict[str, dict[str, float]]:
    """Rank every sample's other half by cosine similarity, in both directions.

    Args:
        text: (N, D) projections of the captions.
        vision: (N, D) projections of the pictures or clips; row i belongs to row i of `text`.

    Returns:
        For `text_to_vision` and `vision_to_text`: n, recall at 1, 5 and 10 as fractions, the median rank (1 is best),
        and what chance gives at 10. A tie counts against us, and so does what is not a number.
    """
    similarity = cosine(text, vision)
    return {"text_to_vision": _directed(similarity), "vision_to_text": _directed(similarity.T)}


def cosine(text: Tensor, vision: Tensor) -> Tensor:
    """Return (N, N) cosine similarities in double precision."""
    return functional.normalize(text.double(), dim=1) @ functional.normalize(vision.double(), dim=1).T


def _directed(similarity: Tensor) -> dict[str, float]:
    """Return the metrics of queries in rows over candidates in columns."""
    n = len(similarity)
    if not n:
        raise ValueError("there is no pair to rank")
    ranks = _ranks(similarity).double()
    recalls = {f"r{k}": float((ranks <= k).double().mean()) for k in RECALLS}
    return {"n": n, **recalls, "median_rank": float(ranks.quantile(0.5)), "chance_r10": min(1.0, 10 / n)}


def _ranks(similarity: Tensor) -> Tensor:
    """Return the rank of the diagonal in each row: how many candidates, itself included, are not less similar."""
    return (~(similarity < similarity.diagonal()[:, None])).sum(1)


def evaluate(
    model: nn.Module,
    config: Config,
    tokenizer: Tokenizer,
    device: torch.device,
    communicator: Communicator,
    quarantine: Quarantine | None = None,
) -> dict[str, Any]:
    """Measure retrieval and losses on the held-out sets; every rank gets the same result.

    Args:
        model: The model, or the engine that wraps it: `model(batch)` gives the outputs. It is left in its mode.
        config: The run.
        tokenizer: The run's.
        device: Where the model lies.
        communicator: All processes of the run.
        quarantine: Counts and names unusable samples, which are left out; by default it only counts.

    Returns:
        `retrieval` by kind (only kinds that are held out), `losses` by objective, and `examples`: for some queries the
        caption, its sample, the rank of the right one and the best five. Empty where nothing is held out.
    """
    kinds: dict[str, Encoded] = {}
    quarantine = quarantine or Quarantine()
    was_training = model.training
    model.eval()
    try:
        with torch.no_grad():
            for kind in dict.fromkeys(dataset.kind for dataset in config.data.heldout):
                kinds[kind] = Encoded()
                batches = _batches(config, tokenizer, kind, quarantine)
                for window in _windows(batches, communicator, device):
                    _run_window(model, config, window, device, communicator, kinds[kind])
    finally:
        model.train(was_training)
    kinds = {kind: encoded for kind, encoded in kinds.items() if encoded.sample_ids}
    return {
        "retrieval": {kind: rank_metrics(torch.cat(e.text), torch.cat(e.vision)) for kind, e in kinds.items()},
        "losses": _mean_losses(list(kinds.values())),
        "examples": _examples(kinds),
    }


def _batches(config: Config, tokenizer: Tokenizer, kind: str, quarantine: Quarantine) -> Iterator[Batch]:
    """Yield the held-out batches of a kind until `evaluation.max_samples` are reached."""
    size, most = config.evaluation.batch_size, config.evaluation.max_samples
    count = 0
    for dataset in config.data.heldout:
        if dataset.kind != kind:
            continue
        for batch in heldout_batches(config, tokenizer, dataset, size, quarantine):
            yield batch
            count += len(batch["sample_ids"])
            if count >= most:
                return


def _windows(batches: Iterator[Batch], communicator: Communicator, device: torch.device) -> Iterator[tuple[Batch, ...]]:
    """Yield one batch a rank at a time, the same ones on every rank.

    Raises:
        UserError: On every rank, if any cannot read on, or reads other samples than the rest (a shard may be gone for
            one of them alone): their features would be put together wrongly, or a rank would wait for ever.
    """
    while True:
        fault: UserError | None = None
        window: tuple[Batch, ...] = ()
        try:
            window = tuple(islice(batches, communicator.world_size))
        except UserError as error:
            fault = error
        mine = -1 if fault else _digest([name for batch in window for name in batch["sample_ids"]])
        seen = communicator.all_gather(torch.tensor(mine, device=device)).tolist()
        if fault:
            raise fault
        if any(other != mine for other in seen):
            others = ", ".join(str(rank) for rank, other in enumerate(seen) if other != seen[0])
            raise UserError(
                f"Nothing can be measured: held-out samples that process 0 reads cannot be read by process {others}, "
                "or the other way round. quarantine.jsonl in the run folder names them; once all processes can read "
                "them, give the same command again: a finished run measures without training again"
            )
        if not window:
            return
        yield window


def _digest(names: list[str]) -> int:
    """Return a number of 56 bits that differs where names or their order do."""
    return int.from_bytes(hashlib.sha256("\n".join(names).encode("utf-8", "surrogatepass")).digest()[:7], "big")


def _run_window(
    model: nn.Module,
    config: Config,
    window: tuple[Batch, ...],
    device: torch.device,
    communicator: Communicator,
    encoded: Encoded,
) -> None:
    """Run one batch a rank (ranks beyond the end repeat the last one) and take in everybody's results in order."""
    batch = to_device(window[min(communicator.rank, len(window) - 1)], device, config.engine.precision)
    outputs = model(batch)
    everybody = GlobalBatch.gather([features_of(outputs)], [batch], config.losses, SingleProcess())
    _, terms = step_loss(outputs, batch, everybody, 0, config.losses)
    names = sorted(terms)
    values = communicator.all_gather(torch.stack([torch.as_tensor(terms[n], device=device).float() for n in names]))
    sizes = [len(b["sample_ids"]) for b in window]
    text, vision = (
        communicator.all_gather(_pad_rows(outputs[key].float(), max(sizes))).cpu()
        for key in ("text_proj", "vision_proj")
    )
    room = config.evaluation.max_samples - len(encoded.sample_ids)
    for turn, (shown, size) in enumerate(zip(window, sizes, strict=True)):
        kept = min(size, room)
        room -= kept
        encoded.text.append(text[turn, :kept])
        encoded.vision.append(vision[turn, :kept])
        encoded.sample_ids += shown["sample_ids"][:kept]
        encoded.captions += shown["captions"][:kept]
        # a contrastive loss over fewer samples is smaller, so that a short last batch would bend the mean
        if size == config.evaluation.batch_size or not encoded.losses:
            for name, value in zip(names, values[turn].tolist(), strict=True):
                encoded.losses.setdefault(name, []).append(value)


def to_device(batch: Batch, device: torch.device, precision: str) -> Batch:
    """Return the batch with its tensors on `device`, pixels in the compute type."""
    moved = {key: value.to(device) if isinstance(value, Tensor) else value for key, value in batch.items()}
    if "patches" in moved:
        moved["patches"] = moved["patches"].to(torch.bfloat16 if precision == "bf16" else torch.float32)
    return moved


def _pad_rows(tensor: Tensor, rows: int) -> Tensor:
    """Append zero rows, so that all ranks exchange the same shape."""
    return functional.pad(tensor, (0, 0, 0, rows - len(tensor)))


def _mean_losses(kinds: list[Encoded]) -> dict[str, float]:
    """Return the mean of every loss over the kinds' batches, each kind weighted by its samples."""
    total = sum(len(encoded.sample_ids) for encoded in kinds)
    means: dict[str, float] = {}
    for encoded in kinds:
        share = len(encoded.sample_ids) / total
        for name, values in encoded.losses.items():
            means[name] = means.get(name, 0.0) + share * sum(values) / len(values)
    return means


def _examples(kinds: dict[str, Encoded]) -> list[dict[str, Any]]:
    """Return evenly spaced text queries (not chosen by result), shared between the kinds, with their best matches."""
    examples = []
    for turn, (kind, encoded) in enumerate(sorted(kinds.items())):
        wanted = EXAMPLES // len(kinds) + (turn < EXAMPLES % len(kinds))
        similarity = cosine(torch.cat(encoded.text), torch.cat(encoded.vision))
        ranks, n = _ranks(similarity), len(encoded.sample_ids)
        for query in evenly_spaced(n, wanted):
            best = similarity[query].topk(min(RETRIEVED, n)).indices.tolist()
            examples.append(
                {
                    "kind": kind,
                    "sample_id": encoded.sample_ids[query],
                    "caption": encoded.captions[query],
                    "rank": int(ranks[query]),
                    "of": n,
                    "retrieved": [encoded.sample_ids[i] for i in best],
                }
            )
    return examples


def evenly_spaced(n: int, wanted: int) -> list[int]:
    """Return up to `wanted` different indices below n, evenly spaced."""
    count = min(n, wanted)
    return [(2 * i + 1) * n // (2 * count) for i in range(count)]
