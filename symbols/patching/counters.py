"""64-bit counters of an image that may count units of work."""

from __future__ import annotations

import re
from dataclasses import dataclass

from xtrace.symbols.errors import ImageError, shown
from xtrace.symbols.flow.code import Code
from xtrace.symbols.image.image import Image
from xtrace.symbols.sites.model import SiteTable
from xtrace.symbols.x86.decode import WRITE, Insn

COUNTER_BYTES = 8
_COUNTING = frozenset(("inc", "add", "xadd"))
_MOST_NAMED = 12


@dataclass(frozen=True, slots=True)
class Counter:
    """A counter: its name as given, and its address as linked."""

    name: str
    address: int


def counter(image: Image, text: str) -> Counter:
    """Return the counter that ``SYMBOL``, ``SYMBOL+OFFSET`` or an address names.

    Raises:
        ImageError: there is no such symbol, or no writable memory of 8 bytes there.
    """
    found = re.fullmatch(r"(.+?)(?:\+(0x[0-9a-fA-F]+|[0-9]+))?", text, re.DOTALL)
    name, offset = (found[1], found[2]) if found else (text, None)
    if re.fullmatch(r"0x[0-9a-fA-F]{1,16}", name):
        base: int | None = int(name, 16)
    else:
        base = image.symbols.find(name)
    if base is None:
        raise ImageError(f"{image.path}: no symbol {shown(name)}; name a 64-bit counter of the image")
    address = base + (int(offset, 0) if offset else 0)
    section = image.section_at(address)
    if (
        section is None
        or not section.writable
        or address + COUNTER_BYTES > section.address + section.size
        or address % COUNTER_BYTES
    ):
        raise ImageError(f"{image.path}: {shown(text)} is not an aligned 64-bit word of writable memory")
    return Counter(text, address)


def counters_near_sites(image: Image, table: SiteTable) -> tuple[str, ...]:
    """Return names of 64-bit counters that functions with sites increment, and those that call them."""
    code = Code(image, table.facts.hypercall_page)
    entries = {code.window(site.address)[0] for site in table.sites if site.fences}
    names: dict[str, None] = {}
    for entry in sorted(entries):
        for start in code.entries(entry):
            for insn in code.graph(start)[0].values():
                if (address := _incremented(insn)) is not None and (name := _named(image, address)):
                    names[name] = None
    return tuple(names)[:_MOST_NAMED]


def _incremented(insn: Insn) -> int | None:
    """Return the absolute address of the 64-bit word that an instruction increments, None for others."""
    memory = insn.memory
    if memory is None or insn.mnemonic not in _COUNTING or not insn.access & WRITE:
        return None
    if memory.size != COUNTER_BYTES or memory.per_cpu or memory.base >= 0 or memory.index_register >= 0:
        return None
    return memory.displacement


def _named(image: Image, address: int) -> str:
    section = image.section_at(address)
    index = image.symbols.index_of(address)
    if section is None or not section.writable or index is None:
        return ""
    offset = address - int(image.symbols.addresses[index])
    name = image.symbols.name(index)
    return f"{name}+{offset:#x}" if offset else name
