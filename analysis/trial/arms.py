"""The arms of a trial: which of the exchanges each of them makes."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Literal

from xtrace.analysis.trial.result import AGAIN, ALL, DOSE
from xtrace.probes.trial.target import Patch, TrialError
from xtrace.symbols.patching.exchange import Dose, Exchange

By = Literal["all", "callee", "function", "site"]
#: Each arm takes the same time in a block: more arms, wider intervals.
MOST_GROUPS = 16
INLINE = "inline"


@dataclass(frozen=True, slots=True)
class Arm:
    """An arm.

    Attributes:
        kind: of its group.
        members: numbers of the exchanges that it makes.
        added_count: fences that it adds to each function with room for them.
    """

    name: str
    kind: str
    members: frozenset[int]
    added_count: int = 0


def arms(exchanges: Sequence[Exchange], by: By, doses: Sequence[Dose] = ()) -> tuple[Arm, ...]:
    """Return the arms: as it is, the same again (A/A), the groups, more fences, and all.

    Raises:
        TrialError: too many groups.
    """
    groups: dict[str, set[int]] = {}
    for number, item in enumerate(exchanges):
        if by != "all":
            groups.setdefault(_name(item, by), set()).add(number)
    if len(groups) > MOST_GROUPS:
        raise TrialError(
            f"--by {by} makes {len(groups)} groups, at most {MOST_GROUPS}; --function FUNCTION chooses some"
        )
    everything = frozenset(range(len(exchanges)))
    if len(groups) == 1:
        groups = {}  # the one group is all
    most = min((dose.most for dose in doses), default=0)
    kept = [Arm(name, by, frozenset(groups[name])) for name in groups]
    return (
        Arm("as is", "as is", frozenset()),
        Arm(AGAIN, "again", frozenset()),
        *kept,
        *(Arm(f"+{count}", DOSE, frozenset(), count) for count in range(1, most + 1)),
        Arm(ALL, "all", everything),
    )


def _name(item: Exchange, by: By) -> str:
    if by == "callee":
        return item.callee or f"{item.fence} {INLINE}"
    name = item.symbol or f"{item.address:#x}"
    return name if by == "function" else f"{name} {item.address:#x}"


def only(exchanges: Sequence[Exchange], functions: Collection[str]) -> tuple[Exchange, ...]:
    """Return the exchanges in some functions, all for none.

    Raises:
        TrialError: a function has none.
    """
    if not functions:
        return tuple(exchanges)
    have = {item.symbol for item in exchanges}
    for name in functions:
        if name not in have:
            raise TrialError(
                f"--function {name}: no fence of this function can be exchanged; --plan lists them"
            )
    return tuple(item for item in exchanges if item.symbol in functions)


def patches(
    exchanges: Sequence[Exchange], doses: Sequence[Dose], chosen: Sequence[Arm], offset: int
) -> list[Patch]:
    """Return the bytes of each place in each arm; ``offset``: from addresses as linked to the target's."""
    exchanged = [
        Patch(
            item.address + offset,
            item.original,
            tuple(item.removed if number in arm.members else item.original for arm in chosen),
        )
        for number, item in enumerate(exchanges)
    ]
    added = [
        Patch(dose.address + offset, dose.original, tuple(dose.variants[arm.added_count] for arm in chosen))
        for dose in doses
    ]
    return exchanged + added
