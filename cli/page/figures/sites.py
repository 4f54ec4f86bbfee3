"""Where in an image are the sites, and which fences are there?"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Any

from markupsafe import Markup

from xtrace.cli.page import svg
from xtrace.cli.page.figure import Column, Figure, PageTable, Row
from xtrace.cli.page.words import name_text

MOST_ROWS = 400
#: Sites this close are drawn above one another, as a share of the width; so many at most.
_NEAR, _MOST_STACKED = 1 / 110, 14
_DOT = 10
#: Functions' names are this far apart at least.
_NAME_GAP = 0.16
#: What a site is drawn as; the first that applies.
_LOOKS = (
    ("removable", "fence removable"),
    ("replaceable", "locked access replaceable"),
    ("undecided", "undecided"),
    ("keep", "fence to be kept"),
    ("plain", "no fence"),
)
SHAPES = {
    "removable": "M-4 -4H4V4H-4z",
    "replaceable": "M-4.5 3.5L0 -4.5 4.5 3.5z",
    "undecided": "M0 -4.5L4.5 0 0 4.5 -4.5 0z",
    "keep": "M-4 0a4 4 0 1 0 8 0a4 4 0 1 0 -8 0z",
    "plain": "M-3 0a3 3 0 1 0 6 0a3 3 0 1 0 -6 0z",
    "hazard": "M-5 5H5",
}


def look(site: Mapping[str, Any]) -> str:
    """Return what a site is drawn as."""
    verdicts = {fence["verdict"] for fence in site["fences"]}
    if not verdicts or site["kind"] == "debug_read":
        return "undecided" if site["verdict"] == "undecided" and verdicts else "plain"
    return next(each for each in ("removable", "replaceable", "undecided", "keep") if each in verdicts)


def site_map(images: Sequence[tuple[str, Sequence[Mapping[str, Any]]]]) -> Figure | None:
    """Return the map, None without sites.

    Args:
        images: label and sites of one image, or of the old and the new one.
    """
    axis = _Axis([site["address"] for _, sites in images for site in sites])
    if not axis.addresses:
        return None
    parts = []
    for label, sites in images:
        if label:
            parts.append(svg.element("div", label, class_="map-name"))
        parts.append(_strip(sites, axis))
    both = " Both images have one axis." if len(images) == 2 else ""
    return Figure(
        "map",
        "Sites by address",
        f"Each mark is a site that masks, restores or unmasks upcalls, or belongs to that; from address "
        f"{axis.addresses[0]:#x} on the left to {axis.addresses[-1]:#x} on the right. The axis is "
        "logarithmic in each gap, and sites close together are stacked. Underlined: with a "
        f"hazard.{both}",
        svg.joined(parts),
        legend=[*((f"site {name}", said) for name, said in _LOOKS), ("site hazard", "hazard")],
    )


class _Axis:
    """Places of addresses, 0 to 1: each gap between two sites counts with its logarithm.

    Args:
        addresses: of all sites.
    """

    def __init__(self, addresses: Sequence[int]) -> None:
        self.addresses = sorted(set(addresses))
        sums = [0.0]
        for before, after in pairwise(self.addresses):
            sums.append(sums[-1] + math.log2(1 + (after - before) / 16))
        whole = sums[-1] or 1.0
        self._places = dict(zip(self.addresses, (0.01 + 0.98 * each / whole for each in sums), strict=False))

    def at(self, address: int) -> float:
        """Return the place of a site's address."""
        return self._places[address]


def _strip(sites: Sequence[Mapping[str, Any]], axis: _Axis) -> Markup:
    stacks: list[tuple[float, list[Mapping[str, Any]]]] = []
    for site in sorted(sites, key=lambda site: int(site["address"])):
        place = axis.at(site["address"])
        if not stacks or place - stacks[-1][0] > _NEAR:
            stacks.append((place, []))
        stacks[-1][1].append(site)
    deepest = min(max((len(each) for _, each in stacks), default=1), _MOST_STACKED)
    ground = deepest * _DOT + 12
    marks = [svg.element("line", x1="0", x2="100%", y1=ground, y2=ground, class_="zero")]
    named = roomy = -1.0
    for place, stack in stacks:
        for level, site in enumerate(stack[:_MOST_STACKED]):
            name = look(site)
            shape = [svg.element("path", d=SHAPES[name], class_=f"site {name}")]
            if site["hazards"]:
                shape.append(svg.element("path", d=SHAPES["hazard"], class_="site hazard"))
            y = ground - 8 - level * _DOT
            marks.append(svg.element("svg", *shape, x=svg.percent(place), y=y, overflow="visible"))
        if len(stack) > _MOST_STACKED:
            marks.append(svg.text(place, 8, f"+{len(stack) - _MOST_STACKED}", "tick"))
        if place - named >= _NAME_GAP and stack[0]["symbol"]:
            anchor = "end" if place > 0.85 else "start"
            has_room = place - roomy >= 3 * _NAME_GAP
            roomy = place if has_room else roomy
            class_ = "tick" if has_room else "tick minor"
            marks.append(svg.text(place, ground + 14, name_text(stack[0]["symbol"], 24), class_, anchor))
            named = place
    return svg.element(
        "svg", *marks, class_="map", width="100%", height=ground + 20, role="img", aria_label="map of sites"
    )


def site_table(sites: Sequence[Mapping[str, Any]], source: str, caption: str) -> PageTable:
    """Return the sites with their source lines and verdicts.

    Args:
        source: path of the list in the page's data.
    """
    rows = []
    for place, site in enumerate(sites[:MOST_ROWS]):
        where = f"{site['file']}:{site['line']}" if site["file"] else ""
        rows.append(
            Row(
                [
                    f"{site['address']:#x}",
                    name_text(f"{site['symbol']}+{site['offset']:#x}" if site["symbol"] else "", 64),
                    name_text(site["kind"].replace("_", " ")),
                    name_text("; ".join(_fence(fence) for fence in site["fences"]) or "no fence", 120),
                    name_text(_verdict(site), 300),
                    name_text(where, 120),
                ],
                place,
                classes={4: f"verdict {look(site)}"},
            )
        )
    heads = ("address", "function", "kind", "fences", "verdict", "source")
    return PageTable(
        [Column("address" if name == "address" else "", name, is_text=True) for name in heads],
        rows,
        caption,
        f"{source}.{{i}}.{{k}}",
        max(len(sites) - MOST_ROWS, 0),
    )


def _fence(fence: Mapping[str, Any]) -> str:
    via = f" {fence['via']}" if fence["via"] else ""
    return f"{fence['mnemonic']} {fence['how']}{via}"


def _verdict(site: Mapping[str, Any]) -> str:
    said = [f"{fence['verdict']}: {fence['reason']}" for fence in site["fences"]]
    said += [f"hazard {hazard['name']}: {hazard['reason']}" for hazard in site["hazards"]]
    return "; ".join(said)
