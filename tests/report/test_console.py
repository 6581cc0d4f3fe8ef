"""Tables of held-out results fit the terminal: nothing of them is cut off at its edge."""

import io

import pytest
from rich.console import Console

from sclds.evaluation.section import Cell, Section
from sclds.report.console import print_sections


@pytest.mark.parametrize("width", [72, 80, 100, 140])
def test_no_column_is_pushed_off_a_terminal(width: int) -> None:
    columns = ("step 0", "end", "guessing", "candidates", "right, step 0", "right, last one")
    cells = (Cell("39.856"), Cell("26.291"), Cell("8.318"), Cell("64"), Cell("36.3%", "1.6%"), Cell("96.4%", "1.7%"))
    section = Section(
        "Held-out losses", "A note of some words that ends with THIS.", columns, (("A long name", cells),)
    )
    out = io.StringIO()
    print_sections(Console(file=out, width=width, force_terminal=True, color_system=None), [section])
    text = out.getvalue()
    assert max(map(len, text.splitlines())) <= width
    for word in ("96.4%", "(1.7%)", "THIS.", "39.856"):
        assert word in text, "cut off"
