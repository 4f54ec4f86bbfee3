"""Domains and their event channels at the start and the end of a recording."""

from __future__ import annotations

from xtrace.probes.recording.domains import _merged

PORTS = [
    {"port": 1, "vcpu": 0, "kind": "virq", "virq": 0},
    {"port": 2, "vcpu": 0, "kind": "ipi"},
    {"port": 13, "vcpu": 1, "kind": "Interdomain (Connected)", "domain": 0, "remote_port": 27},
    {"port": 14, "vcpu": 1, "kind": "Interdomain (Waiting connection)", "domain": 3},
    {"port": 15, "vcpu": 1, "kind": "pirq", "pirq": 9},
]


def test_event_channels_say_at_which_end_they_were_seen() -> None:
    first = [dict(port) for port in PORTS]
    known = _merged([], [dict(port) for port in PORTS], "start")
    later = [port for port in first if port["port"] != 2] + [{"port": 2, "vcpu": 1, "kind": "ipi"}]
    found = _merged(known, later, "end")
    assert {(port["port"], port["vcpu"]): port["seen"] for port in found} == {
        (1, 0): "both",
        (2, 0): "start",
        (2, 1): "end",
        (13, 1): "both",
        (14, 1): "both",
        (15, 1): "both",
    }
