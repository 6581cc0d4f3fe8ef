"""METER, rebuilt from transformers' and torch's own layers under the names of its checkpoints, against ours."""

import sys
import types

import numpy as np
import pytest
import torch
from torch import nn
from transformers import RobertaConfig, RobertaModel

import sclds
from sclds.cli.main import main
from tests.interop.runs import perturbed

WIDTH, HEADS, LAYERS, PATCH, SIZE, WORDS = 64, 1, 2, 8, 24, 4096
HEAD_SETTINGS = ["vision.heads=1", "text.heads=1", "fusion.heads=1", "projection=16"]


class Block(nn.Module):
    """A block of CLIP."""

    def __init__(self):
        super().__init__()
        self.attn = nn.MultiheadAttention(WIDTH, HEADS, batch_first=True)
        self.ln_1, self.ln_2 = nn.LayerNorm(WIDTH), nn.LayerNorm(WIDTH)
        self.mlp = nn.ModuleDict({"c_fc": nn.Linear(WIDTH, 4 * WIDTH), "c_proj": nn.Linear(4 * WIDTH, WIDTH)})

    def forward(self, x):
        y = self.ln_1(x)
        x = x + self.attn(y, y, y, need_weights=False)[0]
        y = self.mlp["c_fc"](self.ln_2(x))
        return x + self.mlp["c_proj"](y * torch.sigmoid(1.702 * y))


class Vision(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv1 = nn.Conv2d(3, WIDTH, PATCH, PATCH, bias=False)
        self.class_embedding = nn.Parameter(torch.zeros(WIDTH))
        self.positional_embedding = nn.Parameter(torch.zeros((SIZE // PATCH) ** 2 + 1, WIDTH))
        self.ln_pre, self.ln_post = nn.LayerNorm(WIDTH), nn.LayerNorm(WIDTH)
        self.transformer = nn.ModuleDict({"resblocks": nn.Sequential(Block(), Block())})

    def forward(self, image):
        x = self.conv1(image).flatten(2).transpose(1, 2)
        x = torch.cat((self.class_embedding.expand(len(x), 1, -1), x), 1) + self.positional_embedding
        return self.ln_post(self.transformer["resblocks"](self.ln_pre(x)))


class Attention(nn.Module):
    """BERT's attention under its names: `self`, then `output`."""

    def __init__(self):
        super().__init__()
        self.add_module("self", nn.ModuleDict({n: nn.Linear(WIDTH, WIDTH) for n in ("query", "key", "value")}))
        self.output = nn.ModuleDict({"dense": nn.Linear(WIDTH, WIDTH), "LayerNorm": nn.LayerNorm(WIDTH, 1e-12)})

    def forward(self, x, other, mask):
        maps = self.get_submodule("self")
        q, k, v = maps["query"](x), maps["key"](other), maps["value"](other)
        scores = (q @ k.transpose(1, 2)) / WIDTH**0.5
        mixed = scores.masked_fill(~mask[:, None], float("-inf")).softmax(-1) @ v
        return self.output["LayerNorm"](self.output["dense"](mixed) + x)


class CrossLayer(nn.Module):
    def __init__(self):
        super().__init__()
        self.attention, self.crossattention = Attention(), Attention()
        self.intermediate = nn.ModuleDict({"dense": nn.Linear(WIDTH, 4 * WIDTH)})
        self.output = nn.ModuleDict({"dense": nn.Linear(4 * WIDTH, WIDTH), "LayerNorm": nn.LayerNorm(WIDTH, 1e-12)})

    def forward(self, x, mask, other, other_mask):
        x = self.crossattention(self.attention(x, x, mask), other, other_mask)
        inner = nn.functional.gelu(self.intermediate["dense"](x))
        return self.output["LayerNorm"](self.output["dense"](inner) + x)


def meter():
    """Return METER's modules: CLIP with parts of its text tower, RoBERTa, two fusion layers a stream, heads."""
    settings = RobertaConfig(
        vocab_size=WORDS,
        hidden_size=WIDTH,
        intermediate_size=4 * WIDTH,
        num_hidden_layers=2,
        num_attention_heads=HEADS,
        max_position_embeddings=40,
        type_vocab_size=1,
        layer_norm_eps=1e-5,
    )
    clip = nn.Module()
    clip.visual, clip.token_embedding, clip.ln_final = Vision(), nn.Embedding(9, 8), nn.LayerNorm(8)
    clip.positional_embedding = nn.Parameter(torch.zeros(7, 8))
    model = nn.Module()
    model.vit_model, model.text_transformer = clip, RobertaModel(settings)
    model.token_type_embeddings = nn.Embedding(2, WIDTH)
    for stream in ("text", "image"):
        model.add_module(f"cross_modal_{stream}_transform", nn.Linear(WIDTH, WIDTH))
        model.add_module(f"cross_modal_{stream}_layers", nn.ModuleList(CrossLayer() for _ in range(LAYERS)))
        model.add_module(f"cross_modal_{stream}_pooler", nn.ModuleDict({"dense": nn.Linear(WIDTH, WIDTH)}))
    transform = nn.ModuleDict({"dense": nn.Linear(WIDTH, WIDTH), "LayerNorm": nn.LayerNorm(WIDTH, 1e-12)})
    model.mlm_score = nn.ModuleDict({"transform": transform, "decoder": nn.Linear(WIDTH, WORDS, bias=False)})
    model.mlm_score.register_parameter("bias", nn.Parameter(torch.zeros(WORDS)))
    model.itm_score = nn.ModuleDict({"fc": nn.Linear(2 * WIDTH, 2)})
    model.temperature = nn.Module()
    model.temperature.value = nn.Parameter(torch.ones(()))  # `perturbed` looks for one; METER has none
    perturbed(model)
    del model.temperature
    return model.eval()


def infer(model, ids, mask, image):
    """Return both streams after fusion and ITM's logits, as METER computes them."""
    x = model.cross_modal_text_transform(model.text_transformer(ids, mask.long()).last_hidden_state)
    y = model.cross_modal_image_transform(model.vit_model.visual(image))
    types, seen = model.token_type_embeddings.weight, torch.ones(y.shape[:2], dtype=torch.bool)
    x, y = x + types[0], y + types[1]
    for text, vision in zip(model.cross_modal_text_layers, model.cross_modal_image_layers, strict=True):
        x, y = text(x, mask, y, seen), vision(y, seen, x, mask)
    pooled = [
        pooler["dense"](stream[:, 0]).tanh()
        for pooler, stream in ((model.cross_modal_text_pooler, x), (model.cross_modal_image_pooler, y))
    ]
    return x, y, model.itm_score["fc"](torch.cat(pooled, 1))


class ModelCheckpoint:
    """Stands for Lightning's, which a checkpoint names and nobody has installed here."""


def save_like_lightning(model, path):
    """Save with a callback named by its class, whose module is gone when the file is read."""
    name = "pytorch_lightning.callbacks.model_checkpoint"
    module = types.ModuleType(name)
    module.ModelCheckpoint, ModelCheckpoint.__module__ = ModelCheckpoint, name
    parents = {part: types.ModuleType(part) for part in ("pytorch_lightning", "pytorch_lightning.callbacks")}
    sys.modules |= parents | {name: module}
    torch.save({"state_dict": model.state_dict(), "callbacks": {ModelCheckpoint: {"best": 0.5}}}, path)
    for part in (*parents, name):
        del sys.modules[part]


def test_a_meter_checkpoint_gives_equal_outputs(tmp_path, capsys):
    model = meter()
    save_like_lightning(model, tmp_path / "meter.ckpt")
    assert (
        main(["convert", "released", str(tmp_path / "meter.ckpt"), str(tmp_path / "ours"), "--model", *HEAD_SETTINGS])
        == 0
    )
    told = capsys.readouterr().out
    for part in ("vit_model.token_embedding.weight", "text_projection.dense.weight", "temperature.value"):
        assert part in told
    exported = ["convert", "huggingface", str(tmp_path / "ours"), str(tmp_path / "hub"), "--tokenizer", "embedded"]
    assert main(exported) == 0
    ours = sclds.load(tmp_path / "hub")
    texts = ["a red house", "two dogs run over a wide green field"]
    images = np.random.default_rng(0).integers(0, 255, (2, SIZE, SIZE, 3)).astype(np.uint8)
    ids = [ours.tokenizer.encode(text, 38)[0] for text in texts]
    padded = nn.utils.rnn.pad_sequence([torch.tensor(row) for row in ids], batch_first=True, padding_value=1)
    mean, std = (torch.tensor(values)[:, None, None] for values in (ours.preprocessing.mean, ours.preprocessing.std))
    pixels = (torch.from_numpy(images).permute(0, 3, 1, 2) / 255 - mean) / std
    with torch.no_grad():
        x, y, logits = infer(model, padded, padded != 1, pixels)
    torch.testing.assert_close(ours.match(texts, images), logits.softmax(1)[:, 1], rtol=1e-5, atol=1e-5)
    for row, found in enumerate(ours.fuse(texts, images)):
        torch.testing.assert_close(found.text, x[row, : len(ids[row])], rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(torch.cat((found.cls, found.patches[0])), y[row], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (lambda s: s | {"text_transformer.embeddings.token_type_embeddings.weight": torch.ones(2, WIDTH)}, "is BERT's"),
        (lambda s: {n.replace("visual.transformer", "layers"): t for n, t in s.items()}, "is missing"),
        (lambda s: {n.replace("vit_model.visual.", "vit_model.layers."): t for n, t in s.items()}, "Swin"),
        (lambda s: s | {"cross_modal_text_link_tower.0.a": torch.ones(1)}, "is a BridgeTower model"),
    ],
)
def test_relatives_of_another_architecture_are_sentences(tmp_path, capsys, change, told):
    torch.save({"state_dict": change(meter().state_dict())}, tmp_path / "meter.ckpt")
    assert main(["convert", "released", str(tmp_path / "meter.ckpt"), str(tmp_path / "ours")]) == 2
    assert told in capsys.readouterr().err
