"""Shift addresses by one secret distance, so that they say nothing of where a kernel was loaded.

Equal addresses stay equal, different ones different, and distances between addresses of one kernel stay as
they are.  An address stays in its half: user, kernel or hypervisor.  The distance is a multiple of 2 MiB, as
is the place that Linux chooses for its kernel.
"""

from __future__ import annotations

import secrets
from dataclasses import dataclass, field

from xtrace.probes.bpf.symbols import KERNEL_FIRST

_STEP = 2 << 20
#: Up to 1 GiB, the range of Linux's own choice.
_STEPS = 511
_USER_LAST = 1 << 47
#: User addresses from here on move down, as those of stacks and libraries are near the end of their half.
_USER_MIDDLE = 1 << 46
_WORD = 0xFFFF_FFFF


def _secret() -> int:
    return _STEP * (1 + secrets.randbelow(_STEPS))


@dataclass(frozen=True, slots=True)
class Shift:
    """A way to move addresses.

    Attributes:
        distance_bytes: a multiple of 2 MiB, up to 1 GiB.
    """

    distance_bytes: int = field(default_factory=_secret)

    def wide(self, address: int) -> int:
        """Return where an address of 64 bits is moved; small numbers, which are none, stay."""
        if address >= KERNEL_FIRST + self.distance_bytes or _USER_MIDDLE <= address < _USER_LAST:
            return address - self.distance_bytes
        if _STEP <= address < _USER_MIDDLE:
            return address + self.distance_bytes
        return address

    def narrow(self, address: int) -> int:
        """Return where an address of 32 bits, or the low half of a kernel's, is moved; 0 stays."""
        return (address - self.distance_bytes) & _WORD if address else 0
