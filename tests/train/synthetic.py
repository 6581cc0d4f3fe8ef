"""Small packed batches without files: images and videos drawn by sample number."""

from dataclasses import replace

import numpy as np
import torch

from sclds.batch import ITM_DRAWS, SampleViews, pack, recipe_of
from sclds.config.reading import parse_config
from sclds.data.keys import generator

PAD, BOS, EOS, MASK, VOCABULARY = 1, 0, 2, 3, 40
FRAMES = 2


def tiny_config(**changes):
    """Return settings of a model small enough for many steps a second; dropout is off."""
    tree = {
        "name": "tiny",
        "run_dir": "unused",
        "data": {
            "train": [{"name": "none", "shards": "none"}],
            "tokenizer": "embedded",
            "image_size": 16,
            "video_size": 8,
            "frames": FRAMES,
        },
        "batch": {"global_size": 16, "max_micro_size": 8, "group_size": 4},
        "model": {
            "vision": {"width": 32, "layers": 2, "heads": 2, "patch_size": 4, "pretrained_image_size": 16},
            "text": {
                "width": 32,
                "layers": 2,
                "heads": 2,
                "dropout": 0,
                "vocab_size": VOCABULARY,
                "max_positions": 24,
            },
            "fusion": {"width": 32, "layers": 2, "heads": 2, "dropout": 0},
            "projection": 16,
        },
        "optimizer": {"learning_rate": 1e-3, "fusion_multiplier": 2, "eps": 1e-6},
        "schedule": {"steps": 10, "warmup_share": 0.3},
        "engine": {"precision": "fp32"},
    }
    for section, values in changes.items():
        tree[section] = tree[section] | values if isinstance(values, dict) and section in tree else values
    return parse_config(tree)


def views(number, kind, words, partner, matched):
    """Return sample `number`, with `words` of its words chosen for MLM."""
    rng = generator(0, "synthetic", number)
    length = int(rng.integers(6, 12))
    text = np.concatenate(([BOS], rng.integers(4, VOCABULARY, length), [EOS])).astype(np.int64)
    masked, hidden = (np.sort(rng.permutation(length)[:n] + 1) for n in (words, 3))
    text_mlm, text_scl = text.copy(), text.copy()
    text_mlm[masked], text_scl[hidden] = MASK, MASK
    grid = 4 if kind == "image" else 2
    return SampleViews(
        dropout_key=number,
        sample_id=str(number),
        caption="",
        kind=kind,
        frames=1 if kind == "image" else FRAMES,
        grid=grid,
        text=text,
        text_mlm=text_mlm,
        mlm_positions=masked,
        mlm_labels=text[masked],
        text_scl=text_scl,
        scl_positions=hidden,
        keep=np.sort(rng.permutation(grid * grid)[: max(1, grid * grid // 5)]),
        replaced=np.sort(rng.permutation(grid * grid)[: max(1, grid * grid // 3)]),
        itm_partner=partner,
        itm_label=matched,
        itm_draw=int(generator(2, "synthetic", number).integers(ITM_DRAWS)),
    )


def batch_of(config, step, places, kinds, words):
    """Pack the samples at `places` of the global batch of `step`; `kinds` and `words` go by place."""
    group = config.batch.group_size
    size = config.batch.global_size
    samples, patches = [], []
    for row, place in enumerate(places):
        wrong = place % 2
        partner = row // group * group + (row + 1) % group if wrong else row
        sample = views(step * size + place, kinds[place], words[place], partner, 1 - wrong)
        samples.append(sample)
        rows = sample.frames * sample.grid**2
        patches.append(generator(1, "pixels", step * size + place).standard_normal((rows, 48), dtype=np.float32))
    pixels = torch.from_numpy(np.concatenate(patches))
    return pack(samples, pixels, replace(recipe_of(config, PAD), group_size=group))


MAKE_UPS = {
    "mixed": (["image", "image", "video", "image"] * 4, [1, 2, 0, 1] * 4),
    "pictures_beside_clips": (["image"] * 8 + ["video"] * 8, [1] * 16),
    "no_masked_word_on_one_rank": (["image"] * 4 + ["video"] * 4 + ["video"] * 8, [0] * 8 + [1] * 8),
    "clips_only_in_one_of_four": (["image"] * 12 + ["video"] * 4, [0] * 4 + [1] * 12),
}
"""Kinds and numbers of masked words, by place in a global batch of 16."""
