"""Describe what a register holds by how the value was reached.

A value is a root followed through memory: the pointer that ``mov %gs:0x10,%rax; mov 0x1e8(%rax),%rax``
leaves in rax is ``Value("cpu", (0x10, 0x1e8), 0, False)``.  Two registers with equal values hold the same
pointer, however often it was copied, spilled and reloaded.
"""

from __future__ import annotations

from typing import NamedTuple

#: Roots.  Others are tuples: ("entry", register), ("slot", offset), ("result", call), ("merge", ...),
#: ("element", root), ("read", instruction) and ("new", ...).
CONSTANT = "constant"  # the number 0: a constant n is Value(CONSTANT, (), n)
CPU = "cpu"  # the base of the per-CPU segment, fs or gs
STACK = "stack"  # the stack pointer at the function's entry
#: The root of a number computed from one that was read from the running CPU's area: (SCALED, its path).
SCALED = "scaled"

Root = str | tuple[object, ...]

#: Longer paths get a new root: what is that deep says nothing about vcpu_info.
_PATH_LIMIT = 5
_ADDRESS = (1 << 64) - 1
#: A smaller number added to anything is a field's offset; a larger one may be an address.
_LEAST_ADDRESS = 0x1000
#: A smaller number added to a known pointer is a field's offset: structures are up to this large.
_LEAST_FAR_ADDRESS = 0x400000


class Value(NamedTuple):
    """A number or pointer.

    Attributes:
        root: where it begins.
        path: offsets at which memory was read, one after the other.
        offset: what was added after the last read.
        indexed: an unknown number was added, too (an array index).
        own: where in the running CPU's area that number comes from, as a path: the CPU's id, for example;
            empty if it is not known to be this CPU's.
    """

    root: Root
    path: tuple[int, ...]
    offset: int
    indexed: bool = False
    own: tuple[int, ...] = ()

    @property
    def constant(self) -> int | None:
        """Return the number if it is known, otherwise None."""
        if self.root == CONSTANT and not self.path and not self.indexed:
            return self.offset
        return None


def constant(number: int) -> Value:
    """Return a known number as an unsigned 64-bit address."""
    return Value(CONSTANT, (), number & _ADDRESS)


ZERO = constant(0)


def moved(value: Value, by: int) -> Value:
    """Return the value plus a known number."""
    offset = value.offset + by
    if value.root == CONSTANT and not value.path:
        offset &= _ADDRESS
    return value._replace(offset=offset)


def indexed(value: Value, index: Value | None = None) -> Value:
    """Return the value plus an unknown number."""
    own = _own_path(index) if index is not None and not value.indexed else ()
    return Value(value.root, value.path, value.offset, True, own)


def _own_path(value: Value) -> tuple[int, ...]:
    """Return from where in the running CPU's area a number was read or computed; empty for other numbers."""
    if value.root == CPU:
        return value.path
    root = value.root
    if isinstance(root, tuple) and root[0] == SCALED:
        return tuple(item for item in root[1:] if isinstance(item, int))
    return ()


def scaled(value: Value) -> Value | None:
    """Return a number computed from one that was read from the running CPU's area; None for other numbers."""
    path = _own_path(value)
    return Value((SCALED, *path), (), 0) if path else None


def loaded(place: Value) -> Value:
    """Return the value in memory at ``place``."""
    path = (*place.path, place.offset)
    if len(path) > _PATH_LIMIT:
        return Value(("deep", *path[:-_PATH_LIMIT]), path[-_PATH_LIMIT:], 0)
    # An element of a table is a pointer of its own; the table stays visible in the path.
    root: Root = ("element", place.root) if place.indexed else place.root
    return Value(root, path, 0)


def added(left: Value, right: Value) -> Value | None:
    """Return the sum, None where neither part is known to be a pointer."""
    for pointer, number in ((left, right), (right, left)):
        by = number.constant
        if by is None:
            continue
        by = by if by < 1 << 63 else by - (1 << 64)
        if pointer.constant is not None or pointer.root == STACK or abs(by) < _LEAST_ADDRESS:
            return moved(pointer, by)
        if _likeness(pointer) and abs(by) < _LEAST_FAR_ADDRESS:
            return moved(pointer, by)
        if pointer.root == CPU and len(pointer.path) == 1:
            # The offset of this CPU's area, read from memory, plus the link address of something in it.
            return moved(pointer, number.offset)
    best, other = (left, right) if _likeness(left) >= _likeness(right) else (right, left)
    return indexed(best, other) if _likeness(best) else None


def merged(left: Value, right: Value, where: tuple[object, ...]) -> Value:
    """Return what is known where two paths meet; ``where`` names the place."""
    if left == right:
        return left
    # Where paths meet, a value that is still used has one type: what a call or a computation left there is
    # either dead or a pointer of the same kind.
    if right.path and _unknown(left):
        return right
    if left.path and _unknown(right):
        return left
    if left.path and right.path and left.path[-1] == right.path[-1] and left.offset == right.offset:
        return Value(("merge", *where), left.path[-1:], left.offset)
    return Value(("merge", *where), (), 0)


def _unknown(value: Value) -> bool:
    return not value.path and isinstance(value.root, tuple) and value.root[0] in ("result", "new", "entry")


def _likeness(value: Value) -> int:
    """Rank how likely a value is a pointer to something shared."""
    if value.root == CONSTANT:
        return 3 if value.path or value.offset >= _LEAST_ADDRESS else 0
    if value.root == CPU:
        return 2
    return 1 if value.path else 0
