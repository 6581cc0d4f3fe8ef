"""Write the project's own reference vectors: `python -m tests.vectors.make`, from the repository's root.

Each file holds one step of a tiny model in the format that `sclds verify reference` reads: weights under the released
names, inputs with the masks drawn, outputs, losses, and norm and sum of every gradient. They are computed in fp64 by
the plain definition (`sclds/reference/published_schedule.py`), not by the packed code that they test, and stored in
fp32.
"""

import json
from pathlib import Path

import numpy as np
import torch

from sclds.batch import SampleViews
from sclds.batch.patches import patchify
from sclds.config import FusionConfig, LossesConfig, ModelConfig, TextConfig, VisionConfig
from sclds.model.scl import SCLModel
from sclds.reference.published_names import published_names, to_published
from sclds.reference.published_schedule import pad_batch, published_losses, published_outputs
from sclds.reference.vectors import IGNORED_LABEL

FOLDER = Path(__file__).parent
DEFAULT = {
    "hidden": 16,
    "text_heads": 4,
    "fusion_heads": 2,
    "vision_heads": 2,
    "text_layers": 1,
    "vision_blocks": 1,
    "fusion_layers": 2,
    "vocab": 40,
    "image_size": 16,
    "patch": 4,
    "frames": 0,
    "batch": 4,
    "text_len": 9,
    "mask_token_id": 39,
    "pad_id": 1,
    "text_layer_norm_eps": 1e-5,
    "fusion_layer_norm_eps": 1e-12,
    "vision_layer_norm_eps": 1e-5,
    "mask_ratio": 0.8,
    "scl_temperature": 0.03,
    "contrastive_weight_in_total": 0.5,
    "max_frames": 0,
}
FILES = {"image": {}, "clip": {"frames": 3, "max_frames": 4, "batch": 3}}


def build(meta, seed, temperature):
    """Return a random model in fp64 whose values are exact in fp32."""
    width = meta["hidden"]
    config = ModelConfig(
        vision=VisionConfig(
            width=width,
            layers=meta["vision_blocks"],
            heads=meta["vision_heads"],
            patch_size=meta["patch"],
            pretrained_image_size=meta["image_size"],
            max_frames=max(1, meta["max_frames"]),
        ),
        text=TextConfig(width=width, layers=meta["text_layers"], heads=meta["text_heads"], max_positions=24, dropout=0),
        fusion=FusionConfig(
            width=width, layers=meta["fusion_layers"], heads=meta["fusion_heads"], mlp_ratio=2, dropout=0
        ),
        projection=16,
    )
    model = SCLModel(config, meta["vocab"])
    model.initialize(seed)
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter += 0.05 * torch.randn(parameter.shape, generator=generator)
        model.temperature.value.fill_(temperature)
    return model.double()


def draw(meta, i, rng):
    """Return sample `i` with its masks drawn; texts get shorter from sample to sample."""
    length = max(3, meta["text_len"] - i)
    text = np.concatenate(([0], rng.integers(4, meta["mask_token_id"], length - 2), [2])).astype(np.int64)
    mlm = np.sort(rng.permutation(length - 2)[: max(1, length // 6)]) + 1
    scl = np.unique(rng.integers(1, length - 1, int((length - 2) * 0.4) + 1))
    text_mlm, text_scl = text.copy(), text.copy()
    text_mlm[mlm], text_scl[scl] = meta["mask_token_id"], meta["mask_token_id"]
    grid = meta["image_size"] // meta["patch"]
    partner = i if i % 2 == 0 else (i + 1) % meta["batch"]
    return SampleViews(
        dropout_key=i,
        sample_id=str(i),
        caption="",
        kind="video" if meta["frames"] else "image",
        frames=max(1, meta["frames"]),
        grid=grid,
        text=text,
        text_mlm=text_mlm,
        mlm_positions=mlm,
        mlm_labels=text[mlm],
        text_scl=text_scl,
        scl_positions=scl,
        keep=rng.permutation(grid**2)[: int(grid**2 * (1 - meta["mask_ratio"]))],
        replaced=rng.permutation(grid**2)[: int(grid**2 * 0.3)],
        itm_partner=partner,
        itm_label=int(partner == i),
    )


def make(path, changes, seed=0, temperature=0.125):
    """Compute one file."""
    meta = DEFAULT | changes
    local = meta["frames"] == 0
    rng = np.random.default_rng(seed)
    model = build(meta, seed, temperature)
    views = [draw(meta, i, rng) for i in range(meta["batch"])]
    size = meta["image_size"]
    pixels = rng.standard_normal((meta["batch"] * max(1, meta["frames"]), 3, size, size)).astype(np.float32)
    padded = pad_batch(
        views, patchify(torch.from_numpy(pixels), meta["patch"]).flatten(0, 1), meta["pad_id"], meta["text_len"]
    )
    losses = LossesConfig(
        contrastive=meta["contrastive_weight_in_total"],
        completion_temperature=meta["scl_temperature"],
        mltc_image=float(local),
        mltc_text=float(local),
    )
    out = published_outputs(model, padded, losses)
    terms = published_losses(out, views, losses)
    terms["total"] = published_losses(out, views, losses.model_copy(update={"mltc_image": 0, "mltc_text": 0}))["total"]
    terms["total"].backward()
    arrays = inputs(meta, views, padded, pixels, local) | outputs(out, views, terms)
    arrays |= weights(model, local)
    np.savez_compressed(path, meta_json=np.array(json.dumps(meta)), **arrays)


def inputs(meta, views, padded, pixels, local):
    """Lay the inputs out as the file has them."""
    labels = torch.full(padded.text_mask.shape, IGNORED_LABEL)
    for row, view in zip(labels, views, strict=True):
        row[view.mlm_positions] = torch.as_tensor(view.mlm_labels)
    found = {
        "pixels": pixels.reshape(meta["batch"], meta["frames"], *pixels.shape[1:]) if meta["frames"] else pixels,
        "token_ids": padded.text["t0"].numpy(),
        "token_ids_mlm": padded.text["t1"].numpy(),
        "token_ids_scl": padded.text["t2"].numpy(),
        "attention_mask": padded.text_mask.long().numpy(),
        "mlm_labels": labels.numpy(),
        "keep_ids": np.stack([v.keep for v in views]),
        "itm_image_index": np.array([v.itm_partner for v in views]),
        "itm_label": np.array([v.itm_label for v in views]),
    }
    if local:
        found["mltc_image_index"] = np.stack([v.replaced for v in views])
        found["mltc_text_positions"] = (padded.text["t0"] != padded.text["t2"]).numpy()
    return found


def outputs(out, views, terms):
    """Name outputs and losses as the file has them."""
    frames = (len(views), views[0].frames)
    named = {
        "out_text": out["text_t0"],
        "out_text_mlm": out["text_t1"],
        "out_text_scl": out["text_t2"],
        "out_vision": out["vision_v0"],
        "out_vision_masked": out["vision_v1"],
        "out_text_proj": out["text_proj"],
        "out_vision_proj": out["vision_proj"],
        "out_itm_logits": out["itm_logits"],
        "out_mlm_logits": out["mlm_logits"],
        "out_fused_text_maskedimage": out["text_target"],
        "out_fused_image_maskedimage": out["vision_recovered"].unflatten(0, frames),
        "out_fused_text_maskedtext": out["text_recovered"],
        "out_fused_image_maskedtext": out["vision_target"].unflatten(0, frames),
    } | {f"loss_{name}": value for name, value in terms.items()}
    return {name: value.detach().float().numpy() for name, value in named.items()}


def weights(model, local):
    """Return weights and gradient norms; a model of pictures has no temporal table, one of clips no mask token."""
    absent = "temporal_embedding" if local else "mask_token"
    state = {n: p.detach().float() for n, p in model.named_parameters() if not n.endswith(absent)}
    found = {f"state.{name}": value.numpy() for name, value in to_published(state).items()}
    for name, parameter in model.named_parameters():
        names = published_names(name)
        if parameter.grad is None or name not in state:
            continue
        for part, gradient in zip(names, parameter.grad.chunk(len(names)), strict=True):
            found[f"gradnorm.{part}"] = torch.stack((gradient.norm(), gradient.sum())).float().numpy()
    return found


if __name__ == "__main__":
    for name, changes in FILES.items():
        make(FOLDER / f"{name}.npz", changes)
