"""What fences take while nothing misses the caches, in the sentence that people quote."""

from __future__ import annotations

import math
from collections.abc import Iterable

from xtrace.probes.timing.calibration import HOT_CONTEXTS

#: The fences that it is about, in order.
_QUOTED = ("lfence", "mfence", "lock add")


def hot_sentence(rows: Iterable[tuple[str, str, str, float | None, float | None]], tsc_hz: float) -> str:
    """Return the sentence; "" without a figure.

    The figures are the least and the greatest end of the 95 % intervals over the standard sequences, inline,
    in all contexts in which nothing misses.

    Args:
        rows: fence, place, context, and the ends of the interval in TSC cycles.
    """
    found: dict[str, list[tuple[float, float]]] = {}
    for fence, place, context, low, high in rows:
        if place == "inline" and context in HOT_CONTEXTS and low is not None and high is not None:
            found.setdefault(fence, []).append((low, high))
    said: list[str] = []
    for fence in _QUOTED:
        if fence not in found:
            continue
        low = math.floor(min(low for low, _ in found[fence]))
        high = math.ceil(max(high for _, high in found[fence]))
        ns = [round(cycles / tsc_hz * 1e9) for cycles in (low, high)]
        figures = f"{low} to {high} cycles ({ns[0]} to {ns[1]} ns)"
        said.append(
            f"{fence} {figures}" if said else f"{fence} adds {figures} while nothing misses the caches"
        )
    return ", ".join(["; ".join(said[:2]), *said[2:]])
