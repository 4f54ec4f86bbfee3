"""Points in a trace, durations and frequencies, as a user writes them."""

from __future__ import annotations

import re
from dataclasses import dataclass
from math import ceil
from typing import TYPE_CHECKING, Literal

from xtrace.probes.errors import TraceError
from xtrace.probes.tsc_rate import is_possible

if TYPE_CHECKING:
    from fractions import Fraction

_PER_SECOND = {"": 1, "s": 1, "ms": 10**3, "us": 10**6, "ns": 10**9}
_SECONDS = {"m": 60, "h": 3600}
_MULTIPLES = {"": 1, "k": 10**3, "m": 10**6, "g": 10**9}
_NUMBER = r"(?:\d{1,20}(?:\.\d{0,20})?|\.\d{1,20})(?:e[+-]?\d{1,2})?"
_TIME = re.compile(rf"({_NUMBER}) ?(s|ms|us|ns|m|h|)", re.ASCII | re.IGNORECASE)
_HZ = re.compile(rf"({_NUMBER}) ?([kmg]?)(?:hz)?", re.ASCII | re.IGNORECASE)
_CYCLES = re.compile(r"(\d{1,20})c", re.ASCII)
_TSC = re.compile(r"tsc:(\d{1,20}|0x[0-9a-f]{1,16})", re.ASCII | re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class Moment:
    """A point in a trace.

    Attributes:
        value: since the trace's first record, in the unit; a TSC of the host for "tsc".
        unit: "s", "c" (TSC cycles) or "tsc".
        text: as the user wrote it.
    """

    value: Fraction | int
    unit: Literal["s", "c", "tsc"]
    text: str

    @classmethod
    def parse(cls, text: str) -> Moment:
        """Parse ``1.5s``, ``300ms``, ``20us``, ``2m``, ``1.5`` (seconds), ``123c`` (cycles) or ``tsc:123``.

        Raises:
            ValueError: it is none of these.
        """
        word = text.strip()
        if found := _TSC.fullmatch(word):
            return cls(int(found[1], 0 if "x" in found[1].lower() else 10), "tsc", word)
        if found := _CYCLES.fullmatch(word):
            return cls(int(found[1]), "c", word)
        if found := _TIME.fullmatch(word):
            return cls(_seconds(found), "s", word if found[2] else f"{word}s")
        raise ValueError(f"{text!r} is not a time such as 1.5s, 300ms, 20us, 123c (cycles) or tsc:123")

    def cycles(self, first_tsc: int, hz: float | None) -> int:
        """Return the first whole cycle at or after this point, counted from the trace's first record.

        Args:
            first_tsc: TSC of the trace's first record.
            hz: TSC cycles per second, None if not known.

        Raises:
            TraceError: it is in seconds, and the rate is not known.
        """
        if self.unit == "c":
            return int(self.value)
        if self.unit == "tsc":
            return int(self.value) - first_tsc
        if hz is None:
            raise TraceError(f"{self.text} needs the TSC's rate, which is not known: {WITHOUT_RATE}")
        from fractions import Fraction

        return ceil(self.value * Fraction(hz))

    def __str__(self) -> str:
        """Return it as the user wrote it, with its unit."""
        return self.text


#: What to do where a trace's rate is not known.
WITHOUT_RATE = "give --cpu-hz, or a time in cycles such as 123c"


def duration_s(text: str) -> float:
    """Parse ``10``, ``10s``, ``500ms``, ``20us``, ``5m`` or ``1h``: seconds where no unit is given.

    Raises:
        ValueError: it is none of these.
    """
    found = _TIME.fullmatch(text.strip())
    if found is None:
        raise ValueError(f"{text!r} is not a duration such as 10s, 500ms or 5m")
    return float(_seconds(found))


def _seconds(found: re.Match[str]) -> Fraction:
    from fractions import Fraction

    unit = found[2].lower()
    return Fraction(found[1]) * _SECONDS.get(unit, 1) / _PER_SECOND.get(unit, 1)


def frequency_hz(text: str) -> int:
    """Parse ``2.8G``, ``2800M``, ``2.8e9`` or ``2800000000``: a TSC's cycles per second.

    Raises:
        ValueError: it is none of these, or out of tsc_rate.HZ_RANGE.
    """
    found = _HZ.fullmatch(text.strip())
    if found is None:
        raise ValueError(f"{text!r} is not a frequency such as 2.8G or 2800M")
    from fractions import Fraction

    hz = round(Fraction(found[1]) * _MULTIPLES[found[2].lower()])
    if not is_possible(hz):
        raise ValueError(f"{text} is not between 1M and 20G")
    return hz
