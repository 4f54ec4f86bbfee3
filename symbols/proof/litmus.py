"""Write a description as litmus tests for herd7 and litmus7 (X86_64).

The vCPU's pCPU is one thread: the site's code, with Xen's exit test and the handler inline at one point,
because they see the pCPU's own store buffer.  So there is a test for each path and for each point at which
the interrupt can be taken.  A sender is a thread of its own; its IPI is a flag that it stores after the
locked set of pending, and that the first thread must read as 1 at that point.

P, M and S are variables of their own.  Splitting a store of P and M into two changes nothing: no other CPU
reads M, and no interrupt comes between the two.  Likewise P may be read just after a locked store to M
instead of in the same instruction.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from itertools import combinations_with_replacement

from xtrace.symbols.proof.description import REST, SAVED, UNCHANGED, Access, Cell, Description

_FLAGS = ("%edi", "%esi")
_SAVED_REGISTER = "%eax"
_TESTS = ("%ebx", "%r8d", "%r9d", "%r10d", "%r11d", "%r12d", "%r13d", "%r14d")
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
    for path in description.paths or ((),):
        for handler in description.handlers:
            for start in description.starts:
                one = replace(
                    description, paths=(path,) if path else (), handlers=(handler,), starts=(start,)
                )
                for senders, points in _points(len(path)):
                    number += 1
                    yield _test(f"{name}-{number:02}", one, senders, points, title)


def _points(length: int) -> Iterator[tuple[int, tuple[int, ...]]]:
    places = range(length + 1)
    for place in places:
        yield 1, (place,)
    for place in places:
        yield 2, (place,)
    for pair in combinations_with_replacement(places, 2):
        yield 2, pair


def _test(name: str, description: Description, senders: int, points: tuple[int, ...], title: str) -> Test:
    thread = _Thread(description, senders, points)
    ((mask, saved),) = description.starts
    columns = [thread.lines, *(_sender(which) for which in range(senders))]
    widths = [max(map(len, column)) for column in columns]
    rows = []
    for row in range(max(map(len, columns))):
        cells = [column[row] if row < len(column) else "" for column in columns]
        rows.append(
            " " + " | ".join(cell.ljust(width) for cell, width in zip(cells, widths, strict=True)) + " ;"
        )
    heads = [f"P{number}".ljust(width) for number, width in enumerate(widths)]
    zero = sorted({*thread.used, _HANDLED} - {_SAVED_REGISTER})
    first = " ".join(
        [
            f"P=0; M={mask}; S=0; Z=0;",
            *(f"K{which}=0;" for which in range(senders)),
            f"0:{_wide(_SAVED_REGISTER)}={saved};",
            *(f"0:{_wide(register)}=0;" for register in zero),
        ]
    )
    where = ", ".join(
        f"the IPI of P{which + 1} after {point} of its accesses" for which, point in enumerate(points)
    )
    if len(points) < senders:
        where += f"; P{senders} finds pending set and sends none"
    text = "\n".join(
        [
            f"X86_64 {name}",
            f'"{title.replace(chr(34), "")}: {where}"' if title else f'"{where}"',
            "{",
            first,
            "}",
            f" {' | '.join(heads)} ;",
            *rows,
            f"exists {_condition(thread, senders, points)}",
            "",
        ]
    )
    return Test(name, description, senders, points, text)


def _sender(which: int) -> list[str]:
    return [
        f"lock addl ${1 << which},[S]",
        "movl $1,%eax",
        "xchgl %eax,[P]",
        "cmpl $0,%eax",
        f"jne D{which}",
        f"movl $1,[K{which}]",
        f"D{which}:",
    ]


def _condition(thread: _Thread, senders: int, points: tuple[int, ...]) -> str:
    terms = [f"0:{_wide(_FLAGS[which])}=1" for which in range(len(points))]
    terms += [f"{which + 1}:rax={int(which >= len(points))}" for which in range(senders)]
    terms += thread.conditions
    # The bits that no handler took, and of those, what may be left in S for a later unmask.
    lost = []
    everything = (1 << senders) - 1
    for handled in range(everything):
        missing = everything & ~handled
        without = [f"S={value}" for value in range(1 << senders) if value & missing != missing]
        lost.append(_all((f"0:{_wide(_HANDLED)}={handled}", _any(("P=0", "M=0", *without)))))
    return _all((*terms, _any(lost)))


def _any(terms: Iterable[str]) -> str:
    return f"({_OR.join(terms)})"


def _all(terms: Iterable[str]) -> str:
    return f"({_AND.join(terms)})"


class _Thread:
    """The lines of the vCPU's pCPU, and what its registers must be in the end."""

    def __init__(self, description: Description, senders: int, points: tuple[int, ...]) -> None:
        (self.handler,) = description.handlers
        self.lines: list[str] = []
        self.conditions: list[str] = []
        self.used: set[str] = set()
        self._labels = 0
        self._tests = iter(_TESTS)
        self._seen: dict[Cell, str] = {Cell.M: _SAVED_REGISTER}
        path = description.paths[0] if description.paths else ()
        restores = sum(access.written(Cell.P) in (UNCHANGED, 1) for access in path)
        self._deliveries = senders + restores
        for place in range(len(path) + 1):
            for which in [which for which, point in enumerate(points) if point == place]:
                self._put(f"movl [K{which}],{_FLAGS[which]}")
                self.used.add(_FLAGS[which])
                self._exit_test(self._deliveries)
            if place < len(path):
                self._access(path[place])

    def _put(self, *lines: str) -> None:
        self.lines += lines

    def _exit_test(self, deliveries: int) -> None:
        if not deliveries:
            return
        self._labels += 1
        out = f"L{self._labels}"
        self._put("cmpl $0,[P]", f"je {out}", "cmpl $0,[M]", f"jne {out}", "movl $1,[M]")
        for access in self.handler:
            self._write(access)
        self._exit_test(deliveries - 1)
        self._put(f"{out}:")

    def _access(self, access: Access) -> None:
        self._write(access)
        for cell, value in access.when:
            if cell not in self._seen:
                raise ValueError(f"{access.text}: a path depends on a value that it did not read")
            self.conditions.append(f"0:{_wide(self._seen[cell])}={value}")
        if access.xen:
            self._exit_test(self._deliveries)

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
            swapped = cell in access.reads
            if value == UNCHANGED and not access.drains:
                self.used.add(_SCRATCH)
                self._put(f"movl [{cell.name}],{_SCRATCH}", f"movl {_SCRATCH},[{cell.name}]")
            elif value != UNCHANGED:
                self._store(cell, value, locked=locked, into=self._register(cell) if swapped else _SCRATCH)
        written = {cell for cell, value in access.writes if value != UNCHANGED}
        for cell in access.reads:
            if cell not in written:
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
            source = self._saved() if value == SAVED else f"${value}"
            if source != into:
                self._put(f"movl {source},{into}")
            self._put(f"xchgl {into},[{cell.name}]")
        else:
            self._put(f"movl {self._saved() if value == SAVED else f'${value}'},[{cell.name}]")

    def _saved(self) -> str:
        return self._seen[Cell.M]

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
