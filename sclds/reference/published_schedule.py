"""The step as the published implementation drives it: the plain definition that the packed step is tested against.

The same parameters, but texts padded to one length, dense attention under masks (`standalone.plain_scl`, which is what
exported folders compute with, too), and the whole model (text encoder, vision
encoder, every fusion layer of both streams on every token) once per objective, with nothing shared between these
passes; only the contrastive pass ends before fusion. `sclds.costs.counts.published_forward` counts the same work.
It is written for reading and as the opponent of speed claims; training never runs it.

Shape suffixes: B samples, T text tokens, V vision tokens, F frames, L patches, C channels.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from sclds.batch import SampleViews
from sclds.batch.duplicates import caption_identities, image_identities
from sclds.config import LossesConfig
from sclds.model.scl import SCLModel
from sclds.reference.standalone.plain_scl import (
    fused,
    match_logits,
    projection,
    text_tokens,
    vision_tokens,
    word_logits,
)


@dataclass(frozen=True)
class VisionGroup:
    """Samples of one kind, number of frames and grid: what one dense encoder call can take."""

    samples: Tensor
    """(b,) rows of the batch."""
    patches: Tensor
    """(b, F, L, 3·p·p)."""
    keep: Tensor
    """(b, K) patches of v1."""
    replaced: Tensor
    """(b, L) True for patches that v2 replaces."""
    video: bool


@dataclass(frozen=True)
class PaddedBatch:
    """A batch as the published implementation lays it out."""

    views: Sequence[SampleViews]
    text: dict[str, Tensor]
    """(B, T) ids of t0, t1 and t2."""
    text_mask: Tensor
    """(B, T) True for real tokens."""
    pad_id: int
    """Padding id, behind which positions start."""
    groups: list[VisionGroup]


@dataclass(frozen=True)
class Encoded:
    """One modality of one pass, after its transform and without token type."""

    tokens: Tensor
    """(B, T or V, C); frame [CLS] tokens first, then patches frame by frame."""
    mask: Tensor | None
    """(B, T or V) True for real tokens; None if nothing is padded."""


def pad_batch(views: Sequence[SampleViews], patches: Tensor, pad_id: int, max_text_tokens: int) -> PaddedBatch:
    """Pad texts to `max_text_tokens` and group images and videos by shape.

    Args:
        views: B samples.
        patches: (R, 3·p·p) pixels of all frames, rows by sample, frame and patch.
        pad_id: Padding id of the tokenizer.
        max_text_tokens: Length of every padded text.
    """
    text = {name: torch.full((len(views), max_text_tokens), pad_id) for name in ("t0", "t1", "t2")}
    mask = torch.zeros(len(views), max_text_tokens, dtype=torch.bool)
    for i, view in enumerate(views):
        for name, ids in (("t0", view.text), ("t1", view.text_mlm), ("t2", view.text_scl)):
            text[name][i, : len(ids)] = torch.as_tensor(ids)
        mask[i, : len(view.text)] = True
    device = patches.device
    return PaddedBatch(
        views,
        {name: ids.to(device) for name, ids in text.items()},
        mask.to(device),
        pad_id,
        _vision_groups(views, patches),
    )


def _vision_groups(views: Sequence[SampleViews], patches: Tensor) -> list[VisionGroup]:
    pixels = patches.split([v.frames * v.grid**2 for v in views])
    chosen: dict[tuple[str, int, int, int], list[int]] = {}
    for i, v in enumerate(views):
        chosen.setdefault((v.kind, v.frames, v.grid, len(v.keep)), []).append(i)
    groups = []
    for (kind, frames, grid, _), rows in chosen.items():
        replaced = torch.zeros(len(rows), grid**2, dtype=torch.bool)
        for row, i in enumerate(rows):
            replaced[row, torch.as_tensor(views[i].replaced)] = True
        groups.append(
            VisionGroup(
                torch.tensor(rows, device=patches.device),
                torch.stack([pixels[i].unflatten(0, (frames, grid**2)) for i in rows]),
                torch.stack([torch.as_tensor(views[i].keep) for i in rows]).to(patches.device),
                replaced.to(patches.device),
                kind == "video",
            )
        )
    return groups


def encode_text(model: SCLModel, batch: PaddedBatch, view: str) -> Encoded:
    """Run the text encoder on one padded view."""
    tokens = text_tokens(model.text_encoder, batch.text[view], batch.text_mask, batch.pad_id)
    return Encoded(model.cross_modal_text_transform(tokens), batch.text_mask)


def encode_vision(model: SCLModel, batch: PaddedBatch, view: str) -> Encoded:
    """Run the vision encoder on one view of every image or video."""
    found = [model.cross_modal_image_transform(_encode_group(model, group, view)) for group in batch.groups]
    if len(found) == 1:
        return Encoded(found[0], None)
    longest = max(x.shape[1] for x in found)
    tokens = found[0].new_zeros(len(batch.views), longest, found[0].shape[2])
    mask = torch.zeros(tokens.shape[:2], dtype=torch.bool, device=tokens.device)
    for x, group in zip(found, batch.groups, strict=True):
        tokens[group.samples, : x.shape[1]] = x
        mask[group.samples, : x.shape[1]] = True
    return Encoded(tokens, mask)


def _encode_group(model: SCLModel, group: VisionGroup, view: str) -> Tensor:
    """Return (b, F + F · patches, C)."""
    return vision_tokens(
        model.vision_encoder,
        model.config.vision.type,
        group.patches,
        group.video,
        group.keep if view == "v1" else None,
        group.replaced if view == "v2" else None,
    )


def fuse_pair(model: SCLModel, text: Encoded, vision: Encoded) -> tuple[Tensor, Tensor]:
    """Run every fusion layer on every token of both streams."""
    x, y = fused(model, text.tokens, text.mask, vision.tokens, vision.mask)
    return x, y


def frame_classes(tokens_BVC: Tensor, views: Sequence[SampleViews]) -> list[Tensor]:
    """Return the (F, C) frame [CLS] tokens of every sample; a sample's frames may differ in number from the next's."""
    return [x[: v.frames] for x, v in zip(tokens_BVC, views, strict=True)]


def published_outputs(model: SCLModel, batch: PaddedBatch, losses: LossesConfig) -> dict[str, Tensor]:
    """Run the passes that the objectives in use need: five, and a sixth for `mltc_image`.

    Returns:
        What `SCLModel.forward` returns, by the same names; the encoder outputs as `text_t0` … and `vision_v0`,
        `vision_v1`, padded.
    """
    views = batch.views
    out: dict[str, Tensor] = {"temperature": model.temperature()}
    if model.pairwise_logit is not None:
        out["pairwise_scale"], out["pairwise_bias"] = model.pairwise_logit()
    completion = losses.mvsc > 0 or losses.mlsc > 0 or losses.mltc_text > 0
    _contrastive_pass(model, batch, out)
    if losses.mlm > 0:
        text = encode_text(model, batch, losses.mlm_view)
        x, _ = fuse_pair(model, text, encode_vision(model, batch, "v0"))
        logits = word_logits(model.mlm_score, x)
        rows = [logits[i, torch.as_tensor(v.mlm_positions, device=x.device)] for i, v in enumerate(views)]
        out |= {"mlm_logits": torch.cat(rows), f"text_{losses.mlm_view}": text.tokens}
    if completion:
        vision = encode_vision(model, batch, "v1")
        x, y = fuse_pair(model, encode_text(model, batch, "t0"), vision)
        out |= {"text_target": x[:, 0].detach(), "vision_recovered": torch.cat(frame_classes(y, views))}
        out |= {"text_tokens_target": _hidden_words(x, views).detach(), "vision_v1": vision.tokens}
    if completion or losses.mltc_image > 0:
        text = encode_text(model, batch, "t2")
        x, y = fuse_pair(model, text, encode_vision(model, batch, "v0"))
        out |= {"text_recovered": x[:, 0], "vision_target": torch.cat(frame_classes(y, views)).detach()}
        out |= {"text_tokens_recovered": _hidden_words(x, views), "text_t2": text.tokens}
        out["vision_tokens_target"] = _replaced_patches(y, views).detach()
    if losses.itm > 0:
        out["itm_logits"] = _itm_pass(model, batch)
    if losses.mltc_image > 0:
        _, y = fuse_pair(model, encode_text(model, batch, "t0"), encode_vision(model, batch, "v2"))
        out["vision_tokens_recovered"] = _replaced_patches(y, views)
    return out


def _contrastive_pass(model: SCLModel, batch: PaddedBatch, out: dict[str, Tensor]) -> None:
    """Run both encoders; the projections are taken before fusion."""
    text, vision = encode_text(model, batch, "t0"), encode_vision(model, batch, "v0")
    mean = torch.stack([x.mean(dim=0) for x in frame_classes(vision.tokens, batch.views)])
    out |= {"text_proj": projection(model.text_projection, text.tokens[:, 0])}
    out |= {"vision_proj": projection(model.vision_projection, mean)}
    out |= {"text_t0": text.tokens, "vision_v0": vision.tokens}


def _itm_pass(model: SCLModel, batch: PaddedBatch) -> Tensor:
    partner = torch.tensor([v.itm_partner for v in batch.views], device=batch.text_mask.device)
    vision = encode_vision(model, batch, "v0")
    wrong = Encoded(vision.tokens[partner], None if vision.mask is None else vision.mask[partner])
    x, y = fuse_pair(model, encode_text(model, batch, "t0"), wrong)
    shown = [batch.views[int(p)] for p in partner]
    mean = torch.stack([c.mean(dim=0) for c in frame_classes(y, shown)])
    return match_logits(model, x[:, 0], mean)


def _hidden_words(x: Tensor, views: Sequence[SampleViews]) -> Tensor:
    return torch.cat([x[i, torch.as_tensor(v.scl_positions, device=x.device)] for i, v in enumerate(views)])


def _replaced_patches(y: Tensor, views: Sequence[SampleViews]) -> Tensor:
    """Return the replaced patches of all frames, by sample, frame and patch as listed."""
    rows = []
    for i, v in enumerate(views):
        first = v.frames + torch.arange(v.frames)[:, None] * v.grid**2
        rows.append(y[i, (first + torch.as_tensor(v.replaced)).flatten().to(y.device)])
    return torch.cat(rows)


def nce(
    a: Tensor,
    b: Tensor,
    temperature: Tensor | float,
    weight: Tensor | None = None,
    same: Tensor | None = None,
    duplicates: str = "negatives",
) -> Tensor:
    """The symmetric loss of docs/method.md §4: both directions summed, a mean over rows unless weights are given.

    `same`: (N, N), which rows are duplicates, themselves among them; `duplicates`: what they are to each other.
    """
    a, b = (x / x.norm(dim=1, keepdim=True).clamp(min=1e-8) for x in (a, b))
    similarity = a @ b.T / temperature
    positive = torch.eye(len(a), dtype=torch.bool, device=a.device)
    if same is not None and duplicates == "ignore":
        similarity = similarity.masked_fill(same & ~positive, -torch.inf)
    if same is not None and duplicates == "positives":
        positive = same
    rows, columns = (torch.where(positive, similarity.log_softmax(d), 0).sum(d) / positive.sum(d) for d in (1, 0))
    each = -rows - columns
    return each.sum() / max(len(each), 1) if weight is None else (each * weight).sum()


def duplicate_pairs(views: Sequence[SampleViews], by: str, device: torch.device) -> Tensor:
    """Return (B, B) bool, which samples share their caption, their image, or `either`."""
    found = torch.zeros(len(views), len(views), dtype=torch.bool)
    for name, ids in (("caption", caption_identities(views)), ("image", image_identities(views))):
        if by in (name, "either"):
            found |= torch.as_tensor(ids[:, None] == ids)
    return found.to(device)


def published_losses(
    out: dict[str, Tensor], views: Sequence[SampleViews], losses: LossesConfig, group_size: int | None = None
) -> dict[str, Tensor]:
    """Return every objective in use, unweighted, and their weighted `total`, written as docs/method.md §4 has them.

    Args:
        out: Of `published_outputs`.
        views: The samples.
        losses: Weights; 0 is off.
        group_size: Neighbors whose replaced patches are one another's negatives; all samples by default.
    """
    tau, terms, device = losses.completion_temperature, {}, out["text_proj"].device
    treated = losses.duplicates
    captions, images, either = (duplicate_pairs(views, by, device) for by in ("caption", "image", "either"))
    if losses.contrastive > 0:
        text, vision = out["text_proj"], out["vision_proj"]
        terms["contrastive"] = nce(text, vision, out["temperature"], same=either, duplicates=treated)
    if losses.sigmoid > 0:
        terms["sigmoid"] = pairwise_sigmoid(out, either, treated)
    if losses.mlm > 0:
        labels = torch.cat([torch.as_tensor(v.mlm_labels) for v in views]).to(device)
        terms["mlm"] = F.cross_entropy(out["mlm_logits"], labels, reduction="sum") / max(len(labels), 1)
    if losses.itm > 0:
        terms["itm"] = F.cross_entropy(out["itm_logits"], torch.tensor([v.itm_label for v in views], device=device))
    if losses.mvsc > 0:
        terms["mvsc"] = _mvsc(out, views, tau, images, treated)
    if losses.mlsc > 0:
        terms["mlsc"] = nce(out["text_recovered"], out["text_target"], tau, same=captions, duplicates=treated)
    if losses.mltc_text > 0:
        terms["mltc_text"] = nce(out["text_tokens_recovered"], out["text_tokens_target"], tau)
    if losses.mltc_image > 0:
        step = group_size or len(views)
        rows = [v.frames * len(v.replaced) for v in views]
        sizes = [sum(rows[i : i + step]) for i in range(0, len(rows), step)]
        both = zip(out["vision_tokens_recovered"].split(sizes), out["vision_tokens_target"].split(sizes), strict=True)
        terms["mltc_image"] = torch.stack([nce(a, b, tau) * len(a) for a, b in both]).sum() / max(sum(sizes), 1)
    total = torch.stack([getattr(losses, name) * value for name, value in terms.items()]).sum()
    return terms | {"total": total}


def pairwise_sigmoid(out: dict[str, Tensor], same: Tensor | None = None, duplicates: str = "negatives") -> Tensor:
    """SigLIP's loss (arXiv 2303.15343, §3.1): every pair is a match or none, a sum over pairs, a mean over rows."""
    a, b = (F.normalize(out[name], dim=1, eps=1e-8) for name in ("text_proj", "vision_proj"))
    logits = out["pairwise_scale"] * a @ b.T + out["pairwise_bias"]
    own = torch.eye(len(a), dtype=torch.bool, device=a.device)
    same = own if same is None else same
    positive = same if duplicates == "positives" else own
    each = F.softplus(torch.where(positive, -logits, logits))
    return (each.masked_fill(same & ~own, 0) if duplicates == "ignore" else each).sum() / len(a)


def _mvsc(
    out: dict[str, Tensor], views: Sequence[SampleViews], temperature: float, same: Tensor, duplicates: str
) -> Tensor:
    """Frame f of a sample competes with frame f of the others; a sample's frames share its weight."""
    frames = torch.tensor([v.frames for v in views], device=out["vision_recovered"].device)
    first = frames.cumsum(0) - frames
    terms = []
    for number in range(int(frames.max())):
        has = frames > number
        rows = (first + number)[has]
        weight = 1 / (frames[has] * len(views))
        recovered, target = out["vision_recovered"][rows], out["vision_target"][rows]
        terms.append(nce(recovered, target, temperature, weight, same[has][:, has], duplicates))
    return torch.stack(terms).sum()


def published_step(model: SCLModel, batch: PaddedBatch, losses: LossesConfig) -> dict[str, Tensor]:
    """Run every pass and return the objectives and their `total`."""
    return published_losses(published_outputs(model, batch, losses), batch.views, losses)
