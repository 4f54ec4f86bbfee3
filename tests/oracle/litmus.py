"""Run a litmus test under x86-TSO, step by step: herd7's work, for the small tests of sites.

It knows nothing of the checkers or of the writer, only the text: threads of instructions, each with a FIFO
store buffer, that its own loads search first (Owens, Sarkar and Sewell 2009).
"""

from __future__ import annotations

import re
from dataclasses import dataclass

_Buffer = tuple[tuple[str, int], ...]
_Values = tuple[tuple[str, int], ...]


@dataclass(frozen=True, slots=True)
class _Thread:
    """What one thread has left to do, its registers and its buffered stores, oldest first."""

    place: int
    registers: _Values
    buffer: _Buffer


@dataclass(frozen=True, slots=True)
class _State:
    memory: _Values
    threads: tuple[_Thread, ...]


class Litmus:
    """One test; ``exists()`` is what herd7 prints as Sometimes or Always."""

    def __init__(self, text: str) -> None:
        init = text[text.index("{") + 1 : text.index("}")]
        body = text[text.index("}") + 1 : text.index("\nexists")].strip().splitlines()
        rows = [[cell.strip() for cell in line.rstrip(" ;").split("|")] for line in body[1:]]
        count = body[0].count("|") + 1
        self._code = [
            [row[number] for row in rows if number < len(row) and row[number]] for number in range(count)
        ]
        self._memory: dict[str, int] = {}
        self._registers: list[dict[str, int]] = [{} for _ in range(count)]
        for name, value in re.findall(r"([\w:]+)=(\d+);", init):
            thread, _, register = name.rpartition(":")
            (self._registers[int(thread)] if thread else self._memory)[register] = int(value)
        self._condition = text[text.index("\nexists") + len("\nexists") :].strip()
        #: What the condition asks of a register whatever else holds: other values need not be followed.
        plain = re.sub(r"\([^()]*\\/[^()]*\)", "", self._condition)
        self._wanted = {name: int(value) for name, value in re.findall(r"(\d:\w+)=(\d+)", plain)}
        assert "\\/" not in plain

    def exists(self) -> bool:
        """Return whether an execution ends as the condition says."""
        start = _State(
            tuple(self._memory.items()),
            tuple(_Thread(0, tuple(registers.items()), ()) for registers in self._registers),
        )
        seen, todo = {start}, [start]
        while todo:
            state = todo.pop()
            after = self._following(state)
            if not after and self._ended(state) and self._holds(state):
                return True
            todo += [one for one in after if one not in seen]
            seen.update(after)
        return False

    def _ended(self, state: _State) -> bool:
        return all(
            thread.place == len(code) and not thread.buffer
            for thread, code in zip(state.threads, self._code, strict=True)
        )

    def _holds(self, state: _State) -> bool:
        values = dict(state.memory)
        for number, thread in enumerate(state.threads):
            values |= {f"{number}:{name}": value for name, value in thread.registers}
        words = self._condition.replace("/\\", " and ").replace("\\/", " or ")
        text = re.sub(
            r"((?:\d:)?\w+)=(\d+)", lambda found: str(values.get(found[1], 0) == int(found[2])), words
        )
        return bool(eval(text))

    def _following(self, state: _State) -> list[_State]:
        found = []
        for number, thread in enumerate(state.threads):
            if thread.buffer:
                (name, value), *rest = thread.buffer
                memory = _with(state.memory, name, value)
                found.append(_replaced(_State(memory, state.threads), number, buffer=tuple(rest)))
            if thread.place < len(self._code[number]):
                after = self._executed(state, number, self._code[number][thread.place])
                if after is not None:
                    found.append(after)
        return found

    def _executed(self, state: _State, number: int, text: str) -> _State | None:
        """Return the state after an instruction; None if it waits, or reads what nothing asks for."""
        thread = state.threads[number]
        place = thread.place + 1
        if text in ("lfence", "sfence"):
            return _replaced(state, number, place=place)
        if (text == "mfence" or text.startswith(("lock", "xchg"))) and thread.buffer:
            return None
        if text == "mfence":
            return _replaced(state, number, place=place)
        operation, source, target = re.fullmatch(r"(?:lock )?(mov|xchg|add)l ([^,]+),(\S+)", text).groups()  # type: ignore[union-attr]
        if operation == "add":
            name = target.strip("[]")
            memory = _with(state.memory, name, dict(state.memory)[name] + int(source[1:]))
            return _replaced(_State(memory, state.threads), number, place=place)
        registers = dict(thread.registers)
        if operation == "xchg":
            register, name = _named(source), target.strip("[]")
            memory = _with(state.memory, name, registers[register])
            registers[register] = dict(state.memory)[name]
            if self._is_unwanted(number, register, registers[register]):
                return None
            return _replaced(
                _State(memory, state.threads), number, place=place, registers=tuple(registers.items())
            )
        if target.startswith("["):
            value = int(source[1:]) if source.startswith("$") else registers[_named(source)]
            return _replaced(state, number, place=place, buffer=(*thread.buffer, (target.strip("[]"), value)))
        register = _named(target)
        if source.startswith("$"):
            registers[register] = int(source[1:])
        else:
            name = source.strip("[]")
            registers[register] = {**dict(state.memory), **dict(thread.buffer)}[name]
            if self._is_unwanted(number, register, registers[register]):
                return None
        return _replaced(state, number, place=place, registers=tuple(registers.items()))

    def _is_unwanted(self, number: int, register: str, value: int) -> bool:
        return self._wanted.get(f"{number}:{register}", value) != value


def _named(register: str) -> str:
    """Return the 64-bit name, as conditions have it: %eax is rax, %r8d is r8."""
    name = register.removeprefix("%")
    return name.removesuffix("d") if name[1].isdigit() else f"r{name[1:]}"


def _with(memory: _Values, name: str, value: int) -> _Values:
    return tuple((one, value if one == name else held) for one, held in memory)


def _replaced(
    state: _State,
    number: int,
    *,
    place: int | None = None,
    registers: _Values | None = None,
    buffer: _Buffer | None = None,
) -> _State:
    old = state.threads[number]
    new = _Thread(
        old.place if place is None else place,
        old.registers if registers is None else registers,
        old.buffer if buffer is None else buffer,
    )
    return _State(state.memory, (*state.threads[:number], new, *state.threads[number + 1 :]))
