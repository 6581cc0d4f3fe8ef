"""The packed step beside the published schedule, in turns, on this machine."""

import json
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from sclds.batch import Batch, Recipe, SampleViews, pack
from sclds.benchmarks.rows import Row, quantiles, write
from sclds.config import LossesConfig, MaskingConfig, ModelConfig, OptimizerConfig
from sclds.config.errors import UserError
from sclds.losses.communicator import SingleProcess
from sclds.losses.objectives import GlobalFeatures, features_of, step_loss
from sclds.machine.attention import AttentionBackends
from sclds.model.scl import SCLModel
from sclds.reference.published_schedule import pad_batch, published_step

ModelLoss = Callable[[SCLModel], Tensor]
PAD, MASK, FIRST_WORD = 1, 4, 5
PROVIDERS = ("packed", "published")
MID_SIZE: dict[str, Any] = {
    "width": 256,
    "vision_layers": 4,
    "text_layers": 4,
    "fusion_layers": 3,
    "image_size": 112,
    "patch": 16,
    "text": (8, 16),
    "padded": 50,
    "batch": 16,
    "vocabulary": 2000,
}
"""Images of 49 patches, texts of 8 to 16 tokens (padded to 50 as published): seconds a step on two CPU cores.

Padded texts weigh more beside 49 patches than beside the base model's 324 (`--image-size 288`), so that the published
schedule runs 3.6 times the matrix products of the packed step here, 2.7 times there, and 2.4 times at base size.
"""


class Workload(NamedTuple):
    """The same samples laid out for both ways to run a step; a call takes one whole optimizer step."""

    samples: int
    steps: dict[str, Callable[[], Tensor]]
    """Per provider; returns the loss before the update."""


def workload(sizes: dict[str, Any], device: str) -> Workload:
    """Draw samples and build one model and optimizer per provider, from equal weights.

    Args:
        sizes: As `MID_SIZE`.
        device: `cpu` or `cuda`.
    """
    return Workload(sizes["batch"], {n: _step(sizes, total, device) for n, total in totals(sizes, device).items()})


def totals(
    sizes: dict[str, Any],
    device: str,
    dtype: torch.dtype = torch.float32,
    attention: AttentionBackends | None = None,
) -> dict[str, ModelLoss]:
    """Draw samples and return, per provider, the loss of a model on them.

    Args:
        sizes: As `MID_SIZE`.
        device: `cpu` or `cuda`.
        dtype: Of the pixels.
        attention: Backends of the packed step; by default dense attention.
    """
    views, patches = _drawn(sizes, device, dtype)
    losses = LossesConfig(duplicates="negatives")
    batch = pack(views, patches, _recipe(sizes, losses, attention)).to(torch.device(device))
    padded = pad_batch(views, patches, PAD, sizes["padded"])

    def packed_total(model: SCLModel) -> Tensor:
        outputs = model(batch)
        features = GlobalFeatures.gather([features_of(outputs, batch)], [batch], losses, SingleProcess())
        return step_loss(outputs, batch, features, 0, losses)[0]

    return dict(
        zip(PROVIDERS, (packed_total, lambda model: published_step(model, padded, losses)["total"]), strict=True)
    )


def packed_batch(
    sizes: dict[str, Any], losses: LossesConfig, attention: AttentionBackends, frames: tuple[int, ...] = ()
) -> Batch:
    """Draw samples and pack them for these losses, on the host.

    Args:
        sizes: As `MID_SIZE`.
        losses: Objectives in use.
        attention: Backends.
        frames: Of the last samples, which are videos.
    """
    views, patches = _drawn(sizes, "cpu", torch.float32, frames)
    return pack(views, patches, _recipe(sizes, losses, attention))


def _drawn(
    sizes: dict[str, Any], device: str, dtype: torch.dtype, frames: tuple[int, ...] = ()
) -> tuple[list[SampleViews], Tensor]:
    rng = np.random.default_rng(0)
    views = [_sample(i, sizes, rng) for i in range(sizes["batch"])]
    for number, count in enumerate(frames, len(views) - len(frames)):
        views[number] = replace(views[number], kind="video", frames=count)
    shape = (sum(view.frames * view.grid**2 for view in views), 3 * sizes["patch"] ** 2)
    return views, torch.from_numpy(rng.standard_normal(shape, dtype=np.float32)).to(device, dtype)


def _recipe(sizes: dict[str, Any], losses: LossesConfig, attention: AttentionBackends | None) -> Recipe:
    grids = (sizes["image_size"] // sizes["patch"],)
    return Recipe(PAD, losses, grids, sizes["batch"], sizes["fusion_layers"], attention or AttentionBackends())


def _step(sizes: dict[str, Any], total: ModelLoss, device: str) -> Callable[[], Tensor]:
    """Return forward, backward and optimizer step on an own copy of the model."""
    model = build_model(sizes).to(device).train()
    settings = OptimizerConfig()
    optimizer = torch.optim.AdamW(
        model.parameters(), settings.learning_rate, settings.betas, settings.eps, settings.weight_decay
    )

    def step() -> Tensor:
        optimizer.zero_grad(set_to_none=True)
        loss = total(model)
        loss.backward()
        optimizer.step()
        return loss.detach()

    return step


def model_section(sizes: dict[str, Any]) -> dict[str, Any]:
    """Return a configuration's `model`; heads are 64 wide, as in the base model, and dropout is off."""
    width = {"width": sizes["width"], "heads": max(1, sizes["width"] // 64)}
    return {
        "vision": width
        | {
            "layers": sizes["vision_layers"],
            "patch_size": sizes["patch"],
            "pretrained_image_size": sizes["image_size"],
        },
        "text": width
        | {
            "layers": sizes["text_layers"],
            "max_positions": sizes["padded"] + PAD + 1,
            "dropout": 0.0,
            "vocab_size": sizes["vocabulary"],
        },
        "fusion": width | {"layers": sizes["fusion_layers"], "dropout": 0.0},
    }


def build_model(sizes: dict[str, Any]) -> SCLModel:
    """Return a model with initial weights."""
    model = SCLModel(ModelConfig.model_validate(model_section(sizes)), sizes["vocabulary"])
    model.initialize(0)
    return model


def _sample(number: int, sizes: dict[str, Any], rng: np.random.Generator) -> SampleViews:
    """Draw an image with a text of random length, masks at the method's shares, every other ITM image wrong."""
    shares = MaskingConfig()
    shortest, longest = sizes["text"]
    inner = int(rng.integers(shortest, longest + 1)) - 2
    text = np.concatenate(([0], rng.integers(FIRST_WORD, sizes["vocabulary"], inner), [2])).astype(np.int64)
    predicted = np.sort(rng.permutation(inner)[: max(1, round(inner * shares.mlm_ratio))]) + 1
    hidden = np.unique(rng.integers(1, inner + 1, int(inner * shares.scl_text_ratio) + 1))
    text_mlm, text_scl = text.copy(), text.copy()
    text_mlm[predicted], text_scl[hidden] = MASK, MASK
    grid = sizes["image_size"] // sizes["patch"]
    wrong = number % 2
    return SampleViews(
        sample_id=str(number),
        dropout_key=number,
        caption="",
        kind="image",
        frames=1,
        grid=grid,
        text=text,
        text_mlm=text_mlm,
        mlm_positions=predicted,
        mlm_labels=text[predicted],
        text_scl=text_scl,
        scl_positions=hidden,
        keep=np.sort(rng.permutation(grid**2)[: int(grid**2 * (1 - shares.scl_vision_ratio))]),
        replaced=np.arange(int(grid**2 * shares.mltc_vision_ratio)),
        itm_partner=(number + wrong) % sizes["batch"],
        itm_label=1 - wrong,
    )


def measure(work: Workload, rounds: int) -> dict[str, list[float]]:
    """Return seconds of every step, after one untimed of each; providers take turns, so that both see the same machine.

    Raises:
        RuntimeError: If the first losses differ: then a comparison of speed would mean nothing.
    """
    first = {name: float(step()) for name, step in work.steps.items()}
    if abs(first["packed"] - first["published"]) > 1e-3 * abs(first["published"]):
        raise RuntimeError(f"the two schedules disagree on the loss: {first}")
    seconds: dict[str, list[float]] = {name: [] for name in work.steps}
    for turn in range(rounds):
        for name in sorted(work.steps, reverse=bool(turn % 2)):
            _wait()
            start = time.perf_counter()
            work.steps[name]()
            _wait()
            seconds[name].append(time.perf_counter() - start)
    return seconds


def _wait() -> None:
    if torch.cuda.is_available():
        torch.cuda.synchronize()


def rows_of(seconds: dict[str, list[float]], samples: int, sizes: dict[str, Any], device: str) -> list[Row]:
    """Return samples a second of each provider, and their ratio turn by turn."""
    rates = {name: [samples / s for s in times] for name, times in seconds.items()}
    ratios = [a / b for a, b in zip(rates["packed"], rates["published"], strict=True)]
    place = torch.cuda.get_device_name() if device == "cuda" else f"cpu ({torch.get_num_threads()} threads)"
    config, versions, runs = json.dumps(sizes), f"torch {torch.__version__}", len(ratios)
    measured = [(name, "samples_per_second", values) for name, values in rates.items()]
    measured.append(("packed/published", "ratio", ratios))
    return [Row(name, metric, *quantiles(x), runs, config, place, versions) for name, metric, x in measured]


def compare_steps(rounds: int, batch: int, width: int, image_size: int, folder: Path) -> list[Row]:
    """Measure both providers at `MID_SIZE` with the given sizes, and write step.csv and step.png.

    Args:
        rounds: Timed steps of each.
        batch: Samples per step.
        width: Channels.
        image_size: Side of an image in pixels.
        folder: For the files.

    Raises:
        UserError: If a number makes no benchmark.
    """
    if rounds < 1 or batch < 2 or width < 1:
        raise UserError("give --rounds of at least 1, --batch of at least 2 and a positive --width")
    if width > 64 and width % 64:
        raise UserError(f"--width {width} is not a multiple of 64, the width of a head")
    if image_size < 2 * MID_SIZE["patch"] or image_size % MID_SIZE["patch"]:
        raise UserError(f"--image-size {image_size} is not a multiple of {MID_SIZE['patch']}, at least two")
    sizes = MID_SIZE | {"batch": batch, "width": width, "image_size": image_size}
    device = "cuda" if torch.cuda.is_available() else "cpu"
    work = workload(sizes, device)
    rows = rows_of(measure(work, rounds), work.samples, sizes, device)
    write(rows, folder, "step", f"forward + backward + step, {rows[-1].median:.2f}×: {rows[0].device}")
    return rows
