"""Windows of pCPUs whose TSCs are far apart are whole; a record far after all others is not."""

from __future__ import annotations

import pytest

from builders.hosts import HOSTS
from builders.restarted import suspended
from builders.shifted import shifted
from oracle.intact import assert_same_whole, whole
from oracle.reader import frame
from xtrace.probes.intact.whole_windows import WholeWindows
from xtrace.probes.reader.writer import pack_record, pack_window

SECOND = 2_600_000_000
FAR = "the TSC of its last record is far after all others"


def passed(data: bytes, chunk_bytes: int) -> WholeWindows:
    """Return what was found in a trace; the reader must find the same."""
    assert_same_whole(data, chunk_bytes=chunk_bytes)
    return whole(data, chunk_bytes=chunk_bytes)[1]


@pytest.mark.parametrize("apart", [SECOND, 3600 * SECOND, 90 * 86400 * SECOND])
@pytest.mark.parametrize("ahead", [0, 1, 2])
@pytest.mark.parametrize("host", HOSTS)
def test_clocks_far_apart(host: str, ahead: int, apart: int) -> None:
    data = shifted(HOSTS[host](3), {ahead: apart})
    windows = passed(data, 4096)
    assert (windows.damages, windows.given_bytes) == ([], len(data))


@pytest.mark.parametrize("host", ["calm", "lossy"])
@pytest.mark.parametrize("share", [0.02, 0.1, 0.5, 0.9])
def test_a_suspend_in_the_middle_of_windows(host: str, share: float) -> None:
    data, *_ = suspended(HOSTS[host](6), share)
    assert (passed(data, 4096).damages, len(frame(data).windows)) == ([], passed(data, 1000).windows)


def window(pcpu: int, *tscs: int) -> bytes:
    return pack_window(pcpu, b"".join(pack_record(0x21101, tsc, (1 << 16,)) for tsc in tscs))


@pytest.mark.parametrize(
    "windows",
    [
        # The pCPU goes on where it was.
        [window(0, 10, 20), window(1, 11, 1 << 50), window(0, 30, 40), window(1, 31, 41), window(0, 50, 60)],
        [window(0, 10, 20), window(1, 1 << 50, (1 << 50) + 1), window(0, 30, 40), window(1, 31, 41)],
        # A single record shows nothing.
        [window(0, 10, 20), window(1, 1 << 50), window(0, 30, 40), window(2, 31, 41)],
        # Nor does the end of a window whose beginning is like the others.
        [window(0, 10, 20), window(1, 11, 1 << 50, (1 << 50) + 1), window(0, 30, 40), window(0, 50, 60)],
    ],
)
def test_damage_far_after_all_others(windows: list[bytes]) -> None:
    found = passed(b"".join(windows), 1)
    assert [(damage.offset, damage.reason) for damage in found.damages] == [(len(windows[0]), FAR)]
    assert found.windows == len(windows) - 1
