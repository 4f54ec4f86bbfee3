"""Write sites as JSON and CSV, for other programs."""

from __future__ import annotations

import csv
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, fields, is_dataclass
from enum import Enum
from typing import Any, TextIO

from xtrace.symbols.errors import cell, shown
from xtrace.symbols.image.xen_facts import ImageFacts
from xtrace.symbols.listing.compare import Comparison, fence_words
from xtrace.symbols.sites.model import Fence, Kind, Site, SiteTable, Verdict

#: 2: the verdict ``replaceable``, the CPU "the vCPU of that number", the hazards ``take-before-clear`` and
#: ``clear-without-take``, and ``reread``.
SCHEMA_VERSION = 2

_MOST_CHARACTERS = 1 << 16

COLUMNS = (
    "address", "symbol", "offset", "aliases", "section", "kind", "verdict", "reason", "fences", "hazards",
    "file", "line", "inline", "text", "width_bytes", "origin", "cpu", "pending_tests", "pending_paths",
    "callbacks", "exit", "reread", "patched", "masked",
)  # fmt: skip
"""Columns of a CSV file; if two images are compared, ``change`` and ``differences`` precede them."""


@dataclass(frozen=True, slots=True)
class Tally:
    """Numbers of sites of one kind.

    Attributes:
        fenced: sites with a fence.
        verdicts: sites by verdict; only verdicts that occur.
        hazards: sites with a hazard.
    """

    sites: int
    fenced: int
    verdicts: Mapping[Verdict, int]
    hazards: int


def tallies(sites: Iterable[Site]) -> dict[Kind, Tally]:
    """Return the numbers for each kind that occurs, in the order of Kind; debug reads have no fences."""
    by_kind: dict[Kind, list[Site]] = {}
    for site in sites:
        by_kind.setdefault(site.kind, []).append(site)
    return {
        kind: Tally(
            len(found),
            sum(is_fenced(site) for site in found),
            {
                verdict: count
                for verdict in Verdict
                if (count := sum(site.verdict is verdict for site in found))
            },
            sum(bool(site.hazards) for site in found),
        )
        for kind in Kind
        if (found := by_kind.get(kind))
    }


def is_fenced(site: Site) -> bool:
    """Return whether a fence executes at a site that is not a debug read."""
    return bool(site.fences) and site.kind is not Kind.DEBUG_READ


def is_removable(site: Site) -> bool:
    """Return whether a site has a fence that can be removed."""
    return is_fenced(site) and any(fence.verdict is Verdict.REMOVABLE for fence in site.fences)


def is_replaceable(site: Site) -> bool:
    """Return whether a site's access is locked, and a byte store and a test would do."""
    return is_fenced(site) and any(fence.verdict is Verdict.REPLACEABLE for fence in site.fences)


def is_undecided(site: Site) -> bool:
    """Return whether the image alone cannot decide about a site or one of its fences."""
    return site.kind is not Kind.DEBUG_READ and (
        site.verdict is Verdict.UNDECIDED or any(fence.verdict is Verdict.UNDECIDED for fence in site.fences)
    )


def json_object(
    table: SiteTable, sites: Sequence[Site], old: SiteTable | None = None, found: Comparison | None = None
) -> dict[str, Any]:
    """Return what ``xtrace sites --json`` prints.

    Args:
        table: the table of the image, or of the newer of two.
        sites: the sites of it that are shown.
        old, found: the table of the older image and the comparison, if two are compared.
    """
    result: dict[str, Any] = {
        "schema_version": SCHEMA_VERSION,
        "image": _image(table),
        "sites": [site_object(site) for site in sites],
    }
    if old is not None and found is not None:
        result["old_image"] = _image(old)
        result["changes"] = {
            "fences_removed_count": len(found.fences_removed),
            "fences_added_count": len(found.fences_added),
            "gone_count": len(found.gone),
            "added_count": len(found.added),
            "changed_count": len(found.changed),
            "same_count": found.same_count,
            "fences_removed": [_fence_key(key) for key in found.fences_removed],
            "fences_added": [_fence_key(key) for key in found.fences_added],
            "gone": [site_object(site) for site in found.gone],
            "added": [site_object(site) for site in found.added],
            "changed": [
                {
                    "old": site_object(change.old),
                    "new": site_object(change.new),
                    "differences": list(change.differences),
                }
                for change in found.changed
            ],
        }
    return result


def site_object(site: Site) -> dict[str, Any]:
    """Return a site as a JSON object: all its fields, with the place as file, line and inline."""
    place = site.place
    result = {
        field.name: _plain(getattr(site, field.name))
        for field in fields(site)
        if field.name not in ("place", "description")
    }
    result["file"] = place.file if place else None
    result["line"] = place.line if place else None
    result["inline"] = _plain(place.inline) if place else []
    return result


def write_csv(stream: TextIO, sites: Iterable[Site], found: Comparison | None = None) -> None:
    """Write one row per site; if two images are compared, one per site that is gone, new or changed."""
    writer = csv.writer(stream, lineterminator="\n")
    if found is None:
        writer.writerow(COLUMNS)
        writer.writerows(map(_row, sites))
        return
    writer.writerow(("change", "differences", *COLUMNS))
    writer.writerows(("gone", "", *_row(site)) for site in found.gone)
    writer.writerows(("new", "", *_row(site)) for site in found.added)
    writer.writerows(
        ("changed", _cell("; ".join(change.differences)), *_row(change.new)) for change in found.changed
    )


def cells(site: Site) -> dict[str, str]:
    """Return a site's text by column, safe to print: addresses in hex, lists joined by semicolons."""
    place = site.place
    values = {
        "address": hex(site.address),
        "symbol": site.symbol,
        "offset": hex(site.offset),
        "aliases": "; ".join(site.aliases),
        "section": site.section,
        "kind": site.kind,
        "verdict": site.verdict,
        "reason": site.reason,
        "fences": "; ".join(map(_fence_cell, site.fences)),
        "hazards": "; ".join(f"{hazard.name}: {hazard.reason}" for hazard in site.hazards),
        "file": place.file if place else "",
        "line": str(place.line) if place else "",
        "inline": "; ".join(f"{frame.function} {frame.file}:{frame.line}" for frame in place.inline)
        if place
        else "",
        "text": site.text,
        "width_bytes": str(site.width_bytes),
        "origin": site.origin,
        "cpu": site.cpu,
        "pending_tests": "; ".join(map(hex, site.pending_tests)),
        "pending_paths": site.pending_paths,
        "callbacks": "; ".join(map(hex, site.callbacks)),
        "exit": site.exit,
        "reread": "; ".join(map(hex, site.reread)),
        "patched": site.patched,
        "masked": "; ".join(f"{start:#x}-{end:#x}" for start, end in site.masked),
    }
    return {name: _cell(value) for name, value in values.items()}


def _row(site: Site) -> tuple[str, ...]:
    found = cells(site)
    return tuple(cell(found[name]) for name in COLUMNS)


def _fence_cell(fence: Fence) -> str:
    return (
        f"{fence_words(fence)} at {fence.address:#x} ({fence.position}, {fence.paths}): "
        f"{fence.verdict}, {fence.reason}"
    )


def _cell(text: str) -> str:
    return shown(str(text), _MOST_CHARACTERS)


def _fence_key(key: tuple[str, str, str]) -> dict[str, str]:
    return dict(zip(("mnemonic", "how", "via"), key, strict=True))


def _image(table: SiteTable) -> dict[str, Any]:
    return {
        "path": table.path,
        "build_id": table.build_id,
        "facts": _facts(table.facts),
        "layout": list(table.layout),
        "damage": list(table.damage),
        "kinds": {
            str(kind): {
                "sites": tally.sites,
                "fenced": tally.fenced,
                "hazards": tally.hazards,
                "verdicts": {str(verdict): count for verdict, count in tally.verdicts.items()},
            }
            for kind, tally in tallies(table.sites).items()
        },
    }


def _facts(facts: ImageFacts) -> dict[str, Any]:
    return {
        "guest_os": facts.guest_os,
        "guest_version": facts.guest_version,
        "notes": _plain(facts.notes),
        "xen_guest": dict(facts.legacy),
        "hypercall_page": facts.hypercall_page,
        "hypercall_page_source": facts.hypercall_page_source,
        "callbacks": _plain(facts.callbacks),
        "patching": {
            "tables": [{"name": table.name, "count": table.count} for table in facts.patching.tables],
            "unknown": list(facts.patching.unknown),
        },
    }


def _plain(value: Any) -> Any:
    """Return a value as JSON types."""
    if is_dataclass(value) and not isinstance(value, type):
        return {field.name: _plain(getattr(value, field.name)) for field in fields(value)}
    if isinstance(value, Enum):
        return value.value
    return [_plain(item) for item in value] if isinstance(value, tuple) else value
