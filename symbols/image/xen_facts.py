"""Read what a guest kernel's image says about itself to Xen, and find where Xen calls it.

The notes have the owner "Xen" and are in PT_NOTE segments or, if there are none, in note sections; before
2006 they were a string in the section __xen_guest.  The callbacks are registered at run time, so they are
found by symbol name, or by the constants loaded before the set_callbacks hypercall.

Source: xen/include/public/elfnote.h, xen/common/libelf/libelf-dominfo.c (the order of the above, and the
legacy keys), xen/include/public/arch-x86/xen-x86_64.h and xen-x86_32.h (the arguments of set_callbacks).
"""

from __future__ import annotations

import re
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice

import numpy as np

from xtrace.symbols.errors import shown
from xtrace.symbols.image import headers
from xtrace.symbols.image.image import Image
from xtrace.symbols.image.linux_patching import Patching, patching
from xtrace.symbols.xen_abi import HYPERCALL_ROOM_BYTES, Hypercall

_OWNER = b"Xen\0"
#: XEN_ELFNOTE_* names by number.
_NOTE_NAMES = (
    *("INFO", "ENTRY", "HYPERCALL_PAGE", "VIRT_BASE", "PADDR_OFFSET", "XEN_VERSION", "GUEST_OS"),
    *("GUEST_VERSION", "LOADER", "PAE_MODE", "FEATURES", "BSD_SYMTAB", "HV_START_LOW", "L1_MFN_VALID"),
    *("SUSPEND_CANCEL", "INIT_P2M", "MOD_START_PFN", "SUPPORTED_FEATURES", "PHYS32_ENTRY", "PHYS32_RELOC"),
)
_STRINGS = frozenset({0, 5, 6, 7, 8, 9, 10, 11})
_MOST_NOTES = 1_024
#: Most segments or sections of notes, and most calls of set_callbacks.
_MOST_PIECES = 64
_MOST_CALLS = 64
_LONGEST_VALUE_BYTES = 4_096
_LONGEST_LEGACY_BYTES = 65_536

#: Event, failsafe and syscall entry points as kernels name them; of several names the first that exists.
_CALLBACK_NAMES = (
    # Linux from 5.8, then before.
    (
        "xen_asm_exc_xen_hypervisor_callback",
        "xen_failsafe_callback",
        "xen_entry_SYSCALL_64 xen_syscall_target",
    ),
    ("xen_hypervisor_callback", "xen_failsafe_callback", "xen_syscall_target"),
    # NetBSD, XenLinux, Mini-OS.
    ("hypervisor_callback", "failsafe_callback", "Xsyscall system_call"),
    # FreeBSD/i386 until 10, Unikraft, illumos.
    ("Xhypervisor_callback", "failsafe_callback", ""),
    ("asm_trap_hypervisor_callback", "asm_failsafe_callback", ""),
    ("asm_trap_HYPERVISOR_CALLBACK", "asm_failsafe_callback", ""),
    ("xen_callback", "xen_failsafe_callback", "sys_syscall"),
)
_KINDS = ("event", "failsafe", "syscall")
#: The arguments are loaded just before the call: three loads of at most ten bytes each.
_LOOK_BACK_BYTES = 32
_CALL_BYTES = 5


@dataclass(frozen=True, slots=True)
class Note:
    """A note for Xen: XEN_ELFNOTE_ ``name``, its type ``kind``, and its value as text and, if one, number."""

    name: str
    kind: int
    value: str
    number: int | None = None


@dataclass(frozen=True, slots=True)
class Callback:
    """An entry point that Xen calls: "event", "failsafe" or "syscall", and how it was found."""

    kind: str
    address: int
    source: str


@dataclass(frozen=True, slots=True)
class ImageFacts:
    """What an image says about itself.

    Attributes:
        guest_os, guest_version: from a note or __xen_guest; "" for none.
        notes: for Xen, in file order.
        legacy: the keys and values of __xen_guest.
        hypercall_page: its address, None if unknown; newer Linux has none.
        hypercall_page_source: "note", "__xen_guest", "symbol" or "".
        callbacks: the entry points that were found.
        patching: the code that Linux may patch.
    """

    guest_os: str
    guest_version: str
    notes: tuple[Note, ...]
    legacy: tuple[tuple[str, str], ...]
    hypercall_page: int | None
    hypercall_page_source: str
    callbacks: tuple[Callback, ...]
    patching: Patching

    def patched(self, address: int, length: int) -> str | None:
        """Return the name of the first table that lets Linux change these bytes, None for none."""
        return self.patching.patched(address, length)


def image_facts(image: Image) -> ImageFacts:
    """Return what an image says about itself to Xen, and which of its code may change.

    Raises:
        ImageError: its headers cannot be read.
    """
    notes = tuple(_notes(image))
    legacy = tuple(_legacy(image))
    by_name, by_key = {note.name: note for note in notes}, dict(legacy)
    page, source = _hypercall_page(image, by_name, by_key)
    return ImageFacts(
        by_name["GUEST_OS"].value if "GUEST_OS" in by_name else by_key.get("GUEST_OS", ""),
        by_name["GUEST_VERSION"].value if "GUEST_VERSION" in by_name else by_key.get("GUEST_VER", ""),
        notes,
        legacy,
        page,
        source,
        _named_callbacks(image) or _set_callbacks(image, page),
        patching(image),
    )


def _notes(image: Image) -> list[Note]:
    segments = headers.read_headers(image.data, image.path).segments
    rows = segments[segments["type"] == headers.PT_NOTE]
    pieces = [image.data[int(row["offset"]) : int(row["offset"]) + int(row["filesz"])] for row in rows]
    found = [note for piece in pieces[:_MOST_PIECES] for note in _notes_in(piece)]
    if not found:
        sections = [section.data for section in image.sections if section.kind == headers.SHT_NOTE]
        found = [note for piece in sections[:_MOST_PIECES] for note in _notes_in(piece)]
    return found[:_MOST_NOTES]


def _notes_in(data: memoryview) -> Iterator[Note]:
    place = 0
    for _ in range(_MOST_NOTES):
        if place + 12 > len(data):
            return
        name_bytes, value_bytes, kind = struct.unpack_from("<III", data, place)
        value_at = place + 12 + _aligned(name_bytes)
        if value_at + value_bytes > len(data):
            return
        if bytes(data[place + 12 : place + 12 + min(name_bytes, 8)]) == _OWNER:
            yield _note(kind, bytes(data[value_at : value_at + min(value_bytes, _LONGEST_VALUE_BYTES)]))
        place = value_at + _aligned(value_bytes)


def _aligned(size: int) -> int:
    return (size + 3) & ~3


def _note(kind: int, value: bytes) -> Note:
    name = _NOTE_NAMES[kind] if kind < len(_NOTE_NAMES) else f"{kind:#x}"
    if kind in _STRINGS:
        return Note(name, kind, shown(value.split(b"\0", 1)[0]))
    if len(value) in (4, 8):
        number = int.from_bytes(value, "little")
        return Note(name, kind, f"{number:#x}", number)
    return Note(name, kind, shown(value.hex(" ", 4)))


def _legacy(image: Image) -> Iterator[tuple[str, str]]:
    """Yield the keys and values of __xen_guest: KEY=VALUE, or KEY alone, separated by commas."""
    section = next((s for s in image.sections if s.name == "__xen_guest"), None)
    if section is None:
        return
    text = bytes(section.data[:_LONGEST_LEGACY_BYTES]).split(b"\0", 1)[0]
    for pair in text.split(b",")[:_MOST_NOTES]:
        key, _, value = pair.partition(b"=")
        if key:
            yield shown(key), shown(value)


def _hypercall_page(image: Image, notes: dict[str, Note], legacy: dict[str, str]) -> tuple[int | None, str]:
    note = notes.get("HYPERCALL_PAGE")
    if note is not None and note.number is not None:
        return note.number, "note"
    page = _number(legacy.get("HYPERCALL_PAGE", ""))
    if page is not None:
        # The legacy value is in pages from VIRT_BASE.
        return (page << 12) + (_number(legacy.get("VIRT_BASE", "")) or 0), "__xen_guest"
    address = image.symbols.find("hypercall_page")
    return address, "" if address is None else "symbol"


def _number(text: str) -> int | None:
    """Return a decimal or 0x number of at most 64 bits, None for anything else."""
    if re.fullmatch(r"0[xX][0-9a-fA-F]{1,16}|[0-9]{1,18}", text) is None:
        return None
    return int(text, 16 if text[:2] in ("0x", "0X") else 10)


def _named_callbacks(image: Image) -> tuple[Callback, ...]:
    for row in _CALLBACK_NAMES:
        if image.symbols.find(row[0]) is None:
            continue
        found = []
        # On i386 system calls come through a trap gate, not a callback.
        for kind, names in zip(_KINDS[: 3 if image.bits == 64 else 2], row, strict=False):
            known = ((name, image.symbols.find(name)) for name in names.split())
            first = next(((name, address) for name, address in known if address is not None), None)
            if first is not None:
                found.append(Callback(kind, first[1], f"symbol {first[0]}"))
        return tuple(found)
    return ()


def _set_callbacks(image: Image, page: int | None) -> tuple[Callback, ...]:
    """Return the callbacks from the constants loaded before a direct call of set_callbacks."""
    if page is None:
        return ()
    for address, before in islice(
        _calls(image, page + Hypercall.SET_CALLBACKS * HYPERCALL_ROOM_BYTES), _MOST_CALLS
    ):
        found = []
        for kind, load in _LOADS[image.bits]:
            values = [_constant(match, address - len(before)) for match in load.finditer(before)]
            # Of several loads the last one counts; a value that is 0 or not in code is something else.
            code = [value for value in values if value and _is_code(image, value)]
            if code:
                found.append(Callback(kind, code[-1], f"set_callbacks at {address:#x}"))
        if [callback.kind for callback in found[:2]] == ["event", "failsafe"]:
            return tuple(found)
    return ()


def _calls(image: Image, target: int) -> Iterator[tuple[int, bytes]]:
    """Yield the address of each direct call of ``target`` and the bytes before it."""
    for section in image.code:
        code = np.frombuffer(section.data, np.uint8)
        places = np.flatnonzero(code[: max(len(code) - _CALL_BYTES + 1, 0)] == _CALL)
        distances = np.zeros(len(places), np.uint32)
        for byte in range(4):
            distances |= code[places + 1 + byte].astype(np.uint32) << np.uint32(8 * byte)
        # Modulo 2**32, because 32- and 64-bit kernels both fit within 2 GiB.
        first = (target - section.address - _CALL_BYTES) % 2**32
        wanted = (first - places.astype(np.int64)) & 0xFFFF_FFFF
        for place in places[distances == wanted].tolist():
            yield section.address + place, bytes(section.data[max(place - _LOOK_BACK_BYTES, 0) : place])


_CALL = 0xE8


def _loads(number: int) -> re.Pattern[bytes]:
    """Return a pattern for four forms of mov and lea that load a constant into register 0, rax, to 7, rdi."""
    move, modrm, near = bytes([0xB8 + number]), bytes([0xC0 + number]), bytes([0x05 + 8 * number])
    forms = (
        rb"\x48\xc7%s(?P<signed>.{4})" % re.escape(modrm),
        rb"\x48\x8d%s(?P<near>.{4})" % re.escape(near),
        rb"\x48%s(?P<wide>.{8})" % re.escape(move),
        rb"(?<![\x40-\x4f])%s(?P<plain>.{4})" % re.escape(move),
    )
    return re.compile(b"|".join(forms), re.DOTALL)


#: The registers of the arguments: rdi, rsi, rdx; on i386 ecx and esi, as selectors are in ebx and edx.
_LOADS = {
    64: (("event", _loads(7)), ("failsafe", _loads(6)), ("syscall", _loads(2))),
    32: (("event", _loads(1)), ("failsafe", _loads(6))),
}


def _constant(match: re.Match[bytes], base: int) -> int:
    value = match[match.lastgroup or 0]
    if match.lastgroup == "signed":
        return int.from_bytes(value, "little", signed=True) % 2**64
    if match.lastgroup == "near":
        return (base + match.end() + int.from_bytes(value, "little", signed=True)) % 2**64
    return int.from_bytes(value, "little")


def _is_code(image: Image, address: int) -> bool:
    section = image.section_at(address)
    return section is not None and section.executable
