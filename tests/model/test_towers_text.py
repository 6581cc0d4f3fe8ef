"""Text towers by type, and XLM-RoBERTa's kind of tokenizer under whole-word masking."""

import pytest
import torch
from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

from sclds.config import TextConfig
from sclds.data.tokenizer import NO_WORD, load_tokenizer
from sclds.model.text import TEXT_TOWERS, build_text_tower

CAPTIONS = ["a dog runs, on the beach", "ein Hund läuft am Strand", "un chien court sur la plage", "犬が浜辺を走る"]


@pytest.fixture
def xlm_roberta(tmp_path):
    """A small sentencepiece-like tokenizer with XLM-RoBERTa's ids: specials first, <mask> last."""
    tokenizer = Tokenizer(models.Unigram())
    tokenizer.normalizer = normalizers.Sequence([normalizers.NFKC(), normalizers.Replace(Regex(" {2,}"), " ")])
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(replacement="▁", prepend_scheme="always")
    tokenizer.decoder = decoders.Metaspace(replacement="▁", prepend_scheme="always")
    special = ["<s>", "<pad>", "</s>", "<unk>"]
    trainer = trainers.UnigramTrainer(
        vocab_size=80, special_tokens=special, unk_token="<unk>", show_progress=False, max_piece_length=4
    )
    tokenizer.train_from_iterator(CAPTIONS * 5, trainer)
    tokenizer.add_special_tokens([AddedToken("<mask>", lstrip=True, special=True)])
    names = {
        "bos_token": "<s>",
        "eos_token": "</s>",
        "pad_token": "<pad>",
        "unk_token": "<unk>",
        "mask_token": "<mask>",
    }
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, **names).save_pretrained(tmp_path)
    return load_tokenizer(str(tmp_path))


def test_special_ids_are_those_of_xlm_roberta(xlm_roberta):
    found = xlm_roberta
    assert (found.bos_id, found.pad_id, found.eos_id, found.mask_id) == (0, 1, 2, found.vocab_size - 1)


@pytest.mark.parametrize("caption", [*CAPTIONS, "a  dog, on the beach", " dog ", "犬 が"])
def test_pieces_of_a_word_are_masked_together(xlm_roberta, caption):
    """Every piece belongs to the word that it writes out, the lone `▁` before a word to that word."""
    ids, words = xlm_roberta.encode(caption, 50)
    assert (words[0], words[-1]) == (NO_WORD, NO_WORD)
    assert sorted(set(words[1:-1])) == list(range(len(caption.split())))
    assert words[1:-1] == sorted(words[1:-1])
    for number, word in enumerate(caption.split()):
        pieces = [i for i, of in zip(ids, words, strict=True) if of == number]
        assert xlm_roberta.decode(pieces) == word


def test_types_have_the_same_layers():
    sizes = {"width": 8, "layers": 1, "heads": 2, "max_positions": 12}
    towers = [build_text_tower(TextConfig(type=kind, **sizes), 30, recompute=False) for kind in TEXT_TOWERS]
    names = [{name: p.shape for name, p in tower.named_parameters()} for tower in towers]
    assert set(TEXT_TOWERS) == {"roberta", "xlm_roberta"}
    assert names[0] == names[1]
    assert names[0]["embedding.word_embedding"] == torch.Size((30, 8))
