"""The seccomp filter for timed code: read, write and exit; any other system call kills the process.

seccomp's strict mode would do, except that it forbids rdtsc (linux/kernel/seccomp.c, disable_TSC()).
"""

from __future__ import annotations

import struct

#: linux/audit.h, linux/seccomp.h, linux/bpf_common.h.
_ARCH_X86_64 = 0xC000_003E
_KILL, _ALLOW = 0x0000_0000, 0x7FFF_0000
_LOAD, _JUMP_IF_EQUAL, _RETURN = 0x20, 0x15, 0x06
_NUMBER_AT, _ARCH_AT = 0, 4
_READ, _WRITE, _EXIT = 0, 1, 60


def filter_bytes(address: int) -> bytes:
    """Return a struct sock_fprog to be placed at ``address``, followed by its instructions."""
    allowed = (_READ, _WRITE, _EXIT)
    lines = [
        (_LOAD, 0, 0, _ARCH_AT),
        (_JUMP_IF_EQUAL, 0, len(allowed) + 1, _ARCH_X86_64),
        (_LOAD, 0, 0, _NUMBER_AT),
        *((_JUMP_IF_EQUAL, len(allowed) - place, 0, number) for place, number in enumerate(allowed)),
        (_RETURN, 0, 0, _KILL),
        (_RETURN, 0, 0, _ALLOW),
    ]
    head = struct.pack("<HxxxxxxQ", len(lines), address + 16)
    return head + b"".join(struct.pack("<HBBI", *line) for line in lines)
