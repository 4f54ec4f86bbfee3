"""Follow the delivery of events through batches of records, where a Xen records it (docs/xen-records.md).

It begins with the first record of event delivery, so traces without one take no time.
"""

from __future__ import annotations

import numpy as np

from xtrace.analysis.state_machine import delivery_loops as loops
from xtrace.analysis.state_machine.delivery_columns import E, N, Q
from xtrace.analysis.state_machine.metrics import S_COLUMNS
from xtrace.analysis.state_machine.secrets import secrets
from xtrace.probes import event_ids as ids
from xtrace.probes.catalog.lookup import by_id
from xtrace.probes.format import CPU_CHANGE, EVENT_MASK, LOST_RECORDS, MAX_PCPUS, WRAP_BUFFER
from xtrace.probes.reader.batches import HOLE_SHAPES, HOLE_TO_END, I64, MAX_SHAPES, RecordBatch, ShapeTable

#: vCPUs that are followed; all further ones share the last entry.
_MAX_VCPUS = 4096
_FIXED = {
    (LOST_RECORDS, 4): loops.LOST,
    (ids.CONTINUE_RUNNING, 1): loops.CONTINUE,
    (ids.WAKE, 2): loops.WAKE,
    (ids.EVTCHN_NOTIFY, 3): loops.NOTIFY,
    (ids.EVTCHN_PENDING, 2): loops.PENDING,
    (ids.EVTCHN_UPCALL, 4): loops.UPCALL,
    (ids.EVTCHN_INJECT, 2): loops.INJECT,
    (ids.HVM_VMENTRY, 0): loops.ENTRY,
}
_RECORDED = (ids.EVTCHN_NOTIFY, ids.EVTCHN_PENDING, ids.EVTCHN_UPCALL, ids.EVTCHN_INJECT)
_CALLS = (ids.PV_BASE | ids.PV_HYPERCALL_V2, ids.PV_HYPERCALL_SUBCALL)
_GUEST_GROUPS = (ids.PV_BASE, ids.PV_BASE_4_0, ids.PV_HYPERCALL_SUBCALL & ids.GROUP_MASK)


def kind_of(event: int, words: int) -> tuple[int, int]:
    """Return how the loop treats records of a shape, and the parameter of that kind."""
    if event in HOLE_SHAPES:
        return loops.ENDED if event == HOLE_TO_END else loops.LOST, 0
    if (event, words) in _FIXED:
        return _FIXED[event, words], 0
    if event in (WRAP_BUFFER, CPU_CHANGE) or not by_id(event):
        return loops.UNSEEN, 0
    if event & (EVENT_MASK & ~ids.RUNSTATE_BITS) == ids.RUNSTATE_CHANGE and words >= 1:
        return loops.RUNSTATE, (event >> 8 & 3) << 4 | (event >> 4 & 3)
    if event & ids.GROUP_MASK in _GUEST_GROUPS:
        return loops.GUEST, int(event in _CALLS and words > 0)
    return loops.OTHER, 0


class Delivery:
    """The state of event delivery."""

    def __init__(self) -> None:
        self._known = 0
        self._has_begun = False
        self._telling = np.zeros(0, np.bool_)  # whether a shape is of event delivery

    def feed(self, batch: RecordBatch) -> list[I64]:
        """Return the intervals that end in ``batch``, as arrays of int64 [n, 4] of their own."""
        self._learn(batch.shapes)
        pieces: list[I64] = []
        row = self._begin(batch)
        while row < len(batch):
            size = max(2 * (len(batch) - row), loops.LOSS_MARGIN * int(self._glob[Q.TOUCHED_COUNT]))
            out = np.empty((size + 2 * loops.OUT_MARGIN, 4), np.int64)
            self._glob[Q.OUT] = 0
            row = loops.follow(
                batch.tsc, batch.pcpu, batch.shape, batch.start, batch.words, row,
                self._shapes, self._glob, self._pcpus, self._vcpus, self._slots, out,
            )  # fmt: skip
            pieces.append(out[: int(self._glob[Q.OUT])])
        return pieces

    def _learn(self, shapes: ShapeTable) -> None:
        size = shapes.size  # the reader may add to it meanwhile
        if size == self._known:
            return
        events, words = shapes.event, shapes.words
        if not self._has_begun:
            self._telling = np.isin(events[:size], _RECORDED)
            if not self._telling.any():
                return
        if self._known == 0:
            self._make_room()
        for shape in range(max(self._known, 1), size):
            event, extra = int(events[shape]), int(words[shape])
            self._shapes[shape] = (*kind_of(event, extra), event, extra)
        self._known = size

    def _begin(self, batch: RecordBatch) -> int:
        """Return the row of ``batch`` to begin with: that of the first record of event delivery, or after."""
        if self._has_begun:
            return 0
        if self._telling.any():
            found = np.flatnonzero(self._telling[batch.shape])
            self._has_begun = len(found) > 0
            if self._has_begun:
                return int(found[0])
        return len(batch)

    def _make_room(self) -> None:
        self._shapes = np.zeros((MAX_SHAPES, S_COLUMNS), np.int64)
        self._glob = np.zeros(Q.COLUMNS, np.int64)
        self._glob[Q.TSC_LIMIT] = 1 << 62
        self._glob[Q.SECRET] = secrets(1)[0]
        self._pcpus = np.zeros((MAX_PCPUS, N.COLUMNS), np.int64)
        self._pcpus[:, [N.CURRENT, N.NOTE_VCPU]] = -1
        self._vcpus = np.zeros((_MAX_VCPUS, E.COLUMNS), np.int64)
        self._vcpus[-1, E.KEY] = 0x8000_FFFE
        self._slots = np.full(4 * _MAX_VCPUS, -1, np.int32)
