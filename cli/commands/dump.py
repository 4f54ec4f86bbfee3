"""`xtrace dump`: every record of a trace as a line."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from math import ceil
from typing import TYPE_CHECKING, Annotated

import typer

from xtrace.cli.options import (
    AsJsonLines,
    CpuHz,
    DomainNames,
    EventClasses,
    From,
    MaxInput,
    PcpuList,
    Strict,
    To,
    Vcpus,
    XenVersion,
    offered,
)
from xtrace.cli.terminal.text import safe
from xtrace.probes.errors import TraceError, without_records
from xtrace.probes.reader.sources import STDIN
from xtrace.probes.selection.times import WITHOUT_RATE, Moment
from xtrace.probes.selection.vcpus import Vcpu
from xtrace.probes.xen_abi import DOM0

if TYPE_CHECKING:
    from xtrace.probes.catalog import Detection, VersionRange
    from xtrace.probes.reader.batches import RecordBatch
    from xtrace.probes.reader.read_facts import ReadFacts
    from xtrace.probes.reader.reader import TraceReader

_DAMAGES_TOLD = 3
_RESTARTS_TOLD = 3

# The Xen version of a plain file is detected from this many bytes of records, taken from all over it.
_SAMPLE_BYTES = 4 << 20
_SAMPLE_WINDOWS = 256


def dump(
    file: Annotated[
        str, typer.Argument(help="A trace, plain or compressed, or capture; - is stdin.", metavar="FILE")
    ],
    json: AsJsonLines = False,
    classes: EventClasses = None,
    event: Annotated[
        list[str] | None,
        typer.Option(
            help="Only this event: name, 'pattern*' or id. Repeatable.",
            metavar="EVENT",
            autocompletion=offered(lambda: [*_event_names(), *_bpf_names()]),
        ),
    ] = None,
    pcpu: PcpuList = None,
    domain: DomainNames = None,
    vcpu: Vcpus = None,
    begin: From = None,
    end: To = None,
    head: Annotated[int | None, typer.Option(help="Stop after N lines.", min=0, metavar="N")] = None,
    tsc: Annotated[bool, typer.Option("--tsc", help="Print times as the TSC itself.")] = False,
    cpu_hz: CpuHz = None,
    xen: XenVersion = None,
    strict: Strict = False,
    max_input: MaxInput = None,
    bpf: Annotated[
        bool,
        typer.Option("--bpf", help="Print the events that bpf recorded in dom0 (record --events) instead."),
    ] = False,
) -> None:
    """Print every record, merged by time, by name and field.

    A line: the time since the trace's first record in TSC cycles (seconds with --cpu-hz, the TSC
    itself with --tsc), pCPU, the vCPU that runs there (d?v? if not known), event, fields.  A + after
    the time marks an untimed record: it is from that time or later.  A lost_records line is at the
    time when the loss began and gives the time when it ended.  Where the TSC restarts (suspend to RAM,
    another trace appended), what is before comes first, and the time goes on without a gap.

    --domain and --vcpu select what is recorded on a pCPU while that domain (or idle) or vCPU runs there.

    --json gives tsc, pcpu, current (the vCPU, or null), event, name, words, and each field as a
    number; the name of OP's value is in OP_name.  Untimed records have "timed": false.

    Not printed: CPU_CHANGE (the windows' headers) and WRAP_BUFFER (filler at a ring's end).

    --bpf prints a capture's events of dom0's kernel, which need no Xen trace: seconds since the first of
    them, dom0's vCPU, event, fields; it takes --event, --vcpu, --from, --to, --head and --json.
    """
    import sys
    from contextlib import nullcontext

    from xtrace.cli.terminal.progress import bar

    if bpf:
        others = {
            "--class": classes, "--pcpu": pcpu, "--domain": domain, "--tsc": tsc, "--cpu-hz": cpu_hz,
            "--xen": xen, "--strict": strict,
        }  # fmt: skip
        for option, value in others.items():
            if value:
                raise typer.BadParameter("is about Xen's trace; --bpf prints none of it", param_hint=option)
        _dump_bpf(file, event or [], vcpu or [], begin, end, head, json=json)
        return
    _must_have_trace(file)

    from xtrace.probes.dump.lines import KEEP_BATCHES, Choice, Pushdown, Renderer
    from xtrace.probes.dump.templates import Style, Unit
    from xtrace.probes.reader.reader import open_trace

    if tsc and cpu_hz is not None:
        raise typer.BadParameter("prints seconds and --tsc the TSC; choose one", param_hint="--cpu-hz")
    choice = Choice(
        event=_event_filter(classes, event or []),
        pcpus=None if pcpu is None else pcpu.numbers,
        domains=frozenset(_domains(domain or [], file)),
        vcpus=frozenset((each.domain, each.number) for each in vcpu or []),
        begin=begin,
        end=end,
        limit=head,
    )
    _tell_emulation(file)
    hz: float | None = cpu_hz
    if hz is None and choice.in_seconds is not None:
        hz = _hz_of(file, choice.in_seconds)
    pushdown = Pushdown(choice.event)
    # On a terminal the lines themselves show how far it is.
    showing = nullcontext() if sys.stdout.isatty() else bar([file])
    with showing as update, open_trace(file, wanted=pushdown, strict=strict, keep=KEEP_BATCHES) as reader:
        batches = pushdown.batches(reader)
        versions = xen
        if versions is None:
            versions, batches = _told_versions(file, reader, batches)
        unit = Unit.SECONDS if cpu_hz is not None else Unit.TSC if tsc or json else Unit.CYCLES
        style = Style.JSON if json else Style.TEXT
        renderer = Renderer(style, versions, choice, unit=unit, hz=hz, restarts=reader.facts.restarts)
        written = 0
        for lines in renderer.lines(batches):
            written += sys.stdout.buffer.write(lines)
            if update is not None:
                update(file, reader.facts.bytes_read)
    sys.stdout.buffer.flush()
    _tell_damage(reader.facts)
    _tell_times(reader.facts)
    if not written and head != 0:
        raise TraceError(_why_nothing(file, int(reader.record_counts.sum())))


def _must_have_trace(file: str) -> None:
    """Refuse a capture without Xen's trace, with what to do instead."""
    from xtrace.probes.capture import layout

    if not layout.is_dom0_only(file):
        return
    shows = "xtrace dump --bpf prints its events"
    instead = shows if layout.has_events(file) else "xtrace report and xtrace info read it"
    raise TraceError(f"{file}: {layout.WITHOUT_TRACE}; {instead}")


def _dump_bpf(
    file: str,
    events: list[str],
    vcpus: list[Vcpu],
    begin: Moment | None,
    end: Moment | None,
    head: int | None,
    *,
    json: bool,
) -> None:
    """Print the events that bpf recorded."""
    import sys

    from xtrace.probes.bpf.event_lines import EventChoice, event_lines, open_events
    from xtrace.probes.capture.layout import is_capture, open_capture

    for moment, option in ((begin, "--from"), (end, "--to")):
        if moment is not None and moment.unit != "s":
            raise typer.BadParameter(f"{moment.text}: events of bpf have no TSC; give s", param_hint=option)
    names = _bpf_names()
    for pattern in events:
        if not _is_number(pattern):
            _check_event(pattern, names)
    if file == STDIN or not is_capture(file):
        raise TraceError(f"{file}: --bpf needs a capture of xtrace record")
    found, ids = open_events(open_capture(file))
    choice = EventChoice(
        event=_by_name(events),
        vcpus=frozenset(each.number for each in vcpus if each.domain in (None, DOM0)) if vcpus else None,
        begin_ns=None if begin is None else ceil(begin.value * 10**9),
        end_ns=None if end is None else ceil(end.value * 10**9),
        limit=head,
    )
    written = 0
    for lines in event_lines(found, ids, choice, as_json=json):
        shown = (line if line.isprintable() else safe(line) for line in lines)
        written += sys.stdout.write("".join(f"{line}\n" for line in shown))
    if found.discarded:
        typer.echo(f"xtrace: {found.discarded:,} events lost: a ring was full", err=True)
    if found.cut_bytes:
        typer.echo(f"xtrace: cut short, {found.cut_bytes:,} bytes of cut packets skipped", err=True)
    if not written and head != 0:
        count = len(found.records)
        why = f"none of its {count:,} events of bpf is selected" if count else "has no event of bpf"
        raise TraceError(f"{file}: {why}")


def _bpf_names() -> list[str]:
    from xtrace.probes.bpf.abi import MEANINGS

    return sorted(kind.name.lower() for kind in MEANINGS)


def _why_nothing(file: str, record_count: int) -> str:
    """Return the message of a dump without a line."""
    if not record_count:
        return without_records(file)
    return f"{file}: none of its {record_count:,} records is selected"


def _tell_emulation(file: str) -> None:
    from xtrace.probes.capture.sidecar import sidecar_of

    beside = sidecar_of(file)
    if beside is not None and beside.emulated:
        typer.echo("xtrace: emulated host: times show order, not hardware durations", err=True)


# --- options ------------------------------------------------------------------------------------


def _domains(wanted: list[str], file: str) -> list[int]:
    from xtrace.probes.capture.layout import names_of
    from xtrace.probes.selection.vcpus import domain_ids

    try:
        return domain_ids(wanted, lambda: names_of(file), file)
    except TraceError as error:
        raise typer.BadParameter(str(error), param_hint="--domain") from None


def _hz_of(file: str, moment: Moment) -> float:
    """Return the rate of a trace's TSC, for times in seconds."""
    from xtrace.probes.live.feed import open_file

    if file == STDIN:
        raise TraceError(f"{moment}: the TSC's rate is not known: {WITHOUT_RATE}")
    with open_file(file, None) as feed:
        rate = feed.rate
    if not rate.is_known:
        raise TraceError(f"{file}: the TSC's rate cannot be determined from it; {WITHOUT_RATE}")
    typer.echo(f"xtrace: TSC {rate.hz / 1e6:.3f} MHz, {rate.source}", err=True)
    return rate.hz


def _event_filter(classes: str | None, events: list[str]) -> Callable[[int, str], bool] | None:
    """Return a predicate on id and name of the events to show; None for all."""
    from xtrace.probes.selection.event_masks import event_masks, passes

    if classes is None and not events:
        return None
    try:
        masks = [] if classes is None else event_masks(classes)
    except ValueError as error:
        raise typer.BadParameter(str(error), param_hint="--class") from None
    names = _event_names() if events else []
    for pattern in events:
        if not _is_number(pattern):
            _check_event(pattern, names)
    by_name = _by_name(events)

    def is_shown(event_id: int, name: str) -> bool:
        if masks and not any(passes(mask, event_id) for mask in masks):
            return False
        return by_name is None or by_name(event_id, name)

    return is_shown


def _by_name(events: list[str]) -> Callable[[int, str], bool] | None:
    """Return a predicate on id and name of the events that --event names; None for all."""
    from fnmatch import fnmatchcase

    if not events:
        return None
    ids = {int(text, 0) for text in events if _is_number(text)}
    patterns = [text for text in events if not _is_number(text)]
    return lambda event_id, name: event_id in ids or any(fnmatchcase(name, each) for each in patterns)


def _is_number(text: str) -> bool:
    try:
        int(text, 0)
    except ValueError:
        return False
    return True


def _check_event(pattern: str, names: list[str]) -> None:
    from difflib import get_close_matches
    from fnmatch import fnmatchcase

    if not any(fnmatchcase(name, pattern) for name in names):
        near = get_close_matches(pattern, names, 3)
        hint = f"; did you mean {' or '.join(near)}" if near else ""
        raise typer.BadParameter(f"there is no event {pattern!r}{hint}", param_hint="--event")


def _event_names() -> list[str]:
    from xtrace.probes.catalog import EVENTS
    from xtrace.probes.dump.templates import UNKNOWN_NAME

    return sorted({event.name for event in EVENTS} | {UNKNOWN_NAME})


# --- which Xen ----------------------------------------------------------------------------------


def _told_versions(
    file: str, reader: TraceReader, batches: Iterator[RecordBatch]
) -> tuple[VersionRange, Iterator[RecordBatch]]:
    """Return the versions that fit the trace's records, and the batches from the first one on.

    They are detected from a sample of a plain file, and from the first batch of a stream.
    """
    from itertools import chain

    from xtrace.probes.capture.layout import trace_in
    from xtrace.probes.reader import survey

    file = trace_in(file)
    if file != STDIN and survey.is_plain_file(file) and not survey.compression_of(file):
        detection = _detect_in_sample(file)
        if detection is not None:
            _tell_versions(detection, "a sample of its records")
            return detection.range, batches
    first: list[RecordBatch] = []
    for batch in batches:
        first.append(batch)
        if len(batch):
            break
        first.clear()
    detection = _detect(reader)
    _tell_versions(detection, f"its first {reader.facts.bytes_read:,} bytes")
    return detection.range, chain(first, batches)


def _detect_in_sample(path: str) -> Detection | None:
    """Detect the version from windows all over the file; None if it has no headers."""
    import io
    import os
    from typing import cast

    from xtrace.probes.errors import TraceError
    from xtrace.probes.format import WINDOW_HEADER
    from xtrace.probes.reader import survey
    from xtrace.probes.reader.ahead import Source
    from xtrace.probes.reader.reader import TraceReader

    with open(path, "rb", buffering=0) as raw:
        plain = survey.Bytes(raw.fileno(), memoryview(b""), os.fstat(raw.fileno()).st_size)
        try:
            headers = survey.visit_headers(path, plain)
        except TraceError:
            return None  # the reader may still find windows
        sample = bytearray()
        for piece in survey.sample_pieces(plain, headers.windows, _SAMPLE_BYTES, _SAMPLE_WINDOWS):
            # Each piece becomes a window of its own, since its last record may be cut.
            whole = piece[: len(piece) & ~3]
            sample += (
                WINDOW_HEADER.to_bytes(4, "little") + bytes(4) + len(whole).to_bytes(4, "little") + whole
            )
    reader = TraceReader(cast(Source, io.BytesIO(sample)), wanted=lambda _: False, keep=2)
    for _ in reader:
        pass
    return _detect(reader)


def _detect(reader: TraceReader) -> Detection:
    from xtrace.probes.catalog import detect

    shapes = reader.shapes
    counts = reader.record_counts[:, : shapes.size].sum(axis=0)
    rows = zip(
        shapes.event.tolist(), shapes.words.tolist(), shapes.timed.tolist(), counts.tolist(), strict=True
    )
    return detect(list(rows)[1:])


def _tell_versions(detection: Detection, source: str) -> None:
    sure = "" if detection.range.low == detection.range.high else " (--xen VERSION if you know it)"
    typer.echo(f"xtrace: read as Xen {detection.range}, detected from {source}{sure}", err=True)


# --- damage -------------------------------------------------------------------------------------


def _tell_damage(facts: ReadFacts) -> None:
    if facts.damage_count:
        places = "1 damaged place" if facts.damage_count == 1 else f"{facts.damage_count:,} damaged places"
        typer.echo(f"xtrace: {places}, {facts.skipped_bytes:,} bytes skipped", err=True)
        for damage in facts.damages[:_DAMAGES_TOLD]:
            typer.echo(
                f"xtrace: offset {damage.offset}: {damage.reason}, {damage.skipped_bytes:,} bytes skipped",
                err=True,
            )
    if facts.missing_bytes:
        typer.echo(
            f"xtrace: the last window lacks {facts.missing_bytes:,} bytes: cut short or still growing",
            err=True,
        )
    if facts.late_records:
        typer.echo(f"xtrace: {facts.late_records:,} records came too late to be sorted by time", err=True)


def _tell_times(facts: ReadFacts) -> None:
    from xtrace.cli.render.report.head import backward_text
    from xtrace.cli.terminal.style import tell
    from xtrace.probes.words import count_of

    for restart in facts.restarts[:_RESTARTS_TOLD]:
        tell(f"offset {restart.offset}: the TSC restarted: it went back by {restart.back_cycles:,} cycles")
    if len(facts.restarts) > _RESTARTS_TOLD:
        tell(f"{count_of(len(facts.restarts) - _RESTARTS_TOLD, 'more restart')} of the TSC")
    if facts.backward_tsc_count:
        tell(backward_text(facts.backward_tsc_count))
