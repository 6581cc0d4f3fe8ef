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
        ("one text", ["one text"], []),
        (None, [], [NOT_TEXT]),
        ([], [], []),
    ],
)
def test_what_is_there_is_used(values, kept, left_out):
    assert clean_captions(values) == (kept, left_out)
