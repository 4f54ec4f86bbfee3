"""`xtrace info`: what a trace's headers and a sample of its records say, in milliseconds."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from typing import TYPE_CHECKING, Annotated

import typer

from xtrace.cli.options import AsJson, MaxInput, Strict
from xtrace.cli.render.info import rate_text, row, share_lines
from xtrace.cli.render.report.head import backward_text
from xtrace.cli.terminal.style import width
from xtrace.cli.terminal.text import safe
from xtrace.probes.errors import TraceError, without_records
from xtrace.probes.words import count_of, ranges

if TYPE_CHECKING:
    from xtrace.probes.capture.sidecar import Sidecar
    from xtrace.probes.reader.survey import Headers, Sample, Survey

SCHEMA_VERSION = 1

_EVENTS_SHOWN = 12
#: Classes that the figures of a report are made from.
_FIGURE_CLASSES = ("sched", "pv", "hvm", "hw", "mem")
_RESTARTS_SHOWN = 3


def info(
    file: Annotated[
        str, typer.Argument(help="A trace, plain or compressed, or capture; - is stdin.", metavar="FILE")
    ],
    strict: Strict = False,
    max_input: MaxInput = None,
    json: AsJson = False,
) -> None:
    """Print what a trace's headers say, without a full pass.

    Each line says how it is known: exact, or from which part of the file.  Of a capture without Xen's
    trace: what recorded in dom0.
    """
    from xtrace.probes.capture.layout import is_dom0_only

    if is_dom0_only(file):
        _print_dom0(file, json=json)
        return
    from xtrace.probes.reader.survey import survey

    found = survey(file, strict=strict)
    headers = found.headers
    if headers.is_whole and not (headers.windows or headers.missing_bytes or headers.fault):
        raise TraceError(without_records(found.name))
    if json:
        import json as codec

        typer.echo(codec.dumps(as_json(found), indent=2))
    else:
        typer.echo("\n".join(as_text(found)))


def _print_dom0(path: str, *, json: bool) -> None:
    """Print what is known about a capture without Xen's trace."""
    from xtrace.cli.render.info import dom0_json, dom0_text
    from xtrace.probes.bpf.dom0_survey import survey_dom0

    found = survey_dom0(path)
    if json:
        import json as codec

        typer.echo(codec.dumps({"schema_version": SCHEMA_VERSION, **dom0_json(found)}, indent=2))
    else:
        typer.echo("\n".join(dom0_text(found)))


def as_json(found: Survey) -> dict[str, object]:
    """Return what `xtrace info --json` prints."""
    headers, sample, detection = found.headers, found.sample, found.detection
    pcpus = Counter[int]()
    for window in headers.windows:
        pcpus[window.pcpu] += window.size
    total = sample.counts.total()
    return {
        "schema_version": SCHEMA_VERSION,
        "file": found.name,
        "size_bytes": found.size_bytes,
        "compression": found.compression or None,
        "headers": {
            "exact": headers.is_whole,
            "seen_bytes": headers.seen_bytes,
            "windows": len(headers.windows),
            "pcpus": sorted(pcpus),
            "pcpu_bytes": {str(pcpu): pcpus[pcpu] for pcpu in sorted(pcpus)},
            "fault": headers.fault or None,
            "missing_bytes": headers.missing_bytes if headers.is_whole else None,
        },
        "damage_count": found.damage_count,
        "skipped_bytes": found.skipped_bytes,
        "damages": [
            {"offset": damage.offset, "reason": damage.reason, "skipped_bytes": damage.skipped_bytes}
            for damage in found.damages
        ],
        "tsc_restarts": [
            {"offset": restart.offset, "back_cycles": restart.back_cycles} for restart in headers.restarts
        ],
        "first_tsc": found.first_tsc,
        "last_tsc": found.last_tsc,
        "last_tsc_exact": found.has_last_tsc,
        "emulated": _is_emulated(found),
        "records": found.record_estimate,
        "records_exact": found.record_estimate_is_exact,
        "sample": {
            "bytes": sample.bytes,
            "records": total,
            "backward_tsc_count": sample.backward_tsc_count,
            "classes": [
                {"name": name, "records": count, "share_ratio": count / total}
                for name, count in _by_class(sample).most_common()
            ],
            "events": [
                {"event": event_id, "name": name, "records": count, "share_ratio": count / total}
                for (event_id, name), count in _by_event(found).most_common()
            ],
        },
        "xen": {
            "versions": str(detection.range),
            "evidence": list(detection.evidence),
            "conflicts": list(detection.conflicts),
            "notes": list(detection.notes),
        },
        "capture": None,
    }


def _beside(found: Survey) -> Sidecar | None:
    from xtrace.probes.capture.sidecar import sidecar_of

    return sidecar_of(found.name)


def _is_emulated(found: Survey) -> bool:
    beside = _beside(found)
    return beside is not None and beside.emulated


def _by_class(sample: Sample) -> Counter[str]:
    from xtrace.probes.format import TraceClass

    counts = Counter[str]()
    for header, count in sample.counts.items():
        names = [bit.name.lower() for bit in TraceClass if header & bit and bit.name]
        counts["+".join(names) or "unknown"] += count
    return counts


def _by_event(found: Survey) -> Counter[tuple[int, str]]:
    from xtrace.probes.catalog import find
    from xtrace.probes.format import EVENT_MASK, EXTRA_MASK, EXTRA_SHIFT, TIMED_BIT

    counts = Counter[tuple[int, str]]()
    for header, count in found.sample.counts.items():
        event_id = header & EVENT_MASK
        words, timed = header >> EXTRA_SHIFT & EXTRA_MASK, bool(header & TIMED_BIT)
        match = find(event_id, words, timed, found.detection.range)
        counts[event_id, match.event.name if match else "unknown"] += count
    return counts


def as_text(found: Survey) -> Iterator[str]:
    """Yield the lines that `xtrace info` prints, as wide as the terminal except for long file names."""
    headers, sample = found.headers, found.sample
    seen = "exact" if headers.is_whole else f"from the first {_bytes(headers.seen_bytes)}"
    looked = "exact" if found.record_estimate_is_exact else f"from {_bytes(sample.bytes)} of records"
    kind = f"{found.compression}-compressed" if found.compression else "not compressed"
    yield safe(found.name)
    size = "unknown" if found.size_bytes is None else f"{found.size_bytes:,} bytes, {kind}"
    yield row("size", size, "" if found.size_bytes is None else "exact")
    if found.damages:
        first = found.damages[0]
        yield row(
            "damage", f"{count_of(found.damage_count, 'place')}, {found.skipped_bytes:,} bytes skipped", ""
        )
        yield from _wrapped((f"first at offset {first.offset}: {first.reason}",), "")
    yield row("windows", f"{len(headers.windows):,}", seen)
    pcpus = sorted({window.pcpu for window in headers.windows})
    yield row("pCPUs", f"{len(pcpus)} ({ranges(pcpus)})" if pcpus else "0", seen)
    yield row("end", _end_text(headers), "exact" if headers.is_whole or headers.fault else "")
    yield from _of_tscs(found)
    beside = _beside(found)
    if beside is not None and beside.tsc_hz is not None:
        yield row("TSC", rate_text(beside.tsc_hz), "from the file's .json")
    if beside is not None and beside.emulated:
        yield row("timing", "emulated, not hardware durations", "from the file's .json")
    if found.record_estimate is not None:
        about = "" if found.record_estimate_is_exact else "about "
        yield row("records", f"{about}{found.record_estimate:,}", looked)
    if sample.backward_tsc_count:
        yield from _wrapped((f"order: {backward_text(sample.backward_tsc_count)}",), "")
    yield row("Xen", str(found.detection.range), looked)
    yield from _wrapped(found.detection.evidence, "because: ")
    yield from _wrapped(found.detection.conflicts, "but: ")
    yield from _wrapped(found.detection.notes, "note: ")
    total = sample.counts.total()
    if not total:
        return
    yield ""
    yield f"Of {total:,} records ({'all' if found.record_estimate_is_exact else 'a sample'}):"
    yield "  " + "  ".join(f"{name} {count / total:.1%}" for name, count in _by_class(sample).most_common())
    unseen = [name for name in _FIGURE_CLASSES if name not in _by_class(sample)]
    if unseen:
        yield f"  no record of {', '.join(unseen)} among them (report says what lacks without them)"
    events = _by_event(found).most_common()
    names = Counter[str]()
    for (_, name), count in events:
        names[name] += count
    yield from share_lines(names.most_common(_EVENTS_SHOWN), total)
    if len(names) > _EVENTS_SHOWN:
        rest = sum(count for _, count in names.most_common()[_EVENTS_SHOWN:])
        yield f"  {rest / total:6.1%}  in {len(names) - _EVENTS_SHOWN} others (--json has all)"


def _of_tscs(found: Survey) -> Iterator[str]:
    """Yield the lines about the first and last TSC, and where the TSC restarts."""
    headers = found.headers
    if found.first_tsc is not None:
        yield row("first TSC", str(found.first_tsc), "first records of each pCPU")
    for restart in headers.restarts[:_RESTARTS_SHOWN]:
        where = f"back about {restart.back_cycles:,} cycles, offset {restart.offset}"
        yield row("restart", where, "window starts")
    if len(headers.restarts) > _RESTARTS_SHOWN:
        more = count_of(len(headers.restarts) - _RESTARTS_SHOWN, "more restart")
        yield row("", f"{more} of the TSC", "window starts")
    is_known = found.last_tsc is not None and found.first_tsc is not None and not found.is_stream
    if is_known and not headers.restarts:
        how = "exact" if found.has_last_tsc else "at least: not all was read"
        yield row("spans", f"{(found.last_tsc or 0) - (found.first_tsc or 0):,} cycles", how)


def _wrapped(lines: tuple[str, ...], lead: str) -> Iterator[str]:
    import textwrap

    for line in lines:
        yield from textwrap.wrap(lead + line, width(), initial_indent=" " * 4, subsequent_indent=" " * 6)


def _end_text(headers: Headers) -> str:
    if headers.fault:
        return f"damaged: {headers.fault}"
    if not headers.is_whole:
        return "not read"
    if headers.missing_bytes:
        return f"cut short, {headers.missing_bytes:,} bytes are missing"
    return "the last window is complete"


def _bytes(count: int) -> str:
    if count < 1 << 20:
        return f"{count / (1 << 10):.0f} KiB"
    return f"{count / (1 << 20):.0f} MiB"
