"""Texts as samples of their own; what is packed of them is held against plain fusion in tests/tasks/test_model.py."""

import numpy as np

from sclds.batch.matches import text_alone


def test_a_text_alone_is_a_sample_of_which_nothing_is_masked_beside_an_image_of_one_patch():
    text = np.array([0, 7, 2])
    alone = text_alone(text)
    assert (alone.sample_id, alone.caption, alone.kind) == ("", "", "image")
    assert (alone.frames, alone.grid, alone.dropout_key) == (1, 1, 0)
    for view in (alone.text, alone.text_mlm, alone.text_scl):
        assert view.tolist() == [0, 7, 2]
    for masked in (alone.mlm_positions, alone.mlm_labels, alone.scl_positions, alone.keep):
        assert len(masked) == 0
