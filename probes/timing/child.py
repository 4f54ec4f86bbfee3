"""The process that timed code runs in: a script that maps code and data and gives everything else up.

It imports only the standard library, shares nothing with the parent but the code, the data and its pipes, and
never returns to Python once the code runs: the code ends the process.  Commands arrive on stdin and answers
go to stdout, one byte each.

Usage: child.py CPU CODE_FD DATA_FD CODE_ADDRESS DATA_ADDRESS DATA_BYTES FAR_ADDRESS FAR_BYTES
COLD_ADDRESS COLD_BYTES LIMIT_S WALLS_OFFSET PID_OFFSET GAPS_OFFSET.  The offsets are into the data: where it
writes which namespaces it got, its PID as the parent sees it, and the address ranges that the code has to
unmap: everything but its own.

A PID namespace needs one more process, which waits for the code to end and then ends in the same way.
SIGTERM ends both.
"""

from __future__ import annotations

import ctypes
import errno
import mmap
import os
import resource
import signal
import struct
import sys
from contextlib import suppress

_PR_SET_PDEATHSIG, _PR_SET_DUMPABLE, _PR_SET_NO_NEW_PRIVS = 1, 4, 38
_MAP_FIXED_NOREPLACE, _MAP_POPULATE = 0x100000, 0x8000
_NOBODY = 65534
_PAGE_BYTES = 4096
_MADV_HUGEPAGE, _MADV_NOHUGEPAGE = 14, 15
#: The end of a process's memory (Linux, TASK_SIZE with four levels of page tables).
_MEMORY_END = 0x7FFF_FFFF_F000
#: capget(2): the version with two words of each set.
_CAPABILITY_VERSION = 0x2008_0522
#: linux/sched.h.  Bits of the word at WALLS_OFFSET, and what unshare() calls them.
USER, MOUNT, NET, PID = 1, 2, 4, 8
_UNSHARE = {USER: 0x1000_0000, MOUNT: 0x2_0000, NET: 0x4000_0000, PID: 0x2000_0000}
#: It runs as another user than the parent.
OTHER_USER = 16
#: Exit codes that the parent explains; the code itself uses STRAYED.
NO_PLACE, NO_EXECUTION, NO_RIGHTS, STRAYED = 101, 102, 103, 104


def _map(
    libc: ctypes.CDLL, address: int, size: int, file: int, *, code: bool = False, populated: bool = True
) -> bool:
    kind = mmap.MAP_SHARED if file >= 0 else mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS
    got = libc.mmap(
        ctypes.c_void_p(address),
        ctypes.c_size_t(size),
        mmap.PROT_READ | (mmap.PROT_EXEC if code else mmap.PROT_WRITE),
        kind | _MAP_FIXED_NOREPLACE | (_MAP_POPULATE if populated else 0),
        file,
        ctypes.c_long(0),
    )
    return int(got or 0) == address


def _map_far(libc: ctypes.CDLL, address: int, size: int, advice: int) -> bool:
    """Map memory that misses go to.

    Args:
        advice: huge pages if Linux has them, so that misses are cache misses and not TLB misses, or none.
    """
    if not _map(libc, address, size, -1, populated=False):
        return False
    libc.madvise(ctypes.c_void_p(address), ctypes.c_size_t(size), advice)
    ctypes.memset(address, 0, size)
    return True


def _leave_namespaces(libc: ctypes.CDLL) -> int:
    """Become nobody if root runs this, leave all namespaces that can be left, and return which they are.

    root leaves most of them as root, because nobody may not be allowed to have a user namespace.
    """
    left = 0
    if os.geteuid() == 0:
        for wall in (MOUNT, NET, PID):
            left |= 0 if libc.unshare(_UNSHARE[wall]) else wall
        # root of a container may have no other user.
        with suppress(OSError):
            os.setgroups([])
            os.setresgid(_NOBODY, _NOBODY, _NOBODY)
            os.setresuid(_NOBODY, _NOBODY, _NOBODY)
            left |= OTHER_USER
    if not libc.unshare(_UNSHARE[USER]):
        left |= USER
        for wall in (MOUNT, NET, PID):
            if not left & wall and not libc.unshare(_UNSHARE[wall]):
                left |= wall
    return left


def _first_of_its_namespace(libc: ctypes.CDLL, data_file: int, pid_offset: int) -> None:
    """Return in a new process, the first of its PID namespace; this one waits for it and ends as it does."""
    ready, announce = os.pipe()
    inner = os.fork()
    if not inner:
        os.close(announce)
        libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
        if not os.read(ready, 1):
            os._exit(NO_RIGHTS)
        os.close(ready)
        return
    signal.signal(signal.SIGTERM, lambda *_: os.kill(inner, signal.SIGKILL))
    os.pwrite(data_file, struct.pack("<q", inner), pid_offset)
    os.write(announce, b"1")
    os.closerange(0, announce + 1)
    _, status = os.waitpid(inner, 0)
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    if os.WIFSIGNALED(status):
        number = os.WTERMSIG(status)
        if number not in (signal.SIGKILL, signal.SIGSTOP):
            signal.signal(number, signal.SIG_DFL)
        os.kill(os.getpid(), number)
    os._exit(os.waitstatus_to_exitcode(status) & 0xFF)


def _give_up_rights(libc: ctypes.CDLL, limit_s: int, memory_bytes: int) -> None:
    # A change of user clears the parent-death signal, so it is set after that.
    libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    # A user namespace came with all capabilities in it.
    head = struct.pack("<Ii", _CAPABILITY_VERSION, 0)
    if libc.capset(head, bytes(24)):
        os._exit(NO_RIGHTS)
    libc.prctl(_PR_SET_DUMPABLE, 0, 0, 0, 0)
    if libc.prctl(_PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0):
        os._exit(NO_RIGHTS)
    # Python's handlers are in memory that will be gone.
    for number in signal.valid_signals() - {signal.SIGKILL, signal.SIGSTOP}:
        if signal.getsignal(number) not in (signal.SIG_DFL, signal.SIG_IGN, None):
            signal.signal(number, signal.SIG_IGN)
    for name, most in (
        (resource.RLIMIT_CPU, limit_s),
        (resource.RLIMIT_CORE, 0),
        (resource.RLIMIT_FSIZE, 0),
        (resource.RLIMIT_NPROC, 0),
        (resource.RLIMIT_NOFILE, 0),
        (resource.RLIMIT_MEMLOCK, 0),
        (resource.RLIMIT_AS, memory_bytes),
    ):
        resource.setrlimit(name, (most, most))


def _gaps(kept: list[tuple[int, int]]) -> list[tuple[int, int]]:
    """Return the address ranges (begin, size) between those that are kept."""
    found = []
    at = 0
    for begin, size in sorted((begin, size) for begin, size in kept if size):
        if begin > at:
            found.append((at, begin - at))
        at = begin + -(-size // _PAGE_BYTES) * _PAGE_BYTES
    return [*found, (at, _MEMORY_END - at)]


def main(arguments: list[str]) -> None:
    """Map code and data at their addresses, give up everything else, and run the code."""
    numbers = [int(item) for item in arguments]
    cpu, code_file, data_file, code_address, data_address, data_bytes, far_address, far_bytes = numbers[:8]
    cold_address, cold_bytes, limit_s, walls_offset, pid_offset, gaps_offset = numbers[8:]
    os.sched_setaffinity(0, {cpu})
    libc = ctypes.CDLL(None, use_errno=True)
    libc.mmap.restype = ctypes.c_void_p
    libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    try:
        walls = _leave_namespaces(libc)
        if walls & PID:
            libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
            _first_of_its_namespace(libc, data_file, pid_offset)
    except OSError:
        os._exit(NO_RIGHTS)
    code_bytes = -(-os.fstat(code_file).st_size // _PAGE_BYTES) * _PAGE_BYTES
    if not _map(libc, data_address, data_bytes, data_file):
        os._exit(NO_PLACE)
    if not _map(libc, code_address, code_bytes, code_file, code=True):
        os._exit(NO_PLACE if ctypes.get_errno() == errno.EEXIST else NO_EXECUTION)
    if far_bytes and not _map_far(libc, far_address, far_bytes, _MADV_HUGEPAGE):
        os._exit(NO_PLACE)
    if cold_bytes and not _map_far(libc, cold_address, cold_bytes, _MADV_NOHUGEPAGE):
        os._exit(NO_PLACE)
    kept = [(code_address, code_bytes), (data_address, data_bytes), (far_address, far_bytes)]
    kept.append((cold_address, cold_bytes))
    ranges = b"".join(struct.pack("<QQ", *gap) for gap in _gaps(kept)) + bytes(16)
    ctypes.memmove(data_address + gaps_offset, ranges, len(ranges))
    ctypes.memmove(data_address + walls_offset, struct.pack("<q", walls), 8)
    run = ctypes.CFUNCTYPE(None)(code_address)
    try:
        # Nothing but the two pipes stays open: the parent passed these files only.
        os.closerange(2, max(code_file, data_file) + 1)
        _give_up_rights(libc, limit_s, code_bytes + data_bytes + far_bytes + cold_bytes)
    except (OSError, ValueError):
        os._exit(NO_RIGHTS)
    run()


if __name__ == "__main__":
    main(sys.argv[1:])
