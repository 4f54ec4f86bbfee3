"""Read the raw TSC from Python with a few instructions of machine code, called through ctypes.

In a PV dom0, user space reads the same TSC that Xen puts into its records.  Reading it
immediately before and after a call bounds the time of the call; doing so with separate
Python calls would take ten times as long.
"""

from __future__ import annotations

import ctypes
import mmap
import os
import platform

from xtrace.probes.errors import TraceError

_CLOCK_MONOTONIC = 1
_CODE = bytes.fromhex(
    # bracket(out, call, a, b, c): out[0] = tsc, out[2] = call(a, b, c), out[1] = tsc.
    "53 4154 4155"  # push rbx, r12, r13; the stack is aligned now
    "4889fb 4989f4"  # rbx = out, r12 = call
    "4889d7 4889ce 4d89c5"  # rdi = a, rsi = b, r13 = c
    "0fae e8 0f31 8903 895304"  # lfence, rdtsc, out[0]
    "4c89ea 31c0 41ffd4"  # rdx = c, no vector arguments, call
    "48894310"  # out[2]
    "0faee8 0f31 894308 89530c"  # lfence, rdtsc, out[1]
    "415d 415c 5b c3"
)
_CPUID = bytes.fromhex(
    # cpuid(out, leaf): out[0..3] = eax, ebx, ecx, edx.
    "53 4989f8 89f0 31c9 0fa2"  # push rbx; r8 = out, eax = leaf, ecx = 0, cpuid
    "418900 41895804 41894808 4189500c"
    "5b c3"
)
_CPUID_AT = 128
_PAGE_BYTES = mmap.PAGESIZE


class RawTsc:
    """A page of machine code that reads the TSC and CPUID.

    Raises:
        TraceError: the machine is not x86-64 or forbids executable pages.
    """

    def __init__(self) -> None:
        if platform.machine() != "x86_64":
            raise TraceError(f"reading the TSC needs an x86-64 machine; this one is {platform.machine()}")
        try:
            self._page = mmap.mmap(-1, _PAGE_BYTES, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
        except OSError as error:
            raise TraceError(f"cannot map a page for the code that reads the TSC: {error.strerror}") from None
        self._page[: len(_CODE)] = _CODE
        self._page[_CPUID_AT : _CPUID_AT + len(_CPUID)] = _CPUID
        address = ctypes.addressof(ctypes.c_char.from_buffer(self._page))
        library = ctypes.CDLL(None, use_errno=True)
        library.mprotect.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int]
        if library.mprotect(address, _PAGE_BYTES, mmap.PROT_READ | mmap.PROT_EXEC):
            reason = os.strerror(ctypes.get_errno())
            raise TraceError(f"cannot make the TSC code executable: {reason}; does SELinux forbid it?")
        arguments = [ctypes.c_void_p, ctypes.c_void_p, ctypes.c_ulong, ctypes.c_ulong, ctypes.c_ulong]
        self._bracket = ctypes.CFUNCTYPE(None, *arguments, use_errno=True)(address)
        self._cpuid = ctypes.CFUNCTYPE(None, ctypes.c_void_p, ctypes.c_uint)(address + _CPUID_AT)
        self._out = (ctypes.c_uint64 * 3)()
        self._time = (ctypes.c_int64 * 2)()
        self._gettime = ctypes.cast(library.clock_gettime, ctypes.c_void_p)
        self._ioctl = ctypes.cast(library.ioctl, ctypes.c_void_p)

    def pair(self, tries: int = 5) -> tuple[int, int, int]:
        """Return (TSC, CLOCK_MONOTONIC in ns, TSC), the narrowest of ``tries`` readings."""
        best = (0, 0, 1 << 64)
        for _ in range(tries):
            self._bracket(self._out, self._gettime, _CLOCK_MONOTONIC, ctypes.addressof(self._time), 0)
            before, after, _result = self._out
            if after - before < best[2] - best[0]:
                best = (before, self._time[0] * 1_000_000_000 + self._time[1], after)
        return best

    def ioctl(self, fd: int, request: int, address: int) -> tuple[int, int, int, int]:
        """Call ioctl and return (TSC before, its return value, errno or 0, TSC after)."""
        self._bracket(self._out, self._ioctl, fd, request, address)
        before, after, result = self._out
        code = ctypes.c_int(result & 0xFFFF_FFFF).value
        return before, code, ctypes.get_errno() if code < 0 else 0, after

    def cpuid(self, leaf: int) -> tuple[int, int, int, int]:
        """Return (eax, ebx, ecx, edx) of a CPUID leaf, as this process sees it."""
        out = (ctypes.c_uint32 * 4)()
        self._cpuid(out, leaf)
        return out[0], out[1], out[2], out[3]
