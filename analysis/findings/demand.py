"""How much each vCPU ran and wanted to run, and what an equal share of the pCPUs would have given it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from xtrace.analysis.findings.evidence import guests
from xtrace.analysis.findings.idle_waits import IdleWait
from xtrace.analysis.measures.measures import Measures
from xtrace.analysis.state_machine.keys import domain_of
from xtrace.analysis.state_machine.metrics import Metric

_WAITING = (Metric.RUNNABLE_WAKE, Metric.RUNNABLE_PREEMPT, Metric.RUNNABLE_OTHER)


@dataclass(frozen=True, slots=True)
class Demand:
    """What a vCPU wanted and got.

    Attributes:
        key: of the vCPU.
        waiting_cycles: it could run and did not; wait_count: how often.
        equal_cycles: what it would have run if all vCPUs that wanted to run had shared the time that they
            ran in all, by weight, and none had got more than it wanted.
    """

    key: int
    running_cycles: int
    waiting_cycles: int
    wait_count: int
    equal_cycles: float

    @property
    def domain(self) -> int:
        """Its domain."""
        return domain_of(self.key)

    @property
    def wanted_cycles(self) -> int:
        """Time in which it ran or could have run."""
        return self.running_cycles + self.waiting_cycles


def demands(
    measures: Measures,
    weights: Mapping[int, float] | None = None,
    *,
    idle: Mapping[int, IdleWait] | None = None,
) -> list[Demand]:
    """Return the demand of each guest's vCPU.

    Args:
        weights: of a vCPU by domain; 1 for domains without one.
        idle: waits by vCPU that are left out, because no other vCPU caused them.
    """
    without = {key: wait.cycles for key, wait in (idle or {}).items()}
    running = _sums(measures, (Metric.RUNNING,))
    waiting = _sums(measures, _WAITING)
    keys = sorted(running.keys() | waiting.keys())
    ran = [running.get(key, (0, 0))[0] for key in keys]
    waited = [max(waiting.get(key, (0, 0))[0] - without.get(key, 0), 0) for key in keys]
    level = equal_shares(
        [a + b for a, b in zip(ran, waited, strict=True)],
        [(weights or {}).get(domain_of(key), 1.0) for key in keys],
        sum(ran),
    )
    return [
        Demand(key, ran[at], waited[at], waiting.get(key, (0, 0))[1], level[at])
        for at, key in enumerate(keys)
    ]


def equal_shares(wanted: Sequence[float], weights: Sequence[float], total: float) -> list[float]:
    """Share a total by weight so that none gets more than it wants; what it leaves, the others share."""
    shares = [0.0] * len(wanted)
    left = float(total)
    # Those that want least for their weight are served first, and whole if they can be.
    order = sorted(
        (at for at in range(len(wanted)) if weights[at] > 0), key=lambda at: wanted[at] / weights[at]
    )
    weight = sum(weights[at] for at in order)
    for at in order:
        shares[at] = min(wanted[at], left * weights[at] / weight)
        left -= shares[at]
        weight -= weights[at]
    return shares


def _sums(measures: Measures, metrics: Sequence[Metric]) -> dict[int, tuple[int, int]]:
    """Return time and count in some states by vCPU, that of intervals with one end recorded with it."""
    found: dict[int, tuple[int, int]] = {}
    for metric in metrics:
        for row in guests(measures.all_times(metric)).rows():
            cycles, count = found.get(row["a"], (0, 0))
            more = row["count"] + row["cut_count"]
            found[row["a"]] = (cycles + row["total_cycles"], count + more)
    return found
