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


def test_names_get_the_room_that_numbers_leave_and_break_between_words() -> None:
    cells = (Cell("10.0%", "2.2%"), Cell("30.0%", "11.2%"), Cell("50.0%", "22.3%"), Cell("9"), Cell("448"))
    rows = (("quickstart images: caption → image", cells),)
    section = Section("Retrieval", "", ("R@1", "R@5", "R@10", "median rank", "candidates"), rows)
    shown = {}
    for width in (80, 140):
        out = io.StringIO()
        print_sections(Console(file=out, width=width, force_terminal=True, color_system=None), [section])
        shown[width] = out.getvalue()
    assert "│ quickstart images: " in shown[80]
    assert "caption → image" in shown[80]
    assert "candidates" in shown[80]
    assert "quickstart images: caption → image │ 10.0% (2.2%)" in shown[140]
