"""The page of a report, from its JSON."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from xtrace.cli.page.figure import Fact, Figure, Page, PageTable, Said
from xtrace.cli.page.figures import calibration, cost, ecdf, heat, matrix, sites, timeline, trial, waterfall
from xtrace.cli.page.tables import MOST_ROWS, Tables
from xtrace.cli.page.words import QUALITIES, cell_text, name_text, seconds_text

#: Findings on the page; the JSON has all.
_MOST_FINDINGS = 40
_FILE = "FILE"


def report_page(
    found: Mapping[str, Any], names: Sequence[str], path: str, most_rows: int = MOST_ROWS
) -> Page:
    """Return the page.

    Args:
        found: the report's JSON; beside its own keys, ``calibration``, ``trial`` and ``images`` where they
            were given.
        names: of the traces.
        path: of the trace, for commands of findings; empty where there is no single one.
        most_rows: of a table.
    """
    tables = Tables(found, most_rows)
    named = [
        (each["domain"], each["vcpu"])
        for each in found["findings"]
        if each["domain"] is not None and each["vcpu"] is not None
    ]
    subject = name_text(", ".join(names[:3]), 160) + (f" and {len(names) - 3} more" if len(names) > 3 else "")
    figures, lists = _figures(found, tables, named), _lists(found)
    said = [*_findings(found, path, tables.hz), *_missing(found["trace"]), *_not_drawn(found, figures)]
    return Page(
        "xtrace report",
        subject,
        _facts(found["trace"], tables),
        said,
        figures,
        _sentence(found, tables),
        lists,
        "Findings, and what is not known",
    )


def _figures(found: Mapping[str, Any], tables: Tables, named: Sequence[tuple[int, int]]) -> list[Figure]:
    figures: list[Figure | None] = [waterfall.waterfall(tables, named)]
    curves = ecdf.curves_of(found["distributions"], "wake_to_running")
    figures.append(
        ecdf.ecdf(
            "wake-times",
            "From wake to running: all times",
            "A line is a vCPU.",
            curves,
            tables.hz,
            [_times_table(tables)] if curves else [],
        )
    )
    curves = ecdf.curves_of(found["distributions"], "send_to_wake")
    figures.append(
        ecdf.ecdf(
            "send-times",
            "From send to wake: all times",
            "A line is a sender and the vCPU that it wakes; which send woke it is inferred.",
            curves,
            tables.hz,
            [_sends_table(tables)] if curves else [],
        )
    )
    if found["over_time"]:
        figures.append(heat.heat_map(found["over_time"], tables.hz, tables.most_slots))
        figures.append(timeline.timeline(found["over_time"], tables, _moments(found), named))
    figures += [matrix.wakers(tables), matrix.interrupts(tables)]
    if found.get("trial"):
        figures.append(trial.forest(found["trial"], "trial."))
    figures += cost.costs(tables)
    if found.get("calibration"):
        figures += calibration.calibration(found["calibration"], "calibration.")
    for at, image in enumerate(found.get("images", ())):
        figures.append(sites.site_map([(f"{image['image']['path']}" if at else "", image["sites"])]))
    return [figure for figure in figures if figure is not None]


def _times_table(tables: Tables) -> PageTable:
    ends = [(f"wake_to_running_{end}_cycles", end) for end in ("p50", "p95", "p99", "max")]
    return tables.page_table(
        "wakes",
        [("vcpu", "vCPU"), ("wake_to_running_count", "wakes"), *ends],
        "From wake to running",
        places=[place for place, _ in tables.guests("wakes")],
    )


def _sends_table(tables: Tables) -> PageTable:
    ends = [(f"{end}_cycles", end) for end in ("p50", "p95", "p99", "max")]
    return tables.page_table(
        "wakers",
        [("vcpu", "vCPU"), ("waker", "woken by"), ("count", "wakes"), *ends],
        "From send to wake",
        places=[place for place, row in tables.guests("wakers") if row["latency"] == "send"],
    )


def _sentence(found: Mapping[str, Any], tables: Tables) -> str:
    said = ". ".join(filter(None, (_tried(tables), cost.sentence(tables))))
    if found.get("calibration") and (of_host := calibration.sentence(found["calibration"])):
        said = f"{said}. {of_host}" if said else of_host
    return said or (
        "What fences cost is not known here: it takes the kernel's image (--kernel) and a calibration of the "
        "host (xtrace calibrate, --calibration)."
    )


def _tried(tables: Tables) -> str:
    """Return what a trial measured in place; it leads what the model only computes."""
    rows = [row for row in tables.rows("cost_estimates") if row["estimate"] == "trial"]
    return ". ".join(
        f"{tables.domain(row['domain'])}: {name_text(row['basis'], 400)} (measured in place)" for row in rows
    )


def _facts(trace: Mapping[str, Any], tables: Tables) -> list[Fact]:
    hz = tables.hz
    facts = []
    if trace["span_cycles"] is not None:
        facts.append(Fact("span", seconds_text(trace["span_cycles"], hz), "trace.span_cycles"))
    facts.append(
        Fact("records", f"{trace['records']:,}", "trace.records", f"in {trace['windows']:,} windows")
    )
    if trace["pcpus"] is not None:
        missing = len(trace["coverage"]["missing_pcpus"])
        note = f"{missing} more without records" if missing else "all with records"
        facts.append(Fact("pCPUs", str(trace["pcpus"]), "trace.pcpus", note))
    if trace["xen_versions"]:
        source = "given" if trace["xen_versions_source"] == "given" else "from the records"
        facts.append(Fact("Xen", name_text(trace["xen_versions"]), "", source))
    if trace["lost_records"] is not None:
        text = f"in {trace['loss_count']:,} gaps" if trace["loss_count"] else "none"
        facts.append(Fact("lost records", f"{trace['lost_records']:,}", "trace.lost_records", text))
    if trace["lost_ratio"] is not None:
        facts.append(
            Fact(
                "time without records",
                cell_text("x_ratio", trace["lost_ratio"], hz),
                "trace.lost_ratio",
                "of all pCPUs",
            )
        )
    if hz:
        facts.append(
            Fact("TSC", f"{hz / 1e6:,.3f} MHz", "trace.tsc_hz", name_text(trace["tsc_hz_source"], 60))
        )
    else:
        facts.append(Fact("TSC", "rate not known", "", "times are in cycles (c)"))
    if trace["emulated"]:
        facts.append(Fact("host", "emulated", "", "times show order and proportions"))
    return facts


def _findings(found: Mapping[str, Any], path: str, hz: float | None) -> list[Said]:
    said = []
    numbers = dict(_numbered(found))
    for at, each in enumerate(found["findings"][:_MOST_FINDINGS]):
        qualities = [figure["quality"] for figure in each["figures"]]
        worst = max(qualities, key=QUALITIES.index, default="exact")
        others = f"; {each['others']} more" if each["others"] else ""
        when = f" At {seconds_text(each['moment_cycles'], hz)}." if each["moment_cycles"] is not None else ""
        said.append(
            Said(
                each["severity"],
                f"{name_text(each['sentence'], 600)}{others} ({worst})",
                f"{each['name']}: usual {each['usual']} ({each['source']}).{when}",
                name_text(each["command"].replace(_FILE, path), 600) if path else "",
                numbers.get(at, ""),
            )
        )
    if len(found["findings"]) > _MOST_FINDINGS:
        said.append(Said("note", f"{len(found['findings']) - _MOST_FINDINGS} more findings are in the data"))
    return said


def _numbered(found: Mapping[str, Any]) -> list[tuple[int, str]]:
    """Return the places of findings with a moment, and the numbers that the timeline marks them with."""
    if not found["over_time"]:
        return []
    places = [
        at for at, each in enumerate(found["findings"][:_MOST_FINDINGS]) if each["moment_cycles"] is not None
    ]
    return [(at, str(number + 1)) for number, at in enumerate(places)]


def _moments(found: Mapping[str, Any]) -> list[tuple[str, int]]:
    return [(number, found["findings"][at]["moment_cycles"]) for at, number in _numbered(found)]


def _missing(trace: Mapping[str, Any]) -> list[Said]:
    """Return what the trace does not cover, a line each."""
    covered = trace["coverage"]
    said = [
        f"{name_text(kind['reason'], 300)}. xtrace record --class {','.join(kind['classes'])} "
        f"(xentrace -e {kind['masks']}) records them."
        for kind in covered["records"]
        if kind["reason"]
    ]
    if covered["missing_pcpus"]:
        numbers = ", ".join(map(str, covered["missing_pcpus"][:20]))
        said.append(f"No record of pCPUs {numbers}: vCPUs may have run there unseen.")
    if covered["hole_count"]:
        said.append(f"Windows are missing from the file in {covered['hole_count']:,} places.")
    if covered["silence_cycles"]:
        said.append("Windows may be missing from the file: all pCPUs are silent for an unusual time.")
    if covered["contradiction_count"]:
        said.append(f"{covered['contradiction_count']:,} records of runstates contradict earlier ones.")
    if trace["damage_count"]:
        said.append(f"The file is damaged in {trace['damage_count']:,} places.")
    notes = [Said("remark", name_text(note, 400)) for note in trace["notes"]]
    return [*(Said("missing", text) for text in said), *notes]


def _not_drawn(found: Mapping[str, Any], figures: Sequence[Figure]) -> list[Said]:
    """Return why there is no timeline, or no figure at all."""
    said = []
    if found["over_time"] is None and "pcpus" in found["tables"] and found["trace"]["files"] > 1:
        said.append("No timeline: the traces overlap in time, so they may be of several hosts.")
    if not figures:
        said.append("There is no figure of what was asked for and recorded; the data have its tables.")
    return [Said("remark", text) for text in said]


def _lists(found: Mapping[str, Any]) -> list[tuple[str, str, PageTable]]:
    lists = []
    for at, image in enumerate(found.get("images", ())):
        title = f"Sites of {name_text(image['image']['path'], 80)}"
        name = "sites" if not at else f"sites-{at}"
        lists.append((name, title, sites.site_table(image["sites"], f"images.{at}.sites", title)))
    needs = found["tables"].get("cost_needs", {"rows": []})["rows"]
    if needs:
        tables = Tables(found)
        lists.append(
            (
                "needs",
                "What the cost of fences still needs",
                tables.page_table(
                    "cost_needs",
                    [("about", "about"), ("missing", "missing"), ("reason", "why"), ("remedy", "what helps")],
                    "Missing inputs",
                ),
            )
        )
    return lists
