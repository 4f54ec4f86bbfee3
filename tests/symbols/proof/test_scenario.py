"""Sites map to scenarios of the model, and verdicts agree with what the model finds."""

from __future__ import annotations

import functools
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from builders.guest import Builder, Variant
from builders.made_sites import fence, site
from xtrace.symbols.flow.walk import Paths
from xtrace.symbols.image.image import open_image
from xtrace.symbols.proof.checker import check
from xtrace.symbols.proof.protocols import Fence, Protocol, Retest, Scenario, Take, Width
from xtrace.symbols.proof.scenario import scenario_of
from xtrace.symbols.sites.finder import find_sites
from xtrace.symbols.sites.model import Hazard, Kind, Site, Verdict

UNSTABLE = Hazard("unstable-pointer", "not seen to be stable")
UNTESTED = Hazard("no-pending-test", "no pending test follows")
UNLOCKED = Hazard("unlocked-handler", "the selector is read without a lock")


@functools.cache
def holds(scenario: Scenario) -> bool:
    return check(scenario).holds


@pytest.mark.parametrize(
    ("one", "scenario"),
    [
        (site(), Scenario(Protocol.UNMASK)),
        (site(kind=Kind.MASK, pending_paths=Paths.NONE), Scenario(Protocol.MASK, retest=Retest.NONE)),
        (site(kind=Kind.RESTORE, fences=(fence(),)), Scenario(Protocol.RESTORE, Fence.LFENCE)),
        (site(fences=(fence("lock addq", ""),)), Scenario(Protocol.UNMASK, Fence.LOCK)),
        (site(fences=(fence("cpuid", ""),)), Scenario(Protocol.UNMASK, Fence.SERIALISING)),
        (site(fences=(fence(), fence("mfence"))), Scenario(Protocol.UNMASK, Fence.MFENCE)),
        (
            site(fences=(fence("sfence", position="before"),)),
            Scenario(Protocol.UNMASK, Fence.SFENCE, fence_first=True),
        ),
        (site(width_bytes=2), Scenario(Protocol.UNMASK, width=Width.WIDE)),
        (
            site(width_bytes=8, fences=(fence("lock and", "", position="access"),)),
            Scenario(Protocol.UNMASK, width=Width.LOCKED_WIDE),
        ),
        (site(pending_paths=Paths.SOME), Scenario(Protocol.UNMASK, retest=Retest.NONE)),
        (site(pending_paths=Paths.SOME, exit="iret"), Scenario(Protocol.UNMASK, retest=Retest.XEN_EXIT)),
        (
            site(pending_paths=Paths.NONE, hazards=(Hazard("test-before-store", "why"),)),
            Scenario(Protocol.UNMASK, retest=Retest.BEFORE),
        ),
        (site(hazards=(UNSTABLE,)), Scenario(Protocol.UNMASK)),
        # No test follows a restore and that is not a hazard: it can only leave the mask set.
        (site(kind=Kind.RESTORE, pending_paths=Paths.NONE), Scenario(Protocol.MASK, retest=Retest.NONE)),
        (site(kind=Kind.RESTORE, pending_paths=Paths.SOME), Scenario(Protocol.MASK, retest=Retest.NONE)),
        (
            site(kind=Kind.RESTORE, pending_paths=Paths.NONE, hazards=(UNTESTED,)),
            Scenario(Protocol.RESTORE, retest=Retest.NONE),
        ),
        (
            site(kind=Kind.RESTORE, pending_paths=Paths.NONE, hazards=(Hazard("test-before-store", "why"),)),
            Scenario(Protocol.RESTORE, retest=Retest.BEFORE),
        ),
        (
            site(kind=Kind.RESTORE, pending_paths=Paths.NONE, exit="iret"),
            Scenario(Protocol.RESTORE, retest=Retest.XEN_EXIT),
        ),
    ],
)
def test_scenario_of_a_site(one: Site, scenario: Scenario) -> None:
    assert scenario_of(one, [one]) == scenario


@pytest.mark.parametrize("kind", [Kind.PENDING_CLEAR, Kind.SELECTOR_TAKE])
@pytest.mark.parametrize("hazards", [(), (UNLOCKED,)])
def test_handler_takes_the_selector_as_in_the_image(kind: Kind, hazards: tuple[Hazard, ...]) -> None:
    handler = site("handler", kind=kind, hazards=hazards, pending_paths=Paths.ALL)
    found = scenario_of(handler, [handler])
    assert found is not None
    assert found.protocol is Protocol.HANDLER
    assert found.take is (Take.READ if hazards else Take.XCHG)
    assert holds(found) is not bool(hazards)
    # An unmask's scenario has the handlers of its image.
    assert scenario_of(site(), [site(), handler]) == Scenario(Protocol.UNMASK, take=found.take)


def test_access_to_keep_is_part_of_the_handler() -> None:
    xchg = fence("xchg", "", verdict=Verdict.KEEP)
    one = site(kind=Kind.PENDING_CLEAR, fences=(xchg, fence()))
    found = scenario_of(one, [one])
    assert found is not None
    assert found.fence is Fence.LFENCE
    unlocked = replace(one, hazards=(UNLOCKED,))
    found = scenario_of(unlocked, [unlocked])
    assert found is not None
    assert found.fence is Fence.XCHG


@pytest.mark.parametrize(
    "kind", sorted(set(Kind) - {Kind.MASK, Kind.RESTORE, Kind.UNMASK, Kind.PENDING_CLEAR, Kind.SELECTOR_TAKE})
)
def test_kinds_that_lose_nothing_have_no_scenario(kind: Kind) -> None:
    assert scenario_of(site(kind=kind), []) is None


@pytest.fixture(scope="module")
def builder(tmp_path_factory: pytest.TempPathFactory) -> Builder:
    if shutil.which("gcc") is None:
        pytest.skip("no compiler here")
    return Builder(tmp_path_factory.mktemp("guests"))


@pytest.mark.parametrize(
    "name", ["netbsd.c", "linux.c", "minios.c", "netbsd_amd64.S", "hazards_amd64.S", "unlocked_amd64.S"]
)
def test_verdicts_agree_with_the_model(builder: Builder, name: str) -> None:
    """If a fence is removable, no upcall is lost without it; if one is lost, there is a hazard."""
    image: Path = builder.build(name, Variant()).image
    sites = find_sites(open_image(image), lines=False).sites
    seen: list[Any] = []
    for one in sites:
        scenario = scenario_of(one, sites)
        if scenario is None:
            continue
        seen.append(scenario)
        # A pointer that may not be stable is a hazard of its own, whatever the fences.
        bare = replace(scenario, fence=Fence.NONE, stable=True)
        if one.verdict is Verdict.REMOVABLE:
            assert holds(bare), one
        if not holds(scenario):
            names = {hazard.name for site in sites for hazard in site.hazards}
            assert one.hazards or names & {"unlocked-handler"} or one.exit, one
    assert seen
