"""The report, as a user gets it, agrees with what our own guests and dom0 know."""

from __future__ import annotations

from collections import Counter

import pytest

from lab.checks import made
from lab.checks.made import (
    chosen,
    counters,
    counts,
    domain_ids,
    known,
    own_guests,
    report,
    sidecar,
    total,
    trace_facts,
    traced,
)  # fmt: skip

EVERY = traced()
LOSING = ("lost", "events-lost")
KEPT = [name for name in EVERY if name not in LOSING]
OWN = [(name, guest) for name in KEPT for guest in own_guests(name)]
MARKED = chosen("dom0", "quick")


@pytest.mark.parametrize("name", EVERY)
def test_it_is_marked_as_emulated_and_reports_its_losses(name: str) -> None:
    facts, found = trace_facts(name), counts(name)
    assert facts["emulated"] is True
    assert facts["tsc_hz"] == sidecar(name)["tsc_hz"]
    assert (facts["records"], facts["filler_records"]) == (found.records, found.fillers)
    assert (facts["lost_records"], facts["loss_count"]) == (found.lost, found.gaps)
    assert facts["damage_count"] == facts["late_records"] == 0


@pytest.mark.parametrize("name", KEPT)
def test_every_hypercall_is_in_it(name: str) -> None:
    """Hypercalls of created domains have their domain; those before a pCPU's first switch have none."""
    reported = total(name, "hypercalls", "count", "domain", "op", kind="call")
    twin = counts(name).hypercalls
    domains = set(domain_ids(name).values())
    assert {key: n for key, n in reported.items() if key[0] in domains} == {
        key: n for key, n in twin.items() if key[0] in domains
    }
    assert sum(reported.values()) == sum(twin.values())


@pytest.mark.parametrize(("name", "guest"), OWN)
def test_our_own_guest_did_what_it_counted(name: str, guest: str) -> None:
    said, domain = counters(name, guest), domain_ids(name)[guest]
    calls = total(name, "hypercalls", "count", "domain", "op", kind="call")
    assert calls[domain, made.IRET] == said["upcall"]
    # Without a row it had no upcalls.
    upcalls = next((row for row in report(name)["upcalls"] if row["domain"] == domain), Counter[str]())
    assert upcalls["upcall_least_count"] <= said["upcall"] == upcalls["upcall_most_count"]
    assert upcalls["xen_version_count"] == said["force_callback"]
    # If the event is delivered between the test and the hypercall, no callback is forced.
    assert upcalls["forced_callback_count"] <= said["force_callback"]
    assert upcalls["block_call_count"] == said["block"]
    assert upcalls["iret_trap_count"] == upcalls["nested_count"] == 0
    commands = total(name, "commands", "count", "domain", "name", "command")
    assert commands[domain, "vcpu_op", "set_singleshot_timer"] == said["timer_set"]
    assert commands[domain, "sched_op", "yield"] == said["yield"]


@pytest.mark.parametrize(("name", "guest"), OWN)
def test_each_sleep_of_our_own_guest_ended_in_a_wake(name: str, guest: str) -> None:
    """It also polls at its end; its creation wakes it up to twice; some wakes arrive while it is blocking."""
    said, domain = counters(name, guest), domain_ids(name)[guest]
    slept = said["block"] - total(name, "upcalls", "block_without_block_count", "domain")[domain,]
    polled = counts(name).commands[domain, made.SCHED_OP, made.SCHED_POLL]
    woken = total(name, "wakes", "wake_count", "domain")[domain,]
    awake = total(name, "wakes", "wake_without_effect_count", "domain")[domain,]
    assert slept <= woken + awake
    assert woken <= slept + polled + 2


@pytest.mark.parametrize(("name", "guest"), OWN)
def test_the_sends_of_our_own_guest_are_counted(name: str, guest: str) -> None:
    said, domain = counters(name, guest), domain_ids(name)[guest]
    (sends,) = [row for row in report(name)["sends"] if row["domain"] == domain]
    woke = counts(name).sends_with_wake[domain]
    assert sends["send_count"] >= said["ping_sent"] + said["console_sent"]
    assert sends["woke_count"] <= woke


@pytest.mark.parametrize("name", MARKED)
def test_markers_of_dom0_are_all_counted(name: str) -> None:
    marks = Counter(
        {
            row["command"]: row["count"]
            for row in report(name)["commands"]
            if (row["domain"], row["op"]) == (0, made.VCPU_OP)
        }
    )
    assert int(known(name)["marks"][0]) in marks.values(), marks
