"""The inputs of the cost other than the trace."""

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
    """A kernel image that a domain runs, with its sites."""

    @property
    def domain(self) -> int:
        """The domain's id."""

    @property
    def path(self) -> str:
        """The image's file."""

    @property
    def build_id(self) -> str:
        """The image's build-id in hex; "" if it has none."""

    @property
    def sites(self) -> SiteTable:
        """The image's sites."""

    def paths(self, never: Collection[int]) -> SitePaths:
        """Return the sites' path counts, without paths of an upcall that make a hypercall of ``never``."""

    def misplaced(self, offsets: Mapping[int, int]) -> int:
        """Return how many addresses are in the middle of an instruction.

        Args:
            offsets: by address in the image, its distance from the start of its function.
        """

    def behind(self) -> Mapping[int, int]:
        """Return the address of the instruction after each fence of the mask, restore and unmask sites."""


@dataclass(frozen=True, slots=True)
class InPlace:
    """What a trial of a domain's image found: the share of the running time that fences take, measured.

    Attributes:
        parts: verdicts of the fences that were removed.
        said: the result in a sentence.
    """

    low_ratio: float
    high_ratio: float
    parts: Collection[str]
    said: str


@dataclass(frozen=True, slots=True)
class CostInputs:
    """The inputs of the cost other than the trace.

    Attributes:
        kernels: the domains' images.
        calibration: of the host; None if not given.
        rates: the guests' counters, by domain.
        emulated: the traced host was emulated in software.
        unfenced: by domain, a capture of the same load with an unfenced kernel, and the domain in it.
        trials: of the domains' images, by domain.
    """

    kernels: Sequence[CostKernel] = ()
    calibration: Calibration | None = None
    rates: Mapping[int, Rates] = field(default_factory=dict)
    emulated: bool = False
    unfenced: Mapping[int, tuple[Measures, int]] = field(default_factory=dict)
    trials: Mapping[int, InPlace] = field(default_factory=dict)
