"""Text to token ids and back, and which whole word each token belongs to.

A word is what stands between white space: punctuation attached to a word belongs to it, whatever pieces the
tokenizer cuts it into. Whole-word masking draws by these words.
"""

import importlib.resources
import re
from bisect import bisect_right
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import tokenizers
from tokenizers import decoders, models, pre_tokenizers, processors, trainers

from sclds.config.errors import UserError
from sclds.machine.hub import from_hub

EMBEDDED_TOKENIZER = "tokenizer/tokenizer.json"
"""Where the embedded tokenizer lies, relative to the package's `data/embedded`."""
NO_WORD = -1
"""Word index of special tokens."""
_WORD = re.compile(r"\S+")
_INCOMPLETE = "\ufffd"  # what a decoder shows of the first bytes of a character
_BOS, _PAD, _EOS, _UNK, _MASK = "<s>", "<pad>", "</s>", "<unk>", "<mask>"


class Tokenizer:
    """A byte-level or other fast tokenizer with the special tokens that masked modeling needs.

    Args:
        backend: The tokenizer; its truncation and padding are switched off, and special tokens written out in a
            caption are encoded as plain text.
        name: For messages.
        bos: Token that starts a text; its id is `bos_id`.
        eos: Token that ends a text; its id is `eos_id`.
        pad: Padding token; its id is `pad_id`.
        mask: Token that replaces a masked one; its id is `mask_id`.

    Raises:
        UserError: A special token is missing.
    """

    def __init__(
        self,
        backend: tokenizers.Tokenizer,
        name: str,
        bos: str | None = _BOS,
        eos: str | None = _EOS,
        pad: str | None = _PAD,
        mask: str | None = _MASK,
    ):
        special = {"beginning-of-text": bos, "end-of-text": eos, "padding": pad, "mask": mask}
        ids = {role: None if token is None else backend.token_to_id(token) for role, token in special.items()}
        missing = [role for role, token_id in ids.items() if token_id is None]
        if missing:
            raise UserError(
                f"The tokenizer {name!r} has no {' and no '.join(missing)} token, which masked modeling needs: "
                "use one made for masked language models, such as roberta-base, or 'embedded'."
            )
        self.name = name
        self.special = {role: str(token) for role, token in (("bos", bos), ("eos", eos), ("pad", pad), ("mask", mask))}
        """Special tokens as they are written, by role."""
        self.bos_id, self.eos_id, self.pad_id, self.mask_id = (int(i) for i in ids.values() if i is not None)
        self._backend = backend
        self._backend.no_truncation()
        self._backend.no_padding()
        self._backend.encode_special_tokens = True
        # padded vocabularies leave holes, so the table's size follows from the largest id
        self.vocab_size = max(backend.get_vocab(with_added_tokens=True).values()) + 1
        special_ids = [self.bos_id, self.eos_id, self.pad_id, self.mask_id]
        self.ordinary_ids = np.delete(np.arange(self.vocab_size), special_ids)
        if len(self.ordinary_ids) < 2:  # transformers makes one of nothing where a folder holds a model alone
            raise UserError(f"The tokenizer {name!r} knows special tokens alone: its vocabulary file is missing there.")

    def encode(self, text: str, max_tokens: int) -> tuple[list[int], list[int]]:
        """Return token ids with beginning and end, and the word of each token.

        Args:
            text: Any text; what cannot be written as UTF-8 is replaced by "?".
            max_tokens: Longest result, beginning and end included; the text's tail is cut.

        Returns:
            ids: At least [bos, eos].
            word_index: As long as ids; words count from 0, special tokens are `NO_WORD`.

        Raises:
            UserError: `max_tokens` leaves no room for beginning and end.
        """
        if max_tokens < 2:
            raise UserError(f"max_tokens is {max_tokens}: give at least 2, for the tokens that begin and end a text.")
        text = text.encode("utf-8", "replace").decode("utf-8")
        found = self._backend.encode(text, add_special_tokens=False)
        room = max_tokens - 2
        # a token may carry the space before its word, so its last character says which word it belongs to; white space
        # at the end counts to the last word
        ends = [word.end() for word in _WORD.finditer(text)][:-1]
        inner = [bisect_right(ends, max(start, end - 1)) for start, end in found.offsets[:room]]
        return [self.bos_id, *found.ids[:room], self.eos_id], [NO_WORD, *inner, NO_WORD]

    def to_json(self) -> str:
        """Return the tokenizer as the content of a `tokenizer.json`."""
        return str(self._backend.to_str())

    def decode(self, ids: Iterable[int]) -> str:
        """Return the text of ids; beginning, end and padding are left out, masks are shown."""
        hidden = {self.bos_id, self.eos_id, self.pad_id}
        return self._backend.decode([i for i in ids if i not in hidden], skip_special_tokens=False).strip()

    def pieces(self, ids: Iterable[int]) -> list[str]:
        """Return the text of each id, spaces included, so that they join to the whole text.

        Of a character that several tokens make up, the last one has all.
        """
        done, pieces, before = "", [], []
        for token in ids:
            before.append(token)
            text = self._backend.decode(before, skip_special_tokens=False)
            if text.endswith(_INCOMPLETE):
                pieces.append("")
                continue
            pieces.append(text[len(done) :] if text.startswith(done) else self._backend.decode([token]))
            done = text
        return pieces


def load_tokenizer(name: str) -> Tokenizer:
    """Load the embedded tokenizer or one of Hugging Face.

    Args:
        name: "embedded", a folder or file `tokenizer.json`, or a Hugging Face name such as "roberta-base".

    Raises:
        UserError: There is no such tokenizer, it is not a fast one, or it lacks a special token.
    """
    if name == "embedded":
        path = importlib.resources.files("sclds.data") / "embedded" / EMBEDDED_TOKENIZER
        return Tokenizer(tokenizers.Tokenizer.from_str(path.read_text(encoding="utf-8")), name)
    return _from_hugging_face(name)


def _from_hugging_face(name: str) -> Tokenizer:
    from transformers import AutoTokenizer  # takes seconds to import, which the embedded tokenizer need not wait for

    try:
        found: Any = from_hub(AutoTokenizer.from_pretrained, name, f"The tokenizer {name!r}", use_fast=True)
    except UserError as error:
        raise UserError(f"{error}, or use 'embedded'") from error
    except (OSError, ValueError, KeyError) as error:
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise UserError(
            f"The tokenizer {name!r} cannot be loaded ({reason}): check the name, or give a folder that "
            "holds it, or use 'embedded'."
        ) from error
    backend = getattr(found, "backend_tokenizer", None)
    if backend is None:
        raise UserError(
            f"The tokenizer {name!r} has no fast version, which whole words need: use 'embedded' or another."
        )
    bos = found.bos_token or found.cls_token
    eos = found.eos_token or found.sep_token
    return Tokenizer(backend, name, bos, eos, found.pad_token, found.mask_token)


def train_tokenizer(captions: Iterable[str], vocabulary: int, path: Path) -> None:
    """Train a byte-level BPE tokenizer with RoBERTa's special tokens and ids, and save it.

    `<s>` is 0, `<pad>` 1, `</s>` 2, `<unk>` 3 and `<mask>` the last. Unlike RoBERTa's, a space is put before the first
    word, so that a word has the same tokens at the start of a caption as inside it.

    Args:
        captions: Texts to learn merges from; the result depends on nothing else.
        vocabulary: Entries, the special tokens included; fewer if the captions do not have so many.
        path: The file to write.
    """
    tokenizer = tokenizers.Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=True)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocabulary - 1,  # the mask is added behind what is learnt
        min_frequency=2,
        special_tokens=[_BOS, _PAD, _EOS, _UNK],
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    tokenizer.train_from_iterator(captions, trainer)
    tokenizer.add_special_tokens([tokenizers.AddedToken(_MASK, lstrip=True, special=True)])
    ids = tokenizer.get_vocab()
    tokenizer.post_processor = processors.RobertaProcessing((_EOS, ids[_EOS]), (_BOS, ids[_BOS]), add_prefix_space=True)
    path.parent.mkdir(parents=True, exist_ok=True)
    tokenizer.save(str(path))
