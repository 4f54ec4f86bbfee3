"""Numbers and times in words, as reports print them; needs no NumPy."""

from __future__ import annotations

import math
from collections.abc import Iterable


def printable(text: str) -> str:
    """Return ``text`` with control characters escaped, so that a terminal does not obey them."""
    if text.isascii() and text.isprintable():
        return text
    return "".join(c if c.isprintable() else repr(c)[1:-1] for c in text)


def count_of(number: int, what: str) -> str:
    """Return a number with a noun, in the plural unless it is one."""
    return f"{number:,} {what}{'' if number == 1 else 's'}"


def ranges(numbers: Iterable[int]) -> str:
    """Return numbers of pCPUs as "0-3,8"."""
    runs: list[list[int]] = []
    for number in sorted(numbers):
        if runs and runs[-1][1] == number - 1:
            runs[-1][1] = number
        else:
            runs.append([number, number])
    return ",".join(str(low) if low == high else f"{low}-{high}" for low, high in runs)


def time_text(cycles: float, hz: float | None) -> str:
    """Return a time with three digits and a unit: of time, or cycles if the TSC rate is not known."""
    if math.isnan(cycles):
        return "-"
    if hz is None:
        return scaled(cycles) + "c"
    ns = cycles / hz * 1e9
    for unit, size in (("s", 1e9), ("ms", 1e6), ("us", 1e3)):
        if abs(ns) >= size:
            return digits(ns / size) + unit
    return f"{ns:.0f}ns"


def scaled(value: float) -> str:
    """Return a number with three digits and k, M, G or T."""
    for letter, size in (("T", 1e12), ("G", 1e9), ("M", 1e6), ("k", 1e4)):
        if abs(value) >= size:
            return digits(value / (1e3 if letter == "k" else size)) + letter
    return f"{value:.0f}"


def digits(value: float) -> str:
    """Return a number with three digits."""
    return f"{value:.2f}" if abs(value) < 9.995 else f"{value:.1f}" if abs(value) < 99.95 else f"{value:.0f}"


def share_text(value: float) -> str:
    """Return a share as a percentage with two significant digits, such as 0.034%."""
    percent = 100 * value
    if percent == 0:
        return "0%"
    digits = max(1 - math.floor(math.log10(abs(percent))), 0)
    return f"{percent:.{min(digits, 9)}f}%"
