"""Log-linear histograms in plain Python, with the report's buckets so that both can be added and compared.

Values below 64 have a bucket each; above, each octave has 64, so that a quantile is within 1/128 of a
value that was measured.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

#: log2 of the buckets per octave.
SUB_BITS = 6
SUB_BUCKETS = 1 << SUB_BITS


def bucket_of(value: int) -> int:
    """Return the number of the bucket that holds ``value``, which must not be negative."""
    shift = value.bit_length() - SUB_BITS - 1
    return value if shift <= 0 else SUB_BUCKETS * shift + (value >> shift)


def bounds_of(bucket: int) -> tuple[int, int]:
    """Return the least and the greatest value that a bucket holds."""
    octave, place = divmod(bucket, SUB_BUCKETS)
    if octave == 0:
        return place, place
    shift = octave - 1
    least = (SUB_BUCKETS + place) << shift
    return least, least + (1 << shift) - 1


class Histogram:
    """Times in cycles: the number in each bucket, and the exact count and extremes.

    Attributes:
        count: all values, including negative ones, which have no bucket.
        least, greatest: of all values; 0 if there are none.
        buckets: count by bucket number.
    """

    __slots__ = ("buckets", "count", "greatest", "least")

    def __init__(self) -> None:
        self.count = 0
        self.least = 0
        self.greatest = 0
        self.buckets: dict[int, int] = {}

    def put(self, value: int) -> None:
        """Count ``value``; a negative one is due to TSCs that differ."""
        if self.count == 0:
            self.least = self.greatest = value
        elif value < self.least:
            self.least = value
        elif value > self.greatest:
            self.greatest = value
        self.count += 1
        if value >= 0:
            shift = value.bit_length() - SUB_BITS - 1
            bucket = value if shift <= 0 else SUB_BUCKETS * shift + (value >> shift)
            self.buckets[bucket] = self.buckets.get(bucket, 0) + 1

    def add(self, other: Histogram) -> None:
        """Add everything that ``other`` holds."""
        if other.count == 0:
            return
        self.least = min(self.least, other.least) if self.count else other.least
        self.greatest = max(self.greatest, other.greatest) if self.count else other.greatest
        self.count += other.count
        add_buckets(self.buckets, other.buckets)

    def quantile(self, q: float) -> float:
        """Return the middle of the bucket that holds quantile ``q``, within the extremes; NaN if empty."""
        total = sum(self.buckets.values())
        if total == 0:
            return math.nan
        rank = max(math.ceil(q * total), 1)
        for bucket in sorted(self.buckets):
            rank -= self.buckets[bucket]
            if rank <= 0:
                least, greatest = bounds_of(bucket)
                return min(max((least + greatest) / 2, self.least), self.greatest)
        raise AssertionError("a rank beyond the count")


def add_buckets(buckets: dict[int, int], more: Mapping[int, int]) -> None:
    """Add the counts of ``more`` to ``buckets``."""
    for bucket, count in more.items():
        buckets[bucket] = buckets.get(bucket, 0) + count
