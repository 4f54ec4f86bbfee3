"""Read a page back: its tables with the place of each cell in the JSON, its drawings, and its data.

It shares no code with what writes pages.
"""

from __future__ import annotations

import base64
import gzip
import json
import math
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from html.parser import HTMLParser
from typing import Any

_VOID = {"meta", "link", "input", "br", "hr", "img"}
_UNITS = {"ns": 1.0, "us": 1e3, "ms": 1e6, "s": 1e9}
_SCALES = {"": 1.0, "k": 1e3, "M": 1e6, "G": 1e9, "T": 1e12}
_NUMBER = re.compile(r"([+-]?[\d,]*\.?\d+(?:e[+-]?\d+)?) ?([a-zA-Z%]*)")


@dataclass(eq=False)
class Element:
    """An element of a page."""

    name: str
    attributes: dict[str, str]
    children: list[Element | str] = field(default_factory=list)

    def all(self, name: str = "", **attributes: str) -> Iterator[Element]:
        """Yield the elements in it of a name, or with attributes that contain these words."""
        for child in self.children:
            if isinstance(child, str):
                continue
            wanted = not name or child.name == name
            for key, value in attributes.items():
                wanted &= value in child.attributes.get(key.rstrip("_").replace("_", "-"), "").split(" ")
            if wanted:
                yield child
            yield from child.all(name, **attributes)

    def one(self, name: str = "", **attributes: str) -> Element:
        """Return the only such element."""
        (found,) = self.all(name, **attributes)
        return found

    @property
    def text(self) -> str:
        """The text in it."""
        return "".join(child if isinstance(child, str) else child.text for child in self.children)


class _Parser(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.stack = [Element("", {})]

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        made = Element(tag, {key: value or "" for key, value in attrs})
        self.stack[-1].children.append(made)
        if tag not in _VOID:
            self.stack.append(made)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.stack[-1].children.append(Element(tag, {key: value or "" for key, value in attrs}))

    def handle_endtag(self, tag: str) -> None:
        assert self.stack[-1].name == tag, f"</{tag}> ends <{self.stack[-1].name}>"
        self.stack.pop()

    def handle_data(self, data: str) -> None:
        self.stack[-1].children.append(data)


def parsed(page: str) -> Element:
    """Return the page's elements; each is ended where it should be."""
    parser = _Parser()
    parser.feed(page)
    parser.close()
    assert len(parser.stack) == 1, f"<{parser.stack[-1].name}> is not ended"
    return parser.stack[0]


def data_of(page: Element) -> dict[str, Any]:
    """Return the data that the page contains, by file name."""
    found = {}
    for link in page.all("a"):
        head, _, packed = link.attributes["href"].partition(";base64,")
        if head == "data:application/gzip":
            found[link.attributes["download"]] = json.loads(gzip.decompress(base64.b64decode(packed)))
    return found


def at(data: Any, path: str) -> Any:
    """Return the value at a path: keys and places with points between them."""
    for part in path.split("."):
        data = data[int(part)] if isinstance(data, list) else data[part]
    return data


@dataclass(frozen=True)
class Cell:
    """A cell that shows a value of the JSON."""

    path: str
    key: str
    text: str


def cells(page: Element) -> Iterator[Cell]:
    """Yield the cells of all tables, and the facts of the head, that name their place in the JSON."""
    for fact in page.all("dd"):
        if path := fact.attributes.get("data-j"):
            yield Cell(path, path.rpartition(".")[2], fact.text)
    for table in page.all("table"):
        source = table.attributes.get("data-j")
        if source is None:
            continue
        heads = [each for each in table.one("thead").one("tr").children if isinstance(each, Element)]
        for row in table.one("tbody").all("tr"):
            if row.attributes.get("class") == "group":
                continue
            found = [each for each in row.children if isinstance(each, Element)]
            assert len(found) == len(heads)
            for head, cell in zip(heads, found, strict=True):
                key = head.attributes.get("data-k")
                if key is None or "drawn" in cell.attributes.get("class", "").split():
                    continue
                if "{p}" in source:
                    if (place := cell.attributes.get("data-p")) is not None:
                        yield Cell(source.replace("{p}", place), key, cell.text)
                    else:
                        assert cell.text in ("", "\N{EN DASH}")
                    continue
                path = source.replace("{i}", row.attributes["data-i"]).replace("{k}", key)
                yield Cell(path, key, cell.text)


def shows(text: str, value: Any, hz: float | None, key: str) -> bool:
    """Return whether a text is a value of the JSON, to its last digit."""
    if value is None or (isinstance(value, float) and not math.isfinite(value)):
        return text == "\N{EN DASH}"
    if isinstance(value, str):
        return text == value or (text.endswith("...") and value.startswith(text[:-3]))
    if not value and not text:
        return True
    if isinstance(value, int) and text.startswith("0x"):
        return int(text, 16) == value
    found = _NUMBER.match(text)
    if not found:
        return False
    written, unit = found[1].replace(",", ""), found[2]
    step = 10.0 ** (int(written.partition("e")[2] or 0) - len(written.partition("e")[0].partition(".")[2]))
    number, factor = float(written), 1.0
    if unit == "%":
        factor = 0.01
    elif unit == "MHz":
        factor = 1e6
    elif unit in _UNITS and (key.endswith(("_cycles", "_ns")) or key in ("p50", "p95", "p99", "max")):
        factor = _UNITS[unit]
        if key.endswith("_cycles"):
            assert hz
            factor *= hz / 1e9
    elif unit.rstrip("c") in _SCALES:
        factor = _SCALES[unit.rstrip("c")]
    elif unit in _UNITS:
        factor = _UNITS[unit]
    else:
        return False
    return bool(abs(number * factor - value) <= 0.5000001 * step * factor + 1e-9 * abs(value))


@dataclass(frozen=True)
class Mark:
    """A mark in a drawing of a table's row, at a value of the JSON.

    Attributes:
        place: share of the width, 0 to 1.
        expected: the scale's place of a value.
    """

    path: str
    place: float
    scale: str
    low: float
    high: float

    def expected(self, value: float) -> float:
        """Return where a value belongs."""
        low, high = self.low, self.high
        if self.scale.startswith("signed"):
            unit = float(self.scale.split()[1])
            value, low, high = (math.asinh(each / unit) for each in (value, low, high))
        elif self.scale == "log":
            value, low, high = (math.log(max(each, 1e-300)) for each in (value, low, high))
        return min(max((value - low) / (high - low), 0.0), 1.0)


def marks(page: Element) -> Iterator[Mark]:
    """Yield the marks in all rows."""
    for table in page.all("table"):
        for row in table.one("tbody").all("tr"):
            for drawing in row.all("svg", class_="row"):
                source = table.attributes["data-j"].replace("{i}", row.attributes["data-i"])
                scale = (
                    drawing.attributes["data-scale"],
                    float(drawing.attributes["data-low"]),
                    float(drawing.attributes["data-high"]),
                )
                for mark in drawing.all():
                    for key, place in _places(mark.attributes):
                        yield Mark(source.replace("{k}", key), place, *scale)


def _places(attributes: Mapping[str, str]) -> Iterator[tuple[str, float]]:
    def share(name: str) -> float:
        return float(attributes[name].removesuffix("%")) / 100

    if "data-at" in attributes:
        yield attributes["data-at"], share("cx")
    for end, sign in (("data-begin", 0), ("data-end", 1)):
        if end not in attributes:
            continue
        if "x1" in attributes:
            yield attributes[end], share("x2" if sign else "x1")
        else:
            yield attributes[end], share("x") + sign * share("width")


def heights(path: str, edges: list[int]) -> list[int]:
    """Return the height of an area in each slot, from its path of relative lines."""
    found = [0] * (len(edges) - 1)
    for begin, moves in re.findall(r"M(\d+) \d+([^M]*)z", path):
        x, height = int(begin), 0
        for what, by in re.findall(r"([hv])(-?\d+)", moves):
            if what == "v":
                height += abs(int(by)) if not height else int(by) * (1 if _grows(moves) else -1)
                continue
            if int(by) < 0:
                break
            for slot in range(edges.index(x), edges.index(x + int(by))):
                found[slot] = height
            x += int(by)
    return found


def _grows(moves: str) -> bool:
    """Return whether an area grows downwards."""
    first = re.match(r"v(-?\d+)", moves)
    assert first
    return int(first[1]) > 0
