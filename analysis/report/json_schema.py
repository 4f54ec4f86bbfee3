"""The JSON report as a JSON Schema, from the tables themselves: docs/report.schema.json is what this prints.

A validator refuses what the report of this version never has: an unknown key, a missing column, a
number where a name belongs, a time in ns where the TSC rate is not known.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

from xtrace.analysis.measures.table import MARKS, Quality, Table
from xtrace.analysis.report.build import SCHEMA_VERSION, SECTIONS, TABLES
from xtrace.analysis.report.json_types import (
    FINDING,
    TRACE_TYPES,
    closed,
    column_type,
    described,
    ns_of,
    ns_type,
)
from xtrace.analysis.report.schema import DISTRIBUTIONS_MEANING, OVER_TIME_MEANING, TRACE_KEYS
from xtrace.analysis.report.series import DISTRIBUTION, OVER_TIME
from xtrace.analysis.tables.dom0_only import OF_TRACE

Schema = dict[str, Any]

_NULL: Schema = {"type": "null"}
_NOT_NULL: Schema = {"not": _NULL}
#: Known where the TSC rate is, null where it is not.
_OF_RATE = ("tsc_hz", "tsc_hz_low", "tsc_hz_high", "tsc_hz_source", "tsc_resolution_ns")
#: Null in a report on Xen's trace, too: without the TSC rate, or without a pCPU.
_NULLABLE = ("span_ns", "lost_ratio")


def report_schema() -> dict[str, Any]:
    """Return the JSON Schema (draft 2020-12) of what ``xtrace report --json`` prints.

    Annotations beside the standard ones: ``x-unit`` and ``x-known`` (exact, bounded, inferred or modelled)
    of a figure, ``x-section``, ``x-bias`` and ``x-measured`` of a table.
    """
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "$id": f"urn:xtrace:report:{SCHEMA_VERSION}",
        "title": "xtrace report --json",
        "description": "The figures of one or several xentrace captures. " + _marks(),
        **closed(
            {
                "schema_version": {"const": SCHEMA_VERSION},
                "trace": _trace(),
                "findings": {
                    "type": "array",
                    "description": "what is out of the usual, worst first; see docs/findings.md",
                    "items": FINDING.schema(),
                },
                "tables": {
                    "type": "object",
                    "description": "by name, those of the sections that were asked for",
                    "properties": {table.name: _table(table) for table in TABLES},
                    "dependentRequired": _whole_sections(),
                    "additionalProperties": False,
                },
                "over_time": described(OVER_TIME, OVER_TIME_MEANING, Quality.KEY),
                "distributions": {
                    "type": "array",
                    "description": DISTRIBUTIONS_MEANING,
                    "items": DISTRIBUTION.schema(),
                },
            }
        ),
        "if": {"properties": {"trace": {"properties": {"tsc_hz": _NULL}}}},
        "then": _without_rate(),
        "else": _with_rate(),
    }


def text() -> str:
    """Return the schema as JSON text, a column or a key per line."""
    return "".join(_lines(report_schema(), "")) + "\n"


def _lines(value: Any, indent: str) -> Iterator[str]:
    """Yield an object with objects in it over several lines, anything else on one."""
    if not isinstance(value, dict) or not any(isinstance(item, dict) and item for item in value.values()):
        yield json.dumps(value, ensure_ascii=False)
        return
    yield "{\n"
    for number, (key, item) in enumerate(value.items()):
        yield f"{indent} {json.dumps(key)}: "
        yield from _lines(item, indent + " ")
        yield ",\n" if number < len(value) - 1 else "\n"
    yield f"{indent}}}"


def _marks() -> str:
    marks = ", ".join(f"{mark} {quality}" for quality, mark in MARKS.items() if mark)
    return f"Each figure is known in one of these ways: {marks}."


def _trace() -> Schema:
    keys = {}
    for key, meaning in TRACE_KEYS.items():
        of, quality = TRACE_TYPES[key]
        keys[key] = described(of, meaning, quality)
    return {
        **closed(keys),
        "if": {"properties": {"span_cycles": _NULL}},
        "then": {"properties": dict.fromkeys(OF_TRACE, _NULL)},
        "else": {
            "properties": {key: _NOT_NULL for key in OF_TRACE if key not in _NULLABLE},
            "if": {"properties": {"tsc_hz": _NOT_NULL}},
            "then": {"properties": {"span_ns": _NOT_NULL}},
        },
    }


def _table(table: Table[Any]) -> Schema:
    columns: Schema = {}
    known: Schema = {}
    in_ns = set()
    absent = []
    for column in table.columns:
        of = column_type(table, column)
        if Quality.ABSENT in table.qualities_of(column) and not of.nullable:
            absent.append(column.name)
            of = replace(of, nullable=True)
        pairs = [(column.name, of, column.meaning)]
        if name := ns_of(column.name):
            pairs.append((name, ns_type(of), f"{column.name} in ns"))
            in_ns.add(name)
        for name, of, meaning in pairs:
            columns[name] = described(of, meaning, column.quality)
            if column.quality is not Quality.KEY:
                known[name] = {"enum": [str(quality) for quality in table.qualities_of(column)]}
    notes = {"x-section": table.section, "x-bias": table.bias, "x-measured": table.measured}
    return {
        "title": table.title,
        **{name: note for name, note in notes.items() if note},
        **closed(
            {
                "quality": {
                    "description": "how each figure is known, by column",
                    **closed(known, in_ns),
                },
                "rows": {"type": "array", "items": closed(columns, in_ns)},
            }
        ),
        **({"allOf": [_null_if_absent(name) for name in absent]} if absent else {}),
    }


def _null_if_absent(name: str) -> Schema:
    """Return that a column's figures are null exactly where its quality says "not recorded"."""

    def values(of: Schema) -> Schema:
        return {"properties": {"rows": {"items": {"properties": {name: of}}}}}

    return {
        "if": {"properties": {"quality": {"properties": {name: {"const": str(Quality.ABSENT)}}}}},
        "then": values(_NULL),
        "else": values(_NOT_NULL),
    }


def _whole_sections() -> dict[str, list[str]]:
    """Return, for each table, the others of its section: a section is there whole or not at all."""
    sections = {name: [table.name for table in TABLES if table.section == name] for name in SECTIONS}
    return {
        name: [other for other in names if other != name]
        for names in sections.values()
        for name in names
        if len(names) > 1
    }


def _without_rate() -> Schema:
    """Return what holds where the TSC rate is not known: nothing is in ns but what was measured in ns."""
    return {
        "properties": {
            "trace": {"properties": dict.fromkeys((*_OF_RATE, "span_ns"), _NULL)},
            **_of_times(lambda names: {"properties": dict.fromkeys(names, False)}),
        }
    }


def _with_rate() -> Schema:
    """Return what holds where it is known: each time in cycles is there in ns, too."""
    return {
        "properties": {
            "trace": {"properties": dict.fromkeys(_OF_RATE, _NOT_NULL)},
            **_of_times(lambda names: {"required": names}),
        }
    }


def _of_times(rule: Callable[[list[str]], Schema]) -> Schema:
    """Return what ``rule`` says of the names of times in ns, for each table that has some."""
    found = {}
    for table in TABLES:
        names = [name for column in table.columns if (name := ns_of(column.name))]
        if names:
            found[table.name] = {"properties": {"quality": rule(names), "rows": {"items": rule(names)}}}
    return {"tables": {"properties": found}}


if __name__ == "__main__":
    print(text(), end="")  # noqa: T201 - this prints a file of docs/
