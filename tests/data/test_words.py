"""What the frequencies of words alone tell of a word."""

import math

import pytest

from sclds.config.reading import load_config
from sclds.data.tokenizer import load_tokenizer
from sclds.data.words import entropy, word_entropy


def test_equal_words_have_the_logarithm_of_their_number():
    assert entropy([10_000] * 8) == pytest.approx(math.log(8), abs=1e-4)
    assert entropy([5]) == 0.0


def test_what_was_seen_once_counts_for_what_was_not_seen():
    assert entropy([1] * 8) > math.log(8)


def test_captions_of_a_run_have_an_entropy_that_depends_on_nothing_but_the_run():
    config, tokenizer = load_config("quickstart"), load_tokenizer("embedded")
    found = word_entropy(config, tokenizer, 500)
    assert 4 < found < math.log(tokenizer.vocab_size)
    assert word_entropy(config, tokenizer, 500) == found


def test_shards_behind_a_url_are_not_fetched_for_it():
    rows = [{"name": "far", "shards": "s3://nowhere/far"}]
    config = load_config("quickstart", [f"data.train={rows}"])
    assert word_entropy(config, load_tokenizer("embedded")) is None
