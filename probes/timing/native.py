"""Call small machine-code functions in this process, to read the TSC and cpuid."""

from __future__ import annotations

import ctypes
import mmap
import struct

from xtrace.probes.errors import TraceError


class Native:
    """A machine-code function with the C calling convention, mapped and then made executable.

    Raises:
        TraceError: the system does not allow memory to be made executable.
    """

    def __init__(self, code: bytes) -> None:
        self._memory = mmap.mmap(-1, mmap.PAGESIZE, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
        self._memory.write(code)
        address = ctypes.addressof(ctypes.c_char.from_buffer(self._memory))
        libc = ctypes.CDLL(None, use_errno=True)
        protection = mmap.PROT_READ | mmap.PROT_EXEC
        if libc.mprotect(ctypes.c_void_p(address), ctypes.c_size_t(mmap.PAGESIZE), protection):
            raise TraceError("the system does not allow memory to be made executable (SELinux execmem?)")
        self.call = ctypes.CFUNCTYPE(ctypes.c_uint64, ctypes.c_uint64, ctypes.c_uint64, ctypes.c_void_p)(
            address
        )


def cpuid(function: Native, leaf: int, subleaf: int = 0) -> tuple[int, int, int, int]:
    """Return eax, ebx, ecx and edx of a cpuid leaf."""
    place = ctypes.create_string_buffer(16)
    function.call(leaf, subleaf, ctypes.addressof(place))
    eax, ebx, ecx, edx = struct.unpack("<4I", place.raw)
    return eax, ebx, ecx, edx
