"""What one site does to mask, pending and selector: the only thing that the two checkers share.

M is evtchn_upcall_mask and P evtchn_upcall_pending (adjacent bytes of vcpu_info); S is the pending
selector or the FIFO ready word.  A description has the accesses of each path through the site's code and
through the handlers of the upcall, in program order.  The verdict, the hazards, the argument, both checkers
and the litmus tests are made from it.

Source: xen/include/public/xen.h (struct vcpu_info), xen/arch/x86/x86_64/entry.S (test_all_events,
create_bounce_frame), xen/arch/x86/pv/iret.c (do_iret), xen/common/event_2l.c (evtchn_2l_set_pending),
xen/arch/x86/domain.c (vcpu_mark_events_pending, vcpu_kick); Xen 4.16 and 4.23-unstable.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from enum import IntEnum, StrEnum


class Cell(IntEnum):
    """A memory cell; its value is the index into a checker's memory and registers.

    Each cell has a register of the same number, to which the code reads it.
    """

    P = 0
    M = 1
    S = 2


#: The other byte that a store of two bytes covers.
BESIDE = {Cell.P: Cell.M, Cell.M: Cell.P}

#: Values that an access writes, besides 0 and 1.
SAVED = -1  # M as this code read it
UNCHANGED = -2  # what the same access read from the cell: a wide store writes the other byte back
REST = -3  # the selector without the bits that this code read


@dataclass(frozen=True, slots=True)
class Access:
    """One instruction: an access to the cells, a fence, or an entry into Xen.

    Attributes:
        reads: the cells that it reads to registers.
        writes: cells and values.  All are written at once: a wide store has two.
        drains: it waits until the pCPU's earlier stores are in memory: a fence, or a locked access.
        xen: it enters Xen (hypercall or iret).  Xen stores ``writes``, and tests P and M on its exit.
        when: registers and the values that they must have after it, for this path to go on.
        fence: the mnemonic of an instruction that is only a fence; "" otherwise.
        pointer: 0 is that of the site's own access; 1 one that was read again after it, which is another's
            if the thread has moved.
        text: what it does, for people.
        code: the instruction, in AT&T syntax; "" if it does not come from an image.
        address: of the instruction; -1 if it does not come from an image.
        source: its source file and line; "" if not known.
    """

    reads: tuple[Cell, ...] = ()
    writes: tuple[tuple[Cell, int], ...] = ()
    drains: bool = False
    xen: bool = False
    when: tuple[tuple[Cell, int], ...] = ()
    fence: str = ""
    pointer: int = 0
    text: str = field(default="", compare=False)
    code: str = field(default="", compare=False)
    address: int = field(default=-1, compare=False)
    source: str = field(default="", compare=False)

    @property
    def is_locked(self) -> bool:
        """Return whether it is an access that is locked."""
        return self.drains and not self.fence

    @property
    def is_wide(self) -> bool:
        """Return whether it writes P and M together."""
        return {Cell.P, Cell.M} <= {cell for cell, _ in self.writes}

    @property
    def placed(self) -> str:
        """Return what it does, with its address if that is known."""
        return f"{self.address:#x} {self.text}" if self.address >= 0 else self.text

    def written(self, cell: Cell) -> int | None:
        """Return the value that it writes to a cell, None if it does not write the cell."""
        return dict(self.writes).get(cell)


Path = tuple[Access, ...]


class Role(StrEnum):
    """What the site's code is for; it selects the decisive interleavings that are shown."""

    MASK = "mask"
    OPEN = "open"
    HANDLER = "handler"


@dataclass(frozen=True, slots=True)
class Description:
    """The accesses of one site, on each of its paths, and those of the handlers of the upcall.

    Attributes:
        paths: through the site's code; empty if the site is in a handler.
        handlers: from Xen's bounce frame to the iret, which is an entry into Xen.
        starts: the values of (M, saved M) before the first access.
        stable: the vcpu_info belongs to the vCPU that executes the code; otherwise to a vCPU on another pCPU
            (the thread was preempted after it read the pointer).
        assumed: what was not read from the image, one sentence each.
    """

    role: Role
    paths: tuple[Path, ...]
    handlers: tuple[Path, ...]
    starts: tuple[tuple[int, int], ...]
    stable: bool = True
    assumed: tuple[str, ...] = field(default=(), compare=False)

    @property
    def starts_masked(self) -> bool:
        """Return whether the site's code is entered with M set, in all cases."""
        return all(mask for mask, _ in self.starts)

    def without_fences(self) -> Description:
        """Return the description without the site's fences that are not accesses themselves."""
        if self.role is Role.HANDLER:
            return replace(self, handlers=_bare(self.handlers))
        return replace(self, paths=_bare(self.paths))

    def without(self, address: int) -> Description:
        """Return the description without the fence at an address, on all paths."""
        return replace(
            self,
            paths=_unique(
                tuple(item for item in path if not _is_fence_at(item, address)) for path in self.paths
            ),
            handlers=_unique(
                tuple(item for item in path if not _is_fence_at(item, address)) for path in self.handlers
            ),
        )

    def accesses(self) -> Iterator[Access]:
        """Yield the accesses of the site's own code, or of the handlers if the site is in one."""
        for path in self.handlers if self.role is Role.HANDLER else self.paths:
            yield from path


def _is_fence_at(access: Access, address: int) -> bool:
    return bool(access.fence) and access.address == address


def _bare(paths: tuple[Path, ...]) -> tuple[Path, ...]:
    return _unique(tuple(item for item in path if not item.fence) for path in paths)


def _unique(paths: Iterator[Path]) -> tuple[Path, ...]:
    return tuple(dict.fromkeys(paths))


def masked_after(path: Path, place: int, masked: bool) -> bool:
    """Return whether the guest's own code has M set after the first ``place`` accesses of a path.

    A store of a saved value ends what this code masked.

    Args:
        masked: the path starts with M set.
    """
    for access in path[:place]:
        value = access.written(Cell.M)
        if value is not None and value != UNCHANGED:
            masked = value == 1
    return masked


def as_byte_store(description: Description) -> Description:
    """Return a description in which a byte store and a test of pending stand for the site's locked access."""
    return replace(
        description,
        paths=tuple(
            dict.fromkeys(
                tuple(part for access in path for part in _as_byte(access)) for path in description.paths
            )
        ),
    )


def _as_byte(access: Access) -> tuple[Access, ...]:
    value = access.written(Cell.M)
    tests = access.is_locked and Cell.P in access.reads
    if not access.is_locked or (value is None and not tests):
        return (access,)
    number = 0 if value is None else value
    store = Access(writes=((Cell.M, number),), text=f"M := {'m' if number == SAVED else number}")
    return (store, Access((Cell.P,), when=access.when, text="read P")) if tests else (store,)
