"""ALIGN-BENCH on folders of its layout, with scores computed by hand."""

import pickle
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image

from sclds.config.errors import DataError
from sclds.data.storage.shards import BadSampleError
from sclds.data.tokenizer import load_tokenizer
from sclds.evaluation.align_bench import Region, pair_names, phrase_tokens, read_pair, resized
from sclds.interop.align_bench import measure_alignment

SIDE = 4  # pixels of the images and patches of the model, so that a region is resized to itself


def pixels(*places):
    mask = np.zeros((SIDE, SIDE), bool)
    for row, column in places:
        mask[row, column] = True
    return mask


def write_pair(folder, name, caption, annotation, protocol=4):
    for part in ("images", "pkls"):
        (folder / part).mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (SIDE, SIDE), "white").save(folder / "images" / f"{name}.jpg")
    regions = {
        phrase: [{"bbox_mask": box, "pixel_mask": mask} for box, mask in found] for phrase, found in annotation.items()
    }
    content = pickle.dumps({"caption": caption, "annotation": regions}, protocol=protocol)
    (folder / "pkls" / f"{name}.pkl").write_bytes(content)


class Attention:
    """A model whose tokens attend as they are told, by word: weights of 2 heads over [CLS] and 4 x 4 patches."""

    tokenizer = load_tokenizer("embedded")
    preprocessing = SimpleNamespace(image_size=SIDE, max_text_tokens=30)

    def __init__(self, **of_word):
        self.of_word = {word: torch.as_tensor(maps, dtype=torch.float32) for word, maps in of_word.items()}

    def attention(self, texts, images):
        assert all(image.size == (SIDE, SIDE) for image in images)
        found = []
        for text in texts:
            words = text.split()
            _, index = self.tokenizer.encode(text, 30)
            rows = [self.of_word["cls" if word < 0 else words[word].strip(".,").lower()] for word in index]
            maps = torch.stack(rows, dim=1).flatten(2)  # (2, T, 16)
            found.append(torch.cat((torch.full((*maps.shape[:2], 1), 9.0), maps), dim=2))  # a loud image [CLS]
        return found


EVEN = np.ones((2, SIDE, SIDE))
CORNER = np.stack((pixels((0, 0)), pixels((3, 3)))) * 1.0  # a head each: the largest of both is 1 at two corners
ROW = np.stack((pixels((0, 0), (0, 1)), pixels((0, 0)))) * [[[3.0]], [[1.0]]]


def measured(folder, **of_word):
    return measure_alignment(Attention(**of_word), folder, lambda what, done, total: None)


def test_scores_are_those_computed_by_hand(tmp_path):
    left, whole = ([0, 0, 2, 2], pixels((0, 0), (1, 1), (0, 3))), ([0, 0, 4, 4], pixels((2, 2)))
    right = ([2.0, 2.0, 4.0, 4.0], pixels((3, 3)))
    write_pair(tmp_path, "a", "A red car, and trees.", {"red car": [left], "trees": [right, whole]})
    write_pair(tmp_path, "b", "a car", {"car": [whole]})
    found = measured(tmp_path, cls=CORNER, a=EVEN, red=EVEN, car=ROW, trees=CORNER, **{"and": EVEN})
    # [CLS] looks at both corners; the box over the whole image is left out, and with it all that b has
    assert found["global"] == {"box": 1.0, "pixel": 1.0, "even_box": 0.5, "even_pixel": 0.25, "n": 1}
    # red and car are a token each: 1 everywhere, and 3 at (0, 0) and (0, 1); the comma is passed over
    box, pixel = (4 + 6) / (16 + 6), (3 + 3) / (16 + 6)
    of_b = (1.0, 0.0)  # a phrase's own box counts whatever its size; car does not look at (2, 2)
    assert found["local"]["box"] == pytest.approx(((box + 1.0) / 2 + of_b[0]) / 2)
    assert found["local"]["pixel"] == pytest.approx(((pixel + 0.5) / 2 + of_b[1]) / 2)
    assert (found["local"]["n"], found["pairs"], found["left_out"]) == (2, 2, {})


def test_phrases_are_found_where_their_words_stand_side_by_side():
    tokenizer = load_tokenizer("embedded")
    caption = "A dog, a red dog. And a cat"
    ids, words = tokenizer.encode(caption, 40)
    pieces = list(zip(("", *tokenizer.pieces(ids[1:-1]), ""), words, strict=True))

    def said(phrase):
        return "".join(pieces[at][0] for at in phrase_tokens(phrase, pieces)).split()

    assert said("red dog") == ["red", "dog"], "the second dog, without its full stop"
    assert said("dog") == ["dog"]
    assert phrase_tokens("dog", pieces) != phrase_tokens("red dog", pieces)[1:]
    assert said("cat dog") == ["dog", "cat"], "words that do not stand side by side are found one by one"
    assert said("horse") == said(".") == said("") == []


def test_a_region_is_resized_as_a_bicubic_filter_weighs_it():
    """Against the kernel itself (a = -0.5), stretched by the scale and cut at the edges, as Pillow has it."""
    rng = np.random.default_rng(0)
    mask = rng.random((12, 7)) < 0.4

    def matrix(size, grid):
        scale = size / grid
        support = max(scale, 1.0)
        centers = (np.arange(grid)[:, None] + 0.5) * scale
        x = np.abs((np.arange(size) + 0.5 - centers) / support)
        weights = np.where(x < 1, 1.5 * x**3 - 2.5 * x**2 + 1, np.where(x < 2, -0.5 * x**3 + 2.5 * x**2 - 4 * x + 2, 0))
        return weights / weights.sum(1, keepdims=True)

    wanted = (matrix(12, 3) @ mask @ matrix(7, 3).T).clip(0, 1)
    np.testing.assert_allclose(resized(mask, 3), wanted, atol=1e-6)
    assert np.array_equal(resized(mask[:4, :4], 4), mask[:4, :4])
    assert resized(np.ones((50, 31), bool), 18) == pytest.approx(np.ones((18, 18)))


def test_boxes_end_at_the_edge_of_the_image():
    region = Region((-5.0, 1.4, 2.6, 99.0), pixels())
    assert np.array_equal(region.drawn("box"), np.arange(SIDE)[:, None] >= [[1, 1, 1, 9]])
    assert region.share == 9 / 16


@pytest.mark.parametrize("protocol", range(6))
def test_pickles_of_arrays_are_read_in_every_protocol(tmp_path, protocol):
    mask = pixels((1, 2))
    write_pair(tmp_path, "a", "a dog", {"dog": [(np.array([0, 0, 2, 2]), mask)]}, protocol)
    assert np.array_equal(read_pair(tmp_path, "a").phrases["dog"][0].pixels, mask)


class Danger:
    def __reduce__(self):
        return (print, ("executed",))


def test_a_pickle_that_names_code_runs_nothing(tmp_path, capsys):
    write_pair(tmp_path, "a", "a dog", {"dog": [(Danger(), pixels())]})
    with pytest.raises(BadSampleError, match=r"it names builtins\.print, which is no array"):
        read_pair(tmp_path, "a")
    assert capsys.readouterr().out == ""


def test_what_cannot_be_used_is_left_out_and_counted(tmp_path):
    write_pair(tmp_path, "good", "a dog", {"dog": [([0, 0, 2, 2], pixels((0, 0)))]})
    write_pair(tmp_path, "empty", " ", {})
    write_pair(tmp_path, "shape", "a dog", {"dog": [([0, 0, 2, 2], np.ones((2, 9), bool))]})
    write_pair(tmp_path, "none", "a dog", {})
    for name in ("cut", "lost"):
        write_pair(tmp_path, name, "a dog", {})
    (tmp_path / "pkls" / "cut.pkl").write_bytes(b"\x80\x04")
    (tmp_path / "images" / "lost.jpg").unlink()
    found = measured(tmp_path, cls=EVEN, a=EVEN, dog=EVEN)
    assert (found["pairs"], found["global"]["n"], found["local"]["n"]) == (2, 1, 1)
    assert found["global"]["box"] == pytest.approx(0.25)
    assert found["local"]["pixel"] == pytest.approx(1 / 16)
    reasons = {one["first"]: reason for reason, one in found["left_out"].items()}
    assert sorted(reasons) == ["cut", "empty", "lost", "shape"]
    assert "expected a mask of 4 x 4 truth values, got (2, 9)" in reasons["shape"]
    (tmp_path / "pkls" / "good.pkl").unlink()
    (tmp_path / "pkls" / "none.pkl").unlink()
    with pytest.raises(DataError, match="none of the 4 pairs"):
        measured(tmp_path)
    with pytest.raises(DataError, match=r"no folder of ALIGN-BENCH: it has no pkls/ID\.pkl"):
        pair_names(tmp_path / "images")
