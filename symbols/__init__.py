"""What the binaries say: a guest kernel's image in, its sites, fences and verdicts out."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from xtrace.symbols.errors import ImageError

if TYPE_CHECKING:
    from xtrace.symbols.addresses.resolve import AddressResolver, LoadOffset, fit_load_offset
    from xtrace.symbols.image.image import Image, open_image
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
    "Site",
    "SiteTable",
    "Verdict",
    "find_sites",
    "fit_load_offset",
    "open_image",
]

_HOMES = {
    "AddressResolver": "resolve",
    "Fence": "model",
    "Hazard": "model",
    "Image": "image",
    "Kind": "model",
    "LoadOffset": "resolve",
    "Site": "model",
    "SiteTable": "model",
    "Verdict": "model",
    "find_sites": "sites",
    "fit_load_offset": "resolve",
    "open_image": "image",
}


def __getattr__(name: str) -> Any:
    """Import what needs numpy, pyelftools and iced-x86 when it is first asked for."""
    if name not in _HOMES:
        raise AttributeError(name)
    from importlib import import_module

    return getattr(import_module(f"xtrace.symbols.{_HOMES[name]}"), name)
