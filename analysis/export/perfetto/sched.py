"""Which vCPU runs on which pCPU, as the scheduler's events of Linux: switches, and wakes where the waker ran.

A switch is at the record that the next vCPU runs.  The time that Xen takes to switch, between the records
that one vCPU stopped and that the other one runs, counts as the first one's.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise

import numpy as np

from xtrace.analysis.export.perfetto import wire
from xtrace.analysis.export.perfetto.threads import UNKNOWN, thread_name, tid_of
from xtrace.analysis.export.rows import Rows
from xtrace.analysis.state_machine.keys import high_of
from xtrace.analysis.state_machine.metrics import STATE_INIT, STATE_LOST, WAKE_CYCLES_MOST, Detail
from xtrace.probes.reader.batches import I64

#: FtraceEventBundle, and its compact_sched.
_CPU, _COMPACT = 1, 4
_SWITCH_TIME, _PREV_STATE, _NEXT_PID, _NEXT_PRIO, _COMMS, _NEXT_COMM = 1, 2, 3, 4, 5, 6
_WAKE_TIME, _WOKEN_PID, _TARGET_CPU, _WOKEN_PRIO, _WOKEN_COMM, _WAKE_FLAGS = 7, 8, 9, 10, 11, 12
_PRIO = 120
#: Linux's task states: runnable R, sleeping S, stopped T; X, of a task that is dead, where it is not known.
RUNNABLE, SLEEPING, STOPPED, NOT_KNOWN = 0, 1, 4, 16
_STATES = np.full(STATE_INIT + 2, NOT_KNOWN, np.int64)
_STATES[:4] = RUNNABLE, RUNNABLE, SLEEPING, STOPPED
#: No pCPU has run the woken vCPU yet: Xen chooses one later.
_NO_CPU = 0


@dataclass(slots=True)
class _Left:
    """A vCPU that left a pCPU, which runs no other one yet: when, and its runstate from then on."""

    tsc: int
    state: int


@dataclass(frozen=True, slots=True)
class Bundle:
    """The events of a pCPU: its number, the content of a packet, and the vCPUs in it."""

    pcpu: int
    content: bytes
    vcpus: I64
    switch_count: int
    wake_count: int


class Scheduling:
    """Makes bundles of the rows of one batch after the other."""

    def __init__(self) -> None:
        self._left: dict[int, _Left] = {}
        self._last: dict[int, int] = {}

    def bundles(self, rows: Rows, ns_of: Callable[[I64], I64]) -> list[Bundle]:
        """Return a bundle for each pCPU with events.

        Args:
            rows: those of a batch; RUN, RUN_BEGIN, STATE and WAKE are used.
            ns_of: gives the time of TSCs.
        """
        _, after = rows.runs()
        found = rows.only(Detail.RUN, Detail.RUN_BEGIN, Detail.WAKE)
        if not len(found):
            return []
        is_run = found.metric == Detail.RUN
        states = np.full(len(found), -1)
        states[is_run] = after
        pcpus = np.where(
            is_run, found.b >> 1, np.where(found.metric == Detail.WAKE, high_of(found.b), found.b)
        )
        order = np.argsort(pcpus, kind="stable")
        pcpus, states, found = pcpus[order], states[order], found.where(order)
        what, keys, tscs = found.metric, found.a, found.end
        starts = np.flatnonzero(np.diff(pcpus, prepend=-1))
        bundles = []
        for start, stop in pairwise([*starts.tolist(), len(pcpus)]):
            here = slice(start, stop)
            pcpu = int(pcpus[start])
            bundle = self._bundle(pcpu, what[here], keys[here], tscs[here], states[here], ns_of)
            if bundle is not None:
                bundles.append(bundle)
        return bundles

    def _bundle(
        self, pcpu: int, what: I64, keys: I64, tscs: I64, states: I64, ns_of: Callable[[I64], I64]
    ) -> Bundle | None:
        is_switch = what != Detail.WAKE
        times, prevs, nexts = self._switches(
            pcpu, what[is_switch], keys[is_switch], tscs[is_switch], states[is_switch]
        )
        woken, woken_at = keys[~is_switch], tscs[~is_switch]
        if not len(times) and not len(woken):
            return None
        last = self._last.get(pcpu, 0)
        switch_ns = np.maximum.accumulate(np.maximum(ns_of(times), last))
        wake_ns = np.maximum.accumulate(np.maximum(ns_of(woken_at), last))
        self._last[pcpu] = max(int(switch_ns.max(initial=last)), int(wake_ns.max(initial=last)))
        vcpus, comms = np.unique(np.concatenate((nexts, woken)), return_inverse=True)
        compact = [wire.text(_COMMS, thread_name(key)) for key in vcpus.tolist()]
        if len(times):
            compact += [
                wire.message(_SWITCH_TIME, wire.varints(np.diff(switch_ns, prepend=0))),
                wire.message(_PREV_STATE, wire.varints(prevs)),
                wire.message(_NEXT_PID, wire.varints(tid_of(nexts))),
                wire.message(_NEXT_PRIO, wire.varints(np.full(len(times), _PRIO))),
                wire.message(_NEXT_COMM, wire.varints(comms[: len(times)])),
            ]
        if len(woken):
            compact += [
                wire.message(_WAKE_TIME, wire.varints(np.diff(wake_ns, prepend=0))),
                wire.message(_WOKEN_PID, wire.varints(tid_of(woken))),
                wire.message(_TARGET_CPU, wire.varints(np.full(len(woken), _NO_CPU))),
                wire.message(_WOKEN_PRIO, wire.varints(np.full(len(woken), _PRIO))),
                wire.message(_WOKEN_COMM, wire.varints(comms[len(times) :])),
                wire.message(_WAKE_FLAGS, wire.varints(np.zeros(len(woken), np.int64))),
            ]
        content = wire.message(1, wire.number(_CPU, pcpu), wire.message(_COMPACT, *compact))
        return Bundle(pcpu, content, vcpus, len(times), len(woken))

    def _switches(self, pcpu: int, what: I64, keys: I64, tscs: I64, states: I64) -> tuple[I64, I64, I64]:
        """Return TSC, state of the vCPU that leaves, and next vCPU of each switch of a pCPU."""
        left = self._left.pop(pcpu, None)
        if left is not None:
            what = np.concatenate(([Detail.RUN], what))
            keys = np.concatenate(([UNKNOWN], keys))
            tscs = np.concatenate(([left.tsc], tscs))
            states = np.concatenate(([left.state], states))
        is_begin = what == Detail.RUN_BEGIN
        is_lost = (states < 0) | (states >= STATE_LOST)
        follows = np.zeros(len(what), np.bool_)  # a run begins soon after this one ended
        follows[:-1] = ~is_begin[:-1] & is_begin[1:] & (np.diff(tscs) <= WAKE_CYCLES_MOST) & ~is_lost[:-1]
        # The end of a run is a switch of its own where nothing is known to follow it.
        is_own = ~is_begin & ~follows
        if len(what) and not is_begin[-1] and not is_lost[-1]:
            is_own[-1] = False
            self._left[pcpu] = _Left(int(tscs[-1]), int(states[-1]))
        prevs = np.full(len(what), NOT_KNOWN)
        prevs[1:] = np.where(follows[:-1], _STATES[states[:-1]], NOT_KNOWN)
        prevs = np.where(is_own, _STATES[np.where(is_lost, STATE_LOST, states)], prevs)
        kept = is_begin | is_own
        return tscs[kept], prevs[kept], np.where(is_own, UNKNOWN, keys)[kept]
