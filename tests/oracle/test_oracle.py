"""The reference reader's rules, on inputs small enough to check by hand."""

from __future__ import annotations

import struct

import pytest

from oracle.reader import NOT_A_RECORD, NOT_A_WINDOW, OVERRUN, WINDOW_INSIDE, Damage, read


def window(pcpu: int, *words: int) -> bytes:
    return struct.pack(f"<{3 + len(words)}I", 0x2001F003, pcpu, 4 * len(words), *words)


def timed(tsc: int, event: int = 0x28004, *extra: int) -> tuple[int, ...]:
    return (0x8000_0000 | len(extra) << 28 | event, tsc & 0xFFFF_FFFF, tsc >> 32, *extra)


UNTIMED = 0x82013
SOUND = window(1, *timed(50))


def order(data: bytes) -> list[tuple[int, int, int]]:
    return [(record.pcpu, record.tsc, record.event) for record in read(data).records]


def test_an_untimed_record_has_the_tsc_of_the_timed_one_before_it() -> None:
    data = window(0, *timed(10), UNTIMED, *timed(30)) + window(1, *timed(10), *timed(20))
    assert [entry[:2] for entry in order(data)] == [(0, 10), (0, 10), (1, 10), (1, 20), (0, 30)]


def test_lost_records_sort_at_the_beginning_of_the_loss() -> None:
    lost = timed(90, 0x1F001, 5, 0, 40, 0)
    trace = read(window(0, *timed(10), *lost) + window(1, *timed(30), *timed(60)))
    assert [record.tsc for record in trace.records] == [10, 30, 90, 60]
    assert trace.lost_records == 5


@pytest.mark.parametrize(("first_tsc", "tscs"), [(5, [20, 90, 30, 95]), (99, [20, 30, 90, 95])])
def test_lost_records_stay_between_their_neighbours(first_tsc: int, tscs: list[int]) -> None:
    lost = timed(90, 0x1F001, 5, 0, first_tsc, 0)
    data = window(0, *timed(20), *lost, *timed(95)) + window(1, *timed(30))
    assert [entry[1] for entry in order(data)] == tscs


def test_a_tsc_that_goes_backwards_keeps_file_order() -> None:
    assert [entry[1] for entry in order(window(0, *timed(20), *timed(10)) + window(1, *timed(15)))] == [
        15,
        20,
        10,
    ]


def test_fillers_are_counted_and_not_returned() -> None:
    trace = read(window(0, *timed(10), *timed(99, 0x1F002, 1, 2), UNTIMED))
    assert [record.tsc for record in trace.records] == [10, 10]
    assert trace.wrap_count == 1


@pytest.mark.parametrize(
    ("damaged", "damages"),
    [
        (b"\0" * 8, [Damage(0, NOT_A_WINDOW, 8)]),
        (window(16384), [Damage(0, NOT_A_WINDOW, 12)]),
        (struct.pack("<4I", 0x2001F003, 0, 6, 0), [Damage(0, NOT_A_WINDOW, 16)]),
        (window(0, 0x4, 0x28004), [Damage(12, NOT_A_RECORD, 8)]),
        (window(0, 0x28004, 0x7002_8004), [Damage(16, OVERRUN, 4)]),
        (
            window(0, 0x28004, 0x2001_F003, 16384, 0),
            [Damage(16, WINDOW_INSIDE, 0), Damage(16, NOT_A_WINDOW, 12)],
        ),
    ],
)
def test_reading_continues_after_damage(damaged: bytes, damages: list[Damage]) -> None:
    trace = read(damaged + SOUND)
    assert trace.damages == damages
    assert trace.skipped_bytes == sum(damage.skipped_bytes for damage in damages)
    assert trace.records[-1].tsc == 50


def test_a_header_without_a_plausible_record_is_skipped() -> None:
    decoy = window(0, 0x4, 0x4)
    assert read(b"\0" * 4 + decoy + SOUND).damages == [Damage(0, NOT_A_WINDOW, 4 + len(decoy))]


@pytest.mark.parametrize("cut", range(1, len(SOUND)))
def test_a_truncated_file_is_not_damage(cut: int) -> None:
    trace = read(SOUND + SOUND[:cut])
    assert trace.damages == []
    assert len(trace.records) == 1
