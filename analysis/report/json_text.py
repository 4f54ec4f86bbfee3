"""A report as JSON text, in pieces: as objects, one of very many vCPUs takes gigabytes."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import numpy as np

from xtrace.analysis.columns import Array, Columns

#: Rows whose text is made at a time.
_ROWS = 2048
_PLAIN = json.JSONEncoder(allow_nan=False).encode


def fields(named: Iterable[tuple[str, Iterable[str]]], indent: int = 0) -> Iterator[str]:
    """Yield an object in pieces; each of its values is in pieces, too."""
    pad = " " * (indent + 1)
    mark = "{\n"
    for name, value in named:
        yield f"{mark}{pad}{_PLAIN(name)}: "
        yield from value
        mark = ",\n"
    yield "{}" if mark == "{\n" else f"\n{' ' * indent}}}"


def items(texts: Iterable[str], indent: int) -> Iterator[str]:
    """Yield a list in pieces, an item per line."""
    mark = "[\n"
    for text in texts:
        yield f"{mark}{' ' * (indent + 1)}{text}"
        mark = ",\n"
    yield "[]" if mark == "[\n" else f"\n{' ' * indent}]"


def small(value: Any, indent: int = 1) -> Iterator[str]:
    """Yield a value of bounded size as one piece."""
    text = json.dumps(value, indent=1, allow_nan=False)
    yield text.replace("\n", "\n" + " " * indent)


def row_texts(columns: Columns) -> Iterator[str]:
    """Yield each row as an object by the names of its columns; missing and non-finite values are null."""
    names = columns.names
    if not names:
        return
    row = "{" + ", ".join(_PLAIN(name).replace("%", "%%") + ": %s" for name in names) + "}"
    for begin in range(0, len(columns), _ROWS):
        part = columns.where(slice(begin, begin + _ROWS))
        yield from (row % values for values in zip(*(_texts(part[name]) for name in names), strict=True))


def _texts(values: Array) -> list[str]:
    """Return the JSON text of each value."""
    kind = values.dtype.kind
    if kind in "iu":
        return list(map(str, values.tolist()))
    if kind == "f":
        texts = list(map(repr, values.tolist()))
        for place in np.flatnonzero(~np.isfinite(values)).tolist():
            texts[place] = "null"
        return texts
    return [_text(value) for value in values.tolist()]


def _text(value: Any) -> str:
    if isinstance(value, float) and not np.isfinite(value):
        return "null"
    return _PLAIN(value)


def each(objects: Iterable[Any], made: Callable[[Any], Any]) -> Iterator[str]:
    """Yield the text of what is made of each object."""
    return (_PLAIN(made(one)) for one in objects)
