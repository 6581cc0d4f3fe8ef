"""Who may be whose wrong partner, and which rows an ITM pair shows: against loops over samples."""

from dataclasses import replace

import numpy as np
import pytest

from sclds.batch.duplicates import wrong_partners
from sclds.batch.pairs import StreamReads, hard_candidates, itm_rows
from sclds.batch.views import pack_vision
from tests.model.samples import sample


def random_views(seed):
    """Return samples of few kinds, captions and images, so that many are alike; labels and partners as an order has."""
    rng = np.random.default_rng(seed)
    views = []
    for i in range(rng.integers(2, 12)):
        kind, frames = [("image", 1), ("video", 1), ("video", 2)][rng.integers(3)]
        view = sample(i, kind, frames, grid=int(rng.integers(2, 4)))
        views.append(replace(view, caption=f"word {rng.integers(5)}", image_id=int(rng.integers(5))))
    for i, view in enumerate(views):
        alike = [j for j, other in enumerate(views) if j != i and shape(other) == shape(view)]
        if alike and rng.random() < 0.6:
            views[i] = replace(view, itm_partner=int(rng.choice(alike)), itm_label=0)
    return views


def shape(view):
    return view.kind, view.frames, view.grid


def may_be_wrong(view, other, duplicates):
    if view.sample_id == other.sample_id or shape(view) != shape(other):
        return False
    return duplicates or (view.caption != other.caption and view.image_id != other.image_id)


def layout_of(views, order):
    return pack_vision(views, np.array(order), ("v0",), (2, 3)).layout


@pytest.mark.parametrize("duplicates", [False, True])
@pytest.mark.parametrize("seed", range(25))
def test_wrong_partners_are_of_the_same_kind_and_of_other_content(seed, duplicates):
    views = random_views(seed)
    numbers = np.arange(len(views))
    found = wrong_partners(views, numbers[:, None], numbers[None], duplicates=duplicates)
    wanted = [[may_be_wrong(view, other, duplicates) for other in views] for view in views]
    assert found.tolist() == wanted


def test_a_picture_is_no_wrong_partner_of_a_clip_of_one_frame():
    views = [sample(0, "image", 1, grid=2), sample(1, "video", 1, grid=2)]
    assert not wrong_partners(views, np.arange(2)[:, None], np.arange(2)[None], duplicates=True).any()


@pytest.mark.parametrize("duplicates", [False, True])
@pytest.mark.parametrize("group_size", [1, 3, 4, 20])
@pytest.mark.parametrize("seed", range(8))
def test_hard_candidates_are_wrong_partners_of_the_own_group(seed, group_size, duplicates):
    """The last group may be smaller than the others: places beyond the batch stand for nobody."""
    views = random_views(seed)
    layout = layout_of(views, range(len(views)))
    members, allowed, partner = hard_candidates(views, layout, group_size, duplicates=duplicates)
    assert members.shape == allowed.shape == (len(views), group_size)
    assert partner.tolist() == [view.itm_partner for view in views]
    for i, view in enumerate(views):
        first = i - i % group_size
        for place in range(group_size):
            j = first + place
            wanted = j < len(views) and view.itm_label == 0 and may_be_wrong(view, views[j], duplicates)
            assert allowed[i, place] == wanted
            assert members[i, place] == min(j, len(views) - 1)


def test_a_candidate_is_as_large_as_the_image_that_was_packed():
    """The rows of the pair are there already: one of another number of frames would not fit."""
    views = [sample(0, "video", 1, grid=2, partner=2), sample(1, "video", 1, grid=2), sample(2, "video", 2, grid=2)]
    _, allowed, _ = hard_candidates(views, layout_of(views, range(3)), 3, duplicates=True)
    assert not allowed.any()


@pytest.mark.parametrize("seed", range(8))
def test_itm_rows_are_those_of_the_partners_image(seed):
    views = random_views(seed)
    order = np.random.default_rng(seed).permutation(len(views))
    samples, places = itm_rows(views, order, layout_of(views, order))
    wanted = [
        (int(i), place)
        for i in order
        for place in range(views[views[i].itm_partner].frames * (views[views[i].itm_partner].grid ** 2 + 1))
    ]
    assert list(zip(samples.tolist(), places.tolist(), strict=True)) == wanted


@pytest.mark.parametrize("samples", [1, 7, 67])
def test_rows_that_are_read_keep_their_order_in_every_sample(samples):
    """Many rows, since sorts that are not stable are so for few."""
    rng = np.random.default_rng(samples)
    order = rng.permutation(samples)
    reads = StreamReads(order)
    wanted = {}
    for read in ("one", "other"):
        counts = rng.integers(0, 4, samples)
        wanted[read] = (rng.permutation(counts.sum()).astype(np.int64), counts)
    reads.add_pair("pair", wanted)
    for read, (rows, counts) in wanted.items():
        ends = np.cumsum(counts)
        by_packed = [rows[end - count : end] for end, count in zip(ends, counts, strict=True)]
        expected = [row for member in np.argsort(order) for row in by_packed[member]]
        assert reads.rows[reads.places[read]].tolist() == expected
