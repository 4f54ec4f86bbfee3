"""The line through clock pairs, and the error that it states."""

from __future__ import annotations

import random

import pytest

from xtrace.probes.capture.clock_line import ClockPair, fit, narrow

HZ = 2.596e9
START_TSC = 0x0123_4567_89AB_CDEF
START_NS = 987_654_321_000


def pairs(count: int, seed: int, *, off_ns: float = 0.0, bracket: int = 100) -> list[ClockPair]:
    """Return pairs one second apart, each off by up to ``off_ns``, with its time anywhere in its bracket."""
    chance = random.Random(seed)
    made = []
    for number in range(count):
        ns = START_NS + number * 1_000_000_000 + chance.randrange(1000)
        tsc = START_TSC + round((ns - START_NS) * HZ / 1e9)
        before = tsc - chance.randrange(bracket)
        moved = round(chance.uniform(-off_ns, off_ns))
        made.append(ClockPair(before, ns + moved, before + bracket, number % 2))
    return made


@pytest.mark.parametrize("seed", range(5))
def test_rate_and_times_are_within_the_stated_error(seed: int) -> None:
    line = fit(pairs(60, seed, off_ns=200))
    assert line is not None
    assert line.hz == pytest.approx(HZ, rel=1e-7)
    assert line.residual_ns <= 450
    assert line.span_s == pytest.approx(59, abs=1e-5)
    for second in (0.0, 17.25, 58.5):
        tsc = START_TSC + round(second * HZ)
        assert abs(line.ns_of(tsc) - (START_NS + second * 1e9)) <= line.error_ns
        assert line.tsc_of(line.ns_of(tsc)) == pytest.approx(tsc, abs=200)


def test_64_bit_tscs_keep_full_precision() -> None:
    line = fit(pairs(100, 1, bracket=2))
    assert line is not None
    assert line.residual_ns < 2
    assert line.bracket_ns == pytest.approx(2 / HZ * 1e9, rel=1e-3)


def test_an_interrupted_pair_is_dropped() -> None:
    made = pairs(20, 2)
    slow = ClockPair(made[5].before, made[5].monotonic_ns + 4_000_000, made[5].before + 20_000_000, 0)
    line, clean = fit([*made, slow]), fit(made)
    assert line is not None
    assert clean is not None
    assert (line.pair_count, line.wide_count) == (20, 1)
    assert line.hz == clean.hz


def test_a_pair_with_decreasing_tscs_is_dropped() -> None:
    """The recorder moved to a CPU whose TSC lags, so the pair is useless."""
    made = pairs(20, 2)
    back = ClockPair(made[5].after, made[5].monotonic_ns + 4_000_000, made[5].before, 0)
    line, clean = fit([*made, back]), fit(made)
    assert line is not None
    assert clean is not None
    assert (line.pair_count, line.wide_count) == (20, 1)
    assert (line.hz, line.residual_ns) == (clean.hz, clean.residual_ns)
    # Two readings in the same cycle make the narrowest possible pair.
    same = ClockPair(made[5].before, made[5].monotonic_ns, made[5].before, 0)
    assert same in narrow([*made, same])


@pytest.mark.parametrize(
    ("brackets", "kept"),
    [
        ([100, 100, 100, 800], 4),
        ([100, 100, 100, 801], 3),
        # If the median width is 0 cycles, pairs of up to 8 cycles are kept.
        ([0, 0, 0, 8], 4),
        ([0, 0, 0, 9], 3),
        ([0, 0, 0, -1], 3),
        ([-5, -5, 0], 1),
    ],
)
def test_pairs_up_to_8_medians_wide_are_kept(brackets: list[int], kept: int) -> None:
    made = [ClockPair(1000 * number, number, 1000 * number + width) for number, width in enumerate(brackets)]
    found = narrow(made[::-1])
    assert len(found) == kept
    assert found == sorted(found, key=lambda pair: pair.monotonic_ns)


def test_a_clock_jump_shows_in_the_residual() -> None:
    made = pairs(20, 3)
    jumped = [
        ClockPair(pair.before, pair.monotonic_ns + (5_000_000 if number > 10 else 0), pair.after, pair.cpu)
        for number, pair in enumerate(made)
    ]
    line = fit(jumped)
    assert line is not None
    assert line.residual_ns > 1_000_000


def test_no_line_without_two_pairs_in_order() -> None:
    one = ClockPair(10, 20, 30)
    assert fit([]) is None
    assert fit([one]) is None
    assert fit([one, one]) is None
    assert fit([one, ClockPair(50, 10, 60)]) is None
    assert narrow([]) == []
