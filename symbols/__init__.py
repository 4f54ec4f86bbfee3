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
    from xtrace.symbols.proof.argument import explain
    from xtrace.symbols.proof.checker import Outcome, check
    from xtrace.symbols.proof.protocols import Scenario
    from xtrace.symbols.proof.scenario import scenario_of
    from xtrace.symbols.sites.finder import find_sites
    from xtrace.symbols.sites.model import Fence, Hazard, Kind, Site, SiteTable, Verdict

__all__ = [
    "AddressResolver",
    "Fence",
    "Hazard",
    "Image",
    "ImageError",
    "Kind",
    "LoadOffset",
    "Outcome",
    "Scenario",
    "Site",
    "SiteTable",
    "Verdict",
    "check",
    "explain",
    "find_sites",
    "fit_load_offset",
    "open_image",
    "scenario_of",
]

#: Imported on first use: these modules need numpy, pyelftools and iced-x86.
__getattr__ = exported(
    __name__,
    {
        "AddressResolver": "addresses.resolve",
        "Fence": "sites.model",
        "Hazard": "sites.model",
        "Image": "image.image",
        "Kind": "sites.model",
        "LoadOffset": "addresses.load_offset",
        "Outcome": "proof.checker",
        "Scenario": "proof.protocols",
        "Site": "sites.model",
        "SiteTable": "sites.model",
        "Verdict": "sites.model",
        "check": "proof.checker",
        "explain": "proof.argument",
        "find_sites": "sites.finder",
        "fit_load_offset": "addresses.load_offset",
        "open_image": "image.image",
        "scenario_of": "proof.scenario",
    },
)
