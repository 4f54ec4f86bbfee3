"""Linux guests: dom0's drivers and the guests counted the requested traffic."""

from __future__ import annotations

import pytest

from lab.checks.made import chosen, counts, domain_ids, known, known_rows, sidecar, total, upcall_bounds

BLOCKS, PINGS, LINES = 211, 101, 307


@pytest.mark.parametrize("name", chosen("pv"))
def test_the_traffic_is_as_requested(name: str) -> None:
    said = known(name)
    assert "failed_line" not in said
    assert int(said["block_requests"][0]) == BLOCKS
    assert int(said["packets_of_a"][0]) >= PINGS  # and a few of ARP
    assert int(said["console_lines"][0]) == LINES


@pytest.mark.parametrize("name", chosen("pv"))
@pytest.mark.parametrize("guest", ["a", "b"])
def test_the_report_bounds_the_upcalls(name: str, guest: str) -> None:
    """The count of the guest's kprobe is read before the trace, twice during it, and after it."""
    outside, first, last, behind = _said_by_guest(name, "upcalls", guest)
    least, most = upcall_bounds(name)[domain_ids(name)[guest]]
    assert last - first <= most
    assert least <= behind - outside


@pytest.mark.parametrize("name", chosen("pv"))
def test_every_handled_event_was_sent(name: str) -> None:
    """Requests and packets cannot be compared: a driver that is awake finds them without an event."""
    sent, domains = total(name, "sends", "send_count", "domain"), domain_ids(name)
    for guest in "ab":
        first, last = (int(row[-1]) for row in known_rows(name) if row[:2] == ["handled_of", guest])
        assert 0 < last - first <= sent[domains[guest],]
    of_dom0 = [_said_by_guest(name, "handled", guest) for guest in "ab"]
    assert all(first < last for first, last in of_dom0)
    assert sum(last - first for first, last in of_dom0) <= sent[0,]


def _said_by_guest(name: str, what: str, guest: str) -> list[int]:
    (row,) = (row for row in known_rows(name) if row[:2] == [what, guest])
    return [int(count) for count in row[2:]]


@pytest.mark.parametrize("name", chosen("pvh"))
def test_the_guest_is_pvh(name: str) -> None:
    found, domain = counts(name), domain_ids(name)["p"]
    assert not any(number for (who, number) in found.hypercalls if who == domain)
    assert found.ran[domain] > 0
    assert {row["id"] for row in sidecar(name)["domains"]} >= {0, domain}
