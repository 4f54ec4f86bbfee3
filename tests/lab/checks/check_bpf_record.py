"""bpf's counts in dom0 agree with /proc/interrupts, the trace, the pings and the block requests."""

from __future__ import annotations

import functools
import json
import subprocess
import sys
from collections import Counter
from typing import Any

import pytest

from lab.checks.made import chosen, folder, known, known_rows
from lab.image import image
from xtrace.analysis.cost.executions import executions
from xtrace.analysis.report.guest_kernels import open_kernels
from xtrace.analysis.summary import dom0_columns
from xtrace.analysis.summary.dom0_calls import KIND_OF_ROLE
from xtrace.probes.bpf.abi import Kind
from xtrace.probes.bpf.ctf_reader import read_events, read_samples
from xtrace.probes.capture.layout import BPF_TABLES, Capture, open_capture

_NAMES = chosen("bpf-record")


@functools.cache
def _capture(name: str, which: str = "bpf-record") -> Capture:
    return open_capture(folder(name) / f"{which}.xtrace")


@functools.cache
def _report(name: str, which: str = "bpf-record", *options: str) -> dict[str, list[dict[str, Any]]]:
    command = [sys.executable, "-c", "from xtrace.cli.start import main; main()", "report", "--json"]
    path = str(folder(name) / f"{which}.xtrace")
    done = subprocess.run([*command, *options, path], capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    return {table: found["rows"] for table, found in json.loads(done.stdout)["tables"].items()}


def _facts(name: str, which: str = "bpf-record") -> dict[str, Any]:
    facts: dict[str, Any] = _capture(name, which).meta["backends"]["bpf"]["facts"]
    return facts


def _events_of(name: str, kind: Kind) -> Any:
    records = read_events(_capture(name).path / "events").records
    return records[records["kind"] == int(kind)]


def _ends(name: str) -> tuple[int, int]:
    """Return the first and last TSC of the trace."""
    pcpus = _report(name)["pcpus"]
    return min(row["first_tsc"] for row in pcpus), max(row["last_tsc"] for row in pcpus)


def _within(name: str, kind: Kind) -> int:
    """Return how many events of a kind are within the trace's time span."""
    fit = _capture(name).meta["clocks"]["fit"]
    first, last = (fit["monotonic_ns"] + (tsc - fit["tsc"]) / fit["hz"] * 1e9 for tsc in _ends(name))
    times = _events_of(name, kind)["timestamp"]
    return int(((times >= first) & (times <= last)).sum())


def _port_rows(name: str, part: str) -> list[dict[str, Any]]:
    return [row for row in _report(name)["dom0_ports"] if part in row["name"]]


@pytest.mark.parametrize("name", _NAMES)
def test_every_backend_recorded(name: str) -> None:
    backends = _capture(name).meta["backends"]
    assert {key for key, value in backends.items() if value["used"]} == {"bpf", "perf", "xenctx", "xentrace"}
    assert _capture(name).has_ended
    assert backends["bpf"]["counts"]["lost"] == backends["perf"]["counts"]["lost"] == 0


@pytest.mark.parametrize("name", _NAMES)
def test_each_function_was_found_in_debians_kernel(name: str) -> None:
    facts = _facts(name)
    assert facts["functions"] == {
        "upcall": "xen_evtchn_do_upcall",
        "port": "handle_irq_for_port",
        "late_eoi": "xen_irq_lateeoi",
        "send": "notify_remote_via_irq",
        "send_ipi": "xen_send_IPI_one",
        "device_event": "evtchn_interrupt",
        "privcmd": "privcmd_ioctl",
    }
    assert facts["missing"] == []


@pytest.mark.parametrize("name", _NAMES)
def test_handlers_agree_with_proc_interrupts(name: str) -> None:
    row = _report(name)["dom0_losses"][0]
    # Interrupts continue while the file is read, at both ends.
    assert abs(row["irq_handler_count"] - row["interrupt_count"]) <= 30
    # Each port is handled in an upcall, except for upcalls that a kprobe skipped.
    counted = _facts(name)["counted"]
    assert counted["port_handler"] * 0.98 <= counted["dispatch"] <= counted["port_handler"]
    # Kprobes skip hits while another program runs.
    missed = row["irq_handler_count"] - row["port_handler_count"]
    assert -30 <= missed <= row["irq_handler_count"] // 50


@pytest.mark.parametrize("name", _NAMES)
def test_upcalls_are_within_the_bounds_from_the_trace(name: str) -> None:
    counted = _within(name, Kind.UPCALL)
    rows = [row for row in _report(name)["upcalls"] if row["domain"] == 0]
    least, most = (sum(row[f"upcall_{end}_count"] for row in rows) for end in ("least", "most"))
    assert least * 0.98 <= counted <= most


@pytest.mark.parametrize("name", _NAMES)
def test_block_requests_and_pings_used_their_ports(name: str) -> None:
    requests, domain = int(known(name)["block_requests"][0]), known(name)["domid_a"][0]
    assert requests >= 211
    handled = sum(row["count"] + row["zero_count"] for row in _port_rows(name, "blkif"))
    # One request at a time: each arrives with an event, or is found by the thread that is still polling.
    assert requests * 0.5 <= handled <= requests * 1.1 + 10
    # Each answer is sent, unless the guest is still polling the ring.
    answers = sum(row["send_count"] for row in _report(name)["dom0_irqs"] if row["name"] == "blkif-backend")
    assert requests * 0.9 <= answers <= requests
    to, of = int(known(name)["packets_to_a"][0]), int(known(name)["packets_of_a"][0])
    assert to >= 101
    assert of >= 101
    sent = sum(row["count"] + row["zero_count"] for row in _port_rows(name, f"vif{domain}.0-q0-tx"))
    assert of * 0.5 <= sent <= of * 2.2 + 10
    assert all(row["name"].endswith(f" d{domain}") for row in _port_rows(name, "blkif"))


@pytest.mark.parametrize("name", _NAMES)
def test_events_are_those_that_were_tallied(name: str) -> None:
    totals: Counter[int] = Counter()
    for line in _capture(name).lines(BPF_TABLES):
        for row in line["rows"] if "t_ns" in line and "rows" in line else ():
            totals[row[0]] += row[3] + row[7]
    records = read_events(_capture(name).path / "events").records
    assert Counter(records["kind"].tolist()) == totals
    assert set(totals) >= {
        Kind.UPCALL, Kind.DISPATCH, Kind.PORT_HANDLER, Kind.IRQ_HANDLER, Kind.LATE_EOI, Kind.SEND, Kind.IPI,
        Kind.DEVICE_EVENT, Kind.PRIVCMD, Kind.SOFTIRQ, Kind.WAKE_TO_SWITCH,
    }  # fmt: skip


@pytest.mark.parametrize("name", _NAMES)
def test_dom0_and_its_guest_were_sampled(name: str) -> None:
    assert len(read_samples(_capture(name).path / "samples").records) > 0
    guest = [row for row in _report(name)["rip_samples"] if row["source"] == "xenctx"]
    assert {str(row["domain"]) for row in guest} == set(known(name)["domid_a"])


@pytest.mark.parametrize("name", _NAMES)
def test_a_kill_leaves_no_probes_and_a_readable_capture(name: str) -> None:
    assert known(name)["kprobe_events"] == ["0"]
    assert known(name)["kprobes_left"] == ["0"]
    assert not _capture(name, "killed").has_ended
    events = read_events(_capture(name, "killed").path / "events").records
    assert (events["kind"] == int(Kind.UPCALL)).sum() > 0
    assert _report(name, "killed")["dom0_upcalls"]


@pytest.mark.parametrize("name", _NAMES)
def test_the_kernel_measured_each_programs_run_time(name: str) -> None:
    programs = _facts(name)["programs"]
    assert {"upcall_enter", "upcall_return", "port_enter", "irq_exit"} <= set(programs)
    assert [row for row in known_rows(name) if row[0] == "said"]


@functools.cache
def _of_dom0(name: str) -> dict[str, list[dict[str, Any]]]:
    """Return the report made with the image of dom0's kernel."""
    sections = ("--section", "cost", "--section", "kernel")
    return _report(name, "bpf-record", "--kernel", f"0={image() / 'vmlinux'}", *sections)


def _calls(name: str) -> dict[str, tuple[int, int | None]]:
    """Return the bounds of each function's calls within the trace's time span, from the tables' lines."""
    capture = _capture(name)
    first, last = _ends(name)
    calls = dom0_columns.read(capture).calls
    assert calls is not None
    return {
        row["function"]: (row["count"], row["most_count"] if row["bounded"] else None)
        for row in calls.in_trace(first, last).rows()
    }


@pytest.mark.parametrize("name", _NAMES)
def test_bounds_of_calls_contain_the_events(name: str) -> None:
    # Each event has its own time: for every function, the number within the trace must be within the bounds.
    functions, found = _facts(name)["functions"], _calls(name)
    assert set(found) == set(functions.values())
    for role, kind in KIND_OF_ROLE.items():
        true = _within(name, kind)
        least, most = found[functions[role]]
        assert least <= true, role
        assert (most is None) == (role == "privcmd"), role
        assert most is None or true <= most, role
        # The lines are a second apart: of ten seconds they leave some calls in doubt, but not most calls of a
        # function that is called all the time.  Tools call privcmd in bursts.
        assert role not in ("upcall", "port") or least >= true * 0.5, role


@pytest.mark.parametrize("name", _NAMES)
def test_bpfs_upcalls_agree_with_those_of_the_trace(name: str) -> None:
    (row,) = [row for row in _of_dom0(name)["cost_checks"] if row["what"] == "upcall by bpf"]
    assert (row["domain"], row["agrees"]) == (0, "yes")
    least, most = _calls(name)["xen_evtchn_do_upcall"]
    assert row["counted_count"] == least
    assert most is not None
    # Both count the same upcalls, and bpf's bounds are narrower.
    assert row["traced_low_count"] * 0.98 <= most
    assert most - least < row["traced_high_count"] - row["traced_low_count"]


@pytest.mark.parametrize("name", _NAMES)
def test_sites_of_dom0s_kernel_execute_as_often_as_their_functions(name: str) -> None:
    # Debian's kernel has no fences, so no site has a price or a row in the report.
    assert {row["missing"] for row in _of_dom0(name)["cost_needs"] if row["about"] == "d0"} == {"a fence"}
    (kernel,) = open_kernels([(0, image() / "vmlinux", None)])
    paths, calls = kernel.paths(frozenset()), _calls(name)
    found = executions(
        paths, 0, calls={key: (low, high or float("inf")) for key, (low, high) in calls.items()}
    )
    inside = [place for place, site in enumerate(paths.sites) if site.symbol in calls]
    assert inside
    assert found.conflicts == []
    for place in inside:
        symbol = paths.sites[place].symbol
        assert found.low[place] == calls[symbol][0] * paths.call.least[place] > 0
        assert f"bpf's count of calls to {symbol}" in found.rule[place]


@pytest.mark.parametrize("name", _NAMES)
def test_dom0s_clock_samples_its_time_if_its_image_is_known(name: str) -> None:
    records = read_samples(_capture(name).path / "samples").records
    (row,) = [row for row in _of_dom0(name)["kernel_sources"] if row["source"] == "perf_clock"]
    assert (row["domain"], row["count"]) == (0, len(records))
    assert row["inside_count"] > row["count"] // 2
    # Where the recorder found a name in the running kernel, the image has the same name.
    named = {
        row["function"]: row["count"] for row in _report(name)["dom0_samples"] if row["space"] == "kernel"
    }
    found = {
        row["function"]: row["count"]
        for row in _of_dom0(name)["kernel_functions"]
        if row["source"] == "perf_clock"
    }
    most = max(named, key=lambda function: named[function])
    assert found[most] == named[most]
