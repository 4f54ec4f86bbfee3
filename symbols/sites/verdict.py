"""Decide for each fence whether it is needed, and find the problems of a site that no fence fixes.

Both come from the site's description: the accesses on its paths and in the handlers (proof/description.py).
A fence at a mask, restore or unmask is removable if the description without it loses no upcall, and a locked
access is replaceable if none is lost with a byte store and a test in its place.  Whether one is lost, the
model checker says, or the rule in its place (proof/rule.py); what is wrong is named in proof/faults.py.

What is not about the order of accesses comes from the code around the site: whose vcpu_info it is, whether
a mask is opened again on some paths only, and a wide store to pending.
"""

from __future__ import annotations

from dataclasses import dataclass

from xtrace.symbols.flow.walk import Paths, Ways
from xtrace.symbols.proof.description import Description, as_byte_store
from xtrace.symbols.proof.faults import Fault, faults_of
from xtrace.symbols.proof.rule import fault_of
from xtrace.symbols.sites.access_kind import Touch
from xtrace.symbols.sites.fences import Found
from xtrace.symbols.sites.handlers import IN_ORDER, Order
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
        order: of a pending clear, the locked accesses and the uses of the selector around it.
        guarded: preemption is off.
        reread: where this CPU's pointer or number is read again before the pending test.
        masked: of a mask, the [start, end) address ranges that run until the mask is opened.
    """

    tests: Ways
    tested_before: tuple[int, ...]
    owes_test: bool
    exit: str
    reopened: Ways
    guarded: bool
    order: Order = IN_ORDER
    reread: tuple[int, ...] = ()
    masked: tuple[tuple[int, int], ...] = ()


@dataclass(frozen=True, slots=True)
class Proof:
    """A site's description, and what is wrong with the site's own accesses."""

    description: Description | None
    faults: tuple[Fault, ...]


def proof_of(description: Description | None) -> Proof:
    """Return a description with its faults."""
    return Proof(description, faults_of(description) if description is not None else ())


def hazards(touch: Touch, around: Surroundings, proof: Proof) -> tuple[Hazard, ...]:
    """Return what is wrong, or cannot be shown to be right, at a touch."""
    found = []
    if touch.wide and touch.kind in (Kind.PENDING_SET, Kind.PENDING_CLEAR):
        found.append(Hazard("wide-store", _wide_words(touch)))
    # A take has the faults of all handlers in its description: they are those of the clears.
    if touch.kind is not Kind.SELECTOR_TAKE:
        found += [Hazard(fault.name, _words(fault, touch)) for fault in proof.faults]
    if touch.kind in STORES:
        pointer = _unstable(touch, around)
        if pointer:
            found.append(Hazard("unstable-pointer", pointer))
    if touch.kind is Kind.MASK and around.reopened.paths is Paths.SOME:
        at = ", ".join(f"{address:#x}" for address in around.reopened.hits[:3])
        found.append(
            Hazard("unbalanced", f"some paths unmask again (at {at}), others return with the mask set")
        )
    return tuple(found)


def _words(fault: Fault, touch: Touch) -> str:
    """Return the sentence for a fault of a description."""
    at = ", ".join(f"{address:#x}" for address in fault.at)
    if fault.name == "wide-store":
        return _wide_words(touch)
    if fault.name == "no-pending-test":
        where = "no pending test follows" if fault.everywhere else "on some paths no pending test follows"
        return f"{where} the store: an event that arrived while masked waits for the next one"
    if fault.name == "unlocked-handler" and touch.kind is Kind.SELECTOR_SET:
        return "the selector is stored without a lock: a bit set meanwhile is lost"
    return {
        "test-before-store": f"pending is tested at {at}, before the store: an event in between is lost",
        "unlocked-handler": f"the selector is used at {at} without a locked access after pending is cleared",
        "take-before-clear": f"the selector is taken at {at}, before pending is cleared: an event in between "
        "is lost",
        "clear-without-take": "no locked access and no take of the selector follows: "
        "what was pending is lost",
        "lost-upcall": "an upcall can be lost: --explain shows how",
    }[fault.name]


def _wide_words(touch: Touch) -> str:
    assert touch.insn.memory is not None
    also = "also clears pending, and " if touch.clears_pending else ""
    return (
        f"the store is {touch.insn.memory.size} bytes wide: it {also}can undo another CPU's write to pending"
    )


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


def judged(found: Found, touch: Touch, around: Surroundings, proof: Proof, *, orders: bool) -> Fence:
    """Return a fence with its verdict and the reason.

    Args:
        orders: a handler needs this instruction between its clear and its take.
    """
    verdict, reason = _judge(found, touch, around, proof, orders)
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
    found: Found, touch: Touch, around: Surroundings, proof: Proof, orders: bool
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
    if proof.faults:
        return Verdict.UNDECIDED, _UNDECIDED.get(proof.faults[0].name, "an upcall can be lost here")
    unproven = _unproven(found, proof)
    if unproven:
        return Verdict.UNDECIDED, unproven
    verdict = Verdict.REPLACEABLE if access else Verdict.REMOVABLE
    if kind is Kind.MASK:
        lead = "a byte store would do: " if access else ""
        return verdict, f"{lead}only Xen's exit to the guest on this CPU reads the mask"
    lead = "a byte store and a test would do: " if access else ""
    if around.owes_test and around.tests.paths is not Paths.ALL and around.exit:
        return verdict, f"{lead}no test follows, but {around.exit}"
    return verdict, f"{lead}Xen tests pending after this store, or the test that follows sees the event"


_UNDECIDED = {
    "wide-store": "the store is wider than a byte: fix that first",
    "test-before-store": "pending is tested before the store, not after it",
    "no-pending-test": "a pending test was not found on every path after the store",
}


def _unproven(found: Found, proof: Proof) -> str:
    """Return why it is not proved that nothing is lost without a fence or lock; "" if it is proved."""
    assert proof.description is not None
    try:
        if fault_of(proof.description):
            return (
                "a handler in this image does not clear pending and then take the selector by a locked access"
            )
        is_access = found.position == "access"
        weaker = (
            as_byte_store(proof.description) if is_access else proof.description.without(found.insn.address)
        )
        fault = fault_of(weaker)
    except ValueError as error:
        fault = str(error)
    return f"not proved from the accesses that were read: {fault}" if fault else ""


def site_verdict(fences: tuple[Fence, ...]) -> tuple[Verdict, str]:
    """Return a site's verdict and reason: those of the fence whose verdict comes first in this order."""
    if not fences:
        return Verdict.NO_FENCE, "no fence executes here"
    for verdict in (Verdict.UNDECIDED, Verdict.REMOVABLE, Verdict.REPLACEABLE, Verdict.KEEP):
        for fence in fences:
            if fence.verdict is verdict:
                return verdict, fence.reason
    raise AssertionError("a fence without a verdict")
