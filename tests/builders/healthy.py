"""Hosts without a fault, of any size and load, each determined by its seed."""

from __future__ import annotations

import math
import random
from dataclasses import dataclass

from builders.host import Kind, simulate

TSC_HZ = 2_600_000_000
#: A PV guest's vCPU runs for about this long before it blocks, an HVM guest's for less; both in slow motion.
_PACE = 8.0
_RUN_US, _HVM_RUN_US, _SLEEP_US = 150 * _PACE, 60 * _PACE, 400 * _PACE
_RECORDS = 60_000


@dataclass(frozen=True, slots=True)
class Healthy:
    """A host.

    Attributes:
        load: share of the pCPUs' time that its vCPUs are to use; what they do use differs.
    """

    pcpus: int
    load: float
    domains: list[tuple[int, int, Kind]]
    sleep: float
    duration_s: float
    data: bytes


def healthy(seed: int, *, most_pcpus: int = 130) -> Healthy:
    """Return a host of 1 to ``most_pcpus`` pCPUs, loaded by 1 to 95 %."""
    chance = random.Random(seed)
    pcpus = round(math.exp(chance.uniform(0, math.log(most_pcpus))))
    load = chance.uniform(0.01, 0.95)
    busy = chance.uniform(0.05, 0.5)
    sleep = (1 / busy - 1) * _RUN_US / _SLEEP_US
    vcpus = max(round(load * pcpus / busy), 1)
    domains: list[tuple[int, int, Kind]] = []
    left = vcpus
    while left:
        count = min(left, chance.choice([1, 1, 2, 2, 4, 8, 16]))
        kind: Kind = "pv" if not domains else chance.choice(["pv", "hvm"])
        domains.append((len(domains), count, kind))
        left -= count
    duration_s = min(max(_RECORDS / (20_000 * pcpus * max(load, 0.05)), 0.25), 3.0)
    data = simulate(
        chance.randrange(1 << 30),
        pcpus,
        domains,
        round(duration_s * TSC_HZ),
        tsc_hz=TSC_HZ,
        pace=_PACE,
        sleep=sleep,
        irqs=10 * max(pcpus / vcpus, 1),
        sends=0.1,
    ).data
    return Healthy(pcpus, load, domains, sleep, duration_s, data)
