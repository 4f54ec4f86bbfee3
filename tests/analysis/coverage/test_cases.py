"""Traces that cover less than everything: what is missing is said, and no figure claims to know it."""

from __future__ import annotations

import json
import lzma
from functools import cache
from pathlib import Path
from typing import Any

import pytest

from builders import cut
from builders.partials import partial
from builders.reported import printed
from oracle.reader import Window
from oracle.reading import ALL_SAMPLES
from xtrace.analysis.report.build import Report, build, json_object
from xtrace.analysis.summary import clock
from xtrace.probes.reader.writer import pack_record, pack_window

DATA = Path(__file__).parent / "data"
WHOLE = next(path for path in ALL_SAMPLES if "pv-all" in path.name)
HZ = 2_000_000_000


@cache
def whole() -> list[Window]:
    return cut.windows_of(lzma.decompress(WHOLE.read_bytes()))


@cache
def report_of(name: str) -> Any:
    return json_object(_build(trace_of(name)))


def _build(data: bytes, hz: float | None = None) -> Report:
    return build(partial(data), hz=hz)


def trace_of(name: str) -> bytes:
    if name == "lost":
        return lzma.decompress(next(path for path in ALL_SAMPLES if "pv-lost" in path.name).read_bytes())
    if (path := DATA / f"{name}.bin.xz").exists():
        return lzma.decompress(path.read_bytes())
    return {
        "whole": lambda: cut.packed(whole()),
        "only_pcpu0": lambda: cut.packed(cut.of_pcpus(whole(), {0})),
        "sched_only": lambda: cut.packed(cut.of_classes(whole(), "sched")),
        "pv_only": lambda: cut.packed(cut.of_classes(whole(), "pv")),
        "e28000": lambda: cut.packed(cut.of_classes(whole(), "0x28000")),
        "arm_24MHz": lambda: slowed(cut.of_classes(whole(), "sched"), 24, 2300),
    }[name]()


def slowed(windows: list[Window], to_mhz: int, of_mhz: int) -> bytes:
    """Return windows with the TSCs of a slower counter."""
    return b"".join(
        pack_window(
            window.pcpu,
            b"".join(
                pack_record(raw.event, None if raw.tsc is None else raw.tsc * to_mhz // of_mhz, raw.words)
                for raw in window.records
            ),
        )
        for window in windows
    )


def rows(name: str, table: str, **wanted: object) -> list[dict[str, Any]]:
    found = report_of(name)["tables"][table]["rows"]
    return [row for row in found if all(row[key] == value for key, value in wanted.items())]


def quality(name: str, table: str, column: str) -> str:
    return str(report_of(name)["tables"][table]["quality"][column])


def recorded(name: str) -> dict[str, str]:
    return {row["kind"]: row["recorded"] for row in report_of(name)["trace"]["coverage"]["records"]}


# --- one of two pCPUs --------------------------------------------------------------------------


def test_times_on_one_of_two_pcpus_are_those_that_the_scheduler_confirms() -> None:
    coverage = report_of("only_pcpu0")["trace"]["coverage"]
    assert (coverage["missing_pcpus"], coverage["has_all_pcpus"]) == ([1], False)
    assert coverage["contradiction_count"] > 500
    assert report_of("whole")["trace"]["coverage"]["has_all_pcpus"]
    (row,) = rows("only_pcpu0", "wakes", domain=2, vcpu=0)
    # The wakes of d2v0 on pCPU 0 that ran there have a p99 of 0.95 ms; bridged ones reach 468 ms.
    assert 0.5e-3 < row["wake_to_running_p99_cycles"] / 2.3e9 < 2e-3
    for column in ("wake_count", "wake_to_running_p50_cycles", "wake_to_running_max_cycles"):
        assert quality("only_pcpu0", "wakes", column) == "inferred"
        assert quality("whole", "wakes", column) == "exact"


def test_shares_on_one_of_two_pcpus_are_lower_bounds() -> None:
    assert quality("only_pcpu0", "vcpu_states", "share_ratio") == "bounded"
    assert quality("only_pcpu0", "domain_states", "share_ratio") == "inferred"
    checked = 0
    for row in rows("only_pcpu0", "vcpu_states"):
        if (
            row["state"] in ("unknown", "lost")
            or row["domain"] == 0x7FFF
            or row["state"].startswith("runnable")
        ):
            continue
        most = sum(
            each["total_cycles"]
            for each in rows(
                "whole", "vcpu_states", domain=row["domain"], vcpu=row["vcpu"], state=row["state"]
            )
        )
        assert row["total_cycles"] <= most
        checked += 1
    assert checked > 6


# --- classes -----------------------------------------------------------------------------------


def test_without_the_guests_hypercalls_wakes_have_no_cause() -> None:
    assert recorded("sched_only")["entries"] == "no"
    for column in ("event_channel_count", "irq_count", "other_count", "unknown_count"):
        assert quality("sched_only", "wakes", column) == "not recorded"
        assert all(row[column] is None for row in rows("sched_only", "wakes"))
    assert not rows("sched_only", "wakers")
    assert not rows("sched_only", "sends")
    # What only the scheduler's records are needed for is as in the whole trace.
    for column in ("wake_count", "wake_to_running_p99_cycles", "wake_to_running_max_cycles"):
        assert quality("sched_only", "wakes", column) == "exact"
        assert [row[column] for row in rows("sched_only", "wakes")] == [
            row[column] for row in rows("whole", "wakes")
        ]


def test_without_the_scheduler_nobody_is_said_to_run() -> None:
    assert (recorded("pv_only")["runstates"], recorded("pv_only")["pv"]) == ("no", "yes")
    for column in ("woke_count", "woke_ratio"):
        assert quality("pv_only", "sends", column) == "not recorded"
    for column in ("running_ratio", "idle_ratio", "unknown_ratio"):
        assert quality("pv_only", "pcpus", column) == "not recorded"
        assert all(row[column] is None for row in rows("pv_only", "pcpus"))
    sent = sum(row["send_count"] for row in rows("pv_only", "sends"))
    assert sent == sum(row["send_count"] for row in rows("whole", "sends")) > 1000
    assert quality("pv_only", "sends", "send_count") == "exact"


def test_with_wakes_alone_there_is_no_time_to_running() -> None:
    assert (recorded("e28000")["switches"], recorded("e28000")["runstates"]) == ("yes", "no")
    assert not rows("e28000", "wakes")
    assert not rows("e28000", "vcpu_states")
    assert all(row["running_ratio"] is None for row in rows("e28000", "pcpus"))


def test_the_text_names_the_missing_class(tmp_path: Path) -> None:
    for name, mask, sub_class in (
        ("sched_only", "0x201000", "pv_entry"),
        ("pv_only", "0x21000", "sched_min"),
        ("e28000", "0x21000", "sched_min"),
    ):
        path = tmp_path / name
        path.write_bytes(trace_of(name))
        text = " ".join(printed("report", str(path)).split())
        assert f"-e {mask}" in text
        assert sub_class in text
        assert "p99 -" not in text


# --- clocks ------------------------------------------------------------------------------------


def test_a_slow_counter_has_its_rate_and_its_resolution(tmp_path: Path) -> None:
    data = trace_of("arm_24MHz")
    rate = clock.estimate(partial(data).pairs)
    assert rate is not None
    assert rate.hz == pytest.approx(24e6, rel=1e-4)
    path = tmp_path / "arm"
    path.write_bytes(data)
    assert "resolution 41.7 ns" in " ".join(printed("report", str(path)).split())


# --- one accounting of time --------------------------------------------------------------------


@pytest.mark.parametrize("name", ["whole", "sched_only", "only_pcpu0", "open_ends", "cap", "pause"])
def test_the_parts_of_each_account_add_up_to_the_span(name: str) -> None:
    span = report_of(name)["trace"]["span_cycles"]
    for row in rows(name, "pcpus"):
        parts = ("running_cycles", "idle_cycles", "lost_cycles", "unknown_cycles")
        assert sum(row[part] for part in parts) == span
    for table, keys in (("vcpu_states", ("domain", "vcpu")), ("domain_states", ("domain",))):
        totals: dict[tuple[int, ...], int] = {}
        for row in rows(name, table):
            key = tuple(row[each] for each in keys)
            totals[key] = totals.get(key, 0) + row["total_cycles"]
        assert totals
        assert set(totals.values()) == {span}
    for row in rows(name, "domain_vcpus"):
        vcpus = rows(name, "vcpu_states", domain=row["domain"], state=row["state"])
        assert row["total_cycles"] == sum(each["total_cycles"] for each in vcpus)


def test_open_states_count_in_every_table(tmp_path: Path) -> None:
    assert {row["domain"] for row in rows("open_ends", "domain_states")} - {0x7FFF} == {0, 1}
    (pcpu0, pcpu1) = rows("open_ends", "pcpus")
    span = report_of("open_ends")["trace"]["span_cycles"]
    assert pcpu0["running_cycles"] == span - 50  # idle until then
    (blocked,) = rows("open_ends", "vcpu_states", domain=1, state="blocked")
    (of_domain,) = rows("open_ends", "domain_states", domain=1, state="blocked")
    assert blocked["total_cycles"] == of_domain["total_cycles"]
    assert pcpu1["idle_cycles"] == pytest.approx(blocked["total_cycles"], rel=1e-3)
    # It is blocked for the last three seconds, which is the longest time, and may last.
    assert blocked["max_cycles"] == blocked["open_max_cycles"]
    assert blocked["open_max_cycles"] / HZ == pytest.approx(3.04, abs=0.01)
    assert quality("open_ends", "vcpu_states", "max_cycles") == "bounded"
    path = tmp_path / "open"
    path.write_bytes(trace_of("open_ends"))
    assert ">=3.04s" in printed("report", "--full", "--cpu-hz", "2G", str(path))


def test_what_is_lost_may_add_to_a_bound_from_above() -> None:
    for name in ("upcall_most_count", "upcall_most_per_s"):
        assert quality("whole", "upcalls", name) == "bounded"
        assert quality("lost", "upcalls", name) == "inferred"


@pytest.mark.parametrize(
    "facts",
    [
        # The recorder noticed an xentrace beside its own: nothing shows which records that one got.
        {"event_mask": "0xffff000", "shared_with": [4711]},
        # One that set its own mask and then failed, as Xen has room for one only.
        {"event_mask": "0x2f000"},
    ],
)
def test_what_another_recorder_took_is_in_no_figure(facts: dict[str, Any], tmp_path: Path) -> None:
    capture = tmp_path / "a.xtrace"
    capture.mkdir()
    (capture / "xentrace.bin").write_bytes(cut.packed(whole()[:8]))
    meta = {"schema_version": 1, "tsc_hz": HZ, "backends": {"xentrace": {"facts": facts}}}
    (capture / "meta.json").write_text(json.dumps(meta))
    report = json.loads(printed("report", "--json", str(capture)))
    assert report["trace"]["coverage"]["shared_count"] == 1
    for name in ("wakes", "vcpu_states", "domain_states", "upcalls"):
        marks = report["tables"][name]["quality"].items()
        assert {mark for column, mark in marks if column.endswith("_cycles")} <= {"inferred", "not recorded"}
    assert "another xentrace took" in " ".join(printed("report", "--full", str(capture)).split())


def test_offline_is_a_state_of_its_own_and_is_named(tmp_path: Path) -> None:
    (state,) = rows("cap", "domain_states", domain=1, state="offline")
    assert state["share_ratio"] == pytest.approx(0.74, abs=0.01)
    assert not rows("cap", "domain_states", domain=1, state="blocked")
    path = tmp_path / "cap"
    path.write_bytes(trace_of("cap"))
    assert "d1v0 was offline 75% of the time" in printed("report", str(path))


def test_wakes_during_a_pause_count_when_they_end(tmp_path: Path) -> None:
    (row,) = rows("pause", "wakes", domain=1)
    assert row["paused_count"] == 4
    assert row["wake_to_running_max_cycles"] / HZ == pytest.approx(2.0, rel=0.01)
    (waits,) = rows("pause", "vcpu_states", domain=1, state="offline")
    assert waits["count"] == 4
    path = tmp_path / "pause"
    path.write_bytes(trace_of("pause"))
    assert "4 wakes of d1v0 waited up to 2.00s for an offline vCPU" in printed(
        "report", "--cpu-hz", "2G", str(path)
    )
