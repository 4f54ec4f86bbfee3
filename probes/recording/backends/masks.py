"""Which events are traced: names of trace classes, as xentrace's -e has them and more."""

from __future__ import annotations

import re

from xtrace.probes.format import TraceClass

_ALL_SUBCLASSES = 0xF000
ALL = 0x0FFF_0000 | _ALL_SUBCLASSES

_NAMES = {
    **{str(bit.name).lower(): bit | _ALL_SUBCLASSES for bit in TraceClass},
    "all": ALL,
    # Parts of two classes, by their sub-class bits (Xen, public/trace.h).
    "hw_pm": TraceClass.HW | 0x1000,
    "hw_irq": TraceClass.HW | 0x2000,
    "sched_min": TraceClass.SCHED | 0x1000,
    "sched_verbose": TraceClass.SCHED | 0x8000,
}


def event_mask(text: str) -> int:
    """Return the mask of ``sched+hvm``, ``gen,0x28000`` or ``all``.

    A record passes whose class and sub-class both overlap with the mask, so
    a sum of two parts of classes passes more than either.

    Raises:
        ValueError: a word is neither a class nor a mask.
    """
    mask = 0
    for word in re.split(r"[+,]", text.strip().lower()):
        if word in _NAMES:
            mask |= _NAMES[word]
        elif re.fullmatch(r"0x[0-9a-f]{1,8}", word) and int(word, 16) <= ALL:
            mask |= int(word, 16)
        else:
            raise ValueError(f"{word!r} is none of {', '.join(_NAMES)}, nor a mask such as 0x2f000")
    return mask
