"""One definition of a usable caption, whoever reads it."""

import pytest

from sclds.data.captions import EMPTY, NOT_TEXT, clean_captions


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
