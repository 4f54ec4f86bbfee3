"""Decide for each fence whether it is needed, and find the problems of a site that no fence fixes.

The rule (x86-TSO and xen/include/public/xen.h): only the CPU that hosts the vCPU
reads the mask, so a fence at a mask, restore or unmask is removable if the store
is one byte wide, the pending test follows it in program order, and each clearing
of pending in the image is followed by a locked access before the selector is used.
"""

from __future__ import annotations

from dataclasses import dataclass

from xtrace.symbols.flow.walk import Paths, Ways
from xtrace.symbols.sites.access_kind import Touch
from xtrace.symbols.sites.fences import Found
from xtrace.symbols.sites.model import Cpu, Fence, Hazard, Kind, Verdict

STORES = frozenset((Kind.MASK, Kind.RESTORE, Kind.UNMASK))
OPENS = frozenset((Kind.RESTORE, Kind.UNMASK))


@dataclass(frozen=True, slots=True)
class Surroundings:
    """What the code around a touch shows.

    Attributes:
        tests: the pending tests after it.  tested_before: those before it.
        owes_test: it may open the mask, and nothing shows that it does not.
        exit: what makes up for an unmask without a test; "" if nothing does.
        reopened: the unmasks and restores that follow a mask.
        locked: locked accesses after a pending clear.  unlocked: selector uses that precede one.
        guarded: preemption is off.
    """

    tests: Ways
    tested_before: tuple[int, ...]
    owes_test: bool
    exit: str
    reopened: Ways
    locked: Ways
    unlocked: tuple[int, ...]
    guarded: bool


def hazards(touch: Touch, around: Surroundings) -> tuple[Hazard, ...]:
    """Return what is wrong, or cannot be shown to be right, at a touch."""
    found = []
    kind = touch.kind
    assert touch.insn.memory is not None
    if touch.wide and kind in STORES | {Kind.PENDING_SET, Kind.PENDING_CLEAR}:
        size = touch.insn.memory.size
        found.append(
            Hazard(
                "wide-store", f"the store is {size} bytes wide: it can undo another CPU's write to pending"
            )
        )
    if kind in OPENS and around.owes_test and around.tests.paths is not Paths.ALL and not around.exit:
        where = (
            "no pending test follows"
            if around.tests.paths is Paths.NONE
            else "on some paths no pending test follows"
        )
        if around.tested_before and around.tests.paths is Paths.NONE:
            at = ", ".join(f"{address:#x}" for address in around.tested_before)
            found.append(
                Hazard(
                    "test-before-store",
                    f"pending is tested at {at}, before the store: an event in between is lost",
                )
            )
        else:
            found.append(
                Hazard(
                    "no-pending-test",
                    f"{where} the store: an event that arrived while masked waits for the next one",
                )
            )
    if kind is Kind.PENDING_CLEAR and around.unlocked:
        at = ", ".join(f"{address:#x}" for address in around.unlocked)
        found.append(
            Hazard(
                "unlocked-handler",
                f"the selector is used at {at} without a locked access after pending is cleared",
            )
        )
    if kind in STORES and not around.guarded:
        if touch.spot.cpu is Cpu.LOADED:
            found.append(
                Hazard(
                    "unstable-pointer",
                    "the pointer was loaded earlier; nothing found keeps the thread on its CPU",
                )
            )
        elif touch.spot.by_field:
            found.append(
                Hazard(
                    "unstable-pointer",
                    f"nothing shows that this is the running CPU's vcpu_info: {touch.spot.origin}",
                )
            )
    if kind is Kind.MASK and around.reopened.paths is Paths.SOME:
        at = ", ".join(f"{address:#x}" for address in around.reopened.hits[:3])
        found.append(
            Hazard("unbalanced", f"some paths unmask again (at {at}), others return with the mask set")
        )
    return tuple(found)


def judged(found: Found, touch: Touch, around: Surroundings, handlers_locked: bool) -> Fence:
    """Return a fence with its verdict and the reason."""
    verdict, reason = _judge(found, touch, around, handlers_locked)
    name = found.insn.mnemonic
    if found.insn.lock:
        name = f"lock {name}"
    return Fence(name, found.how, found.insn.address, found.via, found.position, found.paths, verdict, reason)


def _judge(found: Found, touch: Touch, around: Surroundings, handlers_locked: bool) -> tuple[Verdict, str]:
    kind = touch.kind
    if found.position == "access":
        if kind in STORES:
            return Verdict.UNDECIDED, "the access itself is locked; a plain byte store would do"
        return Verdict.KEEP, "other CPUs write this field: the access must stay locked"
    if kind is Kind.PENDING_CLEAR and found.at in around.locked.hits:
        return (
            Verdict.KEEP,
            "every CPU must see pending clear before the selector is taken: this orders the two",
        )
    if kind not in STORES:
        return Verdict.KEEP, f"a {kind} is outside the rule, which covers mask, restore and unmask"
    if touch.wide:
        return Verdict.UNDECIDED, "the store is wider than a byte: fix that first"
    untested = kind in OPENS and around.owes_test and around.tests.paths is not Paths.ALL
    if untested and not around.exit:
        if around.tested_before and around.tests.paths is Paths.NONE:
            return Verdict.UNDECIDED, "pending is tested before the store, not after it"
        return Verdict.UNDECIDED, "a pending test was not found on every path after the store"
    if not handlers_locked:
        return (
            Verdict.UNDECIDED,
            "a handler in this image clears pending and uses the selector with no locked access in between",
        )
    if kind is Kind.MASK:
        return Verdict.REMOVABLE, "only Xen's exit to the guest on this CPU reads the mask"
    if untested:
        return Verdict.REMOVABLE, f"no test follows, but {around.exit}"
    return Verdict.REMOVABLE, "Xen tests pending after this store, or the test that follows sees the event"


def site_verdict(fences: tuple[Fence, ...]) -> tuple[Verdict, str]:
    """Return a site's verdict and reason: its fences', where undecided outranks removable outranks keep."""
    if not fences:
        return Verdict.NO_FENCE, "no fence executes here"
    for verdict in (Verdict.UNDECIDED, Verdict.REMOVABLE, Verdict.KEEP):
        for fence in fences:
            if fence.verdict is verdict:
                return verdict, fence.reason
    raise AssertionError("a fence without a verdict")
