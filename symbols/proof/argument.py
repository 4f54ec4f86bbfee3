"""Write the argument for a description: its accesses, then the decisive runs, or the counterexample."""

from __future__ import annotations

import textwrap
from collections import deque
from collections.abc import Callable, Iterator
from typing import NamedTuple

from xtrace.symbols.proof.description import Access, Cell, Description, Path, Role, as_byte_store
from xtrace.symbols.proof.operational import (
    Actor,
    CameFrom,
    Machine,
    Move,
    Outcome,
    State,
    Step,
    Trace,
    check,
    path_to,
    search,
    view,
)

_COLUMNS = 80
_STEP_COLUMNS = 47


def argument(outcome: Outcome, site: str) -> list[str]:
    """Return the accesses of a site and the interleaving argument as lines of at most 80 columns.

    It has the decisive interleavings if the site is safe, otherwise the counterexample.  A second
    search without the fences shows what they add.

    Args:
        site: its symbol and offset.
    """
    description = outcome.description
    lines = [*_accesses(description, site), "", *_wrapped(_found(outcome))]
    fences = sorted({access.fence for access in description.accesses() if access.fence})
    if fences:
        lines += _wrapped(_fences_add(fences, outcome, check(description.without_fences())))
    weaker = as_byte_store(description)
    if weaker != description and description.role is not Role.HANDLER:
        lines += _wrapped(_lock_adds(outcome, check(weaker)))
    where = "A executes the site and hosts the vCPU"
    if not description.stable:
        where = "A executes the site, D hosts the vCPU"
    lines += _wrapped(
        f"{where}; B and C send. Each line shows memory after a step, then the buffered stores:"
    )
    runs = [(f"Counterexample: {outcome.fault}", outcome.counterexample)]
    if outcome.holds:
        runs = list(_cases(description))
    for title, trace in runs:
        lines += ["", title, f"  {'':<51}P M S   buffer"]
        for step in trace:
            lines += _step_lines(step, description.stable)
    return lines


def _accesses(description: Description, site: str) -> Iterator[str]:
    """Yield the accesses of each path of the site and of the handlers, and what was assumed."""
    count = len(description.paths)
    for number, path in enumerate(description.paths, 1):
        of = f", path {number} of {count}" if count > 1 else ""
        yield from _wrapped(f"{site}{of}:")
        yield from _path_lines(path)
    handlers = description.handlers
    for number, path in enumerate(handlers, 1):
        of = f" {number} of {len(handlers)}" if len(handlers) > 1 else ""
        yield from _wrapped(f"{site}, handler:" if description.role is Role.HANDLER else f"handler{of}:")
        yield from _path_lines(path)
    for sentence in description.assumed:
        yield from textwrap.wrap(f"Assumed: {sentence}.", _COLUMNS, subsequent_indent="  ")


def _path_lines(path: Path) -> Iterator[str]:
    for access in path:
        place = f"{access.address:#x}" if access.address >= 0 else "-"
        parts = [part for part in (access.code, _told(access), access.source) if part]
        text = "; ".join(parts)
        indent = " " * max(4 + len(place), 14)
        yield from textwrap.wrap(
            text, _COLUMNS, initial_indent=f"  {place:<10}  ", subsequent_indent=indent, break_long_words=True
        )


def _told(access: Access) -> str:
    """Return what an access does, and the values with which its path goes on."""
    words = [access.text]
    if access.is_locked and access.writes:
        words.append("locked")
    elif access.is_wide:
        words.append("a plain store of P and M together")
    if access.pointer:
        words.append("through a pointer read again")
    names = {Cell.P: "P", Cell.M: "m", Cell.S: "s"}
    words += [f"{names[cell]} is {value}" for cell, value in access.when]
    return ", ".join(words)


class _Case(NamedTuple):
    """A step of a run: the state before it, and the move."""

    before: State
    move: Move


def _cases(description: Description) -> Iterator[tuple[str, Trace]]:
    """Yield the title and a shortest run of each decisive case that the description can reach."""
    # The decisive case of a handler needs two events: the second finds P still set by the first.
    machine = Machine(description, 2 if description.role is Role.HANDLER else 1)
    came_from = search(machine).came_from
    steps = [_Case(state, move) for state in came_from for move in machine.following(state)]
    exchanges = any(
        access.is_locked and Cell.P in access.reads for path in description.paths for access in path
    )
    for title, decides in _EXCHANGES if exchanges else _DECISIVE[description.role]:
        for found in steps:
            if decides(machine, *found):
                rest = _to_end(machine, found.move.after)
                if rest is not None:
                    yield title, machine.trace([*path_to(came_from, found.before), found, *rest])
                    break


def _to_end(machine: Machine, state: State) -> list[tuple[State, Move]] | None:
    """Return a shortest way to the end of a run, None if none leads there."""
    came_from: CameFrom = {state: None}
    queue = deque(came_from)
    while queue:
        state = queue.popleft()
        following = machine.following(state)
        if machine.may_end(state, following):
            return path_to(came_from, state)
        # Reversed: among equally short runs, take the one whose stores stay in the buffer longest.
        for move in reversed(following):
            if move.after not in came_from:
                came_from[move.after] = (state, move)
                queue.append(move.after)
    return None


_Decides = Callable[[Machine, State, Move], bool]


def _stored(machine: Machine, state: State) -> bool:
    """Return whether the store that the case is about has been executed."""
    if machine.description.role is Role.OPEN:
        return state.site.node in machine.site.opened
    return machine.site.masked[state.site.node]


def _tested(mask: int, mask_in_memory: int, *, later: bool) -> _Decides:
    """Return a test for the case that Xen's exit test sees P = 1 and M = ``mask``.

    Args:
        mask_in_memory: the value of M in memory at that time.
        later: the site's store has been executed.
    """

    def decides(machine: Machine, before: State, move: Move) -> bool:
        buffer = before.buffers[0]
        return (
            move.actor is Actor.XEN
            and not before.handled
            and not before.handlers
            and not before.site.registers[Cell.M]
            and before.site.node not in machine.site.entered
            and view(before.memory, buffer, Cell.P) == 1
            and (view(before.memory, buffer, Cell.M), before.memory[Cell.M]) == (mask, mask_in_memory)
            and _stored(machine, before) is later
        )

    return decides


def _sent_while_handling(*, kicks: bool) -> _Decides:
    """Return a test for the case that a sender sets P after a handler cleared it, and kicks or does not."""

    def decides(machine: Machine, before: State, move: Move) -> bool:
        if move.actor not in (Actor.SEND_B, Actor.SEND_C) or not before.handlers:
            return False
        which = move.actor - Actor.SEND_B
        cleared = view(before.memory, before.buffers[0], Cell.P) == 0
        return cleared and before.senders[which] == 1 and move.after.senders[which] == (2 if kicks else 3)

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
_DECISIVE: dict[Role, tuple[tuple[str, _Decides], ...]] = {
    Role.MASK: _MASKS,
    Role.OPEN: _CLEARS,
    Role.HANDLER: (
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


def _found(outcome: Outcome) -> str:
    explored = f"{outcome.states:,} states, every interleaving with 1 and with 2 senders"
    verdict = "No upcall is lost and the mask holds" if outcome.holds else f"It fails: {outcome.fault}"
    return f"{verdict} ({explored})."


_FENCES = {"lock": "locked instruction", "serialising": "serialising instruction"}


def _fences_add(fences: list[str], outcome: Outcome, bare: Outcome) -> str:
    fence = " and the ".join(_FENCES.get(name, name) for name in fences)
    protects, is_ = ("protects", "is") if len(fences) == 1 else ("protect", "are")
    if outcome.holds is bare.holds:
        verdict = "also holds" if bare.holds else "also fails"
        ends = "in the same states" if outcome.ends == bare.ends else "in other states"
        return (
            f"Without the {fence} it {verdict}, and the runs end {ends}: the {fence} {protects} nothing here."
        )
    return f"Without the {fence} it fails ({bare.fault}): the {fence} {is_} needed here."


def _lock_adds(outcome: Outcome, bare: Outcome) -> str:
    tests = any(access.is_locked and Cell.P in access.reads for access in outcome.description.accesses())
    form = "a byte store and then a test of P" if tests else "a byte store"
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
    said = textwrap.wrap(step.text, _STEP_COLUMNS - 1, subsequent_indent="  ")
    buffered = textwrap.wrap(waiting, 17) or ["-"]
    lines = [f"  {name:<4}{said[0]:<{_STEP_COLUMNS}}{pending} {mask} {selector:02b}  {buffered[0]}"]
    for place in range(1, max(len(said), len(buffered))):
        text = said[place] if place < len(said) else ""
        more = buffered[place] if place < len(buffered) else ""
        lines.append(f"      {text:<{_STEP_COLUMNS + 8}}{more}".rstrip())
    return lines


def _wrapped(text: str) -> list[str]:
    return textwrap.wrap(text, _COLUMNS)
