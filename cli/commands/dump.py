"""`xtrace dump`: every record of a trace as a line."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from xtrace.probes.catalog import Detection, VersionRange
    from xtrace.probes.dump.templates import Unit
    from xtrace.probes.reader.batches import RecordBatch
    from xtrace.probes.reader.read_facts import ReadFacts
    from xtrace.probes.reader.reader import TraceReader

_MAX_HZ = 9_000_000_000
_DAMAGES_TOLD = 3
_MULTIPLES = {"k": 10**3, "m": 10**6, "g": 10**9}

# A plain file's version is told from so many bytes of records from all over it.
_SAMPLE_BYTES = 4 << 20
_SAMPLE_WINDOWS = 256

_ALL_SUBCLASSES = 0xF000
_CLASS_BITS = 0x0FFF_0000


def dump(
    file: Annotated[str, typer.Argument(help="A trace, plain or compressed; - is stdin.", metavar="FILE")],
    json: Annotated[bool, typer.Option("--json", help="Print one JSON object a line.")] = False,
    classes: Annotated[
        str | None,
        typer.Option(
            "--class",
            help="Only these classes, as xentrace -e: sched,pv,hw_irq or masks such as 0x2f000.",
            metavar="LIST",
        ),
    ] = None,
    event: Annotated[
        list[str] | None,
        typer.Option(help="Only this event: name, 'pattern*' or id. May be given again.", metavar="EVENT"),
    ] = None,
    pcpu: Annotated[str | None, typer.Option(help="Only these pCPUs, such as 0,4-7.", metavar="LIST")] = None,
    domain: Annotated[
        list[str] | None,
        typer.Option(
            help="Only while this domain runs on the pCPU: number or idle. May be given again.",
            metavar="DOMAIN",
        ),
    ] = None,
    vcpu: Annotated[
        list[str] | None,
        typer.Option(
            help="Only while this vCPU runs there: d3v0, or 0 of any domain. May be given again.",
            metavar="VCPU",
        ),
    ] = None,
    begin: Annotated[
        str | None, typer.Option("--from", help="Only from this time on, in the unit shown.", metavar="TIME")
    ] = None,
    end: Annotated[
        str | None, typer.Option("--to", help="Only before this time, in the unit shown.", metavar="TIME")
    ] = None,
    head: Annotated[int | None, typer.Option(help="Stop after so many lines.", min=0, metavar="N")] = None,
    tsc: Annotated[bool, typer.Option("--tsc", help="Times are the TSC itself.")] = False,
    cpu_hz: Annotated[
        str | None,
        typer.Option(help="TSC frequency, such as 2.8G: times are seconds.", metavar="HZ"),
    ] = None,
    xen: Annotated[
        str | None,
        typer.Option(
            help="Xen version to decode by: 4.17, 4.13-4.17, 4.13+. Default: told by the trace.",
            metavar="VERSION",
        ),
    ] = None,
    strict: Annotated[bool, typer.Option("--strict", help="Stop at the first damage.")] = False,
) -> None:
    """Print every record, merged by time, by name and field.

    A line: the time since the trace's first record in TSC cycles (seconds with --cpu-hz, the TSC
    itself with --tsc), pCPU, the vCPU that runs there (d?v? where that is not known), event,
    fields.  A + behind the time marks an untimed record: from that time or later.  A lost_records
    line stands where the loss begins, with the time when it ended.

    --json gives tsc, pcpu, current (the vCPU, or null), event, name, words and, beside them,
    each field as a number; the name of an OP's value is in OP_name.  Untimed records have
    "timed": false, and for --from and --to times are TSCs.

    Left out: CPU_CHANGE (the windows' headers) and WRAP_BUFFER (filler at a ring's end).
    """
    import sys

    from xtrace.probes.dump.lines import KEEP_BATCHES, Choice, Pushdown, Renderer
    from xtrace.probes.dump.templates import Style, Unit
    from xtrace.probes.reader.reader import open_trace

    hz = 1 if cpu_hz is None else _hz(cpu_hz)
    if tsc and cpu_hz is not None:
        raise typer.BadParameter("gives seconds, --tsc cycles; choose one", param_hint="--cpu-hz")
    unit = Unit.SECONDS if cpu_hz is not None else Unit.TSC if tsc or json else Unit.CYCLES
    choice = Choice(
        event=_event_filter(classes, event or []),
        pcpus=None if pcpu is None else _numbers(pcpu),
        domains=frozenset(_domain(text) for text in domain or []),
        vcpus=frozenset(_vcpu(text) for text in vcpu or []),
        from_time=_time(begin, unit, hz, "--from"),
        to_time=_time(end, unit, hz, "--to"),
        limit=head,
    )
    versions = _versions(xen)
    _tell_emulation(file)
    pushdown = Pushdown(choice.event)
    with open_trace(file, wanted=pushdown, strict=strict, keep=KEEP_BATCHES) as reader:
        batches = pushdown.batches(reader)
        if versions is None:
            versions, batches = _told_versions(file, reader, batches)
        renderer = Renderer(Style.JSON if json else Style.TEXT, versions, choice, unit=unit, hz=hz)
        for lines in renderer.lines(batches):
            sys.stdout.buffer.write(lines)
    sys.stdout.buffer.flush()
    _tell_damage(reader.facts)


def _tell_emulation(file: str) -> None:
    from xtrace.probes.capture.sidecar import sidecar_of

    beside = sidecar_of(file)
    if beside is not None and beside.emulated:
        typer.echo("xtrace: emulated host: times tell order, not what hardware takes", err=True)


# --- options ------------------------------------------------------------------------------------


def _hz(text: str) -> int:
    from fractions import Fraction

    multiple = _MULTIPLES.get(text[-1:].lower(), 1)
    try:
        hz = round(Fraction(text[:-1] if multiple > 1 else text) * multiple)
    except (ValueError, ZeroDivisionError):
        raise typer.BadParameter(f"not a frequency: {text!r}", param_hint="--cpu-hz") from None
    if not 10**6 <= hz <= _MAX_HZ:
        raise typer.BadParameter(f"{text} is not between 1M and 9G", param_hint="--cpu-hz")
    return hz


def _time(text: str | None, unit: Unit, hz: int, option: str) -> int | None:
    """Return a time in cycles; of seconds the first cycle that is shown as no less."""
    from fractions import Fraction
    from math import ceil

    from xtrace.probes.dump.templates import Unit

    if text is None:
        return None
    try:
        return ceil(Fraction(text) * hz) if unit is Unit.SECONDS else int(text, 0)
    except (ValueError, ZeroDivisionError):
        what = "seconds" if unit is Unit.SECONDS else "cycles; --cpu-hz makes times seconds"
        raise typer.BadParameter(f"{text!r} is not a number of {what}", param_hint=option) from None


def _numbers(text: str) -> frozenset[int]:
    from xtrace.probes.format import MAX_PCPUS

    numbers: set[int] = set()
    for part in text.split(","):
        low, dash, high = part.partition("-")
        if not low.isdecimal() or (dash and not high.isdecimal()):
            raise typer.BadParameter(f"not a list such as 0,4-7: {text!r}", param_hint="--pcpu")
        numbers.update(range(int(low), min(int(high or low), MAX_PCPUS) + 1))
    return frozenset(numbers)


def _domain(text: str) -> int:
    from xtrace.probes.xen_abi import IDLE_DOMAIN

    if text == "idle":
        return IDLE_DOMAIN
    if not text.isdecimal() or int(text) > 0xFFFF:
        raise typer.BadParameter(f"not a domain's number nor idle: {text!r}", param_hint="--domain")
    return int(text)


def _vcpu(text: str) -> tuple[int | None, int]:
    import re

    found = re.fullmatch(r"(?:d(\d{1,5})v)?(\d{1,5})", text, re.ASCII)
    if found is None:
        raise typer.BadParameter(f"not a vCPU such as d3v0 or 0: {text!r}", param_hint="--vcpu")
    return None if found[1] is None else int(found[1]), int(found[2])


def _versions(text: str | None) -> VersionRange | None:
    from xtrace.probes.catalog import VersionRange

    try:
        return None if text is None else VersionRange.parse(text)
    except ValueError as error:
        raise typer.BadParameter(str(error), param_hint="--xen") from None


def _event_filter(classes: str | None, events: list[str]) -> Callable[[int, str], bool] | None:
    """Return what tells by id and name whether a record is shown; None for all."""
    from fnmatch import fnmatchcase

    if classes is None and not events:
        return None
    masks = [] if classes is None else [_class_mask(name) for name in classes.split(",")]
    ids = {int(text, 0) for text in events if _is_number(text)}
    patterns = [text for text in events if not _is_number(text)]
    for pattern in patterns:
        _check_event(pattern)

    def is_shown(event_id: int, name: str) -> bool:
        if masks and not any(_passes(mask, event_id) for mask in masks):
            return False
        if not events:
            return True
        return event_id in ids or any(fnmatchcase(name, pattern) for pattern in patterns)

    return is_shown


def _is_number(text: str) -> bool:
    try:
        int(text, 0)
    except ValueError:
        return False
    return True


def _check_event(pattern: str) -> None:
    from difflib import get_close_matches
    from fnmatch import fnmatchcase

    from xtrace.probes.catalog import EVENTS
    from xtrace.probes.dump.templates import UNKNOWN_NAME

    names = sorted({event.name for event in EVENTS} | {UNKNOWN_NAME})
    if not any(fnmatchcase(name, pattern) for name in names):
        near = get_close_matches(pattern, names, 3)
        hint = f"; perhaps {' or '.join(near)}" if near else ""
        raise typer.BadParameter(f"no event is called {pattern!r}{hint}", param_hint="--event")


def _class_mask(text: str) -> int:
    """Return the mask of ``text``: a name, a name of a sub-class, or a number as xentrace takes it."""
    from xtrace.probes.format import TraceClass

    subclasses = {
        "sched_min": 0x21000,
        "sched_class": 0x22000,
        "sched_verbose": 0x28000,
        "dom0op_domops": 0x41000,
        "hvm_entryexit": 0x81000,
        "hvm_handler": 0x82000,
        "hvm_emul": 0x84000,
        "pv_entry": 0x201000,
        "pv_subcall": 0x202000,
        "hw_pm": 0x801000,
        "hw_irq": 0x802000,
    }
    known: dict[str, int] = {bit.name.lower(): bit | _ALL_SUBCLASSES for bit in TraceClass if bit.name}
    known |= subclasses | {"all": _CLASS_BITS | _ALL_SUBCLASSES}
    mask = int(text, 0) if _is_number(text) else known.get(text.lower())
    if mask is None:
        raise typer.BadParameter(f"{text!r} is none of {', '.join(known)}", param_hint="--class")
    if not (mask & _CLASS_BITS and mask & _ALL_SUBCLASSES):
        raise typer.BadParameter(
            f"mask {text} lets nothing pass: it needs class bits (0x0fff0000) and sub-class bits (0xf000)",
            param_hint="--class",
        )
    return mask


def _passes(mask: int, event_id: int) -> bool:
    """Tell as Xen's trace buffer does whether a mask lets an event pass."""
    return bool(mask & event_id & _CLASS_BITS and mask & event_id & _ALL_SUBCLASSES)


# --- which Xen ----------------------------------------------------------------------------------


def _told_versions(
    file: str, reader: TraceReader, batches: Iterator[RecordBatch]
) -> tuple[VersionRange, Iterator[RecordBatch]]:
    """Return the versions that fit the trace's records, and the batches from the first one on.

    A plain file is sampled; of a stream, what was read for its first batch tells.
    """
    from itertools import chain

    from xtrace.probes.capture.layout import trace_in
    from xtrace.probes.reader import survey
    from xtrace.probes.reader.sources import STDIN

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
    """Return what windows from all over the file tell; None where headers are not to be found."""
    import io
    import os
    from typing import cast

    from xtrace.probes.errors import TraceError
    from xtrace.probes.format import WINDOW_HEADER
    from xtrace.probes.reader import survey
    from xtrace.probes.reader.reader import TraceReader
    from xtrace.probes.reader.sources import Source

    with open(path, "rb", buffering=0) as raw:
        plain = survey.Bytes(raw.fileno(), memoryview(b""), os.fstat(raw.fileno()).st_size)
        try:
            headers = survey.visit_headers(path, plain)
        except TraceError:
            return None  # the reader may find windows further on
        sample = bytearray()
        for piece in survey.sample_pieces(plain, headers.windows, _SAMPLE_BYTES, _SAMPLE_WINDOWS):
            # As a trace of its own: the last record of a piece may be cut.
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
    typer.echo(f"xtrace: read as Xen {detection.range}, told by {source}{sure}", err=True)


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
            f"xtrace: the last window lacks {facts.missing_bytes:,} bytes: cut short, or still growing",
            err=True,
        )
    if facts.late_records:
        typer.echo(f"xtrace: {facts.late_records:,} records came too late to be put in order", err=True)
