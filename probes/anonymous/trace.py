"""Copy xentrace's output, record by record: addresses are shifted, unknown contents emptied, lengths stay.

A trace has no names, but guests can write records of their own (HVMOP_xentrace), and what a device or a page
table was given may be anything: such words become 0.  No figure of a report is made of them.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import BinaryIO

from xtrace.probes.anonymous.addresses import Shift
from xtrace.probes.catalog.lookup import readings
from xtrace.probes.errors import TraceError
from xtrace.probes.event_ids import PV_BASE, PV_HYPERCALL_SUBCALL, PV_HYPERCALL_V2
from xtrace.probes.format import (
    EVENT_MASK,
    EXTRA_MASK,
    EXTRA_SHIFT,
    GUEST_CLASS_BIT,
    MAX_WINDOW_BYTES,
    TIMED_BIT,
    WINDOW_HEADER,
    WINDOW_HEADER_BYTES,
    WORD_BYTES,
)
from xtrace.probes.reader.ahead import Source
from xtrace.probes.reader.sources import read_into

#: Fields that are addresses, and fields that may hold anything.
_ADDRESSES = frozenset(("rip", "va", "addr", "cr2", "frame", "linear"))
_ANYTHING = frozenset(("data", "value", "write_val", "gl1e", "pte"))
_HYPERCALLS = frozenset((PV_BASE + PV_HYPERCALL_V2, PV_HYPERCALL_SUBCALL))
_IRET, _OPERATION = 23, 0xFFFFF


@dataclass(slots=True)
class Counts:
    """What was done.

    Attributes:
        records: all of them.
        shifted: addresses.
        emptied: records in which words became 0.
    """

    records: int = 0
    shifted: int = 0
    emptied: int = 0


@dataclass(frozen=True, slots=True)
class _Plan:
    """What to do with the records of a shape: places of words after the header and the time."""

    wide: tuple[int, ...] = ()
    narrow: tuple[int, ...] = ()
    emptied: tuple[int, ...] = ()
    is_hypercall: bool = False


def copy(source: Source, target: BinaryIO, shift: Shift, name: str) -> Counts:
    """Copy a trace.

    Raises:
        TraceError: it is damaged, so that an address in it could be missed.
    """
    counts, plans, at = Counts(), dict[int, _Plan](), 0
    header = bytearray(WINDOW_HEADER_BYTES)
    while got := read_into(source, memoryview(header), name):
        words = memoryview(header).cast("I")
        whole = got == len(header)
        if whole and (words[0] != WINDOW_HEADER or words[2] > MAX_WINDOW_BYTES or words[2] % WORD_BYTES):
            raise _damaged(name, at)
        target.write(header[:got])
        if not whole:
            break  # cut in the middle of a header, which holds no address
        window = bytearray(words[2])
        filled = read_into(source, memoryview(window), name)
        is_last = filled < len(window)
        used = _rewrite(window, filled // WORD_BYTES, shift, plans, counts)
        if used * WORD_BYTES < filled and not is_last:
            raise _damaged(name, at + WINDOW_HEADER_BYTES + used * WORD_BYTES)
        # A last record that was cut: only its header, if that is there.
        kept = min(filled, (used + 1) * WORD_BYTES) if is_last else filled
        window[kept:filled] = bytes(filled - kept)
        target.write(window[:filled])
        at += WINDOW_HEADER_BYTES + filled
    return counts


def _damaged(name: str, at: int) -> TraceError:
    return TraceError(
        f"{name}: damaged at byte {at:,}: an address there could be missed, so there is no copy; "
        "xtrace report says what can be read"
    )


def _rewrite(window: bytearray, length: int, shift: Shift, plans: dict[int, _Plan], counts: Counts) -> int:
    """Rewrite the records in the first ``length`` words; return how many words are whole records."""
    words = memoryview(window).cast("I")
    at = 0
    while at < length:
        header = words[at]
        extra = header >> EXTRA_SHIFT & EXTRA_MASK
        first = at + (3 if header & TIMED_BIT else 1)
        if first + extra > length:
            return at
        plan = plans.get(header)
        if plan is None:
            plan = plans[header] = _plan(header)
        if plan is not _NOTHING:
            _apply(plan, words, first, extra, shift, counts)
        counts.records += 1
        at = first + extra
    return at


def _apply(plan: _Plan, words: memoryview, first: int, extra: int, shift: Shift, counts: Counts) -> None:
    for place in plan.wide:
        moved = shift.wide(words[first + place] | words[first + place + 1] << 32)
        words[first + place], words[first + place + 1] = moved & 0xFFFF_FFFF, moved >> 32
    for place in plan.narrow:
        words[first + place] = shift.narrow(words[first + place])
    for place in plan.emptied:
        words[first + place] = 0
    if plan.is_hypercall and extra > 1 and words[first] & _OPERATION == _IRET:
        # The one argument that is an address: the frame that iret returns from.
        words[first + 1] = shift.narrow(words[first + 1])
        counts.shifted += 1
    counts.shifted += len(plan.wide) + len(plan.narrow)
    counts.emptied += bool(plan.emptied)


_NOTHING = _Plan()


def _plan(header: int) -> _Plan:
    """Return what to do with records of a shape, whichever version of Xen wrote them."""
    event, extra = header & EVENT_MASK, header >> EXTRA_SHIFT & EXTRA_MASK
    found = readings(event, extra, bool(header & TIMED_BIT))
    if not found or event & GUEST_CLASS_BIT:
        return _Plan(emptied=tuple(range(extra))) if extra else _NOTHING
    fields = {field for _, layout in found for field in layout.present(extra)}

    def places(is_wanted: Callable[[str], bool], words: int) -> tuple[int, ...]:
        return tuple(
            sorted(
                {one.word for one in fields if is_wanted(one.name) and one.words == words and not one.shift}
            )
        )

    emptied = {place + 1 for place in places(_ANYTHING.__contains__, 2)}
    emptied |= {place for size in (1, 2) for place in places(_ANYTHING.__contains__, size)}
    plan = _Plan(
        places(_ADDRESSES.__contains__, 2), places(_ADDRESSES.__contains__, 1), tuple(sorted(emptied)),
        event in _HYPERCALLS,
    )  # fmt: skip
    return _NOTHING if plan == _NOTHING else plan
