"""The catalogue of trace records: its tables, look-up and version detection.

The facts below were copied from Xen's sources a second time, so that a mistake
in a table shows up.
"""

from __future__ import annotations

import re
import subprocess
import sys
from collections import defaultdict
from collections.abc import Iterable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from xtrace.probes.catalog import (
    EVENTS,
    NEWEST,
    OLDEST,
    Event,
    Field,
    Shape,
    Version,
    VersionRange,
    all_events,
    by_id,
    detect,
    exits,
    find,
    names,
)
from xtrace.probes.catalog.pv import hypercall_arguments
from xtrace.probes.catalog.sched import runstate_change_id
from xtrace.probes.catalog.types import parse_fields
from xtrace.probes.format import Runstate, TraceClass
from xtrace.probes.xen_abi import IDLE_DOMAIN

VERSIONS = [Version(4, minor) for minor in range(23)]
XEN_4_17 = VersionRange.parse("4.17")

# Every shape of four traces of Xen 4.17 on an AMD host: id, words, timed, and how many in
# each (an idle PV guest, a busy one, the same with lost records, a PVH guest).
REAL = (
    (0x1F001, 4, True, (0, 0, 4, 0)),
    (0x1F002, 0, False, (1, 9, 3, 2)),
    (0x1F002, 1, False, (1, 4, 2, 1)),
    (0x1F002, 2, False, (0, 2, 2, 0)),
    (0x1F002, 3, False, (0, 3, 5, 1)),
    (0x1F002, 4, False, (1, 0, 1, 1)),
    (0x1F002, 5, False, (0, 1, 0, 1)),
    (0x1F002, 6, False, (0, 1, 0, 0)),
    (0x1F003, 2, False, (155, 114, 61, 66)),
    (0x21002, 1, True, (197, 902, 736, 361)),
    (0x21011, 1, True, (1461, 1523, 1131, 1013)),
    (0x21021, 1, True, (1439, 1229, 798, 717)),
    (0x21101, 1, True, (2900, 2752, 1929, 1730)),
    (0x21211, 1, True, (1440, 1229, 802, 718)),
    (0x22202, 2, True, (1573, 2561, 1882, 1619)),
    (0x22203, 4, True, (2229, 6366, 4684, 3835)),
    (0x22205, 3, True, (234, 1995, 1554, 1340)),
    (0x22206, 1, True, (1471, 1381, 893, 838)),
    (0x22207, 3, True, (486, 1976, 1060, 1128)),
    (0x22209, 0, True, (4398, 3509, 2379, 1870)),
    (0x2220B, 4, True, (3070, 3311, 2325, 1757)),
    (0x2220C, 6, True, (4560, 4003, 2643, 2152)),
    (0x2220D, 3, True, (1573, 2561, 1882, 1619)),
    (0x22214, 3, True, (3084, 3443, 2430, 2026)),
    (0x22215, 2, True, (3097, 3654, 2668, 2091)),
    (0x22216, 2, True, (13, 211, 237, 65)),
    (0x22217, 1, True, (1662, 3858, 2847, 2326)),
    (0x28004, 2, True, (1442, 1240, 809, 722)),
    (0x28006, 2, True, (1441, 1240, 805, 721)),
    (0x2800A, 4, True, (2900, 2752, 1929, 1730)),
    (0x2800E, 3, True, (2900, 2752, 1930, 1730)),
    (0x2800F, 4, True, (2900, 2752, 1930, 1730)),
    (0x28011, 4, True, (197, 902, 736, 361)),
    (0x81001, 0, True, (0, 0, 0, 1488)),
    (0x81102, 3, True, (0, 0, 0, 1488)),
    (0x82004, 2, False, (0, 0, 0, 248)),
    (0x8200D, 3, False, (0, 0, 0, 248)),
    (0x8200E, 6, False, (0, 0, 0, 238)),
    (0x8200F, 0, False, (0, 0, 0, 296)),
    (0x82012, 1, False, (0, 0, 0, 395)),
    (0x82013, 1, False, (0, 0, 0, 24)),
    (0x82020, 3, False, (0, 0, 0, 306)),
    (0x10F001, 1, True, (3, 31, 33, 0)),
    (0x10F002, 1, True, (3, 31, 33, 0)),
    (0x201008, 0, True, (198, 653, 685, 0)),
    (0x20100D, 1, True, (14107, 20226, 20418, 0)),
    (0x20100D, 2, True, (26942, 25930, 24544, 0)),
    (0x20100D, 3, True, (1275, 3267, 2226, 0)),
    (0x201104, 5, True, (3926, 2742, 2902, 0)),
    (0x201106, 2, True, (3501, 26072, 22199, 0)),
    (0x20110B, 6, True, (2075, 953, 1167, 0)),
    (0x20200E, 1, True, (1588, 1394, 1402, 0)),
    (0x20200E, 2, True, (884, 760, 773, 0)),
    (0x802008, 3, True, (6, 10, 6, 0)),
)
PVH = 3


def real(trace: int) -> list[Shape]:
    return [(event, words, timed, counts[trace]) for event, words, timed, counts in REAL if counts[trace]]


def at(version: str) -> VersionRange:
    return VersionRange.parse(version)


def field_names(event_id: int, words: int, version: str, timed: bool = True) -> list[str]:
    match = find(event_id, words, timed, at(version))
    assert match is not None
    assert match.layout is not None
    return [field.name for field in match.layout.fields]


# --- versions and ranges ---


def test_version_parses_orders_and_prints() -> None:
    assert Version.parse("4.9") < Version.parse("4.10") < Version.parse("4.17.3") == Version(4, 17)
    assert str(Version.parse(" 4.17 ")) == "4.17"


@pytest.mark.parametrize("text", ["", "4", "4.", "x", "4.17-rc1", "4.17.", "-4.1", "4.٣", "4.17+"])
def test_version_parse_rejects(text: str) -> None:
    with pytest.raises(ValueError, match="not a Xen version"):
        Version.parse(text)


@pytest.mark.parametrize(
    ("text", "low", "high", "shown"),
    [
        ("4.17", (4, 17), (4, 17), "4.17"),
        ("4.13-4.17", (4, 13), (4, 17), "4.13-4.17"),
        ("4.13+", (4, 13), None, "4.13+"),
        ("4.17-4.17", (4, 17), (4, 17), "4.17"),
        ("4.23", (4, 23), (4, 23), "4.23"),
    ],
)
def test_range_parses_and_prints(
    text: str, low: tuple[int, int], high: tuple[int, int] | None, shown: str
) -> None:
    span = VersionRange.parse(text)
    assert (span.low, span.high, str(span)) == (low, high, shown)


@pytest.mark.parametrize("text", ["4.17-4.13", "3.4", "3.4+", "-4.17", "4.13-", "+", "4.13-4.17+"])
def test_range_rejects(text: str) -> None:
    with pytest.raises(ValueError, match="Xen"):
        VersionRange.parse(text)


def test_range_contains_both_ends() -> None:
    assert [str(version) for version in VERSIONS if version in at("4.2-4.4")] == ["4.2", "4.3", "4.4"]
    assert Version(4, 99) in at("4.22+")
    assert Version(4, 12) not in at("4.13+")


# --- the field notation ---


def test_notation() -> None:
    assert parse_fields("dom:w0[31:16] flag:w1[15] rip:w2-w3:hex credit:w4:signed op:w5:@hypercall") == (
        Field("dom", 0, shift=16, bits=16),
        Field("flag", 1, shift=15, bits=1),
        Field("rip", 2, words=2, bits=64, base="hex"),
        Field("credit", 4, signed=True),
        Field("op", 5, table="hypercall"),
    )


@pytest.mark.parametrize(
    "text",
    ["dom", "dom:w7", "dom:w0[15:16]", "dom:w0[32:0]", "dom:w0-w2", "dom:w0:what", "dom:w0:@none", "Dom:w0"],
)
def test_notation_rejects(text: str) -> None:
    with pytest.raises(ValueError, match=r"dom|Dom"):
        parse_fields(text)


def test_field_values() -> None:
    words = [0x8000_0001, 0xFFFF_FFFF, 0x2]
    low, high, wide, minus = parse_fields("low:w0[15:0] high:w0[31:16] wide:w1-w2 minus:w1:signed")
    assert (low.value(words), high.value(words)) == (1, 0x8000)
    assert (wide.value(words), minus.value(words)) == (0x2_FFFF_FFFF, -1)
    (half,) = parse_fields("half:w0[31:16]:signed")
    assert half.value(words) == -0x8000


# --- the tables as a whole ---


def test_names_are_stable_identifiers() -> None:
    for event in EVENTS:
        assert re.fullmatch(r"[a-z0-9_]+", event.name), event.name
        assert re.fullmatch(r"TRC_[A-Z0-9_]+", event.xen_name), event.xen_name
        assert event.source.startswith(("xen/", "tools/"))


def test_a_name_has_one_xen_name_or_its_variants() -> None:
    of_name: dict[str, set[str]] = defaultdict(set)
    for event in EVENTS:
        base = event.xen_name.removesuffix("64").removesuffix("_V2").removesuffix("_64")
        of_name[event.name].add(base)
    assert {name: found for name, found in of_name.items() if len(found) > 1} == {}


def test_an_id_has_at_most_one_event_of_a_name() -> None:
    keys = [(event.id, event.name) for event in EVENTS]
    assert len(keys) == len(set(keys))


def test_class_is_in_the_id() -> None:
    for event in EVENTS:
        assert event.id & event.cls, event
        assert event.id < 1 << 28


def test_fields_lie_within_the_words_and_do_not_overlap() -> None:
    for event in EVENTS:
        for layout in event.layouts:
            taken = [0] * 7
            for field in layout.fields:
                assert field.word + field.words <= max(layout.words), (event.name, field)
                for word in range(field.word, field.word + field.words):
                    mask = 0xFFFF_FFFF if field.words == 2 else ((1 << field.bits) - 1) << field.shift
                    assert mask < 1 << 32
                    assert not taken[word] & mask, (event.name, field)
                    taken[word] |= mask
            names_used = [field.name for field in layout.fields] + [name for name, _ in event.constants]
            assert len(names_used) == len(set(names_used)), event.name


def test_layouts_are_ordered_and_lengths_are_possible() -> None:
    for event in EVENTS:
        assert list(event.layouts) == sorted(event.layouts, key=lambda layout: layout.since)
        for layout in event.layouts:
            assert layout.words
            assert all(0 <= words <= 7 for words in layout.words)
            assert OLDEST <= layout.since <= (layout.until or NEWEST) <= NEWEST


def test_a_shape_is_unambiguous_within_a_version() -> None:
    shapes = {(e.id, w, layout.timed) for e in EVENTS for layout in e.layouts for w in layout.words}
    for shape in shapes:
        for version in VERSIONS:
            match = find(*shape, VersionRange(version, version))
            assert match is not None
            assert match.quality != "ambiguous", (hex(shape[0]), shape[1:], str(version))


def test_layouts_of_an_event_leave_no_gap() -> None:
    """The layouts of an event have no gap between their versions."""
    for event in EVENTS:
        for old, new in zip(event.layouts, event.layouts[1:], strict=False):
            if old.until is not None:
                assert new.since <= (old.until.major, old.until.minor + 1), event.name


def test_by_id_and_all_events_agree() -> None:
    assert all_events() is EVENTS
    assert len(EVENTS) == sum(len(by_id(event_id)) for event_id in {event.id for event in EVENTS})
    assert by_id(0x12345) == ()
    assert {event.cls for event in EVENTS} == set(TraceClass)


# --- single facts, copied from Xen a second time ---

# id, version, words, timed, name
FACTS = (
    (0x1F001, "4.0", 4, True, "lost_records"),
    (0x1F002, "4.17", 7, False, "wrap_buffer"),
    (0x1F002, "4.17", 6, True, "wrap_buffer"),
    (0x1F003, "4.17", 2, False, "cpu_change"),
    (0x1F004, "4.1", 3, True, "trace_irq"),
    (0x21021, "4.0", 1, True, "runstate_change"),
    (0x28001, "4.6", 2, True, "dom_add"),
    (0x28001, "4.7", 1, True, "dom_add"),
    (0x28004, "4.17", 2, True, "wake"),
    (0x2800E, "4.7", 2, True, "switch_infprev"),
    (0x2800E, "4.8", 3, True, "switch_infprev"),
    (0x2800F, "4.7", 3, True, "switch_infnext"),
    (0x2800F, "4.8", 4, True, "switch_infnext"),
    (0x28010, "4.1", 3, True, "shutdown_code"),
    (0x28011, "4.9", 4, True, "switch_infcont"),
    (0x22006, "4.6", 1, False, "credit_tickle"),
    (0x22006, "4.7", 1, True, "credit_tickle"),
    (0x22203, "4.9", 3, True, "credit2_credit_burn"),
    (0x22203, "4.10", 4, True, "credit2_credit_burn"),
    (0x22207, "4.10", 4, True, "credit2_credit_reset"),
    (0x22207, "4.11", 3, True, "credit2_credit_reset"),
    (0x22213, "4.8", 4, True, "credit2_picked_cpu"),
    (0x22214, "4.9", 4, True, "credit2_runq_candidate"),
    (0x22217, "4.9", 1, True, "credit2_runq_cand_check"),
    (0x22802, "4.5", 0, True, "rtds_runq_pick"),
    (0x22803, "4.10", 6, True, "rtds_budget_burn"),
    (0x22A05, "4.10", 2, True, "null_schedule"),
    (0x41002, "4.7", 1, True, "dom0_dom_rem"),
    (0x81001, "4.22", 0, True, "vmentry"),
    (0x81001, "4.0", 1, True, "vmentry"),  # 4.0.0's stale word
    (0x81102, "4.18", 3, True, "vmexit"),
    (0x81103, "4.19", 3, True, "vmexit_svm"),
    (0x81502, "4.2", 3, True, "vmexit_nested"),
    (0x81503, "4.19", 3, True, "vmexit_svm_nested"),
    (0x82002, "4.2", 2, False, "pf_inject"),
    (0x82101, "4.22", 3, False, "pf_xen"),
    (0x82001, "4.22", 2, False, "pf_xen"),
    (0x8200E, "4.12", 5, False, "cpuid"),
    (0x8200E, "4.13", 6, False, "cpuid"),
    (0x8200F, "4.17", 0, False, "intr"),
    (0x8200F, "4.17", 1, False, "intr"),
    (0x82117, "4.11", 3, False, "iomem_read"),
    (0x82117, "4.12", 4, False, "iomem_read"),
    (0x82126, "4.11", 3, False, "xcr_read"),
    (0x84001, "4.5", 6, True, "emul_hpet_start_timer"),
    (0x10F001, "4.17", 1, True, "mem_page_grant_map"),
    (0x10F010, "4.17", 6, False, "mem_pod_populate"),
    (0x201103, "4.3", 3, True, "pv_trap"),
    (0x20F103, "4.2", 3, True, "pv_trap"),
    (0x20F101, "4.2", 3, True, "pv_hypercall"),
    (0x20100D, "4.3", 1, True, "pv_hypercall"),
    (0x20200E, "4.3", 3, True, "pv_hypercall_subcall"),
    (0x201008, "4.21", 0, True, "pv_math_state_restore"),
    (0x20F008, "4.0", 0, True, "pv_math_state_restore"),
    (0x40F009, "4.18", 2, False, "shadow_emulate_unshadow_user"),
    (0x40F20B, "4.19", 5, False, "shadow_emulate_unshadow_unhandled"),
    (0x40F108, "4.17", 6, False, "shadow_emulate"),
    (0x40F00F, "4.17", 2, False, "shadow_resync_only"),
    (0x801002, "4.2", 4, True, "pm_idle_entry"),
    (0x802001, "4.1", 4, True, "pm_idle_entry"),
    (0x802006, "4.2", 7, True, "irq_assign_vector"),
    (0x802008, "4.17", 3, True, "irq_handled"),
    (0x800F123, "4.17", 5, False, "guest"),
)


@pytest.mark.parametrize(("event_id", "version", "words", "timed", "name"), FACTS)
def test_fact(event_id: int, version: str, words: int, timed: bool, name: str) -> None:
    match = find(event_id, words, timed, at(version))
    assert match is not None
    assert (match.event.name, match.quality, match.alternatives) == (name, "exact", ())
    assert match.layout is not None


# id, version, words, timed: known ids in a form that this version does not write
NOT_WRITTEN = (
    (0x28004, "4.17", 3, True),
    (0x28004, "4.17", 2, False),
    (0x8200E, "4.12", 6, False),
    (0x8200E, "4.13", 5, False),
    (0x28011, "4.8", 4, True),
    (0x201008, "4.22", 0, True),
    (0x81103, "4.18", 3, True),
    (0x81502, "4.19", 3, True),
    (0x82002, "4.3", 2, False),
    (0x201103, "4.2", 3, True),
    (0x20F103, "4.3", 3, True),
    (0x1F004, "4.2", 3, True),
    (0x22007, "4.6", 2, True),
    (0x22206, "4.7", 1, False),
    (0x40F009, "4.19", 2, False),
    (0x81001, "4.1", 1, True),
    (0x28008, "4.17", 0, True),
    (0x800F001, "4.0", 2, False),
)


@pytest.mark.parametrize(("event_id", "version", "words", "timed"), NOT_WRITTEN)
def test_known_id_with_another_length(event_id: int, version: str, words: int, timed: bool) -> None:
    match = find(event_id, words, timed, at(version))
    assert match is not None
    assert (match.layout, match.quality) == (None, "length")


def test_unknown_ids() -> None:
    for event_id in (0x21003, 0x22212, 0x22301, 0x40F00B | 0x300, 0x40F10C, 0x84012, 0x802009, 0, 0xF000):
        assert find(event_id, 1, True, VersionRange()) is None


FIELDS = (
    (0x21021, 1, "4.17", True, "vcpu:w0[15:0] dom:w0[31:16]"),
    (0x1F001, 4, "4.17", True, "count:w0 dom:w1[15:0] vcpu:w1[31:16] first_tsc:w2-w3"),
    (0x2800A, 4, "4.17", True, "prev_dom:w0 prev_unit:w1 next_dom:w2 next_unit:w3"),
    (0x22202, 2, "4.6", False, "dom:w0[15:0] unit:w0[31:16] pos:w1"),
    (0x22202, 2, "4.7", True, "unit:w0[15:0] dom:w0[31:16] pos:w1"),
    (0x22214, 3, "4.8", True, "unit:w0[15:0] dom:w0[31:16] tickled_cpu:w1:signed skipped:w2"),
    (0x22214, 3, "4.11", True, "unit:w0[15:0] dom:w0[31:16] tickled_cpu:w1:signed credit:w2:signed"),
    (0x201104, 5, "4.17", True, "rip:w0-w1:hex addr:w2-w3:hex error_code:w4:hex"),
    (0x20110B, 6, "4.17", True, "pte:w0-w1:hex addr:w2-w3:hex rip:w4-w5:hex"),
    (0x10F010, 6, "4.17", False, "gfn:w0-w1:hex mfn:w2-w3:hex dom:w4[15:0] order:w4[31:16]"),
    (0x10F010, 6, "4.18", False, "gfn:w0-w1:hex mfn:w2-w3:hex dom:w4 order:w5"),
    (0x82119, 2, "4.17", False, "value:w0-w1:hex"),
    (0x82109, 3, "4.17", False, "reg:w0 value:w1-w2:hex"),
    (0x40F108, 6, "4.17", False,
     "gl1e:w0-w1:hex write_val:w2-w3:hex va:w4:hex flags:w5[28:0]:hex emulation_count:w5[31:29]"),
    (0x40F206, 5, "4.17", False, "gl1e:w0-w1:hex va:w2-w3:hex flags:w4:hex"),
)  # fmt: skip


@pytest.mark.parametrize(("event_id", "words", "version", "timed", "text"), FIELDS)
def test_fields(event_id: int, words: int, version: str, timed: bool, text: str) -> None:
    match = find(event_id, words, timed, at(version))
    assert match is not None
    assert match.layout is not None
    assert match.layout.fields == parse_fields(text)


def test_runstate_change_has_its_states_as_constants() -> None:
    assert runstate_change_id(Runstate.BLOCKED, Runstate.RUNNABLE) == 0x21211
    found = {event.id: event for event in EVENTS if event.name == "runstate_change"}
    assert len(found) == 16
    assert found[0x21211].constants == (("old", "blocked"), ("new", "runnable"))
    assert found[0x21101].constants == (("old", "runnable"), ("new", "running"))


def test_shadow_has_events_for_each_number_of_levels() -> None:
    found = [event for event in EVENTS if event.cls == TraceClass.SHADOW]
    assert len(found) == 3 * 11 + 4
    assert {event.constants for event in found if event.id & 0xF00 == 0x200} == {(("levels", "4"),)}


def test_short_records_lack_fields() -> None:
    match = find(0x82216, 1, False, XEN_4_17)
    assert match is not None
    assert match.layout is not None
    assert [field.name for field in match.layout.present(1)] == ["port"]
    assert [field.name for field in match.layout.present(2)] == ["port", "data"]


def test_values_of_a_real_record() -> None:
    match = find(0x22203, 4, True, XEN_4_17)
    assert match is not None
    assert match.layout is not None
    words = (0x0003_0000, 0xFFFE_772F, 0x8000_0000, 8322795)
    assert [field.value(words) for field in match.layout.fields] == [0, 3, -100561, -(1 << 31), 8322795]
    assert find(0x21002, 1, True, XEN_4_17) is not None
    assert parse_fields("dom:w0[31:16]")[0].value((0x7FFF_0001,)) == IDLE_DOMAIN


# --- ids with two meanings ---


@pytest.mark.parametrize(
    ("event_id", "words", "timed", "version", "name"),
    [
        (0x802001, 4, True, "4.1", "pm_idle_entry"),
        (0x802001, 3, True, "4.2", "irq_move_cleanup_delay"),
        (0x802002, 6, True, "4.1", "pm_idle_exit"),
        (0x802002, 3, True, "4.2", "irq_move_cleanup"),
        (0x22002, 2, False, "4.2", "credit2_runq_pos"),
        (0x22002, 3, True, "4.3", "credit_account_start"),
        (0x22003, 3, True, "4.2", "credit2_credit_burn"),
        (0x22003, 3, True, "4.3", "credit_account_stop"),
        (0x22005, 2, True, "4.1", "credit2_tickle_check"),
        (0x22005, 3, True, "4.3", "credit_picked_cpu"),
        (0x22006, 1, False, "4.2", "credit2_tickle"),
        (0x22006, 1, False, "4.3", "credit_tickle"),
        (0x22007, 3, True, "4.2", "credit2_credit_reset"),
        (0x22007, 2, True, "4.7", "credit_boost_start"),
        (0x22008, 0, False, "4.1", "credit2_sched_tasklet"),
        (0x22008, 2, True, "4.7", "credit_boost_end"),
        (0x2200A, 2, True, "4.2", "credit2_runq_assign"),
        (0x2200A, 2, True, "4.8", "credit_ratelimit"),
        (0x2200B, 2, True, "4.2", "credit2_update_unit_load"),
        (0x2200B, 2, True, "4.9", "credit_steal_check"),
    ],
)
def test_shared_ids_are_resolved_by_version(
    event_id: int, words: int, timed: bool, version: str, name: str
) -> None:
    match = find(event_id, words, timed, at(version))
    assert match is not None
    assert (match.event.name, match.quality) == (name, "exact")


def test_all_shared_ids_are_tested() -> None:
    shared = {event.id for event in EVENTS if len(by_id(event.id)) > 1}
    assert shared == {
        0x802001,
        0x802002,
        *range(0x22002, 0x22004),
        *range(0x22005, 0x22009),
        0x2200A,
        0x2200B,
    }


def test_shared_ids_are_resolved_by_length_without_a_version() -> None:
    for words, name in ((4, "pm_idle_entry"), (3, "irq_move_cleanup_delay")):
        match = find(0x802001, words, True, VersionRange())
        assert match is not None
        assert (match.event.name, match.quality) == (name, "exact")


def test_an_ambiguous_shape_gets_the_newest_and_lists_the_others() -> None:
    match = find(0x22003, 3, True, VersionRange())
    assert match is not None
    assert match.layout is not None
    assert (match.event.name, match.quality) == ("credit_account_stop", "ambiguous")
    assert [event.name for event, _ in match.alternatives] == ["credit2_credit_burn"]
    candidate = find(0x22214, 3, True, at("4.8+"))
    assert candidate is not None
    assert candidate.layout is not None
    assert candidate.layout.since == (4, 11)
    assert [str(layout.since) for _, layout in candidate.alternatives] == ["4.8"]


def test_a_wrong_length_matches_the_event_of_that_version() -> None:
    for version, name in (("4.1", "pm_idle_entry"), ("4.17", "irq_move_cleanup_delay")):
        match = find(0x802001, 7, True, at(version))
        assert match is not None
        assert (match.event.name, match.quality) == (name, "length")


def test_future_versions_are_read_like_the_newest() -> None:
    assert find(0x28004, 2, True, at("4.30")) == find(0x28004, 2, True, at("4.22"))
    assert field_names(0x22214, 3, "4.23") == ["unit", "dom", "tickled_cpu", "credit"]


# --- hypercalls ---


def test_hypercall_arguments() -> None:
    block = hypercall_arguments((29 | 1 << 20, 1))
    assert [(arg.name, arg.value, (arg.names or {})[1]) for arg in block] == [("cmd", 1, "block")]
    grant = hypercall_arguments((20 | 1 << 20 | 1 << 24, 5, 2))
    assert [(arg.name, arg.value) for arg in grant] == [("cmd", 5), ("count", 2)]
    wide = hypercall_arguments((99 | 2 << 22, 0x1, 0x2))
    assert [(arg.name, arg.value) for arg in wide] == [("arg1", 0x2_0000_0001)]


def test_hypercall_arguments_of_a_short_or_odd_record() -> None:
    assert hypercall_arguments(()) == ()
    assert hypercall_arguments((32,)) == ()
    assert [arg.name for arg in hypercall_arguments((20 | 1 << 20 | 1 << 24, 5))] == ["cmd"]
    assert hypercall_arguments((20 | 3 << 20 | 1 << 24, 5, 2)) == ()


# --- names and exits ---


@pytest.mark.parametrize(
    ("table", "number", "name"),
    [
        (names.HYPERCALLS, 1, "mmu_update"),
        (names.HYPERCALLS, 12, "memory_op"),
        (names.HYPERCALLS, 17, "xen_version"),
        (names.HYPERCALLS, 23, "iret"),
        (names.HYPERCALLS, 29, "sched_op"),
        (names.HYPERCALLS, 32, "event_channel_op"),
        (names.HYPERCALLS, 34, "hvm_op"),
        (names.HYPERCALLS, 42, "hypfs_op"),
        (names.HYPERCALLS, 48, "mca"),
        (names.HYPERCALLS, 55, "arch_7"),
        (names.SCHED_OPS, 3, "poll"),
        (names.EVTCHN_OPS, 4, "send"),
        (names.EVTCHN_OPS, 14, "reset_cont"),
        (names.VCPU_OPS, 8, "set_singleshot_timer"),
        (names.VCPU_OPS, 15, "register_vcpu_time_phys_area"),
        (names.GRANT_TABLE_OPS, 5, "copy"),
        (names.GRANT_TABLE_OPS, 12, "cache_flush"),
        (names.TRAPS, 14, "pf"),
        (names.TRAPS, 21, "cp"),
        (names.TRAPS, 28, "hv"),
        (names.TRAPS, 30, "sx"),
        (names.SHUTDOWN_REASONS, 3, "crash"),
        (names.INTERRUPT_SOURCES, 5, "callback"),
        (names.VECTORS, 0xFC, "event_check"),
        (exits.VMX_REASONS, 1, "external_interrupt"),
        (exits.VMX_REASONS, 12, "hlt"),
        (exits.VMX_REASONS, 48, "ept_violation"),
        (exits.VMX_REASONS, 75, "notify"),
        (exits.SVM_CODES, 0x18, "cr8_write"),
        (exits.SVM_CODES, 0x4E, "exception_pf"),
        (exits.SVM_CODES, 0x55, "exception_cp"),
        (exits.SVM_CODES, 0x60, "intr"),
        (exits.SVM_CODES, 0x64, "vintr"),
        (exits.SVM_CODES, 0x72, "cpuid"),
        (exits.SVM_CODES, 0x78, "hlt"),
        (exits.SVM_CODES, 0x7C, "msr"),
        (exits.SVM_CODES, 0x81, "vmmcall"),
        (exits.SVM_CODES, 0x8E, "rdpru"),
        (exits.SVM_CODES, 0x400, "npf"),
    ],
)
def test_name(table: dict[int, str], number: int, name: str) -> None:
    assert table[number] == name


@pytest.mark.parametrize(
    ("table", "number"), [(names.HYPERCALLS, 11), (names.HYPERCALLS, 43), (exits.SVM_CODES, 0x54)]
)
def test_unused_numbers_have_no_name(table: dict[int, str], number: int) -> None:
    assert number not in table


def test_runstate_names_match_the_format() -> None:
    assert {state.value: state.name.lower() for state in Runstate} == names.RUNSTATES


@pytest.mark.parametrize(
    ("reasons", "vendor"),
    [
        ([0x81, 0x60, 0x78, 0x7C, 0x47, 0x64, 0x72], "svm"),  # the real PVH trace
        ([1, 10, 12, 18, 28, 30, 31, 32, 48], "vmx"),
        ([0x400], "svm"),
        ([0x8000_0021], "vmx"),
        ([0xFFFF_FFFF], "svm"),
        ([0, 18, 48, 0x40, 0x4A], None),  # either vendor's
        ([], None),
        ([0x60, 0x60, 0x60, 12], "svm"),
        ([0x60, 12], None),
        ([0x1234, 200], None),
    ],
)
def test_vendor_of(reasons: list[int], vendor: str | None) -> None:
    assert exits.vendor_of(reasons) == vendor


def test_no_reason_counts_for_the_other_vendor() -> None:
    for reason in exits.VMX_REASONS:
        assert exits.vendor_of([reason]) in (None, "vmx")
    for code in exits.SVM_CODES:
        register = re.fullmatch(r"([cd]r\d+)_(?:read|write)", exits.SVM_CODES[code])
        if register is None or register[1] in {
            "cr0",
            "cr2",
            "cr3",
            "cr4",
            "cr8",
            *(f"dr{n}" for n in range(8)),
        }:
            assert exits.vendor_of([code]) in (None, "svm"), hex(code)


def test_exit_name() -> None:
    assert exits.exit_name("svm", 0x60) == "intr"
    assert exits.exit_name("vmx", 1) == "external_interrupt"
    assert exits.exit_name("vmx", 0x8000_0021) == "invalid_guest_state"
    assert exits.exit_name("vmx", 0x7FFF) is None


# --- detection ---


@pytest.mark.parametrize("trace", range(4))
def test_real_traces_are_fully_decoded(trace: int) -> None:
    for versions in (XEN_4_17, detect(real(trace)).range):
        for event_id, words, timed, _ in real(trace):
            match = find(event_id, words, timed, versions)
            assert match is not None
            assert match.layout is not None
            assert match.quality == "exact", (hex(event_id), words)


@pytest.mark.parametrize(
    ("trace", "span"), [(0, "4.11-4.21"), (1, "4.11-4.21"), (2, "4.11-4.21"), (PVH, "4.13-4.18")]
)
def test_real_traces_are_detected(trace: int, span: str) -> None:
    found = detect(real(trace))
    assert str(found.range) == span
    assert found.conflicts == ()


def test_evidence_of_the_real_traces() -> None:
    assert detect(real(1)).evidence == (
        "credit2_credit_reset with 3 words: 4.11 or later",
        "pv_math_state_restore without words: 4.3 to 4.21",
    )
    assert detect(real(PVH)).evidence == (
        "cpuid with 6 words: 4.13 or later",
        "vmexit with an id that both vendors share, on an AMD host: 4.18 or earlier",
    )


def test_notes_of_the_real_traces() -> None:
    (note,) = detect(real(1)).notes
    assert note.startswith("switch_infnext: wait_ns ")
    assert "if this is Xen 4.13 or later" in note
    pvh = detect(real(PVH)).notes
    assert [note.partition(":")[0] for note in pvh] == ["switch_infnext", "vmexit"]
    assert "if this is" not in pvh[0]


def test_no_shapes_give_no_evidence() -> None:
    found = detect([])
    assert (str(found.range), found.evidence, found.conflicts, found.notes) == ("4.0+", (), (), ())


@pytest.mark.parametrize(
    ("shapes", "span"),
    [
        ([(0x28004, 2, True, 5)], "4.0+"),
        ([(0x1F004, 3, True, 9)], "4.0-4.1"),
        ([(0x802001, 4, True, 9), (0x28010, 3, True, 1)], "4.1"),
        ([(0x20F101, 3, True, 9), (0x801002, 4, True, 9)], "4.2"),
        ([(0x22202, 2, False, 9)], "4.3-4.6"),
        ([(0x22801, 1, False, 9)], "4.5-4.6"),
        ([(0x41001, 1, True, 1), (0x2800E, 2, True, 50)], "4.7"),
        ([(0x2800E, 3, True, 9), (0x22203, 3, True, 9)], "4.8-4.9"),
        ([(0x28011, 4, True, 9), (0x22203, 3, True, 9)], "4.9"),
        ([(0x22203, 4, True, 9), (0x22207, 4, True, 9)], "4.10"),
        ([(0x22214, 3, True, 9)], "4.8+"),
        ([(0x22214, 3, True, 9), (0x28011, 4, True, 9)], "4.11+"),
        ([(0x82126, 3, False, 9), (0x8200E, 5, False, 9)], "4.11-4.12"),
        ([(0x8200E, 6, False, 9)], "4.13+"),
        ([(0x8200E, 6, False, 9), (0x40F209, 4, False, 9)], "4.13-4.18"),
        ([(0x81103, 3, True, 9)], "4.19+"),
        ([(0x81103, 3, True, 9), (0x201008, 0, True, 9)], "4.19-4.21"),
        ([(0x81502, 3, True, 9)], "4.2-4.18"),
        ([(0x81001, 1, True, 9)], "4.0"),
        ([(0x800F123, 2, False, 9)], "4.1+"),
    ],
)
def test_detected_range(shapes: list[Shape], span: str) -> None:
    found = detect(shapes)
    assert str(found.range) == span
    assert found.conflicts == ()
    assert bool(found.evidence) == (span != "4.0+")


@pytest.mark.parametrize("version", VERSIONS)
def test_all_shapes_of_a_version_are_detected_as_that_version(version: Version) -> None:
    only = VersionRange(version, version)
    # SMI, and INTR without a vector, show an AMD host, whose exits have their own ids since 4.19.
    intels = {0x81002, 0x81102} if version >= (4, 19) else set()
    written = [
        (event.id, words, layout.timed, 100)
        for event in EVENTS
        for layout in event.layouts
        if only.overlaps(layout.since, layout.until) and event.id not in intels
        for words in layout.words
    ]
    found = detect(written)
    assert version in found.range
    assert found.conflicts == ()


def test_amd_exits_with_shared_ids_are_from_before_4_19() -> None:
    exit64, intr = (0x81102, 3, True, 900), (0x8200F, 0, False, 300)
    assert str(detect([exit64, intr]).range) == "4.0-4.18"
    assert str(detect([exit64, (0x8200F, 1, False, 300)]).range) == "4.0+"
    assert str(detect([intr]).range) == "4.0+"
    assert str(detect([exit64, (0x8200F, 1, False, 300), (0x8200F, 0, False, 7)]).range) == "4.0+"


def test_evidence_lists_the_shapes_that_narrowed_the_range() -> None:
    found = detect([(0x28004, 2, True, 5), (0x22206, 1, False, 9), (0x22214, 4, True, 0)])
    assert found.evidence == ("credit2_tickle with 1 word, untimed: 4.3 to 4.6",)
    assert detect([(0x22214, 3, True, 9)]).evidence == (
        "credit2_runq_candidate with 3 words: 4.8 or 4.11 or later",
    )
    assert detect([(0x802001, 4, True, 9)]).evidence == ("pm_idle_entry with 4 words: 4.1 or earlier",)


def damaged(*extra: Shape) -> list[Shape]:
    return [*real(1), *extra]


def test_a_damaged_length_does_not_move_the_range() -> None:
    whole = detect(real(1))
    found = detect([(0x20100D, 1, True, 90_000), *real(1), (0x20100D, 6, True, 7)])
    assert (found.range, found.evidence) == (whole.range, whole.evidence)
    (conflict,) = found.conflicts
    assert conflict.startswith("pv_hypercall with 6 words, timed: 7 ")
    assert "damage" in conflict


def test_a_rare_shape_does_not_narrow_the_range() -> None:
    """The shape is legal in 4.0-4.7 only, but there are just 3 among 100,000."""
    found = detect([(0x2800E, 3, True, 100_000), (0x2800E, 2, True, 3)])
    assert str(found.range) == "4.8+"
    assert len(found.conflicts) == 1


def test_rare_shapes_that_fit_are_not_conflicts() -> None:
    assert detect([(0x20100D, 1, True, 100_000), (0x20100D, 3, True, 1)]).conflicts == ()


def test_most_records_win_a_contradiction() -> None:
    found = detect(damaged((0x1F004, 3, True, 20)))
    assert str(found.range) == "4.11-4.21"
    assert found.conflicts == (
        "trace_irq with 3 words: 20 seen, only in 4.1 or earlier; the rest suggest 4.11-4.21",
    )
    other_way = detect([(0x1F004, 3, True, 500), (0x81103, 3, True, 20)])
    assert str(other_way.range) == "4.0-4.1"
    assert "only in 4.19 or later" in other_way.conflicts[0]


def test_a_length_that_no_version_writes_is_a_conflict() -> None:
    found = detect(damaged((0x28004, 3, True, 400)))
    assert str(found.range) == "4.11-4.21"
    assert found.conflicts == ("wake with 3 words, timed: 400 seen, but no known version writes it",)


def test_unknown_ids_are_reported() -> None:
    found = detect(damaged((0x29999, 3, True, 1200)))
    assert str(found.range) == "4.11-4.21"
    assert found.notes[-1] == "1,200 records with ids that no known version writes: 0x29999"


def test_ambiguous_shapes_are_reported() -> None:
    (note,) = detect([(0x10F005, 4, False, 9)]).notes
    assert note.startswith("mem_decrease_reservation with 4 words is decoded as in Xen 4.18 ")
    assert "Xen 4.0-4.17" in note
    assert detect([(0x10F005, 4, False, 9), (0x81103, 3, True, 9)]).notes == ()
    (both,) = detect([(0x22003, 3, True, 9)]).notes
    assert "credit2_credit_burn of Xen 4.1-4.2" in both


def test_pm_idle_note() -> None:
    assert any("0x802001" in note for note in detect([(0x802001, 4, True, 9)]).notes)
    assert not detect([(0x802001, 3, True, 9)]).notes


def test_counts_of_repeated_shapes_add_up() -> None:
    parts: Iterable[Shape] = (
        (event, words, timed, 1) for event, words, timed, count in real(PVH) for _ in range(count)
    )
    assert detect(parts) == detect(real(PVH))


# --- anything at all ---

ids = st.one_of(
    st.integers(0, (1 << 28) - 1),
    st.sampled_from(sorted({event.id for event in EVENTS})),
    st.integers(0x0800_0000, 0x0FFF_FFFF),
)
ranges = st.tuples(st.integers(0, 30), st.one_of(st.none(), st.integers(0, 10))).map(
    lambda ends: VersionRange(Version(4, ends[0]), None if ends[1] is None else Version(4, ends[0] + ends[1]))
)


@given(ids, st.integers(0, 7), st.booleans(), ranges)
def test_find_accepts_any_shape(event_id: int, words: int, timed: bool, versions: VersionRange) -> None:
    match = find(event_id, words, timed, versions)
    if match is None:
        assert by_id(event_id) == ()
        return
    assert isinstance(match.event, Event)
    assert (match.layout is None) == (match.quality == "length")
    assert bool(match.alternatives) == (match.quality == "ambiguous")
    if match.layout is not None:
        extra = [0xFFFF_FFFF] * words
        for field in match.layout.present(words):
            assert -1 <= field.value(extra) < 1 << 64


@given(st.lists(st.tuples(ids, st.integers(0, 7), st.booleans(), st.integers(0, 1 << 40)), max_size=40))
def test_detect_accepts_any_shapes(shapes: list[Shape]) -> None:
    found = detect(shapes)
    assert OLDEST <= found.range.low <= NEWEST
    assert detect(reversed(shapes)).range == found.range


def test_the_catalogue_imports_no_heavy_module() -> None:
    code = (
        "import sys, xtrace.probes.catalog\n"
        "print(sorted({'numpy', 'pandas', 'numba', 'pyarrow', 'bcc'} & set(sys.modules)))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        check=True,
        env={"PYTHONPATH": ":".join(sys.path)},
    )
    assert done.stdout.strip() == "[]"
