"""Simulate hosts, each a trace determined by its seed: calm, with losses, with skewed clocks."""

from __future__ import annotations

from builders.host import Kind, simulate

DOMAINS: list[tuple[int, int, Kind]] = [(0, 2, "pv"), (1, 3, "pv"), (5, 2, "hvm")]


def calm(seed: int) -> bytes:
    return simulate(seed, 3, DOMAINS, 30_000_000).data


def lossy(seed: int) -> bytes:
    return simulate(seed, 3, DOMAINS, 60_000_000, loss=0.4, ring_bytes=4088, poll_cycles=2_000_000).data


def skewed(seed: int) -> bytes:
    return simulate(seed, 3, DOMAINS, 30_000_000, skew_cycles=(0, 3000, -5000)).data


def lossy_and_skewed(seed: int) -> bytes:
    return simulate(
        seed, 3, DOMAINS, 60_000_000,
        loss=0.4, ring_bytes=4088, poll_cycles=2_000_000, skew_cycles=(40_000, 0, 3000),
    ).data  # fmt: skip


HOSTS = {"calm": calm, "lossy": lossy, "skewed": skewed, "lossy and skewed": lossy_and_skewed}
