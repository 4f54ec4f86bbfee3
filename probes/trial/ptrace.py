"""The system calls with which another process's threads are stopped: ptrace(2), kcmp(2).

Threads are seized, not attached: nothing stops until PTRACE_INTERRUPT, no signal is sent, and the kernel
lets all of them run on if the tracer dies.
"""

from __future__ import annotations

import ctypes
import os
import signal
from typing import Final

#: include/uapi/linux/ptrace.h
CONT, GETREGS, DETACH = 7, 12, 17
GETEVENTMSG, SEIZE, INTERRUPT, LISTEN = 0x4201, 0x4206, 0x4207, 0x4208
EVENT_FORK, EVENT_VFORK, EVENT_CLONE, EVENT_EXEC, EVENT_STOP = 1, 2, 3, 4, 128
OPTIONS: Final = sum(1 << event for event in (1, 2, 3, 4))
WALL = 0x40000000
STOPS = frozenset((signal.SIGSTOP, signal.SIGTSTP, signal.SIGTTIN, signal.SIGTTOU))
_KCMP, _KCMP_VM = 312, 1
_REGISTER_COUNT = 27

_LIBC = ctypes.CDLL(None, use_errno=True)
_LIBC.ptrace.restype = ctypes.c_long
_LIBC.ptrace.argtypes = [ctypes.c_long, ctypes.c_long, ctypes.c_void_p, ctypes.c_void_p]


def request(number: int, tid: int, data: int = 0) -> None:
    """Make a request without an address.

    Raises:
        OSError: it failed, such as ESRCH for a thread that has ended or is not stopped.
    """
    if _LIBC.ptrace(number, tid, None, data) < 0:
        error = ctypes.get_errno()
        raise OSError(error, os.strerror(error))


def event_message(tid: int) -> int:
    """Return the message of the event that a thread stopped at: the new thread's or process's id."""
    word = ctypes.c_ulong()
    if _LIBC.ptrace(GETEVENTMSG, tid, None, ctypes.byref(word)) < 0:
        error = ctypes.get_errno()
        raise OSError(error, os.strerror(error))
    return word.value


def registers(tid: int) -> bytes:
    """Return the registers of a stopped thread: struct user_regs_struct, 27 words of 64 bits.

    Raises:
        OSError: it is not stopped.
    """
    words = (ctypes.c_uint64 * _REGISTER_COUNT)()
    if _LIBC.ptrace(GETREGS, tid, None, ctypes.byref(words)) < 0:
        error = ctypes.get_errno()
        raise OSError(error, os.strerror(error))
    return bytes(words)


def shares_memory(one: int, other: int) -> bool:
    """Return whether two processes have the same memory.

    Raises:
        OSError: the kernel does not say.
    """
    result = _LIBC.syscall(_KCMP, one, other, _KCMP_VM, 0, 0)
    if result < 0:
        error = ctypes.get_errno()
        raise OSError(error, os.strerror(error))
    return bool(result == 0)
