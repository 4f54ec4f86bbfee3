"""What the cost is worked out from, beside the trace."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from xtrace.analysis.cost.guest_counters import Rates
    from xtrace.analysis.measures.measures import Measures
    from xtrace.probes.timing.calibration import Calibration
    from xtrace.symbols.sites.execution_bounds import SitePaths
    from xtrace.symbols.sites.model import SiteTable


class CostKernel(Protocol):
    """An image that a domain runs, with its sites."""

    @property
    def domain(self) -> int:
        """The domain's number."""

    @property
    def path(self) -> str:
        """The image's file."""

    @property
    def build_id(self) -> str:
        """The image's build-id in hex, "" if it has none."""

    @property
    def sites(self) -> SiteTable:
        """Its sites."""

    def paths(self, never: Collection[int]) -> SitePaths:
        """Count the executions of its sites on the ways of an upcall without the hypercalls ``never``."""

    def behind(self) -> Mapping[int, int]:
        """Return the address behind each fence of its mask, restore and unmask sites."""


@dataclass(frozen=True, slots=True)
class CostInputs:
    """What the cost is worked out from, beside the trace.

    Attributes:
        kernels: the domains' images.
        calibration: of the host; None where it was not given.
        rates: counters of the guests, by domain.
        emulated: software emulated the traced host.
        unfenced: by domain, a capture of the same load by a kernel without the fences, and its domain there.
    """

    kernels: Sequence[CostKernel] = ()
    calibration: Calibration | None = None
    rates: Mapping[int, Rates] = field(default_factory=dict)
    emulated: bool = False
    unfenced: Mapping[int, tuple[Measures, int]] = field(default_factory=dict)
