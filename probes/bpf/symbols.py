"""Look up names of kernel and hypervisor addresses on the running host: addresses change at each boot."""

from __future__ import annotations

import contextlib
from array import array
from bisect import bisect_right
from collections.abc import Iterable, Iterator
from itertools import islice
from pathlib import Path

KERNEL_SYMBOLS = Path("/proc/kallsyms")
XEN_SYMBOLS = Path("/proc/xen/xensyms")

#: Xen's public/arch-x86/xen-x86_64.h: the hypervisor's own part of every address space.
XEN_FIRST, XEN_LAST = 0xFFFF_8000_0000_0000, 0xFFFF_87FF_FFFF_FFFF
KERNEL_FIRST = 0xFFFF_8000_0000_0000
#: An address this far past a symbol is in code without one.
_FARTHEST = 1 << 20
#: If this many functions are at 0, all are.
_ENOUGH = 16


class Symbols:
    """Symbols in order of their addresses; empty if the host hides them."""

    def __init__(self, path: Path) -> None:
        rows = []
        try:
            with path.open(errors="replace") as file:
                for line in file:
                    words = line.split()
                    if len(words) >= 3 and words[1] in "tTwW" and (address := int(words[0], 16)):
                        rows.append((address, words[2]))
        except OSError:
            rows = []
        rows.sort()
        self._addresses = array("Q", [address for address, _ in rows])
        self._names = [name for _, name in rows]

    def __len__(self) -> int:
        return len(self._names)

    def name(self, address: int) -> tuple[str, int]:
        """Return the symbol at or before ``address`` and the offset from it; ("", 0) if there is none."""
        at = bisect_right(self._addresses, address) - 1
        if at < 0 or address - self._addresses[at] >= _FARTHEST:
            return "", 0
        return self._names[at], address - self._addresses[at]


def are_hidden() -> bool:
    """Return whether this process sees the kernel's symbols without their addresses."""
    with contextlib.suppress(OSError), KERNEL_SYMBOLS.open(errors="replace") as file:
        code = (words for line in file if (words := line.split()) and words[1] in "tT")
        return not any(int(words[0], 16) for words in islice(code, _ENOUGH))
    return True


def is_hypervisor(address: int) -> bool:
    """Return whether an address is in Xen's own range."""
    return XEN_FIRST <= address <= XEN_LAST


class Names:
    """Looks up kernel and hypervisor addresses, each once; the tables are loaded on first use."""

    def __init__(self) -> None:
        self._known: set[int] = set()
        self._kernel: Symbols | None = None
        self._xen: Symbols | None = None

    @property
    def symbol_count(self) -> int:
        """Return how many symbols were read from the host; 0 before the first look-up."""
        return sum(len(table) for table in (self._kernel, self._xen) if table is not None)

    def new(self, addresses: Iterable[int], most: int) -> Iterator[tuple[str, str, int]]:
        """Yield (address in hex, symbol, offset) of addresses not seen before, up to ``most`` in all."""
        for address in addresses:
            if address < KERNEL_FIRST or address in self._known or len(self._known) >= most:
                continue
            self._known.add(address)
            name, offset = self._table(address).name(address)
            yield f"{address:#x}", name, offset

    def _table(self, address: int) -> Symbols:
        if is_hypervisor(address):
            # An empty table is false, but has been read.
            if self._xen is None:
                self._xen = Symbols(XEN_SYMBOLS)
            return self._xen
        if self._kernel is None:
            self._kernel = Symbols(KERNEL_SYMBOLS)
        return self._kernel
