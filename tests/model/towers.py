"""Vision towers on real packed batches: samples, packing, and encoders out of a few settings."""

import numpy as np
import torch

from sclds.batch import Recipe, SampleViews, pack
from sclds.batch.patches import patchify
from sclds.config import LossesConfig, VisionConfig
from sclds.model.vision import build_vision_tower

PLAIN = LossesConfig(contrastive=1.0, itm=0.0, mlm=0.0, mvsc=0.0, mlsc=0.0)
"""Only the complete view is packed."""
ALL_VIEWS = LossesConfig(mltc_image=0.2, mltc_text=0.2)
PATCH = 4
SIZES = {
    "clip": {"heads": 2, "layer_norm_eps": 1e-5},
    "siglip2": {"heads": 2, "layer_norm_eps": 1e-6},
    "perception_encoder": {"heads": 2, "layer_norm_eps": 1e-5},
}


def tower_config(kind, **changes):
    sizes = {"width": 16, "layers": 2, "patch_size": PATCH, "pretrained_image_size": 3 * PATCH, "max_frames": 4}
    return VisionConfig(type=kind, **(sizes | SIZES[kind] | changes))


def tower_of(config, seed=0):
    """Return a tower in fp64 with weights far from initial values."""
    tower = build_vision_tower(config, recompute=False).double()
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in tower.parameters():
            parameter.copy_(0.4 * torch.randn(parameter.shape, generator=generator))
    return tower


def sample(number, kind, frames, grid):
    rng = np.random.default_rng(number)
    text = np.array([0, 5, 6, 2])
    return SampleViews(
        dropout_key=number,
        sample_id=str(number),
        caption="",
        kind=kind,
        frames=frames,
        grid=grid,
        text=text,
        text_mlm=text,
        mlm_positions=np.array([1]),
        mlm_labels=text[1:2],
        text_scl=text,
        scl_positions=np.array([1]),
        keep=np.sort(rng.permutation(grid**2)[: max(1, grid**2 // 4)]),
        replaced=rng.permutation(grid**2)[: grid**2 // 3],
        itm_partner=number,
    )


def pack_vision(samples, patches, grids, pools_frames, losses=PLAIN):
    recipe = Recipe(1, losses, grids, group_size=len(samples), fusion_layers=1, pools_frames=pools_frames)
    return pack(samples, patches, recipe, order=range(len(samples)))


def encode_images(encoder, pixels, patch):
    """Run a vision tower on complete images (B, 3, S, S); return (B, 1 + patches, C), [CLS] first."""
    count, grid = len(pixels), pixels.shape[-1] // patch
    samples = [sample(i, "image", 1, grid) for i in range(count)]
    batch = pack_vision(samples, patchify(pixels, patch).flatten(0, 1), (grid,), hasattr(encoder, "pooling"))
    return encoder(batch.vision).unflatten(0, (count, -1))
