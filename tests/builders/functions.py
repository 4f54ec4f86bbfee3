"""Assemble many small functions at once, and analyse their flow as the finder does.

A function is a name and its body.  The body reaches vcpu_info with ``vcpu %reg``, which loads the running
CPU's pointer to it, at ``%gs:AREA``, or through the field 0x30 of a CPU structure.  Pending is its byte 0,
the mask its byte 1, the selector its word at 8.  The hypercall page is at ``page``, so
``call page + 32 * 17`` makes hypercall 17.  Labels are numbers.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from builders.images import link_kernel
from xtrace.symbols.flow.code import Code
from xtrace.symbols.flow.interpreter import FunctionFlow
from xtrace.symbols.image.image import open_image
from xtrace.symbols.sites.access_kind import Touch, touches
from xtrace.symbols.sites.model import Kind
from xtrace.symbols.sites.surroundings import Touches
from xtrace.symbols.sites.vcpu_info import Layout

_POINTER, _AREA, _FIELD = 0x10, 0x400, 0x30
_HEAD = f"""
    .set AREA, {_AREA}
    .macro vcpu register
    mov %gs:{_POINTER}, \\register
    .endm
    .macro nops count
    .rept \\count
    nop
    .endr
    .endm
    .text
    .globl start
start: ret
"""
_TAIL = """
    .balign 4096
    .globl page
page: .fill 4096, 1, 0xcc
    .section .note.GNU-stack, "", @progbits
"""
#: i386 has its per-CPU segment in another register.
_SEGMENTS = {64: "%gs", 32: "%fs"}


@dataclass
class Functions:
    """Functions in one image, each analysed on demand."""

    code: Code
    layout: Layout
    _touches: dict[str, Touches] = field(default_factory=dict)

    def start(self, name: str) -> int:
        """Return a function's address."""
        address = self.code.image.symbols.find(name)
        assert address is not None, name
        return address

    def flow(self, name: str) -> FunctionFlow:
        return self.code.flow(self.start(name))

    def touches(self, name: str) -> Touches:
        """Return a function's touches by address."""
        if name not in self._touches:
            found = touches(self.flow(name), self.layout, self.code)
            self._touches[name] = Touches(self.flow(name), {touch.address: touch for touch in found})
        return self._touches[name]

    def touch(self, name: str, kind: Kind) -> Touch:
        """Return a function's first touch of a kind."""
        return next(touch for touch in self.touches(name).values() if touch.kind is kind)

    def places(self, name: str, *mnemonics: str) -> tuple[int, ...]:
        """Return the addresses of a function's instructions with these mnemonics."""
        insns = self.flow(name).insns
        return tuple(address for address in sorted(insns) if insns[address].mnemonic in mnemonics)


def assemble(
    folder: Path, bodies: Mapping[str, str], *, bits: int = 64, name: str = "functions"
) -> Functions:
    """Assemble and link functions in the given order."""
    parts = [
        f".globl {one}\n.type {one}, @function\n.balign 16\n{one}:\n{body}\n.size {one}, . - {one}\n"
        for one, body in bodies.items()
    ]
    source = (_HEAD + "".join(parts)).replace("%gs", _SEGMENTS[bits]) + _TAIL
    image = open_image(link_kernel(folder, source, bits=bits, name=name))
    page = image.symbols.find("page")
    layout = Layout(
        bits, pointers=frozenset({_POINTER}), areas=frozenset({_AREA}), fields=frozenset({_FIELD})
    )
    return Functions(Code(image, page), layout)
