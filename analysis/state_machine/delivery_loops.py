"""Follow events from their sending to the guest's handler, in a compiled loop: records in, intervals out.

It is for traces of a Xen that records event delivery (docs/xen-records.md), and runs beside ``loops``.
``delivery_columns`` has the layout of the state; ``tests/oracle/delivery.py`` is the slow reference
implementation, which states the rules.
"""

from __future__ import annotations

import numpy as np

from xtrace.analysis.state_machine.delivery_columns import (
    EVENTS_MAX,
    FRAMES_MAX,
    INTERDOMAIN,
    IPI,
    NOBODY,
    WAITS_MAX,
    E,
    Mark,
    N,
    Q,
    Returned,
    Source,
    Waited,
)
from xtrace.analysis.state_machine.metrics import (
    METRIC_SHIFT,
    S_KIND,
    S_PARAM,
    S_WORDS,
    SET_BITS,
    WAKE_CYCLES_MOST,
    Metric,
)
from xtrace.probes.compiled.loop import I32, I64, I64_2D, U16, U32, inlined_part, loop, part
from xtrace.probes.xen_abi import IDLE_DOMAIN

#: How the loop treats records of a shape.
OTHER = 0  # it only separates the records before and after it
UNSEEN = 1  # an unknown record, which changes nothing
RUNSTATE = 2  # param = old << 4 | new
CONTINUE = 3
WAKE = 4
NOTIFY = 5
PENDING = 6
UPCALL = 7
INJECT = 8
ENTRY = 9
GUEST = 10  # param = 1 where the first word has a hypercall's number
LOST = 11
ENDED = 12  # nothing follows on the pCPU

#: The most intervals that one record can emit, except a loss.
OUT_MARGIN = 2 * EVENTS_MAX + WAITS_MAX + 16
#: The most intervals that a loss emits per vCPU.
LOSS_MARGIN = EVENTS_MAX + WAITS_MAX + FRAMES_MAX

_RUNNING, _RUNNABLE, _BLOCKED = 0, 1, 2
_OP_MASK = 0xF_FFFF
_STACK_SWITCH, _IRET, _SCHED_OP, _POLL = 3, 23, 29, 3


@inlined_part
def _put(glob, out, metric, key, b, value, tsc):
    row = glob[Q.OUT]
    out[row, 0] = (metric << METRIC_SHIFT) | key
    out[row, 1] = b
    out[row, 2] = value
    out[row, 3] = tsc
    glob[Q.OUT] = row + 1


@inlined_part
def _touch(glob, vcpu):
    """Note that the next loss has something to forget of a vCPU; never of that over the limit."""
    bit = np.int64(1) << (vcpu % SET_BITS)
    word = glob[Q.TOUCHED + vcpu // SET_BITS]
    if vcpu < glob[Q.VCPUS] and word & bit == 0:
        glob[Q.TOUCHED + vcpu // SET_BITS] = word | bit
        glob[Q.TOUCHED_COUNT] += 1


@part
def _vcpu_of(glob, vcpus, slots, key):
    """Return the index of the vCPU with ``key``, added if new; all over the limit share the last one."""
    mask = len(slots) - 1
    slot = ((key * glob[Q.SECRET]) >> 32) & mask
    while slots[slot] >= 0:
        if vcpus[slots[slot], E.KEY] == key:
            _touch(glob, np.int64(slots[slot]))
            return np.int64(slots[slot])
        slot = (slot + 1) & mask
    index = glob[Q.VCPUS]
    if index == len(vcpus) - 1:
        return index
    glob[Q.VCPUS] = index + 1
    slots[slot] = index
    vcpus[index, E.KEY] = key
    _touch(glob, index)
    return index


@part
def _is_inside(vcpus, vcpu):
    """Return whether an upcall is open that does not sleep."""
    for i in range(vcpus[vcpu, E.FRAMES]):
        if vcpus[vcpu, E.FRAME_FLAGS + i] & Returned.SLEPT == 0:
            return True
    return False


@part
def _sleep(vcpus, vcpu):
    """Let the open upcalls sleep: another thread of the guest runs."""
    for i in range(vcpus[vcpu, E.FRAMES]):
        vcpus[vcpu, E.FRAME_FLAGS + i] |= Returned.SLEPT
    vcpus[vcpu, E.IS_KNOWN] = 1


@inlined_part
def _keep_event(vcpus, vcpu, i, kept):
    """Move an event to its place in the list after earlier ones have left it."""
    for column in (E.EVENT_TSC, E.EVENT_PORT, E.EVENT_SOURCE, E.EVENT_SERIAL, E.EVENT_FLYING):
        vcpus[vcpu, column + kept] = vcpus[vcpu, column + i]


@part
def _lose(glob, pcpus, vcpus, out, is_cut, tsc):
    """Forget what is open: records are missing, of whatever vCPU."""
    for word in range((glob[Q.VCPUS] + SET_BITS - 1) // SET_BITS):
        left = glob[Q.TOUCHED + word]
        glob[Q.TOUCHED + word] = 0
        vcpu = np.int64(word) * SET_BITS
        while left != 0:
            if left & 1:
                _forget(glob, vcpus, out, vcpu, is_cut, tsc)
            left >>= 1
            vcpu += 1
    glob[Q.TOUCHED_COUNT] = 0
    for word in range((len(pcpus) + SET_BITS - 1) // SET_BITS):
        left = glob[Q.NOTED + word]
        glob[Q.NOTED + word] = 0
        pcpu = np.int64(word) * SET_BITS
        while left != 0:
            if left & 1:
                pcpus[pcpu, N.NOTE_VCPU] = -1
            left >>= 1
            pcpu += 1


@part
def _forget(glob, vcpus, out, vcpu, is_cut, tsc):
    """Forget what is open of a vCPU."""
    if is_cut:
        key = vcpus[vcpu, E.KEY]
        for _ in range(vcpus[vcpu, E.EVENTS]):
            _put(glob, out, Metric.CUT, key, Metric.EVENT_TO_UPCALL, 0, tsc)
        for _ in range(vcpus[vcpu, E.WAITS]):
            _put(glob, out, Metric.CUT, key, Metric.MASKED_WAIT, 0, tsc)
        for _ in range(vcpus[vcpu, E.FRAMES]):
            _put(glob, out, Metric.CUT, key, Metric.UPCALL, 0, tsc)
    serial = vcpus[vcpu, E.SERIAL]
    is_hvm = vcpus[vcpu, E.IS_HVM]
    for column in range(E.STATE, E.EVENT_TSC):
        vcpus[vcpu, column] = 0
    vcpus[vcpu, E.SERIAL] = serial
    vcpus[vcpu, E.DELIVERED] = serial
    vcpus[vcpu, E.IS_HVM] = is_hvm


@inlined_part
def _note(glob, pcpus, pcpu, vcpu):
    """Keep the target of a pCPU's record for its next one."""
    pcpus[pcpu, N.NOTE_VCPU] = vcpu
    glob[Q.NOTED + pcpu // SET_BITS] |= np.int64(1) << (pcpu % SET_BITS)


@inlined_part
def _land(pcpus, vcpus, pcpu):
    """End the time in which the pCPU's next record can be the mark of an event that it has notified."""
    vcpu = pcpus[pcpu, N.NOTE_VCPU]
    if vcpu >= 0:
        for i in range(vcpus[vcpu, E.EVENTS]):
            if vcpus[vcpu, E.EVENT_FLYING + i] == pcpu + 1:
                vcpus[vcpu, E.EVENT_FLYING + i] = 0


@part
def _take_runstate(glob, pcpus, vcpus, slots, pcpu, states, word):
    old = states >> 4
    new = states & 15
    vcpu = _vcpu_of(glob, vcpus, slots, word)
    is_switch = (old == _RUNNING) != (new == _RUNNING)
    if word >> 16 == IDLE_DOMAIN and (word & 0xFFFF) != pcpu and is_switch:
        glob[Q.CORES] = 1
    vcpus[vcpu, E.STATE] = new + 1
    if glob[Q.CORES] == 0 and new == _RUNNING:
        pcpus[pcpu, N.CURRENT] = vcpu
    elif glob[Q.CORES] == 0 and pcpus[pcpu, N.CURRENT] == vcpu:
        pcpus[pcpu, N.CURRENT] = -1
    if old == _RUNNING and new == _BLOCKED and vcpus[vcpu, E.POLLS] == 0:
        _sleep(vcpus, vcpu)


@part
def _take_notify(glob, pcpus, vcpus, slots, out, pcpu, words, at, tsc):
    sender = np.int64(words[at])
    vcpu = _vcpu_of(glob, vcpus, slots, np.int64(words[at + 1]))
    key = vcpus[vcpu, E.KEY]
    about = np.int64(words[at + 2])
    kind = about >> 20 & 15
    where = kind << 32 | (about & 0xF_FFFF)
    masked = about >> 30 & 1
    already = about >> 31 & 1
    source = kind << 32 | np.int64(NOBODY)
    if (kind == INTERDOMAIN or kind == IPI) and sender != NOBODY:
        source = sender
    _put(glob, out, Metric.EVENT, key, where, 0, tsc)
    if already:
        _put(glob, out, Metric.EVENT_COALESCED, key, where, 0, tsc)
    elif masked:
        _put(glob, out, Metric.EVENT_PORT_MASKED, key, where, 0, tsc)
    _put(glob, out, Metric.EVENT_SENT, key, source, already, tsc)
    if already or glob[Q.BLIND] > 0:
        return
    kept = 0
    for i in range(vcpus[vcpu, E.EVENTS]):
        if vcpus[vcpu, E.EVENT_PORT + i] == where:
            _put(glob, out, Metric.EVENT_TAKEN, key, where, tsc - vcpus[vcpu, E.EVENT_TSC + i], tsc)
        else:
            _keep_event(vcpus, vcpu, i, kept)
            kept += 1
    vcpus[vcpu, E.EVENTS] = kept
    vcpus[vcpu, E.SOURCE] = source
    _note(glob, pcpus, pcpu, vcpu)
    pcpus[pcpu, N.NOTE_TSC] = tsc
    pcpus[pcpu, N.NOTE_SOURCE] = source
    pcpus[pcpu, N.NOTE_SERIAL] = 0
    if masked:
        return
    serial = vcpus[vcpu, E.SERIAL] + 1
    vcpus[vcpu, E.SERIAL] = serial
    pcpus[pcpu, N.NOTE_SERIAL] = serial
    if kept == EVENTS_MAX:
        _put(glob, out, Metric.EVENTS_LEFT_OUT, key, 0, 0, tsc)
        return
    vcpus[vcpu, E.EVENT_TSC + kept] = tsc
    vcpus[vcpu, E.EVENT_PORT + kept] = where
    vcpus[vcpu, E.EVENT_SOURCE + kept] = source
    vcpus[vcpu, E.EVENT_SERIAL + kept] = serial
    vcpus[vcpu, E.EVENT_FLYING + kept] = pcpu + 1
    vcpus[vcpu, E.EVENTS] = kept + 1


@part
def _take_without_upcall(glob, vcpus, out, vcpu, before, end):
    """End the mark, its waits and the events before a serial: the guest took them by ``end``."""
    key = vcpus[vcpu, E.KEY]
    kept = 0
    for i in range(vcpus[vcpu, E.EVENTS]):
        if vcpus[vcpu, E.EVENT_SERIAL + i] < before and vcpus[vcpu, E.EVENT_FLYING + i] == 0:
            waited = max(end - vcpus[vcpu, E.EVENT_TSC + i], 0)
            _put(glob, out, Metric.EVENT_TAKEN, key, vcpus[vcpu, E.EVENT_PORT + i], waited, end)
        else:
            _keep_event(vcpus, vcpu, i, kept)
            kept += 1
    vcpus[vcpu, E.EVENTS] = kept
    kept = 0
    for i in range(vcpus[vcpu, E.WAITS]):
        since = vcpus[vcpu, E.WAIT_TSC + i]
        flags = vcpus[vcpu, E.WAIT_FLAGS + i]
        if since <= end:
            _put(glob, out, Metric.MASKED_WAIT, key, flags | Waited.TAKEN, end - since, end)
        else:
            vcpus[vcpu, E.WAIT_TSC + kept] = since
            vcpus[vcpu, E.WAIT_FLAGS + kept] = flags
            kept += 1
    vcpus[vcpu, E.WAITS] = kept
    vcpus[vcpu, E.MARK_TSC] = 0


@part
def _take_pending(glob, pcpus, vcpus, slots, out, pcpu, is_noted, word, flags, tsc):
    vcpu = _vcpu_of(glob, vcpus, slots, word)
    key = vcpus[vcpu, E.KEY]
    already = flags & 1
    masked = flags >> 1 & 1
    about = already * Mark.ALREADY | masked * Mark.MASKED
    if glob[Q.BLIND] > 0:
        _put(glob, out, Metric.EVENT_MARK, key, about | Mark.UNKNOWN, 0, tsc)
        return
    waited = np.int64(0)
    if _is_inside(vcpus, vcpu):
        about |= Mark.INSIDE
        waited = np.int64(Waited.INSIDE)
    elif vcpus[vcpu, E.IS_KNOWN] == 0:
        about |= Mark.UNKNOWN
        waited = np.int64(Waited.UNKNOWN)
    _put(glob, out, Metric.EVENT_MARK, key, about, 0, tsc)
    is_noted = is_noted and pcpus[pcpu, N.NOTE_VCPU] == vcpu
    serial = pcpus[pcpu, N.NOTE_SERIAL] if is_noted else np.int64(0)
    if already == 0:
        if not is_noted:
            pcpus[pcpu, N.NOTE_SOURCE] = Source.UNMASK << 32 | np.int64(NOBODY)
        _note(glob, pcpus, pcpu, vcpu)
        pcpus[pcpu, N.NOTE_TSC] = tsc
        vcpus[vcpu, E.SOURCE] = pcpus[pcpu, N.NOTE_SOURCE]
    elif not is_noted:
        pcpus[pcpu, N.NOTE_VCPU] = -1
    pcpus[pcpu, N.NOTE_SERIAL] = 0
    if serial > 0 and vcpus[vcpu, E.DELIVERED] >= serial:
        return  # its upcall came first
    if already == 0:
        mark = vcpus[vcpu, E.MARK_TSC]
        if mark > 0:
            returned = vcpus[vcpu, E.RETURNED_TSC]
            end = returned if returned > 0 and mark <= returned else tsc
            before = serial if serial > 0 else vcpus[vcpu, E.SERIAL] + 1
            _take_without_upcall(glob, vcpus, out, vcpu, before, end)
        vcpus[vcpu, E.MARK_TSC] = tsc
        vcpus[vcpu, E.MARK_FLAGS] = waited | masked * Waited.MASKED
    if masked:
        number = vcpus[vcpu, E.WAITS]
        if number == WAITS_MAX:
            _put(glob, out, Metric.EVENTS_LEFT_OUT, key, 1, 0, tsc)
        else:
            vcpus[vcpu, E.WAIT_TSC + number] = tsc
            vcpus[vcpu, E.WAIT_FLAGS + number] = waited | Waited.MASKED
            vcpus[vcpu, E.WAITS] = number + 1


@part
def _deliver(glob, vcpus, out, vcpu, tsc):
    """End what waits for an entry into an upcall."""
    key = vcpus[vcpu, E.KEY]
    for i in range(vcpus[vcpu, E.EVENTS]):
        waited = tsc - vcpus[vcpu, E.EVENT_TSC + i]
        _put(glob, out, Metric.EVENT_TO_UPCALL, key, vcpus[vcpu, E.EVENT_PORT + i], waited, tsc)
        _put(glob, out, Metric.EVENT_FROM, key, vcpus[vcpu, E.EVENT_SOURCE + i], waited, tsc)
    mark = vcpus[vcpu, E.MARK_TSC]
    if mark > 0:
        _put(glob, out, Metric.MARK_TO_UPCALL, key, vcpus[vcpu, E.MARK_FLAGS], tsc - mark, tsc)
    for i in range(vcpus[vcpu, E.WAITS]):
        waited = tsc - vcpus[vcpu, E.WAIT_TSC + i]
        _put(glob, out, Metric.MASKED_WAIT, key, vcpus[vcpu, E.WAIT_FLAGS + i], waited, tsc)
    vcpus[vcpu, E.EVENTS] = 0
    vcpus[vcpu, E.WAITS] = 0
    vcpus[vcpu, E.MARK_TSC] = 0
    vcpus[vcpu, E.RETURNED_TSC] = 0
    vcpus[vcpu, E.DELIVERED] = vcpus[vcpu, E.SERIAL]


@part
def _take_upcall(glob, vcpus, out, vcpu, word, tsc):
    key = vcpus[vcpu, E.KEY]
    flags = (word & 1) * np.int64(Returned.USER)
    if glob[Q.BLIND] > 0:
        _put(glob, out, Metric.UPCALL_ENTRY, key, flags | Returned.UNKNOWN, 0, tsc)
        return
    if word & 1:
        _sleep(vcpus, vcpu)
    inside = np.int64(0)
    if _is_inside(vcpus, vcpu):
        inside = np.int64(Returned.INSIDE)
        flags |= inside
    elif vcpus[vcpu, E.IS_KNOWN] == 0:
        flags |= Returned.UNKNOWN
    _put(glob, out, Metric.UPCALL_ENTRY, key, flags, 0, tsc)
    _deliver(glob, vcpus, out, vcpu, tsc)
    number = vcpus[vcpu, E.FRAMES]
    for i in range(number):
        if vcpus[vcpu, E.FRAME_FLAGS + i] & Returned.SLEPT == 0:
            vcpus[vcpu, E.FRAME_FLAGS + i] |= Returned.HAS_INSIDE
    if number == FRAMES_MAX:
        _drop_frame(vcpus, vcpu, 0)
        number -= 1
        _put(glob, out, Metric.EVENTS_LEFT_OUT, key, 2, 0, tsc)
    vcpus[vcpu, E.FRAME_ADDRESS + number] = word & ~7
    vcpus[vcpu, E.FRAME_TSC + number] = tsc
    vcpus[vcpu, E.FRAME_FLAGS + number] = inside
    vcpus[vcpu, E.FRAMES] = number + 1


@part
def _drop_frame(vcpus, vcpu, which):
    number = vcpus[vcpu, E.FRAMES] - 1
    for i in range(which, number):
        for column in (E.FRAME_ADDRESS, E.FRAME_TSC, E.FRAME_FLAGS):
            vcpus[vcpu, column + i] = vcpus[vcpu, column + i + 1]
    vcpus[vcpu, E.FRAMES] = number


@part
def _take_iret(glob, vcpus, out, vcpu, address, tsc):
    for back in range(vcpus[vcpu, E.FRAMES]):
        i = vcpus[vcpu, E.FRAMES] - 1 - back
        if vcpus[vcpu, E.FRAME_ADDRESS + i] == address:
            flags = vcpus[vcpu, E.FRAME_FLAGS + i]
            since = vcpus[vcpu, E.FRAME_TSC + i]
            _put(glob, out, Metric.UPCALL, vcpus[vcpu, E.KEY], flags, tsc - since, tsc)
            _drop_frame(vcpus, vcpu, i)
            vcpus[vcpu, E.RETURNED_TSC] = tsc
            vcpus[vcpu, E.RETURNED_SERIAL] = vcpus[vcpu, E.SERIAL]
            return


@part
def _take_guest(glob, vcpus, out, vcpu, is_call, size, words, at, tsc):
    """Handle a PV guest's entry into Xen."""
    returned = vcpus[vcpu, E.RETURNED_TSC]
    if returned > 0:
        vcpus[vcpu, E.RETURNED_TSC] = 0
        if vcpus[vcpu, E.MARK_TSC] <= returned:
            _take_without_upcall(glob, vcpus, out, vcpu, vcpus[vcpu, E.RETURNED_SERIAL] + 1, returned)
    vcpus[vcpu, E.POLLS] = 0
    if not is_call:
        return
    first = np.int64(words[at])
    op = first & _OP_MASK
    command = np.int64(words[at + 1]) if size > 1 and (first >> 20 & 3) == 1 else np.int64(-1)
    if op == _STACK_SWITCH:
        _sleep(vcpus, vcpu)
    elif op == _SCHED_OP and command == _POLL:
        vcpus[vcpu, E.POLLS] = 1
    elif op == _IRET and command >= 0:
        _take_iret(glob, vcpus, out, vcpu, command & ~7, tsc)


@part
def _take_wake(glob, pcpus, vcpus, slots, out, pcpu, is_noted, key, tsc):
    vcpu = _vcpu_of(glob, vcpus, slots, key)
    state = vcpus[vcpu, E.STATE] - 1
    if state == _RUNNING or state == _RUNNABLE or glob[Q.BLIND] > 0:
        return
    source = np.int64(NOBODY)
    is_noted = is_noted and pcpus[pcpu, N.NOTE_VCPU] == vcpu
    if is_noted and tsc - pcpus[pcpu, N.NOTE_TSC] <= WAKE_CYCLES_MOST:
        source = pcpus[pcpu, N.NOTE_SOURCE]
    elif vcpus[vcpu, E.IS_HVM] and vcpus[vcpu, E.MARK_TSC] > 0:
        source = vcpus[vcpu, E.SOURCE]
    _put(glob, out, Metric.EVENT_WAKE, vcpus[vcpu, E.KEY], source, 0, tsc)


@loop
def follow(
    batch_tsc: I64, batch_pcpu: U16, batch_shape: U16, batch_start: U32, words: U32, row: int,
    shapes: I64_2D, glob: I64, pcpus: I64_2D, vcpus: I64_2D, slots: I32, out: I64_2D,
) -> int:  # fmt: skip
    """Process a batch from ``row`` on, until it ends or ``out`` is nearly full.

    Args:
        shapes: a row per shape, columns S_*; the kinds are those of this module.

    Returns:
        The row to continue with; ``glob[Q.OUT]`` intervals are in ``out``.
    """
    tsc_limit = glob[Q.TSC_LIMIT]
    while row < len(batch_tsc):
        room = len(out) - glob[Q.OUT] - OUT_MARGIN
        if room < 0:
            break
        meaning = shapes[batch_shape[row]]
        kind = meaning[S_KIND]
        tsc = batch_tsc[row]
        pcpu = np.int64(batch_pcpu[row])
        at = np.int64(batch_start[row])
        if kind == LOST and room < LOSS_MARGIN * glob[Q.TOUCHED_COUNT]:
            break
        row += 1
        if kind == UNSEEN or tsc < 0 or tsc >= tsc_limit:
            continue
        is_noted = pcpus[pcpu, N.NOTE_VCPU] >= 0
        if is_noted:
            _land(pcpus, vcpus, pcpu)
        if kind == LOST or kind == ENDED:
            _lose(glob, pcpus, vcpus, out, kind == LOST, tsc)
            glob[Q.BLIND] += 1 - pcpus[pcpu, N.BLIND]
            pcpus[pcpu, N.BLIND] = 1
            pcpus[pcpu, N.CURRENT] = -1
            continue
        glob[Q.BLIND] -= pcpus[pcpu, N.BLIND]
        pcpus[pcpu, N.BLIND] = 0
        if kind == PENDING:
            _take_pending(
                glob, pcpus, vcpus, slots, out, pcpu, is_noted, np.int64(words[at]), np.int64(words[at + 1]),
                tsc,
            )  # fmt: skip
            continue
        if kind == WAKE:
            key = (np.int64(words[at]) & 0xFFFF) << 16 | (np.int64(words[at + 1]) & 0xFFFF)
            _take_wake(glob, pcpus, vcpus, slots, out, pcpu, is_noted, key, tsc)
        pcpus[pcpu, N.NOTE_VCPU] = -1
        current = pcpus[pcpu, N.CURRENT]
        if kind == RUNSTATE:
            _take_runstate(glob, pcpus, vcpus, slots, pcpu, meaning[S_PARAM], np.int64(words[at]))
        elif kind == CONTINUE:
            pcpus[pcpu, N.CURRENT] = _vcpu_of(glob, vcpus, slots, np.int64(words[at]))
        elif kind == NOTIFY:
            _take_notify(glob, pcpus, vcpus, slots, out, pcpu, words, at, tsc)
        elif kind == UPCALL:
            vcpu = _vcpu_of(glob, vcpus, slots, np.int64(words[at]))
            pcpus[pcpu, N.CURRENT] = vcpu
            _take_upcall(glob, vcpus, out, vcpu, np.int64(words[at + 1]), tsc)
        elif kind == INJECT:
            vcpu = _vcpu_of(glob, vcpus, slots, np.int64(words[at]))
            pcpus[pcpu, N.CURRENT] = vcpu
            vcpus[vcpu, E.INJECTED] = 1
            vcpus[vcpu, E.IS_HVM] = 1
        elif current < 0 or vcpus[current, E.KEY] >> 16 == IDLE_DOMAIN:
            continue
        elif kind == ENTRY:
            _touch(glob, current)
            vcpus[current, E.IS_HVM] = 1
            if vcpus[current, E.INJECTED]:
                vcpus[current, E.INJECTED] = 0
                _put(glob, out, Metric.UPCALL_ENTRY, vcpus[current, E.KEY], Returned.HVM, 0, tsc)
                if glob[Q.BLIND] == 0:
                    _deliver(glob, vcpus, out, current, tsc)
        elif kind == GUEST and glob[Q.BLIND] == 0:
            _touch(glob, current)
            _take_guest(glob, vcpus, out, current, meaning[S_PARAM], meaning[S_WORDS], words, at, tsc)
    return row
