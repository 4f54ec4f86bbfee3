"""What is run: finished machine code, and where in memory the driver in it keeps its schedule."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Program:
    """Code with a driver at its beginning, which works off schedules (see symbols/replay/timed_loop.py).

    Offsets are those in the data; entries of the schedule are four 64-bit words: function, warm,
    count; the driver writes cycles over the fourth and the change of TSC_AUX over the second.

    Attributes:
        code: stands at ``code_address``; it is never writable while it runs.
        data_bytes: of data at ``data_address``, zero at first, shared with the parent.
        count_offset, index_offset: entries to do, entries done.
        sandbox_offset: what prctl() answered to the driver's filter, which stands at ``filter_offset``.
        initial: what stands in the data at first, by offset.
        far_address, far_bytes: where memory of the child's own lies that is beyond its caches; 0 for none.
        samples_offset: where the sampler leaves ``sample_count`` readings of the TSC.
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
        address: where it stands.
        most_count: executions that one call may time; 0 for any number.
    """

    address: int
    most_count: int
