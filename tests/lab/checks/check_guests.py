"""Linux guests: the traffic that dom0's drivers and the guests counted is the traffic asked for."""

from __future__ import annotations

import pytest

from lab.checks import made
from lab.checks.made import chosen, counts, domain_ids, known, known_rows, sidecar, upcall_bounds

BLOCKS, PINGS, LINES = 211, 101, 307


@pytest.mark.parametrize("name", chosen("pv"))
def test_traffic_is_the_one_asked_for(name: str) -> None:
    said = known(name)
    assert int(said["block_requests"][0]) == BLOCKS
    assert int(said["packets_of_a"][0]) >= PINGS  # and a few of ARP
    assert int(said["console_lines"][0]) == LINES


@pytest.mark.parametrize("name", chosen("pv"))
def test_every_single_request_took_a_send(name: str) -> None:
    sends = counts(name).hypercalls[domain_ids(name)["a"], made.EVENT_CHANNEL_OP]
    assert sends >= BLOCKS


@pytest.mark.parametrize("name", chosen("pv"))
@pytest.mark.parametrize("guest", ["a", "b"])
def test_the_report_bounds_the_upcalls(name: str, guest: str) -> None:
    """The guest's kprobe counted from just after the start of the trace to just before its end."""
    rows = [row for row in known_rows(name) if row[:2] == ["upcalls", guest]]
    before, after = (int(count) for count in rows[0][2:])
    least, most = upcall_bounds(name)[domain_ids(name)[guest]]
    assert least <= after - before <= most


@pytest.mark.parametrize("name", chosen("pvh"))
def test_the_guest_is_pvh(name: str) -> None:
    found, domain = counts(name), domain_ids(name)["p"]
    assert not any(number for (who, number) in found.hypercalls if who == domain)
    assert found.ran[domain] > 0
    assert {row["id"] for row in sidecar(name)["domains"]} >= {0, domain}
