"""A guest's own counters of how often its sites executed, for `xtrace report --rates`.

A file has one of three formats (examples in docs/cost.md):

- JSON: an object of counts by name, or an object with ``counts`` or ``per_s`` and optionally ``seconds``
  (how long they were counted; without it, the counts cover the traced time), ``domain`` and ``contexts``
  (weights by the names of a calibration's contexts);
- CSV with the columns ``name`` and ``count`` or ``per_s``, and optionally ``seconds``;
- any text with a line ``... counters {JSON object}``; the last such line is used.
"""

from __future__ import annotations

import csv
import errno
import io
import json
import math
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from xtrace.probes.errors import TraceError
from xtrace.probes.reader.sources import open_source, read_into
from xtrace.probes.timing.calibration import CONTEXTS
from xtrace.symbols.errors import shown

_MAX_BYTES = 16 << 20
_MOST_COUNTERS = 100_000
_MOST_COUNT = 1e18
_LINE = re.compile(r"counters (\{.*\})")
#: What float() also reads, such as 1_000, is not a count that a program printed.
_DECIMAL = re.compile(r"\s*[0-9]+(\.[0-9]*)?([eE]\+?[0-9]+)?\s*")
_ABOUT = ("seconds", "domain", "contexts", "counts", "per_s", "schema_version")
_DOMAINS = 0x7FF0


@dataclass(frozen=True, slots=True)
class Rates:
    """The counters of one guest.

    Attributes:
        path: the file they were read from.
        counts: by name; if the file has only rates, the rates, and ``seconds`` is 1.
        seconds: how long they were counted; None: over the traced time.
        counted: the counts are numbers of events, from which the uncertainty of a rate follows.
        domain: the guest's id, if the file has it.
        contexts: weight of each context, adding up to 1; empty if the file has none.
        doubts: why its numbers may not be what they are taken for.
    """

    path: str
    counts: Mapping[str, float]
    seconds: float | None
    counted: bool
    domain: int | None
    contexts: Mapping[str, float]
    doubts: tuple[str, ...] = ()

    def over(self, span_s: float | None) -> float | None:
        """Return the factor that scales a count to the trace's span; None if it is not known."""
        if self.seconds is None:
            return 1.0
        return span_s / self.seconds if span_s else None


def read(path: Path) -> Rates:
    """Read a guest's counters, plain or compressed by gzip, xz or zstd.

    Raises:
        TraceError: it is not such a file, or its compressed data is damaged.
        OSError: it cannot be read.
    """
    if path.is_dir():
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), str(path))
    buffer = bytearray(_MAX_BYTES + 1)
    with open_source(path) as source:
        data = buffer[: read_into(source, memoryview(buffer), str(path))]
        if len(data) <= _MAX_BYTES:
            read_into(source, memoryview(bytearray(1)), str(path))  # meets damage
    try:
        if len(data) > _MAX_BYTES:
            raise ValueError(f"larger than {_MAX_BYTES} bytes")
        return _parsed(str(path), data.decode("utf-8", "replace"))
    except (ValueError, TypeError, RecursionError, OverflowError, csv.Error) as error:
        raise TraceError(
            f"{path}: not a file of guest counters: {error}; give JSON such as "
            '{"counts": {"restore": 1000}, "seconds": 10}'
        ) from None


def _parsed(path: str, text: str) -> Rates:
    stripped = text.lstrip()
    if stripped.startswith("{"):
        return _of_object(path, json.loads(stripped))
    lines = _LINE.findall(text)
    if lines:
        return _of_line(_of_object(path, json.loads(lines[-1])), len(lines))
    return _of_csv(path, text)


def _of_line(rates: Rates, line_count: int) -> Rates:
    """Return the counters of a log's last line, with what is doubtful about such a line."""
    if rates.seconds is not None:
        return rates
    line = f"the last of {line_count:,} lines" if line_count > 1 else "a line"
    doubt = f"they are {line} of a log, which does not say what time they cover"
    return replace(rates, doubts=(*rates.doubts, doubt))


def _of_object(path: str, content: dict[str, Any]) -> Rates:
    if "counts" in content and "per_s" in content:
        raise ValueError("it has both counts and per_s")
    named = "counts" in content or "per_s" in content
    counters = content.get("counts", content.get("per_s")) if named else content
    if not isinstance(counters, dict):
        raise ValueError("counts is not an object")
    if named and (other := sorted(set(content) - set(_ABOUT))):
        raise ValueError(f"{other[0]!r} is not one of {', '.join(_ABOUT)}")
    counts = {name: _number(name, value) for name, value in counters.items() if named or name not in _ABOUT}
    seconds = None if content.get("seconds") is None else _positive("seconds", content["seconds"])
    domain = content.get("domain")
    if domain is not None and not (isinstance(domain, int) and 0 <= domain < _DOMAINS):
        raise ValueError(f"domain is {domain!r}, not a domain id")
    rates = _rates(
        path, counts, seconds, "per_s" in content and named, domain, _weights(content.get("contexts") or {})
    )
    texts = [value for name, value in counters.items() if name in counts and isinstance(value, str)]
    if not texts:
        return rates
    doubt = f"{len(texts):,} of its {len(counts):,} counts are text, such as {shown(repr(texts[0]))}"
    return replace(rates, doubts=(f"{doubt}: were they converted?",))


def _of_csv(path: str, text: str) -> Rates:
    rows = csv.DictReader(io.StringIO(text))
    names = rows.fieldnames or ()
    value = next((name for name in ("count", "per_s") if name in names), None)
    if "name" not in names or value is None:
        raise ValueError("neither JSON nor CSV with the columns name and count or per_s")
    counts: dict[str, float] = {}
    seconds: set[float] = set()
    for row in rows:
        if not row["name"]:
            raise ValueError("a row without a name")
        if row["name"] in counts:
            raise ValueError(f"{row['name']!r} occurs twice")
        counts[row["name"]] = _number(row["name"], row[value])
        if row.get("seconds"):
            seconds.add(_positive("seconds", row["seconds"]))
    if len(seconds) > 1:
        raise ValueError("the rows differ in seconds")
    return _rates(path, counts, seconds.pop() if seconds else None, value == "per_s", None, {})


def _rates(
    path: str,
    counts: dict[str, float],
    seconds: float | None,
    per_s: bool,
    domain: int | None,
    contexts: Mapping[str, float],
) -> Rates:
    if not counts:
        raise ValueError("it has no counters")
    if len(counts) > _MOST_COUNTERS:
        raise ValueError(f"more than {_MOST_COUNTERS} counters")
    if per_s and seconds is not None:
        counts = {name: rate * seconds for name, rate in counts.items()}
    elif per_s:
        return Rates(path, counts, 1.0, False, domain, contexts)
    return Rates(path, counts, seconds, True, domain, contexts)


def _number(name: str, value: Any) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        raise ValueError(f"{name} is {value!r}, not a number")
    if isinstance(value, str) and not _DECIMAL.fullmatch(value):
        raise ValueError(f"{name} is {value!r}, not a number")
    number = float(value)
    if not 0 <= number <= _MOST_COUNT:
        raise ValueError(f"{name} is {value!r}, not a count from 0 to {_MOST_COUNT:.0e}")
    return number


def _positive(name: str, value: Any) -> float:
    number = _number(name, value)
    if number <= 0:
        raise ValueError(f"{name} is {value!r}, but must be positive")
    return number


def _weights(content: Any) -> dict[str, float]:
    if not isinstance(content, dict):
        raise ValueError("contexts is not an object")
    weights = {name: _number(name, value) for name, value in content.items()}
    if unknown := sorted(set(weights) - set(CONTEXTS)):
        raise ValueError(f"{unknown[0]!r} is not one of the contexts {', '.join(CONTEXTS)}")
    total = math.fsum(weights.values())
    if weights and total <= 0:
        raise ValueError("the weights of contexts add up to 0")
    return {name: weight / total for name, weight in weights.items() if weight > 0}
