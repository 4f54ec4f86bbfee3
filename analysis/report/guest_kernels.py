"""Look up a domain's samples in the image of its kernel."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np

from xtrace.analysis.measures.kernel_samples import U64, Found
from xtrace.symbols.addresses.resolve import AddressResolver, fit_load_offset
from xtrace.symbols.image.image import Image, open_image
from xtrace.symbols.sites.execution_bounds import SitePaths, behind_fences, site_paths
from xtrace.symbols.sites.finder import find_sites
from xtrace.symbols.sites.model import SiteTable
from xtrace.symbols.x86.decode import InsnDecoder

_LONGEST_INSTRUCTION_BYTES = 15
#: The load offset is fitted to this many distinct addresses, the most frequent ones.
_MOST_FITTED = 4096


@dataclass
class ImageKernel:
    """The kernel image that a domain runs, with its sites.

    Attributes:
        domain: the domain's number.
        image: of its kernel.
        sites: of the image, with their masked ranges.
        load_offset: guest address minus image address; None to fit it to the samples.
    """

    domain: int
    image: Image
    sites: SiteTable
    load_offset: int | None

    @property
    def path(self) -> str:
        """The image's file."""
        return self.image.path

    @property
    def build_id(self) -> str:
        """The image's build-id in hex, "" if it has none."""
        return self.image.build_id

    def load_offset_of(self, rips: U64, *, is_pv: bool) -> tuple[int | None, str]:
        """Return guest address minus image address, None where unknown, and how it is known or why not."""
        if self.load_offset is not None:
            return self.load_offset, "given"
        if is_pv:
            return 0, "as linked, because the domain is PV"
        fitted = fit_load_offset(rips[:_MOST_FITTED], self.image)
        return fitted.value, fitted.how if fitted.value is None else f"fitted: {fitted.how}"

    def find(self, addresses: U64, most_lines: int) -> Found:
        """Return where addresses of the image are: function, source line, masked or not."""
        resolver = AddressResolver(self.image)
        found = resolver.resolve(addresses)
        names = resolver.names(found.symbols)
        inside = np.zeros(len(addresses), bool)
        for section in self.image.code:
            inside |= addresses - np.uint64(section.address) < np.uint64(section.size)
        asked = addresses[inside][:most_lines].tolist()
        places = resolver.places(asked)
        here = [places.get(address) for address in addresses.tolist()]
        starts, ends = self._masked
        return Found(
            inside=inside,
            functions=[names.get(symbol, "") for symbol in found.symbols.tolist()],
            offsets=np.where(found.symbols >= 0, found.offsets, 0).astype(np.int64),
            masked=resolver.ranges(addresses, starts, ends) >= 0,
            files=[place.file if place else "" for place in here],
            lines=np.array([place.line if place else 0 for place in here], np.int64),
        )

    def paths(self, never: Collection[int]) -> SitePaths:
        """Count executions of the sites on the paths of an upcall that makes no hypercall of ``never``."""
        return site_paths(self.image, self.sites, never)

    def behind(self) -> Mapping[int, int]:
        """Return the address after each fence of its mask, restore and unmask sites, by fence address."""
        return behind_fences(self.image, self.sites)

    def misplaced(self, offsets: Mapping[int, int]) -> int:
        """Return how many addresses are in the middle of an instruction, by their offset in a function."""
        decoder = InsnDecoder(self.image.bits)
        count = 0
        for address, offset in offsets.items():
            start = address - offset
            code = self.image.read(start, offset + _LONGEST_INSTRUCTION_BYTES)
            ends = (insn.end for insn in decoder.decode(code, start))
            reached = next((end for end in ends if end >= address), address) if offset else address
            count += reached != address
        return count

    @cached_property
    def _masked(self) -> tuple[U64, U64]:
        ranges = [pair for site in self.sites.sites for pair in site.masked]
        columns = np.array(ranges, np.uint64).reshape(-1, 2)
        return columns[:, 0], columns[:, 1]


def open_kernels(images: Iterable[tuple[int, Path, int | None]]) -> list[ImageKernel]:
    """Open the kernel images of domains and find their sites; a file is read only once.

    Args:
        images: (domain, file, load offset or None where it is not known).

    Raises:
        OSError, ImageError: an image cannot be read.
    """
    opened: dict[Path, tuple[Image, SiteTable]] = {}
    kernels = []
    for domain, path, load_offset in images:
        if path not in opened:
            image = open_image(path)
            opened[path] = image, find_sites(image, lines=False)
        kernels.append(ImageKernel(domain, *opened[path], load_offset))
    return kernels
