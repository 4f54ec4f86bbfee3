"""Describe the JSON report, from the tables themselves: docs/report-schema.md is what this prints."""

from __future__ import annotations

from xtrace.analysis.report.build import SCHEMA_VERSION, TABLES

#: The keys of the report's ``trace`` object.
TRACE_KEYS = {
    "records": "records read, fillers not counted",
    "filler_records": "WRAP_BUFFER fillers",
    "lost_records": "records that Xen says it lost",
    "loss_count": "gaps in which it lost them",
    "pcpus": "pCPUs with a window",
    "tsc_hz": "cycles a second; null where nothing tells it, and then there are no times in ns",
    "tsc_hz_low": "lower end of its 95 % interval",
    "tsc_hz_high": "upper end",
    "tsc_hz_source": "how it is known; --cpu-hz where the user gave it",
    "tsc_hz_pairs": "measurements behind it; 0 where it was given",
    "span_cycles": "first to last record; the window's length with --from or --to; added up over files",
    "span_ns": "the same in ns",
    "blind_ratio": "share of the pCPUs' time in which records were lost",
    "xen_versions": "range of Xen versions that can have written the trace",
    "xen_versions_source": "detected or given",
    "xen_versions_evidence": "what narrowed the range, a sentence each",
    "xen_versions_conflicts": "records that fit no common version",
    "notes": "what to know of records whose meaning or id changed",
    "skewed_pcpu_pairs": "pairs of pCPUs whose TSCs are provably apart: bounds in cycles (null where "
    "open), least_cycles, and the evidence in words",
    "emulated": "whether software emulated the host, as the sidecar file says: times are not hardware's",
    "domains": "names of domains by id, where the recorder told them; strangers chose them",
    "recorder_virq_most_count": "upper bound of the wakes by the recorder's own VIRQ_TBUF",
    "dom0_wakes_other_count": "wakes of dom0 that neither a send, a hypercall nor an interrupt explains",
    "files": "files read",
    "bytes_read": "bytes, decompressed",
    "windows": "windows read",
    "skipped_bytes": "bytes passed over because of damage",
    "missing_bytes": "bytes that the last window promises and the file does not have",
    "tail_bytes": "bytes of a record or window header cut off at the end",
    "damage_count": "damaged places",
    "late_records": "records that came too late to be merged in order",
    "backward_tsc_count": "records whose TSC is below one before them on their pCPU",
    "ring_known_files": "files whose ring size is told by their fillers",
    "intervals_left_out": "intervals not counted, for there were too many distinct keys",
    "vcpus_left_out": "look-ups of vCPUs beyond the number kept apart",
    "damages": "the first thousand damages: offset, reason, skipped_bytes",
}


def markdown() -> str:
    """Return the page."""
    lines = [
        "# The report as JSON",
        "",
        f"`xtrace report --json` prints one object: `schema_version` ({SCHEMA_VERSION}), `trace` and",
        "`tables`. The version grows when a key goes or changes its meaning; new keys may come at any",
        "time. `--csv` and `--parquet` write the same tables, one file each. This page is printed by",
        "`python -m xtrace.analysis.report.schema`.",
        "",
        'A table is `{"quality": {column: quality}, "rows": [...]}`. The quality is `exact`, `bounded`,',
        "`inferred` or `modelled`; columns without one name what the row is about. Each `_cycles`",
        "column has a twin in `_ns` where the TSC rate is known; those of section dom0 are measured in ns.",
        "What does not exist is null.",
        "Quantiles are within 0.8 % of a value that was measured.",
        "",
        "## trace",
        "",
        "| key | meaning |",
        "|---|---|",
        *(f"| `{key}` | {meaning} |" for key, meaning in TRACE_KEYS.items()),
    ]
    for table in TABLES:
        lines += ["", f"## tables.{table.name}", "", f"{table.title}. Section `{table.section}`."]
        if table.bias:
            lines += ["", f"Mind: {table.bias}."]
        if table.measured:
            lines += ["", f"Measured: {table.measured}."]
        lines += ["", "| column | quality | meaning |", "|---|---|---|"]
        lines += [f"| `{column.name}` | {column.quality} | {column.meaning} |" for column in table.columns]
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    print(markdown(), end="")  # noqa: T201 - this is a page generator
