"""Which events to trace or to show: trace classes and sub-classes by name, and masks, as for xentrace -e."""

from __future__ import annotations

import re
from functools import reduce
from operator import or_

from xtrace.probes.format import TraceClass

CLASS_BITS = 0x0FFF_0000
ALL_SUBCLASSES = 0xF000
ALL = CLASS_BITS | ALL_SUBCLASSES

#: Masks by name; sub-class bits from Xen's public/trace.h.
NAMES = {
    **{str(bit.name).lower(): bit | ALL_SUBCLASSES for bit in TraceClass},
    "all": ALL,
    "sched_min": TraceClass.SCHED | 0x1000,
    "sched_class": TraceClass.SCHED | 0x2000,
    "sched_verbose": TraceClass.SCHED | 0x8000,
    "dom0op_domops": TraceClass.DOM0OP | 0x1000,
    "hvm_entryexit": TraceClass.HVM | 0x1000,
    "hvm_handler": TraceClass.HVM | 0x2000,
    "hvm_emul": TraceClass.HVM | 0x4000,
    "pv_entry": TraceClass.PV | 0x1000,
    "pv_subcall": TraceClass.PV | 0x2000,
    "hw_pm": TraceClass.HW | 0x1000,
    "hw_irq": TraceClass.HW | 0x2000,
    "hw_evtchn": TraceClass.HW | 0x4000,
}
_MASK = re.compile(r"0x[0-9a-f]{1,8}|[0-9]{1,10}", re.ASCII)


def event_masks(text: str) -> list[int]:
    """Return the mask of each word in ``sched,hvm``, ``sched+hw_irq``, ``gen,0x28000`` or ``all``.

    Raises:
        ValueError: a word is neither a name nor a mask, or its mask selects no event.
    """
    masks = []
    for word in re.split(r"[+,]", text.strip().lower()):
        mask = NAMES.get(word)
        if mask is None and _MASK.fullmatch(word):
            mask = int(word, 0) if word.startswith("0x") else int(word)
        if mask is None or mask > ALL:
            raise ValueError(f"{word!r} is none of {', '.join(NAMES)}, nor a mask such as 0x2f000")
        if not (mask & CLASS_BITS and mask & ALL_SUBCLASSES):
            raise ValueError(
                f"mask {word} selects no event: it needs class bits (0x0fff0000) and sub-class bits (0xf000)"
            )
        masks.append(int(mask))
    return masks


def event_mask(text: str) -> int:
    """Return one mask for all words, as Xen's trace buffer takes it.

    A record passes if its class and its sub-class both overlap the mask, so a mask made of parts of two
    classes passes more than the two parts.

    Raises:
        ValueError: as event_masks().
    """
    return reduce(or_, event_masks(text))


def passes(mask: int, event_id: int) -> bool:
    """Return whether Xen's trace buffer lets an event pass a mask."""
    return bool(mask & event_id & CLASS_BITS and mask & event_id & ALL_SUBCLASSES)


def is_outside(mask: int, event_id: int) -> bool:
    """Return whether a mask excludes an event; those about the trace itself are written with any mask."""
    return event_id & CLASS_BITS != TraceClass.GEN and not passes(mask, event_id)
