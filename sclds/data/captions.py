"""What a usable caption is: the one definition that readers of lists, of shards and of samples share."""

import html
import re
import unicodedata

import numpy as np

_CONTROLS = dict.fromkeys((*range(0x20), *range(0x7F, 0xA0)), " ")
"""Every character of Unicode's category Cc, and what takes its place."""
_BYTE_ORDER_MARK = "\ufeff"
_UNSEEN = ("Cf", "Zs")
"""Unicode's categories of marks and spaces that show nothing by themselves."""
_MOST_CHARACTERS = 10_000
"""Of a caption: more than any `data.max_text_tokens` can show, and few enough to tokenize at once."""
_ENTITY = re.compile(r"&(?:#\d{1,7}|#[xX][0-9a-fA-F]{1,6}|[A-Za-z][0-9A-Za-z]{1,31});")
"""A character as HTML writes it; without its semicolon it is text, as in an address's `?a=1&copy=2`."""
EMPTY, NOT_TEXT = "its caption is empty", "its caption is not text"


def clean_caption(text: str) -> str:
    """Return a caption as it is shown and tokenized; "" if no character of it can be seen.

    HTML's `&amp;`, `&#39;` and the like become the characters that they stand for, also where that was written twice
    over (`&amp;quot;`), so that a clean caption stays as it is. Control characters (NUL, escape, ...) count as white
    space, runs of which become one space; half a surrogate pair, which cannot be written as UTF-8, becomes U+FFFD; what
    lies behind the first 10,000 characters is cut. Everything else stays: any script, combining marks, joiners in
    emoji, marks of direction.
    """
    text = _without_entities(text[:_MOST_CHARACTERS])
    text = text.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace")
    text = " ".join(text.translate(_CONTROLS).lstrip(f" {_BYTE_ORDER_MARK}").split())
    return "" if all(unicodedata.category(character) in _UNSEEN for character in text) else text


def _without_entities(text: str) -> str:
    """Return a text without HTML's entities; every round makes it shorter, so there is an end."""
    while (plain := _ENTITY.sub(lambda entity: html.unescape(entity[0]), text)) != text:
        text = plain
    return text


def clean_captions(values: object) -> tuple[list[str], list[str]]:
    """Return what can be used of a sample's captions, and what cannot: a part that is odd costs no other part.

    Args:
        values: A list or tuple of captions; anything else counts as one caption.

    Returns:
        kept: The captions of which something can be seen, in order, each as `clean_caption` returns it.
        left_out: For each of the others a clause that says why, `EMPTY` or `NOT_TEXT`.
    """
    kept, left_out = [], []
    for value in values if isinstance(values, list | tuple) else (values,):
        text = clean_caption(value) if isinstance(value, str) else ""
        if text:
            kept.append(text)
        else:
            left_out.append(EMPTY if isinstance(value, str) else NOT_TEXT)
    return kept, left_out


def without_phrases(caption: str, share: float, rng: np.random.Generator) -> str:
    """Leave out phrases of a caption, each with the chance `share`, as keywords are left out of a list of them.

    Args:
        caption: Phrases with commas between them: "lemon, food, fruit".
        share: Of `phrase_dropout`; below 1.
        rng: Generator keyed to this sample and epoch.

    Returns:
        The phrases that stay, in their order; one of them, each with the same chance, where none would.
    """
    phrases = [stripped for phrase in caption.split(",") if (stripped := phrase.strip())]
    if len(phrases) < 2:
        return caption
    stay = rng.random(len(phrases)) >= share
    if not stay.any():
        stay[rng.integers(len(phrases))] = True
    return ", ".join(phrase for phrase, stays in zip(phrases, stay.tolist(), strict=True) if stays)
