"""The life cycle of a backend that loads a BPF program: what bpf and perf have in common.

The program is loaded, its files are started, and it is attached and switched on.  Each poll drains
its rings; once a second its other data is written as lines.  At the end it is detached and what is
left is written; whatever fails, nothing stays in the kernel.
"""

from __future__ import annotations

import os
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from typing import Any

from xtrace.probes.bpf import loader, tables
from xtrace.probes.bpf.abi import Counter
from xtrace.probes.bpf.rings import Rings
from xtrace.probes.capture.stream import CaptureFullError, Folder, Lines
from xtrace.probes.recording.backends.base import Availability, Counts, Options

_PERIOD_S = 1.0


class Loaded:
    """A program in the kernel and the files of the capture that it fills.

    Attributes:
        program: loaded; the backend attaches it.
        drain: reads its tables.
        rings: None until they are opened; nothing is streamed without them.
        lines: the file of lines, once it is opened.
    """

    lines: Lines

    def __init__(self, source: str, settings: Mapping[str, int]) -> None:
        """Load ``source``.

        Args:
            settings: macros for the source (-D), in addition to those that every program needs.

        Raises:
            ProbeError: it does not compile.
        """
        self._cpus = loader.possible_cpus()
        own = {"OWN_PID": os.getpid(), "CPUS": self._cpus}
        self.program = loader.Program(source, own | dict(settings))
        self.drain = tables.Drain(self.program)
        self.rings: Rings | None = None

    def open_lines(self, folder: Folder, name: str, heading: Mapping[str, Any]) -> None:
        """Start the file of lines."""
        self.lines = Lines(folder.stream(name))
        self.lines.write(heading)

    def open_rings(
        self,
        folder: Folder,
        directory: str,
        record_bytes: int,
        *,
        byte_count: int | None = None,
        on_records: Callable[[bytes], None] | None = None,
    ) -> Rings:
        """Create the rings, before anything is attached that would write to them."""
        self.rings = Rings(self.program, self.drain, self._cpus, record_bytes, on_records)
        self.rings.open(folder, directory, byte_count)
        return self.rings

    def facts(self) -> dict[str, Any]:
        """Return how the program was loaded."""
        return {
            "bcc": loader.bcc_version(),
            "headers": loader.HEADERS,
            "load_s": round(self.program.load_s, 3),
        }

    def counts(self) -> Counts:
        """Return the counts so far: records streamed or, if nothing is streamed, occurrences counted."""
        counters = self.drain.counters()
        lost = counters[Counter.DROPPED] + counters[Counter.NO_TALLY]
        if self.rings is None:
            return Counts(sum(self.drain.totals.values()), lost, self.lines.byte_count)
        return Counts(
            self.rings.record_count,
            lost + self.rings.unwritten_count,
            self.lines.byte_count + self.rings.byte_count,
        )

    def flush(self) -> None:
        """Flush what was written to the disk."""
        self.lines.flush()
        if self.rings is not None:
            self.rings.flush()

    def close(self) -> None:
        """Unmap the rings and remove the program from the kernel."""
        if self.rings is not None:
            self.rings.close()
        self.program.close()


class ProgramBackend(ABC):
    """A Backend that uses a BPF program; subclasses implement the methods at the end."""

    name = ""

    def __init__(self) -> None:
        self._loaded: Loaded | None = None
        self._facts: dict[str, Any] = {}
        self._counts = Counts()
        self._due = 0.0

    def probe(self) -> Availability:
        """Return what can be recorded here, without loading anything."""
        reason, remedy = loader.why_not()
        return Availability(False, reason, remedy) if reason else self._offer()

    def start(self, folder: Folder, options: Options) -> None:
        """Load and attach the program and start the files.

        Raises:
            TraceError: bcc or the kernel refuses.
        """
        loader.must_work(self.name)
        try:
            self._facts = self._begin(folder, options)
            self._due = time.monotonic() + _PERIOD_S
        except BaseException:
            self._close()
            raise

    def poll(self) -> Counts:
        """Drain the rings; once a second, write the program's other data."""
        loaded = self._loaded
        if loaded is None:
            return self._counts
        if loaded.rings is not None:
            loaded.rings.take()
        if time.monotonic() >= self._due:
            self._due += _PERIOD_S
            self._write_gained(loaded)
            loaded.flush()
        self._counts = loaded.counts()
        return self._counts

    def stop(self) -> Counts:
        """Detach the program, write what is left, close the files."""
        loaded = self._loaded
        if loaded is None:
            return self._counts
        try:
            self._detach(loaded)
            # What does not fit into a full capture is counted as lost.
            with suppress(CaptureFullError):
                if loaded.rings is not None:
                    loaded.rings.finish()
                self._write_gained(loaded)
                for line in self._last_lines():
                    loaded.lines.write(line)
                loaded.flush()
            self._counts = loaded.counts()
            self._facts |= self._accounts(loaded)
        finally:
            self._close()
        return self._counts

    def facts(self) -> Mapping[str, Any]:
        """Return what was chosen, what is missing and, after the end, what was lost."""
        return self._facts

    def _load(self, source: str, settings: Mapping[str, int]) -> Loaded:
        self._loaded = Loaded(source, settings)
        return self._loaded

    def _close(self) -> None:
        """Leave the host as it was."""
        if self._loaded is not None:
            self._loaded.close()
            self._loaded = None

    @abstractmethod
    def _offer(self) -> Availability:
        """Return what can be recorded, given that BPF programs can be loaded."""

    @abstractmethod
    def _begin(self, folder: Folder, options: Options) -> dict[str, Any]:
        """Load, open the files, attach, switch on; return the facts."""

    @abstractmethod
    def _write_gained(self, loaded: Loaded) -> None:
        """Write, as lines, the program's data since the last call."""

    def _detach(self, loaded: Loaded) -> None:
        """Detach the program; its maps stay readable."""
        loaded.program.detach()

    def _last_lines(self) -> Iterable[Mapping[str, Any]]:
        """Return the lines to end the file with."""
        return ()

    @abstractmethod
    def _accounts(self, loaded: Loaded) -> dict[str, Any]:
        """Return the facts that are known only at the end."""
