"""Make traces with samples of the instruction pointer, and a kernel image to look them up in."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from xtrace.analysis.measures.kernel_samples import Found
from xtrace.probes.reader.writer import pack_record, pack_window

TEXT = 0xFFFF_FFFF_8010_0000
RUN_D3V0, RUN_D5V1, RUN_IDLE = (3 << 16, 0), (5 << 16 | 1, 0), (32767 << 16, 0)
TRAP, PAGE_FAULT, PRIVOP = 0x201103, 0x201104, 0x201106
VMEXIT = 0x81102
TO_RUNNING = 0x21101  # runnable to running


@dataclass
class MadeKernel:
    """An image of three functions of 4 KiB each; the second runs masked and has source lines."""

    domain: int = 3
    path: str = "boot/netbsd"
    build_id: str = "0123"
    offset: int | None = 0
    was_pv: bool | None = None
    names: tuple[str, ...] = ("idle", "spl", "")
    asked: list[int] = field(default_factory=list)

    def load_offset_of(self, rips: npt.NDArray[np.uint64], *, is_pv: bool) -> tuple[int | None, str]:
        assert rips.dtype == np.uint64
        assert len(set(rips.tolist())) == len(rips) > 0
        self.was_pv = is_pv
        return self.offset, "made up"

    def find(self, addresses: npt.NDArray[np.uint64], most_lines: int) -> Found:
        self.asked += addresses.tolist()
        page = [(address - TEXT) >> 12 for address in addresses.tolist()]
        inside = np.array([0 <= number < 3 for number in page], bool)
        spl = np.array([number == 1 for number in page], bool)
        return Found(
            inside,
            [self.names[number] if 0 <= number < 3 else "" for number in page],
            np.array([address & 0xFFF for address in addresses.tolist()], np.int64),
            spl,
            ["spl.c" if one else "" for one in spl],
            np.where(spl, 7, 0),
        )


def rip(address: int) -> tuple[int, int]:
    return address & 0xFFFF_FFFF, address >> 32


def trace(*samples: tuple[int, int], vcpu: tuple[int, int] = RUN_D3V0) -> bytes:
    """Return a trace in which a vCPU begins to run, followed by the records (event, address)."""
    records = [pack_record(TO_RUNNING, 1000, vcpu)]
    for number, (event, address) in enumerate(samples):
        more = {TRAP: (14,), PAGE_FAULT: (0, 0, 0)}.get(event, ())
        records.append(pack_record(event, 2000 + number, (*rip(address), *more)))
    return pack_window(0, b"".join(records))
