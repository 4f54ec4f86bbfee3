"""Make sites and tables by hand, with plain defaults for what a test does not set."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from xtrace.symbols.flow.walk import Paths
from xtrace.symbols.image.linux_patching import Patching
from xtrace.symbols.image.xen_facts import Callback, ImageFacts, Note
from xtrace.symbols.sites.model import Cpu, Fence, How, Kind, Site, SiteTable, Verdict

BASE = 0xFFFF_FFFF_8020_0000


def fence(mnemonic: str = "lfence", via: str = "x86_lfence", **changes: Any) -> Fence:
    values: dict[str, Any] = {
        "mnemonic": mnemonic,
        "how": How.CALLEE if via else How.INLINE,
        "address": BASE + 0xF000,
        "via": via,
        "position": "after",
        "paths": Paths.ALL,
        "verdict": Verdict.REMOVABLE,
        "reason": "one byte is stored and the pending test follows on all paths",
        "at": BASE + 0x16,
    }
    return Fence(**values | changes)


def site(symbol: str = "spllower", offset: int = 0x12, kind: Kind = Kind.UNMASK, **changes: Any) -> Site:
    fences: Sequence[Fence] = changes.get("fences", ())
    values: dict[str, Any] = {
        "address": BASE + offset,
        "symbol": symbol,
        "offset": offset,
        "aliases": (),
        "section": ".text",
        "kind": kind,
        "text": "movb $0x0,0x1(%rbx)",
        "origin": "%gs:0x10, then field 0x290",
        "cpu": Cpu.GUARDED,
        "width_bytes": 1,
        "fences": (),
        "pending_tests": (BASE + offset + 9,),
        "pending_paths": Paths.ALL,
        "callbacks": (),
        "exit": "",
        "reread": (),
        "verdict": fences[0].verdict if fences else Verdict.NO_FENCE,
        "reason": fences[0].reason if fences else "no fence executes here",
        "hazards": (),
        "place": None,
        "patched": "",
        "masked": (),
    }
    return Site(**values | changes)


FACTS = ImageFacts(
    "NetBSD",
    "4.99",
    (Note("GUEST_OS", 6, "NetBSD"), Note("VIRT_BASE", 3, "0xffffffff80000000", 0xFFFF_FFFF_8000_0000)),
    (),
    0xFFFF_FFFF_8020_1000,
    "note",
    (Callback("event", 0xFFFF_FFFF_8020_0100, "symbol hypervisor_callback"),),
    Patching((), ()),
)


def table(*sites: Site, **changes: Any) -> SiteTable:
    values: dict[str, Any] = {
        "path": "/boot/netbsd",
        "build_id": "0123456789abcdef0123456789abcdef01234567",
        "facts": FACTS,
        "sites": sites,
        "layout": ("pending 0, mask 1: by DWARF",),
        "damage": (),
    }
    return SiteTable(**values | changes)
