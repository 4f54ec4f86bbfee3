"""A slow, simple reference implementation of the reader, to compare the real one with.

It uses only ``struct``, lists and dicts, and handles one record after the other.  If the
two differ, read this one first, because its rules are short:

Framing
    A file is windows back to back.  A window is a 12-byte header {0x2001f003,
    pCPU, size} and ``size`` bytes of records.

    (a) At a window boundary the word must be 0x2001f003, the pCPU < 16384, the
        size a multiple of 4 and at most 65535 * 4096.  Anything else is the
        damage "not a window header" at that offset.  The search continues from the
        next word, in steps of 4 bytes, to the first complete 12-byte header that
        is within those bounds and, if its size is not 0 and the file has the
        word after it, is followed by a plausible record header: one that (c)
        would accept as the first of the window.  If there is none, the rest of
        the file is skipped.
    (b) A file may end inside a window (it is still being written).  Complete
        records count; the rest is ``missing_bytes`` and not damage.
    (c) Inside a window, in this order:
        the word 0x2001f003 is "window header inside a window": the window ends
        there, nothing is skipped, (a) applies at that offset;
        a header whose class bits (16 to 27) are all zero is "not a record header";
        a record that ends beyond the window's announced end is "record overruns
        its window".  The last two skip the rest of the window, as far
        as the file has it.
    (d) Fewer than 12 bytes at a boundary that begin with 0x2001f003 are the
        end of a file still being written: they are not damage, and count as
        ``missing_bytes``.  1 to 3 bytes after the last whole word are ignored.
    (e) A file of 1 to 3 bytes that are not the first bytes of 0x2001f003 is not a trace: "not a window
        header" at 0.

Time
    A timed record shows its TSC.  An untimed one shows the TSC of the timed
    record before it on its pCPU (0 if there is none).  LOST_RECORDS (timed, 4
    words) shows its own TSC, and so do untimed records after it.
    WRAP_BUFFER fillers are counted but not returned, and the TSC of a timed
    filler is not used.

Order
    Records are merged across pCPUs by key.  The key is the shown TSC.  The key
    of LOST_RECORDS is its first_tsc, but not below the key before it and not above its
    own TSC; for the records that follow on its pCPU it counts as its own TSC.  On
    one pCPU a key is never below the one before it (a running maximum), whatever
    TSC is shown.  Equal keys: lower pCPU first; on one pCPU always file order.

Restarts
    The TSC can restart for the whole host: suspend to RAM, or another boot's trace appended to the file.
    The trace then has segments, each in an order of its own, one after the other.  Times, keys and
    running maxima begin anew in each; no rule above looks back across a restart.  It is found from
    the windows in file order, by their TSCs (timed records, without fillers; those above MAX_KEY count as
    MAX_KEY); a window without a TSC shows nothing.

    (f) The marks of a pCPU are the last two of: the first and the last TSC of each of its windows (one mark
        if that is the same record).  A pCPU with fewer marks takes the first TSCs of the window itself in
        their place.  A window is low if its last TSC, or each of its first two, is below both marks.  Its
        low part is the whole window if its first two are or all are; otherwise it begins with the first
        timed record after the last TSC that is not below both, and what is before it counts as a window of
        its own.
    (g) A low window (the suspect) is a restart if the next window of any pCPU is low too; if that pCPU has
        fewer than two marks, the smaller one of the suspect's is taken.  If it is of the same pCPU, the
        whole of it must be low.  At the end of the file two TSCs in the suspect's low part are enough.
        Otherwise there is no restart, and the low part counts as a window like others.
    (h) Each pCPU's first low part from the suspect on begins the new segment on that pCPU, until the
        second window of one that has it: from there on everything is in the new segment.  A window
        without a TSC is where its pCPU is.
    (i) After MAX_RESTARTS, no more are looked for.

Holes
    Windows can be missing in the middle of a trace, as xentrace -M leaves them out.  Switches show it: a
    runstate record to or from running, CONTINUE_RUNNING, SWITCH_INFPREV of three words.

    (j) A window leaves the vCPU running that its last record to running or CONTINUE_RUNNING names; none is
        known after a record from running, or after LOST_RECORDS.  SWITCH_INFPREV changes nothing.
    (k) Its first switch shows which vCPU ran so far.  There is a hole before the window if that is not the
        one that the windows of the pCPU before it leave running, or if it is a record to running.
    (l) There is also one if SWITCH_INFPREV names the same vCPU, but says that its run began after the last
        key, and later than its record to running says.  The difference must be more than 60 ms and a share of
        the time since that record; the share is 2 % and 60 ms divided by the sum of run times below.  That
        time must be less than 4 s, because run times wrap.  The rate of the TSC is that of all runs so far of
        which a window has both ends, until the sum of their times is 4 s; it must be 100 ms at least.
    (m) There is none if no vCPU is known to run, if LOST_RECORDS comes before the window's first switch, or
        if the first record with a TSC (it must sort by that TSC) is not after the last key.  There is none
        before the low part of a window that was split, whether or not it is a restart.
    (n) With core scheduling there are none, because a pCPU writes the switches of others.  It shows where
        an idle vCPU has another number than the pCPU whose window has a switch of it (other than
        CONTINUE_RUNNING and SWITCH_INFPREV): in the windows that are read for the rate, or in one that
        follows a hole, which then is none.
    (o) The hole is from the last key on the pCPU to the first TSC of the window; what is known of what runs
        is taken from the window.  Records without a TSC at its beginning show its end, and sort by it.

Ends
    xentrace reads the pCPUs in rounds, in ascending order, and takes all that a pCPU has written so far.

    (p) A window of a pCPU that is not greater than that of the window before it begins a round.
    (q) At the end of a segment, a pCPU has last been read in the last round if its number is not greater than
        that of the last window, else in the round before.  It is covered up to the greatest key of all
        windows that come before its turn in that round, and of its own.  If the last window is not complete,
        its pCPU is covered up to its own last key.
        If the last round did not reach a pCPU that had no window in the round before either, it is taken to
        have been read in the last one.
    (r) Where other pCPUs have greater keys, the rest is a hole, of which nothing shows the end.  There is
        none in a segment of one round, nor in one with a key of MAX_KEY.

TSCs are unsigned 64-bit here.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass, field

WINDOW_HEADER = 0x2001F003
LOST_RECORDS = 0x1F001
WRAP_BUFFER = 0x1F002
MAX_PCPUS = 16384
MAX_WINDOW_BYTES = 65535 * 4096
#: TSCs above this are damage; they all sort last.
MAX_KEY = (1 << 62) - 1
MAX_RESTARTS = 100
#: Not an event of Xen: it has no class.
HOLE, HOLE_TO_END = 1, 2

NOT_A_WINDOW = "not a window header"
NOT_A_RECORD = "not a record header"
OVERRUN = "record overruns its window"
WINDOW_INSIDE = "window header inside a window"


@dataclass(frozen=True, slots=True)
class Record:
    """One record of the merged trace.

    Attributes:
        offset: byte offset of its header word in the file.
        pcpu: the pCPU that wrote it.
        tsc: TSC shown, in cycles (see the module's rules).
        timed: whether the record has its own TSC.
        event: event id, bits 0 to 27 of the header.
        words: the 0 to 7 extra words.
        segment: how many restarts of the TSC come before it.
    """

    offset: int
    pcpu: int
    tsc: int
    timed: bool
    event: int
    words: tuple[int, ...]
    segment: int = 0


@dataclass(frozen=True, slots=True)
class Damage:
    """Damaged bytes: offset, reason, and how many were skipped."""

    offset: int
    reason: str
    skipped_bytes: int


@dataclass(frozen=True, slots=True)
class RawRecord:
    """A record as framed, fillers included; ``tsc`` is None if untimed."""

    offset: int
    event: int
    tsc: int | None
    words: tuple[int, ...]

    @property
    def is_lost(self) -> bool:
        """Whether it has the format of LOST_RECORDS."""
        return self.event == LOST_RECORDS and self.tsc is not None and len(self.words) == 4

    @property
    def is_wrap(self) -> bool:
        """Whether it is a filler."""
        return self.event == WRAP_BUFFER


@dataclass(frozen=True, slots=True)
class Window:
    """One window: header at ``offset``, announced ``size``, its complete records; or a part of it."""

    offset: int
    pcpu: int
    size: int
    records: tuple[RawRecord, ...]
    is_low_part: bool = False


@dataclass(frozen=True, slots=True)
class Hole:
    """A stretch of a pCPU's time of which windows are missing; ``vcpu`` runs at its end, if one is known."""

    pcpu: int
    begin: int
    end: int
    vcpu: int | None


@dataclass(frozen=True, slots=True)
class Restart:
    """A restart of the TSC.

    Attributes:
        offset: of the suspect's window, or of the first record of its low part.
        pcpu: of the suspect.
        before: greatest of the last marks of the pCPUs.
        after: least first TSC of the low parts.
    """

    offset: int
    pcpu: int
    before: int
    after: int


@dataclass(slots=True)
class Framing:
    """A file cut into windows and records, in file order."""

    windows: list[Window] = field(default_factory=list)
    damages: list[Damage] = field(default_factory=list)
    missing_bytes: int = 0
    is_cut: bool = False  # the last window is not complete


@dataclass(slots=True)
class Trace:
    """The result of ``read``.

    Attributes:
        records: in merged order, without fillers.
        damages: in file order.
        lost_records: sum of the counts of all LOST_RECORDS.
        wrap_count: number of fillers.
        skipped_bytes: sum over ``damages``.
        restarts: of the TSC, in file order.
        missing_bytes: from the end of the last complete record to the announced end of the last
            window; for an incomplete window header, its 1 to 11 bytes.
        holes: in the order of their windows.
        records_and_holes: the records, and a HOLE record for each hole: it shows its end and sorts by its
            beginning; its word is the vCPU.  One to the end is a HOLE_TO_END record at its beginning.
    """

    records: list[Record]
    damages: list[Damage]
    lost_records: int
    wrap_count: int
    skipped_bytes: int
    missing_bytes: int
    restarts: list[Restart] = field(default_factory=list)
    holes: list[Hole] = field(default_factory=list)
    records_and_holes: list[Record] = field(default_factory=list)

    @property
    def segments(self) -> list[list[Record]]:
        """The records of each segment."""
        return self._by_segment(self.records)

    @property
    def segments_with_holes(self) -> list[list[Record]]:
        """The records and holes of each segment."""
        return self._by_segment(self.records_and_holes)

    def _by_segment(self, records: list[Record]) -> list[list[Record]]:
        return [
            [record for record in records if record.segment == number]
            for number in range(len(self.restarts) + 1)
        ]


def read(data: bytes) -> Trace:
    """Read a whole trace and return its records in merged order."""
    framing = frame(data)
    segments, restarts = split_at_restarts(framing.windows)
    finder = HoleFinder()
    records_by_segment, everything = [], []
    for number, part in enumerate(segments):
        before = finder.begin_segment(part)
        records_by_segment.append(_merged(part, number))
        is_cut = framing.is_cut and number == len(segments) - 1
        everything += _merged(part, number, before, is_cut=is_cut)
    records = [record for part in records_by_segment for record in part]
    raws = [raw for window in framing.windows for raw in window.records]
    return Trace(
        records=records,
        damages=framing.damages,
        lost_records=sum(raw.words[0] for raw in raws if raw.is_lost),
        wrap_count=sum(raw.is_wrap for raw in raws),
        skipped_bytes=sum(damage.skipped_bytes for damage in framing.damages),
        missing_bytes=framing.missing_bytes,
        restarts=restarts,
        holes=finder.holes,
        records_and_holes=everything,
    )


def _merged(
    windows: list[Window], segment: int, holes: dict[int, Hole] | None = None, *, is_cut: bool = False
) -> list[Record]:
    """Return the records of a segment in merged order; with ``holes``, also those, and those to its end."""
    ends: list[tuple[int, int]] = []  # pCPU and greatest key of each window
    keyed: list[tuple[int, int, int, Record]] = []
    last_tsc: dict[int, int] = {}
    last_key: dict[int, int] = {}
    for number, window in enumerate(windows):
        pcpu = window.pcpu
        if holes is not None and (hole := holes.get(number)) is not None:
            words = () if hole.vcpu is None else (hole.vcpu,)
            record = Record(window.offset, pcpu, hole.end, True, HOLE, words, segment)
            keyed.append((hole.begin, pcpu, len(keyed), record))
            last_tsc[pcpu] = last_key[pcpu] = hole.end
        for raw in window.records:
            if raw.is_wrap:
                continue
            tsc = last_tsc.get(pcpu, 0) if raw.tsc is None else raw.tsc
            before = last_key.get(pcpu, 0)
            key = tsc
            if raw.is_lost:
                first_tsc = raw.words[2] | raw.words[3] << 32
                key = min(max(first_tsc, before), tsc)
            last_tsc[pcpu] = tsc
            last_key[pcpu] = max(min(key, MAX_KEY), before)
            record = Record(raw.offset, pcpu, tsc, raw.tsc is not None, raw.event, raw.words, segment)
            keyed.append((last_key[pcpu], pcpu, len(keyed), record))
            if raw.is_lost:
                last_key[pcpu] = max(last_key[pcpu], min(tsc, MAX_KEY))
        ends.append((pcpu, last_key.get(pcpu, -1)))
    if holes is not None:
        for pcpu, end in ends_of(ends, is_cut=is_cut).items():
            keyed.append((end, pcpu, len(keyed), Record(0, pcpu, end, True, HOLE_TO_END, (), segment)))
    keyed.sort(key=lambda entry: entry[:3])
    return [entry[3] for entry in keyed]


def ends_of(windows: list[tuple[int, int]], *, is_cut: bool = False) -> dict[int, int]:
    """Return up to which key the pCPUs are covered that are not covered to the end.

    Args:
        windows: pCPU and greatest key of each.
        is_cut: the last window is not complete.
    """
    turns: list[tuple[int, int]] = []  # round and pCPU of each window
    for at, (pcpu, _) in enumerate(windows):
        is_new = at > 0 and pcpu <= windows[at - 1][0]
        turns.append((turns[-1][0] + is_new if turns else 0, pcpu))
    end = max((key for _, key in windows), default=0)
    if not turns or turns[-1][0] == 0 or end >= MAX_KEY:
        return {}
    last_round, last_pcpu = turns[-1]
    found = {}
    for pcpu in {pcpu for pcpu, _ in windows}:
        is_missed = pcpu > last_pcpu and (last_round - 1, pcpu) in turns
        turn = last_round - is_missed, pcpu
        covered = max(key for at, (_, key) in enumerate(windows) if turns[at] <= turn)
        if is_cut and pcpu == last_pcpu:
            covered = windows[-1][1]
        if -1 < covered < end:
            found[pcpu] = covered
    return found


# --- holes -------------------------------------------------------------------------------------


class HoleFinder:
    """Finds the holes of one segment after the other."""

    def __init__(self) -> None:
        self.holes: list[Hole] = []
        self._run_ns = self._run_cycles = 0
        self._has_cores = False

    def begin_segment(self, windows: list[Window]) -> dict[int, Hole]:
        """Return the holes by the number of the window after them."""
        found: dict[int, Hole] = {}
        runs: dict[int, tuple[int, int]] = {}  # by pCPU: vCPU, TSC since when or 0
        keys: dict[int, int] = {}
        tscs: dict[int, int] = {}
        for number, window in enumerate(windows):
            pcpu = window.pcpu
            if not window.records:
                continue
            shown = _shown(window, tscs.get(pcpu, 0))
            if self._run_ns < 4_000_000_000 and not self._has_cores:
                self._add_runs(window, shown)
                self._has_cores = _has_cores(window)
            key = keys.get(pcpu, 0)
            if pcpu in runs and key and not window.is_low_part and not self._has_cores:
                hole = self._hole_before(window, shown, key, *runs[pcpu])
                if hole is not None and _has_cores(window):
                    self._has_cores = True
                elif hole is not None:
                    found[number] = hole
                    del runs[pcpu]
                    if hole.vcpu is not None:
                        runs[pcpu] = hole.vcpu, 0
                    timed = [raw.tsc is not None and not raw.is_wrap for raw in window.records]
                    untimed = timed.index(True)
                    shown = [hole.end] * untimed + shown[untimed:]
            _note_switches(runs, window, shown)
            tscs[pcpu] = shown[-1]
            keys[pcpu] = max(key, *(min(tsc, MAX_KEY) for tsc in shown))
        self.holes += found.values()
        return found

    def _add_runs(self, window: Window, shown: list[int]) -> None:
        """Add the run times of all runs of which the window has both ends."""
        entered: tuple[int, int] | None = None
        for raw, tsc in zip(window.records, shown, strict=True):
            what, vcpu = _switch(raw)
            if what == "previous":
                if entered is not None and entered[0] == vcpu and 0 < entered[1] < tsc <= MAX_KEY:
                    ns, cycles = raw.words[2], tsc - entered[1]
                    if ns < 0xF0000000 and cycles < 1 << 32:
                        self._run_ns += ns
                        self._run_cycles += cycles
                entered = None
            elif what == "enters":
                entered = vcpu, tsc
            elif what in ("leaves", "lost"):
                entered = None

    def _hole_before(self, window: Window, shown: list[int], key: int, runs: int, since: int) -> Hole | None:
        switches = [
            (what, vcpu, tsc, raw.words)
            for raw, tsc in zip(window.records, shown, strict=True)
            for what, vcpu in [_switch(raw)]
            if what
        ]
        timed = [raw for raw in window.records if raw.tsc is not None and not raw.is_wrap]
        if not switches or switches[0][0] == "lost" or not timed:
            return None
        first = timed[0].tsc
        assert first is not None
        sorts_by = min(max(_wide(timed[0].words[2:]), key), first) if timed[0].is_lost else first
        if not key < first <= MAX_KEY or sorts_by != first:
            return None
        what, vcpu, tsc, words = switches[0]
        if what == "enters":
            return Hole(window.pcpu, key, first, None)
        if vcpu != runs or (what == "previous" and self._began_later(words[2], tsc, since, key)):
            return Hole(window.pcpu, key, first, vcpu)
        return None

    def _began_later(self, ran_ns: int, tsc: int, since: int, last: int) -> bool:
        if self._run_ns < 100_000_000 or not 0 < since < tsc <= MAX_KEY:
            return False
        rate = self._run_cycles / self._run_ns
        length = float(tsc - since)
        later = length - ran_ns * rate
        allowed = 60_000_000 * rate + (0.02 + 60_000_000 / self._run_ns) * length
        return length < 4_000_000_000 * rate and later > float(last - since) and later > allowed


def _switch(raw: RawRecord) -> tuple[str, int]:
    """Return what a record says about the vCPU that runs, and the vCPU; ("", 0) if nothing."""
    if raw.is_lost:
        return "lost", 0
    event, words = raw.event, raw.words
    if event == 0x2800E and len(words) == 3:
        return "previous", (words[0] & 0xFFFF) << 16 | words[1] & 0xFFFF
    if event == 0x21002 and len(words) == 1:
        return "continues", words[0]
    if event & ~0x330 != 0x21001 or not words:
        return "", 0
    old_runs, new_runs = not event >> 8 & 3, not event >> 4 & 3
    if old_runs and new_runs:
        return "continues", words[0]
    return ("leaves" if old_runs else "enters" if new_runs else ""), words[0]


def _note_switches(runs: dict[int, tuple[int, int]], window: Window, shown: list[int]) -> None:
    """Note which vCPU a window leaves running, and since when."""
    continues: int | None = None
    for raw, tsc in zip(window.records, shown, strict=True):
        what, vcpu = _switch(raw)
        if what in ("leaves", "lost", "enters"):
            runs.pop(window.pcpu, None)
            continues = None
        if what == "enters":
            runs[window.pcpu] = vcpu, tsc
        elif what == "continues":
            continues = vcpu
    if continues is not None and (window.pcpu not in runs or runs[window.pcpu][0] != continues):
        runs[window.pcpu] = continues, 0


def _has_cores(window: Window) -> bool:
    """Return whether the window has a switch of another pCPU's idle vCPU."""
    switches = [vcpu for what, vcpu in map(_switch, window.records) if what in ("leaves", "enters")]
    return any(vcpu >> 16 == 0x7FFF and vcpu & 0xFFFF != window.pcpu for vcpu in switches)


def _shown(window: Window, before: int) -> list[int]:
    """Return the TSCs that the records of a window show."""
    shown = []
    for raw in window.records:
        if raw.tsc is not None and not raw.is_wrap:
            before = raw.tsc
        shown.append(before)
    return shown


def _wide(words: tuple[int, ...]) -> int:
    return words[0] | words[1] << 32


# --- restarts ----------------------------------------------------------------------------------


def split_at_restarts(windows: list[Window]) -> tuple[list[list[Window]], list[Restart]]:
    """Return the windows of each segment, split where a restart is inside, and the restarts."""
    segments: list[list[Window]] = []
    restarts: list[Restart] = []
    left = list(windows)
    while len(restarts) < MAX_RESTARTS and (found := _first_restart(left)):
        before, left, restart = found
        segments.append(before)
        restarts.append(restart)
    return [*segments, left], restarts


def _first_restart(windows: list[Window]) -> tuple[list[Window], list[Window], Restart] | None:
    """Return the windows before and after the first restart, and the restart; None if there is none.

    Windows that it splits are split in ``windows``.
    """
    marks = _Marks()
    at = 0
    while at < len(windows):
        window = windows[at]
        bound = marks.bound(window)
        if bound is None or not _is_low(window, bound):
            marks.note(window)
            at += 1
            continue
        # What is before the low part counts as a window of its own.
        first, low = _parts(window, bound)
        if first is not None:
            marks.note(first)
            windows[at : at + 1] = [first, low]
            at += 1
        found = _followed(windows, at, bound, marks)
        if found is not None:
            return found
        marks.note(low)
        at += 1
    return None


def _followed(
    windows: list[Window], suspect: int, bound: int, so_far: _Marks
) -> tuple[list[Window], list[Window], Restart] | None:
    """Return what _first_restart() returns if the windows after ``suspect`` confirm it."""
    marks = so_far.copy()
    low = windows[suspect]
    old, new = windows[:suspect], [low]
    switched = {low.pcpu}
    is_known = False
    rest: list[Window] = []
    for at in range(suspect + 1, len(windows)):
        window = windows[at]
        tscs = _tscs(window)
        if not tscs:
            (new if window.pcpu in switched else old).append(window)
            continue
        limit = marks.bound_if_full(window.pcpu, bound)
        is_low = _is_low(window, limit)
        if window.pcpu in switched:
            if is_known or (is_low and _parts(window, limit)[0] is None):
                rest, is_known = windows[at:], True
                break
            return None
        if not is_low:
            if not is_known:
                return None
            marks.note(window)
            old.append(window)
            continue
        first, part = _parts(window, limit)
        if first is not None:
            marks.note(first)
            old.append(first)
        new.append(part)
        switched.add(window.pcpu)
        is_known = True
    if not is_known and len(_tscs(low)) < 2:
        return None
    first_tscs = [tscs[0] for tscs in map(_tscs, new) if tscs]
    return old, new + rest, Restart(low.offset, low.pcpu, marks.greatest_last, min(first_tscs))


class _Marks:
    """The marks of each pCPU."""

    def __init__(self) -> None:
        self._marks: dict[int, list[int]] = {}

    def copy(self) -> _Marks:
        other = _Marks()
        other._marks = {pcpu: list(marks) for pcpu, marks in self._marks.items()}
        return other

    def note(self, window: Window) -> None:
        tscs = _tscs(window)
        new = [tscs[0], tscs[-1]] if len(tscs) > 1 else tscs
        self._marks[window.pcpu] = (self._marks.get(window.pcpu, []) + new)[-2:]

    def bound(self, window: Window) -> int | None:
        """Return the smaller mark, of the window itself where the pCPU has too few."""
        tscs = _tscs(window)
        two = (self._marks.get(window.pcpu, []) + tscs)[:2]
        return min(two) if tscs and len(two) == 2 else None

    def bound_if_full(self, pcpu: int, otherwise: int) -> int:
        marks = self._marks.get(pcpu, [])
        return min(marks) if len(marks) == 2 else otherwise

    @property
    def greatest_last(self) -> int:
        return max(marks[-1] for marks in self._marks.values() if marks)


def _tscs(window: Window) -> list[int]:
    return [min(raw.tsc, MAX_KEY) for raw in window.records if raw.tsc is not None and not raw.is_wrap]


def _is_low(window: Window, bound: int) -> bool:
    return _tscs(window)[-1] < bound or _begins_low(window, bound)


def _begins_low(window: Window, bound: int) -> bool:
    tscs = _tscs(window)
    return len(tscs) > 1 and max(tscs[:2]) < bound


def _parts(window: Window, bound: int) -> tuple[Window | None, Window]:
    """Return what is before the low part of a low window, None if that is all of it, and the low part."""
    if _begins_low(window, bound):
        return None, window
    begin = None
    has_high = False
    for index, raw in enumerate(window.records):
        if raw.tsc is None or raw.is_wrap:
            continue
        if min(raw.tsc, MAX_KEY) >= bound:
            has_high, begin = True, None
        elif begin is None:
            begin = index
    if not has_high:
        return None, window
    assert begin is not None
    low = window.records[begin:]
    return (
        Window(window.offset, window.pcpu, window.size, window.records[:begin], window.is_low_part),
        Window(low[0].offset, window.pcpu, window.size, low, is_low_part=True),
    )


# --- framing -----------------------------------------------------------------------------------


def frame(data: bytes) -> Framing:
    """Split ``data`` into windows and records by rules (a) to (e)."""
    framing = Framing()
    if len(data) < 4 and not struct.pack("<I", WINDOW_HEADER).startswith(data):
        return Framing(damages=[Damage(0, NOT_A_WINDOW, len(data))])
    data = data[: len(data) // 4 * 4]
    offset = 0
    while offset < len(data):
        left = len(data) - offset
        if left < 12 and _word(data, offset) == WINDOW_HEADER:
            framing.missing_bytes = left
            break
        if not _is_window_header(data, offset):
            found = _next_window(data, offset + 4)
            framing.damages.append(Damage(offset, NOT_A_WINDOW, found - offset))
            offset = found
            continue
        pcpu, size = struct.unpack_from("<II", data, offset + 4)
        begin = offset + 12
        announced_end = begin + size
        records, stop, damage = _frame_window(data, begin, announced_end)
        framing.windows.append(Window(offset, pcpu, size, tuple(records)))
        offset = announced_end
        if damage is not None:
            framing.damages.append(damage)
            if damage.reason == WINDOW_INSIDE:
                offset = stop
        if offset > len(data):
            framing.missing_bytes = announced_end - stop
            framing.is_cut = framing.missing_bytes > 0
    return framing


def _frame_window(data: bytes, begin: int, announced_end: int) -> tuple[list[RawRecord], int, Damage | None]:
    """Return the complete records of a window, the offset where its known part ends, and the damage."""
    records: list[RawRecord] = []
    present_end = min(announced_end, len(data))
    offset = begin
    while present_end - offset >= 4:
        header = _word(data, offset)
        if header == WINDOW_HEADER:
            return records, offset, Damage(offset, WINDOW_INSIDE, 0)
        reason = _record_fault(header, announced_end - offset)
        if reason is not None:
            return records, present_end, Damage(offset, reason, present_end - offset)
        end = offset + _record_bytes(header)
        if end > present_end:
            break
        words = struct.unpack_from(f"<{(end - offset) // 4}I", data, offset)
        timed = header >> 31
        tsc = words[1] | words[2] << 32 if timed else None
        records.append(RawRecord(offset, header & 0x0FFFFFFF, tsc, words[3:] if timed else words[1:]))
        offset = end
    return records, offset, None


def _record_fault(header: int, room: int) -> str | None:
    if (header >> 16) & 0xFFF == 0:
        return NOT_A_RECORD
    if _record_bytes(header) > room:
        return OVERRUN
    return None


def _record_bytes(header: int) -> int:
    return 4 + 8 * (header >> 31) + 4 * (header >> 28 & 7)


def _is_window_header(data: bytes, offset: int) -> bool:
    if offset + 12 > len(data):
        return False
    header, pcpu, size = struct.unpack_from("<III", data, offset)
    return bool(header == WINDOW_HEADER and pcpu < MAX_PCPUS and size % 4 == 0 and size <= MAX_WINDOW_BYTES)


def _next_window(data: bytes, offset: int) -> int:
    for candidate in _words_from(data, offset):
        if _is_window_header(data, candidate) and _is_plausible(data, candidate):
            return candidate
    return len(data)


def _is_plausible(data: bytes, offset: int) -> bool:
    size = _word(data, offset + 8)
    first = offset + 12
    if size == 0 or first + 4 > len(data):
        return True
    header = _word(data, first)
    return header != WINDOW_HEADER and _record_fault(header, size) is None


def _words_from(data: bytes, offset: int) -> Iterator[int]:
    return iter(range(offset, len(data) - 3, 4))


def _word(data: bytes, offset: int) -> int:
    return int(struct.unpack_from("<I", data, offset)[0])
