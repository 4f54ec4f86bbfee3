"""Sums by slots, looked up: traces that are far apart, and stretches that do not cross a gap."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from builders.partials import partial
from builders.wakes import wakes
from xtrace.analysis.columns import Columns
from xtrace.analysis.measures.slots import Slots
from xtrace.analysis.state_machine.kept import Slotted
from xtrace.analysis.state_machine.metrics import MOST_SUM
from xtrace.analysis.summary.partial import merge


def slots_of(numbers: list[int], counts: list[int], spans: list[tuple[int, int]]) -> Slots:
    part = partial(b"")
    rows = {
        "shift": 4,
        "slot": numbers,
        "kind": int(Slotted.WAKES),
        "a": 1,
        "b": 0,
        "count": counts,
        "total": 0,
    }
    firsts, lasts = zip(*spans, strict=True)
    return Slots(
        replace(
            part,
            slots=Columns(rows),
            spans=Columns({"first_tsc": np.array(firsts), "last_tsc": np.array(lasts)}),
        )
    )


def test_a_gap_between_traces_takes_no_room_and_is_not_crossed() -> None:
    slots = slots_of([10, 11, 1 << 40, (1 << 40) + 1], [1, 5, 4, 3], [(165, 190), (1 << 44, (1 << 44) + 30)])
    assert slots.has_one_axis
    assert slots.count == 4
    assert slots.series(Slotted.WAKES).counts.tolist() == [1, 5, 4, 3]
    assert slots.densest(slots.series(Slotted.WAKES).counts, 2) == (2, 3, 7)
    assert [slots.follows(place) for place in range(4)] == [False, True, False, True]
    assert slots.lengths.tolist() == [11, 14, 16, 14]
    assert (slots.begin_tsc(0), slots.end_tsc(1)) == (165, 192)
    assert (slots.place_after(161), slots.place_after(176), slots.place_after(193)) == (1, 1, 2)


def test_traces_that_overlap_have_no_common_axis() -> None:
    part = partial(wakes(1))
    assert Slots(part).has_one_axis
    assert not Slots(merge([part, part])).has_one_axis
    assert not Slots(partial(b"")).has_one_axis


def test_segments_that_add_up_to_over_62_bits_have_no_place_for_the_last() -> None:
    assert slots_of([10], [1], [(160, MOST_SUM - 1)]).has_one_axis
    assert not slots_of([10], [1], [(160, MOST_SUM)]).has_one_axis
