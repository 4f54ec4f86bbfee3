"""Analysis of a guest kernel's image: its sites, the fences there and the verdicts.

The names in ``__all__`` are public; the modules that define them are not.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from xtrace.lazy import exported
from xtrace.symbols.errors import ImageError

if TYPE_CHECKING:
    from xtrace.symbols.addresses.load_offset import LoadOffset, fit_load_offset
    from xtrace.symbols.addresses.resolve import AddressResolver
    from xtrace.symbols.image.image import Image, open_image
    from xtrace.symbols.listing.explain import explain
    from xtrace.symbols.proof.description import Description
    from xtrace.symbols.proof.operational import Outcome, check
    from xtrace.symbols.sites.finder import find_sites
    from xtrace.symbols.sites.model import Fence, Hazard, Kind, Site, SiteTable, Verdict

__all__ = [
    "AddressResolver",
    "Description",
    "Fence",
    "Hazard",
    "Image",
    "ImageError",
    "Kind",
    "LoadOffset",
    "Outcome",
    "Site",
    "SiteTable",
    "Verdict",
    "check",
    "explain",
    "find_sites",
    "fit_load_offset",
    "open_image",
]

#: Imported on first use: these modules need numpy, pyelftools and iced-x86.
__getattr__ = exported(
    __name__,
    {
        "AddressResolver": "addresses.resolve",
        "Description": "proof.description",
        "Fence": "sites.model",
        "Hazard": "sites.model",
        "Image": "image.image",
        "Kind": "sites.model",
        "LoadOffset": "addresses.load_offset",
        "Outcome": "proof.operational",
        "Site": "sites.model",
        "SiteTable": "sites.model",
        "Verdict": "sites.model",
        "check": "proof.operational",
        "explain": "listing.explain",
        "find_sites": "sites.finder",
        "fit_load_offset": "addresses.load_offset",
        "open_image": "image.image",
    },
)
