"""RIP samples are looked up in the image of their domain, and each is counted exactly once."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from functools import cache

import numpy as np
import pytest

from builders.hosts import HOSTS
from builders.partials import partial
from builders.sampled import (
    PAGE_FAULT,
    PRIVOP,
    RUN_D3V0,
    RUN_D5V1,
    RUN_IDLE,
    TEXT,
    TO_RUNNING,
    TRAP,
    VMEXIT,
    MadeKernel,
    rip,
    trace,
)
from oracle.reading import SAMPLES, sample_bytes
from xtrace.analysis.columns import joined
from xtrace.analysis.measures.kernel_samples import OUTSIDE, resolve
from xtrace.analysis.report.build import Report, Selection, build, json_text
from xtrace.analysis.state_machine.metrics import UNRECORDED_RIPS, Metric
from xtrace.analysis.summary.partial import Partial, merge
from xtrace.analysis.tables.rip_samples import TABLES
from xtrace.probes.reader.writer import pack_record, pack_window

MIXED = (
    *[(PRIVOP, TEXT + 0x10)] * 6,
    *[(TRAP, TEXT + 0x1020)] * 3,
    (PRIVOP, TEXT + 0x1024),
    (TRAP, TEXT + 0x2000),
    (PAGE_FAULT, 0x40_1000),
)


@cache
def sample_partial() -> Partial:
    return partial(sample_bytes(SAMPLES[1]))


def report(part: Partial, *kernels: MadeKernel, sections: Sequence[str] = ("kernel",)) -> Report:
    return build(part, kernels=kernels, selection=Selection(sections=sections))


def rows(found: Report, name: str, *columns: str) -> list[tuple[object, ...]]:
    return [tuple(row[column] for column in columns) for row in found.tables[name].to_dict("records")]


def test_each_sample_is_in_its_function() -> None:
    found = report(partial(trace(*MIXED)), MadeKernel())
    assert rows(found, "kernel_functions", "source", "function", "count", "masked_count") == [
        ("privop", "idle", 6, 0),
        ("trap", "spl", 3, 3),
        ("page_fault", OUTSIDE, 1, 0),
        ("privop", "spl", 1, 1),
        ("trap", "(no symbol)", 1, 0),
    ]
    assert rows(found, "kernel_functions", "share_ratio")[0] == (pytest.approx(6 / 12),)


def test_sources_have_their_bias() -> None:
    found = report(partial(trace(*MIXED)), MadeKernel())
    assert rows(found, "kernel_sources", "source", "biased_to", "count", "inside_count", "masked_count") == [
        ("privop", "privileged instructions", 7, 7, 1),
        ("trap", "where the guest traps", 4, 4, 3),
        ("page_fault", "where the guest faults", 1, 0, 0),
    ]
    ratios = found.tables["kernel_sources"]["masked_ratio"].tolist()
    assert ratios[:2] == pytest.approx([1 / 7, 3 / 4])
    assert np.isnan(ratios[2])


def test_lines_by_address_without_those_that_have_none() -> None:
    found = report(partial(trace(*MIXED)), MadeKernel())
    assert rows(found, "kernel_lines", "rip", "place", "file", "line", "masked", "count") == [
        (f"{TEXT + 0x1020:#x}", "spl+0x20", "spl.c", 7.0, "yes", 3),
        (f"{TEXT + 0x1024:#x}", "spl+0x24", "spl.c", 7.0, "yes", 1),
    ]


def test_image_has_its_sample_counts() -> None:
    found = report(partial(trace(*MIXED)), MadeKernel())
    (row,) = found.tables["kernel_images"].to_dict("records")
    assert {
        "domain": 3,
        "image": "boot/netbsd",
        "load_offset": "0x0",
        "load_offset_source": "made up",
        "count": 12,
        "address_count": 5,
        "inside_count": 11,
        "masked_count": 4,
        "carried_count": 12,
        "left_out_count": 0,
        "unknown_domain_count": 0,
        "note": "",
    }.items() <= row.items()
    assert row["masked_ratio"] == pytest.approx(4 / 11)


@pytest.mark.parametrize(("offset", "shown"), [(0x10_0000, "0x100000"), (-0x2000, "-0x2000")])
def test_load_offset_is_subtracted(offset: int, shown: str) -> None:
    moved = [(event, address + offset if address >= TEXT else address) for event, address in MIXED]
    kernel = MadeKernel(offset=offset)
    found = report(partial(trace(*moved)), kernel)
    assert found.tables["kernel_images"]["load_offset"].tolist() == [shown]
    assert found.tables["kernel_images"]["inside_count"].tolist() == [11]
    assert sorted(kernel.asked)[-1] == TEXT + 0x2000
    assert rows(found, "kernel_lines", "rip")[0] == (f"{TEXT + 0x1020 + offset:#x}",)


def test_samples_of_other_and_unknown_domains_are_counted() -> None:
    """Two records come before the running vCPU is known, one while the pCPU is idle."""
    early = pack_window(0, pack_record(PRIVOP, 500, rip(TEXT)) * 2)
    idle_there = (RUN_IDLE[0] | 1, RUN_IDLE[1])
    idle = pack_window(1, pack_record(TO_RUNNING, 600, idle_there) + pack_record(PRIVOP, 700, rip(TEXT)))
    found = report(partial(early + idle + trace(*MIXED)), MadeKernel())
    row = found.tables["kernel_images"].iloc[0]
    told = ("carried_count", "unknown_domain_count", "left_out_count", "count")
    assert tuple(row[name] for name in told) == (15, 2, 1, 12)


@pytest.mark.parametrize(
    ("domain", "note"),
    [(5, "the trace has no RIP sample of domain 5"), (9, "the trace has no domain 9")],
)
def test_a_domain_without_samples_has_a_note(domain: int, note: str) -> None:
    part = partial(trace(*MIXED) + pack_window(0, pack_record(TO_RUNNING, 9000, RUN_D5V1)))
    found = report(part, MadeKernel(domain))
    (row,) = found.tables["kernel_images"].to_dict("records")
    assert (row["note"], row["count"]) == (note, 0)
    assert all(found.tables[name].empty for name in ("kernel_sources", "kernel_functions", "kernel_lines"))
    json.loads(json_text(found))


def test_without_a_load_offset_no_sample_is_resolved() -> None:
    kernel = MadeKernel(offset=None)
    found = report(partial(trace(*MIXED)), kernel)
    (row,) = found.tables["kernel_images"].to_dict("records")
    assert (row["load_offset"], row["count"], row["inside_count"]) == ("", 12, 0)
    assert row["note"] == "unknown load offset: made up"
    assert kernel.asked == []
    assert set(found.tables["kernel_functions"]["function"]) == {OUTSIDE}


def test_image_without_samples_has_a_note() -> None:
    found = report(partial(trace(*MIXED)), MadeKernel(offset=0x1000_0000))
    note = "no sample is in this image: did the domain run this kernel?"
    assert found.tables["kernel_images"]["note"].tolist() == [note]


def test_most_frequent_address_is_looked_up_first() -> None:
    kernel = MadeKernel()
    report(partial(trace(*MIXED)), kernel)
    assert kernel.asked[:2] == [TEXT + 0x10, TEXT + 0x1020]
    assert kernel.was_pv is True


def test_hvm_kernel_has_no_fixed_load_offset() -> None:
    exits = b"".join(pack_record(VMEXIT, 2000 + i, (0x7B, *rip(TEXT))) for i in range(3))
    kernel = MadeKernel()
    found = report(partial(pack_window(0, pack_record(TO_RUNNING, 1000, RUN_D3V0) + exits)), kernel)
    assert kernel.was_pv is False
    assert rows(found, "kernel_sources", "source", "biased_to", "count") == [
        ("exit", "instructions that exit", 3)
    ]


def test_domains_are_separate() -> None:
    one = trace(*MIXED)
    other = pack_window(
        1, pack_record(TO_RUNNING, 1000, RUN_D5V1) + pack_record(PRIVOP, 1001, rip(TEXT + 0x1000))
    )
    part = partial(one + other)
    found = report(part, MadeKernel(), MadeKernel(5, names=("a", "b", "c")))
    functions = found.tables["kernel_functions"]
    assert functions.groupby("domain")["count"].sum().to_dict() == {3: 12, 5: 1}
    assert functions[functions["domain"] == 5]["function"].tolist() == ["b"]
    assert functions.groupby("domain")["share_ratio"].sum().tolist() == pytest.approx([1, 1])
    chosen = build(part, kernels=[MadeKernel(), MadeKernel(5)], selection=Selection(domains=[5]))
    assert set(chosen.tables["kernel_sources"]["domain"]) == {5}


@pytest.mark.parametrize("domain", [0, 1, 2])
def test_all_samples_of_a_real_trace_are_counted(domain: int) -> None:
    part = sample_partial()
    found = report(part, MadeKernel(domain), sections=("kernel", "rips"))
    whole = found.tables["rip_samples"]
    own = whole[whole["domain"] == domain]
    assert own["count"].sum() > 100
    for name in ("kernel_sources", "kernel_functions"):
        assert found.tables[name]["count"].sum() == own["count"].sum()
        assert found.tables[name]["share_ratio"].sum() == pytest.approx(1)
    row = found.tables["kernel_images"].iloc[0]
    assert row["address_count"] == own["rip"].nunique()
    assert row["carried_count"] - row["left_out_count"] == whole["count"].sum()
    assert row["unknown_domain_count"] == whole[whole["domain"] == 32768]["count"].sum()


def test_all_records_with_a_rip_are_counted() -> None:
    """No record is left out of a trace whose vCPUs are known from the first record on."""
    for name in ("calm", "lossy"):
        part = partial(HOSTS[name](4))
        found = report(part, MadeKernel(1), sections=("kernel", "rips"))
        row = found.tables["kernel_images"].iloc[0]
        assert row["carried_count"] >= found.tables["rip_samples"]["count"].sum()
        assert row["left_out_count"] <= row["carried_count"] / 2


def test_two_files_have_twice_the_samples() -> None:
    one = partial(trace(*MIXED))
    found = report(merge([one, one]), MadeKernel())
    assert found.tables["kernel_functions"]["count"].sum() == 24
    assert found.tables["kernel_images"]["address_count"].tolist() == [5]
    assert found.tables["kernel_images"]["carried_count"].tolist() == [24]


def test_without_an_image_tables_are_empty_with_their_columns() -> None:
    empty = report(sample_partial())
    full = report(partial(trace(*MIXED)), MadeKernel())
    for table in TABLES:
        frame = empty.tables[table.name]
        assert frame.empty
        assert list(frame.columns) == [column.name for column in table.columns]
        assert list(frame.columns) == list(full.tables[table.name].columns)


def test_an_empty_trace_with_an_image() -> None:
    found = resolve(partial(b""), [MadeKernel()])
    assert found.images["note"].tolist() == ["the trace has no domain 3"]
    assert len(found.addresses) == 0
    assert found.addresses.names == resolve(partial(b""), []).addresses.names


def test_samples_without_a_record_do_not_count_as_left_out() -> None:
    part = partial(trace((TRAP, TEXT), (TRAP, TEXT + 1)))
    told = part.tallies.where(part.tallies["metric"] == Metric.RIP).where([0])
    more = [told.having(a=3 << 16 | int(source) << 32, count=50) for source in UNRECORDED_RIPS]
    found = resolve(replace(part, tallies=joined([part.tallies, *more])), [MadeKernel()])
    (row,) = found.images.rows()
    assert (row["count"], row["carried_count"], row["left_out_count"]) == (102, 2, 0)
    shown = {row["source"]: row["biased_to"] for row in found.addresses.rows()}
    assert shown["perf_clock"] == "time; masked code late"
