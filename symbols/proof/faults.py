"""Name what is wrong with the accesses of a site.

Whether anything is wrong, the checker decides (or the rule in its place); the names follow from what the
paths have or lack.  A test holds the two against each other: a description has a name exactly if it fails.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

from xtrace.symbols.proof.description import SAVED, Access, Cell, Description, Path, Role
from xtrace.symbols.proof.rule import fault_of
from xtrace.symbols.proof.templates import USUAL_HANDLER


@dataclass(frozen=True, slots=True)
class Fault:
    """One thing that is wrong.

    Attributes:
        name: of the hazard.
        at: addresses of the accesses that show it, ascending.
        everywhere: on each path of the site, not only on some.
    """

    name: str
    at: tuple[int, ...] = ()
    everywhere: bool = True


def faults_of(description: Description) -> tuple[Fault, ...]:
    """Return what is wrong with a site's own accesses, with the usual handler; empty if nothing is.

    If a description is too long to check, its names are returned without the checker's word.
    """
    if description.role is Role.HANDLER:
        own, named = description, tuple(_disorder(description.handlers))
    else:
        own, named = replace(description, handlers=(USUAL_HANDLER,)), tuple(_of_site(description))
    try:
        fails = bool(fault_of(own))
    except ValueError:
        return named
    return (named or (Fault("lost-upcall"),)) if fails else ()


def _of_site(description: Description) -> Iterator[Fault]:
    plain = [access for path in description.paths for access in path if not access.drains]
    if any(access.is_wide for access in plain):
        yield Fault("wide-store")
    uses = [access for access in plain if access.written(Cell.S) is not None]
    if uses:
        yield Fault("unlocked-handler", _addresses(uses))
    if description.role is Role.OPEN:
        yield from _unanswered(description.paths)


def _unanswered(paths: tuple[Path, ...]) -> Iterator[Fault]:
    """Yield what is wrong if a path clears M and then neither tests P nor enters Xen."""
    missing = [path for path in paths if not _answers(path) and not _stays_masked(path)]
    if not missing:
        return
    before = _addresses(access for path in missing for access in path if Cell.P in access.reads)
    tested = any(Cell.P in access.reads for path in paths for access in path[_opens(path) :])
    if before and not tested:
        yield Fault("test-before-store", before)
    else:
        yield Fault("no-pending-test", (), not any(map(_answers, paths)))


def _answers(path: Path) -> bool:
    """Return whether a path tests P or enters Xen at or after its store that may clear M."""
    return any(access.xen or Cell.P in access.reads for access in path[_opens(path) :])


def _stays_masked(path: Path) -> bool:
    return any((Cell.M, 1) in access.when for access in path)


def _opens(path: Path) -> int:
    """Return the place of the first store that may clear M."""
    return next(
        (
            place
            for place, access in enumerate(path)
            if access.written(Cell.M) in (0, SAVED) and not access.xen
        ),
        0,
    )


def _disorder(handlers: tuple[Path, ...]) -> Iterator[Fault]:
    """Yield what is wrong with the order of a clear and a take on the paths of a handler."""
    unlocked: list[Access] = []
    early: list[Access] = []
    misses = False
    for path in handlers:
        clear = next(place for place, access in enumerate(path) if access.written(Cell.P) == 0)
        after = path[clear:]
        take = next((access for access in after if Cell.S in access.reads), None)
        if take is None:
            before = [access for access in path[:clear] if Cell.S in access.reads]
            early += before
            misses |= not before
        elif not any(access.drains for access in (take, *after[: after.index(take)])):
            unlocked.append(take)
        else:
            unlocked += [
                access for access in after if access.written(Cell.S) is not None and not access.drains
            ]
    if unlocked:
        yield Fault("unlocked-handler", _addresses(unlocked))
    elif early:
        yield Fault("take-before-clear", _addresses(early))
    elif misses:
        yield Fault("clear-without-take")


def _addresses(accesses: Iterator[Access] | list[Access]) -> tuple[int, ...]:
    return tuple(sorted({access.address for access in accesses}))
