"""The reader's hot loops, which are compiled.

Everything here works on NumPy arrays and plain integers and calls nothing
outside this module.  ``tests/oracle/reader.py`` is the slow reference
implementation that defines what these loops must return.
"""

from __future__ import annotations

import numpy as np

from xtrace.probes import tsc_rate
from xtrace.probes.compiled.loop import I32, I64, I64_2D, U8, U16, U32, inlined_part, loop, part
from xtrace.probes.format import (
    EVENT_MASK,
    EXTRA_MASK,
    EXTRA_SHIFT,
    GUEST_CLASS_BIT,
    LOST_RECORDS,
    MAX_PCPUS,
    MAX_WINDOW_BYTES,
    TIMED_BIT,
    WINDOW_HEADER,
    WRAP_BUFFER,
)
from xtrace.probes.intact.tsc_order import FAR_CYCLES
from xtrace.probes.reader.batches import HOLE_BY_KEY, HOLE_BY_UNIT, HOLE_NOBODY
from xtrace.probes.xen_abi import IDLE_DOMAIN

# Why frame() stopped.
FRAME_NEED_MORE = 0
FRAME_UNUSUAL = 1
FRAME_FULL = 2

_HEADER_WORDS = 3
_LOST_HEADER = TIMED_BIT | (4 << EXTRA_SHIFT) | LOST_RECORDS
_GUEST_KEY_MASK = 0xF800_0000
#: Characters of a line of text in a record, without its end.
_LINE_BYTES = 7
_CLASS_BITS = 0x0FFF_0000
#: Largest key of the merge; a larger TSC is damage and sorts last.
MAX_KEY = (1 << 62) - 1
KEY_FLOOR = -1

# What a record says about the vCPU that runs on its pCPU.
ROLE_LEAVES = 1  # that it ran until now
ROLE_ENTERS = 2  # that it runs from now on
ROLE_CONTINUES = 3
ROLE_PREVIOUS = 4  # that it ran until now, and for how long
ROLE_LOST = 5  # nothing: records were lost

# Sums of find_holes().
HOLE_COUNT, HOLE_CYCLES, RUN_NS, RUN_CYCLES, HAS_CORES = range(5)
HOLE_SUMS = 5
#: Run times are added up to this sum; below the lower one, the rate of the TSC counts as unknown.
_RUN_NS_ENOUGH = 4_000_000_000
_RUN_NS_LEAST = tsc_rate.SHORT_KNOWN_NS
#: A longer run may be one whose time in the record wrapped.
_RUN_NS_MOST = 4_000_000_000
_RUN_CYCLES_MOST = 1 << 32
_NS_NEGATIVE = tsc_rate.NS_NEGATIVE
_SHORT_NS = tsc_rate.SHORT_NS
_SHORT_SHARE = tsc_rate.SHORT_SHARE


@inlined_part
def _tsc_at(words, at):
    return np.int64(np.uint64(words[at]) | (np.uint64(words[at + 1]) << np.uint64(32)))


@inlined_part
def _moved(tsc, offset):
    # A TSC that is damaged stays so, and one that would fall below 0 does not become so.
    return max(tsc + offset, 1) if 0 < tsc <= MAX_KEY else tsc


@part
def _is_window_header(words, at):
    return (
        words[at] == WINDOW_HEADER
        and words[at + 1] < MAX_PCPUS
        and words[at + 2] % 4 == 0
        and words[at + 2] <= MAX_WINDOW_BYTES
    )


@loop
def frame(
    words: U32, at: int, end: int, at_eof: bool, check: bool, seg_pcpu: I32, seg_begin: I64, seg_end: I64
) -> tuple[int, int, int]:
    """Walk window headers from word ``at`` and list the windows that are complete in the buffer.

    The last window of a file may be shorter than its header says.  With ``check``, only windows that another
    header follows are listed.

    Returns:
        (status, index of the word where it stopped, number of segments).
    """
    count = 0
    while True:
        if end - at < _HEADER_WORDS:
            return FRAME_NEED_MORE, at, count
        if not _is_window_header(words, at):
            return FRAME_UNUSUAL, at, count
        begin = at + _HEADER_WORDS
        stop = begin + np.int64(words[at + 2]) // 4
        if check and stop + 1 >= end:
            return FRAME_NEED_MORE, at, count
        if check and words[stop] != np.uint32(WINDOW_HEADER):
            return FRAME_UNUSUAL, at, count
        if stop > end:
            if not at_eof:
                return FRAME_NEED_MORE, at, count
            stop = end
        if count == len(seg_pcpu):
            return FRAME_FULL, at, count
        seg_pcpu[count] = words[at + 1]
        seg_begin[count] = begin
        seg_end[count] = stop
        count += 1
        at = stop


@inlined_part
def _is_printable(word):
    # All four bytes are below 0x80 and have one of the bits 0x20 and 0x40.
    return (word & np.uint32(0x8080_8080)) == 0 and (
        (word | (word << np.uint32(1))) & np.uint32(0x4040_4040)
    ) == np.uint32(0x4040_4040)


@inlined_part
def _can_be_text(word):
    # All four bytes are from 8 to 0x7F.
    bits = word | (word << np.uint32(1))
    # Neither has a branch, which would be hard to predict.
    return (
        (~(bits | (bits << np.uint32(2))) & np.uint32(0x4040_4040)) | (word & np.uint32(0x8080_8080))
    ) == 0


@part
def _has_line(words, header, start, stop):
    """Return whether a line (whole_windows._LINE) is in the words of a record that is not a guest's."""
    length = 0
    if header & np.uint32(GUEST_CLASS_BIT):
        return False
    for at in range(4 * start, 4 * stop):
        byte = (words[at >> 2] >> np.uint32(8 * (at & 3))) & np.uint32(0xFF)
        if np.uint32(32) <= byte <= np.uint32(126) or byte == np.uint32(9):
            length = max(length, 0) + 1
        elif byte == np.uint32(13) and 0 < length:
            length = -length  # a line feed must follow
        else:
            if byte == np.uint32(10) and (length >= _LINE_BYTES or length <= -_LINE_BYTES):
                return True
            length = 0
    return False


@inlined_part
def _can_have_line(words, start, size):
    """Return whether a line of text can cover the second or the last but one of a record's words.

    A word follows the record.
    """
    return (size >= 2) & (_can_be_text(words[start + 1]) | _can_be_text(words[start + size - 2]))


@inlined_part
def _is_no_event(header, check):
    """Return whether no record has this header word; with ``check``, also if it can be text."""
    return (
        header & np.uint32(_CLASS_BITS) == 0
        or header == np.uint32(WINDOW_HEADER)
        or (check and _is_printable(header))
    )


@part
def _has_header(words, at, end):
    """Return whether a window header begins in a record but a guest's; two words follow the window."""
    there = np.uint32(0)
    for place in range(at, end):
        there |= np.uint32(words[place] == np.uint32(WINDOW_HEADER))
    if there == 0:
        return False
    while at < end:
        header = words[at]
        size = 2 * np.int64(header >> np.uint32(31)) + np.int64(
            (header >> np.uint32(EXTRA_SHIFT)) & np.uint32(EXTRA_MASK)
        )
        if header & np.uint32(GUEST_CLASS_BIT) == 0:
            for place in range(at + 1, at + 1 + size):
                if _is_window_header(words, place):
                    return True
        at += 1 + size
    return False


@inlined_part
def _can_follow(first, last, before, greatest):
    """Return whether a window whose TSCs do not go back simply follows, as tsc_order.is_after() says."""
    return (
        (before < first or before == first < last)
        and last <= MAX_KEY
        and greatest >= 0
        and last - greatest <= FAR_CYCLES
    )


@loop
def whole(
    words: U32, at: int, end: int, pcpu_last: I64, greatest: I64, rows: I64_2D
) -> tuple[int, int]:  # fmt: skip
    """Walk windows from word ``at`` as long as nothing is unusual about them.

    That is: the window is complete, its records end where it does, a window header follows, and its TSCs
    come after those of its pCPU and are not far after all others.  ``whole_windows`` decides about the rest.

    Args:
        pcpu_last: last TSC of each pCPU, -1 without.
        greatest: one TSC, that of all pCPUs, -1 without.
        rows: pCPU, size in bytes, first and last TSC of windows; window n is in row n modulo their number.

    Returns:
        (index of the first word of a window that is not passed over, number of windows that are).
    """
    count = 0
    most = np.int64(greatest[0])
    while at + _HEADER_WORDS <= end and _is_window_header(words, at):
        begin = at + _HEADER_WORDS
        stop = begin + np.int64(words[at + 2]) // 4
        if stop + 1 >= end or words[stop] != np.uint32(WINDOW_HEADER):
            break
        pcpu = np.int64(words[at + 1])
        first = np.int64(-1)
        last = np.int64(0)
        record = begin
        while record < stop:
            header = words[record]
            start = record + 1 + 2 * np.int64(header >> np.uint32(31))
            size = np.int64((header >> np.uint32(EXTRA_SHIFT)) & np.uint32(EXTRA_MASK))
            if start + size > stop or _is_no_event(header, True):
                break
            if _can_have_line(words, start, size) and _has_line(words, header, start, start + size):
                break
            if header & np.uint32(TIMED_BIT) and header & np.uint32(EVENT_MASK) != np.uint32(WRAP_BUFFER):
                tsc = _tsc_at(words, record + 1)
                if tsc < last:
                    break
                last = tsc
                if first < 0:
                    first = tsc
            record = start + size
        if record != stop or (first >= 0 and not _can_follow(first, last, pcpu_last[pcpu], most)):
            break
        if _has_header(words, begin, stop):
            break
        if first >= 0:
            pcpu_last[pcpu] = last
            most = max(most, last)
        row = count % len(rows)
        rows[row, 0] = pcpu
        rows[row, 1] = np.int64(words[at + 2])
        rows[row, 2] = first
        rows[row, 3] = last if first >= 0 else np.int64(-1)
        count += 1
        at = stop
    greatest[0] = most
    return at, count


@part
def _next_timed(words, shape_header, row, row_end, row_shape, row_start):
    """Return the first row from ``row`` on with a TSC of its own that counts, or ``row_end``."""
    while row < row_end:
        shape = row_shape[row]
        header = shape_header[shape]
        if shape == 0:
            header = words[row_start[row] - 1]
        if header & np.uint32(TIMED_BIT) and header & np.uint32(EVENT_MASK) != np.uint32(WRAP_BUFFER):
            break
        row += 1
    return row


@inlined_part
def _slot_of(key, slots_key, slots_shape, slot_mask, slot_shift):
    """Return the slot of a shape, or the free one where it belongs."""
    slot = np.uint32(key * np.uint32(0x9E37_79B1)) >> slot_shift
    while slots_shape[slot] >= 0 and slots_key[slot] != key:
        slot = (slot + np.uint32(1)) & slot_mask
    return slot


@part
def _forget_shapes(count, shape_header, slots_key, slots_shape, shapes_size, slot_mask, slot_shift):
    """Forget the shapes from ``count`` on, the last one first."""
    while shapes_size[0] > count:
        shapes_size[0] -= 1
        key = shape_header[shapes_size[0]]
        slots_shape[_slot_of(key, slots_key, slots_shape, slot_mask, slot_shift)] = np.int32(-1)


@loop
def decode(
    words: U32, segment: int, segment_count: int, check: bool,
    seg_pcpu: I32, seg_begin: I64, seg_end: I64,
    pcpu_tsc: I64, pcpu_key: I64, tsc_offsets: I64,
    shape_header: U32, slots_key: U32, slots_shape: I32, shapes_size: I64,
    row: int,
    row_key: I64, row_tsc: I64, row_shape: U16, row_start: U32,
    seg_row: I64, seg_row_end: I64, seg_stop: I64, seg_key: I64,
    pcpu_bytes: I64, pcpu_wrap: I64,
    wrap_distances: I64,
    whole_last: I64, whole_greatest: I64, whole_rows: I64_2D, whole_count: int,
) -> tuple[int, int]:  # fmt: skip
    """Decode the records of windows in file order.

    The merge sorts rows by key: the TSC, made monotone within the pCPU.  A LOST_RECORDS row
    sorts by the start of its blind interval.  The last window may end early, with the file.
    ``tsc_offsets`` are added to the TSCs of each pCPU.

    Args:
        check: stop at the first window that is unusual, as whole() does; otherwise windows are known to be
            whole, and one that is not ends where it is not.
        whole_last, whole_greatest, whole_rows: as in whole(); only if ``check``.
        whole_count: windows that are already in ``whole_rows``.

    Returns:
        (segment where it stopped or ``segment_count``, next free row).
        ``seg_stop`` is the index of the word after a segment's last record.
    """
    slot_mask = np.uint32(len(slots_key) - 1)
    slot_shift = np.uint32(32)
    slots = len(slots_key)
    while slots > 1:
        slots >>= 1
        slot_shift -= np.uint32(1)
    while segment < segment_count:
        pcpu = seg_pcpu[segment]
        at = seg_begin[segment]
        end = seg_end[segment]
        last_tsc = pcpu_tsc[pcpu]
        last_key = pcpu_key[pcpu]
        offset = tsc_offsets[pcpu]
        bytes_before = max(pcpu_bytes[pcpu], 0)
        wrap_before = pcpu_wrap[pcpu]
        distances_before = wrap_distances[0]
        shapes_before = shapes_size[0]
        last = np.int64(0)
        is_usual = True
        row += 1  # there is room for a row before the window
        seg_row[segment] = row
        while at < end:
            header = words[at]
            timed = np.int64(header >> np.uint32(31))
            start = at + 1 + 2 * timed
            size = np.int64((header >> np.uint32(EXTRA_SHIFT)) & np.uint32(EXTRA_MASK))
            stop = start + size
            if stop > end:
                break
            if check:
                if _can_have_line(words, start, size):
                    is_usual = is_usual and not _has_line(words, header, start, stop)
            key = header
            if header & np.uint32(GUEST_CLASS_BIT):
                key = header & np.uint32(_GUEST_KEY_MASK)
                if _is_no_event(header, check):
                    break
            slot = _slot_of(key, slots_key, slots_shape, slot_mask, slot_shift)
            shape = slots_shape[slot]
            if shape < 0:
                if _is_no_event(header, check):
                    break
                size = shapes_size[0]
                shape = np.int32(0)
                if size < len(shape_header):
                    shape = np.int32(size)
                    shape_header[size] = key
                    slots_key[slot] = key
                    slots_shape[slot] = shape
                    shapes_size[0] = size + 1
                else:
                    start = at + 1  # its shape does not show whether it is timed
            filler = header & np.uint32(EVENT_MASK) == np.uint32(WRAP_BUFFER)
            if timed and not filler:
                last_tsc = _tsc_at(words, at + 1)
                is_usual &= last_tsc >= last
                last = last_tsc
                if offset != 0:
                    last_tsc = _moved(last_tsc, offset)
                order = last_tsc
                if header == np.uint32(_LOST_HEADER):
                    order = _moved(_tsc_at(words, start + 2), offset)
                    if order < 0 or 0 <= last_tsc < order:
                        order = last_tsc
                if order < 0 or order > MAX_KEY:
                    order = MAX_KEY
                if order > last_key:
                    last_key = order
            row_key[row] = last_key
            row_tsc[row] = last_tsc
            row_shape[row] = shape
            row_start[row] = start
            row += 1
            at = stop
            if header == np.uint32(_LOST_HEADER):
                # Later records sort after the end of the loss, although the loss sorts by its start.
                last_key = max(last_key, last_tsc if 0 <= last_tsc <= MAX_KEY else MAX_KEY)
            if filler:
                here = bytes_before + (at - seg_begin[segment]) * 4
                if pcpu_wrap[pcpu] >= 0 and wrap_distances[0] + 1 < len(wrap_distances):
                    wrap_distances[0] += 1
                    wrap_distances[wrap_distances[0]] = here - pcpu_wrap[pcpu]
                pcpu_wrap[pcpu] = here
        if check:
            first_row = _next_timed(words, shape_header, seg_row[segment], row, row_shape, row_start)
            first = np.int64(-1)
            if first_row < row:
                first = _tsc_at(words, row_start[first_row] - (0 if row_shape[first_row] == 0 else 2))
            else:
                last = np.int64(-1)
            if (
                not is_usual
                or at != end
                or (first >= 0 and not _can_follow(first, last, whole_last[pcpu], whole_greatest[0]))
                or _has_header(words, seg_begin[segment], end)
            ):
                pcpu_wrap[pcpu] = wrap_before
                wrap_distances[0] = distances_before
                _forget_shapes(
                    shapes_before, shape_header, slots_key, slots_shape, shapes_size, slot_mask, slot_shift
                )
                return segment, seg_row[segment] - 1
            if first >= 0:
                whole_last[pcpu] = last
                whole_greatest[0] = max(whole_greatest[0], last)
            entry = whole_count % len(whole_rows)
            whole_rows[entry, 0] = pcpu
            whole_rows[entry, 1] = (end - seg_begin[segment]) * 4
            whole_rows[entry, 2] = first
            whole_rows[entry, 3] = last
            whole_count += 1
        pcpu_tsc[pcpu] = last_tsc
        pcpu_key[pcpu] = last_key
        pcpu_bytes[pcpu] = bytes_before + (at - seg_begin[segment]) * 4
        seg_row_end[segment] = row
        seg_stop[segment] = at
        seg_key[segment] = last_key
        segment += 1
    return segment, row


@inlined_part
def _clamped(tsc):
    return min(tsc, MAX_KEY) if tsc >= 0 else MAX_KEY


@loop
def times(
    words: U32, shape_header: U32, row: int, row_end: int, row_tsc: I64, row_shape: U16, row_start: U32
) -> tuple[int, int, int]:
    """Return the first, second and last TSC of a window's rows, -1 for those that it does not have."""
    first_row = _next_timed(words, shape_header, row, row_end, row_shape, row_start)
    if first_row == row_end:
        return -1, -1, -1
    second_row = _next_timed(words, shape_header, first_row + 1, row_end, row_shape, row_start)
    second = -1
    if second_row < row_end:
        second = _clamped(row_tsc[second_row])
    return _clamped(row_tsc[first_row]), second, _clamped(row_tsc[row_end - 1])


@loop
def split(
    words: U32, shape_header: U32, row: int, row_end: int, row_tsc: I64, row_shape: U16, row_start: U32,
    bound: int,
) -> int:  # fmt: skip
    """Return the row where the timed rows of a window fall below ``bound`` for good.

    That is ``row`` if all of them are below, or the first two.
    """
    first_row = _next_timed(words, shape_header, row, row_end, row_shape, row_start)
    second_row = _next_timed(words, shape_header, first_row + 1, row_end, row_shape, row_start)
    if second_row < row_end and max(_clamped(row_tsc[first_row]), _clamped(row_tsc[second_row])) < bound:
        return row
    at = row_end
    while at > first_row and _clamped(row_tsc[at - 1]) < bound:
        at -= 1
    return at if at > first_row else row


@loop
def steady(
    words: U32, shape_header: U32, segment: int, segment_count: int,
    seg_pcpu: I32, seg_row: I64, seg_row_end: I64,
    row_tsc: I64, row_shape: U16, row_start: U32,
    older: I64, newer: I64,
) -> tuple[int, int]:  # fmt: skip
    """Note the TSCs of windows in file order, up to one that begins or ends below its pCPU's marks.

    The marks, ``older`` and ``newer`` by pCPU, are the pCPU's last two of: the first and the last TSC of
    each window; -1 where there is none yet.

    Returns:
        (that window or ``segment_count``, the TSC that it is below).
    """
    while segment < segment_count:
        row = seg_row[segment]
        row_end = seg_row_end[segment]
        first_row = _next_timed(words, shape_header, row, row_end, row_shape, row_start)
        if first_row < row_end:
            pcpu = seg_pcpu[segment]
            first = _clamped(row_tsc[first_row])
            last = _clamped(row_tsc[row_end - 1])
            second_row = _next_timed(words, shape_header, first_row + 1, row_end, row_shape, row_start)
            second = -1
            if second_row < row_end:
                second = _clamped(row_tsc[second_row])
            bound = older[pcpu]
            if bound >= 0:
                bound = min(bound, newer[pcpu])
            elif newer[pcpu] >= 0:
                bound = min(newer[pcpu], first)
            elif second >= 0:
                bound = min(first, second)
            if last < bound or (second >= 0 and max(first, second) < bound):
                return segment, bound
            older[pcpu] = first if second >= 0 else newer[pcpu]
            newer[pcpu] = last
        segment += 1
    return segment, 0


@part
def _count_hole(sums, found, pcpu, begin, end):
    count = sums[HOLE_COUNT]
    if count < len(found):
        found[count, 0] = pcpu
        found[count, 1] = begin
        found[count, 2] = end
    sums[HOLE_COUNT] = count + 1
    sums[HOLE_CYCLES] = min(sums[HOLE_CYCLES] + (end - begin), MAX_KEY + 1)


@part
def _put_hole(
    words, shape_header, segment, seg_row, seg_row_end, row_key, row_tsc, row_shape, row_start,
    key, tsc, shape, start,
):  # fmt: skip
    """Put the row of a hole before the window; the first rows, if without a TSC, show that of the hole."""
    row = seg_row[segment]
    timed_row = _next_timed(words, shape_header, row, seg_row_end[segment], row_shape, row_start)
    for at in range(row, timed_row):
        row_key[at] = tsc
        row_tsc[at] = tsc
    row_key[row - 1] = key
    row_tsc[row - 1] = tsc
    row_shape[row - 1] = shape
    row_start[row - 1] = start
    seg_row[segment] = row - 1


@loop
def put_hole(
    words: U32, shape_header: U32, segment: int, seg_row: I64, seg_row_end: I64,
    row_key: I64, row_tsc: I64, row_shape: U16, row_start: U32,
    key: int, tsc: int, shape: int, start: int,
) -> None:  # fmt: skip
    """Put the row of a hole that find_holes() found before."""
    _put_hole(
        words, shape_header, segment, seg_row, seg_row_end, row_key, row_tsc, row_shape, row_start,
        key, tsc, shape, start,
    )  # fmt: skip


@inlined_part
def _vcpu_in(words, role, start):
    if role == ROLE_PREVIOUS:
        return (np.int64(words[start]) & 0xFFFF) << 16 | (np.int64(words[start + 1]) & 0xFFFF)
    return np.int64(words[start])


@part
def _has_cores(words, shape_role, pcpu, row, row_end, row_shape, row_start):
    """Return whether a pCPU switches another one's idle vCPU: Xen schedules by core."""
    while row < row_end:
        role = shape_role[row_shape[row]]
        if role == ROLE_LEAVES or role == ROLE_ENTERS:
            vcpu = _vcpu_in(words, role, row_start[row])
            if vcpu >> 16 == IDLE_DOMAIN and vcpu & 0xFFFF != pcpu:
                return True
        row += 1
    return False


@part
def _add_runs(words, shape_role, row, row_end, row_tsc, row_shape, row_start, sums):
    """Add the run times of the runs of which the window has both ends."""
    entered = np.int64(-1)
    since = np.int64(0)
    while row < row_end:
        role = shape_role[row_shape[row]]
        if role == ROLE_ENTERS:
            entered = _vcpu_in(words, role, row_start[row])
            since = row_tsc[row]
        elif role == ROLE_PREVIOUS:
            ran = np.int64(words[row_start[row] + 2])
            cycles = row_tsc[row] - since
            is_whole = (
                entered == _vcpu_in(words, role, row_start[row]) and 0 < since < row_tsc[row] <= MAX_KEY
            )
            if is_whole and cycles < _RUN_CYCLES_MOST and ran < _NS_NEGATIVE:
                sums[RUN_NS] += ran
                sums[RUN_CYCLES] += cycles
            entered = np.int64(-1)
        elif role == ROLE_LEAVES or role == ROLE_LOST:
            entered = np.int64(-1)
        row += 1


@part
def _began_later(sums, ran, tsc, since, low):
    """Return whether the run that ended at ``tsc`` began after ``since``, and after ``low``."""
    if sums[RUN_NS] < _RUN_NS_LEAST or not 0 < since < tsc <= MAX_KEY:
        return False
    rate = np.float64(sums[RUN_CYCLES]) / np.float64(sums[RUN_NS])
    share = _SHORT_SHARE + _SHORT_NS / np.float64(sums[RUN_NS])
    length = np.float64(tsc - since)
    begin = length - np.float64(ran) * rate
    return (
        length < _RUN_NS_MOST * rate
        and begin > np.float64(low - since)
        and begin > _SHORT_NS * rate + share * length
    )


@part
def _note_last(words, shape_role, pcpu, row, row_end, row_tsc, row_shape, row_start, pcpu_runs, pcpu_since):
    """Note which vCPU a window leaves running, and since when."""
    at = row_end - 1
    role = shape_role[0] * 0
    continues = np.int64(-1)
    while at >= row:
        role = shape_role[row_shape[at]]
        if role == ROLE_CONTINUES and continues < 0:
            continues = _vcpu_in(words, role, row_start[at])
        if role == ROLE_LEAVES or role == ROLE_ENTERS or role == ROLE_LOST:
            break
        at -= 1
    if at >= row:
        pcpu_runs[pcpu] = -1
        pcpu_since[pcpu] = 0
        if role == ROLE_ENTERS:
            pcpu_runs[pcpu] = _vcpu_in(words, role, row_start[at])
            pcpu_since[pcpu] = row_tsc[at]
    if continues >= 0 and continues != pcpu_runs[pcpu]:
        pcpu_runs[pcpu] = continues
        pcpu_since[pcpu] = 0


@loop
def find_holes(
    words: U32, shape_header: U32, shape_role: U8, segment: int, segment_count: int,
    seg_state: U8, seg_part: U8, seg_pcpu: I32, seg_row: I64, seg_row_end: I64, seg_key: I64,
    row_key: I64, row_tsc: I64, row_shape: U16, row_start: U32,
    pcpu_runs: I64, pcpu_since: I64, pcpu_key: I64, emitted_key: int,
    sums: I64, found: I64_2D,
) -> None:  # fmt: skip
    """Find what is missing between windows of state 0 and the windows of their pCPUs before them.

    Where something is, a row before the window says so: its key is the last one before the hole, its TSC the
    end of the hole, its shape HOLE_*, and it starts where the vCPU is named.

    Args:
        shape_role: ROLE_* of each shape, or 0.
        seg_part: bit 0 for a window that is the end of another one; bit 1 where damage is before it, so that
            windows of its pCPU can be missing.
        pcpu_runs: vCPU that each pCPU runs; -1: not known.
        pcpu_since: TSC since when; 0: not known.
        pcpu_key: last key.
        emitted_key: greatest key that the merge has passed; no row is put before it.
        found: the first holes: pCPU, begin, end.
    """
    while segment < segment_count:
        row = seg_row[segment]
        row_end = seg_row_end[segment]
        if seg_state[segment] != 0 or row == row_end:
            segment += 1
            continue
        pcpu = seg_pcpu[segment]
        if sums[RUN_NS] < _RUN_NS_ENOUGH and sums[HAS_CORES] == 0:
            _add_runs(words, shape_role, row, row_end, row_tsc, row_shape, row_start, sums)
            if _has_cores(words, shape_role, pcpu, row, row_end, row_shape, row_start):
                sums[HAS_CORES] = 1
        runs = pcpu_runs[pcpu]
        key = pcpu_key[pcpu]
        at = row_end
        if seg_part[segment] & 2 and key > 0:
            timed_row = _next_timed(words, shape_header, row, row_end, row_shape, row_start)
            if timed_row < row_end and key < row_tsc[timed_row] <= MAX_KEY:
                tsc = row_tsc[timed_row]
                _count_hole(sums, found, pcpu, key, tsc)
                _put_hole(
                    words, shape_header, segment, seg_row, seg_row_end,
                    row_key, row_tsc, row_shape, row_start,
                    min(max(key, emitted_key), tsc), tsc, HOLE_NOBODY, row_start[row],
                )  # fmt: skip
            pcpu_runs[pcpu] = -1
            pcpu_since[pcpu] = 0
        elif runs >= 0 and key > 0 and seg_part[segment] == 0 and sums[HAS_CORES] == 0:
            at = row
            while at < row_end and shape_role[row_shape[at]] == 0:
                at += 1
        if at < row_end and shape_role[row_shape[at]] != ROLE_LOST:
            role = shape_role[row_shape[at]]
            vcpu = _vcpu_in(words, role, row_start[at])
            timed_row = _next_timed(words, shape_header, row, row_end, row_shape, row_start)
            tsc = np.int64(0)
            if timed_row < row_end:
                tsc = row_tsc[timed_row]
            shape = HOLE_BY_KEY
            if role == ROLE_PREVIOUS:
                shape = HOLE_BY_UNIT
            elif role == ROLE_ENTERS:
                shape = HOLE_NOBODY
            if key < tsc <= MAX_KEY and row_key[timed_row] == tsc:
                is_hole = vcpu != runs or role == ROLE_ENTERS
                if not is_hole and role == ROLE_PREVIOUS:
                    ran = np.int64(words[row_start[at] + 2])
                    is_hole = _began_later(sums, ran, row_tsc[at], pcpu_since[pcpu], key)
                if is_hole and _has_cores(words, shape_role, pcpu, row, row_end, row_shape, row_start):
                    sums[HAS_CORES] = 1
                    is_hole = False
                if is_hole:
                    _count_hole(sums, found, pcpu, key, tsc)
                    pcpu_runs[pcpu] = vcpu if role != ROLE_ENTERS else np.int64(-1)
                    pcpu_since[pcpu] = 0
                    _put_hole(
                        words, shape_header, segment, seg_row, seg_row_end,
                        row_key, row_tsc, row_shape, row_start,
                        min(max(key, emitted_key), tsc), tsc, shape, row_start[at],
                    )  # fmt: skip
        _note_last(
            words, shape_role, pcpu, row, row_end, row_tsc, row_shape, row_start, pcpu_runs, pcpu_since
        )
        pcpu_key[pcpu] = seg_key[segment]
        segment += 1


@inlined_part
def _before(key_a, chain_a, key_b, chain_b):
    return key_a < key_b or (key_a == key_b and chain_a < chain_b)


@part
def _sift_down(heap_key, heap_chain, at, size):
    key = heap_key[at]
    chain = heap_chain[at]
    while True:
        child = 2 * at + 1
        if child >= size:
            break
        if child + 1 < size and _before(
            heap_key[child + 1], heap_chain[child + 1], heap_key[child], heap_chain[child]
        ):
            child += 1
        if not _before(heap_key[child], heap_chain[child], key, chain):
            break
        heap_key[at] = heap_key[child]
        heap_chain[at] = heap_chain[child]
        at = child
    heap_key[at] = key
    heap_chain[at] = chain


@loop
def merge(
    watermark: int, emitted_key: int,
    row_key: I64, row_tsc: I64, row_shape: U16, row_start: U32,
    chain_pcpu: I64, chain_segment: I64, chain_segment_end: I64,
    segment_row: I64, segment_row_end: I64,
    heap_key: I64, heap_chain: I64,
    record_counts: I64_2D, shape_wanted: U8,
    out_tsc: I64, out_pcpu: U16, out_shape: U16, out_start: U32,
    chain_last_key: I64, chain_last_tsc: I64,
) -> tuple[int, int, int]:  # fmt: skip
    """Merge the pCPUs' rows with keys below ``watermark``, by key, and by pCPU among equal keys.

    On return ``chain_segment[c]`` is the first segment of chain c with rows left.

    Returns:
        (rows output, late rows, rows whose TSC goes backwards).  Rows of unwanted shapes are counted
        but not output.  A row is late if a row with a greater key was output before this call.
    """
    late = 0
    backward = 0
    size = 0
    for chain in range(len(chain_pcpu)):
        chain_last_key[chain] = KEY_FLOOR
        segment = chain_segment[chain]
        while segment < chain_segment_end[chain] and segment_row[segment] == segment_row_end[segment]:
            segment += 1
        chain_segment[chain] = segment
        if segment < chain_segment_end[chain]:
            heap_key[size] = row_key[segment_row[segment]]
            heap_chain[size] = chain
            size += 1
    for at in range(size // 2 - 1, -1, -1):
        _sift_down(heap_key, heap_chain, at, size)

    out = 0
    while size > 0 and heap_key[0] < watermark:
        chain = heap_chain[0]
        # The run continues until another pCPU's next row is due.
        limit = watermark
        if size > 1:
            rival = 1
            if size > 2 and _before(heap_key[2], heap_chain[2], heap_key[1], heap_chain[1]):
                rival = 2
            # keys are whole cycles: equal keys go to the lower chain
            due = heap_key[rival] + (1 if chain < heap_chain[rival] else 0)
            limit = min(limit, due)
        segment = chain_segment[chain]
        pcpu = np.uint16(chain_pcpu[chain])
        row = segment_row[segment]
        row_end = segment_row_end[segment]
        first = row
        while row < row_end and row_key[row] < limit:
            shape = row_shape[row]
            record_counts[pcpu, shape] += 1
            late += row_key[row] < emitted_key
            backward += row_tsc[row] < row_key[row]
            if shape_wanted[shape]:
                out_tsc[out] = row_tsc[row]
                out_pcpu[out] = pcpu
                out_shape[out] = shape
                out_start[out] = row_start[row]
                out += 1
            row += 1
        segment_row[segment] = row
        if row > first:
            chain_last_key[chain] = row_key[row - 1]
            chain_last_tsc[chain] = row_tsc[row - 1]
        while segment < chain_segment_end[chain] and segment_row[segment] == segment_row_end[segment]:
            segment += 1
        chain_segment[chain] = segment
        if segment < chain_segment_end[chain]:
            heap_key[0] = row_key[segment_row[segment]]
        else:
            size -= 1
            heap_key[0] = heap_key[size]
            heap_chain[0] = heap_chain[size]
        if size > 1:
            _sift_down(heap_key, heap_chain, 0, size)
    return out, late, backward
