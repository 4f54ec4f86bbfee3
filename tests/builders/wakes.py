"""Write a trace of one vCPU that is woken repeatedly, with random times of a given distribution.

All times of a capture share a random factor, as different placement in memory would cause; within a capture,
each wake has its own time.
"""

from __future__ import annotations

import io
import random

from xtrace.probes.reader.writer import TraceWriter
from xtrace.probes.xen_abi import IDLE_DOMAIN

TSC_HZ = 2_000_000_000

_RUNSTATE, _WAKE, _BLOCK, _HYPERCALL = 0x21001, 0x28004, 0x28006, 0x20100D
_RUNNING, _RUNNABLE, _BLOCKED = 0, 1, 2
_SCHED_OP = 29 | 1 << 20
_IDLE = IDLE_DOMAIN << 16


def wakes(
    seed: int,
    *,
    domain: int = 1,
    count: int = 300,
    wake_cycles: float = 10_000,
    run_cycles: float = 40_000,
    sleep_cycles: float = 200_000,
    spread: float = 0.15,
    between: float = 0.01,
) -> bytes:
    """Return a trace of ``count`` wakes on one pCPU.

    Args:
        count: number of wakes.
        seed: the same seed gives the same bytes.
        wake_cycles, run_cycles, sleep_cycles: medians of wake to running, of running, and of blocked.
        spread: standard deviation of each time's logarithm, within a capture.
        between: standard deviation of the logarithm of the factor that all wake times of a capture share.
    """
    chance = random.Random(seed)
    factor = chance.lognormvariate(0, between)
    vcpu = domain << 16
    now = 1 << 40

    def after(median: float) -> int:
        nonlocal now
        now += max(round(median * chance.lognormvariate(0, spread)), 1)
        return now

    def change(who: int, old: int, new: int) -> None:
        writer.write(0, now, _RUNSTATE | old << 8 | new << 4, [who])

    out = io.BytesIO()
    with TraceWriter(out, 1) as writer:
        change(_IDLE, _RUNNABLE, _RUNNING)
        change(vcpu, _RUNNING, _BLOCKED)
        for number in range(count):
            after(sleep_cycles)
            writer.write(0, now, _WAKE, [domain, 0])
            change(vcpu, _BLOCKED, _RUNNABLE)
            after(wake_cycles * factor)
            change(_IDLE, _RUNNING, _RUNNABLE)
            change(vcpu, _RUNNABLE, _RUNNING)
            writer.set_current(0, domain, 0)
            after(run_cycles)
            writer.write(0, now, _HYPERCALL, [_SCHED_OP, 1])
            writer.write(0, now + 1, _BLOCK, [domain, 0])
            now += 2
            change(vcpu, _RUNNING, _BLOCKED)
            change(_IDLE, _RUNNABLE, _RUNNING)
            writer.set_current(0, IDLE_DOMAIN, 0)
            if number % 64 == 0:
                writer.poll()
    return out.getvalue()
