"""Values of the JSON as text on a page."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from xtrace.probes.words import digits, scaled, share_text, time_text
from xtrace.probes.xen_abi import DEFAULT_DOMAIN, IDLE_DOMAIN
from xtrace.symbols.errors import shown

#: Characters of an untrusted name that a page shows.
NAME_LENGTH = 48
#: How figures are known, the least certain last.
QUALITIES = ("exact", "bounded", "inferred", "modelled")
NOTHING = "\N{EN DASH}"


def name_text(text: object, most: int = NAME_LENGTH) -> str:
    """Return untrusted text without what a reader would not see, and not too long."""
    return shown(str(text), most)


def sum_known(quality: str) -> str:
    """Return how a count or a sum over time is known: where it is bounded, a part of it may be missing."""
    return "at least" if quality == "bounded" else quality


def cell_text(key: str, value: Any, hz: float | None) -> str:
    """Return a value of the JSON as text, by the ending of its key.

    Args:
        hz: TSC rate, for cycles; None where it is not known.
    """
    if value is None:
        return NOTHING
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, str):
        return name_text(value, 200)
    if not math.isfinite(value):
        return NOTHING
    if key.endswith("_cycles"):
        return time_text(value, hz)
    if key.endswith("_ns"):
        return time_text(value, 1e9)
    if key.endswith("_ratio"):
        return share_text(value)
    if key.endswith("per_s"):
        return scaled(value) if abs(value) >= 100 else digits(value)
    return f"{value:,}" if isinstance(value, int) else f"{value:,.4g}"


def domain_label(domain: int, names: Mapping[str, str]) -> str:
    """Return a domain's label, with its name where the recorder knew it."""
    if domain == IDLE_DOMAIN:
        return "idle"
    if domain == DEFAULT_DOMAIN:
        return "?"
    name = names.get(str(domain))
    return f"d{domain} {name_text(name)}" if name else f"d{domain}"


def vcpu_label(domain: int, vcpu: int) -> str:
    """Return a vCPU's label; where it is not known which one ran, that of the pCPU."""
    if domain == DEFAULT_DOMAIN:
        return f"on p{vcpu}"
    return f"d{domain}v{vcpu}"


def seconds_text(cycles: float, hz: float | None) -> str:
    """Return a moment since the first record."""
    return f"{cycles / hz:.3f} s" if hz else f"{scaled(cycles)}c"


def tick_text(value: float) -> str:
    """Return a time in ns at an axis: 10 us."""
    for unit, size in (("s", 1e9), ("ms", 1e6), ("us", 1e3)):
        if value >= size * 0.999:
            return f"{value / size:g} {unit}"
    return f"{value:g} ns"
