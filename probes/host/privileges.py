"""What the kernel lets this process do, beyond its user: capabilities (man 7 capabilities)."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

_STATUS = Path("/proc/self/status")
#: Their bits, from include/uapi/linux/capability.h.
BITS = {"CAP_DAC_READ_SEARCH": 2, "CAP_SYS_ADMIN": 21, "CAP_SYSLOG": 34, "CAP_PERFMON": 38, "CAP_BPF": 39}
#: CAP_SYS_ADMIN includes these: bpf_capable() and perfmon_capable() in include/linux/capability.h.
_OF_ADMIN = {"CAP_PERFMON", "CAP_BPF"}
#: What loading and attaching a program takes.
FOR_BPF = ("CAP_BPF", "CAP_PERFMON")
#: tracefs belongs to root and has mode 0700, unless it is mounted otherwise.
FOR_TRACEFS = "CAP_DAC_READ_SEARCH"
#: Without it, /proc/kallsyms has names but no addresses, where kernel.kptr_restrict is 1 or
#: kernel.perf_event_paranoid over 1.
FOR_ADDRESSES = "CAP_SYSLOG"


def held() -> frozenset[str]:
    """Return those of BITS that this process has, or has what includes them."""
    lines = _STATUS.read_text().splitlines()
    mask = next(int(line.split()[1], 16) for line in lines if line.startswith("CapEff:"))
    found = frozenset(name for name, bit in BITS.items() if mask >> bit & 1)
    return found | _OF_ADMIN if "CAP_SYS_ADMIN" in found else found


def lacking(wanted: Iterable[str]) -> tuple[str, ...]:
    """Return those of ``wanted`` that this process lacks."""
    found = held()
    return tuple(name for name in wanted if name not in found)
