"""The step as the published implementation drives it: the plain definition that the packed step is tested against.

The same modules, but texts padded to one length, dense attention under masks, and the whole model (text encoder, vision
encoder, every fusion layer of both streams on every token) once per objective, with nothing shared between these
passes; only the contrastive pass ends before fusion. `sclds.costs.counts.published_forward` counts the same work.
It is written for reading and as the opponent of speed claims; training never runs it.

Shape suffixes: B samples, T text tokens, V vision tokens, F frames, L patches, C channels.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sclds.batch import SampleViews
from sclds.batch.duplicates import caption_identities, image_identities
from sclds.config import LossesConfig
from sclds.model.fusion import CrossAttention, FusionLayer
from sclds.model.layers import SelfAttention
from sclds.model.scl import SCLModel
from sclds.model.text import TextLayer
from sclds.model.vision import VisionBlock
from sclds.model.vision.clip import CLIPEncoder


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
    grid: int


@dataclass(frozen=True)
class PaddedBatch:
    """A batch as the published implementation lays it out."""

    views: Sequence[SampleViews]
    text: dict[str, Tensor]
    """(B, T) ids of t0, t1 and t2."""
    text_mask: Tensor
    """(B, T) True for real tokens."""
    text_positions: Tensor
    """(B, T) RoBERTa's position ids, `pad_id` at padding."""
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
    positions = torch.where(mask, torch.arange(max_text_tokens) + pad_id + 1, pad_id)
    device = patches.device
    return PaddedBatch(
        views,
        {name: ids.to(device) for name, ids in text.items()},
        mask.to(device),
        positions.to(device),
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
                grid,
            )
        )
    return groups


def encode_text(model: SCLModel, batch: PaddedBatch, view: str) -> Encoded:
    """Run the text encoder on one padded view."""
    encoder = model.text_encoder
    e = encoder.embedding
    x = e.word_embedding[batch.text[view]] + e.position_embedding[batch.text_positions] + e.type_embedding[0]
    x = F.dropout(
        F.layer_norm(x, x.shape[-1:], e.norm_weight, e.norm_bias, e.eps), encoder.embedding.dropout, model.training
    )
    for layer in encoder.layers:
        assert isinstance(layer, TextLayer)
        x = layer.attention_norm(_self_attention(layer.attention, x, batch.text_mask), x)
        x = layer.mlp_norm(layer.mlp(x), x)
    return Encoded(model.cross_modal_text_transform(x), batch.text_mask)


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
    encoder = model.vision_encoder
    assert type(encoder) is CLIPEncoder, "expected CLIP's encoder, the published method's; a subclass computes another"
    e = encoder.embedding
    frames = group.patches.shape[1]
    x = F.linear(group.patches.to(e.patch_weight.dtype), e.patch_weight)
    if view == "v2":
        x = torch.where(group.replaced[:, None, :, None], e.mask_token, x)
    positions = _positions(e.position_embedding, group.grid)
    time = e.temporal_embedding[:frames] if group.video else torch.zeros_like(e.temporal_embedding[:frames])
    x = x + positions[1:] + time[:, None]
    if view == "v1":
        rows = group.keep[:, None, :, None].expand(-1, frames, -1, x.shape[-1])
        x = x.gather(2, rows)
    per_frame = x.shape[2]
    classes = (e.class_embedding + positions[0] + time).expand(len(x), -1, -1)
    x = torch.cat((classes, x.flatten(1, 2)), dim=1)
    x = F.layer_norm(x, x.shape[-1:], e.norm_weight, e.norm_bias, e.eps)
    mask = _frame_mask(frames, per_frame, x.device) if frames > 1 else None
    for block in encoder.blocks:
        assert isinstance(block, VisionBlock)
        x = _vision_block(block, x, mask)
    return encoder.norm(x)


def _frame_mask(frames: int, patches: int, device: torch.device) -> Tensor:
    """Return (V, V): a patch sees its own frame, a [CLS] token sees every frame."""
    numbers = torch.arange(frames, device=device)
    frame = torch.cat((numbers, numbers.repeat_interleave(patches)))
    is_class = torch.arange(len(frame), device=device) < frames
    return is_class[:, None] | (frame[:, None] == frame[None, :])


def _positions(table: Tensor, grid: int) -> Tensor:
    native = round((table.shape[0] - 1) ** 0.5)
    if native == grid:
        return table
    plane = table[1:].unflatten(0, (native, native)).permute(2, 0, 1)[None]
    resized = F.interpolate(plane, size=(grid, grid), mode="bicubic", align_corners=False, antialias=False)
    return torch.cat((table[:1], resized[0].permute(1, 2, 0).flatten(0, 1)))


def _vision_block(block: VisionBlock, x: Tensor, mask: Tensor | None) -> Tensor:
    q, k, v = (_split_heads(t, block.heads) for t in block.qkv(block.norm_1(x)))
    x = x + block.out(_join_heads(F.scaled_dot_product_attention(q, k, v, attn_mask=mask)))
    return x + block.mlp(block.norm_2(x))


def _self_attention(module: SelfAttention, x: Tensor, mask: Tensor | None) -> Tensor:
    q, k, v = module.qkv(x)
    return module.out(_dense(module, q, k, v, mask))


def _cross_attention(module: CrossAttention, x: Tensor, other: Tensor, mask: Tensor | None) -> Tensor:
    k, v = module.kv(other).chunk(2, dim=-1)
    return module.out(_dense(module, module.q(x), k, v, mask))


def _dense(module: SelfAttention | CrossAttention, q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None) -> Tensor:
    q, k, v = (_split_heads(t, module.heads) for t in (q, k, v))
    keys = None if mask is None else mask[:, None, None, :]
    dropout = module.dropout if module.training else 0.0
    return _join_heads(F.scaled_dot_product_attention(q, k, v, attn_mask=keys, dropout_p=dropout))


def _split_heads(x: Tensor, heads: int) -> Tensor:
    return x.unflatten(-1, (heads, -1)).transpose(1, 2)


def _join_heads(x: Tensor) -> Tensor:
    return x.transpose(1, 2).flatten(2)


def fuse_pair(model: SCLModel, text: Encoded, vision: Encoded) -> tuple[Tensor, Tensor]:
    """Run every fusion layer on every token of both streams."""
    x, y = model.token_type_embeddings(text.tokens, vision.tokens)
    layers = zip(model.cross_modal_text_layers, model.cross_modal_image_layers, strict=True)
    for text_layer, vision_layer in layers:
        x, y = (
            _fusion_layer(text_layer, x, text.mask, y, vision.mask),
            _fusion_layer(vision_layer, y, vision.mask, x, text.mask),
        )
    return x, y


def _fusion_layer(layer: nn.Module, x: Tensor, mask: Tensor | None, other: Tensor, other_mask: Tensor | None) -> Tensor:
    assert isinstance(layer, FusionLayer)
    x = layer.self_norm(_self_attention(layer.self_attention, x, mask), x)
    x = layer.cross_norm(_cross_attention(layer.cross_attention, x, other, other_mask), x)
    return layer.mlp_norm(layer.mlp(x), x)


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
        logits = model.mlm_score(x)
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
    out |= {"text_proj": model.text_projection(text.tokens[:, 0]), "vision_proj": model.vision_projection(mean)}
    out |= {"text_t0": text.tokens, "vision_v0": vision.tokens}


def _itm_pass(model: SCLModel, batch: PaddedBatch) -> Tensor:
    partner = torch.tensor([v.itm_partner for v in batch.views], device=batch.text_mask.device)
    vision = encode_vision(model, batch, "v0")
    wrong = Encoded(vision.tokens[partner], None if vision.mask is None else vision.mask[partner])
    x, y = fuse_pair(model, encode_text(model, batch, "t0"), wrong)
    shown = [batch.views[int(p)] for p in partner]
    mean = torch.stack([c.mean(dim=0) for c in frame_classes(y, shown)])
    pooled = (model.cross_modal_text_pooler(x[:, 0]), model.cross_modal_image_pooler(mean))
    return model.itm_score(torch.cat(pooled, dim=1))


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
