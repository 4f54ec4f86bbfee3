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
    samples_offset: int
    sample_count: int
    initial: tuple[tuple[int, bytes], ...] = ()
    far_address: int = 0
    far_bytes: int = 0


@dataclass(frozen=True, slots=True)
class Loop:
    """A function of the program.

    Attributes:
        address: of its first instruction.
        most_count: executions that one call may time; 0 for any number.
    """

    address: int
    most_count: int
