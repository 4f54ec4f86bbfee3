"""The process that timed code runs in: a script that maps code and data and drops all privileges.

It imports only the standard library, shares nothing with the parent but the data and its pipes, and
never returns to Python once the code runs: the code ends the process.  Usage: child.py CPU CODE_FD
DATA_FD CODE_ADDRESS DATA_ADDRESS DATA_BYTES FAR_ADDRESS FAR_BYTES LIMIT_S.  Commands arrive on stdin and
answers go to stdout, one byte each.
"""

from __future__ import annotations

import ctypes
import mmap
import os
import resource
import signal
import sys

_PR_SET_PDEATHSIG, _PR_SET_DUMPABLE, _PR_SET_NO_NEW_PRIVS = 1, 4, 38
_MAP_FIXED_NOREPLACE, _MAP_POPULATE = 0x100000, 0x8000
_NOBODY = 65534
_PAGE_BYTES = 4096
_MADV_HUGEPAGE = 14
#: Exit codes that the parent explains.
NO_PLACE, NO_EXECUTION, NO_RIGHTS = 101, 102, 103


def _map(libc: ctypes.CDLL, address: int, size: int, file: int, populated: int = _MAP_POPULATE) -> int:
    kind = mmap.MAP_SHARED if file >= 0 else mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS
    got = libc.mmap(
        ctypes.c_void_p(address),
        ctypes.c_size_t(size),
        mmap.PROT_READ | mmap.PROT_WRITE,
        kind | _MAP_FIXED_NOREPLACE | populated,
        file,
        ctypes.c_long(0),
    )
    return int(got or 0)


def _map_far(libc: ctypes.CDLL, address: int, size: int) -> bool:
    """Map memory, in huge pages if Linux has them, so that misses there are cache misses, not TLB misses."""
    if _map(libc, address, size, -1, 0) != address:
        return False
    libc.madvise(ctypes.c_void_p(address), ctypes.c_size_t(size), _MADV_HUGEPAGE)
    ctypes.memset(address, 0, size)
    return True


def _give_up_rights(libc: ctypes.CDLL, limit_s: int) -> None:
    libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    for name, most in (
        (resource.RLIMIT_CPU, limit_s),
        (resource.RLIMIT_CORE, 0),
        (resource.RLIMIT_FSIZE, 0),
        (resource.RLIMIT_NPROC, 0),
        (resource.RLIMIT_NOFILE, 0),
    ):
        resource.setrlimit(name, (most, most))
    if os.geteuid() == 0:
        os.setgroups([])
        os.setresgid(_NOBODY, _NOBODY, _NOBODY)
        os.setresuid(_NOBODY, _NOBODY, _NOBODY)
    # Again, because a change of user clears the parent-death signal.
    libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    libc.prctl(_PR_SET_DUMPABLE, 0, 0, 0, 0)
    if libc.prctl(_PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0):
        os._exit(NO_RIGHTS)


def main(arguments: list[str]) -> None:
    """Map code and data at their addresses, drop all privileges, and run the code."""
    cpu, code_file, data_file, code_address, data_address, data_bytes, *far, limit_s = map(int, arguments)
    os.sched_setaffinity(0, {cpu})
    libc = ctypes.CDLL(None, use_errno=True)
    libc.mmap.restype = ctypes.c_void_p
    with os.fdopen(code_file, "rb") as file:
        code = file.read()
    size = -(-len(code) // _PAGE_BYTES) * _PAGE_BYTES
    if _map(libc, code_address, size, -1) != code_address:
        os._exit(NO_PLACE)
    if _map(libc, data_address, data_bytes, data_file) != data_address:
        os._exit(NO_PLACE)
    if far[1] and not _map_far(libc, *far):
        os._exit(NO_PLACE)
    os.close(data_file)
    ctypes.memmove(code_address, code, len(code))
    protection = mmap.PROT_READ | mmap.PROT_EXEC
    if libc.mprotect(ctypes.c_void_p(code_address), ctypes.c_size_t(size), protection):
        os._exit(NO_EXECUTION)
    run = ctypes.CFUNCTYPE(None)(code_address)
    try:
        _give_up_rights(libc, limit_s)
    except (OSError, ValueError):
        os._exit(NO_RIGHTS)
    run()


if __name__ == "__main__":
    main(sys.argv[1:])
