"""Encoding round-trips any text, words are those between white space, and unfit tokenizers are refused."""

import pytest
import tokenizers
from tokenizers import decoders, models, pre_tokenizers, trainers

from sclds.config.errors import UserError
from sclds.data.tokenizer import NO_WORD, Tokenizer, load_tokenizer, train_tokenizer


@pytest.fixture(scope="module")
def embedded() -> Tokenizer:
    return load_tokenizer("embedded")


def roberta_style(special: list[str]) -> tokenizers.Tokenizer:
    """Train a tiny byte-level tokenizer without a prefix space, as RoBERTa and GPT-2 have it."""
    backend = tokenizers.Tokenizer(models.BPE())
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=300,
        special_tokens=special,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    backend.train_from_iterator(["a red apple, a red pear"] * 4, trainer)
    return backend


def test_special_ids_follow_roberta(embedded):
    assert (embedded.bos_id, embedded.pad_id, embedded.eos_id) == (0, 1, 2)
    assert embedded.mask_id == embedded.vocab_size - 1
    assert 4000 <= embedded.vocab_size <= 8000


@pytest.mark.parametrize(
    "text",
    [
        "a red apple, fruit",
        "Žluťoučký kůň",
        "日本語 の 文",
        "مرحبا بالعالم",
        "🍎👩🏽‍🚒",
        "tab\tand\nline",
        "<mask> </s> as text",
        "\x00\x7f",
    ],
)
def test_any_text_comes_back(embedded, text):
    ids, word_index = embedded.encode(text, 500)
    assert len(ids) == len(word_index)
    assert embedded.decode(ids) == text.strip()
    assert not {embedded.mask_id, embedded.pad_id} & set(ids)


def test_empty_and_invalid_text(embedded):
    assert embedded.encode("", 50) == ([embedded.bos_id, embedded.eos_id], [NO_WORD, NO_WORD])
    assert embedded.decode(embedded.encode("a\ud800b", 50)[0]) == "a?b"
    assert embedded.encode("   ", 50)[1][0] == NO_WORD


def test_truncation_keeps_the_end_token(embedded):
    ids, word_index = embedded.encode("one two three four five six", 4)
    assert len(ids) == len(word_index) == 4
    assert (ids[0], ids[-1]) == (embedded.bos_id, embedded.eos_id)
    with pytest.raises(UserError, match="at least 2"):
        embedded.encode("one", 1)


@pytest.mark.parametrize("text", ["a red apple, fruit", "  unbelievable  zyxwv,  x-ray 日本語 🍎🍎 end "])
@pytest.mark.parametrize("style", ["embedded", "roberta"])
def test_words_are_those_between_white_space(embedded, text, style):
    special = ["<s>", "<pad>", "</s>", "<unk>", "<mask>"]
    tokenizer = embedded if style == "embedded" else Tokenizer(roberta_style(special), "tiny")
    ids, word_index = tokenizer.encode(text, 500)
    assert word_index[0] == word_index[-1] == NO_WORD
    inner = word_index[1:-1]
    assert inner == sorted(inner)
    for n, word in enumerate(text.split()):
        own = [i for i, w in zip(ids, word_index, strict=True) if w == n]
        assert tokenizer.decode(own) == word


def test_tokenizer_without_a_mask_is_refused():
    with pytest.raises(UserError, match=r"'gpt' has no padding and no mask token.*roberta-base"):
        Tokenizer(roberta_style(["<|end|>"]), "gpt", bos="<|end|>", eos="<|end|>", pad=None, mask=None)


def test_unknown_name_says_what_to_do(tmp_path, monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    with pytest.raises(UserError, match=r"a path at which there is nothing.* use 'embedded'"):
        load_tokenizer(str(tmp_path / "nowhere"))


def test_hugging_face_folder_is_loaded(tmp_path):
    transformers = pytest.importorskip("transformers")
    special = {
        "bos_token": "<s>",
        "eos_token": "</s>",
        "pad_token": "<pad>",
        "unk_token": "<unk>",
        "mask_token": "<mask>",
    }
    backend = roberta_style(["<s>", "<pad>", "</s>", "<unk>", "<mask>"])
    transformers.PreTrainedTokenizerFast(tokenizer_object=backend, **special).save_pretrained(tmp_path)
    loaded = load_tokenizer(str(tmp_path))
    assert loaded.mask_id == backend.token_to_id("<mask>")
    assert loaded.decode(loaded.encode("a red <mask> pear", 50)[0]) == "a red <mask> pear"


def test_training_twice_gives_the_same_bytes(tmp_path):
    for name in ("one", "two"):
        train_tokenizer([f"a red apple number {i}" for i in range(50)], 400, tmp_path / name / "t.json")
    assert (tmp_path / "one/t.json").read_bytes() == (tmp_path / "two/t.json").read_bytes()


def test_pieces_join_to_the_text():
    tokenizer = load_tokenizer("embedded")
    text = "A red héart on 日本, 😀 end"
    ids, _ = tokenizer.encode(text, 99)
    pieces = tokenizer.pieces(ids[1:-1])
    assert len(pieces) == len(ids) - 2
    assert "".join(pieces).strip() == text
    assert "日" in pieces
    ids[2] = tokenizer.mask_id
    assert tokenizer.pieces(ids[1:-1])[1] == "<mask>"
