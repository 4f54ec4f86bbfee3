"""Write a description as litmus tests for herd7 and litmus7 (X86_64).

The vCPU's pCPU is one thread: the site's code, with Xen's exit test and the handler inline at one point,
because they see the pCPU's own store buffer.  So there is a test for each path and for each point at which
the interrupt can be taken, and for each outcome of the tests of P.  A sender is a thread of its own; its IPI
is a flag that it stores after its set of pending, and that the first thread must read as 1 at that point.

The tests ask for few values, because herd7 tries every source of every read.  What is left out changes no
answer:
    - Only the first thread accesses M, so each of its reads of M takes its own latest store: Xen's exit test
      is left out where M is 1, and where M is 0 it is a test of P alone.
    - P, M and S are variables of their own.  Splitting a store of P and M into two changes nothing: no other
      CPU reads M, and no interrupt comes between the two.  Likewise P may be read just after a locked store
      to M instead of in the same instruction.
    - Each test asks for the loss of one event, and S is its bit: no access lets one bit of S decide about
      another.  All takes of S then find 0, and a locked AND that clears what was read changes nothing.
    - Others only set P.  So between the first thread's own writes to P, a read of 1 is followed by reads of
      1, and a read of 0 preceded by reads of 0: those are left out.
    - A sender that is alone finds P clear; what it does is stores, which x86 keeps in order without a lock.
    - Two senders matter only to the order of accesses in a handler, as one of them finds P set or sets it
      while the other's event is handled.  So they are tested with the handler alone, if the rule does not
      know the handler and the site ever lets it run.  Tests hold this against the checkers.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace

from xtrace.symbols.proof.description import REST, SAVED, UNCHANGED, Access, Cell, Description, Path, Role
from xtrace.symbols.proof.rule import handles

_FLAGS = ("%edi", "%esi")
_REGISTERS = ("%eax", "%ebx", "%ecx", "%r8d", "%r9d", "%r10d", "%r11d", "%r12d", "%r13d", "%r14d", "%r15d")
_SCRATCH = "%edx"
_PLAIN_FENCES = ("lfence", "sfence", "mfence")
_AND, _OR = " /\\ ", " \\/ "


@dataclass(frozen=True, slots=True)
class Test:
    """One litmus test.

    Attributes:
        description: with the one path, the one handler and the one start that the test has; with two senders
            it has no path: the handler is alone.
        points: after how many accesses of the path the IPI of each sender is taken; a sender without a point
            finds P set and sends none.
        lost: whose event is lost: 1 or 2.
        text: of the file.
    """

    name: str
    description: Description
    points: tuple[int, ...]
    lost: int
    text: str

    @property
    def senders(self) -> int:
        """Return how many send."""
        return max(self.lost, len(self.points))


def litmus_tests(name: str, description: Description, title: str = "") -> Iterator[Test]:
    """Yield the tests of a description with a stable pointer; "exists" is an upcall that is lost.

    Args:
        name: of the description, for the names of its tests.
        title: a line of text for their heads.

    Raises:
        ValueError: a path has more reads than there are registers.
    """
    number = 0
    for one, points, lost in _cases(description):
        for thread in _threads(one, points, max(lost, len(points))):
            number += 1
            text = _text(f"{name}-{number:02}", thread, points, lost, title)
            yield Test(f"{name}-{number:02}", one, points, lost, text)


def _cases(description: Description) -> Iterator[tuple[Description, tuple[int, ...], int]]:
    """Yield for each group of tests its description, the points of its IPIs, and whose event is lost."""
    runs = False
    for path in description.paths or ((),):
        for start in description.starts:
            runs |= opens(path, start)
            for handler in description.handlers:
                one = replace(
                    description, paths=(path,) if path else (), handlers=(handler,), starts=(start,)
                )
                for place in range(len(path) + 1):
                    yield one, (place,), 1
    if not runs:
        return
    for handler in description.handlers:
        if description.role is Role.HANDLER or not handles(handler):
            alone = Description(Role.HANDLER, (), (handler,), ((0, 0),))
            yield alone, (0,), 2
            yield alone, (0, 0), 1
            yield alone, (0, 0), 2


def opens(path: Path, start: tuple[int, int]) -> bool:
    """Return whether M is 0 anywhere on a path, so that a handler may run there."""
    mask, saved = start
    found = not mask
    for access in path:
        if Cell.M in access.reads:
            saved = mask
        value = access.written(Cell.M)
        if value is not None and value != UNCHANGED:
            mask = saved if value == SAVED else value
        found |= not mask
    return found


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
        except (_ImpossibleError, _CoveredError):
            continue
        if thread.tested > len(outcomes):
            # The last outcome was assumed to be "no": that is this thread; "yes" is another.
            todo += [(*outcomes, True)] if sum(outcomes) < most else []
            if thread.tested > len(outcomes) + 1:
                todo.append((*outcomes, False))
                continue
            outcomes = (*outcomes, False)
        yield thread


def _text(name: str, thread: _Thread, points: tuple[int, ...], lost: int, title: str) -> str:
    senders = max(lost, len(points))
    lines, registers, conditions = thread.code()
    columns = [lines, *(_sender(which, points, lost) for which in range(senders))]
    widths = [max(map(len, column)) for column in columns]
    rows = []
    for row in range(max(map(len, columns))):
        cells = [column[row] if row < len(column) else "" for column in columns]
        rows.append(
            " " + " | ".join(cell.ljust(width) for cell, width in zip(cells, widths, strict=True)) + " ;"
        )
    heads = [f"P{number}".ljust(width) for number, width in enumerate(widths)]
    first = " ".join(
        [
            f"P=0; M={thread.start}; S=0;",
            *(f"Z{number}=0;" for number in range(thread.fences) if f"[Z{number}]" in " ".join(lines)),
            *(f"K{which}=0;" for which in range(len(points))),
            *(f"0:{_wide(register)}=0;" for register in sorted(registers)),
        ]
    )
    where = ", ".join(
        f"the IPI of P{which + 1} after {point} of its accesses" for which, point in enumerate(points)
    )
    if len(points) < senders:
        where += f"; P{senders} finds pending set and sends none"
    if senders > 1:
        where += f"; P{lost} sends what is lost"
    lead = title.replace(chr(34), "")
    terms = [f"0:{_wide(_FLAGS[which])}=1" for which in range(len(points))]
    terms += [f"{which + 1}:rax={int(which >= len(points))}" for which in _exchanging(points, lost)]
    terms += conditions
    if thread.mask:
        # What M = P = 1 leaves in S for a later unmask is not lost.
        terms.append(_any(("P=0", "S=0")))
    return "\n".join(
        [
            f"X86_64 {name}",
            f'"{lead}: {where}"' if lead else f'"{where}"',
            "{",
            first,
            "}",
            f" {' | '.join(heads)} ;",
            *rows,
            f"exists {_all(terms)}",
            "",
        ]
    )


def _exchanging(points: tuple[int, ...], lost: int) -> range:
    """Return the senders whose set of P is an exchange, because what it finds is asked for.

    One that is alone finds 0, and so does the first if the second finds 1.
    """
    return range(2) if len(points) == 2 else range(1, lost)


def _sender(which: int, points: tuple[int, ...], lost: int) -> list[str]:
    """Return the lines of a sender."""
    lines = ["movl $1,[S]"] if which + 1 == lost else []
    if which in _exchanging(points, lost):
        lines += ["movl $1,%eax", "xchgl %eax,[P]"]
    else:
        lines.append("movl $1,[P]")
    return [*lines, f"movl $1,[K{which}]"] if which < len(points) else lines


def _any(terms: Iterable[str]) -> str:
    return f"({_OR.join(terms)})"


def _all(terms: Iterable[str]) -> str:
    return f"({_AND.join(terms)})"


@dataclass(frozen=True, slots=True)
class _Line:
    """Instructions of the first thread.

    Attributes:
        cell: P or S, if they access it.
        register: to which they read it.  value: that they must read; None if nothing is asked.
        writes: they change the cell.
        instead: what is left of them if the read is left out.
        tests: they are an exit test of Xen.
    """

    text: tuple[str, ...]
    cell: Cell | None = None
    register: str = ""
    value: int | None = None
    writes: bool = False
    instead: tuple[str, ...] = ()
    tests: bool = False


class _ImpossibleError(Exception):
    """The path does not go on with the value that M has."""


class _CoveredError(Exception):
    """Another test has all executions of this one."""


class _Thread:
    """The lines of the vCPU's pCPU, and what its registers must be in the end.

    M is known at each point: its value is followed while the lines are made.
    """

    def __init__(self, description: Description, points: tuple[int, ...], outcomes: Iterator[bool]) -> None:
        (self.handler,) = description.handlers
        ((self.mask, self.saved),) = description.starts
        self.start = self.mask
        self.tested = 0
        self.fences = 0
        self._lines: list[_Line] = []
        self._used: set[str] = set()
        self._outcomes = outcomes
        self._registers = iter(_REGISTERS)
        #: The place of the latest read of P in the lines.
        self._seen = -1
        path = description.paths[0] if description.paths else ()
        for place in range(len(path) + 1):
            for which in [which for which, point in enumerate(points) if point == place]:
                self._used.add(_FLAGS[which])
                self._put(f"movl [K{which}],{_FLAGS[which]}")
                self._exit_test()
            if place < len(path):
                self._access(path[place])

    def code(self) -> tuple[list[str], set[str], list[str]]:
        """Return the instructions, the registers that are 0 at first, and the conditions on what was read."""
        lines: list[str] = []
        registers, conditions = set(self._used), []
        for line in _needed(self._lines):
            lines += line.text
            if line.register:
                registers.add(line.register)
                if line.value is not None:
                    conditions.append(f"0:{_wide(line.register)}={line.value}")
        return lines, registers, conditions

    def _put(self, *text: str, writes: Cell | None = None) -> None:
        self._lines.append(_Line(text, writes, writes=writes is not None))

    def _exit_test(self) -> None:
        """Put an exit test of Xen, and the handler if the test has the outcome that enters it."""
        if self.mask:
            return
        self.tested += 1
        delivers = next(self._outcomes, False)
        if delivers and _tests_last(self._lines):
            # Had the test just before delivered, the IPI might have come later: that is another test.
            raise _CoveredError
        self._test(int(delivers), tests=True)
        if delivers:
            self.mask = 1
            self._put("movl $1,[M]")
            seen, saved = self._seen, self.saved
            for access in self.handler:
                self._access(access)
            self._seen, self.saved = seen, saved

    def _test(self, value: int | None, *, tests: bool = False) -> None:
        register = self._register()
        self._seen = len(self._lines)
        self._lines.append(_Line((f"movl [P],{register}",), Cell.P, register, value, tests=tests))

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
            if cell is not Cell.P or self._seen < 0:
                raise ValueError(f"{access.text}: a path depends on a value that it did not read")
            self._expect(wanted)
        if access.xen:
            self._exit_test()

    def _expect(self, value: int) -> None:
        line = self._lines[self._seen]
        if line.value not in (None, value):
            raise _ImpossibleError
        self._lines[self._seen] = replace(line, value=value)

    def _write(self, access: Access) -> None:
        """Put the instructions of an access."""
        if access.fence:
            if access.fence in _PLAIN_FENCES:
                self._put(access.fence)
            elif access.drains:
                self._put(self._fence())
            else:
                self._put("lfence")
            return
        for cell, value in access.writes:
            if value == UNCHANGED and access.drains:
                continue
            if value == UNCHANGED and cell is Cell.M:
                self._put(f"movl ${self.mask},[M]")
            elif value in (UNCHANGED, REST):
                self._write_back(cell, locked=access.drains)
            else:
                number = self.saved if value == SAVED else value
                self._store(cell, number, locked=access.drains, read=cell in access.reads)
        written = {cell for cell, value in access.writes if value != UNCHANGED}
        for cell in access.reads:
            if cell is Cell.P and cell not in written:
                self._test(None)
            elif cell is Cell.S and cell not in written:
                self._take("movl [S],{}")
        if access.is_locked and not written:
            # It only waits for the stores before it.
            self._put(self._fence())

    def _write_back(self, cell: Cell, *, locked: bool) -> None:
        """Put a store of what is read; the bits of S that were read, which it clears, are none."""
        if locked:
            self._put(self._fence())
            return
        self._used.add(_SCRATCH)
        self._put(f"movl [{cell.name}],{_SCRATCH}", f"movl {_SCRATCH},[{cell.name}]", writes=cell)

    def _store(self, cell: Cell, value: int, *, locked: bool, read: bool) -> None:
        writes = None if cell is Cell.M else cell
        if read and cell is Cell.S and locked and value == 0:
            # It finds 0, so it changes nothing.
            self._take("movl $0,{}", "xchgl {},[S]", instead=(self._fence(),))
        elif read and cell is Cell.P and locked:
            register = self._register()
            self._seen = len(self._lines)
            text = f"movl ${value},{register}", f"xchgl {register},[P]"
            self._lines.append(_Line(text, cell, register, writes=True))
        elif read and cell is not Cell.M:
            raise ValueError("an access that reads what it writes, without a lock, has no litmus test")
        else:
            # A locked store is a store and a fence: nothing is asked of what it finds.
            fence = (self._fence(),) if locked else ()
            self._put(f"movl ${value},[{cell.name}]", *fence, writes=writes)

    def _take(self, *text: str, instead: tuple[str, ...] = ()) -> None:
        """Put a read of S; it finds 0."""
        register = self._register()
        filled = tuple(line.format(register) for line in text)
        self._lines.append(_Line(filled, Cell.S, register, 0, instead=instead))

    def _fence(self) -> str:
        """Return a locked instruction on memory of its own, such as the stack."""
        self.fences += 1
        return f"lock addl $0,[Z{self.fences - 1}]"

    def _register(self) -> str:
        register = next(self._registers, "")
        if not register:
            raise ValueError("the path has more reads than a litmus test has registers")
        return register


def _tests_last(lines: list[_Line]) -> bool:
    """Return whether nothing but a read of an IPI's flag follows an exit test that found 0."""
    return len(lines) > 1 and lines[-1].text[0].startswith("movl [K") and lines[-2].tests


def _needed(lines: list[_Line]) -> list[_Line]:
    """Return the lines without the reads of which nothing is asked that others do not imply.

    Between the thread's own writes to P or S, 1 stays 1, and what is 0 later was 0 before.
    """
    left: list[_Line] = []
    ones: set[Cell | None] = set()
    for line in lines:
        is_implied = line.value is None or (line.value == 1 and line.cell in ones)
        if line.register and not line.writes and is_implied:
            continue
        if line.writes:
            ones.discard(line.cell)
        elif line.value == 1:
            ones.add(line.cell)
        left.append(line)
    found: list[_Line] = []
    zeros: set[Cell | None] = set()
    for line in reversed(left):
        if line.writes or line.value == 1:
            zeros.discard(line.cell)
        elif line.value == 0:
            if line.cell in zeros:
                found += [_Line((text,)) for text in line.instead]
                continue
            zeros.add(line.cell)
        found.append(line)
    return found[::-1]


def _wide(register: str) -> str:
    """Return the 64-bit name, without the percent sign."""
    name = register.removeprefix("%")
    return name.removesuffix("d") if name[1].isdigit() else f"r{name[1:]}"
