"""How wide an interval must be if one looks several times and may stop at any look.

Looks are planned in advance, at doubling numbers of blocks; each uses the same critical value, so large
that with 95 % probability the intervals of all looks contain the truth.  Then so does the one at which the
trial stops, whatever makes it stop.

Source: S. J. Pocock, Biometrika 64 (1977) 191; P. Armitage, C. K. McPherson, B. C. Rowe, JRSS A 132 (1969)
235, for the recursion.  SciPy and statsmodels have neither.
"""

from __future__ import annotations

from functools import cache
from itertools import pairwise

import numpy as np
import numpy.typing as npt
from scipy import optimize, stats

F64 = npt.NDArray[np.float64]

LEVEL = 0.95
#: The last look is at the whole time given, each one before at half as much.
LOOKS = 7
_GRID_POINTS = 401


def look_shares() -> tuple[float, ...]:
    """Return when the looks are, as shares of the whole."""
    return tuple(0.5 ** (LOOKS - 1 - look) for look in range(LOOKS))


@cache
def critical_value(looks: int = LOOKS) -> float:
    """Return how many standard errors each look's interval extends to both sides."""
    return float(optimize.brentq(lambda value: _inside(value, looks) - LEVEL, 1.5, 6.0, xtol=1e-6))


def critical_t(freedom: float) -> float:
    """Return the same for a standard error from a sample, with so many degrees of freedom."""
    return float(stats.t.isf(stats.norm.sf(critical_value()), freedom))


def look_level() -> float:
    """Return the two-sided level of one look's test."""
    return float(2 * stats.norm.sf(critical_value()))


def _inside(value: float, looks: int) -> float:
    """Return the probability that a Brownian motion stays within ``value`` standard errors at all looks."""
    shares = look_shares()[-looks:]
    grid: F64 = np.linspace(-1, 1, _GRID_POINTS) * value * np.sqrt(shares[0])
    density = stats.norm.pdf(grid, scale=np.sqrt(shares[0]))
    for before, share in pairwise(shares):
        reach = np.linspace(-1, 1, _GRID_POINTS) * value * np.sqrt(share)
        steps = stats.norm.pdf(reach[:, None] - grid[None, :], scale=np.sqrt(share - before))
        density = np.trapezoid(steps * density[None, :], grid, axis=1)
        grid = reach
    return float(np.trapezoid(density, grid))
