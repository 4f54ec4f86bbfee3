"""Put a page together as one file: template, style, policy, data."""

from __future__ import annotations

import base64
import gzip
import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.resources import files
from typing import Any

from jinja2 import Environment, StrictUndefined
from markupsafe import Markup

from xtrace import __version__
from xtrace.cli.page import svg
from xtrace.cli.page.figure import Column, Page, Row
from xtrace.cli.page.figures.sites import SHAPES
from xtrace.cli.page.origin import Origin
from xtrace.cli.page.words import name_text

#: A page may not be greater; its data are left out where it would be.
MOST_BYTES = 1_000_000
#: JSON that is longer than this many times the room for it cannot fit.
_MOST_RATIO = 20
#: Bytes of a cell in JSON: "a":1, is the shortest.
_LEAST_CELL = 6
#: Characters of a text.
_MOST_TEXT = 1000


@dataclass(frozen=True, slots=True)
class _Download:
    name: str
    link: Markup
    said: str


def document(page: Page, data: Mapping[str, Any], origin: Origin) -> str:
    """Return a page as HTML.

    Args:
        data: by file name, what the page is made from, to be saved by the reader.
    """
    style = files("xtrace.cli.page").joinpath("templates/page.css").read_text("utf-8").strip()
    digest = base64.b64encode(hashlib.sha256(style.encode()).digest()).decode()
    policy = (
        f"default-src 'none'; style-src 'sha256-{digest}'; img-src data:; base-uri 'none'; form-action 'none'"
    )
    environment = Environment(
        autoescape=True,
        finalize=_visible,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    template = environment.from_string(
        files("xtrace.cli.page").joinpath("templates/page.html").read_text("utf-8"),
        {"attributes": _attributes, "key": _key},
    )

    def made(downloads: Sequence[_Download], line: str) -> str:
        return template.render(
            page=page,
            style=Markup(style),
            policy=policy,
            version=__version__,
            origin=origin,
            data_line=line,
            downloads=[(each.name, each.link, each.said) for each in downloads],
        )

    if downloads := _downloads(data, MOST_BYTES):
        whole = made(downloads, "All figures of this page, and more, as JSON (gzip):")
        if len(whole.encode()) <= MOST_BYTES:
            return whole
    return made(
        [],
        "The JSON of this page is not in it, because the file would be greater than 1 MB; the command below, "
        "with --json instead of --html, prints it.",
    )


def _downloads(data: Mapping[str, Any], most_bytes: int) -> list[_Download]:
    """Return the data as links; none where these would take more bytes."""
    found = []
    for name, value in data.items():
        if _least_bytes(value) > _MOST_RATIO * most_bytes:
            return []
        text = json.dumps(value, separators=(",", ":"), allow_nan=False).encode()
        # JSON of a report compresses to a tenth; what cannot fit is not worth the time.
        if len(text) > _MOST_RATIO * most_bytes:
            return []
        packed = gzip.compress(text, mtime=0)
        link = Markup("data:application/gzip;base64,") + base64.b64encode(packed).decode()
        most_bytes -= len(link) + 200
        found.append(_Download(f"{name}.gz", link, f"{len(packed) / 1000:,.0f} kB"))
    return found if most_bytes >= 0 else []


def _least_bytes(value: Any) -> int:
    """Return what the JSON of a report takes at least: a name and a value per cell, a value per slot."""
    if not isinstance(value, Mapping):
        return 0
    tables = [table["rows"] for table in value.get("tables", {}).values() if table["rows"]]
    of_time = value.get("over_time") or {}
    rows = [*of_time.get("pcpus", ()), *of_time.get("vcpus", ())]
    slots = sum(len(rows[0][name]) for name in rows[0] if name.endswith("_cycles")) if rows else 0
    return sum(len(found) * len(found[0]) for found in tables) * _LEAST_CELL + 2 * slots * len(rows)


def _visible(value: object) -> object:
    """Return what a template prints: text without what a reader would not see, and not too long."""
    return name_text(value, _MOST_TEXT) if isinstance(value, str) and not isinstance(value, Markup) else value


def _attributes(column: Column, row: Row, place: int) -> Markup:
    """Return the attributes of a cell."""
    classes = [row.classes.get(place, ""), "drawn" if column.is_plot else "text" if column.is_text else ""]
    written = " ".join(filter(None, classes))
    found = Markup(' class="{}"').format(written) if written else Markup("")
    if place in row.places:
        found += Markup(' data-p="{}"').format(row.places[place])
    return found


def _key(classes: str) -> Markup:
    """Return the sample of a class in a legend, 22 by 14 pixels."""
    kind = classes.split()[0]
    if kind == "dot":
        return svg.element("circle", cx="11", cy="7", r="4", class_=classes)
    if kind == "line":
        return svg.element("line", x1="0", x2="22", y1="7", y2="7", class_=classes)
    if kind == "site":
        path = svg.element("path", d=SHAPES[classes.split()[1]], class_=classes)
        return svg.element("svg", path, x="11", y="7", overflow="visible")
    return svg.element("rect", x="1", y="2", width="20", height="10", class_=classes)
