"""Get the summaries of traces: stored ones, those kept beside traces, or made by reading the traces."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from xtrace.analysis.summary.summary_head import Origin, beside, files_of, is_summary, kept, names_in
from xtrace.probes.capture.layout import META, is_dom0_only, names_of, open_capture, told_by
from xtrace.probes.capture.sidecar import sidecar_of
from xtrace.probes.errors import TraceError
from xtrace.probes.reader.sources import STDIN, Pieces

if TYPE_CHECKING:
    from xtrace.analysis.loading.reading import Reading
    from xtrace.analysis.state_machine.collected import Collected
    from xtrace.analysis.summary.dom0_columns import Dom0Columns
    from xtrace.analysis.summary.summary_file import Summary


class Loading:
    """Summaries being made: threads read the traces, so that the caller can import modules meanwhile.

    Args:
        paths: traces and stored summaries; one named twice is read once.
        reading: how to read traces.
        window: the part of the traces that is counted, in words; empty for all.
        keeping: use the summary kept beside a trace, if it was made from the same bytes; where there is none,
            keep the new one there.  A line to the callback says so, or why not.
        joining: read files that are pieces of one recording as one trace.

    Attributes:
        later_pieces: paths whose records are in the summary of the first piece, once the result is there.

    Raises:
        TraceError: the sidecar file of a trace is not valid.
    """

    def __init__(
        self,
        paths: Sequence[Path],
        reading: Reading,
        *,
        window: str = "",
        keeping: bool = False,
        joining: bool = False,
        tell: Callable[[str], None] = lambda line: None,
    ) -> None:
        self._paths = list(paths)
        self.later_pieces: set[Path] = set()
        self._tell = tell
        self._keeping = keeping
        self._joining = joining and not window
        self._strict = reading.strict
        self._progress = reading.progress
        self._stored = {path: path if is_summary(path) else None for path in paths}
        if keeping:
            found = {
                path: kept(path) for path, place in self._stored.items() if not place and str(path) != STDIN
            }
            self._stored |= found
            if used := [path for path, place in found.items() if place]:
                which = f"{len(used)} summaries" if len(used) > 1 else f"{beside(used[0])}"
                tell(f"{which} used, made from the same bytes as the trace{'s' if len(used) > 1 else ''}")
        self._raw = [path for path, place in self._stored.items() if place is None]
        self._origins = {path: origin_of(path, window=window) for path in self._raw}
        if keeping:
            # Before they are read: of a trace that grows meanwhile, the summary is then not used again.
            self._origins = {
                path: origin if str(path) == STDIN else replace(origin, files=files_of(path))
                for path, origin in self._origins.items()
            }
        self._started = reading.start([_trace_of(path) for path in self._raw])

    def result(self) -> list[Summary]:
        """Wait until the traces are read, and return one summary per path, in the order of the paths.

        Pieces of one recording have one, where the first of them is.

        Raises:
            OSError, TraceError: a file cannot be read.
        """
        from xtrace.analysis.summary.summary_file import read_summary

        made = {path: read_summary(place) for path, place in self._stored.items() if place is not None}
        read = dict(zip(self._raw, self._started.result(self._progress), strict=True))
        joined = self._join(read) if self._joining and len(read) > 1 else {}
        made |= {
            path: _summary(path, joined.get(path, collected), self._origins[path])
            for path, collected in read.items()
            if path not in self.later_pieces
        }
        if self._keeping:
            _keep({path: made[path] for path in self._raw if str(path) != STDIN}, self._tell)
        return [made[path] for path in self._paths if path not in self.later_pieces]

    def _join(self, read: Mapping[Path, Collected]) -> dict[Path, Collected]:
        """Read pieces of one recording as one trace; return it by the first piece."""
        from xtrace.analysis.loading import pieces
        from xtrace.analysis.loading.passes import read as read_trace

        groups = pieces.recordings(list(read.items()))
        recorded = sum(collected.facts.windows > 0 for collected in read.values())
        pieces.told(groups, recorded, self._tell)
        self.later_pieces = {path for group in groups for path in group[1:]}
        return {
            group[0]: read_trace(Pieces([str(path) for path in group]), strict=self._strict)
            for group in groups
        }

    @property
    def was_interrupted(self) -> bool:
        """Whether Ctrl-C ended a pipe, of which the result has what came until then."""
        return self._started.was_interrupted

    def __enter__(self) -> Loading:
        return self

    def __exit__(self, *_: object) -> None:
        """Stop the threads, if they still read."""
        self._started.stop()


def analyse(path: str | os.PathLike[str], *, strict: bool = False) -> Summary:
    """Read a trace or a capture in this process and return its summary.

    Args:
        path: a trace, compressed or not; a capture NAME.xtrace; ``-`` for standard input.
        strict: stop at the first damage.

    Raises:
        OSError, TraceError: it cannot be read.
    """
    from xtrace.analysis.loading.passes import read

    trace = Path(path)
    origin = origin_of(trace)
    return _summary(trace, read(_trace_of(trace), strict=strict), origin)


def _summary(path: Path, collected: Collected, origin: Origin) -> Summary:
    from xtrace.analysis.summary.partial import Recorded, partial_of
    from xtrace.analysis.summary.summary_file import Summary

    found = sidecar_of(path) if collected.facts.windows else None
    recorded = Recorded(found.event_mask, found.pcpus, found.is_shared) if found else Recorded()
    return Summary(partial_of(collected, None if origin.window else _dom0_of(path), recorded), origin)


def origin_of(trace: Path, *, window: str = "") -> Origin:
    """Return what is known about a trace before it is read.

    Raises:
        TraceError: its sidecar file, or meta.json of its capture, is not valid.
    """
    found = sidecar_of(trace)
    hz = found.tsc_hz if found else None
    told = told_by(trace)
    return Origin(
        name=os.fspath(trace),
        tsc_hz=hz,
        tsc_hz_source=f"from {found.path.name}" if found and hz else "",
        emulated=bool(found and found.emulated),
        window=window,
        domains=names_of(trace),
        weights=told.weights if told else {},
        recorder_cpu_s=told.recorder_cpu_s if told and not window else None,
    )


def domain_names(paths: Sequence[Path]) -> dict[int, str]:
    """Return the names of domains by id from captures and stored summaries, without reading the traces.

    Raises:
        TraceError: meta.json of a capture is not valid.
    """
    names: dict[int, str] = {}
    for path in paths:
        names |= names_in(path) if is_summary(path) else names_of(path)
    return names


def _trace_of(path: Path) -> str:
    """Return the file to read for a path; /dev/null for a capture without Xen's trace."""
    return os.devnull if is_dom0_only(path) else str(path)


def _dom0_of(path: Path) -> Dom0Columns | None:
    """Return what bpf counted in dom0 during a capture (of all of it, never of a window)."""
    if not (path / META).is_file():
        return None
    from xtrace.analysis.summary.dom0_columns import read

    return read(open_capture(path))


def _keep(made: dict[Path, Summary], tell: Callable[[str], None]) -> None:
    """Write each summary beside its trace and report the result: the folder may not be writable."""
    from xtrace.analysis.summary.summary_file import write_summary

    places = []
    for trace, summary in made.items():
        path = beside(trace)
        try:
            write_summary(summary, path)
        except OSError as error:
            tell(f"summary not kept: {path}: {error.strerror}")
            return
        except TraceError as error:
            tell(f"summary not kept: {error}")
        else:
            places.append(path)
    if len(places) == 1:
        tell(f"summary kept: {places[0]}")
    elif places:
        tell(f"{len(places)} summaries kept beside their traces")
