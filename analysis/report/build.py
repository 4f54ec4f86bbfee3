"""The report: every table of every section, and its exports."""

from __future__ import annotations

import importlib
import math
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from xtrace.analysis.columns import Columns, text
from xtrace.analysis.cost.rows import Estimate
from xtrace.analysis.coverage.coverage import Coverage, coverage_object
from xtrace.analysis.findings.evidence import Evidence
from xtrace.analysis.findings.find import find_all
from xtrace.analysis.findings.finding import Finding, finding_object
from xtrace.analysis.findings.rules.catalogue import RULES
from xtrace.analysis.measures.kernel_samples import Kernel, KernelSamples, resolve
from xtrace.analysis.measures.measures import Measures
from xtrace.analysis.measures.table import Quality, Table
from xtrace.analysis.report.json_text import fields, items, row_texts, small
from xtrace.analysis.report.series import (
    Series,
    distribution_objects,
    distribution_texts,
    make_series,
    over_time_object,
    over_time_text,
)
from xtrace.analysis.summary import clock
from xtrace.analysis.summary.partial import Partial
from xtrace.analysis.summary.versions import detected
from xtrace.analysis.tables import (
    activity,
    cost,
    delivery,
    dom0,
    emulation,
    event_delivery,
    event_way,
    rip_samples,
    runstates,
    upcalls,
)
from xtrace.analysis.tables import trace as of_trace
from xtrace.probes.catalog import VersionRange
from xtrace.probes.outputs import replacing
from xtrace.probes.selection.vcpus import Vcpu
from xtrace.probes.xen_abi import DOM0
from xtrace.symbols.errors import cell

if TYPE_CHECKING:
    import pandas as pd

    from xtrace.analysis.cost.inputs import CostInputs
    from xtrace.analysis.summary.summary_file import Summary

SCHEMA_VERSION = 5

#: All tables, in the order of the report.
TABLES: tuple[Table[Any], ...] = (
    *event_way.TABLES,
    *event_delivery.TABLES,
    *delivery.TABLES,
    *upcalls.TABLES,
    *runstates.TABLES,
    *activity.TABLES,
    *emulation.TABLES,
    *rip_samples.TABLES,
    *dom0.TABLES,
    *cost.TABLES,
    *of_trace.TABLES,
)
_COST_TABLES = {table.name for table in cost.TABLES}
SECTIONS = tuple(dict.fromkeys(table.section for table in TABLES))


@dataclass(frozen=True, slots=True)
class Selection:
    """The parts of a report that are wanted; empty means everything.

    Attributes:
        sections: names from SECTIONS.
        domains: domain ids.
        vcpus: those with a number, of one domain or of all.
        names: names of tables.
    """

    sections: Collection[str] = ()
    domains: Collection[int] = ()
    vcpus: Collection[Vcpu] = ()
    names: Collection[str] = ()

    def tables(self) -> tuple[Table[Any], ...]:
        """Return the wanted tables."""
        return tuple(
            table
            for table in TABLES
            if (not self.sections or table.section in self.sections)
            and (not self.names or table.name in self.names)
        )

    def vcpu_pairs(self) -> list[tuple[int | None, int]]:
        """Return the domain, None for any, and the number of each wanted vCPU."""
        return [(vcpu.domain, vcpu.number) for vcpu in self.vcpus]

    def rows(self, table: Columns) -> Columns:
        """Return the rows of the wanted domains and vCPUs; a table without these columns stays whole."""
        if self.domains and "domain" in table:
            table = table.where(np.isin(table["domain"], list(self.domains)))
        if self.vcpus and "vcpu" in table:
            # A table with vCPUs but without domains is about dom0.
            domains = table["domain"] if "domain" in table else np.full(len(table), DOM0)
            wanted = np.zeros(len(table), bool)
            for vcpu in self.vcpus:
                of_domain = True if vcpu.domain is None else domains == vcpu.domain
                wanted |= (table["vcpu"] == vcpu.number) & of_domain
            table = table.where(wanted)
        return table


class _Frames(Mapping[str, "pd.DataFrame"]):
    """Data frames by table name, each made when it is first asked for."""

    def __init__(self, columns: Mapping[str, Columns]) -> None:
        self._columns = columns
        self._made: dict[str, pd.DataFrame] = {}

    def __getitem__(self, name: str) -> pd.DataFrame:
        if name not in self._made:
            self._made[name] = self._columns[name].frame()
        return self._made[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._columns)

    def __len__(self) -> int:
        return len(self._columns)


@dataclass(frozen=True, slots=True)
class Report:
    """A finished report.

    Attributes:
        trace: facts about the trace; docs/report-schema.md describes the keys.
        columns: of the tables, by table name; times in cycles.
        hz: TSC rate; None where it is not known.
        fence_shares: by domain, the share of its running time that fences take (COST_ENDS), if priced.
        quality: how the figures of each table's columns are known, by the names of both.
        coverage: what the trace covers.
        described: the description of each table, by its name.
        findings: what is out of the usual, worst first.
        series: time in slots, and distributions.
        tables: the same as ``columns``, as data frames; pandas is imported when the first one is read.
    """

    trace: Mapping[str, Any]
    columns: Mapping[str, Columns]
    hz: float | None
    fence_shares: Mapping[int, tuple[float, ...]] = field(default_factory=dict)
    quality: Mapping[str, Mapping[str, Quality]] = field(default_factory=dict)
    coverage: Coverage | None = None
    described: Mapping[str, Table[Any]] = field(
        default_factory=lambda: {table.name: table for table in TABLES}
    )
    findings: Sequence[Finding] = ()
    series: Series = Series()  # noqa: RUF009 - it is frozen
    tables: Mapping[str, pd.DataFrame] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "tables", _Frames(self.columns))


def build_report(
    summary: Summary,
    *,
    versions: VersionRange | None = None,
    selection: Selection | None = None,
    kernels: Sequence[Kernel] = (),
    costs: CostInputs | None = None,
    ignored: Collection[str] = (),
) -> Report:
    """Return the report on the summary of one or more traces.

    Args:
        versions: range of Xen versions to decode by; by default detected from the records.
        selection: what to include; everything by default.
        kernels: images that domains run, to look up samples in.
        costs: inputs of the fence cost model; None leaves the cost out.
        ignored: names of findings to leave out.
    """
    origin = summary.origin
    return build(
        summary.partial,
        hz=origin.tsc_hz,
        hz_source=origin.tsc_hz_source,
        versions=versions,
        emulated=origin.emulated,
        selection=selection,
        kernels=kernels,
        costs=costs,
        domains=origin.domains,
        weights=origin.weights,
        recorder_cpu_s=origin.recorder_cpu_s,
        ignored=ignored,
    )


def build(
    partial: Partial,
    *,
    hz: float | None = None,
    hz_source: str = "given",
    versions: VersionRange | None = None,
    emulated: bool = False,
    selection: Selection | None = None,
    kernels: Sequence[Kernel] = (),
    costs: CostInputs | None = None,
    domains: Mapping[int, str] | None = None,
    weights: Mapping[int, float] | None = None,
    recorder_cpu_s: float | None = None,
    ignored: Collection[str] = (),
) -> Report:
    """Return the report on a Partial.

    Args:
        hz: TSC rate; by default estimated from the trace.
        hz_source: how ``hz`` is known.
        versions: range of Xen versions to decode by; by default detected from the records.
        emulated: software emulated the host, as the trace's recorder reported.
        selection: what to include; everything by default.
        kernels: images that domains run, to look up samples in.
        costs: inputs of the fence cost model; None leaves the cost out.
        domains: names of domains by id, where the recorder knew them.
        weights: of each vCPU in the scheduler, by domain, where the recorder noted them.
        recorder_cpu_s: CPU time that recording took, where it is known.
        ignored: names of findings to leave out.
    """
    selection = selection or Selection()
    rate = clock.TscRate(hz, hz, hz, hz_source) if hz else clock.estimate(partial.pairs)
    found = detected(partial.records)
    known = versions or found.range
    measures = Measures(partial, known, rate.hz if rate else None)
    samples = resolve(partial, kernels)
    estimate = Estimate()
    if costs is not None:
        from xtrace.analysis.cost import model  # few reports need it, and it imports what reads image code

        estimate = model.estimate(measures, samples, costs)
    given: dict[type, Any] = {Measures: measures, KernelSamples: samples, Estimate: estimate}
    covered = measures.coverage
    made = {table.name: table.of(given[table.takes], covered) for table in selection.tables()}
    trace = of_trace.trace_facts(measures, rate, found, known, versions is not None)
    evidence = Evidence(
        measures,
        emulated=emulated,
        weights=weights or {},
        recorder_cpu_s=recorder_cpu_s,
        costs={name: table.columns for name, table in made.items() if name in _COST_TABLES},
    )
    rules = [rule for rule in RULES if rule.name not in ignored]
    names = {str(domain): name for domain, name in sorted((domains or {}).items())}
    return Report(
        {**trace, "emulated": emulated, "domains": names, "coverage": coverage_object(covered)},
        {name: selection.rows(table.columns) for name, table in made.items()},
        measures.hz,
        estimate.shares,
        {name: table.quality for name, table in made.items()},
        covered,
        findings=find_all(evidence, rules, domains=selection.domains, vcpus=selection.vcpus),
        series=Series()
        if selection.names
        else make_series(
            evidence, sections=selection.sections, domains=selection.domains, vcpus=selection.vcpu_pairs()
        ),
    )


def json_object(report: Report) -> dict[str, Any]:
    """Return the report as a JSON object; times are in cycles and, where the TSC rate is known, in ns."""
    return {
        "schema_version": SCHEMA_VERSION,
        "trace": _plain(dict(report.trace)),
        "findings": [_plain(finding_object(finding, report.hz)) for finding in report.findings],
        "tables": {
            name: {
                "quality": _qualities(report.described[name], report.quality[name], report.hz),
                "rows": _plain_rows(_with_ns(columns, report.hz)),
            }
            for name, columns in report.columns.items()
        },
        "over_time": over_time_object(report.series),
        "distributions": distribution_objects(report.series),
    }


def json_pieces(report: Report) -> Iterator[str]:
    """Yield the text of json_object() in pieces, because the whole of a large one takes gigabytes."""
    yield from fields(
        (
            ("schema_version", small(SCHEMA_VERSION)),
            ("trace", small(_plain(dict(report.trace)))),
            ("findings", small([_plain(finding_object(finding, report.hz)) for finding in report.findings])),
            ("tables", fields(((name, _table_pieces(report, name)) for name in report.columns), 1)),
            ("over_time", over_time_text(report.series)),
            ("distributions", items(distribution_texts(report.series), 1)),
        )
    )


def _table_pieces(report: Report, name: str) -> Iterator[str]:
    qualities = _qualities(report.described[name], report.quality[name], report.hz)
    rows = row_texts(_with_ns(report.columns[name], report.hz))
    yield from fields((("quality", small(qualities, 3)), ("rows", items(rows, 3))), 2)


def json_text(report: Report) -> str:
    """Return the report as JSON text."""
    return "".join(json_pieces(report))


def write_csv(report: Report, folder: Path) -> Iterator[Path]:
    """Write one CSV file per table, columns.csv and trace.csv into ``folder``; yield their paths."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, columns in report.columns.items():
        yield _csv(folder / f"{name}.csv", _with_ns(columns, report.hz))
    yield _csv(folder / "columns.csv", _column_list(report))
    path = folder / "trace.csv"
    flat = sorted((key, value) for key, value in report.trace.items() if not isinstance(value, list))
    facts = Columns({"fact": text(key for key, _ in flat), "value": text(value for _, value in flat)})
    yield _csv(path, facts)


def _csv(path: Path, columns: Columns) -> Path:
    """Write one file; text that a spreadsheet would take for a formula is left as text."""
    plain = {name: columns[name] for name in columns.names if columns[name].dtype == object}
    safe = {
        name: text(cell(value) if isinstance(value, str) else value for value in values.tolist())
        for name, values in plain.items()
    }
    with replacing(path) as new:
        columns.having(**safe).frame().to_csv(new, index=False)
    return path


def write_parquet(report: Report, folder: Path) -> Iterator[Path]:
    """Write one Parquet file per table and columns.parquet into ``folder``; yield their paths.

    Raises:
        ImportError: pyarrow is not installed.
    """
    importlib.import_module("pyarrow")  # fail before the folder is made if it is not installed

    folder.mkdir(parents=True, exist_ok=True)
    for name, columns in report.columns.items():
        yield _parquet(folder / f"{name}.parquet", _with_ns(columns, report.hz))
    yield _parquet(folder / "columns.parquet", _column_list(report))


def _parquet(path: Path, columns: Columns) -> Path:
    with replacing(path) as new:
        columns.frame().to_parquet(new, index=False)
    return path


def _column_list(report: Report) -> Columns:
    """Return table, column, quality and meaning of every column, which a bare CSV file cannot contain."""
    rows = [(name, column) for name in report.columns for column in report.described[name].columns]
    return Columns(
        {
            "table": text(name for name, _ in rows),
            "column": text(column.name for _, column in rows),
            "quality": text(str(report.quality[name][column.name]) for name, column in rows),
            "meaning": text(column.meaning for _, column in rows),
        }
    )


def _with_ns(columns: Columns, hz: float | None) -> Columns:
    if not hz:
        return columns
    times = [name for name in columns.names if name.endswith("_cycles")]
    return columns.having(
        **{name.removesuffix("_cycles") + "_ns": columns[name].astype(float) * (1e9 / hz) for name in times}
    )


def _qualities(table: Table[Any], quality: Mapping[str, Quality], hz: float | None) -> dict[str, str]:
    known: dict[str, str] = {}
    for column in table.columns:
        if column.quality is Quality.KEY:
            continue
        known[column.name] = str(quality[column.name])
        if hz and column.name.endswith("_cycles"):
            known[column.name.removesuffix("_cycles") + "_ns"] = known[column.name]
    return known


_AS_THEY_ARE = frozenset((int, str, bool, type(None)))


def _plain(value: Any) -> Any:
    """Return ``value`` in JSON types; missing and non-finite values become null."""
    if type(value) in _AS_THEY_ARE:  # nearly all, and there may be millions
        return value
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    if hasattr(value, "item"):
        value = value.item()
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value


def _plain_rows(columns: Columns) -> list[dict[str, Any]]:
    """Return each row by the names of its columns, in JSON types."""
    rows = columns.rows()
    for row in rows:
        for name, value in row.items():
            if type(value) not in _AS_THEY_ARE:
                row[name] = _plain(value)
    return rows
