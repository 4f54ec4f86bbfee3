"""Write the proof for a site: the decisive runs of the model, or the counterexample."""

from __future__ import annotations

import textwrap
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace

from xtrace.symbols.proof.checker import (
    Actor,
    CameFrom,
    Machine,
    Outcome,
    State,
    Step,
    Trace,
    check,
    path_to,
    search,
    view,
)
from xtrace.symbols.proof.protocols import Cell, Fence, Op, Protocol, Retest, Scenario, Take, Width
from xtrace.symbols.proof.scenario import is_proven, scenario_of, unstable
from xtrace.symbols.sites.model import Site, where


def explain(site: Site, others: Iterable[Site]) -> list[str]:
    """Return the proof for a site's verdict, or the counterexample, as lines of at most 80 columns.

    Args:
        others: all sites of the image, because its handlers matter too.
    """
    scenario = scenario_of(site, others)
    if scenario is None:
        return [f"Nothing to search: a {site.kind} cannot lose an upcall."]
    moved = unstable(site, scenario)
    lines = argument(check(scenario), where(site)) if moved is None or is_proven(site) else []
    if moved is not None:
        lead = ["", "If the thread moves to another CPU after it loads the pointer:"]
        if not lines:
            reasons = [item.reason for item in site.hazards if item.name == "unstable-pointer"]
            reason = reasons[0] if reasons else f"the code chooses the CPU: {site.origin}"
            lead = [*_wrapped(f"No proof: {reason}."), "", "If it is another CPU's:"]
        lines += lead
        lines += argument(check(moved), where(site))
    return lines


def argument(outcome: Outcome, site: str) -> list[str]:
    """Return the interleaving argument for a site as lines of at most 80 columns.

    It has the decisive interleavings if the site is safe, otherwise the counterexample.  A second
    search without the fence shows what the fence adds.

    Args:
        site: its symbol and offset.
    """
    scenario = outcome.scenario
    lines = [*_wrapped(f"{site}: {_described(scenario)}."), *_wrapped(_found(outcome))]
    if scenario.fence is not Fence.NONE:
        lines += _wrapped(_fence_adds(outcome, check(replace(scenario, fence=Fence.NONE))))
    if scenario.width.locked and scenario.protocol is not Protocol.HANDLER:
        lines += _wrapped(_lock_adds(outcome, check(_as_byte_store(scenario))))
    where = "A executes the site and hosts the vCPU"
    if not scenario.stable:
        where = "A executes the site, D hosts the vCPU"
    lines += _wrapped(
        f"{where}; B and C send. Each line shows memory after a step, then the buffered stores:"
    )
    runs = [(f"Counterexample: {outcome.fault}", outcome.counterexample)]
    if outcome.holds:
        runs = list(_cases(scenario))
    for title, trace in runs:
        lines += ["", title, f"  {'':<51}P M S   buffer"]
        for step in trace:
            lines += _step_lines(step, scenario.stable)
    return lines


def _cases(scenario: Scenario) -> Iterator[tuple[str, Trace]]:
    """Yield the title and a shortest run of each decisive case that the scenario can reach."""
    # The decisive case of a handler needs two events: the second finds P still set by the first.
    machine = Machine(scenario, 2 if scenario.protocol is Protocol.HANDLER else 1)
    came_from = search(machine).came_from
    steps = [(state, *step) for state in came_from for step in machine.following(state)]
    decisive = _EXCHANGES if scenario.width is Width.EXCHANGE else _DECISIVE[scenario.protocol]
    for title, decides in decisive:
        found = next((step for step in steps if decides(machine, *step)), None)
        if found is not None:
            before, actor, after = found
            path = [*path_to(came_from, before), (before, actor), *_to_end(machine, after)]
            yield title, machine.trace(path)


def _to_end(machine: Machine, state: State) -> list[tuple[State, Actor]]:
    came_from: CameFrom = {state: None}
    queue = deque(came_from)
    while following := machine.following(state := queue.popleft()):
        # Reversed: among equally short runs, take the one whose stores stay in the buffer longest.
        for actor, after in reversed(following):
            if after not in came_from:
                came_from[after] = (state, actor)
                queue.append(after)
    return path_to(came_from, state)


_Decides = Callable[[Machine, State, Actor, State], bool]
_CALLS = (Op.CALL, Op.CALL_IF_PENDING)


def _stored(machine: Machine, state: State) -> bool:
    """Return whether the store that the case is about has been executed."""
    if machine.scenario.clears_mask:
        return state.place > max(machine.masked)
    return state.place in machine.masked


def _tested(mask: int, mask_in_memory: int, *, later: bool) -> _Decides:
    """Return a test for the case that Xen's exit test sees P = 1 and M = ``mask``.

    Args:
        mask_in_memory: the value of M in memory at that time.
        later: the site's store has been executed.
    """

    def decides(machine: Machine, before: State, actor: Actor, after: State) -> bool:
        buffer = before.buffers[0]
        return (
            actor is Actor.XEN
            and not before.handled
            and not before.saved
            and not any(step.op in _CALLS for step in machine.program[: before.place])
            and view(before.memory, buffer, Cell.P) == 1
            and (view(before.memory, buffer, Cell.M), before.memory[Cell.M]) == (mask, mask_in_memory)
            and _stored(machine, before) is later
        )

    return decides


def _sent_while_handling(*, kicks: bool) -> _Decides:
    """Return a test for the case that a sender sets P after a handler cleared it, and kicks or does not."""

    def decides(machine: Machine, before: State, actor: Actor, after: State) -> bool:
        if actor not in (Actor.SEND_B, Actor.SEND_C) or before.handling < 1:
            return False
        which = actor - Actor.SEND_B
        cleared = view(before.memory, before.buffers[0], Cell.P) == 0
        return cleared and before.senders[which] == 1 and after.senders[which] == (2 if kicks else 3)

    return decides


_MASKS = (
    (
        "An IPI before M := 1: Xen reads M = 0; the handler runs before the section",
        _tested(0, 0, later=False),
    ),
    ("An IPI while M := 1 is buffered: Xen, on A, reads A's store and returns", _tested(1, 0, later=True)),
    ("An IPI once M := 1 is in memory: Xen returns; P stays 1 for the unmask", _tested(1, 1, later=True)),
)
_CLEARS = (
    ("An IPI before M := 0: Xen reads M = 1; the test after M := 0 finds P = 1", _tested(1, 1, later=False)),
    ("An IPI while M := 0 is buffered: Xen, on A, reads A's store and delivers", _tested(0, 1, later=True)),
    ("An IPI once M := 0 is in memory: Xen reads M = 0 and delivers", _tested(0, 0, later=True)),
)
_EXCHANGES = (
    ("An IPI before the cmpxchg: Xen reads M = 1; the cmpxchg finds P = 1", _tested(1, 1, later=False)),
    ("An IPI after the cmpxchg: Xen reads M = 0 and delivers", _tested(0, 0, later=True)),
)
_DECISIVE: dict[Protocol, tuple[tuple[str, _Decides], ...]] = {
    Protocol.MASK: _MASKS,
    Protocol.SAVE_MASK: _MASKS,
    Protocol.RESTORE: _CLEARS,
    Protocol.UNMASK: _CLEARS,
    Protocol.SECTION: _CLEARS,
    Protocol.HANDLER: (
        (
            "No IPI, P := 0 is buffered: S is read after it reaches memory, with the new bit",
            _sent_while_handling(kicks=False),
        ),
        (
            "An IPI, P := 0 is in memory: this handler takes the bit or the next one does",
            _sent_while_handling(kicks=True),
        ),
    ),
}


def _described(scenario: Scenario) -> str:
    what = "handler that clears P" if scenario.protocol is Protocol.HANDLER else str(scenario.protocol)
    store = {
        Width.BYTE: "a byte store",
        Width.WIDE: "a plain store of P and M together",
        Width.LOCKED: "a locked access",
        Width.LOCKED_WIDE: "a locked access to P and M together",
        Width.EXCHANGE: "a locked cmpxchg of P and M together",
    }[scenario.width]
    fence = "no fence" if scenario.fence is Fence.NONE else _fence_name(scenario)
    parts = [f"{what} by {store}", f"{fence} {'before' if scenario.fence_first else 'after'} it"]
    if scenario.clears_mask:
        parts.append(_RETESTS[scenario.retest])
    return f"{', '.join(parts)}; {_TAKES[scenario.take]}"


_RETESTS = {
    Retest.AFTER: "P tested after it",
    Retest.BEFORE: "P tested before it",
    Retest.NONE: "P not tested",
    Retest.XEN_EXIT: "then an exit through Xen",
    Retest.ITSELF: "which itself tests P",
}
_FENCES = {Fence.LOCK: "locked instruction", Fence.SERIALISING: "serialising instruction"}
_TAKES = {
    Take.XCHG: "the handler clears P, then takes S by xchg",
    Take.READ: "the handler clears P, then reads S by a plain load",
    Take.PLAIN: "the handler clears P, then loads and clears S by plain accesses",
    Take.XCHG_FIRST: "the handler takes S by xchg, then clears P",
    Take.NONE: "the handler clears P and does not take S",
}


def _fence_name(scenario: Scenario) -> str:
    return _FENCES.get(scenario.fence, str(scenario.fence))


def _found(outcome: Outcome) -> str:
    explored = f"{outcome.states:,} states, every interleaving with 1 and with 2 senders"
    verdict = "No upcall is lost and the mask holds" if outcome.holds else f"It fails: {outcome.fault}"
    return f"{verdict} ({explored})."


def _fence_adds(outcome: Outcome, bare: Outcome) -> str:
    fence = _fence_name(outcome.scenario)
    if outcome.holds is bare.holds:
        verdict = "also holds" if bare.holds else "also fails"
        ends = "in the same states" if outcome.ends == bare.ends else "in other states"
        return (
            f"Without the {fence} it {verdict}, and the runs end {ends}: the {fence} protects nothing here."
        )
    return f"Without the {fence} it fails ({bare.fault}): the {fence} is needed here."


def _as_byte_store(scenario: Scenario) -> Scenario:
    """Return the scenario with a byte store, and a test where the access itself tests P."""
    retest = Retest.AFTER if scenario.retest is Retest.ITSELF else scenario.retest
    return replace(scenario, width=Width.BYTE, retest=retest)


def _lock_adds(outcome: Outcome, bare: Outcome) -> str:
    form = "a byte store"
    if outcome.scenario.clears_mask and bare.scenario.retest is Retest.AFTER:
        form = "a byte store and then a test of P"
    if outcome.holds is bare.holds:
        verdict = "also holds" if bare.holds else "also fails"
        ends = "in the same states" if outcome.ends == bare.ends else "in other states"
        return f"With {form} it {verdict}, and the runs end {ends}: the lock protects nothing here."
    return f"With {form} it fails ({bare.fault}): the lock is needed here."


def _step_lines(step: Step, stable: bool) -> list[str]:
    names = {Actor.SEND_B: "B", Actor.SEND_C: "C", Actor.XEN: "Xen"}
    on_host = step.actor in (Actor.DRAIN_HOST, Actor.IPI, Actor.HANDLER)
    name = names.get(step.actor, "D" if on_host and not stable else "A")
    pending, mask, selector = step.after.memory
    waiting = " ".join(
        "".join(Cell(cell).name for cell, _ in entry) + "=" + "".join(str(value) for _, value in entry)
        for buffer in step.after.buffers
        for entry in buffer
    )
    first, *rest = textwrap.wrap(waiting, 17) or ["-"]
    line = f"  {name:<4}{step.text:<47}{pending} {mask} {selector:02b}  {first}"
    return [line, *(f"{'':<61}{more}" for more in rest)]


def _wrapped(text: str) -> list[str]:
    return textwrap.wrap(text, 80)
