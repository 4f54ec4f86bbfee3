"""The image of a domain's kernel, to look up its samples in."""

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

#: So many distinct addresses, the most frequent, tell the load offset.
_MOST_FITTED = 4096


@dataclass
class ImageKernel:
    """An image that a domain runs, with its sites.

    Attributes:
        domain: the domain's number.
        image: of its kernel.
        sites: of the image; their masked ranges are what counts.
        load_offset: how far it was moved when loaded; None where that is to be told by the samples.
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
        """Return what addresses of the guest are more than those of the image, and how it is known."""
        if self.load_offset is not None:
            return self.load_offset, "given"
        if is_pv:
            return 0, "as linked, for the domain is PV"
        fitted = fit_load_offset(rips[:_MOST_FITTED], self.image)
        return fitted.value, fitted.how if fitted.value is None else f"fitted: {fitted.how}"

    def find(self, addresses: U64, most_lines: int) -> Found:
        """Say of addresses of the image, the most frequent first, where they lie."""
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
        """Count the executions of its sites on the ways of an upcall without the hypercalls ``never``."""
        return site_paths(self.image, self.sites, never)

    def behind(self) -> Mapping[int, int]:
        """Return the address behind each fence of its mask, restore and unmask sites."""
        return behind_fences(self.image, self.sites)

    @cached_property
    def _masked(self) -> tuple[U64, U64]:
        ranges = [pair for site in self.sites.sites for pair in site.masked]
        columns = np.array(ranges, np.uint64).reshape(-1, 2)
        return columns[:, 0], columns[:, 1]


def open_kernels(images: Iterable[tuple[int, Path, int | None]]) -> list[ImageKernel]:
    """Open the images that domains run and find their sites, each image once.

    Args:
        images: domain, file and, where it is known, load offset.

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
