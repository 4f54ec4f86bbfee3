"""A trace of an HVM guest with two vCPUs on VMX, for which Xen emulates ports, memory, cr3 and local APICs.

No bundled trace has such records, so these are made; `xenalyze` reads them, too.  All times are cycles after
BEGIN, and every figure that a test expects can be read off ``trace()``.
"""

from __future__ import annotations

from collections.abc import Sequence

from xtrace.probes.reader.writer import pack_record, pack_window

BEGIN = 1_000_000
DOMAIN = 1
#: VMX: external interrupt, CR access, I/O, WRMSR, APIC access, EPT violation, HLT.
INTERRUPT, HALT, CR, PORT, WRMSR, APIC, EPT = 1, 12, 28, 30, 32, 44, 48
RIP = 0x1234_5678
_ENTRY, _EXIT = 0x81001, 0x81102
_INJECT, _CR_WRITE, _INTR, _HLT = 0x82004, 0x82109, 0x8200F, 0x82013
_PORT_READ, _PORT_WRITE, _MEMORY_READ, _MEMORY_WRITE = 0x82016, 0x82216, 0x82017, 0x82217
_WAKE = 0x28004
RUNNING, RUNNABLE, BLOCKED = 0, 1, 2


class Pcpu:
    """The records that one pCPU writes."""

    def __init__(self, vcpu: int) -> None:
        self.data = bytearray()
        self._vcpu = vcpu

    def timed(self, at: int, event: int, *words: int) -> None:
        self.data += pack_record(event, BEGIN + at, words)

    def handler(self, event: int, *words: int) -> None:
        self.data += pack_record(event, None, words)

    def runstate(self, at: int, old: int, new: int) -> None:
        self.timed(at, 0x21001 | old << 8 | new << 4, DOMAIN << 16 | self._vcpu)

    def exit(self, at: int, reason: int, handlers: Sequence[tuple[int, ...]], entry: int | None) -> None:
        """Write an exit with records of its handlers, and the entry after it."""
        self.timed(at, _EXIT, reason, RIP + at, 0)
        for event, *words in handlers:
            self.handler(event, *words)
        if entry is not None:
            self.timed(entry, _ENTRY)


def trace() -> bytes:
    first, second = Pcpu(0), Pcpu(1)
    for pcpu in (first, second):
        pcpu.runstate(0, RUNNABLE, RUNNING)
        pcpu.exit(100, INTERRUPT, [(_INTR, 0xFA)], 150)
    # Ports: 0x3f8 twice read in 300 and 500, once written in 200; 0x70 written in 100.
    first.exit(1000, PORT, [(_PORT_READ, 0x3F8, 0x61)], 1300)
    first.exit(2000, PORT, [(_PORT_READ, 0x3F8, 0x62)], 2500)
    first.exit(3000, PORT, [(_PORT_WRITE, 0x3F8, 0x0D)], 3200)
    first.exit(4000, PORT, [(_PORT_WRITE, 0x70, 0x0A)], 4100)
    # Memory: 0xfed00000 read in 700, 0xfed000f0 written in 900.
    first.exit(5000, EPT, [(_MEMORY_READ, 0xFED0_0000, 1)], 5700)
    first.exit(6000, EPT, [(_MEMORY_WRITE, 0xFED0_00F0, 2)], 6900)
    # Page tables: 0x1000 from 7200 to 8300, with one flush, 0x2000 from then to 9400, and 0x1000 again.
    first.exit(7000, CR, [(_CR_WRITE, 3, 0x1000, 0)], 7200)
    first.exit(7500, CR, [(_CR_WRITE, 3, 0x1000, 0)], 7600)
    first.exit(8000, CR, [(_CR_WRITE, 3, 0x2000, 0)], 8300)
    first.exit(9000, CR, [(_CR_WRITE, 3, 0x1000, 0)], 9400)
    # d1v0 sends vector 0xd1 to all others at 10000, and again at 10500; d1v1 gets it with its entry at 11000.
    first.exit(10_000, APIC, [(_MEMORY_WRITE, 0xFEE0_0300, 0xC_00D1)], 10_200)
    first.exit(10_500, APIC, [(_MEMORY_WRITE, 0xFEE0_0300, 0xC_00D1)], 10_600)
    second.exit(10_700, INTERRUPT, [(_INTR, 0xFB), (_INJECT, 0xD1, 0)], 11_000)
    # And vector 0xd2 to APIC id 2 alone, which is d1v1, by both halves of the ICR.
    first.exit(12_000, APIC, [(_MEMORY_WRITE, 0xFEE0_0310, 0x0200_0000)], 12_100)
    first.exit(12_500, APIC, [(_MEMORY_WRITE, 0xFEE0_0300, 0xD2)], 12_600)
    second.exit(12_700, INTERRUPT, [(_INTR, 0xFB), (_INJECT, 0xD2, 0)], 13_000)
    # d1v1 halts, is woken at 20000, gets vector 0x31 at 20500, and halts again at 24000.
    second.exit(14_000, HALT, [(_HLT, 0)], None)
    second.runstate(14_100, RUNNING, BLOCKED)
    second.timed(20_000, _WAKE, DOMAIN, 1)
    second.runstate(20_100, BLOCKED, RUNNABLE)
    second.runstate(20_200, RUNNABLE, RUNNING)
    second.handler(_INJECT, 0x31, 0)
    second.timed(20_500, _ENTRY)
    second.exit(23_000, HALT, [(_HLT, 0)], None)
    second.runstate(24_000, RUNNING, BLOCKED)
    # A device model's port 0x1f7: d1v0 waits from 30100 to 35000, and reads it when it runs again.
    first.exit(30_000, PORT, [], None)
    first.runstate(30_100, RUNNING, BLOCKED)
    first.timed(34_000, _WAKE, DOMAIN, 0)
    first.runstate(34_100, BLOCKED, RUNNABLE)
    first.runstate(35_000, RUNNABLE, RUNNING)
    first.handler(_PORT_READ, 0x1F7, 0x50)
    first.timed(35_200, _ENTRY)
    first.exit(40_000, INTERRUPT, [(_INTR, 0xFA)], 40_100)
    # Two accesses in one exit: the second one has its time.
    first.exit(41_000, PORT, [(_PORT_WRITE, 0x80, 1), (_PORT_WRITE, 0x81, 2)], 41_400)
    first.runstate(50_000, RUNNING, RUNNABLE)
    return pack_window(0, bytes(first.data)) + pack_window(1, bytes(second.data))
