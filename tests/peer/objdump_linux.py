"""Find the accesses of a Linux kernel in objdump's listing of it.

The listing has millions of lines, so only the lines around per-CPU and shared_info references are read, and
the parts (such as ``.cold``) that these jump to with known register values.  Three instructions that occur
nowhere else give the layout: the byte store and byte test of xen_irq_enable_direct, the load of the table of
per-CPU bases next to the area's address, and the store of one CPU's area to its pointer.
"""

from __future__ import annotations

import re
from dataclasses import replace

import numpy as np

from peer.objdump import Access, Layout, State, Tracker, instructions

_WINDOW_LINES = 4000
_LINES_BEFORE = 40
_MAX_PARTS = 10_000
_AREA_TEST = re.compile(rb"testb +\$0xff,%gs:0x([0-9a-f]+)\n")
_BASES = re.compile(r"mov +(-?0x[0-9a-f]+)\(,%r\w+,8\),%r")
_ADDITION = re.compile(r"add +-?0x[0-9a-f]+\(%rip\),%r\w+ +# 0x([0-9a-f]+)")
_PADDING = b"\tint3"


class Listing:
    """The lines of a listing, sliced on demand."""

    def __init__(self, text: bytes) -> None:
        self.text = text
        self._ends = np.flatnonzero(np.frombuffer(text, np.uint8) == ord("\n"))

    def __len__(self) -> int:
        return len(self._ends)

    def line(self, number: int) -> bytes:
        """Return a line without its line end."""
        start = int(self._ends[number - 1]) + 1 if number else 0
        return self.text[start : int(self._ends[number])]

    def lines(self, start: int, end: int) -> list[str]:
        """Return the lines of a range, which may extend beyond the listing."""
        return [self.line(i).decode("ascii", "replace") for i in range(max(start, 0), min(end, len(self)))]

    def lines_with(self, pattern: re.Pattern[bytes]) -> list[int]:
        """Return the numbers of the lines in which a pattern matches."""
        places = [match.start() for match in pattern.finditer(self.text)]
        return sorted({int(number) for number in np.searchsorted(self._ends, places)})

    def line_of(self, address: int) -> int | None:
        """Return the line of an instruction."""
        numbers = self.lines_with(re.compile(rb"^ *%x:\t" % address, re.MULTILINE))
        return numbers[0] if numbers else None

    def function_end(self, start: int) -> int:
        """Return the line where the padding after a function begins, or where a window ends."""
        end = min(start + _WINDOW_LINES, len(self))
        for number in range(start + 1, end):
            if self.line(number).endswith(_PADDING) and self.line(number - 1).endswith(_PADDING):
                return number
        return end


def find_linux_accesses(text: bytes) -> list[Access]:
    """Return the accesses to event fields in the listing of a Linux kernel for x86-64.

    Raises:
        ValueError: one of the three instructions is missing or not unique.
    """
    listing = Listing(text)
    layout = _learned(listing)
    accesses: set[Access] = set()
    away: dict[int, State] = {}
    end = -1
    for hit in listing.lines_with(_mentions(_roots(layout))):
        if hit >= end:
            start, end = max(hit - _LINES_BEFORE, end, 0), listing.function_end(hit)
            accesses.update(_read_part(layout, listing.lines(start, end), away, {}))
    seen: set[int] = set()
    while away and len(seen) < _MAX_PARTS:
        target, state = away.popitem()
        first = listing.line_of(target) if target not in seen else None
        seen.add(target)
        if first is not None:
            lines = listing.lines(first, listing.function_end(first))
            accesses.update(_read_part(layout, lines, away, {target: state}))
    return sorted(accesses)


def _read_part(
    layout: Layout, lines: list[str], away: dict[int, State], waiting: dict[int, State]
) -> list[Access]:
    """Return the accesses in a range of lines; add jump targets with known register values to ``away``."""
    part = list(instructions(lines))
    tracker = Tracker(layout)
    tracker.waiting.update(waiting)
    found = list(tracker.run(part))
    if part:
        for target, state in tracker.waiting.items():
            held = {*state.registers.values(), *state.slots.values()}
            telling = any(
                what == "vcpu" or (what, offset) == ("constant", layout.pointer) for what, offset in held
            )
            if telling and not part[0].address <= target <= part[-1].address:
                away.setdefault(target, state)
    return found


def _learned(listing: Listing) -> Layout:
    stored = set()
    for number in listing.lines_with(_AREA_TEST):
        test = _AREA_TEST.search(listing.line(number) + b"\n")
        if test and b"movb   $0x0,%%gs:0x%x" % (int(test[1], 16) + 1) in listing.line(number - 1):
            stored.add(int(test[1], 16))
    area = _only(stored, "xen_irq_enable_direct")
    loads = listing.lines_with(re.compile(rb"mov    \$0x%x,%%r" % area))
    near = [line for number in loads for line in listing.lines(number, number + 8)]
    bases = {int(match[1], 0) for line in near if (match := _BASES.search(line))}
    layout = Layout(area=area, cpu_bases=_only(bases, "table of per-CPU bases") & 0xFFFF_FFFF_FFFF_FFFF)
    pointers: set[int] = set()
    for number in loads:
        tracker = Tracker(layout)
        list(tracker.run(instructions(listing.lines(number - _LINES_BEFORE, number + 80))))
        pointers.update(offset for offset, _ in tracker.stores)
    pointer = _only(pointers, "per-CPU pointer to the area")
    shared = set()
    for number in listing.lines_with(_mentions([pointer])):
        following = "\n".join(listing.lines(number, number + 4))
        addition = _ADDITION.search(following)
        if addition and "shl    $0x6" in following:
            shared.add(int(addition[1], 16))
    return replace(layout, pointer=pointer, shared_pointers=tuple(shared))


def _only(found: set[int], what: str) -> int:
    if len(found) != 1:
        raise ValueError(f"no single {what}: {sorted(found)}")
    return found.pop()


def _roots(layout: Layout) -> list[int]:
    assert layout.area is not None
    assert layout.pointer is not None
    return [layout.area, layout.area + 1, layout.area + 8, layout.pointer, *layout.shared_pointers]


def _mentions(values: list[int]) -> re.Pattern[bytes]:
    return re.compile(rb"0x(?:%s)\b" % b"|".join(b"%x" % value for value in values))
