"""Make a trace of a host with core scheduling."""

from __future__ import annotations

from xtrace.probes.reader.writer import pack_record, pack_window
from xtrace.probes.xen_abi import IDLE_DOMAIN

IDLE = [IDLE_DOMAIN << 16 | pcpu for pcpu in (0, 1)]
#: Two pairs of vCPUs that take turns.
ONE, OTHER = [1 << 16, 1 << 16 | 1], [1 << 16 | 2, 1 << 16 | 3]
START = 1 << 40
BLOCKS, RUNS, HYPERCALL = 0x21021, 0x21101, 0x20F00D


def cores(turns: int = 40) -> bytes:
    """Return a trace in which pCPU 0 writes the switches of pCPU 1, too.

    The idle vCPU of pCPU 1, which shows it, does not run in the first half.
    """
    records = []
    running = ONE
    for turn in range(turns):
        if running == OTHER:
            following = ONE if turn < turns // 2 else IDLE
        else:
            following = OTHER
        for old, new in zip(running, following, strict=True):
            records += [
                pack_record(event, START + 1000 * turn, (vcpu,))
                for event, vcpu in ((BLOCKS, old), (RUNS, new))
            ]
        running = following
    calls = (pack_record(HYPERCALL, START + tsc, (17,)) for tsc in range(0, 1000 * turns, 500))
    return pack_window(0, b"".join(records)) + pack_window(1, b"".join(calls))
