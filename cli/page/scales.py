"""Scales: where a value is between the two ends of an axis, and which values are marked there."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Protocol

#: Marks this far apart have room for their labels on a phone, as a share of the width.
_APART = 0.3


class Scale(Protocol):
    """An axis."""

    @property
    def name(self) -> str:
        """What kind of scale it is, for readers of the page's source."""

    @property
    def low(self) -> float:
        """The value at its beginning."""

    @property
    def high(self) -> float:
        """The value at its end."""

    def at(self, value: float) -> float:
        """Return the place of a value, 0 to 1; what is outside is put to the nearer end."""

    def ticks(self) -> list[tuple[float, bool]]:
        """Return the values to mark, and whether each is also marked where there is little room."""


@dataclass(frozen=True, slots=True)
class Linear:
    """Equal steps are equally far apart."""

    low: float
    high: float

    @property
    def name(self) -> str:
        """Its kind."""
        return "linear"

    def at(self, value: float) -> float:
        """Return the place of a value."""
        return _clipped((value - self.low) / (self.high - self.low))

    def ticks(self) -> list[tuple[float, bool]]:
        """Return some six values of one, two or five times a power of ten."""
        step = _round_step((self.high - self.low) / 6)
        first = math.ceil(self.low / step - 1e-9)
        last = math.floor(self.high / step + 1e-9)
        return [(place * step, place % 2 == 0) for place in range(first, last + 1)]


@dataclass(frozen=True, slots=True)
class Log:
    """Equal ratios are equally far apart."""

    low: float
    high: float

    @property
    def name(self) -> str:
        """Its kind."""
        return "log"

    def at(self, value: float) -> float:
        """Return the place of a value."""
        if value <= self.low:
            return 0.0
        return _clipped(math.log(value / self.low) / math.log(self.high / self.low))

    def ticks(self) -> list[tuple[float, bool]]:
        """Return the powers of ten; twice and five times these, too, where there are few."""
        first, last = math.ceil(math.log10(self.low) - 1e-9), math.floor(math.log10(self.high) + 1e-9)
        if last - first >= 2:
            return [(10.0**power, power % 2 == last % 2) for power in range(first, last + 1)]
        found = [factor * 10.0**power for power in range(first - 1, last + 1) for factor in (1, 2, 5)]
        return [(value, True) for value in found if self.low * 0.999 <= value <= self.high * 1.001]


@dataclass(frozen=True, slots=True)
class Signed:
    """Linear near zero, logarithmic away from it on both sides.

    Attributes:
        unit: where one goes over into the other.
    """

    low: float
    high: float
    unit: float

    @property
    def name(self) -> str:
        """Its kind, with its unit."""
        return f"signed {self.unit:g}"

    def at(self, value: float) -> float:
        """Return the place of a value."""
        low, high = self._raw(self.low), self._raw(self.high)
        return _clipped((self._raw(value) - low) / (high - low))

    def _raw(self, value: float) -> float:
        return math.asinh(value / self.unit)

    def ticks(self) -> list[tuple[float, bool]]:
        """Return zero and the powers of ten from the unit on."""
        first = math.ceil(math.log10(self.unit))
        found = [(0.0, True)]
        for sign, end in ((-1, -self.low), (1, self.high)):
            power = first
            while 10.0**power <= end * 1.0001:
                value = sign * 10.0**power
                is_last = 10.0 ** (power + 1) > end
                found.append((value, is_last and abs(self.at(value) - self.at(0)) >= _APART))
                power += 1
        return sorted(found)


def log_around(values: Iterable[float], least: float = 1.0) -> Log:
    """Return a logarithmic scale around the positive values, between one, two or five times powers of ten."""
    positive = [value for value in values if value > 0] or [least]
    below = 10.0 ** math.floor(math.log10(max(min(positive), 1e-30)))
    above = 10.0 ** math.floor(math.log10(max(max(positive), 1e-30)))
    low = next(below * factor for factor in (5, 2, 1) if below * factor <= min(positive) * 1.0001)
    high = next(above * factor for factor in (1, 2, 5, 10) if above * factor >= max(positive) * 0.9999)
    return Log(low, high if high > low else low * 10)


def signed_around(values: Iterable[float], unit: float) -> Signed:
    """Return a scale with zero that holds all values, with some room at the ends."""
    found = [value for value in values if math.isfinite(value)]
    low, high = min([0.0, *found]), max([unit, *found])
    return Signed(low * 1.3 if low < 0 else -unit / 4, high * 1.3, unit)


def _clipped(place: float) -> float:
    return min(max(place, 0.0), 1.0)


def _round_step(step: float) -> float:
    power = 10.0 ** math.floor(math.log10(step))
    return next(power * factor for factor in (1, 2, 5, 10) if power * factor >= step * 0.999)
