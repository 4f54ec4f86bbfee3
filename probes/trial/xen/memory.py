"""The memory of a domain, by the addresses of its kernel."""

from __future__ import annotations

import ctypes
from collections.abc import Iterable, Iterator

from xtrace.probes.trial.target import TrialError
from xtrace.probes.trial.xen.libraries import PAGE_BYTES, Xen

#: Pages that are mapped at once, to be read and let go.
_MOST_PAGES = 256


class DomainMemory:
    """Reads and writes; pages that are held stay mapped until close()."""

    def __init__(self, xen: Xen, domain: int) -> None:
        self._xen, self._domain = xen, domain
        self._held: dict[int, int] = {}

    def hold(self, addresses: Iterable[int], size: int, *, writable: bool) -> None:
        """Map the pages of ``size`` bytes at each address.

        Raises:
            TrialError: there is no page, or Xen does not let it be mapped.
        """
        for address in addresses:
            for page, _, _ in pieces(address, size):
                if page not in self._held:
                    self._held[page] = self._mapped(page, writable=writable)

    def _mapped(self, page: int, *, writable: bool) -> int:
        frame = self._xen.frame(self._domain, page)
        if frame is None:
            raise TrialError(f"domain {self._domain}: nothing is mapped at {page:#x}")
        found = self._xen.map(self._domain, [frame], writable=writable)
        if found is None:
            raise TrialError(f"domain {self._domain}: Xen does not let its page at {page:#x} be mapped")
        return found

    def read(self, address: int, size: int) -> bytes:
        """Return bytes: fewer, or none, where nothing is mapped."""
        spans = list(pieces(address, size))
        if all(page in self._held for page, _, _ in spans):
            return b"".join(
                ctypes.string_at(self._held[page] + start, length) for page, start, length in spans
            )
        found = b""
        for first in range(0, len(spans), _MOST_PAGES):
            batch = spans[first : first + _MOST_PAGES]
            frames: list[int] = []
            for page, _, _ in batch:
                frame = self._xen.frame(self._domain, page)
                if frame is None:
                    break
                frames.append(frame)
            mapped = self._xen.map(self._domain, frames, writable=False) if frames else None
            if mapped is None:
                return found
            for number, (_, start, length) in enumerate(batch[: len(frames)]):
                found += ctypes.string_at(mapped + number * PAGE_BYTES + start, length)
            self._xen.unmap(mapped, len(frames))
            if len(frames) < len(batch):
                return found
        return found

    def write(self, address: int, data: bytes) -> None:
        """Write bytes; their pages are held, or are now."""
        self.hold((address,), len(data), writable=True)
        done = 0
        for page, start, length in pieces(address, len(data)):
            ctypes.memmove(self._held[page] + start, data[done : done + length], length)
            done += length

    def word(self, address: int) -> int:
        """Return an aligned 64-bit word of a held page, read at once."""
        page = address & -PAGE_BYTES
        return ctypes.c_uint64.from_address(self._held[page] + address - page).value

    def close(self) -> None:
        """Unmap everything; a domain that is being destroyed keeps its memory until then."""
        for mapped in self._held.values():
            self._xen.unmap(mapped, 1)
        self._held.clear()


def pieces(address: int, size: int) -> Iterator[tuple[int, int, int]]:
    """Yield (page, start in it, length) of the parts of some bytes, one for each page."""
    end = address + size
    while address < end:
        page = address & -PAGE_BYTES
        length = min(end, page + PAGE_BYTES) - address
        yield page, address - page, length
        address += length
