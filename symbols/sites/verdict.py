"""Decide for each fence whether it is needed, and find the problems of a site that no fence fixes.

The rule (x86-TSO and xen/include/public/xen.h): only the CPU that hosts the vCPU
reads the mask, so a fence at a mask, restore or unmask is removable if the store
is one byte wide, the pending test follows it in program order, and each clearing
of pending in the image is followed by a locked access before the selector is used.
Where the access itself is locked, a byte store and a test would do on the same conditions.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from xtrace.symbols.flow.walk import Paths, Ways
from xtrace.symbols.proof.description import Description, as_byte_store
from xtrace.symbols.proof.rule import fault_of
from xtrace.symbols.sites.access_kind import Touch
from xtrace.symbols.sites.fences import Found
from xtrace.symbols.sites.handlers import IN_ORDER, Order
from xtrace.symbols.sites.model import Cpu, Fence, Hazard, Kind, Site, Verdict

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
        order: of a pending clear, the locked accesses and the uses of the selector around it.
        guarded: preemption is off.
        reread: where this CPU's pointer or number is read again before the pending test.
    """

    tests: Ways
    tested_before: tuple[int, ...]
    owes_test: bool
    exit: str
    reopened: Ways
    guarded: bool
    order: Order = IN_ORDER
    reread: tuple[int, ...] = ()


def hazards(touch: Touch, around: Surroundings) -> tuple[Hazard, ...]:
    """Return what is wrong, or cannot be shown to be right, at a touch."""
    found = []
    kind = touch.kind
    assert touch.insn.memory is not None
    if touch.wide and kind in STORES | {Kind.PENDING_SET, Kind.PENDING_CLEAR}:
        size = touch.insn.memory.size
        also = "also clears pending, and " if touch.clears_pending else ""
        found.append(
            Hazard(
                "wide-store",
                f"the store is {size} bytes wide: it {also}can undo another CPU's write to pending",
            )
        )
    if touch.wide and kind is Kind.SELECTOR_SET:
        found.append(
            Hazard("unlocked-handler", "the selector is stored without a lock: a bit set meanwhile is lost")
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
    if kind is Kind.PENDING_CLEAR and around.order.fault:
        found.append(Hazard(around.order.fault, _disorder(around.order)))
    if kind in STORES:
        pointer = _unstable(touch, around)
        if pointer:
            found.append(Hazard("unstable-pointer", pointer))
    if kind is Kind.MASK and around.reopened.paths is Paths.SOME:
        at = ", ".join(f"{address:#x}" for address in around.reopened.hits[:3])
        found.append(
            Hazard("unbalanced", f"some paths unmask again (at {at}), others return with the mask set")
        )
    return tuple(found)


def _disorder(order: Order) -> str:
    """Return what is wrong with the order of a clear and a take."""
    if order.unlocked:
        at = ", ".join(f"{address:#x}" for address in order.unlocked)
        return f"the selector is used at {at} without a locked access after pending is cleared"
    if order.taken and order.ends:
        at = ", ".join(f"{address:#x}" for address in order.taken)
        return f"the selector is taken at {at}, before pending is cleared: an event in between is lost"
    return "no locked access and no take of the selector follows: what was pending is lost"


def _unstable(touch: Touch, around: Surroundings) -> str:
    """Return why the pointer may be another CPU's, "" if nothing shows that it may."""
    cpu = touch.spot.cpu
    if cpu is Cpu.LOADED and not around.guarded:
        if around.reread:
            at = ", ".join(f"{address:#x}" for address in around.reread)
            return f"the store and the pending test may be on different CPUs: which CPU is read again at {at}"
        return "the pointer was loaded earlier; nothing found keeps the thread on its CPU"
    # While preemption is off, a structure that is passed may be the running CPU's; a number may be any.
    # Masking a CPU that is chosen by number is how one is prepared before it starts.
    prepares = touch.kind is Kind.MASK and touch.spot.names_cpu
    if cpu is Cpu.OTHER and not prepares and not (touch.spot.by_field and around.guarded):
        return f"nothing shows that this is the running CPU's vcpu_info: {touch.spot.origin}"
    return ""


def judged(
    found: Found, touch: Touch, around: Surroundings, handlers_locked: bool, *, orders: bool = False
) -> Fence:
    """Return a fence with its verdict and the reason.

    Args:
        orders: a handler needs this instruction between its clear and its take.
    """
    verdict, reason = _judge(found, touch, around, handlers_locked, orders)
    name = found.insn.mnemonic
    if found.insn.lock:
        name = f"lock {name}"
    return Fence(
        name,
        found.how,
        found.insn.address,
        found.via,
        found.position,
        found.paths,
        verdict,
        reason,
        found.at,
    )


def _judge(
    found: Found, touch: Touch, around: Surroundings, handlers_locked: bool, orders: bool
) -> tuple[Verdict, str]:
    kind = touch.kind
    access = found.position == "access"
    if access and kind not in STORES:
        return Verdict.KEEP, "other CPUs write this field: the access must stay locked"
    if orders or (kind is Kind.PENDING_CLEAR and found.at in around.order.locked.hits):
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
            "a handler in this image does not clear pending and then take the selector by a locked access",
        )
    verdict = Verdict.REPLACEABLE if access else Verdict.REMOVABLE
    if kind is Kind.MASK:
        lead = "a byte store would do: " if access else ""
        return verdict, f"{lead}only Xen's exit to the guest on this CPU reads the mask"
    lead = "a byte store and a test would do: " if access else ""
    if untested:
        return verdict, f"{lead}no test follows, but {around.exit}"
    return verdict, f"{lead}Xen tests pending after this store, or the test that follows sees the event"


def site_verdict(fences: tuple[Fence, ...]) -> tuple[Verdict, str]:
    """Return a site's verdict and reason: those of the fence whose verdict comes first in this order."""
    if not fences:
        return Verdict.NO_FENCE, "no fence executes here"
    for verdict in (Verdict.UNDECIDED, Verdict.REMOVABLE, Verdict.REPLACEABLE, Verdict.KEEP):
        for fence in fences:
            if fence.verdict is verdict:
                return verdict, fence.reason
    raise AssertionError("a fence without a verdict")


def proven(site: Site) -> Site:
    """Return a site whose fences are removable or replaceable only if its own description proves it."""
    assert site.description is not None
    fences = tuple(_proven(fence, site.description) for fence in site.fences)
    if fences == site.fences:
        return site
    verdict, reason = site_verdict(fences)
    return replace(site, fences=fences, verdict=verdict, reason=reason)


def _proven(fence: Fence, description: Description) -> Fence:
    if fence.verdict is Verdict.REMOVABLE:
        weaker = description.without(fence.address)
    elif fence.verdict is Verdict.REPLACEABLE:
        weaker = as_byte_store(description)
    else:
        return fence
    try:
        fault = fault_of(weaker)
    except ValueError as error:
        fault = str(error)
    if not fault:
        return fence
    return replace(
        fence, verdict=Verdict.UNDECIDED, reason=f"not proved from the accesses that were read: {fault}"
    )
