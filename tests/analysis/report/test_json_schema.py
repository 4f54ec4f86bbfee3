"""What `xtrace report --json` prints is what docs/report.schema.json allows, and little else."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import pytest
from jsonschema import Draft202012Validator
from jsonschema.validators import extend

from builders import emulated
from builders.dom0_capture import META, Values, bpf_capture, sampled_capture
from builders.host import simulate
from builders.hosts import HOSTS
from builders.made_costs import LFENCE, calibration, rows_of
from builders.reported import SAMPLES, printed, report
from builders.sampled import PRIVOP, TO_RUNNING, TRAP, VMEXIT, trace
from xtrace.analysis import Selection, analyse, build_report, report_schema
from xtrace.analysis.report import json_types
from xtrace.analysis.report.build import SECTIONS, TABLES, json_text
from xtrace.probes.bpf.abi import Kind
from xtrace.probes.event_ids import HVM_INJ_VIRQ, HVM_VMENTRY
from xtrace.probes.reader.writer import pack_record, pack_window
from xtrace.probes.timing.calibration import text_of
from xtrace.symbols.image.image import open_image
from xtrace.symbols.sites.finder import find_sites

FOLDER = Path(__file__).parents[3] / "samples"
IMAGE = FOLDER / "own-lfence.elf"
FENCED, UNFENCED = FOLDER / "xen417-own-lfence.bin.xz", FOLDER / "xen417-own-none.bin.xz"
DURATIONS = [0, 350, 900_000]
BPF: Values = {
    (kind, {Kind.PORT_HANDLER: 17, Kind.DISPATCH: 17, Kind.UPCALL: 0}.get(kind, 45), vcpu): DURATIONS
    for kind in Kind
    if kind is not Kind.SAMPLE
    for vcpu in (0, 1)
}
KERNEL_IP, USER_IP, XEN_IP = 0xFFFF_FFFF_8100_1234, 0x401136, 0xFFFF_82D0_4020_0000


@cache
def validator() -> Any:
    """Return a validator for which 7.0 is not an integer, as for JSON readers in many languages."""
    strict = Draft202012Validator.TYPE_CHECKER.redefine(
        "integer", lambda _, value: isinstance(value, int) and not isinstance(value, bool)
    )
    return extend(Draft202012Validator, type_checker=strict)(report_schema())  # type: ignore[no-untyped-call]


def refused(found: Any) -> list[str]:
    """Return what is wrong with a report, empty where it is valid."""
    return [f"{error.json_path}: {error.message[:200]}" for error in validator().iter_errors(found)]


def made(*arguments: str | Path) -> Any:
    return json.loads(printed("report", "--json", *map(str, arguments)))


def tables(found: Any) -> set[str]:
    """Return the tables that have rows."""
    return {name for name, table in found["tables"].items() if table["rows"]}


@pytest.fixture(scope="module")
def measured(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A calibration."""
    path = tmp_path_factory.mktemp("measured") / "calibration.json"
    path.write_text(text_of(calibration(*rows_of(LFENCE), *rows_of({"empty": 30.0}, place="outofline"))))
    return path


@pytest.fixture(scope="module")
def log(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The counters of a guest, one of which contradicts the trace."""
    path = tmp_path_factory.mktemp("log") / "rates.json"
    path.write_text('{"counts": {"mask": 5000, "restore": 3000, "upcall": 9}, "seconds": 2}')
    return path


@pytest.fixture(scope="module")
def captured(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A capture with a trace, what bpf counted in dom0, samples by a clock and by xenctx, and names."""
    folder = tmp_path_factory.mktemp("captures") / "busy.xtrace"
    samples = [(1, KERNEL_IP, 0x200), (0, KERNEL_IP, 0), (0, USER_IP, 0x200), (0, XEN_IP, 0x200)]
    sampled_capture(folder, "software clock", samples)
    bpf_capture(folder, BPF)
    (folder / "xenctx").mkdir()
    row = {"t_ns": [1, 2], "domain": 1, "vcpu": 1, "rip": "0xffffffff81a442b5"}
    (folder / "xenctx" / "samples.jsonl").write_text(json.dumps(row) + "\n")
    (folder / "xentrace.bin").write_bytes(HOSTS["lossy"](1))
    names = [*META["domains"], {"id": 1, "name": "web"}]
    meta = {"schema_version": 1, "state": "ended", "tsc_hz": 2.6e9, "domains": names}
    (folder / "meta.json").write_text(json.dumps(meta))
    return folder


def test_the_schema_is_one() -> None:
    Draft202012Validator.check_schema(report_schema())


# --- what is printed is valid ------------------------------------------------------------------


@pytest.mark.parametrize("sample", SAMPLES, ids=lambda path: path.name.split(".")[0])
def test_samples_whole_and_section_by_section(sample: Path) -> None:
    assert refused(report(sample)) == []
    summary = analyse(sample)
    for section in SECTIONS:
        found = json.loads(json_text(build_report(summary, selection=Selection(sections=[section]))))
        assert set(found["tables"]) == {table.name for table in TABLES if table.section == section}
        assert refused(found) == [], section


def test_several_files_and_parts_of_them(captured: Path) -> None:
    for arguments in (
        (*SAMPLES[:3], captured),
        ("--from", "0.5", "--to", "1", SAMPLES[0]),
        ("--domain", "1", "--vcpu", "0", "--section", "delivery", "--section", "irqs", FENCED),
        ("--domain", "0", "--xen", "4.17", SAMPLES[0]),
    ):
        assert refused(made(*arguments)) == [], arguments


@pytest.mark.parametrize("rate", [(), ("--cpu-hz", "2.6e9")], ids=["no rate", "rate"])
@pytest.mark.parametrize("host", HOSTS)
def test_hosts(host: str, rate: tuple[str, ...], tmp_path: Path) -> None:
    path = tmp_path / "trace.bin"
    path.write_bytes(HOSTS[host](3))
    found = made(*rate, path)
    assert refused(found) == []
    assert (found["trace"]["tsc_hz"] is not None) or not rate
    assert ("max_ns" in found["tables"]["wakers"]["rows"][0]) == (found["trace"]["tsc_hz"] is not None)
    assert bool(found["trace"]["skewed_pcpu_pairs"]) == ("skewed" in host)


@pytest.mark.parametrize(
    "data",
    [
        pack_window(0, pack_record(0x28004, None, (1, 0))),
        pack_window(0, pack_record(0x28004, 5, (1, 0))),
        b"\0" * 40 + pack_window(0, pack_record(0xFFF_0000, 5, (1,)) + pack_record(0x1E_1234, 6)),
        simulate(3, 2, [(4, 2, "hvm")], 20_000_000).data,
        emulated.trace(),
    ],
    ids=["untimed", "one record", "damaged and unknown", "HVM", "emulated"],
)
def test_odd_traces(data: bytes, tmp_path: Path) -> None:
    path = tmp_path / "trace.bin"
    path.write_bytes(data)
    for arguments in ((), ("--section", "cost"), ("--cpu-hz", "1e9")):
        assert refused(made(*arguments, path)) == []


def test_an_injection_without_an_entry_leaves_counts_whole(tmp_path: Path) -> None:
    """One vector is entered, the other is not: its count of entries is 0."""
    records = [
        pack_record(TO_RUNNING, 1000, (3 << 16, 0)),
        pack_record(VMEXIT, 2000, (0x40, 0, 0)),
        pack_record(HVM_INJ_VIRQ, None, (243, 0)),
        pack_record(HVM_VMENTRY, 2500),
        pack_record(VMEXIT, 3000, (0x40, 0, 0)),
        pack_record(HVM_INJ_VIRQ, None, (244, 0)),
    ]
    path = tmp_path / "trace.bin"
    path.write_bytes(pack_window(0, b"".join(records)))
    found = made("--section", "upcalls", path)
    rows = found["tables"]["injections"]["rows"]
    assert {row["vector"]: row["injection_to_entry_count"] for row in rows} == {243: 1, 244: 0}
    assert refused(found) == []


def test_a_capture_of_dom0(captured: Path) -> None:
    found = made("--section", "dom0", "--section", "rips", captured)
    assert refused(found) == []
    assert tables(found) == set(found["tables"])
    assert found["trace"]["domains"] == {"1": "web"}
    assert refused(made("--kernel", f"0={IMAGE}", captured)) == []


def test_kernels(tmp_path: Path) -> None:
    start = find_sites(open_image(IMAGE)).sites[0].address
    path = tmp_path / "trace.bin"
    path.write_bytes(trace((PRIVOP, start), (TRAP, start), (TRAP, 0x40_1000)))
    found = made("--kernel", f"3={IMAGE}@0x0", "--kernel", f"9={IMAGE}", path)
    assert refused(found) == []
    assert {name for name in tables(found) if name.startswith("kernel_")} == {
        table.name for table in TABLES if table.section == "kernel"
    }


def test_costs(measured: Path, log: Path) -> None:
    inputs = ("--kernel", f"1={IMAGE}", "--calibration", measured)
    more = ("--rates", f"1={log}", "--unfenced", f"1={UNFENCED}")
    seen = set()
    for arguments in (inputs, inputs[:2], inputs[2:], (*inputs, *more), (*inputs[:2], *more)):
        found = made("--section", "cost", *arguments, FENCED)
        assert refused(found) == [], arguments
        seen |= tables(found)
    # This guest has no two fenced sites in one function.
    assert seen == {table.name for table in TABLES if table.section == "cost"} - {"cost_close"}


# --- what is not a report is refused -----------------------------------------------------------


def _wrong(change: Callable[[Any], object]) -> list[str]:
    """Return what is wrong with a sample's report once it is changed."""
    found = copy.deepcopy(report(FENCED))
    change(found)
    return refused(found)


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (lambda r: r.update(schema_version=1), "$.schema_version: 5 was expected"),
        (lambda r: r.pop("trace"), "$: 'trace' is a required property"),
        (lambda r: r.update(tabels=r.pop("tables")), "'tabels' was unexpected"),
        (lambda r: r["trace"].update(lost_record=1), "'lost_record' was unexpected"),
        (lambda r: r["trace"].pop("span_ns"), "'span_ns' is a required property"),
        (lambda r: r["trace"].update(records="83,845"), "$.trace.records: '83,845' is not of type 'integer'"),
        (lambda r: r["trace"].update(records=1.0), "$.trace.records: 1.0 is not of type 'integer'"),
        (lambda r: r["trace"].update(emulated=1), "$.trace.emulated: 1 is not of type 'boolean'"),
        (lambda r: r["trace"].update(tsc_hz_source=None), "$.trace.tsc_hz_source: None should not be valid"),
        (lambda r: r["trace"].update(span_ns=None), "$.trace.span_ns: None should not be valid"),
        (lambda r: r["trace"].update(pcpus=None), "$.trace.pcpus: None should not be valid"),
        (lambda r: r["trace"].update(span_cycles=None), "is not of type 'null'"),
        (lambda r: r["trace"].update(dom0_backends=["xenalyze"]), "'xenalyze' is not one of ['bpf', 'perf'"),
        (lambda r: r["trace"]["domains"].update(web="x"), "'web' does not match any of the regexes"),
        (lambda r: r["trace"]["damages"].append({"offset": 1}), "$.trace.damages[0]: 'reason' is a required"),
        (lambda r: r["tables"].update(wake={}), "'wake' was unexpected"),
        (lambda r: r["tables"].pop("sends"), "'sends' is a dependency of 'wakes'"),
        (lambda r: r["tables"]["wakes"].pop("quality"), "$.tables.wakes: 'quality' is a required property"),
        (
            lambda r: r["tables"]["wakes"]["quality"].update(wake_count="modelled"),
            "$.tables.wakes.quality.wake_count: 'modelled' is not one of",
        ),
        (
            lambda r: r["tables"]["wakes"]["quality"].update(wake_count="not recorded"),
            "$.tables.wakes.rows[0].wake_count: 258 is not of type 'null'",
        ),
        (
            lambda r: r["tables"]["wakes"]["rows"][0].pop("vcpu"),
            "$.tables.wakes.rows[0]: 'vcpu' is a required",
        ),
        (
            lambda r: r["tables"]["wakes"]["rows"][1].update(wakes=1),
            "$.tables.wakes.rows[1]: Additional properties are not allowed ('wakes' was unexpected)",
        ),
        (
            lambda r: r["tables"]["wakes"]["rows"][0].update(wake_count=None),
            "$.tables.wakes.rows[0].wake_count: None should not be valid",
        ),
        (
            lambda r: r["tables"]["wakes"]["rows"][0].update(wake_per_s="much"),
            "$.tables.wakes.rows[0].wake_per_s: 'much' is not of type 'number', 'null'",
        ),
        (
            lambda r: r["tables"]["wakes"]["rows"][0].pop("wake_to_running_max_ns"),
            "$.tables.wakes.rows[0]: 'wake_to_running_max_ns' is a required property",
        ),
        (
            lambda r: r["tables"]["hypercalls"]["rows"][0].update(kind="multicall"),
            "$.tables.hypercalls.rows[0].kind: 'multicall' is not one of ['call', 'subcall']",
        ),
        (
            lambda r: r["tables"]["events"]["rows"][0].update(id="28004"),
            "$.tables.events.rows[0].id: '28004' does not match",
        ),
    ],
)
def test_what_no_report_has_is_refused(change: Callable[[Any], object], says: str) -> None:
    assert any(says in text for text in _wrong(change)), _wrong(change)


def test_times_in_ns_need_the_rate(tmp_path: Path) -> None:
    path = tmp_path / "trace.bin"
    path.write_bytes(HOSTS["lossy"](1))
    found = made(path)
    assert refused(found) == []
    row = found["tables"]["wakers"]["rows"][0]
    row["p50_ns"] = 5.0
    assert refused(found) == ["$.tables.wakers.rows[0]: False schema does not allow 5.0"]


# --- the rules of the types --------------------------------------------------------------------


def test_the_exceptions_are_of_columns_that_are_there() -> None:
    columns = {(table.name, column.name) for table in TABLES for column in table.columns}
    listed = {*json_types._CHOICES, *json_types._PATTERNS, *json_types._NEVER_NULL, *json_types._NULLABLE}
    assert listed - columns == set()
    names = {name for _, name in columns}
    assert json_types._INTEGER_KEYS - names == set()
    assert json_types._WHOLE - names == set()


def test_every_figure_has_a_unit() -> None:
    without = [
        (table.name, column.name)
        for table in TABLES
        for column in table.columns
        if str(column.quality) != "key" and not json_types.column_type(table, column).unit
    ]
    assert without == [("kernel_images", "load_offset"), ("kernel_lines", "masked")]
