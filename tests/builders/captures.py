"""Make pools of captures to compare: measured once, then split in many ways."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from builders.host import simulate
from builders.partials import partial
from builders.wakes import TSC_HZ, wakes
from xtrace.analysis.comparison.figures import Measured, measure
from xtrace.analysis.summary.summary_file import Summary
from xtrace.analysis.summary.summary_head import Origin

HOST_HZ = 2_600_000_000


def measured(data: bytes, name: str, hz: float) -> Measured:
    """Return the figures of a trace."""
    return measure(Summary(partial(data), Origin(name)), hz)


def hosts(seeds: Sequence[int], duration_cycles: int = 60_000_000) -> list[Measured]:
    """Return captures of a busy host with three domains."""
    domains = [(0, 2, "pv"), (3, 1, "pv"), (4, 1, "hvm")]
    return [
        measured(simulate(seed, 2, domains, duration_cycles).data, f"host {seed}", HOST_HZ)  # type: ignore[arg-type]
        for seed in seeds
    ]


def woken(seeds: Sequence[int], factor: float = 1.0) -> list[Measured]:
    """Return captures of a vCPU whose times from wake to running are multiplied by ``factor``."""
    return [
        measured(wakes(seed, wake_cycles=10_000 * factor), f"wakes {seed} x {factor}", TSC_HZ)
        for seed in seeds
    ]


def made_up(name: str, values: dict[str, dict[str, float]], like: Measured) -> Measured:
    """Return a capture with these figures."""
    return replace(like, name=name, values=values, vcpu_counts=dict.fromkeys(values, 1))
