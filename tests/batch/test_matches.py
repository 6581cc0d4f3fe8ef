"""Texts as samples of their own; what is packed of them is held against plain fusion in tests/tasks/test_model.py."""

import numpy as np
import torch

from sclds.batch import Recipe, SampleViews
from sclds.batch.matches import empty_views, pack_matches, text_alone
from sclds.config import LossesConfig
from tests.model.samples import GRIDS, PAD, PATCH


def test_a_text_alone_is_a_sample_of_which_nothing_is_masked_beside_an_image_of_one_patch():
    text = np.array([0, 7, 2])
    alone = text_alone(text)
    assert (alone.sample_id, alone.caption, alone.kind) == ("", "", "image")
    assert (alone.frames, alone.grid, alone.dropout_key) == (1, 1, 0)
    for view in (alone.text, alone.text_mlm, alone.text_scl):
        assert view.tolist() == [0, 7, 2]
    for masked in (alone.mlm_positions, alone.mlm_labels, alone.scl_positions, alone.keep):
        assert len(masked) == 0


def packed(texts, media, pairs):
    """Pack texts of some lengths and images or videos of some frames, whose dropout keys are far apart."""
    one = [SampleViews(**empty_views("t", "", "image", 1, 1, np.arange(n), 10**6 * n)) for n in texts]
    grid = {"image": GRIDS[0], "video": GRIDS[1]}
    kinds = ["video" if frames > 1 else "image" for frames in media]
    two = [
        SampleViews(**empty_views("m", "", kind, frames, grid[kind], np.arange(2), 10**9 * frames))
        for kind, frames in zip(kinds, media, strict=True)
    ]
    rows = sum(v.frames * v.grid**2 for v in two)
    recipe = Recipe(PAD, LossesConfig(), GRIDS, 1, 4)
    return pack_matches(one, two, np.array(pairs, np.int64).reshape(-1, 2), torch.zeros(rows, 3 * PATCH**2), recipe)


def test_rows_have_the_keys_of_their_texts_and_images_wherever_they_lie():
    batch = packed([3, 5], [1, 2], [(0, 0), (1, 1), (0, 1)])
    keys = batch.dropout_keys
    assert len(keys.text) == 8
    assert len(keys.vision) == int(batch.lengths.vision_cu_seqlens[-1])
    assert len(keys.text_pairs) == 3 + 5 + 3
    for rows in (keys.text, keys.vision, keys.text_pairs, keys.vision_pairs):
        assert len(set(rows.tolist())) == len(rows), "no two rows draw the same"
    other = packed([5, 3], [2, 1], [(1, 1), (0, 0), (1, 0)]).dropout_keys
    for name in ("text", "vision", "text_pairs", "vision_pairs"):
        assert sorted(getattr(other, name).tolist()) == sorted(getattr(keys, name).tolist()), "they keep their keys"


def test_a_batch_without_pairs_fuses_nothing_and_counts_what_it_shows():
    assert packed([3], [1], []).pairs.names == ()
    batch = packed([3, 4], [1, 2, 1], [(0, 0)])
    assert batch.pairs.names == ("itm",)
    assert (batch.counts.samples, batch.counts.words, batch.counts.completed) == (3, 0, 0)
    assert batch.counts.samples_with_frame[:3] == (3, 1, 0)
    assert (batch.text.names, batch.vision.names) == (("t0",), ("v0",))
