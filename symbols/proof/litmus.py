"""Write a description as litmus tests for herd7 and litmus7 (X86_64).

The vCPU's pCPU is one thread: the site's code, with Xen's exit test and the handler inline at one point,
because they see the pCPU's own store buffer.  So there is a test for each path and for each point at which
the interrupt can be taken.  A sender is a thread of its own; its IPI is a flag that it stores after the
locked set of pending, and that the first thread must read as 1 at that point.

Only this thread accesses M, so each of its reads of M takes its own latest store: Xen's exit test is left
out where M is 1, and where M is 0 it is a test of P alone.
P, M and S are variables of their own.  Splitting a store of P and M into two changes nothing: no other CPU
reads M, and no interrupt comes between the two.  Likewise P may be read just after a locked store to M
instead of in the same instruction.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from itertools import combinations_with_replacement

from xtrace.symbols.proof.description import REST, SAVED, UNCHANGED, Access, Cell, Description, Role
from xtrace.symbols.proof.rule import handles

_FLAGS = ("%edi", "%esi")
_TESTS = ("%eax", "%ebx", "%r8d", "%r9d", "%r10d", "%r11d", "%r12d", "%r13d", "%r14d")
_TAKEN, _HANDLED, _SCRATCH = "%ecx", "%r15d", "%edx"
_PLAIN_FENCES = ("lfence", "sfence", "mfence")
_AND, _OR = " /\\ ", " \\/ "


@dataclass(frozen=True, slots=True)
class Test:
    """One litmus test.

    Attributes:
        description: with the one path, the one handler and the one start that the test has.
        senders: how many send.  points: after how many accesses of the path the IPI of each sender is taken;
            a sender without a point finds P set and sends none.
        text: of the file.
    """

    name: str
    description: Description
    senders: int
    points: tuple[int, ...]
    text: str


def litmus_tests(name: str, description: Description, title: str = "") -> Iterator[Test]:
    """Yield the tests of a description with a stable pointer; "exists" is an upcall that is lost.

    Args:
        name: of the description, for the names of its tests.
        title: a line of text for their heads.

    Raises:
        ValueError: a path has more pending tests than there are registers.
    """
    number = 0
    pairs = description.role is Role.HANDLER or not all(map(handles, description.handlers))
    for path in description.paths or ((),):
        for handler in description.handlers:
            for start in description.starts:
                one = replace(
                    description, paths=(path,) if path else (), handlers=(handler,), starts=(start,)
                )
                for senders, points in _points(len(path), pairs=pairs):
                    for thread in _threads(one, points, senders):
                        number += 1
                        text = _text(f"{name}-{number:02}", thread, one, senders, points, title)
                        yield Test(f"{name}-{number:02}", one, senders, points, text)


def _points(length: int, *, pairs: bool) -> Iterator[tuple[int, tuple[int, ...]]]:
    """Yield the number of senders and the points; two senders decide only where a handler is in question."""
    places = range(length + 1)
    for place in places:
        yield 1, (place,)
    for place in places if pairs else ():
        yield 2, (place,)
    for pair in combinations_with_replacement(places, 2) if pairs else ():
        yield 2, pair


def _threads(description: Description, points: tuple[int, ...], senders: int) -> Iterator[_Thread]:
    """Yield the thread once for each combination of outcomes of the exit tests that read M as 0.

    The handler runs at most once for each time that P becomes 1.
    """
    most = senders + sum(
        access.written(Cell.P) in (UNCHANGED, 1) for path in description.paths for access in path
    )
    todo: list[tuple[bool, ...]] = [()]
    while todo:
        outcomes = todo.pop()
        try:
            thread = _Thread(description, points, iter(outcomes))
        except _ImpossibleError:
            continue
        if thread.tested > len(outcomes):
            # The last outcome was assumed to be "no": that is this thread; "yes" is another.
            todo += [(*outcomes, True)] if sum(outcomes) < most else []
            if thread.tested > len(outcomes) + 1:
                todo.append((*outcomes, False))
                continue
            outcomes = (*outcomes, False)
        yield thread


def _text(
    name: str, thread: _Thread, description: Description, senders: int, points: tuple[int, ...], title: str
) -> str:
    ((mask, _),) = description.starts
    columns = [thread.lines, *(_sender(which, which < len(points)) for which in range(senders))]
    widths = [max(map(len, column)) for column in columns]
    rows = []
    for row in range(max(map(len, columns))):
        cells = [column[row] if row < len(column) else "" for column in columns]
        rows.append(
            " " + " | ".join(cell.ljust(width) for cell, width in zip(cells, widths, strict=True)) + " ;"
        )
    heads = [f"P{number}".ljust(width) for number, width in enumerate(widths)]
    zero = sorted({*thread.used, _HANDLED})
    first = " ".join(
        [
            f"P=0; M={mask}; S=0; Z=0;",
            *(f"K{which}=0;" for which in range(senders)),
            *(f"0:{_wide(register)}=0;" for register in zero),
        ]
    )
    where = ", ".join(
        f"the IPI of P{which + 1} after {point} of its accesses" for which, point in enumerate(points)
    )
    if len(points) < senders:
        where += f"; P{senders} finds pending set and sends none"
    lead = title.replace(chr(34), "")
    return "\n".join(
        [
            f"X86_64 {name}",
            f'"{lead}: {where}"' if lead else f'"{where}"',
            "{",
            first,
            "}",
            f" {' | '.join(heads)} ;",
            *rows,
            f"exists {_condition(thread, senders, points)}",
            "",
        ]
    )


def _sender(which: int, kicks: bool) -> list[str]:
    """Return the lines of a sender; whether it kicks is a condition on the P that its xchg returned."""
    lines = [f"lock addl ${1 << which},[S]", "movl $1,%eax", "xchgl %eax,[P]"]
    return [*lines, f"movl $1,[K{which}]"] if kicks else lines


def _condition(thread: _Thread, senders: int, points: tuple[int, ...]) -> str:
    terms = [f"0:{_wide(_FLAGS[which])}=1" for which in range(len(points))]
    terms += [f"{which + 1}:rax={int(which >= len(points))}" for which in range(senders)]
    terms += thread.conditions
    # The bits that no handler took; those that M = P = 1 leaves in S for a later unmask are not lost.
    lost = []
    everything = (1 << senders) - 1
    for handled in range(everything):
        missing = everything & ~handled
        term = f"0:{_wide(_HANDLED)}={handled}"
        if thread.mask:
            without = [f"S={value}" for value in range(1 << senders) if value & missing != missing]
            term = _all((term, _any(("P=0", *without))))
        lost.append(term)
    return _all((*terms, _any(lost)))


def _any(terms: Iterable[str]) -> str:
    return f"({_OR.join(terms)})"


def _all(terms: Iterable[str]) -> str:
    return f"({_AND.join(terms)})"


class _ImpossibleError(Exception):
    """The path does not go on with the value that M has."""


class _Thread:
    """The lines of the vCPU's pCPU, and what its registers must be in the end.

    M is known at each point: its value is followed while the lines are made.
    """

    def __init__(self, description: Description, points: tuple[int, ...], outcomes: Iterator[bool]) -> None:
        (self.handler,) = description.handlers
        ((self.mask, self.saved),) = description.starts
        self.lines: list[str] = []
        self.conditions: list[str] = []
        self.used: set[str] = set()
        self.tested = 0
        self._outcomes = outcomes
        self._tests = iter(_TESTS)
        self._seen: dict[Cell, str] = {}
        path = description.paths[0] if description.paths else ()
        for place in range(len(path) + 1):
            for which in [which for which, point in enumerate(points) if point == place]:
                self._put(f"movl [K{which}],{_FLAGS[which]}")
                self.used.add(_FLAGS[which])
                self._exit_test()
            if place < len(path):
                self._access(path[place])

    def _put(self, *lines: str) -> None:
        self.lines += lines

    def _exit_test(self) -> None:
        """Put an exit test of Xen, and the handler if the test has the outcome that enters it."""
        if self.mask:
            return
        self.tested += 1
        delivers = next(self._outcomes, False)
        register = self._register(Cell.P)
        self._put(f"movl [P],{register}")
        self.conditions.append(f"0:{_wide(register)}={int(delivers)}")
        if delivers:
            self.mask = 1
            self._put("movl $1,[M]")
            seen, saved = dict(self._seen), self.saved
            for access in self.handler:
                self._access(access)
            self._seen, self.saved = seen, saved

    def _access(self, access: Access) -> None:
        if Cell.M in access.reads:
            self.saved = self.mask
        self._write(access)
        value = access.written(Cell.M)
        if value is not None and value != UNCHANGED:
            self.mask = self.saved if value == SAVED else value
        for cell, wanted in access.when:
            if cell is Cell.M:
                if self.saved != wanted:
                    raise _ImpossibleError
                continue
            if cell not in self._seen:
                raise ValueError(f"{access.text}: a path depends on a value that it did not read")
            self.conditions.append(f"0:{_wide(self._seen[cell])}={wanted}")
        if access.xen:
            self._exit_test()

    def _write(self, access: Access) -> None:
        """Put the instructions of an access."""
        if access.fence:
            if not access.drains:
                self._put(access.fence if access.fence in _PLAIN_FENCES else "lfence")
            elif access.fence in _PLAIN_FENCES:
                self._put(access.fence)
            else:
                # The locked instruction of a fence writes to memory of its own, such as the stack.
                self._put("lock addl $0,[Z]")
            return
        locked = access.is_locked
        for cell, value in access.writes:
            swapped = cell in access.reads and cell is not Cell.M
            if value == UNCHANGED and not access.drains:
                self.used.add(_SCRATCH)
                self._put(f"movl [{cell.name}],{_SCRATCH}", f"movl {_SCRATCH},[{cell.name}]")
            elif value != UNCHANGED:
                self._store(cell, value, locked=locked, into=self._register(cell) if swapped else _SCRATCH)
        written = {cell for cell, value in access.writes if value != UNCHANGED}
        for cell in access.reads:
            if cell not in written and cell is not Cell.M:
                self._put(f"movl [{cell.name}],{self._register(cell)}")
            if cell is Cell.S:
                self.used |= {_TAKEN, _HANDLED}
                self._put(f"orl {_TAKEN},{_HANDLED}")
        if locked and not written:
            # It only waits for the stores before it.
            self._put("lock addl $0,[Z]")

    def _store(self, cell: Cell, value: int, *, locked: bool, into: str) -> None:
        if value == REST:
            # The bits that were read are still set: only this CPU clears them.
            self._put(f"{'lock ' if locked else ''}xorl {_TAKEN},[{cell.name}]")
        elif locked:
            self.used.add(into)
            self._put(f"movl ${self._number(value)},{into}", f"xchgl {into},[{cell.name}]")
        else:
            self._put(f"movl ${self._number(value)},[{cell.name}]")

    def _number(self, value: int) -> int:
        return self.saved if value == SAVED else value

    def _register(self, cell: Cell) -> str:
        """Return the register for a new read of a cell."""
        if cell is Cell.S:
            self._seen[cell] = _TAKEN
            return _TAKEN
        register = next(self._tests, "")
        if not register:
            raise ValueError("the path has more reads than a litmus test has registers")
        self.used.add(register)
        self._seen[cell] = register
        return register


def _wide(register: str) -> str:
    """Return the 64-bit name, without the percent sign."""
    name = register.removeprefix("%")
    return name.removesuffix("d") if name[1].isdigit() else f"r{name[1:]}"
