"""TRC_PV: how paravirtual guests enter Xen.

Source: xen/arch/x86/pv/trace.c (xen/arch/x86/trace.c before 4.16),
xen/common/trace.c and multicall.c for hypercalls.

Bit 8 of an id marks a 64-bit guest.  4.3 moved the base from 0x20f000 to 0x201000
and replaced TRC_PV_HYPERCALL by _V2, which has arguments and no RIP.  The lengths are
those of 64-bit Xen; 32-bit Xen (up to 4.2) writes other lengths.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

from xtrace.probes import event_ids as ids
from xtrace.probes.catalog.names import GRANT_TABLE_OPS, SCHED_OPS, VCPU_OPS
from xtrace.probes.catalog.table import define, lay
from xtrace.probes.catalog.types import Event
from xtrace.probes.format import TraceClass

_pv = define(TraceClass.PV, "xen/arch/x86/pv/trace.c")

_TRAP = "trapnr:w{0}[14:0]:@trap has_error_code:w{0}[15] error_code:w{0}[31:16]:hex"

# number, name, (words, fields) for a 32-bit guest, for a 64-bit guest.  All contain the guest's RIP.
_ENTRIES: tuple[tuple[int, str, tuple[int, str] | None, tuple[int, str] | None], ...] = (
    (ids.PV_TRAP, "trap",
     (2, "rip:w0:hex " + _TRAP.format(1)),
     (3, "rip:w0-w1:hex " + _TRAP.format(2))),
    (ids.PV_PAGE_FAULT, "page_fault",
     (3, "rip:w0:hex addr:w1:hex error_code:w2:hex"),
     (5, "rip:w0-w1:hex addr:w2-w3:hex error_code:w4:hex")),
    (ids.PV_FORCED_INVALID_OP, "forced_invalid_op", (1, "rip:w0:hex"), (2, "rip:w0-w1:hex")),
    # its RIP is already past the instruction
    (ids.PV_EMULATE_PRIVOP, "emulate_privop", (1, "rip:w0:hex"), (2, "rip:w0-w1:hex")),
    (9, "paging_fixup", (2, "rip:w0:hex addr:w1:hex"), (4, "rip:w0-w1:hex addr:w2-w3:hex")),
    (10, "gdt_ldt_mapping_fault",
     (2, "rip:w0:hex offset:w1:hex"), (4, "rip:w0-w1:hex offset:w2-w3:hex")),
    (ids.PV_PTWR_EMULATION, "ptwr_emulation", None, (6, "pte:w0-w1:hex addr:w2-w3:hex rip:w4-w5:hex")),
    (ids.PV_PTWR_EMULATION_PAE, "ptwr_emulation_pae", (4, "pte:w0-w1:hex addr:w2:hex rip:w3:hex"), None),
)  # fmt: skip


def _entries() -> Iterator[Event]:
    for number, name, narrow, wide in _ENTRIES:
        for flag, layout in ((0, narrow), (ids.WIDE, wide)):
            if layout is None:
                continue
            for base, versions in ((ids.PV_BASE_4_0, "4.0-4.2"), (ids.PV_BASE, "4.3+")):
                yield _pv(base + flag + number, f"pv_{name}", f"TRC_PV_{name.upper()}",
                          lay(versions, *layout))  # fmt: skip


# Bits 20 to 31 give, with two bits each, how many words of arguments 0 to 5 follow.
_HYPERCALL = "op:w0[19:0]:@hypercall argmask:w0[31:20]:hex arg_a:w1 arg_b:w2"

EVENTS = (
    *_entries(),
    _pv(ids.PV_BASE_4_0 + ids.PV_HYPERCALL, "pv_hypercall", "TRC_PV_HYPERCALL",
        lay("4.0-4.2", 2, "rip:w0:hex op:w1:@hypercall")),
    _pv(ids.PV_BASE_4_0 + ids.WIDE + ids.PV_HYPERCALL, "pv_hypercall", "TRC_PV_HYPERCALL",
        lay("4.0-4.2", 3, "rip:w0-w1:hex op:w2:@hypercall")),
    _pv(ids.PV_BASE + ids.PV_HYPERCALL, "pv_hypercall_v1", "TRC_PV_HYPERCALL",
        note="defined since 4.3, never written"),
    _pv(ids.PV_BASE + ids.PV_HYPERCALL_V2, "pv_hypercall", "TRC_PV_HYPERCALL_V2",
        lay("4.3+", (1, 2, 3), _HYPERCALL),
        note="on entry only; hypercall_arguments() names the arguments", source="xen/common/trace.c"),
    _pv(ids.PV_HYPERCALL_SUBCALL, "pv_hypercall_subcall", "TRC_PV_HYPERCALL_SUBCALL",
        lay("4.3+", (1, 2, 3), _HYPERCALL),
        note="one for each entry of a multicall, after its pv_hypercall", source="xen/common/multicall.c"),
    _pv(ids.PV_BASE_4_0 + 7, "pv_emulate_4gb", "TRC_PV_EMULATE_4GB", lay("4.0-4.2", 1, "rip:w0:hex"),
        note="32-bit Xen only", source="xen/arch/x86/traps.c"),
    _pv(ids.PV_BASE + 7, "pv_emulate_4gb", "TRC_PV_EMULATE_4GB", note="defined since 4.3, never written"),
    # 4.22 restores the FPU state on context switch, so it no longer writes this.
    _pv(ids.PV_BASE_4_0 + 8, "pv_math_state_restore", "TRC_PV_MATH_STATE_RESTORE", lay("4.0-4.2", 0),
        source="xen/arch/x86/traps.c"),
    _pv(ids.PV_BASE + 8, "pv_math_state_restore", "TRC_PV_MATH_STATE_RESTORE", lay("4.3-4.21", 0),
        source="xen/arch/x86/traps.c"),
)  # fmt: skip


class Argument(NamedTuple):
    """An argument of a hypercall, and the names of its values."""

    name: str
    value: int
    names: Mapping[int, str] | None


_Names = Mapping[int, str]

# The arguments that __trace_hypercall() records, by op and number: name, and names of the values.
_ARGUMENTS: Mapping[int, Mapping[int, tuple[str, _Names | None]]] = {
    1: {1: ("count", None)},
    13: {1: ("count", None)},
    20: {0: ("cmd", GRANT_TABLE_OPS), 2: ("count", None)},
    23: {0: ("frame", None)},  # docs/xen-records.md
    24: {0: ("cmd", VCPU_OPS), 1: ("vcpu", None)},
    26: {1: ("count", None)},
    29: {0: ("cmd", SCHED_OPS)},
}


def hypercall_arguments(extra: Sequence[int]) -> tuple[Argument, ...]:
    """Return the arguments in ``extra``, the words of a TRC_PV_HYPERCALL_V2 or _SUBCALL record.

    Arguments missing from a short record are left out.
    """
    if not extra:
        return ()
    known = _ARGUMENTS.get(extra[0] & 0xFFFFF, {})
    found = []
    at = 1
    for number in range(6):
        words = (extra[0] >> (20 + 2 * number)) & 3
        # 3 is reserved: the position of the next argument is then unknown
        if words == 3 or at + words > len(extra):
            break
        if words:
            name, names = known.get(number, (f"arg{number}", None))
            value = extra[at] | (extra[at + 1] << 32 if words == 2 else 0)
            found.append(Argument(name, value, names))
            at += words
    return tuple(found)
