"""One definition of a usable caption, whoever reads it."""

from collections import Counter

import pytest

from sclds.data.captions import EMPTY, NOT_TEXT, clean_captions, without_phrases
from sclds.data.keys import generator


@pytest.mark.parametrize(
    ("values", "kept", "left_out"),
    [
        (["a  cat", None, "", " \t", "a dog"], ["a cat", "a dog"], [NOT_TEXT, EMPTY, EMPTY]),
        (["\u200b\u00a0", "\ufeffwords", 7, ["x"], {}], ["words"], [EMPTY, NOT_TEXT, NOT_TEXT, NOT_TEXT]),
        (("a\u2028b\x85c\nd",), ["a b c d"], []),
        (["half \ud83d a pair"], ["half \ufffd a pair"], []),
        (["salt &amp; pepper &#39;n&#x27; &amp;quot;spice&amp;quot;"], ["salt & pepper 'n' \"spice\""], []),
        (["R&D at AT&T; ?a=1&copy=2 &nosuch;", "&nbsp;&#8203;"], ["R&D at AT&T; ?a=1&copy=2 &nosuch;"], [EMPTY]),
        ("one text", ["one text"], []),
        (None, [], [NOT_TEXT]),
        ([], [], []),
    ],
)
def test_what_is_there_is_used(values, kept, left_out):
    assert clean_captions(values) == (kept, left_out)
    assert clean_captions(kept) == (kept, []), "what is clean stays as it is"


def test_phrases_are_left_out_with_their_chance_and_one_stays():
    """Beside the chances by hand: a phrase of three stays with 0.4, and a third of the 0.6³ where none would stay."""
    wanted, seen = ("ice  water", "a glass", "food"), Counter[str]()
    for draw in range(4000):
        phrases = without_phrases("ice  water, a glass ,food,", 0.6, generator(0, "phrases", draw)).split(", ")
        assert phrases == [phrase for phrase in wanted if phrase in phrases]
        seen.update(phrases)
    expected = 0.4 + 0.6**3 / 3
    assert [seen[phrase] / 4000 for phrase in wanted] == pytest.approx([expected] * 3, abs=0.03)


@pytest.mark.parametrize("caption", ["one phrase", "one,", ",", ""])
def test_a_caption_of_one_phrase_stays_as_it_is(caption):
    assert without_phrases(caption, 0.99, generator(0, "phrases")) == caption
