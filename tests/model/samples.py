"""Small samples of any awkward shape, and both ways to run one step on them."""

import numpy as np
import torch

from sclds.batch import Recipe, SampleViews, pack
from sclds.config import FusionConfig, LossesConfig, ModelConfig, TextConfig, VisionConfig
from sclds.losses.communicator import SingleProcess
from sclds.losses.objectives import GlobalFeatures, features_of, step_loss
from sclds.model.scl import SCLModel
from sclds.reference.published_schedule import pad_batch, published_losses, published_outputs

PAD, MASK, VOCABULARY, PATCH, LONGEST = 1, 3, 23, 2, 11
ALL = LossesConfig(mltc_image=0.2, mltc_text=0.2)
GRIDS = (3, 2)


def sample(number, kind="image", frames=1, inner=5, words=1, hidden=2, grid=None, partner=None):
    """Return sample `number` of `inner` tokens, of which `words` are predicted by MLM and `hidden` masked for SCL."""
    rng = np.random.default_rng(number)
    grid = grid or GRIDS[kind == "video"]
    text = np.concatenate(([0], rng.integers(4, VOCABULARY, inner), [2])).astype(np.int64)
    mlm, scl = (np.sort(rng.permutation(inner)[:n] + 1) for n in (words, hidden))
    text_mlm, text_scl = text.copy(), text.copy()
    text_mlm[mlm], text_scl[scl] = MASK, MASK
    return SampleViews(
        sample_id=str(number),
        caption="",
        kind=kind,
        frames=frames,
        grid=grid,
        text=text,
        text_mlm=text_mlm,
        mlm_positions=mlm,
        mlm_labels=text[mlm],
        text_scl=text_scl,
        scl_positions=scl,
        keep=rng.permutation(grid**2)[: max(1, grid**2 // 4)],
        replaced=rng.permutation(grid**2)[: grid**2 // 3],
        itm_partner=number if partner is None else partner,
        itm_label=int(partner is None or partner == number),
        dropout_key=number * 0x5851F42D4C957F2D % 2**63,
    )


def pixels(views, seed=7):
    rows = sum(v.frames * v.grid**2 for v in views)
    return torch.randn(rows, 3 * PATCH**2, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def model_of(
    fusion_layers=2,
    recompute=False,
    spread=0.3,
    sigmoid=False,
    text_dropout=0,
    fusion_dropout=0,
    attention_dropout=None,
):
    """Return a model in fp64, weights far from initial values so that no gradient is tiny."""
    config = ModelConfig(
        vision=VisionConfig(width=16, layers=2, heads=2, patch_size=PATCH, pretrained_image_size=3 * PATCH),
        text=TextConfig(
            width=24, layers=2, heads=3, max_positions=20, dropout=text_dropout, attention_dropout=attention_dropout
        ),
        fusion=FusionConfig(
            width=16,
            layers=fusion_layers,
            heads=4,
            mlp_ratio=2,
            dropout=fusion_dropout,
            attention_dropout=attention_dropout,
        ),
        projection=8,
    )
    model = SCLModel(config, VOCABULARY, recompute, sigmoid).double()
    model.initialize(1)
    generator = torch.Generator().manual_seed(2)
    with torch.no_grad():
        for p in model.parameters():
            p += spread * p.std(correction=0).clamp(min=0.05) * torch.randn(p.shape, generator=generator).double()
        model.temperature.value.fill_(0.25)  # exact in fp32, in which temperatures are kept
        if sigmoid:
            model.pairwise_logit.log_scale.fill_(0.5)
            model.pairwise_logit.bias.fill_(-0.75)
    return model


def pack_samples(views, losses=ALL, group_size=None, patches=None, order=None, layers=2):
    patches = pixels(views) if patches is None else patches
    return pack(views, patches, Recipe(PAD, losses, GRIDS, group_size or len(views), layers), order)


def gradients(model, total):
    model.zero_grad(set_to_none=True)
    total.backward()
    return {n: torch.zeros_like(p) if p.grad is None else p.grad.clone() for n, p in model.named_parameters()}


def packed(model, views, losses=ALL, group_size=None):
    """Return terms and gradients of the step as training computes it."""
    batch = pack_samples(views, losses, group_size, layers=len(model.cross_modal_text_layers))
    outputs = model(batch)
    features = GlobalFeatures.gather([features_of(outputs, batch)], [batch], losses, SingleProcess())
    total, terms = step_loss(outputs, batch, features, 0, losses)
    return {n: t for n, t in terms.items() if not n.endswith(("accuracy", "alone"))}, gradients(model, total)


def plain(model, views, losses=ALL, group_size=None):
    """Return terms and gradients of the step as the method defines it."""
    out = published_outputs(model, pad_batch(views, pixels(views), PAD, LONGEST), losses)
    terms = published_losses(out, views, losses, group_size)
    return {n: t.detach() for n, t in terms.items()}, gradients(model, terms["total"])


def assert_equal(found, wanted, tolerance=1e-5):
    """Compare two results of a step; a gradient is measured against the largest entry of any of its parameter."""
    assert found[0].keys() == wanted[0].keys()
    for name, value in wanted[0].items():
        assert float(abs(found[0][name] - value)) <= tolerance * max(float(abs(value)), 1e-3), name
    scale = max(float(g.abs().max()) for g in wanted[1].values())
    for name, gradient in wanted[1].items():
        error = float((found[1][name] - gradient).abs().max())
        assert error <= tolerance * max(float(gradient.abs().max()), 1e-4 * scale), (name, error)
