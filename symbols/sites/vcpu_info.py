"""Where a guest keeps vcpu_info, and which field of it an address refers to.

Guests reach vcpu_info in a few ways: an area or a pointer in the per-CPU segment
(Linux, and assembly in NetBSD), a pointer in a CPU structure (NetBSD, illumos),
or shared_info, which has 64 bytes per vCPU (Mini-OS, Unikraft,
GRUB, XenLinux).  Layout of vcpu_info: xen/include/public/xen.h.
"""

from __future__ import annotations

from dataclasses import dataclass

from xtrace.symbols.flow.values import CONSTANT, CPU, Root, Value
from xtrace.symbols.sites.model import Cpu

#: struct vcpu_info: the same on i386 and x86-64 except for the selector.
PENDING, MASK = 0, 1
VCPU_INFO_BYTES = 64
#: The part of shared_info with the vcpu_infos of XEN_LEGACY_MAX_VCPUS vCPUs.
_SHARED_BYTES = 32 * VCPU_INFO_BYTES
#: Marks the root of a pointer that a caller passes: (ARGUMENT, origin, cpu).
ARGUMENT = "vcpu_info"


@dataclass(frozen=True, slots=True)
class Spot:
    """A place inside some vcpu_info.

    Attributes:
        offset: from its start.
        origin: how the pointer was reached, in words.
    """

    offset: int
    origin: str
    cpu: Cpu

    @property
    def by_field(self) -> bool:
        """Return whether only a field's offset identifies it: other structures may have a field there too."""
        return self.cpu is Cpu.OTHER and self.origin.startswith("CPU structure")

    @property
    def names_cpu(self) -> bool:
        """Return whether the code itself chooses a CPU, by its offset among the per-CPU areas."""
        return self.cpu is Cpu.OTHER and self.origin.startswith("per-CPU")


@dataclass(frozen=True, slots=True)
class Layout:
    """How one kernel reaches vcpu_info.

    Attributes:
        pointers: per-CPU offsets (or link addresses) of a pointer to vcpu_info.
        areas: per-CPU offsets (or link addresses) of a vcpu_info.
        fields: offsets of the pointer to vcpu_info in the CPU structure.
        bases: per-CPU offsets of the pointer to the CPU structure itself; empty if not known.
        shared_pointers: addresses of pointers to shared_info.
        shared_pages: addresses of shared_info itself.
        struct: the CPU structure's tag, if the field comes from DWARF.
        how: what is known and its source, one line each.
    """

    bits: int
    pointers: frozenset[int] = frozenset()
    areas: frozenset[int] = frozenset()
    fields: frozenset[int] = frozenset()
    bases: frozenset[int] = frozenset()
    shared_pointers: frozenset[int] = frozenset()
    shared_pages: frozenset[int] = frozenset()
    struct: str = ""
    how: tuple[str, ...] = ()

    @property
    def selector(self) -> int:
        """Return the offset of evtchn_pending_sel."""
        return 8 if self.bits == 64 else 4

    @property
    def word_bytes(self) -> int:
        """Return the size of evtchn_pending_sel."""
        return self.bits // 8

    def __bool__(self) -> bool:
        return bool(self.pointers or self.areas or self.fields or self.shared_pointers or self.shared_pages)

    def names(self, address: int) -> bool:
        """Return whether an address is a known pointer, or inside a known vcpu_info or shared_info."""
        return (
            address in self.pointers
            or address in self.shared_pointers
            or any(0 <= address - area < VCPU_INFO_BYTES for area in self.areas)
            or any(0 <= address - page < _SHARED_BYTES for page in self.shared_pages)
        )

    def spot(self, place: Value, direct: bool) -> Spot | None:
        """Return which place in vcpu_info an address is, None if it is not in one.

        Args:
            direct: the instruction itself uses the per-CPU segment.
        """
        root, path, offset = place.root, place.path, place.offset
        if isinstance(root, tuple) and root[0] == ARGUMENT and not path:
            return Spot(offset, str(root[1]), Cpu(str(root[2])))
        if not path:
            return self._static(place, direct)
        last, before = path[-1], path[:-1]
        if 0 <= offset < VCPU_INFO_BYTES and not place.indexed:
            found = self._pointed(root, before, last)
            if found is not None:
                return Spot(offset, *found)
        if not before and root == CONSTANT and last in self.shared_pointers and 0 <= offset < _SHARED_BYTES:
            return _shared(offset, place)
        if len(path) == 1 and (root == CPU or _element(root)):
            # The offset of this (or another) CPU's area, read from memory, plus the area's link address.
            cpu = Cpu.LOADED if root == CPU else Cpu.OTHER
            return self._area(offset, cpu)
        return None

    def _static(self, place: Value, direct: bool) -> Spot | None:
        root, offset, indexed = place.root, place.offset, place.indexed
        if root == CPU and not indexed:
            return self._area(offset, Cpu.RUNNING if direct else Cpu.LOADED)
        if root != CONSTANT:
            return None
        for page in self.shared_pages:
            if 0 <= offset - page < _SHARED_BYTES:
                return _shared(offset - page, place)
        return self._area(offset, Cpu.LOADED if place.own else Cpu.OTHER) if indexed else None

    def _area(self, offset: int, cpu: Cpu) -> Spot | None:
        for area in self.areas:
            if 0 <= offset - area < VCPU_INFO_BYTES:
                return Spot(offset - area, f"per-CPU vcpu_info at {area:#x}", cpu)
        return None

    def _pointed(self, root: Root, before: tuple[int, ...], last: int) -> tuple[str, Cpu] | None:
        """Return the origin and CPU of a vcpu_info pointer loaded from offset ``last``, None for others."""
        if root == CPU and not before and last in self.pointers:
            return f"per-CPU pointer at {last:#x}", Cpu.LOADED
        if last in self.fields:
            if root == CPU and len(before) == 1 and (not self.bases or before[0] in self.bases):
                return f"CPU structure of this CPU, field {last:#x}", Cpu.LOADED
            if root != CPU:
                return f"CPU structure ({_named(root, before)}), field {last:#x}", Cpu.OTHER
        if last in self.pointers - self.fields and (_element(root) or (root == CPU and len(before) == 1)):
            return f"per-CPU pointer at {last:#x}", Cpu.LOADED if root == CPU else Cpu.OTHER
        return None


def _shared(offset: int, place: Value) -> Spot:
    inside = offset % VCPU_INFO_BYTES
    if place.own:
        return Spot(inside, "shared_info, vCPU by this CPU's number", Cpu.LOADED)
    if place.indexed:
        return Spot(inside, "shared_info, vCPU by index", Cpu.OTHER)
    return Spot(inside, f"shared_info, vCPU {offset // VCPU_INFO_BYTES}", Cpu.FIXED)


def _element(root: Root) -> bool:
    return isinstance(root, tuple) and root[0] == "element"


def _named(root: Root, before: tuple[int, ...]) -> str:
    if isinstance(root, tuple) and root[0] in ("entry", "slot") and not before:
        return "an argument"
    if isinstance(root, tuple) and root[0] == "merge":
        return "a list cursor or one of several pointers"
    if root == CONSTANT:
        return "a global pointer"
    if isinstance(root, tuple) and root[0] == "result":
        return "a return value"
    return "reached through memory"
