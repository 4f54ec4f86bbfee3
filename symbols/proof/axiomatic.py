"""A second checker for the same question, from axioms instead of steps; a solver looks for a bad execution.

An execution is a set of events with relations between them, after the axiomatic form of x86-TSO (Owens,
Sarkar and Sewell 2009; Alglave, Maranget and Tautschnig 2014):
    - po: program order on each pCPU.  On the vCPU's own pCPU it contains the site's code, Xen's exit tests
      and the handlers: an interrupt may come between any two instructions, so their places in po are unknown.
    - rf: each read takes its value from one write to the cell.  co: the writes to a cell are totally ordered.
      fr: a read comes before the writes that follow, in co, the one that it read.
    - coherence: a read does not take a value older than a write of its own pCPU that precedes it in po.
    - global order: there is a total order of all events that contains po except from a write to a later read,
      rf from another pCPU, co, and fr.  A locked access reads and writes at one place of that order, and it
      and a fence that drains also keep the order from earlier writes to later reads.
    - the kick: a sender that finds P clear sends an IPI; an exit test of Xen follows it in that order.
      Xen also tests after each entry into it: a hypercall of the site, and the iret of each handler.

Bad: an event was sent that no handler took and that P = M = 1 does not leave for a later unmask to find; or
Xen enters the handler where the code that it interrupts has M set.

Each path of the site is one query, as text in SMT-LIB 2.  This module knows nothing of `operational.py`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import combinations

from xtrace.symbols.proof.description import (
    REST,
    SAVED,
    UNCHANGED,
    Access,
    Cell,
    Description,
    Path,
    masked_after,
)

LOST = "an upcall is lost"
FORBIDDEN = "the handler runs where the guest has masked upcalls"
_SENDERS = 2
_BITS = {Cell.P: 1, Cell.M: 1, Cell.S: _SENDERS}
#: pCPUs: the one that executes the site, the one that hosts the vCPU, and the senders'.
_SITE, _HOST = "site", "host"

#: The value of a cell: one Boolean term for each bit.
_Value = tuple[str, ...]
_FALSE: _Value = ("false",)


@dataclass(frozen=True, slots=True)
class Found:
    """What the solver found for a description.

    Attributes:
        holds: no path has a bad execution.
        fault: what goes wrong in the first one found; "" if it holds.
    """

    holds: bool
    fault: str


@dataclass(frozen=True, slots=True)
class _Event:
    """A read, a write, both at once (a locked access), or a fence that drains.

    Attributes:
        place: term for its place in the po of its pCPU; events of one instruction have the same place.
        group: events of a group are ordered by ``rank``: their po needs no solver.
        exists: term.
        order: name of its place in the global order.
    """

    name: str
    cpu: str
    place: str
    group: str
    rank: int
    exists: str
    drains: bool
    reads: dict[Cell, _Value] = field(default_factory=dict)
    writes: dict[Cell, _Value] = field(default_factory=dict)

    @property
    def order(self) -> str:
        return f"g_{self.name}"


def check(description: Description) -> Found:
    """Look for a bad execution on each path of a description.

    Raises:
        ImportError: z3-solver is not installed (the extra ``proof``).
    """
    import z3

    for path in description.paths or ((),):
        # Of the procedures for differences this one is the fastest here: the graphs are small and dense.
        solver = z3.SimpleSolver()
        solver.set("arith.solver", 3)
        solver.from_string(query(description, path))
        answer = solver.check()
        if answer == z3.unknown:
            raise ValueError(f"the solver gave up: {solver.reason_unknown()}")
        if answer == z3.sat:
            lost = solver.model().evaluate(z3.Bool("lost"), model_completion=True)
            return Found(False, LOST if z3.is_true(lost) else FORBIDDEN)
    return Found(True, "")


def query(description: Description, path: Path) -> str:
    """Return the query, in SMT-LIB 2, that is satisfiable if a path of the site has a bad execution."""
    return _Encoding(description, path).query()


@dataclass(frozen=True, slots=True)
class _Test:
    """One exit test of Xen.

    Attributes:
        name: of its event.
        delivers: term: it enters the handler.
        place: of the test in po.
        passed: for one after an instruction of the site, how many instructions precede it; otherwise -1.
        slot: for one in a handler, the number of its slot; otherwise -1.
    """

    name: str
    delivers: str
    place: str
    passed: int = -1
    slot: int = -1


@dataclass(slots=True)
class _Slot:
    """One run of the handler, if an exit test enters it; slots are numbered in po.

    Attributes:
        exists: term.
        start, end: places of Xen's store to M and of the last exit test.
        body: places of the handler's instructions, with the term that they are executed.
        steps: that term with the places before and of each instruction.  masked: M is set between the two.
    """

    exists: str
    start: str
    end: str
    body: list[tuple[str, str]] = field(default_factory=list)
    steps: list[tuple[str, str, str]] = field(default_factory=list)
    masked: list[bool] = field(default_factory=list)


class _Encoding:
    """All constraints for one path of a description."""

    def __init__(self, description: Description, path: Path) -> None:
        self.description = description
        self.path = path
        self.host = _SITE if description.stable else _HOST
        self.declared: list[str] = []
        self.facts: list[str] = []
        self.events: list[_Event] = []
        self.taken: list[tuple[str, _Value]] = []
        self.final: dict[Cell, _Value] = {}
        self._site_places: list[str] = []
        self._saved: list[tuple[str, _Value]] = []
        self._tests: list[_Test] = []
        self._slots: list[_Slot] = []
        self._kicks: list[str] = []
        self._sent: list[str] = []
        self._begin()
        self._site()
        self._senders()
        self._xen()
        self._relations()
        self._end()

    # --- terms -----------------------------------------------------------------------------------------

    def _number(self, name: str) -> str:
        self.declared.append(f"(declare-const {name} Int)")
        return name

    def _flag(self, name: str) -> str:
        self.declared.append(f"(declare-const {name} Bool)")
        return name

    def _value(self, name: str, cell: Cell) -> _Value:
        return tuple(self._flag(f"{name}_{cell.name}{bit}") for bit in range(_BITS[cell]))

    def _add(self, fact: str) -> None:
        self.facts.append(fact)

    def query(self) -> str:
        """Return the constraints with what must not happen, in SMT-LIB 2."""
        bad = (f"(= {self._flag('lost')} {self.lost()})", _or("lost", self.forbidden()))
        facts = (f"(assert {fact})" for fact in (*self.facts, *bad))
        return "\n".join((*self.declared, *facts))

    # --- events ----------------------------------------------------------------------------------------

    def _event(
        self,
        name: str,
        cpu: str,
        place: str,
        group: tuple[str, int],
        exists: str,
        *,
        drains: bool = False,
        reads: dict[Cell, _Value] | None = None,
        writes: dict[Cell, _Value] | None = None,
    ) -> _Event:
        event = _Event(name, cpu, place, *group, exists, drains, reads or {}, writes or {})
        self._number(event.order)
        self.events.append(event)
        return event

    def _begin(self) -> None:
        """The first values of the cells, as writes that precede everything."""
        mask, saved = self._flag("m0"), self._flag("saved0")
        starts = [_and(_is((mask,), m), _is((saved,), s)) for m, s in self.description.starts]
        self._add(_or(*starts))
        writes: dict[Cell, _Value] = {Cell.P: _FALSE, Cell.M: (mask,), Cell.S: ("false",) * _SENDERS}
        self._event("init", "init", "0", ("init", 0), "true", writes=writes)
        self._saved.append(("true", (saved,)))

    def _site(self) -> None:
        before = ""
        registers: dict[Cell, _Value] = {Cell.P: _FALSE, Cell.M: ("saved0",), Cell.S: ("false",) * _SENDERS}
        for number, access in enumerate(self.path):
            place = self._number(f"t_a{number}")
            if before:
                self._add(f"(< {before} {place})")
            before = place
            self._site_places.append(place)
            self._access(f"a{number}", _SITE, place, ("site", 10 * number), "true", access, registers)
            if Cell.M in access.reads:
                self._saved.append((place, registers[Cell.M]))
            if access.xen and self.description.stable:
                group = "site", 10 * number + 5
                before = self._exit_test(f"xa{number}", place, group, "true", passed=number + 1)

    def _access(
        self,
        name: str,
        cpu: str,
        place: str,
        group: tuple[str, int],
        exists: str,
        access: Access,
        registers: dict[Cell, _Value],
    ) -> None:
        """Add the events of an access; ``registers`` are changed to what it reads."""
        # What Xen writes, and what is accessed through a pointer read again, is the own vCPU's.
        ours = cpu == self.host or (access.pointer == 0 and not access.xen)
        reads: dict[Cell, _Value] = {}
        if ours:
            old = {cell for cell, value in access.writes if value in (UNCHANGED, REST)}
            reads = {cell: self._value(f"r_{name}", cell) for cell in sorted({*access.reads, *old})}
            for cell in access.reads:
                registers[cell] = reads[cell]
                if cell is Cell.S:
                    self.taken.append((exists, reads[cell]))
        for cell, value in access.when:
            self._add(_implies(exists, _is(registers[cell], value)))
        writes = (
            {cell: _written(reads, registers, cell, value) for cell, value in access.writes} if ours else {}
        )
        if access.drains:
            # A fence has no cells: it only orders.
            self._event(name, cpu, place, group, exists, drains=True, reads=reads, writes=writes)
            return
        if reads:
            self._event(f"{name}r", cpu, place, group, exists, reads=reads)
        if writes:
            self._event(f"{name}w", cpu, place, (group[0], group[1] + 1), exists, writes=writes)

    def _senders(self) -> None:
        for which in range(_SENDERS):
            sends = self._flag(f"send{which}")
            cpu = f"sender{which}"
            old = self._value(f"r_s{which}", Cell.S)
            new = tuple("true" if bit == which else term for bit, term in enumerate(old))
            self._event(
                f"s{which}",
                cpu,
                "0",
                (cpu, 0),
                sends,
                drains=True,
                reads={Cell.S: old},
                writes={Cell.S: new},
            )
            was = self._value(f"r_p{which}", Cell.P)
            self._event(
                f"p{which}",
                cpu,
                "1",
                (cpu, 1),
                sends,
                drains=True,
                reads={Cell.P: was},
                writes={Cell.P: ("true",)},
            )
            self._sent.append(sends)
            self._kicks.append(_and(sends, _not(was[0])))
        # Two are enough, and one is the case that the second does not send.
        self._add("send0")

    def _exit_test(
        self, name: str, after: str, group: tuple[str, int], exists: str, *, passed: int = -1, slot: int = -1
    ) -> str:
        """Add an exit test of Xen, right after a place in po if one is given; return its place."""
        place = self._number(f"t_{name}")
        if after:
            self._add(f"(= {place} (+ {after} 1))")
        read = {cell: self._value(f"r_{name}", cell) for cell in (Cell.P, Cell.M)}
        self._event(name, self.host, place, group, exists, reads=read)
        delivers = self._flag(f"d_{name}")
        self._add(f"(= {delivers} {_and(exists, read[Cell.P][0], _not(read[Cell.M][0]))})")
        self._tests.append(_Test(name, delivers, place, passed, slot))
        return place

    def _xen(self) -> None:
        """The exit tests that IPIs cause, the handlers that tests enter, and their places in po.

        Each IPI has an exit test of its own, anywhere in po.  An IPI that arrives in Xen before a test and
        is absorbed by it needs none: its own could follow right after, and would find nothing else.
        """
        for which, kick in enumerate(self._kicks):
            place = self._exit_test(f"x{which}", "", (f"x{which}", 0), kick)
            self._add(_implies(kick, f"(< g_p{which} g_x{which})"))
            if which:
                self._add(f"(distinct {self._tests[-2].place} {place})")
        slots = _SENDERS + self._restores_pending(self.path)
        slots += slots * max(map(self._restores_pending, self.description.handlers))
        kicked = self._tests[-_SENDERS:]
        for number in range(slots):
            self._slots.append(self._slot(number))
        site = self._site_places if self.description.stable else []
        own = [test.place for test in self._tests if test.passed >= 0]
        for slot in self._slots:
            for place in site:
                self._add(_implies(slot.exists, f"(or (< {place} {slot.start}) (> {place} {slot.end}))"))
        body = [place for slot in self._slots for place, _ in slot.body]
        inner = [test.place for test in self._tests if test.slot >= 0]
        starts = [slot.start for slot in self._slots]
        for test in kicked:
            for place in (*site, *own, *body, *inner, *starts):
                self._add(f"(distinct {test.place} {place})")
        self._nesting()
        self._entries()

    def _nesting(self) -> None:
        """Of two runs of the handler the later one follows the other, or is inside it."""
        for first, second in zip(self._slots, self._slots[1:], strict=False):
            self._add(_implies(second.exists, first.exists))
        for outer, inner in combinations(self._slots, 2):
            both = inner.exists
            self._add(_implies(both, f"(< {outer.start} {inner.start})"))
            self._add(_implies(both, f"(or (> {inner.start} {outer.end}) (< {inner.end} {outer.end}))"))
            for place, executed in outer.body:
                apart = f"(or (< {place} {inner.start}) (> {place} {inner.end}))"
                self._add(_implies(_and(executed, both), apart))

    def _entries(self) -> None:
        """Each exit test that delivers enters one run of the handler, and each run is entered once."""
        entered: dict[int, list[str]] = {number: [] for number in range(len(self._slots))}
        for test in self._tests:
            choices = []
            for number, slot in enumerate(self._slots):
                if test.slot >= number:
                    continue
                enters = self._flag(f"e_{test.name}_{number}")
                self._add(_implies(enters, _and(test.delivers, f"(= {slot.start} (+ {test.place} 1))")))
                choices.append(enters)
                entered[number].append(enters)
            self._add(_implies(test.delivers, _one_of(choices)))
        for number, slot in enumerate(self._slots):
            self._add(f"(= {slot.exists} {_or(*entered[number])})")
            self._add(_at_most_one(entered[number]))

    def _restores_pending(self, path: Path) -> int:
        """Return how often a path may write back a P that was 1: each may cause one more delivery."""
        return sum(access.written(Cell.P) in (UNCHANGED, 1) for access in path)

    def _slot(self, number: int) -> _Slot:
        exists = self._flag(f"s{number}")
        found = _Slot(exists, self._number(f"t_s{number}"), self._number(f"e_s{number}"))
        group = f"s{number}"
        self._event(f"b{number}", self.host, found.start, (group, 0), exists, writes={Cell.M: ("true",)})
        chosen = []
        for which, path in enumerate(self.description.handlers):
            # Which path the handler takes is free.
            takes = self._flag(f"h{number}_{which}") if len(self.description.handlers) > 1 else "true"
            chosen.append(takes)
            executed = _and(exists, takes)
            before = found.start
            registers: dict[Cell, _Value] = {Cell.P: _FALSE, Cell.M: _FALSE, Cell.S: ("false",) * _SENDERS}
            for step, access in enumerate(path):
                name = f"h{number}_{which}_{step}"
                at = self._number(f"t_{name}")
                self._add(f"(< {before} {at})")
                found.steps.append((executed, before, at))
                found.masked.append(masked_after(path, step, True))
                found.body.append((at, executed))
                own = f"{group}h{which}"
                self._access(name, self.host, at, (own, 10 + 10 * step), executed, access, registers)
                before = at
                if access.xen:
                    rank = 15 + 10 * step
                    before = self._exit_test(f"x{name}", at, (own, rank), executed, slot=number)
            self._add(_implies(executed, f"(= {found.end} {before})"))
        self._add(_implies(exists, _one_of(chosen)))
        return found

    # --- relations -------------------------------------------------------------------------------------

    def _before(self, first: _Event, second: _Event) -> str:
        """Return the term that one event precedes another of the same pCPU in program order."""
        related = first.group == second.group or second.group.startswith(f"{first.group}h")
        if related or first.group.startswith(f"{second.group}h"):
            return "true" if first.rank < second.rank else "false"
        return f"(< {first.place} {second.place})"

    def _relations(self) -> None:
        shared = [event for event in self.events[1:] if not self._is_private(event)]
        for event in shared:
            self._add(f"(< g_init {event.order})")
        for first, second in combinations(shared, 2):
            if first.cpu == second.cpu and not _exclude(first, second):
                self._preserved(first, second)
                self._preserved(second, first)
        for cell in Cell:
            writes = [event for event in self.events if cell in event.writes]
            private = cell is Cell.M and self.description.stable
            for first, second in combinations(writes, 2) if not private else ():
                self._add(f"(distinct {first.order} {second.order})")
            for read in self.events:
                if cell in read.reads:
                    sources = [write for write in writes if write is not read and not _exclude(write, read)]
                    self._reads_from(read, cell, sources, private=private)

    def _is_private(self, event: _Event) -> bool:
        """Return whether an event accesses only what no other pCPU does: then its po is all that counts."""
        cells = {*event.reads, *event.writes}
        return self.description.stable and not event.drains and cells == {Cell.M}

    def _preserved(self, first: _Event, second: _Event) -> None:
        """Program order is part of the global order, except from a write to a later read."""
        writes_only = bool(first.writes) and not first.drains
        reads_only = bool(second.reads) and not second.drains
        if writes_only and reads_only:
            return
        before = self._before(first, second)
        if before != "false":
            both = _and(before, first.exists, second.exists)
            self._add(_implies(both, f"(< {first.order} {second.order})"))

    def _reads_from(self, read: _Event, cell: Cell, writes: Sequence[_Event], *, private: bool) -> None:
        sources = [self._flag(f"rf_{read.name}_{cell.name}_{write.name}") for write in writes]
        self._add(_implies(read.exists, _one_of(sources)))
        for source, write in zip(sources, writes, strict=True):
            same = [f"(= {a} {b})" for a, b in zip(read.reads[cell], write.writes[cell], strict=True)]
            own = write.cpu == read.cpu
            when = self._before(write, read) if own else f"(< {write.order} {read.order})"
            if private and not own:
                when = "true"
            self._add(_implies(source, _and(write.exists, when, *same)))
            for other in writes:
                if other is write:
                    continue
                newer = self._newer(write, other, private=private)
                if other.cpu == read.cpu:
                    # Coherence: an own write that precedes the read is not newer than what it read.
                    before = self._before(other, read)
                    if before != "false":
                        self._add(_not(_and(source, other.exists, before, newer)))
                elif not private:
                    # From-read.
                    follows = f"(< {read.order} {other.order})"
                    self._add(_implies(_and(source, other.exists, newer), follows))

    def _newer(self, first: _Event, second: _Event, *, private: bool) -> str:
        """Return the term that a write follows another in co."""
        if not private:
            return f"(< {first.order} {second.order})"
        return (
            "true"
            if first.cpu == "init"
            else "false"
            if second.cpu == "init"
            else self._before(first, second)
        )

    def _end(self) -> None:
        for cell in Cell:
            self.final[cell] = self._value("final", cell)
            writes = [event for event in self.events if cell in event.writes]
            private = cell is Cell.M and self.description.stable
            last = [self._flag(f"last_{cell.name}_{write.name}") for write in writes]
            self._add(_one_of(last))
            for chosen, write in zip(last, writes, strict=True):
                same = [f"(= {a} {b})" for a, b in zip(self.final[cell], write.writes[cell], strict=True)]
                self._add(_implies(chosen, _and(write.exists, *same)))
                for other in writes:
                    if other is not write and not _exclude(other, write):
                        newer = self._newer(other, write, private=private)
                        self._add(_implies(_and(chosen, other.exists), newer))

    # --- what must not happen ---------------------------------------------------------------------------

    def lost(self) -> str:
        """Return the term that an event is neither taken nor left for a later unmask."""
        missing = [
            _and(sent, *(_not(_and(exists, bits[which])) for exists, bits in self.taken))
            for which, sent in enumerate(self._sent)
        ]
        left = [_implies(term, self.final[Cell.S][which]) for which, term in enumerate(missing)]
        return _and(_or(*missing), _not(_and(self.final[Cell.P][0], self.final[Cell.M][0], *left)))

    def forbidden(self) -> str:
        """Return the term that Xen enters the handler where the code that it interrupts has M set."""
        bad = []
        for test in self._tests:
            inside = []
            for slot in self._slots:
                for (executed, start, end), masked in zip(slot.steps, slot.masked, strict=True):
                    within = _and(executed, f"(< {start} {test.place})", f"(< {test.place} {end})")
                    inside.append(within)
                    if masked:
                        bad.append(_and(test.delivers, within))
            places = range(len(self.path) + 1) if test.passed < 0 else (test.passed,)
            for place in places:
                masked = masked_after(self.path, place, self.description.starts_masked)
                term = "true" if masked else self._saved_at(place)
                if not self.description.stable:
                    reached = self._executed(place, f"g_{test.name}")
                elif test.passed < 0:
                    reached = self._reached(place, test.place)
                else:
                    reached = "true"
                bad.append(_and(test.delivers, term, reached, *map(_not, inside)))
        return _or(*bad)

    def _reached(self, place: int, at: str) -> str:
        """Return the term that an exit test comes in po after exactly ``place`` instructions of the site."""
        before = f"(< {self._site_places[place - 1]} {at})" if place else "true"
        after = f"(> {self._site_places[place]} {at})" if place < len(self.path) else "true"
        return _and(before, after)

    def _saved_at(self, place: int) -> str:
        value: _Value = ("saved0",)
        for term, read in self._saved[1:]:
            if int(term.removeprefix("t_a")) < place:
                value = read
        return value[0]

    def _executed(self, place: int, time: str) -> str:
        """Return the term that exactly the first ``place`` instructions may have executed at a time.

        On another pCPU an instruction has no time of its own; one may have executed before an exit test
        unless a read or a locked access up to it follows the test in the global order.
        """
        terms = []
        for event in self.events:
            if event.group != "site":
                continue
            done = event.rank // 10 < place
            if done and (event.reads or event.drains):
                terms.append(f"(< {event.order} {time})")
            if not done:
                terms.append(f"(> {event.order} {time})")
        return _and(*terms)


def _exclude(first: _Event, second: _Event) -> bool:
    """Return whether two events are on different paths of one run of the handler, so never both exist."""
    slots = first.group.partition("h"), second.group.partition("h")
    return slots[0][:2] == slots[1][:2] and slots[0][2] != slots[1][2] and bool(slots[0][2] and slots[1][2])


def _written(reads: dict[Cell, _Value], registers: dict[Cell, _Value], cell: Cell, value: int) -> _Value:
    if value == SAVED:
        return registers[Cell.M]
    if value == UNCHANGED:
        return reads[cell]
    if value == REST:
        pairs = zip(reads[cell], registers[cell], strict=True)
        return tuple(_and(old, _not(known)) for old, known in pairs)
    return tuple("true" if value >> bit & 1 else "false" for bit in range(_BITS[cell]))


def _is(value: _Value, number: int) -> str:
    return _and(*(term if number >> bit & 1 else _not(term) for bit, term in enumerate(value)))


def _and(*terms: str) -> str:
    terms = tuple(term for term in terms if term != "true")
    if "false" in terms:
        return "false"
    return f"(and {' '.join(terms)})" if len(terms) > 1 else terms[0] if terms else "true"


def _or(*terms: str) -> str:
    terms = tuple(term for term in terms if term != "false")
    if "true" in terms:
        return "true"
    return f"(or {' '.join(terms)})" if len(terms) > 1 else terms[0] if terms else "false"


def _not(term: str) -> str:
    return {"true": "false", "false": "true"}.get(term, f"(not {term})")


def _implies(first: str, second: str) -> str:
    return _or(_not(first), second)


def _one_of(terms: Sequence[str]) -> str:
    return _and(_or(*terms), _at_most_one(terms))


def _at_most_one(terms: Sequence[str]) -> str:
    return _and(*(_not(_and(a, b)) for a, b in combinations(terms, 2)))
