"""Text in columns: names of any script neither break columns nor the terminal."""

from __future__ import annotations

import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st
from wcwidth import wcswidth

from xtrace.cli.terminal.grid import GridColumn, grid_lines
from xtrace.cli.terminal.text import columns_of, cut, nearest, padded, safe, shortened, wrapped

#: Wide, combining, right to left, escapes, control characters, zero width, emoji, long.
NAMES = (
    "web",
    "\u4e2d\u6587\u30c6\u30b9\u30c8",
    "e\u0301a\u0300" * 9,
    "\u05e9\u05dc\u05d5\u05dd",
    "\u0645\u0631\u062d\u0628\u0627 12",
    "\x1b[31mred\x1b[0m\x07\r\n\t",
    "\u202edlrow\u202c \u2066x",
    "\u200b\u200d\ufeff",
    "\U0001f469\u200d\U0001f4bb\U0001f1e9\U0001f1ea",
    "\u0e01\u0e33\u0e01\u0e35",
    "\u0300" * 1000,
    "x" * 10_000,
    "\u4e2d" * 10_000,
    "\ud800",
    "",
)
ANY = st.one_of(
    st.sampled_from(NAMES), st.text(max_size=60), st.text("\u4e2d\u0301\u05d0ab \x1b", max_size=60)
)


def seen(text: str) -> str:
    """Return what takes columns."""
    return text.replace("\u200e", "")


@given(ANY)
def test_nothing_is_left_that_a_terminal_obeys(name: str) -> None:
    text = safe(name)
    assert all(character.isprintable() for character in text)
    assert not {unicodedata.category(character) for character in text} & {"Cc", "Cf", "Cs", "Co", "Zl", "Zp"}
    assert safe(text) == text


@given(ANY, st.integers(4, 40))
def test_a_shortened_name_fits_its_columns(name: str, width: int) -> None:
    for make in (shortened, cut):
        text = make(safe(name), width)
        assert 0 <= wcswidth(text) <= width
        assert len(text) <= 8 * width + 8
    if columns_of(safe(name)) <= width and len(name) < 4 * width:
        assert shortened(safe(name), width) == safe(name)


@given(st.lists(ANY, min_size=1, max_size=6), st.booleans())
def test_columns_stay_where_they_are(names: list[str], left: bool) -> None:
    """What follows a name begins in the same column in every line."""
    names = [shortened(safe(name), 20) for name in names]
    columns = [GridColumn(["name"], names, left=left), GridColumn(["n"], ["7" for _ in names])]
    heads, lines, taken = grid_lines(columns, 80)
    for line in [*heads, *lines]:
        assert wcswidth(seen(line)) == taken


def test_figures_do_not_change_places_with_a_name_from_right_to_left() -> None:
    """A mark of direction ends the name, so that the digits after it are not part of its text."""
    line = padded("\u05e9\u05dc\u05d5\u05dd", 8, left=True) + "12"
    assert line == "\u05e9\u05dc\u05d5\u05dd\u200e    12"
    assert padded("web", 5, left=True) == "web  "


@given(ANY, st.integers(10, 80))
def test_wrapped_lines_fit(name: str, width: int) -> None:
    lines = wrapped(f"a b {safe(name)[:500]} c", width)
    assert all(wcswidth(line) <= width for line in lines)
    assert "".join("".join(lines).split()) == "".join(f"ab{safe(name)[:500]}c".split())


def test_a_column_gives_way_where_the_grid_is_too_wide() -> None:
    columns = [
        GridColumn(["name"], ["x" * 100, "\u4e2d" * 50], left=True, shorten=shortened),
        GridColumn(["count"], ["1,234", "5"]),
    ]
    _, lines, taken = grid_lines(columns, 40)
    assert taken <= 40
    assert [line[-5:] for line in lines] == ["1,234", "    5"]


@pytest.mark.parametrize(
    ("text", "known", "said"),
    [
        ("wake", ["wakes", "run"], "; do you mean wakes?"),
        ("zebra", ["wakes", "run"], ""),
        ("--sectoin", ["--json", "--section"], "; do you mean --section?"),
    ],
)
def test_the_nearest(text: str, known: list[str], said: str) -> None:
    assert nearest(text, known, lead="--" if text.startswith("--") else "") == said
