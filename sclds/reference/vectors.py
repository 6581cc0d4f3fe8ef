"""Our numbers against those of the published implementation, through the code that training runs."""

import json
import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from sclds.batch import Batch, Recipe, SampleViews, pack
from sclds.batch.patches import patchify
from sclds.config import FusionConfig, LossesConfig, ModelConfig, TextConfig, VisionConfig
from sclds.config.errors import UserError
from sclds.losses.communicator import SingleProcess
from sclds.losses.objectives import GlobalFeatures, features_of, step_loss
from sclds.model.scl import SCLModel
from sclds.reference.published_names import from_published, published_names

TOLERANCE = 1e-4
"""Largest relative error in fp32."""
GRADIENT_FLOOR = 1e-4
"""Gradient norms below this hold rounding noise (attention key biases vanish in exact arithmetic)."""
IGNORED_LABEL = -100


@dataclass(frozen=True)
class Comparison:
    """One published number or tensor beside ours."""

    name: str
    absolute: float
    """Largest absolute error."""
    relative: float
    """Largest absolute error over the largest published magnitude."""

    @property
    def passed(self) -> bool:
        """Whether the error is within `TOLERANCE`."""
        return self.relative <= TOLERANCE


class ReferenceVector:
    """A file with weights, inputs, outputs, losses and gradient norms of one published training step.

    Raises:
        UserError: If the file is not such a file or lacks something.
    """

    def __init__(self, path: Path):
        try:
            with np.load(path, allow_pickle=False) as archive:
                self.arrays = {name: archive[name] for name in archive.files}
        except (OSError, ValueError, EOFError, zipfile.BadZipFile, KeyError) as fault:
            raise UserError(f"{path} is not a readable .npz file ({fault}); give a reference vector") from fault
        required = ("meta_json", "pixels", "token_ids", "attention_mask", "keep_ids", "itm_image_index", "loss_total")
        missing = [name for name in required if name not in self.arrays]
        if missing:
            raise UserError(f"{path} is not a reference vector: it has no {', '.join(missing)}")
        try:
            self.meta: dict[str, Any] = json.loads(str(self.arrays["meta_json"]))
        except ValueError as fault:
            raise UserError(f"{path}: meta_json is not JSON ({fault}); give a reference vector") from fault
        self.state = {
            name.removeprefix("state."): torch.from_numpy(np.ascontiguousarray(value))
            for name, value in self.arrays.items()
            if name.startswith("state.")
        }
        self.local_completion = "loss_mltc_image" in self.arrays

    @property
    def losses(self) -> LossesConfig:
        """The objectives of the file; the local ones are compared, not part of its total."""
        m = self.meta
        local = 1.0 if self.local_completion else 0.0
        return LossesConfig(
            duplicates="negatives",
            contrastive=m["contrastive_weight_in_total"],
            completion_temperature=m["scl_temperature"],
            mltc_image=local,
            mltc_text=local,
        )

    def model(self) -> SCLModel:
        """Build the model of the file's sizes and weights."""
        m = self.meta
        width = self.state["vision_transformer.visual.class_embedding"].shape[0]
        text_positions, text_width = self.state["text_transformer.embeddings.position_embeddings.weight"].shape
        native = round((self.state["vision_transformer.visual.positional_embedding"].shape[0] - 1) ** 0.5)
        inner = self.state["cross_modal_text_layers.0.intermediate.dense.weight"].shape[0]
        config = ModelConfig(
            vision=VisionConfig(
                width=width,
                layers=m["vision_blocks"],
                heads=m["vision_heads"],
                patch_size=m["patch"],
                pretrained_image_size=native * m["patch"],
                max_frames=max(1, m["max_frames"]),
                layer_norm_eps=m["vision_layer_norm_eps"],
            ),
            text=TextConfig(
                width=text_width,
                layers=m["text_layers"],
                heads=m["text_heads"],
                max_positions=text_positions,
                layer_norm_eps=m["text_layer_norm_eps"],
                dropout=0.0,
            ),
            fusion=FusionConfig(
                width=m["hidden"],
                layers=m["fusion_layers"],
                heads=m["fusion_heads"],
                mlp_ratio=inner // m["hidden"],
                layer_norm_eps=m["fusion_layer_norm_eps"],
                dropout=0.0,
                token_types=self.state["token_type_embeddings.weight"].shape[0],
            ),
            projection=self.state["vision_proj.3.weight"].shape[0],
        )
        model = SCLModel(config, m["vocab"])
        model.initialize(0)
        shapes = {name: p.shape for name, p in model.named_parameters()}
        found, missing, unexpected = from_published(shapes, self.state)
        optional = {"vision_encoder.embedding.temporal_embedding", "vision_encoder.embedding.mask_token"}
        if set(missing) - optional or unexpected:
            raise UserError(
                f"the file's weights do not fit: missing {sorted(set(missing) - optional)}, unexpected {unexpected}"
            )
        model.load_state_dict(found, strict=False)
        return model

    def batch(self) -> Batch:
        """Pack the file's inputs and masks."""
        a, m = self.arrays, self.meta
        pixels = torch.from_numpy(a["pixels"])
        videos = pixels.ndim == 5
        frames = pixels.shape[1] if videos else 1
        views = [self._sample(i, frames, "video" if videos else "image") for i in range(len(a["token_ids"]))]
        grids = (m["image_size"] // m["patch"],)
        return pack(
            views,
            patchify(pixels.reshape(-1, *pixels.shape[-3:]), m["patch"]).flatten(0, 1),
            Recipe(m["pad_id"], self.losses, grids, group_size=len(views), fusion_layers=m["fusion_layers"]),
        )

    def _sample(self, i: int, frames: int, kind: str) -> SampleViews:
        a = self.arrays
        length = int(a["attention_mask"][i].sum())
        labels = a["mlm_labels"][i, :length]
        predicted = np.flatnonzero(labels != IGNORED_LABEL)
        text, masked = a["token_ids"][i, :length], a["token_ids_scl"][i, :length]
        extra = {"replaced": a["mltc_image_index"][i]} if self.local_completion else {}
        return SampleViews(
            sample_id=str(i),
            caption="",
            kind=kind,
            frames=frames,
            grid=self.meta["image_size"] // self.meta["patch"],
            text=text,
            text_mlm=a["token_ids_mlm"][i, :length],
            mlm_positions=predicted,
            mlm_labels=labels[predicted],
            text_scl=masked,
            scl_positions=np.flatnonzero(text != masked),
            keep=a["keep_ids"][i],
            dropout_key=0,
            itm_partner=int(a["itm_image_index"][i]),
            itm_label=int(a["itm_label"][i]),
            **extra,
        )


def compare_reference(path: Path) -> list[Comparison]:
    """Run one step on the file's weights and inputs and compare everything that it holds."""
    reference = ReferenceVector(path)
    try:
        model, batch, losses = reference.model().eval(), reference.batch(), reference.losses
    except (KeyError, IndexError, TypeError, ValueError, ArithmeticError) as fault:
        reason = " ".join(f"{type(fault).__name__}: {fault}".split())
        raise UserError(f"{path}: sizes, weights and inputs are incomplete or do not fit ({reason})") from fault
    outputs = model(batch)
    features = GlobalFeatures.gather([features_of(outputs, batch)], [batch], losses, SingleProcess())
    published_total = losses.model_copy(update={"mltc_image": 0.0, "mltc_text": 0.0})
    _, terms = step_loss(outputs, batch, features, 0, losses)
    total, _ = step_loss(outputs, batch, features, 0, published_total)
    total.backward()
    terms["total"] = total.detach()
    found = _outputs(outputs, batch, reference)
    found |= {f"loss_{name}": value for name, value in terms.items()}
    found |= _gradients(model)
    compared = [n for n in reference.arrays if n.startswith(("out_", "loss_", "gradnorm."))]
    lacking = [n for n in compared if n not in found and not n.startswith("gradnorm.")]
    if lacking:
        raise UserError(f"{path} holds {', '.join(lacking)}, which this version does not compute")
    floor = _gradient_floor(reference)
    return [_compare(name, found.get(name, torch.zeros(2)), reference.arrays[name], floor) for name in compared]


def _gradient_floor(reference: ReferenceVector) -> float:
    """Return the norm below which a gradient is compared by absolute error.

    A backward pass in fp32 cannot be closer than the type's rounding of the whole gradient: a temperature's gradient, a
    difference of sums that nearly cancel, is then right to 2e-7 and wrong relative to itself, in any implementation.
    """
    norms = [float(value[0]) for name, value in reference.arrays.items() if name.startswith("gradnorm.")]
    whole = float(np.sqrt(np.sum(np.square(norms))))
    return max(GRADIENT_FLOOR, float(np.finfo(np.float32).eps) / TOLERANCE * whole)


def _outputs(outputs: dict[str, Tensor], batch: Batch, reference: ReferenceVector) -> dict[str, Tensor]:
    """Lay our packed outputs out as the file does; rows at padding are left as the file has them."""
    a = reference.arrays
    texts = len(a["token_ids"])
    found = {
        "out_text_proj": outputs["text_proj"],
        "out_vision_proj": outputs["vision_proj"],
        "out_itm_logits": outputs["itm_logits"],
        "out_mlm_logits": outputs["mlm_logits"],
        "out_fused_text_maskedimage": outputs["text_target"],
        "out_fused_text_maskedtext": outputs["text_recovered"],
        "out_fused_image_maskedimage": outputs["vision_recovered"].unflatten(0, (texts, -1)),
        "out_fused_image_maskedtext": outputs["vision_target"].unflatten(0, (texts, -1)),
    }
    order = torch.tensor(batch.samples.order)
    real = torch.from_numpy(a["attention_mask"]).bool()[order]
    for k, name in enumerate(("out_text", "out_text_mlm", "out_text_scl")):
        laid_out = torch.from_numpy(a[name])[order]
        first, last = batch.lengths.text_cu_seqlens[[k * texts, (k + 1) * texts]].tolist()
        laid_out[real] = outputs["text_views"][first:last].detach()
        found[name] = laid_out[order.argsort()]
    frames = max(1, reference.meta["frames"])
    for k, name in enumerate(("out_vision", "out_vision_masked")):
        first, last = batch.lengths.vision_cu_seqlens[[k * texts, (k + 1) * texts]].tolist()
        rows = outputs["vision_views"][first:last].unflatten(0, (texts, frames, -1))
        found[name] = torch.cat((rows[:, :, 0], rows[:, :, 1:].flatten(1, 2)), dim=1)[order.argsort()]
    return found


def _gradients(model: SCLModel) -> dict[str, Tensor]:
    """Return (norm, sum) of every gradient under the released names."""
    found = {}
    for name, parameter in model.named_parameters():
        gradient = torch.zeros_like(parameter) if parameter.grad is None else parameter.grad
        names = published_names(name)
        for part, g in zip(names, gradient.double().chunk(len(names)), strict=True):
            found[f"gradnorm.{part}"] = torch.stack((g.norm(), g.sum()))
    return found


def _compare(name: str, ours: Tensor, published: np.ndarray, floor: float) -> Comparison:
    expected = torch.from_numpy(np.asarray(published)).double()
    got = ours.detach().double()
    if got.shape != expected.shape:
        return Comparison(f"{name} (shape {tuple(got.shape)}, published {tuple(expected.shape)})", np.inf, np.inf)
    if name.startswith("gradnorm."):
        # Norm and sum of entries; the sum cancels, so that the norm is the measure of both.
        error = float((got - expected).abs().max())
        return Comparison(name, error, error / max(float(expected[0]), floor))
    error = float((got - expected).abs().max()) if expected.numel() else 0.0
    scale = float(expected.abs().max()) if expected.numel() else 1.0
    return Comparison(name, error, error / max(scale, 1e-12))
