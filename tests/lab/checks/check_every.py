"""What holds for every trace of the lab."""

from __future__ import annotations

import pytest

from lab.checks.made import counts, domain_ids, sidecar, trace, traced
from peer.xenalyze import raw_records
from xtrace.probes.capture.sidecar import sidecar_of

EVERY = traced()
LOSING = ("lost", "events-lost")


@pytest.mark.parametrize("name", EVERY)
def test_the_sidecar_is_read_and_says_that_the_times_are_emulated(name: str) -> None:
    read = sidecar_of(trace(name))
    assert read is not None
    assert read.tsc_hz is not None
    assert 1e8 < read.tsc_hz < 1e10
    assert read.xen_version == "4.17"
    assert sidecar(name)["timing"] == "emulated"


@pytest.mark.parametrize("name", EVERY)
def test_xenalyze_sees_as_many_records(name: str) -> None:
    found = counts(name)
    assert len(raw_records(trace(name))) == found.records + found.fillers


@pytest.mark.parametrize("name", EVERY)
def test_nothing_is_lost_except_where_intended(name: str) -> None:
    if name not in LOSING:
        assert counts(name).lost == 0


@pytest.mark.parametrize("name", EVERY)
def test_every_guest_that_was_created_ran(name: str) -> None:
    if name not in LOSING:
        for domain in domain_ids(name).values():
            assert counts(name).ran[domain] > 0


@pytest.mark.parametrize("name", EVERY)
def test_all_pcpus_wrote(name: str) -> None:
    assert counts(name).pcpus == set(range(sidecar(name)["pcpus"]))
