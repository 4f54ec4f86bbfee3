"""Lost records, and domains that come and go while the trace runs."""

from __future__ import annotations

import pytest

from lab.checks import made
from lab.checks.made import chosen, counters, counts, domain_ids, known


@pytest.mark.parametrize("name", chosen("lost"))
def test_records_were_lost_in_both_stops(name: str) -> None:
    found = counts(name)
    assert found.gaps >= 2
    assert found.lost > found.gaps


@pytest.mark.parametrize("name", chosen("lifecycle"))
@pytest.mark.parametrize("guest", ["first", "second", "third"])
def test_a_domain_that_ended_is_counted_to_its_end(name: str, guest: str) -> None:
    said, found, domain = counters(name, guest), counts(name), domain_ids(name)[guest]
    assert found.hypercalls[domain, made.IRET] == said["upcall"]
    assert said["round"] == 1009


@pytest.mark.parametrize("name", chosen("lifecycle"))
def test_the_destroyed_domain_ran_too(name: str) -> None:
    assert counts(name).ran[int(known(name)["destroyed"][1])] > 0
