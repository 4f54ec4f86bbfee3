"""Traces that are valid and built to be expensive: each fills a table, or overflows a sum, of the program.

A shape takes a generator of random numbers and a size; it returns a trace of about that size.
"""

from __future__ import annotations

import itertools
import random
import struct
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from xtrace.probes import event_ids as ids
from xtrace.probes.format import LOST_RECORDS, MAX_PCPUS
from xtrace.probes.reader.writer import pack_record, pack_window

U32 = npt.NDArray[np.uint32]
_TIMED = 1 << 31
_WINDOW_BYTES = 60_000
_RUNNING, _RUNNABLE, _BLOCKED = 0, 1, 2
_TRAP = ids.PV_BASE | ids.WIDE | ids.PV_TRAP


def records(
    event: int, tscs: npt.NDArray[np.uint64] | None, words: Sequence[npt.ArrayLike], count: int
) -> U32:
    """Return ``count`` records as rows of words: header, TSC if there are any, extra words."""
    columns: list[npt.ArrayLike] = [event | len(words) << 28 | (_TIMED if tscs is not None else 0)]
    if tscs is not None:
        columns += [tscs & np.uint64(0xFFFF_FFFF), tscs >> np.uint64(32)]
    rows = np.empty((count, len(columns) + len(words)), np.uint32)
    for place, column in enumerate((*columns, *words)):
        rows[:, place] = column
    return rows


def windows(content: bytes, record_bytes: int, pcpus: int = 1) -> bytes:
    """Return records of one size in windows of a pCPU, or of several in turn."""
    size = _WINDOW_BYTES // record_bytes * record_bytes
    return b"".join(
        pack_window(number % pcpus, content[begin : begin + size])
        for number, begin in enumerate(range(0, len(content), size))
    )


def _ticks(count: int, step: int = 1000) -> npt.NDArray[np.uint64]:
    return np.arange(1, count + 1, dtype=np.uint64) * np.uint64(step) + np.uint64(1 << 20)


def _numbers(chance: random.Random, count: int) -> U32:
    return np.random.default_rng(chance.getrandbits(32)).integers(0, 1 << 32, count, np.uint32)


def runstate(old: int, new: int) -> int:
    """Return the id of a runstate change."""
    return ids.RUNSTATE_CHANGE | old << 8 | new << 4


def _woken(vcpu: int = 1 << 16, tsc: int = 1000) -> bytes:
    """Return the records with which a vCPU begins to run on a pCPU."""
    return pack_record(runstate(_RUNNABLE, _RUNNING), tsc, (vcpu,))


def irqs(chance: random.Random, size: int) -> bytes:
    """Each record is of another irq, and handled in another time."""
    count = size // 24
    tscs = _ticks(count)
    low = (tscs & np.uint64(0xFFFF_FFFF)).astype(np.uint32)
    spent = _numbers(chance, count) >> np.uint32(chance.randrange(4, 20))
    rows = records(ids.HW_IRQ_HANDLED, tscs, (np.arange(count), low - spent, low), count)
    return windows(rows.tobytes(), 24, chance.choice((1, 2, 8)))


def pcpus(chance: random.Random, size: int) -> bytes:
    """A window of one or two records for each pCPU that there can be, again and again."""
    made = bytearray()
    tsc = 1000
    number = 0
    for number in itertools.cycle(chance.sample(range(MAX_PCPUS), MAX_PCPUS)):
        tsc += chance.randrange(1, 5000)
        made += pack_window(number, _woken(chance.randrange(1, 9) << 16 | number & 0xFF, tsc))
        if len(made) >= size:
            return bytes(made)
    return bytes(made)


def vcpus(chance: random.Random, size: int) -> bytes:
    """Runstates of every domain's vCPU 0, or of chosen ids."""
    count = size // 16
    ids_: npt.NDArray[Any] = np.arange(count, dtype=np.uint32)
    kind = chance.randrange(4)
    if kind == 0:
        ids_ = ids_ % 0x7FF0 << 16
    elif kind == 1:
        ids_ = (ids_ & 0x7FFF) << 16 | (ids_ >> 15)
    elif kind == 2:
        inverse = np.uint64(pow(0x9E37_79B1, -1, 1 << 32))
        ids_ = (ids_.astype(np.uint64) * inverse & np.uint64(0x7FEF_FFFF)).astype(np.uint32)
    else:
        ids_ = _numbers(chance, count)
    events = [runstate(*chance.sample(range(4), 2)) for _ in range(3)] + [ids.WAKE, ids.BLOCK]
    rows = records(0, _ticks(count, chance.choice((1, 1000, 1 << 30))), (ids_,), count)
    for place in range(len(events)):
        rows[place :: len(events), 0] = events[place] | 1 << 28 | _TIMED
    return windows(rows.tobytes(), 16, chance.choice((1, 1, 4)))


def rips(chance: random.Random, size: int) -> bytes:
    """Each record is at another RIP, chosen to collide in a table whose hash is a known product."""
    count = size // 24
    number = np.arange(count, dtype=np.uint64)
    kind = chance.randrange(3)
    if kind == 0:
        number *= np.uint64(pow(0x9E37_79B9_7F4A_7C15, -1, 1 << 64))
    elif kind == 1:
        number <<= np.uint64(chance.choice((12, 20, 40)))
    else:
        number = np.random.default_rng(chance.getrandbits(32)).integers(0, 1 << 63, count, np.uint64)
    low, high = number & np.uint64(0xFFFF_FFFF), number >> np.uint64(32)
    rows = records(_TRAP, _ticks(count), (low, high, 14), count)
    if chance.random() < 0.5:
        rows = records(ids.HVM_VMX_EXIT | ids.WIDE, _ticks(count), (1, low, high), count)
    return pack_window(0, _woken()) + windows(rows.tobytes(), 24)


def losses(chance: random.Random, size: int) -> bytes:
    """A flood of lost records: timed, untimed, of one pCPU or many, that overlap or begin anywhere."""
    kind = chance.randrange(4)
    many = chance.choice((1, 2, 64, 4096, MAX_PCPUS))
    count = size // (28 if many == 1 else 52)
    tscs = _ticks(count, chance.choice((1, 1000, 0)))
    begins = tscs - np.uint64(500) if kind < 2 else np.full(count, 1 << chance.randrange(63), np.uint64)
    words: list[npt.ArrayLike] = [
        chance.choice((1, 0xFFFF_FFFF)),
        _numbers(chance, count) if kind % 2 else 0,
        begins & np.uint64(0xFFFF_FFFF),
        begins >> np.uint64(32),
    ]
    rows = records(LOST_RECORDS, tscs, words, count)
    if many == 1:
        return windows(rows.tobytes(), 28)
    lines = [row.tobytes() for row in rows]
    wake = pack_record(runstate(_BLOCKED, _RUNNABLE), None, (1 << 16,))
    tail = wake if chance.random() < 0.3 else b""
    return b"".join(pack_window(number % many, line + tail) for number, line in enumerate(lines))


def untimed_losses(chance: random.Random, _size: int) -> bytes:
    """One or two windows that begin with a loss that has no time."""
    words = tuple(chance.choice((0, 1, 0xFFFF_FFFF)) for _ in range(chance.randrange(8)))
    lost = pack_record(LOST_RECORDS, chance.choice((None, None, 0, 1, 1 << 63)), words)
    more = chance.choice((b"", lost, _woken(), pack_record(ids.WAKE, 1000, (1 << 16,))))
    return pack_window(chance.choice((0, 0, 5)), lost + more)


def histograms(chance: random.Random, size: int) -> bytes:
    """Many tallies of times, each with times in every octave: most memory for the fewest bytes."""
    made = bytearray()
    tsc = 1 << 33
    wanted = max(size // (24 * 31), 1)
    for irq in range(wanted):
        content = bytearray()
        for octave in range(31):
            tsc += 1 << 12
            spent = 1 << octave
            content += pack_record(
                ids.HW_IRQ_HANDLED, tsc, (irq, (tsc - spent) & 0xFFFF_FFFF, tsc & 0xFFFF_FFFF)
            )
        made += pack_window(irq % chance.choice((1, 2)), bytes(content))
    return bytes(made)


def long_times(chance: random.Random, size: int) -> bytes:
    """Intervals so long that the sum of a few exceeds 63 bits, at TSCs that go back again."""
    most = (1 << 62) - 1
    made, tsc = bytearray(), 0
    vcpu = 1 << 16
    while len(made) < min(size, 200_000):
        begin = chance.randrange(1, 1000)
        tsc = most - chance.randrange(1000)
        exits = chance.random() < 0.5
        content = _woken(vcpu, begin)
        if exits:
            content += pack_record(ids.HVM_VMX_EXIT | ids.WIDE, begin + 1, (1, 0, 0))
            content += pack_record(ids.HVM_VMENTRY, tsc)
        else:
            content += pack_record(runstate(_RUNNING, _BLOCKED), tsc, (vcpu,))
            content += pack_record(runstate(_BLOCKED, _RUNNABLE), tsc + 1, (vcpu,))
        made += pack_window(chance.choice((0, 0, 1)), content)
    return bytes(made)


def event_ids(chance: random.Random, size: int) -> bytes:
    """Every record has another id and length."""
    made, content = bytearray(), bytearray()
    tsc = 1000
    while len(made) < size:
        tsc += 10
        event = chance.choice((0x0800_0000, 0x10000, 0x20000, 0x80000, 0x200000)) | chance.getrandbits(16)
        if event not in (0x1F003, LOST_RECORDS):
            content += pack_record(event, tsc, (chance.getrandbits(32),) * chance.randrange(8))
        if len(content) > _WINDOW_BYTES:
            made += pack_window(0, bytes(content))
            content.clear()
    return bytes(made)


def restarts(chance: random.Random, size: int) -> bytes:
    """TSCs that go back in every window."""
    made = bytearray()
    tsc = 1 << 50
    while len(made) < min(size, 1 << 20):
        tsc = chance.choice((tsc + 1000, max(tsc - (1 << 40), 1), 1 << chance.randrange(62), 1))
        made += pack_window(chance.choice((0, 0, 1, 7)), _woken(tsc=tsc) + _woken(2 << 16, tsc + 10))
    return bytes(made)


def falls(chance: random.Random, size: int) -> bytes:
    """Single records of many pCPUs, each of which seems to show that the TSC has restarted."""
    made = bytearray()
    tsc, count = 1 << 60, chance.choice((64, 1024, MAX_PCPUS))
    while len(made) < size:
        tsc -= 1 << 40
        for number in range(count):
            made += pack_window(number, _woken(tsc=tsc + number))
    return bytes(made[:size])


def ports(chance: random.Random, size: int) -> bytes:
    """Events on every port between every pair of vCPUs, of a Xen that records delivery."""
    count = size // 24
    numbers = _numbers(chance, count)
    rows = records(
        ids.EVTCHN_NOTIFY,
        _ticks(count),
        (numbers & np.uint32(0x7FFF_00FF), np.arange(count) % 0x7FF0 << 16, numbers & np.uint32(0xFFFFF)),
        count,
    )
    return windows(rows.tobytes(), 24)


def losses_of_all(chance: random.Random, size: int, vcpus: int) -> bytes:
    """A state for each of so many vCPUs, and then losses of one pCPU or of some."""
    numbers = np.arange(1, vcpus + 1, dtype=np.uint32)
    keys: U32 = numbers << np.uint32(16) if chance.random() < 0.5 else numbers + np.uint32(1 << 16)
    states = records(runstate(_RUNNABLE, _BLOCKED), _ticks(vcpus), (keys,), vcpus)
    count = size // 28
    tscs = _ticks(count) + np.uint64(vcpus * 1000)
    begins = tscs - np.uint64(500)
    words = (1, keys[0] >> 16, begins & np.uint64(0xFFFF_FFFF), begins >> np.uint64(32))
    lost = records(LOST_RECORDS, tscs, words, count).tobytes()
    return windows(states.tobytes(), 16) + windows(lost, 28, chance.choice((1, 1, 4)))


def calm(chance: random.Random, size: int, vcpus: int, cycles: int) -> bytes:
    """Thousands of vCPUs that wait, and then one record in N cycles, which changes nothing else."""
    numbers = np.arange(1, vcpus + 1, dtype=np.uint32)
    states = records(runstate(_BLOCKED, _RUNNABLE), _ticks(vcpus), (numbers << np.uint32(16),), vcpus)
    count = size // 20
    tscs = _ticks(count, cycles) + np.uint64(vcpus * 1000)
    rare = records(ids.WAKE, tscs, (1, 1), count)
    return windows(states.tobytes(), 16) + windows(rare.tobytes(), 20, chance.choice((1, 1, 4)))


def zeros(size: int) -> bytes:
    """Windows of which all records are zeros."""
    return pack_window(0, bytes(_WINDOW_BYTES)) * (size // _WINDOW_BYTES)


def spread(size: int) -> bytes:
    """Interrupts of which each has a time in every octave, all in one window after another."""
    count = size // 24
    tscs = _ticks(count, 1 << 12) + np.uint64(1 << 33)
    low = (tscs & np.uint64(0xFFFF_FFFF)).astype(np.uint32)
    number = np.arange(count, dtype=np.uint32)
    spent = np.uint32(1) << (number % np.uint32(31))
    return windows(records(ids.HW_IRQ_HANDLED, tscs, (number // 31, low - spent, low), count).tobytes(), 24)


def distinct_rips(size: int) -> bytes:
    """Traps, each at another RIP."""
    count = size // 24
    rows = records(_TRAP, _ticks(count), (np.arange(count), 0, 14), count)
    return pack_window(0, _woken()) + windows(rows.tobytes(), 24)


#: The factor of hash tables that are not keyed: soak.reverts puts it where the secret is.
KNOWN_FACTOR = 0x9E37_79B1


def same_slot(count: int, slot_bits: int, most: int) -> U32:
    """Return ids below ``most`` that belong into few slots of a table of 2^slot_bits, by the known factor."""
    turns = most * KNOWN_FACTOR >> 32 + slot_bits
    number = np.arange(count, dtype=np.uint64)
    places = (number % np.uint64(turns) << np.uint64(slot_bits)) + number // np.uint64(turns)
    return ((places << np.uint64(32)) // np.uint64(KNOWN_FACTOR) + np.uint64(1)).astype(np.uint32)


def colliding(chance: random.Random, size: int, which: str) -> bytes:
    """Ids of vCPUs, of interrupts or RIPs that belong into few slots of the tables for them."""
    if which == "vcpus":
        count = size // 16
        chosen = same_slot(40_000, 17, 0x7FF0_0000)[np.arange(count) % 40_000]
        rows = records(runstate(_RUNNABLE, _BLOCKED), _ticks(count), (chosen,), count)
        return windows(rows.tobytes(), 16)
    chosen = same_slot(size // 24, 20, 1 << 32)
    count = len(chosen)
    tscs = _ticks(count)
    if which == "irqs":
        low = (tscs & np.uint64(0xFFFF_FFFF)).astype(np.uint32)
        spent = _numbers(chance, count) >> np.uint32(20)
        return windows(records(ids.HW_IRQ_HANDLED, tscs, (chosen, low - spent, low), count).tobytes(), 24)
    rows = records(_TRAP, tscs, (chosen, 0, 14), count)
    return pack_window(0, _woken()) + windows(rows.tobytes(), 24)


SHAPES: dict[str, Callable[[random.Random, int], bytes]] = {
    shape.__name__: shape
    for shape in (
        irqs, pcpus, vcpus, rips, losses, untimed_losses, histograms, long_times, event_ids, restarts, falls,
        ports,
    )
}  # fmt: skip


def in_turn(chance: random.Random, size: int) -> Iterator[tuple[str, bytes]]:
    """Yield the shapes by name, over and over."""
    while True:
        for name, shape in SHAPES.items():
            yield name, shape(chance, size)


def tail_calls(count: int) -> bytes:
    """Return code of ``count`` functions, each of which ends with a jump to the one after it."""
    begin = b"\x53" + b"\xc6\x43\x01\x01" + b"\x5b"
    return b"".join(begin + b"\xe9" + struct.pack("<i", 1) + b"\xc3" for _ in range(count)) + b"\xc3"
