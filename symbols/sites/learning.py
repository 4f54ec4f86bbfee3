"""Learn how a kernel reaches vcpu_info: from its symbols, its DWARF, or its unmistakable sites.

An unmistakable site clears the byte at offset 1 of a structure and then reads the
byte at offset 0 of the same structure: that is an unmask with its pending test, so
the pointer that it uses points to vcpu_info.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass, field, replace

from xtrace.symbols.dwarf.source_locations import member_offsets
from xtrace.symbols.flow.code import Code
from xtrace.symbols.flow.interpreter import Access, ExhaustedError, FunctionFlow
from xtrace.symbols.flow.values import CONSTANT, CPU, Value
from xtrace.symbols.flow.walk import Step, forward
from xtrace.symbols.sites.byte_scan import functions_of, mask_stores, selector_exchanges
from xtrace.symbols.sites.prefilter import may_witness
from xtrace.symbols.sites.surroundings import callbacks
from xtrace.symbols.sites.vcpu_info import MASK, PENDING, VCPU_INFO_BYTES, Layout
from xtrace.symbols.x86.decode import READ, WRITE, Insn

#: Symbols of guests for a per-CPU vcpu_info and a pointer to it.
_AREAS = ("xen_vcpu_info",)
_POINTERS = ("xen_vcpu",)
#: HYPERVISOR_shared_info, xen_shared_info, grub_xen_shared_info, hyp_shared_info...
_SHARED_SUFFIX = "shared_info"
#: Structures with a pointer to vcpu_info, and their pointer to themselves, in NetBSD, FreeBSD and illumos.
_STRUCTURES = (
    ("cpu_info", "ci_vcpu", "ci_self"),
    ("pcpu", "pc_vcpu_info", "pc_prvspace"),
    ("machcpu", "mcpu_vcpu_info", "mcpu_self"),
)
_MOST_FUNCTIONS = 3000
_ENOUGH_FUNCTIONS = 400
_NEAR_INSNS = 12
_LEAST_WITNESSES = 2
#: At most this share of a way's accesses may be of a kind that vcpu_info never gets.
_DOUBT = 0.25
_PAGE_BYTES = 4096
#: Room that a relocatable image reserves for each symbol defined elsewhere, whatever its type.
_LARGEST_POINTER_BYTES = 16
_SHARED_BYTES = 32 * VCPU_INFO_BYTES


@dataclass(slots=True)
class _Evidence:
    """Evidence for a way to vcpu_info: functions that only it explains, and accesses that do not fit."""

    unmasks: set[int] = field(default_factory=set)
    handlers: set[int] = field(default_factory=set)
    forced: set[int] = field(default_factory=set)
    bases: set[int] = field(default_factory=set)
    cleared: set[int] = field(default_factory=set)
    strange: int = 0
    total: int = 0

    @property
    def taken(self) -> set[int]:
        """Return the functions that clear pending and take the selector."""
        return self.handlers & self.cleared


_Way = tuple[str, int]


def learned_layout(code: Code, damage: list[str] | None = None) -> Layout:
    """Return how the kernel reaches vcpu_info, and how that is known.

    Args:
        damage: is extended with why DWARF could not be used, if that matters.
    """
    notes: list[str] = []
    layout = _layout(code, notes)
    if not layout and damage is not None:
        damage.extend(note for note in dict.fromkeys(notes) if note not in damage)
    return layout


def _layout(code: Code, notes: list[str]) -> Layout:
    layout = _named(code)
    if layout.areas:
        return layout
    for struct, pointer, own in _STRUCTURES:
        members = member_offsets(code.image, {(struct, pointer), (struct, own)}, notes)
        if (struct, pointer) in members:
            offset = members[struct, pointer]
            return replace(
                layout,
                fields=frozenset((offset,)),
                bases=frozenset(members[item] for item in ((struct, own),) if item in members),
                pointers=layout.pointers | {offset},
                struct=struct,
                how=(*layout.how, f"{struct}.{pointer} at {offset:#x}, from DWARF"),
            )
    return _with_evidence(code, layout)


def _named(code: Code) -> Layout:
    symbols = code.image.symbols

    def addresses(names: Iterable[str]) -> dict[str, int]:
        return {name: address for name in names if (address := symbols.find(name)) is not None}

    areas, pointers = addresses(_AREAS), addresses(_POINTERS)
    shared = symbols.ending_in(_SHARED_SUFFIX)
    shared_pages = {
        name: address for name, (address, size) in shared.items() if _is_page(name, address, size)
    }
    shared_pointers = {name: address for name, (address, _) in shared.items() if name not in shared_pages}
    found = {**areas, **pointers, **shared_pointers, **shared_pages}
    return Layout(
        code.image.bits,
        pointers=frozenset(pointers.values()),
        areas=frozenset(areas.values()),
        shared_pointers=frozenset(shared_pointers.values()),
        shared_pages=frozenset(shared_pages.values()),
        how=tuple(f"{name} at {address:#x}, from {symbols.source}" for name, address in found.items()),
    )


def _is_page(name: str, address: int, size: int) -> bool:
    """Return whether a symbol is shared_info itself, not a pointer to it: guests use the same names."""
    if size:
        return size > _LARGEST_POINTER_BYTES
    return address % _PAGE_BYTES == 0 and name != "HYPERVISOR_shared_info"


def _with_evidence(code: Code, layout: Layout) -> Layout:
    """Return the layout with the ways that unmistakable sites show added."""
    evidence: dict[_Way, _Evidence] = defaultdict(_Evidence)
    # Learning may use a third of the budget: the rest is for finding the sites.
    kept_back = code.budget.left * 2 // 3
    code.budget.left -= kept_back
    with suppress(ExhaustedError):
        _gather(code, evidence)
    code.budget.left = max(code.budget.left, 0) + kept_back
    known = {("global", number) for number in layout.shared_pointers}
    known |= {("page", number) for number in layout.shared_pages}
    kept = {way: item for way, item in evidence.items() if way not in known and _convincing(item)}
    how = [
        f"{_WORDS[way[0]]} {way[1]:#x}, learned from sites: {len(kept[way].unmasks)} x unmask with "
        f"pending test, {len(kept[way].taken)} x handler"
        for way in sorted(kept)
    ]
    numbers = {kind: frozenset(number for other, number in kept if other == kind) for kind in _WORDS}
    return replace(
        layout,
        pointers=layout.pointers | numbers["pointer"] | numbers["field"],
        areas=layout.areas | numbers["area"],
        fields=layout.fields | numbers["field"] | numbers["pointer"],
        bases=frozenset(base for item in kept.values() for base in item.bases),
        shared_pointers=layout.shared_pointers | numbers["global"],
        shared_pages=layout.shared_pages | numbers["page"],
        how=(*layout.how, *how),
    )


def _gather(code: Code, evidence: dict[_Way, _Evidence]) -> None:
    for number, entry in enumerate(_witnesses(code)):
        if number % _ENOUGH_FUNCTIONS == _ENOUGH_FUNCTIONS - 1 and any(map(_convincing, evidence.values())):
            return  # enough evidence: the remaining functions would only add to it
        for place in code.entries(entry):
            if not may_witness(code.graph(place)[0]):
                continue
            flow = code.flow(place)
            for access in flow.accesses.values():
                way = _way(access.place)
                if way is not None:
                    _weigh(evidence[way], access, flow, code)


_WORDS = {
    "pointer": "per-CPU pointer at",
    "area": "per-CPU vcpu_info at",
    "field": "CPU structure field at",
    "global": "global pointer at",
    "page": "shared_info at",
}


def _witnesses(code: Code) -> list[int]:
    entries: set[int] = set()
    for section in code.sections:
        entries |= functions_of(section, code.starts, mask_stores(section, code.image.bits))
        entries |= functions_of(section, code.starts, selector_exchanges(section, code.image.bits))
    return sorted(entries)[:_MOST_FUNCTIONS]


def _way(place: Value) -> _Way | None:
    """Return the way by which a place is reached: its kind and its last step."""
    path = place.path
    if place.root == CONSTANT and not path and not place.indexed:
        return "page", place.offset & ~(_PAGE_BYTES - 1)
    if place.root == CPU and not path:
        return "area", place.offset & ~(VCPU_INFO_BYTES - 1)
    if place.root == CPU and len(path) == 1:
        return "pointer", path[0]
    if place.root == CONSTANT and len(path) == 1:
        return "global", path[0]
    if len(path) == 1 and place.root == ("element", CONSTANT):
        return "pointer", path[0]
    if len(path) >= 2 or (
        path and isinstance(place.root, tuple) and place.root[0] in ("entry", "slot", "merge")
    ):
        return "field", path[-1]
    return None


def _weigh(evidence: _Evidence, access: Access, flow: FunctionFlow, code: Code) -> None:
    insn = access.insn
    assert insn.memory is not None
    size = insn.memory.size
    selector = Layout(code.image.bits).selector
    offset = access.place.offset
    if access.place.root == CONSTANT or not access.place.path:
        if not 0 <= offset % _PAGE_BYTES < _SHARED_BYTES:
            return  # the rest of shared_info
        offset %= VCPU_INFO_BYTES
    evidence.total += 1
    number = access.stored.constant if access.stored is not None else None
    if offset == MASK and size == 1 and insn.access == WRITE:
        tests = _tests_behind(access, flow) if number == 0 else ()
        if tests:
            evidence.unmasks.add(flow.entry)
            if flow.entry not in evidence.forced and callbacks(code, flow, tests):
                evidence.forced.add(flow.entry)
            if access.place.root == CPU and len(access.place.path) == 2:
                evidence.bases.add(access.place.path[0])
    elif offset == PENDING and size == 1 and insn.access == WRITE and number == 0:
        evidence.cleared.add(flow.entry)
    elif offset == selector and insn.mnemonic == "xchg" and size == code.image.bits // 8:
        evidence.handlers.add(flow.entry)
    elif _strange(offset, size, insn.lock, selector):
        evidence.strange += 1


def _strange(offset: int, size: int, locked: bool, selector: int) -> bool:
    """Return whether an access is one that vcpu_info never gets."""
    if not 0 <= offset < VCPU_INFO_BYTES or MASK < offset < selector:
        return True
    return offset < selector and size != 1 and not locked


def _tests_behind(access: Access, flow: FunctionFlow) -> tuple[int, ...]:
    """Return where the byte before the cleared one is read next, through an equal pointer."""
    pending = access.place._replace(offset=access.place.offset - MASK + PENDING)

    def step(insn: Insn) -> Step:
        other = flow.accesses.get(insn.address)
        if other is None or other.place != pending or insn.memory is None or insn.memory.size != 1:
            return Step.ON
        return Step.HIT if insn.access == READ else Step.END

    return forward(flow, access.insn.address, step, _NEAR_INSNS).hits


def _convincing(evidence: _Evidence) -> bool:
    # An unmask that then calls xen_version can be nothing else: it counts twice.
    witnesses = len(evidence.unmasks | evidence.taken) + len(evidence.forced)
    return witnesses >= _LEAST_WITNESSES and evidence.strange <= _DOUBT * evidence.total
