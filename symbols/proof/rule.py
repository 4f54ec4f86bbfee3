"""Decide quickly about the usual descriptions; everything else is left to the checker.

The rule: Xen reads M only on the pCPU that hosts the vCPU, so its stores need no fence.  A path that may
clear M must then test P and act on it, or enter Xen, before it sets M again; a plain store must not cover P;
and each handler must clear P, then read S after a locked access or a fence that drains, and clear only what
it read.  A test compares every answer with the checker, on all generated descriptions up to a stated size.
"""

from __future__ import annotations

from dataclasses import replace
from functools import lru_cache

from xtrace.symbols.proof.description import REST, SAVED, UNCHANGED, Access, Cell, Description, Path
from xtrace.symbols.proof.operational import check
from xtrace.symbols.proof.templates import IRET, TAKE


def _stores(value: int) -> tuple[Access, ...]:
    """Return the right ways to set M: a store that also covers P must be locked."""
    byte, both = ((Cell.M, value),), ((Cell.P, UNCHANGED), (Cell.M, value))
    return Access(writes=byte), Access(writes=byte, drains=True), Access(writes=both, drains=True)


_CLEARS = (Access(writes=((Cell.P, 0),)), Access(writes=((Cell.P, 0),), drains=True))
_READ = Access((Cell.S,))
_CLEARS_REST = Access(writes=((Cell.S, REST),), drains=True)
_MASKS = _stores(1)
_ENTERS = Access(xen=True)
#: What must follow a store that may clear M: an entry into Xen, or a test of P and what it leads to.
_ANSWERS = (
    (_ENTERS,),
    (Access((Cell.P,), when=((Cell.P, 0),)),),
    (Access((Cell.P,), when=((Cell.P, 1),)), _ENTERS),
    (Access((Cell.P,), when=((Cell.P, 1), (Cell.M, 0))), _ENTERS),
    (Access((Cell.P,), when=((Cell.P, 1), (Cell.M, 1))),),
)
_STAYS_MASKED = (Access(when=((Cell.M, 1),)),)
_UNMASKS = {(store, *answer) for store in _stores(0) for answer in _ANSWERS}
_RESTORES = {(store, *answer) for store in _stores(SAVED) for answer in (*_ANSWERS, _STAYS_MASKED)}

_KNOWN = 4096


def fault_of(description: Description) -> str:
    """Return what goes wrong for a description, "" if nothing does.

    Raises:
        ValueError: the description has more states than the checker allows.
    """
    return "" if is_right(description) else _checked(description)


@lru_cache(maxsize=_KNOWN)
def _checked(description: Description) -> str:
    return check(description).fault


def is_right(description: Description) -> bool:
    """Return whether the rule shows that a description is right; if it does not, only the checker knows."""
    if not description.stable or not all(map(handles, description.handlers)):
        return False
    if all(start == (0, 0) for start in description.starts):
        return all(access.fence or access in _MASKS for path in description.paths for access in path)
    # A saved 1 must be restored.
    opens = _RESTORES if any(saved for _, saved in description.starts) else _RESTORES | _UNMASKS
    return description.starts_masked and all(_bare(path) in opens for path in description.paths)


def _bare(path: Path) -> Path:
    """Return the accesses of a path: a thread that has not moved reads the same pointer again."""
    return tuple(replace(access, pointer=0) for access in path if not access.fence)


def handles(path: Path) -> bool:
    """Return whether a handler clears P, then takes S with an access that the clear cannot follow."""
    accesses = [access for access in path if not access.fence]
    if len(accesses) < 3 or path[-1] != IRET:
        return False
    clear, take, *rest = accesses[:-1]
    if clear not in _CLEARS:
        return False
    if take == TAKE:
        return not rest
    ordered = any(access.drains for access in path[path.index(clear) : path.index(take)])
    return ordered and take == _READ and rest == [_CLEARS_REST]
