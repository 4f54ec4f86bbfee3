"""Decide quickly about the usual descriptions; everything else is left to the checker.

The rule: Xen reads M only on the pCPU that hosts the vCPU, so its stores need no fence.  A path that may
clear M must then test P and act on it, or enter Xen, before it sets M again; a plain store must not cover P;
and each handler must clear P, then read S after a locked access or a fence that drains, and clear only what
it read.  A test compares every answer with the checker, on all generated descriptions up to a stated size.
"""

from __future__ import annotations

from functools import lru_cache

from xtrace.symbols.proof.description import REST, SAVED, Access, Cell, Description, Path
from xtrace.symbols.proof.operational import check
from xtrace.symbols.proof.templates import IRET

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
    if any(access.is_wide and not access.drains for path in description.paths for access in path):
        return False
    masks = all(start == (0, 0) for start in description.starts)
    opens = all(mask for mask, _ in description.starts)
    if masks:
        return all(_only_masks(path) for path in description.paths)
    return opens and all(_opens(path, description.starts) for path in description.paths)


def handles(path: Path) -> bool:
    """Return whether a handler clears P, then takes S with an access that the clear cannot follow."""
    if len(path) < 3 or path[-1] != IRET:
        return False
    body = [access for access in path[:-1] if not access.fence or access.drains]
    clear, *rest = body
    if clear.fence or clear.xen or clear.reads or clear.writes != ((Cell.P, 0),):
        return False
    drained = clear.drains
    while rest and rest[0].fence:
        drained = True
        rest = rest[1:]
    take, *rest = rest or [clear]
    if take.reads != (Cell.S,) or take.when or take.xen:
        return False
    if take.writes == ((Cell.S, 0),):
        return take.drains and not any(access.reads or access.writes for access in rest)
    return not take.writes and (drained or take.drains) and _clears_rest(rest)


def _clears_rest(rest: list[Access]) -> bool:
    accesses = [access for access in rest if not access.fence]
    return (
        len(accesses) == 1
        and accesses[0].drains
        and accesses[0].writes == ((Cell.S, REST),)
        and not accesses[0].reads
    )


def _only_masks(path: Path) -> bool:
    return all(
        not access.xen and not access.when and not access.reads and access.writes in ((), ((Cell.M, 1),))
        for access in path
    )


def _opens(path: Path, starts: tuple[tuple[int, int], ...]) -> bool:
    """Return whether a path clears M once, and then answers for what arrived while it was set."""
    stores = [place for place, access in enumerate(path) if access.writes and not access.xen]
    if len(stores) != 1:
        return False
    store = path[stores[0]]
    value = store.written(Cell.M)
    if (
        value not in (0, SAVED)
        or store.written(Cell.P) not in (None, -2)
        or store.written(Cell.S) is not None
    ):
        return False
    if value == 0 and any(saved for _, saved in starts):
        return False
    if store.reads or store.when:
        return False
    before, after = path[: stores[0]], path[stores[0] + 1 :]
    if any(access.reads or access.xen or access.when for access in before):
        return False
    rest = [access for access in after if not access.fence]
    if len(rest) == 1 and not rest[0].reads and not rest[0].writes and not rest[0].xen:
        # The restored value was 1: M stays set.
        return value == SAVED and rest[0].when == ((Cell.M, 1),)
    return _answers(rest, value)


def _answers(rest: list[Access], value: int) -> bool:
    if not rest:
        return False
    if rest[0].xen:
        return len(rest) == 1 and not rest[0].writes
    test = rest[0]
    if test.reads != (Cell.P,) or test.writes or test.xen:
        return False
    if test.when in (((Cell.P, 0),), ((Cell.P, 1), (Cell.M, 1))):
        return len(rest) == 1
    acts = len(rest) == 2 and rest[1].xen and not rest[1].writes
    return acts and test.when in (((Cell.P, 1),), ((Cell.P, 1), (Cell.M, 0)))
