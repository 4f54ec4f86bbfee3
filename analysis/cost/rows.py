"""The rows of the cost tables; xtrace.analysis.tables.cost documents their columns."""

from __future__ import annotations

from dataclasses import dataclass, field

#: Values of DomainRow.most_is: the greatest figure is the running time, which no cost exceeds; it is the
#: dearest context that was calibrated, which a cost is usually below; the least exceeds the running time.
BOUND, USUAL, CONTRADICTORY = "bound", "usual", "contradiction"
#: CheckRow.what of those that doubt the whole cost: the fences took longer than the domain ran, or than its
#: upcalls; the image is not the kernel that ran.
RUNNING_TIME, UPCALL_TIME, IMAGE = "running time", "upcall time", "image"


@dataclass(frozen=True, slots=True)
class DomainRow:
    """What the fences of one verdict cost a domain.

    With a contradiction there are no shares of the running time.
    """

    domain: int
    part: str
    site_count: int
    execution_low_count: float
    execution_high_count: float
    execution_low_per_s: float
    execution_high_per_s: float
    cost_low_cycles: float
    cost_hot_low_cycles: float
    cost_hot_cycles: float
    cost_high_cycles: float
    cost_low_cycles_per_s: float
    cost_high_cycles_per_s: float
    running_cycles: int
    cost_low_ratio: float
    cost_hot_low_ratio: float
    cost_hot_ratio: float
    cost_high_ratio: float
    most_is: str

    @property
    def cost_ratios(self) -> tuple[float, float, float, float]:
        """Shares of the running time, in the order of COST_ENDS."""
        return self.cost_low_ratio, self.cost_hot_low_ratio, self.cost_hot_ratio, self.cost_high_ratio


@dataclass(frozen=True, slots=True)
class UpcallRow:
    """What the fences of one verdict add to an upcall of a domain."""

    domain: int
    part: str
    upcall_least_count: float
    upcall_most_count: float
    execution_least_count: float
    execution_most_count: float
    added_low_cycles: float
    added_hot_low_cycles: float
    added_hot_cycles: float
    added_high_cycles: float
    cost_low_ratio: float
    cost_high_ratio: float
    all_low_cycles: float
    all_high_cycles: float
    entry: str
    unbounded_by: str


@dataclass(frozen=True, slots=True)
class SiteRow:
    """What the fences of a site cost."""

    domain: int
    address: str
    place: str
    kind: str
    fence: str
    part: str
    execution_low_count: float
    execution_high_count: float
    execution_low_per_s: float
    execution_high_per_s: float
    executions_quality: str
    executions_rule: str
    added_low_cycles: float
    added_hot_low_cycles: float
    added_hot_cycles: float
    added_high_cycles: float
    priced_by: str
    cost_low_cycles: float
    cost_hot_low_cycles: float
    cost_hot_cycles: float
    cost_high_cycles: float
    cost_low_ratio: float
    cost_high_ratio: float
    upcall_least_count: float
    upcall_most_count: float
    record_count: int


@dataclass(frozen=True, slots=True)
class EstimateRow:
    """One of two figures of the same quantity: the model's, or one measured without the model."""

    domain: int
    of: str
    estimate: str
    low_cycles: float
    high_cycles: float
    cost_low_ratio: float
    cost_high_ratio: float
    basis: str
    agrees: str


@dataclass(frozen=True, slots=True)
class CheckRow:
    """A comparison with the trace, and whether it agrees."""

    domain: int
    what: str
    meaning: str
    counted_count: float
    traced_low_count: float
    traced_high_count: float
    agrees: str


@dataclass(frozen=True, slots=True)
class CloseRow:
    """Two fenced sites close together: what both fences cost, and each alone."""

    domain: int
    first: str
    second: str
    fence: str
    both_hot_low_cycles: float
    both_hot_cycles: float
    first_hot_low_cycles: float
    first_hot_cycles: float
    second_hot_low_cycles: float
    second_hot_cycles: float
    saving_ratio: float
    context: str


@dataclass(frozen=True, slots=True)
class NeedRow:
    """What is missing for which domain or the host, why the cost needs it, and what supplies it."""

    about: str
    missing: str
    reason: str
    remedy: str


@dataclass(slots=True)
class Estimate:
    """The rows of the tables of the section cost.

    Attributes:
        shares: by domain, the share of its running time that all its fences take, in the order of COST_ENDS;
            without domains that have no price.
    """

    domains: list[DomainRow] = field(default_factory=list)
    upcalls: list[UpcallRow] = field(default_factory=list)
    sites: list[SiteRow] = field(default_factory=list)
    close: list[CloseRow] = field(default_factory=list)
    estimates: list[EstimateRow] = field(default_factory=list)
    checks: list[CheckRow] = field(default_factory=list)
    needs: list[NeedRow] = field(default_factory=list)
    shares: dict[int, tuple[float, ...]] = field(default_factory=dict)
