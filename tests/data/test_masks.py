"""Masks have the method's counts, leave beginning and end alone, and follow from their key."""

import numpy as np
import pytest

from sclds.data.keys import generator
from sclds.data.masks import mlm_mask, mltc_vision_replace, scl_text_mask, scl_vision_keep
from sclds.data.tokenizer import Tokenizer, load_tokenizer
from tests.data.test_tokenizer import roberta_style

TEXT = "a brown dog runs over the incomprehensibly green grass behind seventeen parliamentarians"


@pytest.fixture(scope="module")
def tokenizer():
    return load_tokenizer("embedded")


def encode(tokenizer, text):
    ids, words = tokenizer.encode(text, 50)
    return np.array(ids), np.array(words)


@pytest.mark.parametrize(("text", "words"), [("dog", 1), (TEXT, 2), (" ".join(["dog"] * 20), 3)])
def test_mlm_chooses_whole_words(tokenizer, text, words):
    ids, index = encode(tokenizer, text)
    for trial in range(20):
        masked, positions, labels = mlm_mask(ids, index, tokenizer, 0.15, generator(0, "mlm", trial))
        chosen = set(index[positions].tolist())
        assert len(chosen) == words
        assert set(positions.tolist()) == set(np.flatnonzero(np.isin(index, list(chosen))).tolist())
        assert np.array_equal(labels, ids[positions])
        untouched = np.setdiff1d(np.arange(len(ids)), positions)
        assert np.array_equal(masked[untouched], ids[untouched])


def test_mlm_chooses_whole_words_of_a_tokenizer_that_cuts_them_into_pieces():
    """RoBERTa's own way: no space before the first word, and a space belongs to the piece after it."""
    special = ["<s>", "<pad>", "</s>", "<mask>"]
    tokenizer = Tokenizer(roberta_style(special), "roberta-style")
    ids, word_index = (np.array(x) for x in tokenizer.encode("a zyxwvut, red qponm x-ray pear", 50))
    assert len(ids) > 2 * (word_index.max() + 1)
    seen = set()
    for seed in range(40):
        masked, positions, labels = mlm_mask(ids, word_index, tokenizer, 0.15, generator(seed, "mlm"))
        [word] = set(word_index[positions].tolist())
        assert positions.tolist() == np.flatnonzero(word_index == word).tolist()
        assert (labels == ids[positions]).all()
        assert (np.delete(masked, positions) == np.delete(ids, positions)).all()
        seen.add(word)
    assert seen == set(range(6))


def test_mlm_corrupts_80_10_10(tokenizer):
    ids, index = encode(tokenizer, TEXT)
    outcome = {"mask": 0, "kept": 0, "random": 0}
    special = {tokenizer.bos_id, tokenizer.eos_id, tokenizer.pad_id, tokenizer.mask_id}
    for trial in range(2000):
        masked, positions, labels = mlm_mask(ids, index, tokenizer, 0.3, generator(0, trial))
        for new, old in zip(masked[positions].tolist(), labels.tolist(), strict=True):
            name = "mask" if new == tokenizer.mask_id else "kept" if new == old else "random"
            assert name != "random" or new not in special
            outcome[name] += 1
    total = sum(outcome.values())
    assert outcome["mask"] / total == pytest.approx(0.8, abs=0.015)
    assert outcome["kept"] / total == pytest.approx(0.1, abs=0.015)


def test_mlm_of_no_word_or_no_ratio_is_empty(tokenizer):
    ids, index = encode(tokenizer, "")
    assert len(mlm_mask(ids, index, tokenizer, 0.15, generator(0))[1]) == 0
    ids, index = encode(tokenizer, TEXT)
    masked, positions, _ = mlm_mask(ids, index, tokenizer, 0.0, generator(0))
    assert len(positions) == 0
    assert np.array_equal(masked, ids)


def test_scl_text_draws_with_replacement(tokenizer):
    ids, _ = encode(tokenizer, TEXT)
    n, most, sizes = len(ids), int((len(ids) - 2) * 0.4) + 1, set()
    for trial in range(100):
        masked, positions = scl_text_mask(ids, tokenizer, 0.4, generator(0, trial))
        sizes.add(len(positions))
        assert positions.min() >= 1
        assert positions.max() <= n - 2
        assert np.array_equal(np.flatnonzero(masked == tokenizer.mask_id), positions)
        assert np.array_equal(np.delete(masked, positions), np.delete(ids, positions))
    assert max(sizes) <= most
    assert len(sizes) > 1, "draws with replacement give different counts"


def test_scl_text_leaves_a_text_without_inner_tokens_alone(tokenizer):
    ids, _ = encode(tokenizer, "")
    masked, positions = scl_text_mask(ids, tokenizer, 0.4, generator(0))
    assert len(positions) == 0
    assert np.array_equal(masked, ids)


@pytest.mark.parametrize(("patches", "kept", "replaced"), [(64, 12, 19), (196, 39, 58), (324, 64, 97)])
def test_vision_counts_are_the_references(patches, kept, replaced):
    keep = scl_vision_keep(patches, 0.8, generator(0, "keep"))
    assert len(keep) == len(set(keep.tolist())) == kept
    assert keep.min() >= 0
    assert keep.max() < patches
    replace = mltc_vision_replace(patches, 0.3, generator(0, "replace"))
    assert len(replace) == len(set(replace.tolist())) == replaced


def test_masks_follow_from_their_key(tokenizer):
    ids, index = encode(tokenizer, TEXT)

    def draw(word):
        return [
            mlm_mask(ids, index, tokenizer, 0.3, generator(3, word))[0].tolist(),
            scl_text_mask(ids, tokenizer, 0.4, generator(3, word))[0].tolist(),
            scl_vision_keep(64, 0.8, generator(3, word)).tolist(),
        ]

    assert draw("x") == draw("x")
    assert all(a != b for a, b in zip(draw("x"), draw("y"), strict=True))


class Fixed:
    """A generator that gives what it was told to."""

    def __init__(self, draws):
        self.draws = draws

    def random(self, count):
        assert count == len(self.draws), "one draw a word, two a token"
        return np.array(self.draws)


def test_a_tokens_fate_and_its_random_token_are_the_two_draws_after_those_of_the_words(tokenizer):
    ids, index = encode(tokenizer, "dog")
    ordinary = tokenizer.ordinary_ids
    inner = np.flatnonzero(index == 0).tolist()
    fates = {
        (0.7999, 0.0): tokenizer.mask_id,
        (0.8, 0.0): ordinary[0],
        (0.8999999, 0.5): ordinary[len(ordinary) // 2],
        (0.85, 0.999999): ordinary[-1],
        (0.9001, 0.5): None,
    }
    for (fate, token), wanted in fates.items():
        masked, positions, labels = mlm_mask(ids, index, tokenizer, 1.0, Fixed([0.5] + [fate, token] * len(ids)))
        assert positions.tolist() == inner
        assert masked[inner].tolist() == (labels.tolist() if wanted is None else [wanted] * len(inner))


def test_an_empty_mask_is_of_whole_numbers(tokenizer):
    ids, index = encode(tokenizer, "")
    _, positions, labels = mlm_mask(ids, index, tokenizer, 0.15, generator(0))
    assert (positions.dtype, positions.shape) == (np.int64, (0,))
    assert (labels.dtype, labels.shape) == (np.int64, (0,))


def test_a_text_of_one_inner_token_has_it_masked(tokenizer):
    ids = np.array([tokenizer.bos_id, tokenizer.ordinary_ids[0], tokenizer.eos_id])
    masked, positions = scl_text_mask(ids, tokenizer, 0.4, generator(0))
    assert positions.tolist() == [1]
    assert masked.tolist() == [tokenizer.bos_id, tokenizer.mask_id, tokenizer.eos_id]
    _, positions = scl_text_mask(ids[[0, 1, 1, 2]], tokenizer, 1.0, Fixed([0.0, 0.99, 0.49]))
    assert positions.tolist() == [1, 2]
