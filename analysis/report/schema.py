"""Describe the JSON report from the tables' own descriptions; this prints docs/report-schema.md."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from textwrap import wrap
from typing import Any

from xtrace.analysis.coverage.needs import Reach
from xtrace.analysis.measures.table import MARKS, Column, Quality, Table
from xtrace.analysis.report.build import SCHEMA_VERSION, TABLES
from xtrace.analysis.report.delivery_errors import ERRORS
from xtrace.analysis.report.json_types import FINDING, TRACE_TYPES, ValueType, column_type
from xtrace.analysis.report.series import DISTRIBUTION, OVER_TIME
from xtrace.analysis.tables.dom0_only import OF_TRACE

#: The keys of the report's ``trace`` object.
TRACE_KEYS = {
    "records": "records read, not counting fillers",
    "filler_records": "WRAP_BUFFER fillers",
    "lost_records": "records that Xen reports as lost",
    "loss_count": "gaps in which records were lost",
    "pcpus": "pCPUs with a window",
    "tsc_hz": "TSC rate, cycles per second; null where it is not known, and then there are no times in ns",
    "tsc_hz_low": "lower end of its 95 % interval",
    "tsc_hz_high": "upper end of its 95 % interval",
    "tsc_hz_source": "how the rate is known; --cpu-hz where the user gave it",
    "tsc_hz_pairs": "number of measurements that the rate is based on; 0 where it was given",
    "tsc_resolution_ns": "length of a TSC cycle: no time is known better; null where the rate is not known",
    "span_cycles": "first to last record, or the length of the --from/--to window; summed over files and "
    "over the segments between restarts of the TSC",
    "span_ns": "the same in ns",
    "lost_ratio": "share of the pCPUs' time in which records were lost",
    "xen_versions": "range of Xen versions that can have written the trace",
    "xen_versions_source": "detected or given",
    "xen_versions_evidence": "what narrowed the range, one sentence each",
    "xen_versions_conflicts": "records that no common version writes",
    "notes": "what to know about records whose meaning or id changed between versions",
    "skewed_pcpu_pairs": "pairs of pCPUs whose TSCs provably differ: bounds in cycles (null where "
    "open), least_cycles, and the evidence in words",
    "tsc_alignment": "pCPUs whose TSCs were moved in a second pass, by the middle of the bounds in "
    "skewed_pcpu_pairs, which are those before; figures across pCPUs are inferred in either case",
    "coverage": "what the trace covers: kinds of records, pCPUs, time",
    "emulated": "whether software emulated the host, according to the sidecar file: times are not those of "
    "hardware",
    "domains": "names of domains by id, where the recorder saved them; untrusted text",
    "recorder_virq_most_count": "upper bound of wakes by the recorder's own VIRQ_TBUF",
    "dom0_wakes_other_count": "wakes of dom0 that no send, hypercall or interrupt explains",
    "files": "files read",
    "bytes_read": "bytes read, decompressed",
    "windows": "windows read",
    "skipped_bytes": "bytes skipped because of damage",
    "missing_bytes": "bytes that the header of the last window announces and the file does not contain",
    "tail_bytes": "bytes of a record or window header that is cut off at the end of the file",
    "damage_count": "damaged places",
    "late_records": "records that came too late to be merged in order",
    "backward_tsc_count": "records whose TSC is below that of an earlier record on their pCPU and segment",
    "tsc_restart_count": "places where the TSC of the whole host restarts; each segment between them is "
    "counted on its own",
    "ring_known_files": "files whose fillers show the size of the trace buffer",
    "intervals_left_out": "intervals not counted because there were too many distinct keys",
    "slot_keys_folded": "keys of sums by slots of time that count with others, because there were too many",
    "exemplar_keys_left_out": "keys of which no single intervals are kept, because there were too many",
    "vcpus_left_out": "look-ups of vCPUs over the limit, which share one entry",
    "damages": "the first thousand damaged places of each file: offset, reason, skipped_bytes",
    "dom0_only_files": "captures without Xen's trace, which bpf, perf or xenctx recorded in dom0",
    "dom0_backends": "what recorded in dom0: bpf, perf, xenctx; empty where nothing did",
    "dom0_span_ns": "length of the recordings in dom0, summed over files: that of bpf's tables or, in a "
    "capture without these and without Xen's trace, as meta.json has it; null where it is not known",
    "dom0_lost_count": "events and samples that bpf's rings and tables had no room for",
    "tsc_restarts": "where the TSC restarts: offset, after_cycles, back_cycles; a file has at most a hundred",
}


OVER_TIME_MEANING = (
    "time in slots, in the section runstates: what each pCPU and vCPU did in at most 512 slots of equal "
    "length, and how long wakes took; in a slot, the parts of a pCPU's and of a vCPU's time add up to its "
    "length; null where it was not asked for, or where several traces overlap in time, so that they may be "
    "of several hosts"
)
DISTRIBUTIONS_MEANING = "distributions of times, in the section delivery; empty where it was not asked for"

_SCHEMA_FILE = (
    "[report.schema.json](report.schema.json) says the same as a JSON Schema (draft 2020-12), for validators",
    "and code generators; `xtrace.analysis.report_schema()` returns it. It is strict: a key that this",
    "version of xtrace does not print is an error, so validate with the file of the xtrace that made the",
    "report. `x-unit` and `x-known` are the columns unit and known of this page, where each quality has the",
    "mark of the terminal before it. A report has all the tables of a section or none of them.",
)


def markdown() -> str:
    """Return docs/report-schema.md as text."""
    lines = [
        "# The report as JSON",
        "",
        f"`xtrace report --json` prints one object: `schema_version` ({SCHEMA_VERSION}), `trace`,",
        "`findings`, `tables`, `over_time` and `distributions`. The version is incremented when a key is",
        "removed or changes its meaning; new keys may be added at any time. `--csv` and `--parquet` write",
        "the tables, one file each. This page is printed by `python -m xtrace.analysis.report.schema`.",
        "",
        'A table is `{"quality": {column: quality}, "rows": [...]}`. The quality is `exact`, `bounded`,',
        "`inferred`, `modelled`, or `not recorded`, and then the figures are null; columns without one name",
        "what the row is about. It is the quality that this trace allows; the column *known* of this page is",
        "that of a trace with the records in the column *needs*, of all pCPUs, without loss. Each `_cycles`",
        "column has a counterpart in `_ns` where the TSC rate is known; section dom0 is measured in ns.",
        "Missing values are null. Where no file has Xen's trace, so are the keys of `trace` that count its",
        "records or describe them: " + ", ".join(f"`{key}`" for key in OF_TRACE) + ".",
        "Quantiles are within 0.8 % of a measured value. *Held against records*: how often a figure was",
        "right on a Xen that records event delivery ([accuracy-delivery.md](accuracy-delivery.md)).",
        "",
        *_SCHEMA_FILE,
        "",
        "## trace",
        "",
        *_heading("key"),
        *_trace_rows(),
        "",
        "## findings",
        "",
        "What is out of the usual, worst first; [findings.md](findings.md) lists the rules.",
        "",
        *_heading("key"),
        *_rows_of("findings", FINDING),
    ]
    for name, meaning, of in (
        ("over_time", OVER_TIME_MEANING, OVER_TIME),
        ("distributions", DISTRIBUTIONS_MEANING, DISTRIBUTION),
    ):
        sentence = meaning[0].upper() + meaning[1:] + "."
        lines += ["", f"## {name}", "", *wrap(sentence, 108), "", *_heading("key"), *_rows_of(name, of)]
    for table in TABLES:
        lines += ["", f"## tables.{table.name}", "", f"{table.title}. Section `{table.section}`."]
        if table.bias:
            lines += ["", f"Note: {table.bias}."]
        if table.measured:
            lines += ["", f"Measured: {table.measured}."]
        lines += ["", "| column | type | unit | known | needs | meaning |", "|---|---|---|---|---|---|"]
        lines += [_column_row(table, column) for column in table.columns]
    return "\n".join(lines) + "\n"


def _heading(first: str) -> tuple[str, str]:
    return f"| {first} | type | unit | known | meaning |", "|---|---|---|---|---|"


def _trace_rows() -> Iterator[str]:
    """Yield a row for each key of ``trace``, and for each key of the objects in its arrays."""
    for key, meaning in TRACE_KEYS.items():
        of, quality = TRACE_TYPES[key]
        yield _row(key, of, quality, meaning)
        for inner in of.items.keys if of.items else ():
            yield _row(f"{key}[].{inner.name}", inner.type, inner.quality, inner.meaning)


def _rows_of(name: str, of: ValueType) -> Iterator[str]:
    """Yield a row for each key of the objects in an array, or of an object."""
    name += "" if of is OVER_TIME else "[]"
    for key in of.keys:
        yield _row(f"{name}.{key.name}", key.type, key.quality, key.meaning)
        if key.type.items:
            yield from _rows_of(f"{name}.{key.name}", key.type.items)


def _column_row(table: Table[Any], column: Column) -> str:
    of = column_type(table, column)
    if Quality.ABSENT in table.qualities_of(column):
        of = replace(of, nullable=True)
    known = "" if column.quality is Quality.KEY else f"{MARKS[column.quality]} {column.quality}"
    needs = ""
    if column.quality is not Quality.KEY:
        names = [" or ".join(need.value.names) for need in table.needs_of(column)]
        reach = table.reach_of(column)
        needs = ", ".join([*names, *([] if reach in (Reach.RECORDS, Reach.PCPU) else ["all pCPUs"])])
    held = f" (held against records: {error})" if (error := ERRORS.get((table.name, column.name))) else ""
    return f"| `{column.name}` | {of.text()} | {of.unit} | {known} | {needs} | {column.meaning}{held} |"


def _row(name: str, of: ValueType, quality: Quality, meaning: str) -> str:
    known = "" if quality is Quality.KEY else f"{MARKS[quality]} {quality}"
    return f"| `{name}` | {of.text()} | {of.unit} | {known} | {meaning} |"


if __name__ == "__main__":
    print(markdown(), end="")  # noqa: T201 - this is a page generator
