"""The programs themselves, on an executable with the kernel's function names and a known number of calls."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from builders.bpf.system import ROOT, compile_c, drive, require_bpf
from xtrace.probes.bpf.abi import Kind
from xtrace.probes.live.histogram import bounds_of

_UPCALLS, _PORTS, _SENDS = 211, 2, 1009
_NESTED = 1  # the first upcall holds another, with one port


@pytest.fixture(scope="module")
def executable(tmp_path_factory: pytest.TempPathFactory) -> Path:
    require_bpf()
    source = ROOT / "tests" / "probes" / "bpf" / "kernel.c"
    return compile_c(source, tmp_path_factory.mktemp("bpf") / "kernel", "-O1", "-no-pie")


@pytest.fixture(scope="module")
def found(executable: Path) -> Any:
    return drive("uprobes", executable, str(_UPCALLS), str(_PORTS), str(_SENDS))


def _counts(found: Any) -> Counter[tuple[int, int]]:
    counts: Counter[tuple[int, int]] = Counter()
    for kind, ident, _, count, _, _, _, zeros in found["rows"]:
        counts[kind, ident] += count + zeros
    return counts


def test_every_call_is_counted_under_its_id(found: Any) -> None:
    counts = _counts(found)
    upcalls = _UPCALLS + _NESTED
    assert counts[Kind.UPCALL, 0] == upcalls
    assert {ident: counts[Kind.PORT_HANDLER, ident] for ident in (7, 8)} == {7: upcalls, 8: _UPCALLS}
    assert {ident: counts[Kind.DISPATCH, ident] for ident in (7, 8)} == {7: upcalls, 8: _UPCALLS}
    assert {ident: counts[Kind.DEVICE_EVENT, ident] for ident in (107, 108)} == {107: upcalls, 108: _UPCALLS}
    assert [counts[Kind.SEND, irq] for irq in (40, 41, 42)] == [337, 336, 336]
    assert counts[Kind.IPI, 2 << 16 | 1] == 13
    assert {ident: counts[Kind.PRIVCMD, ident] for ident in (0, 5)} == {0: 9, 5: 8}


def test_an_end_without_a_begin_is_counted(found: Any) -> None:
    # No interrupt handler ran before the late EOIs, so none of them has a begin.
    assert found["counters"]["UNPAIRED"] == 13
    assert not any(kind == Kind.LATE_EOI for kind, _ in _counts(found))


def test_durations_match_the_time_spent(found: Any) -> None:
    for kind, ident, _, count, total, least, most, _ in found["rows"]:
        if kind == Kind.PORT_HANDLER:
            assert least >= 20_000, ident
            assert count * least <= total <= count * most
    sums = {(row[0], row[1]): row[4] for row in found["rows"]}
    handled = sums[Kind.PORT_HANDLER, 7] + sums[Kind.PORT_HANDLER, 8]
    # The nested upcall's time also counts in the outer upcall.
    assert sums[Kind.UPCALL, 0] > handled


def test_buckets_agree_with_the_tallies(found: Any) -> None:
    tallied = {tuple(row[:3]): row for row in found["rows"]}
    counted: Counter[tuple[int, int, int]] = Counter()
    lowest: Counter[tuple[int, int, int]] = Counter()
    highest: Counter[tuple[int, int, int]] = Counter()
    for kind, ident, cpu, bucket, count in found["buckets"]:
        least, greatest = bounds_of(bucket)
        counted[kind, ident, cpu] += count
        lowest[kind, ident, cpu] += count * least
        highest[kind, ident, cpu] += count * greatest
    assert counted
    for key, count in counted.items():
        row = tallied[key]
        assert row[3] == count
        assert lowest[key] <= row[4] <= highest[key]


def test_a_second_drain_returns_only_the_difference(found: Any) -> None:
    assert found["again"] == {}


def test_what_has_no_room_is_counted(executable: Path) -> None:
    found = drive("no_room", executable, "0", "0", "997")
    # Sends of three irqs, IPIs, and two ioctls share two places.
    assert found["counted"] + found["not_counted"] == 997 + 13 + 17
    assert found["not_counted"] > 0


@pytest.mark.parametrize("ring_bytes", [4096, 65536])
def test_losses_of_a_full_ring_are_exact(executable: Path, tmp_path: Path, ring_bytes: int) -> None:
    sends = 10_007
    found = drive("overload", executable, tmp_path / "c.xtrace", str(ring_bytes), "0", "0", str(sends))
    assert found["tallied"] == sends
    assert found["streamed"] + found["dropped"] == sends
    assert found["written"] == found["streamed"] == ring_bytes // 32 - 1
    from xtrace.probes.bpf.ctf_reader import read_events

    events = read_events(tmp_path / "c.xtrace" / "events")
    assert (len(events.records), events.discarded) == (found["written"], found["dropped"])
    assert set(events.records["id"].tolist()) == {40, 41, 42}


def test_a_compile_error_is_reported_in_one_line(tmp_path: Path) -> None:
    require_bpf()
    source = tmp_path / "wrong.bpf.c"
    source.write_text("int on_call(void *ctx) { return nowhere; }\n")
    said = drive("broken", source)
    assert "does not compile" in said
    assert "nowhere" in said
    assert "\n" not in said
