"""Cut whole windows out of traces, as xentrace -M leaves them out."""

from __future__ import annotations

import random
from collections.abc import Callable

from oracle.reader import Record, Window, frame, read
from xtrace.probes.reader.writer import pack_record, pack_window


def without(data: bytes, leaves_out: Callable[[int, int, Window], bool]) -> bytes:
    """Return a trace without the windows for which ``leaves_out`` says so.

    Args:
        leaves_out: gets the number of a window, the number of all windows, and the window.
    """
    windows = frame(data).windows
    kept = [
        data[window.offset : window.offset + 12 + window.size]
        for number, window in enumerate(windows)
        if not leaves_out(number, len(windows), window)
    ]
    return b"".join(kept)


def middle(data: bytes, pcpu: int | None = None) -> bytes:
    """Return a trace without a fifth of its windows in the middle, of all pCPUs or of one."""
    return without(
        data, lambda number, count, window: 0.4 < number / count < 0.6 and pcpu in (None, window.pcpu)
    )


def at_random(data: bytes, seed: int, share: float = 0.2) -> bytes:
    """Return a trace without a random share of its windows."""
    chance = random.Random(seed)
    return without(data, lambda *_: chance.random() < share)


def in_one_round(data: bytes) -> bytes:
    """Return a trace with all windows of each pCPU in one, so that each pCPU is covered to the end."""
    bodies: dict[int, bytes] = {}
    for window in frame(data).windows:
        body = data[window.offset + 12 : window.offset + 12 + window.size]
        bodies[window.pcpu] = bodies.get(window.pcpu, b"") + body
    return b"".join(pack_window(pcpu, body) for pcpu, body in sorted(bodies.items()))


def rewindowed(data: bytes, seed: int, mean_records: int = 4) -> bytes:
    """Return the records of a trace in many small windows, with the pCPUs in turn."""
    chance = random.Random(seed)
    left: dict[int, list[Record]] = {}
    for record in read(data).records:
        left.setdefault(record.pcpu, []).append(record)
    made = b""
    while any(left.values()):
        for pcpu, records in sorted(left.items()):
            taken = [records.pop(0) for _ in range(min(chance.randrange(2 * mean_records), len(records)))]
            made += pack_window(
                pcpu,
                b"".join(
                    pack_record(each.event, each.tsc if each.timed else None, each.words) for each in taken
                ),
            )
    return made
