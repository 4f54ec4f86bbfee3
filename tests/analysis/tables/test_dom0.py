"""dom0's tables from a hand-made capture: names, zeros, quantiles, merges, samples by xenctx."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from builders.dom0_capture import bpf_capture as _capture
from builders.dom0_capture import sampled_capture as _sampled
from xtrace.analysis.columns import Columns
from xtrace.analysis.measures.measures import Measures
from xtrace.analysis.summary import dom0_columns
from xtrace.analysis.summary.histogram import QUANTILE_ERROR_RATIO
from xtrace.analysis.summary.partial import Partial, merge, partial_of
from xtrace.analysis.summary.summary_file import Summary, _nothing, read_summary, write_summary
from xtrace.analysis.summary.summary_head import Origin
from xtrace.analysis.tables import activity, dom0
from xtrace.probes.bpf.abi import Kind
from xtrace.probes.capture import layout
from xtrace.probes.capture.layout import Capture
from xtrace.probes.catalog import VersionRange
from xtrace.probes.errors import TraceError


def _partial(capture: Capture) -> Partial:
    return partial_of(_nothing(), dom0_columns.read(capture))


def _measures(*partials: Partial) -> Measures:
    return Measures(merge(partials), VersionRange.parse("4.17"))


def _shown(table: Columns, *names: str) -> list[list[Any]]:
    return [list(row.values()) for row in table.only(names).rows()]


_VALUES = {
    (Kind.UPCALL, 0, 0): [0, 5000, 7000, 0, 9000, 11000],
    (Kind.UPCALL, 0, 1): [300],
    (Kind.PORT_HANDLER, 17, 1): [400, 800, 1_000_000],
    (Kind.DISPATCH, 17, 1): [100, 120, 140],
    (Kind.IRQ_HANDLER, 45, 1): [350, 700, 900_000],
    (Kind.LATE_EOI, 45, 0): [5_000_000],
}


def test_upcalls_by_vcpu_count_zeros_separately(tmp_path: Path) -> None:
    table = dom0.upcalls(_measures(_partial(_capture(tmp_path, _VALUES))))
    assert _shown(table, "domain", "vcpu", "count", "zero_count", "sum_ns") == [
        [0, 0, 4, 2, 32000],
        [0, 1, 1, 0, 300],
    ]
    first = table.rows()[0]
    assert abs(first["p50_ns"] - 7000) <= 7000 * QUANTILE_ERROR_RATIO
    assert first["max_ns"] == 11000
    assert first["per_s"] == 2.0
    assert first["share_ratio"] == pytest.approx(32000 / 2e9)


def test_port_has_the_name_of_its_irq_and_remote_domain(tmp_path: Path) -> None:
    row = dom0.ports(_measures(_partial(_capture(tmp_path, _VALUES)))).rows()[0]
    assert (row["port"], row["name"], row["vcpu"], row["count"]) == (17, "blkif d3", 1, 3)
    assert row["dispatch_count"] == 3
    assert abs(row["dispatch_p50_ns"] - 120) <= 120 * QUANTILE_ERROR_RATIO


def test_interrupt_has_its_late_eois_from_any_vcpu(tmp_path: Path) -> None:
    row = dom0.irqs(_measures(_partial(_capture(tmp_path, _VALUES)))).rows()[0]
    assert (row["irq"], row["name"], row["count"], row["eoi_count"]) == (45, "blkif", 3, 1)
    assert row["eoi_max_ns"] == 5_000_000
    assert row["send_count"] == row["wake_to_switch_count"] == 0
    assert np.isnan(row["wake_to_switch_p50_ns"])


def test_losses_are_compared_with_proc_interrupts(tmp_path: Path) -> None:
    row = dom0.losses(_measures(_partial(_capture(tmp_path, _VALUES)))).rows()[0]
    # irq 45 went from 8 to 13; irq 46 is new and has 1.
    assert row["interrupt_count"] == 6
    assert (row["upcall_count"], row["port_handler_count"], row["irq_handler_count"]) == (7, 3, 3)


def test_captures_merge_but_irqs_of_different_boots_do_not(tmp_path: Path) -> None:
    first = _partial(_capture(tmp_path / "a", _VALUES))
    second = _partial(_capture(tmp_path / "b", _VALUES, "vif1.0"))
    both = dom0.irqs(_measures(first, second))
    assert _shown(both, "name", "count") == [["blkif", 3], ["vif1.0", 3]]
    same = _measures(first, first)
    assert dom0.upcalls(same)["count"].tolist() == [8, 2]
    assert same.partial.dom0_tallies["min_ns"].min() == 100
    assert int(same.partial.dom0_facts["span_ns"][0]) == 4 * 10**9


def test_tables_of_an_empty_trace_have_their_columns(tmp_path: Path) -> None:
    empty = _measures(partial_of(_nothing()))
    full = _measures(_partial(_capture(tmp_path, _VALUES)))
    for table in dom0.TABLES:
        made = table.of(empty, empty.coverage), table.of(full, full.coverage)
        assert made[0].quality == made[1].quality == {one.name: one.quality for one in table.columns}
        found, other = (one.columns for one in made)
        assert len(found) == 0, table.name
        assert list(found.names) == [column.name for column in table.columns]
        for name in found.names:
            assert found[name].dtype == other[name].dtype, (table.name, name)


def test_durations_of_a_recording_that_was_cut_off_before_their_count_are_left_out(tmp_path: Path) -> None:
    capture = _capture(tmp_path, _VALUES)
    whole = _partial(capture)
    # What happens after a line's counts are read may be in its histograms; the counts are in the next line.
    late = [[int(Kind.UPCALL), 0, 2, 100, 1], [int(Kind.IRQ_HANDLER), 99, 0, 100, 1]]
    with (tmp_path / layout.BPF_TABLES).open("a") as file:
        file.write(json.dumps({"t_ns": 3 * 10**9, "buckets": late}) + "\n")
    cut = _partial(capture)
    assert cut.dom0_buckets.rows() == whole.dom0_buckets.rows()
    assert dom0.upcalls(_measures(cut))["vcpu"].tolist() == [0, 1]


def test_summary_keeps_them(tmp_path: Path) -> None:
    partial = _partial(_capture(tmp_path / "a", _VALUES))
    write_summary(Summary(partial, Origin("a")), tmp_path / "a.summary")
    kept = read_summary(tmp_path / "a.summary").partial
    for table in dom0.TABLES:
        before, after = (table.of(one, one.coverage) for one in (_measures(partial), _measures(kept)))
        assert json.dumps(before.columns.rows()) == json.dumps(after.columns.rows()), table.name
        assert before.quality == after.quality, table.name


def test_xenctx_samples_are_rips_of_guests(tmp_path: Path) -> None:
    (tmp_path / "xenctx").mkdir()
    rows = [
        {"schema_version": 1, "bias": "..."},
        *[{"t_ns": [1, 2], "domain": 3, "vcpu": 1, "rip": "0xffffffff81a442b5"}] * 3,
        {"t_ns": [3, 4], "domain": 3, "vcpu": 0, "rip": "0x401136"},
    ]
    (tmp_path / layout.XENCTX_SAMPLES).write_text("".join(json.dumps(row) + "\n" for row in rows))
    table = activity.rip_samples(_measures(_partial(Capture(tmp_path, {}))))
    assert _shown(table, "domain", "vcpu", "source", "rip", "count") == [
        [3, 1, "xenctx", "0xffffffff81a442b5", 3],
        [3, 0, "xenctx", "0x401136", 1],
    ]


_KERNEL_IP, _USER_IP, _XEN_IP = 0xFFFF_FFFF_8100_1234, 0x401136, 0xFFFF_82D0_4020_0000
_SAMPLES = [(1, _KERNEL_IP, 0x200)] * 3 + [(0, _KERNEL_IP, 0), (0, _USER_IP, 0x200), (0, _XEN_IP, 0x200)]


def test_samples_by_the_software_clock_are_rips_of_dom0(tmp_path: Path) -> None:
    partial = _partial(_sampled(tmp_path / "c", "software clock", _SAMPLES))
    table = activity.rip_samples(_measures(partial, partial))
    assert _shown(table, "domain", "vcpu", "source", "rip", "count") == [
        [0, 1, "perf_clock", hex(_KERNEL_IP), 6],
        [0, 0, "perf_clock", hex(_KERNEL_IP), 2],
        [0, 0, "perf_clock", hex(_USER_IP), 2],
    ]
    assert partial.dom0_samples["count"].sum() == 6
    assert partial.dom0_facts["sample_mixed"].tolist() == [0]


@pytest.mark.parametrize("event", ["hardware cycles", ""])
def test_samples_of_all_domains_are_not_rips_of_any(tmp_path: Path, event: str) -> None:
    partial = _partial(_sampled(tmp_path / "c", event, _SAMPLES))
    assert len(activity.rip_samples(_measures(partial))) == 0
    assert partial.dom0_samples["count"].sum() == 6
    assert partial.dom0_facts["sample_mixed"].tolist() == [6]


def test_sample_of_an_impossible_vcpu_is_an_error(tmp_path: Path) -> None:
    capture = _sampled(tmp_path / "c", "software clock", [(1 << 16, _KERNEL_IP, 0)])
    with pytest.raises(TraceError, match="damaged"):
        dom0_columns.read(capture)


@pytest.mark.parametrize(
    "wrong", [{"rip": "0x1ffffffffffffffff"}, {"vcpu": 70000}, {"domain": -1}, {"rip": 5}]
)
def test_damaged_xenctx_sample_is_an_error(tmp_path: Path, wrong: dict[str, Any]) -> None:
    (tmp_path / "xenctx").mkdir()
    row = {"t_ns": [1, 2], "domain": 3, "vcpu": 1, "rip": "0x1"} | wrong
    (tmp_path / layout.XENCTX_SAMPLES).write_text(json.dumps(row) + "\n")
    with pytest.raises(TraceError, match="damaged"):
        dom0_columns.read(Capture(tmp_path, {}))
