"""How figures are known, in words: for people, on a screen or a page."""

from __future__ import annotations

from collections.abc import Iterable

from xtrace.analysis.measures.table import Column, Quality


def certainty_word(column: Column, quality: Quality) -> str:
    """Return in words how a column's figures are known: exact, at least, at most, inferred, modelled.

    A column that is exact by itself is a lower bound where the trace covers a part only.
    """
    if quality is not Quality.BOUNDED:
        return str(quality)
    is_least = column.quality is not Quality.BOUNDED or any(
        part in ("least", "low") for part in column.name.split("_")
    )
    return "at least" if is_least else "at most"


def metric_word(name: str, quality: Quality) -> str:
    """Return in words how a metric of a comparison is known; a bound by its name, as in upcall_most_p50."""
    if quality is Quality.BOUNDED:
        return next((f"at {part}" for part in ("most", "least") if part in name.split("_")), str(quality))
    return str(quality)


def certainty_text(known: Iterable[tuple[str, str]]) -> str:
    """Return which columns are not exact, and how these are known; "" without figures.

    Args:
        known: heading and word of each column with figures.
    """
    found: dict[str, list[str]] = {}
    for heading, word in known:
        found.setdefault(word, []).append(heading)
    if len(found) <= 1:
        return f"all {next(iter(found))}" if found else ""
    others = "; ".join(
        f"{', '.join(dict.fromkeys(names))} {word}" for word, names in found.items() if word != "exact"
    )
    return f"exact, but {others}" if "exact" in found else others
