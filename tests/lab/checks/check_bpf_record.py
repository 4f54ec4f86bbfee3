"""What bpf counted in dom0 against /proc/interrupts, the trace, the pings and the block requests."""

from __future__ import annotations

import functools
import json
import subprocess
import sys
from collections import Counter
from typing import Any

import pytest

from lab.checks.made import chosen, folder, known, known_rows
from xtrace.probes.bpf.abi import Kind
from xtrace.probes.capture import BPF_TABLES, Capture, open_capture
from xtrace.probes.events import read_events, read_samples

_NAMES = chosen("bpf-record")


@functools.cache
def _capture(name: str, which: str = "bpf-record") -> Capture:
    return open_capture(folder(name) / f"{which}.xtrace")


@functools.cache
def _report(name: str, which: str = "bpf-record") -> dict[str, list[dict[str, Any]]]:
    command = [sys.executable, "-c", "from xtrace.cli.start import main; main()", "report", "--json"]
    path = str(folder(name) / f"{which}.xtrace")
    done = subprocess.run([*command, path], capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    return {table: found["rows"] for table, found in json.loads(done.stdout)["tables"].items()}


def _facts(name: str, which: str = "bpf-record") -> dict[str, Any]:
    facts: dict[str, Any] = _capture(name, which).meta["backends"]["bpf"]["facts"]
    return facts


def _events_of(name: str, kind: Kind) -> Any:
    records = read_events(_capture(name).path / "events").records
    return records[records["kind"] == int(kind)]


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
def test_handlers_are_those_of_proc_interrupts(name: str) -> None:
    row = _report(name)["dom0_losses"][0]
    # The file is read while interrupts go on, at both ends.
    assert abs(row["irq_handler_count"] - row["interrupt_count"]) <= 30
    # Each port is handled in an upcall, but for upcalls that a kprobe skipped.
    counted = _facts(name)["counted"]
    assert counted["port_handler"] * 0.98 <= counted["dispatch"] <= counted["port_handler"]
    # What kprobes skip while another program runs.
    missed = row["irq_handler_count"] - row["port_handler_count"]
    assert -30 <= missed <= row["irq_handler_count"] // 50


@pytest.mark.parametrize("name", _NAMES)
def test_upcalls_lie_between_the_bounds_of_the_trace(name: str) -> None:
    fit = _capture(name).meta["clocks"]["fit"]
    pcpus = _report(name)["pcpus"]
    first, last = min(row["first_tsc"] for row in pcpus), max(row["last_tsc"] for row in pcpus)

    def ns(tsc: int) -> float:
        return float(fit["monotonic_ns"] + (tsc - fit["tsc"]) / fit["hz"] * 1e9)

    times = _events_of(name, Kind.UPCALL)["timestamp"]
    counted = int(((times >= ns(first)) & (times <= ns(last))).sum())
    rows = [row for row in _report(name)["upcalls"] if row["domain"] == 0]
    least, most = (sum(row[f"upcall_{end}_count"] for row in rows) for end in ("least", "most"))
    assert least * 0.98 <= counted <= most


@pytest.mark.parametrize("name", _NAMES)
def test_block_requests_and_pings_came_by_their_ports(name: str) -> None:
    requests, domain = int(known(name)["block_requests"][0]), known(name)["domid_a"][0]
    assert requests >= 211
    handled = sum(row["count"] + row["zero_count"] for row in _port_rows(name, "blkif"))
    # One request at a time: each is told by an event, or found by the thread that still looks.
    assert requests * 0.5 <= handled <= requests * 1.1 + 10
    # Each answer is sent, unless the guest still looks at the ring.
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
def test_a_kill_leaves_no_probe_and_what_was_written(name: str) -> None:
    assert known(name)["kprobe_events"] == ["0"]
    assert known(name)["kprobes_left"] == ["0"]
    assert not _capture(name, "killed").has_ended
    events = read_events(_capture(name, "killed").path / "events").records
    assert (events["kind"] == int(Kind.UPCALL)).sum() > 0
    assert _report(name, "killed")["dom0_upcalls"]


@pytest.mark.parametrize("name", _NAMES)
def test_the_kernel_told_what_each_program_took(name: str) -> None:
    programs = _facts(name)["programs"]
    assert {"upcall_enter", "upcall_return", "port_enter", "irq_exit"} <= set(programs)
    assert [row for row in known_rows(name) if row[0] == "said"]
