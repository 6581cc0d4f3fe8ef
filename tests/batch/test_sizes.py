import pytest

from sclds.batch.sizes import Sizes, sizes_of, sizes_of_all
from tests.model.samples import ALL, pack_samples, sample
from tests.model.test_step import MIXED

BATCHES = {
    "mixed": MIXED,
    "one_row": [sample(0)],
    "videos": [sample(i, "video", 1 + i, inner=1 + i, hidden=1, partner=0) for i in range(3)],
}


def padded_by_hand(samples):
    """Return the tokens of a padded batch: three text views, v0, v1 and v2, images and videos each in a batch."""
    total = 3 * len(samples) * max(len(view.text) for view in samples)
    for kind in {view.kind for view in samples}:
        of_kind = [view for view in samples if view.kind == kind]
        whole = max(view.frames * (1 + view.grid**2) for view in of_kind)
        kept = max(view.frames * (1 + len(view.keep)) for view in of_kind)
        total += len(of_kind) * (2 * whole + kept)
    return total


@pytest.mark.parametrize("name", BATCHES)
def test_sizes_are_those_of_the_buffers(name):
    samples = BATCHES[name]
    batch = pack_samples(samples, ALL)
    found = sizes_of(batch)
    texts = {kind: sum(len(view.text) for view in samples if view.kind == kind) for kind in ("image", "video")}
    assert (found.image_text, found.video_text) == (texts["image"], texts["video"])
    assert (found.images, found.videos) == tuple(batch.samples.kinds.count(kind) for kind in ("image", "video"))
    assert found.tokens == len(batch.text.ids) + len(batch.vision.source)
    assert found.padded == padded_by_hand(samples)
    assert found.padding_avoided == 1 - found.tokens / found.padded
    twice = sizes_of_all([batch, batch])
    assert (twice.tokens, twice.padding_avoided) == (2 * found.tokens, found.padding_avoided)


def test_nothing_needs_no_padding():
    assert Sizes().padding_avoided == 0
    assert sizes_of(pack_samples([sample(0)], ALL)).padding_avoided == 0
