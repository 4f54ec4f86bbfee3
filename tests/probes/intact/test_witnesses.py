"""Windows that follow a doubtful TSC are looked at: not too many in all, and the same however they arrive."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from oracle.intact import whole
from xtrace.probes.format import MAX_PCPUS
from xtrace.probes.intact import whole_windows
from xtrace.probes.intact.whole_windows import RECENT_WINDOWS, WholeWindows
from xtrace.probes.reader.writer import pack_record, pack_window


def falling(count: int) -> bytes:
    """Return a window for each of ``count`` pCPUs, and another with one record far before the first."""

    def made() -> Iterator[bytes]:
        for begin in (1 << 50, 1 << 40):
            for pcpu in range(count):
                yield pack_window(pcpu, pack_record(0x21101, begin + pcpu, (1 << 16,)))

    return b"".join(made())


def looks_at(data: bytes, monkeypatch: pytest.MonkeyPatch) -> int:
    """Return how many windows are looked at besides those that are read."""
    count = 0
    inner = WholeWindows._tscs

    def counted(self: WholeWindows, at: int, end: int) -> list[int]:
        nonlocal count
        count += 1
        return inner(self, at, end)

    with monkeypatch.context() as patch:
        patch.setattr(WholeWindows, "_tscs", counted)
        whole(data, chunk_bytes=1 << 30)
    return count


def test_looks_are_in_proportion_to_the_size(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(whole_windows, "_LEAST_LOOKS", 1 << 10)
    sizes = (1000, 2000, 4000, MAX_PCPUS)
    for count in sizes:
        data = falling(count)
        windows = 2 * count
        most = (1 << 10) + len(data) // whole_windows._BYTES_PER_LOOK
        assert looks_at(data, monkeypatch) <= 2 * windows + most


@pytest.mark.parametrize("chunk_bytes", [7, 1000, 4096, 50_000])
def test_what_is_left_out_does_not_depend_on_how_the_bytes_arrive(
    chunk_bytes: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(whole_windows, "_LEAST_LOOKS", 200)
    data = falling(300) + falling(300)
    given, found = whole(data, chunk_bytes=1 << 30)
    again, pieces = whole(data, chunk_bytes=chunk_bytes)
    assert (given, found.damages, found._looks) == (again, pieces.damages, pieces._looks)
    assert found._looks > 200


def test_a_window_that_is_there_again_is_found_among_the_last_ones() -> None:
    rows = [(0, 24, number, number) for number in range(RECENT_WINDOWS + 1)]
    recent = whole_windows._Recent()
    recent.extend(rows[:1])
    recent.extend(rows)
    assert rows[0] not in recent
    assert all(row in recent for row in rows[1:])
    recent.extend(rows[1:2] * RECENT_WINDOWS)
    assert (rows[1] in recent, rows[2] in recent) == (True, False)
    recent.clear()
    assert rows[1] not in recent
