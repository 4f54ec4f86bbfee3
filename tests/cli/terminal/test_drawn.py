"""Pictures of a few columns, in blocks and in ASCII."""

from __future__ import annotations

import math

import pytest

from xtrace.cli.terminal import drawn
from xtrace.cli.terminal.drawn import bar, is_drawn, spark


@pytest.fixture(params=["utf-8", "ascii"])
def encoding(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.setattr(drawn, "draws_blocks", lambda: request.param == "utf-8")
    return str(request.param)


def test_a_spark_has_a_column_per_value(encoding: str) -> None:
    text = spark([1, 8, 0, math.nan, 4])
    assert len(text) == 5
    assert (text[2], text[3]) == (" ", " ")
    assert text.encode(encoding).decode(encoding) == text
    levels = [text[0], text[4], text[1]]
    assert len(set(levels)) == 3
    assert levels == sorted(levels, key="_.-=+*%#\u2581\u2582\u2583\u2584\u2585\u2586\u2587\u2588".index)
    assert spark([]) == ""
    assert spark([math.nan, 0]) == "  "


def test_a_bar_is_as_long_as_its_share(encoding: str) -> None:
    assert len(bar(1.0, 10)) == 10
    assert len(bar(0.5, 10)) == 5
    assert len(bar(0.001, 10)) == 1
    assert bar(0.0, 10) == bar(math.nan, 10) == ""
    assert len(bar(7.0, 10)) == 10
    bar(0.33, 10).encode(encoding)


def test_nothing_is_drawn_on_a_dumb_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TERM", "dumb")
    assert not is_drawn()
    monkeypatch.setenv("TERM", "xterm")
    assert is_drawn()
