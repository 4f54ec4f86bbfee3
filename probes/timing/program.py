"""The machine code to time, and the layout of its data in memory."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Program:
    """Code that begins with a driver, which executes schedules (see symbols/replay/timed_loop.py).

    Offsets are into the data.  An entry of the schedule is four 64-bit words: function, warm, count, and
    one for the result; the driver writes the cycles to the fourth and the change of TSC_AUX to the second.

    Attributes:
        code: placed at ``code_address``; it is never writable while it runs.
        data_bytes: size of the data at ``data_address``, initially zero, shared with the parent.
        count_offset, index_offset: number of entries to do, and done.
        sandbox_offset: what prctl() returned for the driver's filter, which is at ``filter_offset``.
        initial: initial content of the data, by offset.
        far_address, far_bytes: the child's private memory that does not fit its caches; 0 for none.
        cold_address, cold_bytes: such memory that does not fit the TLB either; 0 for none.
        walls_offset, pid_offset, gaps_offset: what the child's script writes (see child.py).
        unmapped_offset: not 0 if the driver could not unmap the rest of the child's memory.
        moved_offset: not 0 if a loop's body left another stack pointer than was proved.
        stack_offset: the top of the driver's stack.
        returns_to: the return address that a function finds there.
        guards: parts of the data (begin, end) that no code writes.
        clock: a C function that reads the TSC, for this process.
        samples_offset: where the sampler writes ``sample_count`` readings of the TSC.
    """

    code: bytes
    code_address: int
    data_address: int
    data_bytes: int
    count_offset: int
    index_offset: int
    sandbox_offset: int
    filter_offset: int
    schedule_offset: int
    schedule_entries: int
    walls_offset: int
    pid_offset: int
    gaps_offset: int
    unmapped_offset: int
    moved_offset: int
    stack_offset: int
    returns_to: int
    guards: tuple[tuple[int, int], ...]
    clock: bytes
    samples_offset: int
    sample_count: int
    initial: tuple[tuple[int, bytes], ...] = ()
    far_address: int = 0
    far_bytes: int = 0
    cold_address: int = 0
    cold_bytes: int = 0


@dataclass(frozen=True, slots=True)
class Loop:
    """A function of the program.

    Attributes:
        address: of its first instruction.
        most_count: executions that one call may time; 0 for any number.
    """

    address: int
    most_count: int
