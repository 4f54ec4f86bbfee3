"""Times, durations and frequencies as users write them."""

from __future__ import annotations

from fractions import Fraction

import pytest

from xtrace.probes.errors import TraceError
from xtrace.probes.selection.times import Moment, duration_s, frequency_hz


@pytest.mark.parametrize(
    ("text", "cycles"),
    [
        ("1.5s", 3_000_000_000),
        ("1.5", 3_000_000_000),
        ("300ms", 600_000_000),
        ("20us", 40_000),
        ("7NS", 14),
        ("1.5m", 180_000_000_000),
        ("2H", 14_400_000_000_000),
        ("0", 0),
        ("1e-3", 2_000_000),
        (".5ms", 1_000_000),
        ("123c", 123),
        ("tsc:1123", 123),
        ("tsc:0x463", 123),
        ("tsc:900", -100),
        # The first whole cycle that is not earlier.
        ("0.3ns", 1),
    ],
)
def test_a_moment_in_cycles_after_the_first_record(text: str, cycles: int) -> None:
    assert Moment.parse(text).cycles(1000, 2e9) == cycles


@pytest.mark.parametrize(
    "text",
    [
        "",
        "s",
        "-1",
        "-1s",
        "1 hour",
        "0x20c",
        "1.5c",
        "c",
        "tsc:",
        "tsc:-1",
        "tsc:1s",
        "1..5",
        "nan",
        "inf",
        "1e999",
        "٣s",
    ],
)
def test_what_is_not_a_time(text: str) -> None:
    with pytest.raises(ValueError, match="not a time"):
        Moment.parse(text)


@pytest.mark.parametrize("text", ["1.5", "20us"])
def test_seconds_need_a_rate(text: str) -> None:
    with pytest.raises(TraceError, match="--cpu-hz"):
        Moment.parse(text).cycles(0, None)


@pytest.mark.parametrize("text", ["5c", "tsc:5"])
def test_cycles_need_no_rate(text: str) -> None:
    assert Moment.parse(text).cycles(0, None) == 5


def test_a_moment_is_exact_where_a_float_is_not() -> None:
    assert Moment.parse("0.1").value == Fraction(1, 10)
    assert Moment.parse("12345678901.000000001").cycles(0, 1e9) == 12345678901_000000001


def test_a_moment_is_shown_with_its_unit() -> None:
    assert [str(Moment.parse(text)) for text in ("2", "2s", "2c", "tsc:2")] == ["2s", "2s", "2c", "tsc:2"]


@pytest.mark.parametrize(("text", "seconds"), [("10", 10), ("0.5s", 0.5), ("500ms", 0.5), ("20 us", 2e-5)])
def test_durations(text: str, seconds: float) -> None:
    assert duration_s(text) == seconds


@pytest.mark.parametrize("text", ["", "10c", "tsc:1", "-1", "soon", "1d"])
def test_what_is_not_a_duration(text: str) -> None:
    with pytest.raises(ValueError, match="not a duration"):
        duration_s(text)


@pytest.mark.parametrize(
    ("text", "hz"),
    [
        ("2.8G", 2_800_000_000),
        ("2800m", 2_800_000_000),
        ("2.8GHz", 2_800_000_000),
        ("2.8e9", 2_800_000_000),
        ("2800000000", 2_800_000_000),
        ("1M", 1_000_000),
        ("20g", 20_000_000_000),
    ],
)
def test_frequencies(text: str, hz: int) -> None:
    assert frequency_hz(text) == hz


@pytest.mark.parametrize("text", ["", "G", "-2G", "1/0", "2T", "999k", "20.1G", "nan", "1e99"])
def test_what_is_not_a_frequency(text: str) -> None:
    with pytest.raises(ValueError, match=r"frequency|between 1M and 20G"):
        frequency_hz(text)
