"""Two of our own guests count what they do, and the trace agrees to the last hypercall."""

from __future__ import annotations

import pytest

from lab.checks import made
from lab.checks.made import chosen, counters, counts, domain_ids, sidecar, upcall_bounds

PAIRS = [(name, guest) for name in chosen("own-*", "sched-*", "quick") for guest in "ab"]
SCHEDULED = chosen("sched-*")


@pytest.mark.parametrize(("name", "guest"), PAIRS)
def test_hypercalls_are_those_that_the_guest_counted(name: str, guest: str) -> None:
    said, found, domain = counters(name, guest), counts(name), domain_ids(name)[guest]
    assert found.hypercalls[domain, made.IRET] == said["upcall"]
    assert found.hypercalls[domain, made.XEN_VERSION] == said["force_callback"]
    assert found.commands[domain, made.SCHED_OP, made.SCHED_BLOCK] == said["block"]
    assert found.commands[domain, made.SCHED_OP, made.SCHED_YIELD] == said["yield"]
    assert found.commands[domain, made.VCPU_OP, made.SET_SINGLESHOT_TIMER] == said["timer_set"]
    assert found.hypercalls[domain, made.EVENT_CHANNEL_OP] >= said["ping_sent"] + said["console_sent"]


@pytest.mark.parametrize(("name", "guest"), PAIRS)
def test_the_report_bounds_the_upcalls(name: str, guest: str) -> None:
    # This guest has no system calls: every iret ends an upcall, so the upper bound is the truth.  The lower
    # bound counts only upcalls after a block: half of them if the pCPUs are busy.
    upcalls = counters(name, guest)["upcall"]
    least, most = upcall_bounds(name)[domain_ids(name)[guest]]
    assert 0 < least <= upcalls == most


@pytest.mark.parametrize(("name", "guest"), PAIRS)
def test_every_ping_arrived(name: str, guest: str) -> None:
    said = counters(name, guest)
    assert said["ping_sent"] == said["ping_event"] == (1009 if name.startswith("own") else 101)
    assert said["pending_found"] == said["force_callback"]


@pytest.mark.parametrize("name", SCHEDULED)
def test_the_scheduler_is_as_requested(name: str) -> None:
    assert sidecar(name)["scheduler"] == name.removeprefix("sched-")
