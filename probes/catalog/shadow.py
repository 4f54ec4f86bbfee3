"""TRC_SHADOW: shadow paging.

Source: xen/arch/x86/mm/shadow/multi.c, common.c and, since 4.22, oos.c.  Untimed.

multi.c is compiled once for each number of guest page-table levels (2, 3 with
PAE, 4), and the id contains (levels - 2) << 8.  Addresses have 64 bits with 4 levels,
page-table entries and frame numbers with 3 and 4.
"""

from __future__ import annotations

from collections.abc import Iterator

from xtrace.probes.catalog.table import define, lay
from xtrace.probes.catalog.types import Event
from xtrace.probes.format import TraceClass

_shadow = define(TraceClass.SHADOW, "xen/arch/x86/mm/shadow/multi.c")
_common = define(TraceClass.SHADOW, "xen/arch/x86/mm/shadow/common.c")

_BASE = 0x40F000

_ADDRESS_ONLY = (
    (2, "fast_propagate"),
    (3, "fast_mmio"),
    (4, "false_fast_path"),
    (5, "mmio"),
    (7, "domf_dying"),
)
_ENTRY_AND_ADDRESS = ((1, "not_shadow"), (6, "fixup"))
_UNSHADOW = ((9, "user"), (10, "evtinj"), (11, "unhandled"))
_FRAME_ONLY = ((12, "wrmap_bf"), (13, "prealloc_unpin"), (14, "resync_full"), (15, "resync_only"))


def _sequence(*fields: tuple[str, int]) -> tuple[int, str]:
    """Return the total length and the notation of consecutive ``fields``, each (name, words)."""
    at = 0
    places = []
    for name, words in fields:
        places.append(f"{name}:w{at}:hex" if words == 1 else f"{name}:w{at}-w{at + 1}:hex")
        at += words
    return at, " ".join(places)


def _of_levels(levels: int) -> Iterator[Event]:
    """Yield the events of guests with ``levels`` page-table levels."""
    entry = 1 if levels == 2 else 2
    address = 2 if levels == 4 else 1
    base = _BASE | (levels - 2) << 8
    constants = (("levels", str(levels)),)
    for number, name in _ADDRESS_ONLY:
        words, text = _sequence(("va", address))
        yield _shadow(base + number, f"shadow_{name}", f"TRC_SHADOW_{name.upper()}",
                      lay("4.0+", words, text, timed=False), constants=constants)  # fmt: skip
    for number, name in _ENTRY_AND_ADDRESS:
        words, text = _sequence(("gl1e", entry), ("va", address), ("flags", 1))
        yield _shadow(base + number, f"shadow_{name}", f"TRC_SHADOW_{name.upper()}",
                      lay("4.0+", words, text, timed=False), constants=constants)  # fmt: skip
    # Xen writes the emulation count with 3 levels only.
    words, text = _sequence(("gl1e", entry), ("write_val", entry), ("va", address))
    text += f" flags:w{words}[28:0]:hex emulation_count:w{words}[31:29]"
    yield _shadow(base + 8, "shadow_emulate", "TRC_SHADOW_EMULATE",
                  lay("4.0+", words + 1, text, timed=False), constants=constants)  # fmt: skip
    for number, name in _UNSHADOW:
        # 4.19 added the flags
        words, text = _sequence(("gfn", entry), ("va", address))
        yield _shadow(base + number, f"shadow_emulate_unshadow_{name}",
                      f"TRC_SHADOW_EMULATE_UNSHADOW_{name.upper()}",
                      lay("4.0-4.18", words, text, timed=False),
                      lay("4.19+", words + 1, f"{text} flags:w{words}:hex", timed=False),
                      constants=constants)  # fmt: skip


EVENTS = (
    *(event for levels in (2, 3, 4) for event in _of_levels(levels)),
    *(
        _common(_BASE + number, f"shadow_{name}", f"TRC_SHADOW_{name.upper()}",
                lay("4.0+", 2, "gfn:w0-w1:hex", timed=False))
        for number, name in _FRAME_ONLY
    ),
)  # fmt: skip
