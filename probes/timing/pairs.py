"""Time pairs of loops in random order until their differences are precise enough or time is up.

Loops of a guest's image run in a child of their own, so that nothing they do can touch the other figures.  If
a child strays or dies, all that it sent is thrown away, and the pairs of its last batch run alone to find
which of them did it.  If none does it again, each pair has batches of its own from then on.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from xtrace.probes.errors import TraceError
from xtrace.probes.timing.interval import Interval, of_median, spanning, undisturbed
from xtrace.probes.timing.program import Loop
from xtrace.probes.timing.session import I64, ChildError, Session, StrayedError

_FIRST_COUNT = 32
_FIRST_RUNS = 3
_LEAST_COUNT = 8
_MOST_COUNT = 20_000
_MISS_WARM = 4
_WARM_SHARE = 8
#: Longer batches would overrun the deadline.
_BATCH_CYCLES = 1e8
_BATCH_LIMIT_S = 10.0
_TURN_S = 1.0
_MOST_RESTARTS = 200
_PATIENCE = 3
_FIRST_REPEATS, _MOST_REPEATS = 8, 32
#: Children that a pair that varies is measured in.
_CHILDREN = 3


@dataclass(frozen=True, slots=True)
class Pair:
    """Two loops, each at the same number of places.

    Attributes:
        guest: their code comes from an image, which is not trusted.
        varies: the difference depends on the pages that a process gets, so that it is measured in several
            children, and its interval includes each one's median.
    """

    fenced: tuple[Loop, ...]
    plain: tuple[Loop, ...]
    guest: bool = False
    varies: bool = False


@dataclass(frozen=True, slots=True)
class Wanted:
    """How precisely a difference is wanted.

    Attributes:
        width_cycles, width_ratio: it is tight if its interval is not wider than ``width_cycles`` or than
            ``width_ratio`` times the median, whichever is greater.
        run_cycles: how long one timed run should take.
    """

    width_cycles: float = 2.0
    width_ratio: float = 0.1
    run_cycles: float = 20_000.0

    def tight(self, found: Interval) -> bool:
        """Return whether an interval is narrow enough."""
        return found.width <= max(self.width_cycles, self.width_ratio * abs(found.median))


@dataclass(frozen=True, slots=True)
class Difference:
    """How much longer a pair's fenced loop takes than its plain one, per execution, in TSC cycles.

    Attributes:
        fenced_cycles, plain_cycles: what one execution of each takes, including context and loop.
        dropped_count: pairs left out because of an interrupt or a change of processor.
        failure: why there is no difference, "" if there is one.
    """

    interval: Interval
    fenced_cycles: float
    plain_cycles: float
    dropped_count: int
    failure: str = ""


@dataclass(slots=True)
class _Left:
    """The pairs of one kind that are still to be timed, until when, and how often per round."""

    numbers: list[int]
    until: float
    repeats: int = _FIRST_REPEATS


class Pairs:
    """Times pairs.

    Args:
        start: starts a child process that has the loops; called again if one dies or strays.

    Raises:
        ValueError: not all loops have the same number of places.
    """

    def __init__(
        self, start: Callable[[], Session], pairs: Sequence[Pair], wanted: Wanted, seed: int = 0
    ) -> None:
        if len({len(loops) for pair in pairs for loops in (pair.fenced, pair.plain)}) > 1:
            raise ValueError("loops with different numbers of places")
        self._start = start
        self._sessions: dict[bool, Session] = {}
        self._pairs = pairs
        self._wanted = wanted
        self._random = np.random.default_rng(seed)
        self._places = len(pairs[0].fenced) if pairs else 0
        # [pair, place, fenced or plain, (function, warm, count)]; executions and cycles of one run.
        self._entries = np.zeros((len(pairs), self._places, 2, 3), np.int64)
        self._executions = np.ones(len(pairs), np.int64)
        self._expected = np.zeros(len(pairs))
        self._failures: dict[int, str] = {}
        # By whether they are the guest's, what the child that is running and those renewed before have sent.
        self._rows: dict[bool, list[I64]] = {False: [], True: []}
        self._restarts = {False: 0, True: 0}
        # How many children have been replaced by new ones, to see what differs between them.
        self._renewals = {False: 0, True: 0}
        # Whether each pair has batches of its own.
        self._apart = {False: False, True: False}
        self._thrown: dict[str, int] = {}
        self._ran_s, self._waited_s = 0.0, 0.0

    def close(self) -> None:
        """End the children.

        Raises:
            TraceError: code changed that cannot change.
        """
        for guest in list(self._sessions):
            self._end(guest)

    def _end(self, guest: bool) -> None:
        session = self._sessions.pop(guest, None)
        if session is None:
            return
        ran, waited = session.shares_s()
        self._ran_s += ran
        self._waited_s += waited
        changed = session.text_changed()
        with suppress(OSError):
            session.close()
        if changed:
            raise TraceError("code that was being timed has changed: nothing that was measured counts")

    def _child(self, guest: bool) -> Session | None:
        """Return the child of a guest's loops or of the others; None if it could not be started again.

        Raises:
            TraceError: the first child cannot be started here.
        """
        if guest not in self._sessions:
            try:
                self._sessions[guest] = self._start()
            except TraceError as error:
                if not self._restarts[guest]:
                    raise
                self._fail_all(guest, str(error))
                return None
        return self._sessions[guest]

    def _warm_up(self) -> None:
        """Run the other loops in a guest's child, right before its own.

        Loops that miss the caches are slower in a process that has not run for a while: too few executions
        would make a run, and what a run costs once would be a large part of it.
        """
        own = [number for number in self._alive() if not self._pairs[number].guest]
        entries = self._entries[own, 0].reshape(-1, 3)
        session = self._child(True) if len(entries) else None
        if session is None:
            return
        try:
            for place in range(0, len(entries), session.most_entries):
                session.run(entries[place : place + session.most_entries], _BATCH_LIMIT_S)
        except ChildError as error:
            self._throw_away(True, error)

    @property
    def thrown_away(self) -> tuple[str, ...]:
        """Return why results were thrown away, with how often, one line each."""
        return tuple(
            f"{reason} ({count} times)" if count > 1 else reason for reason, count in self._thrown.items()
        )

    @property
    def waiting_ratio(self) -> float:
        """Return the share of the time in which the child waited because others used its processor.

        Final only after close().
        """
        return self._waited_s / max(self._ran_s + self._waited_s, 1e-9)

    def measure(self, deadline: float, progress: Callable[[float], None] = lambda _: None) -> None:
        """Time all pairs, then those that are not tight yet, until ``deadline`` (time.monotonic()).

        On a busy machine the first round over all pairs may take three times as long as the time given.
        """
        patience_s = _PATIENCE * (deadline - time.monotonic())
        self._size()
        # In turn, so that neither kind waits for the other's end.  Each first round has time of its own.
        sized = time.monotonic()
        kinds = {guest: _Left(self._loose(guest), sized + patience_s) for guest in (False, True)}
        kinds[True].until += patience_s * len(kinds[True].numbers) / max(len(self), 1)
        begun = time.monotonic()
        while any(kind.numbers and time.monotonic() < kind.until for kind in kinds.values()):
            for guest, kind in kinds.items():
                self._renew(guest, (time.monotonic() - begun) / max(deadline - begun, 1e-9))
                turn = time.monotonic() + _TURN_S
                while kind.numbers and time.monotonic() < min(turn, kind.until):
                    self._round(kind.numbers, kind.repeats, kind.until)
                    kind.until = deadline
                    kind.numbers = self._loose(guest)
                    kind.repeats = min(2 * kind.repeats, _MOST_REPEATS)
                    progress(1 - sum(len(item.numbers) for item in kinds.values()) / max(len(self), 1))

    def _renew(self, guest: bool, passed: float) -> None:
        """End the child if its share of the time has passed; the next loops start another one."""
        if guest in self._sessions and passed * _CHILDREN >= self._renewals[guest] + 1 < _CHILDREN:
            self._renewals[guest] += 1
            self._end(guest)

    def _loose(self, guest: bool) -> list[int]:
        """Return the pairs of a kind that have not failed and whose interval is not tight yet."""
        numbers = [number for number in self._alive() if self._pairs[number].guest is guest]
        if not self._rows[guest]:
            return numbers
        found = self.differences(guest)
        return [
            number
            for number in numbers
            if not self._wanted.tight(found[number].interval)
            or (self._pairs[number].varies and self._renewals[guest] + 1 < _CHILDREN)
        ]

    def differences(self, guest: bool | None = None) -> list[Difference]:
        """Return each pair's difference as known so far.

        Args:
            guest: compute only those of a guest, or only the others; None for all.
        """
        nothing = Interval(np.nan, np.nan, np.nan, 0)
        found = [Difference(nothing, np.nan, np.nan, 0, self._failures.get(n, "")) for n in range(len(self))]
        sent = [rows for kind in (False, True) if guest in (None, kind) for rows in self._rows[kind]]
        if not sent:
            return found
        rows = np.concatenate(sent)
        rows = rows[np.argsort(rows[:, 0] * self._places + rows[:, 1], kind="stable")]
        bounds = np.searchsorted(rows[:, 0], np.arange(len(self) + 1))
        for number in range(len(self)):
            mine = rows[bounds[number] : bounds[number + 1]]
            if len(mine) and number not in self._failures:
                varies = self._pairs[number].varies
                found[number] = self._difference(mine, int(self._executions[number]), varies=varies)
        return found

    def __len__(self) -> int:
        return len(self._pairs)

    def _difference(self, rows: I64, executions: int, *, varies: bool) -> Difference:
        intervals, levels, dropped = [], [], 0
        for place in range(self._places):
            mine = rows[rows[:, 1] == place]
            cycles = mine[:, 2:4].astype(np.float64)
            kept = np.zeros(len(mine), np.bool_)
            if len(mine):
                kept = undisturbed(cycles[:, 0]) & undisturbed(cycles[:, 1]) & (mine[:, 4] == 0)
            dropped += int(len(mine) - kept.sum())
            good = cycles[kept] / executions
            added = good[:, 0] - good[:, 1]
            intervals.append(of_median(added))
            if varies and not np.isnan(intervals[-1].median):
                children = mine[kept, 5]
                apart = [float(np.median(added[children == child])) for child in np.unique(children)]
                whole = intervals[-1]
                intervals[-1] = replace(whole, low=min(whole.low, *apart), high=max(whole.high, *apart))
            if len(good):
                levels.append(np.median(good, axis=0))
        fenced, plain = np.median(levels, axis=0) if levels else (np.nan, np.nan)
        return Difference(spanning(intervals), float(fenced), float(plain), dropped)

    def _alive(self) -> list[int]:
        return [number for number in range(len(self)) if number not in self._failures]

    def _size(self) -> None:
        """Find out how long an execution takes, and from that how many make a run."""
        for number, pair in enumerate(self._pairs):
            for side, loops in enumerate((pair.fenced, pair.plain)):
                for place, loop in enumerate(loops):
                    self._entries[number, place, side] = (loop.address, 1, _FIRST_COUNT)
        first = self._entries[:, 0].reshape(-1, 3)
        owners = np.repeat(np.arange(len(self)), 2)
        least = np.full(len(first), np.inf)
        # A guest's loops run alone first: if one strays, it is known which.
        self._try_guests()
        for _ in range(_FIRST_RUNS):
            for index, cycles, _changed in self._run(first, owners, np.full(len(first), 2e4), warm=True):
                least[index] = min(least[index], cycles)
        for number, pair in enumerate(self._pairs):
            each = max(float(least[2 * number : 2 * number + 2].max()) / _FIRST_COUNT, 0.5)
            if not np.isfinite(each):
                continue
            loop = pair.fenced[0]
            count = loop.most_count or int(np.clip(self._wanted.run_cycles / each, _LEAST_COUNT, _MOST_COUNT))
            warm = _MISS_WARM if loop.most_count else count // _WARM_SHARE + 1
            self._executions[number] = count
            self._entries[number, :, :, 1] = warm
            self._entries[number, :, :, 2] = count
            # Flushing the lines that are to miss takes about as long again.
            self._expected[number] = each * (count + warm) * (2 if loop.most_count else 1) + 500

    def _round(self, numbers: Sequence[int], repeats: int, deadline: float) -> None:
        chosen = np.repeat(np.asarray(numbers), self._places * repeats)
        places = np.tile(np.repeat(np.arange(self._places), repeats), len(numbers))
        order = self._random.permutation(len(chosen))
        chosen, places = chosen[order], places[order]
        swapped = self._random.random(len(chosen)) < 0.5
        entries = self._entries[chosen, places]
        entries[swapped] = entries[swapped][:, ::-1]
        owners = np.repeat(chosen, 2)
        results = np.full((len(owners), 2), -1, np.int64)
        for index, cycles, changed in self._run(
            entries.reshape(-1, 3), owners, self._expected[owners], deadline
        ):
            results[index] = cycles, changed
        pairs = results.reshape(-1, 2, 2)
        pairs[swapped] = pairs[swapped][:, ::-1]
        done = (pairs[:, :, 0] > 0).all(axis=1)
        guests = np.array([self._pairs[number].guest for number in chosen], np.bool_)
        children = np.where(guests, self._renewals[True], self._renewals[False])
        rows = np.column_stack([chosen, places, pairs[:, :, 0], pairs[:, :, 1].any(axis=1), children])
        for guest in (False, True):
            self._rows[guest].append(rows[done & (guests == guest)])

    def _run(
        self,
        entries: I64,
        owners: npt.NDArray[np.int64],
        expected: npt.NDArray[np.float64],
        deadline: float = np.inf,
        *,
        warm: bool = False,
    ) -> Iterable[tuple[int, int, bool]]:
        """Run entries in batches; yield index, cycles, and whether the processor changed.

        If a child dies or strays, the pairs that did it have failed for good; the rest run in a new child.
        """
        guests = np.array([self._pairs[int(owner)].guest for owner in owners], np.bool_)
        left = {guest: self._still(np.flatnonzero(guests == guest), owners) for guest in (False, True)}
        for guest in left:
            if warm and guest and len(left[guest]):
                self._warm_up()
            while len(left[guest]) and time.monotonic() < deadline:
                yield from self._next(guest, left, entries, owners, expected)

    def _next(
        self,
        guest: bool,
        left: dict[bool, I64],
        entries: I64,
        owners: npt.NDArray[np.int64],
        expected: npt.NDArray[np.float64],
    ) -> Iterable[tuple[int, int, bool]]:
        """Run the next batch of those that are left, and take it from them."""
        session = self._child(guest)
        if session is not None:
            batch = self._batch(guest, left[guest], owners, expected, session)
            try:
                cycles, changed = session.run(entries[batch], _BATCH_LIMIT_S)
            except ChildError as error:
                self._lost(guest, owners[batch], error)
            else:
                yield from zip(batch.tolist(), cycles.tolist(), changed.tolist(), strict=True)
                left[guest] = left[guest][~np.isin(left[guest], batch)]
        left[guest] = self._still(left[guest], owners)

    def _batch(
        self,
        guest: bool,
        todo: I64,
        owners: npt.NDArray[np.int64],
        expected: npt.NDArray[np.float64],
        session: Session,
    ) -> I64:
        """Return the entries to run next."""
        size = int(np.searchsorted(np.cumsum(expected[todo]), _BATCH_CYCLES)) + 1
        # Both loops of a pair belong in one batch.
        batch = todo[: min(size + size % 2, session.most_entries)]
        return batch[owners[batch] == owners[batch[0]]] if self._apart[guest] else batch

    def _still(self, todo: I64, owners: npt.NDArray[np.int64]) -> I64:
        """Return the entries whose pairs have not failed."""
        return np.array([n for n in todo if int(owners[n]) not in self._failures], np.int64)

    # --- children that die or stray ---

    def _try_guests(self) -> None:
        for number in self._alive():
            if self._pairs[number].guest and number not in self._failures:
                self._try(number)

    def _try(self, number: int) -> bool:
        """Run a pair's loops alone; return whether they ended the child or strayed, which fails the pair."""
        guest = self._pairs[number].guest
        session = self._child(guest)
        if session is None:
            return True
        try:
            session.run(self._entries[number].reshape(-1, 3), _BATCH_LIMIT_S)
        except ChildError as error:
            self._throw_away(guest, error)
            self._failures[number] = _said(error)
            return True
        return False

    def _lost(self, guest: bool, owners: npt.NDArray[np.int64], error: ChildError) -> None:
        """Find the pairs of a batch that ended its child or made it stray."""
        self._throw_away(guest, error)
        # Where the child says that it was; that is not trusted, but tried first.
        named = int(owners[error.index])
        suspects = [named, *(number for number in dict.fromkeys(owners.tolist()) if number != named)]
        if len(suspects) == 1:
            self._failures[named] = _said(error)
        elif not any(self._try(number) for number in suspects if number not in self._failures):
            self._apart[guest] = True

    def _throw_away(self, guest: bool, error: ChildError) -> None:
        """End a child and forget all that it sent."""
        self._rows[guest] = []
        said = _said(error)
        self._thrown[said] = self._thrown.get(said, 0) + 1
        self._end(guest)
        self._restarts[guest] += 1
        if self._restarts[guest] > _MOST_RESTARTS:
            self._fail_all(guest, "too many other loops ended the process they ran in")

    def _fail_all(self, guest: bool, reason: str) -> None:
        for number in self._alive():
            if self._pairs[number].guest is guest:
                self._failures[number] = reason


def _said(error: ChildError) -> str:
    strayed = "its code strayed: " if isinstance(error, StrayedError) else ""
    return f"{strayed}{error.reason}; all that this process sent was thrown away"
