"""Small guests in assembly, and what the plan of their image exchanges."""

from __future__ import annotations

import subprocess
from pathlib import Path

from xtrace.symbols import Verdict, find_sites, open_image
from xtrace.symbols.patching.plan import Plan, plan

REMOVABLE = frozenset((Verdict.REMOVABLE,))
_HEAD = """
    .text
    .macro VCPU register
    mov %gs:0x20, \\register
    mov 0x1c8(\\register), \\register
    .endm
    .globl unmask
    .type unmask, @function
unmask:                         # teaches the finder where vcpu_info is
    VCPU %rbx
    movb $0, 1(%rbx)
    cmpb $0, (%rbx)
    jne force_callback
    ret
    .globl handle_events
    .type handle_events, @function
handle_events:
    VCPU %rdi
    movb $0, (%rdi)
    xor %eax, %eax
    xchg %rax, 8(%rdi)
    ret
    .globl force_callback
    .type force_callback, @function
force_callback:
    xor %edi, %edi
    xor %esi, %esi
    jmp hypercall_page+17*32
"""
_TAIL = """
    .globl hypercall_page
    .type hypercall_page, @function
    .balign 4096
hypercall_page:
    .skip 4096, 0xc3
    .section .note.GNU-stack, "", @progbits
"""


def planned(folder: Path, body: str, allowed: frozenset[Verdict] = REMOVABLE) -> Plan:
    source, target = folder / "guest.s", folder / "guest"
    source.write_text(_HEAD + body + _TAIL)
    subprocess.run(
        ["gcc", "-nostdlib", "-static", "-no-pie", "-Wl,-e,unmask", "-o", target, source], check=True
    )
    image = open_image(target)
    return plan(image, find_sites(image), allowed)


def mask_with(fence: str, more: str = "") -> str:
    return f"""
    .globl mask
    .type mask, @function
mask:
    VCPU %rdx
    movb $1, 1(%rdx)
    {fence}
    ret
    {more}
"""
