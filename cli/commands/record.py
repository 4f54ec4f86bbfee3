"""`xtrace record`: everything a report needs, from a live Xen host into a capture."""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Mapping
from typing import TYPE_CHECKING, Annotated

import typer

from xtrace.probes.errors import TraceError

if TYPE_CHECKING:
    from xtrace.probes.recording.backends.base import Counts
    from xtrace.probes.recording.session import Summary

_MULTIPLES = {"": 1, "k": 1 << 10, "m": 1 << 20, "g": 1 << 30, "t": 1 << 40}
_SIGNAL_CODE = 128


def record(
    command: Annotated[
        list[str] | None,
        typer.Argument(metavar="[-- COMMAND...]", help="Record while this command runs.", show_default=False),
    ] = None,
    output: Annotated[
        str, typer.Option("--output", "-o", metavar="NAME", help="The capture: a folder NAME.xtrace.")
    ] = "capture",
    duration: Annotated[
        float | None,
        typer.Option("--duration", "-d", min=0.1, metavar="SECONDS", help="Default: until Ctrl-C."),
    ] = None,
    backend: Annotated[
        list[str] | None,
        typer.Option(help="Only by this: xentrace, bpf, perf, xenctx. May be given again."),
    ] = None,
    event: Annotated[
        str,
        typer.Option("--event", "-e", metavar="MASK", help="What Xen traces: sched+hvm, 0x2f000, all."),
    ] = "all",
    pcpus: Annotated[
        str | None, typer.Option("--pcpus", "-c", metavar="LIST", help="Only these pCPUs: 0-3,8 or 0xff.")
    ] = None,
    ring_pages: Annotated[
        int | None,
        typer.Option(
            "--ring-pages", "-S", min=1, max=65535, help="Pages of Xen's buffer for a pCPU, once a boot."
        ),
    ] = None,
    poll_ms: Annotated[
        int, typer.Option("--poll-ms", "-s", min=1, max=10000, help="How often Xen's buffers are emptied.")
    ] = 100,
    memory: Annotated[
        str | None,
        typer.Option("--memory", "-M", metavar="SIZE", help="Keep only the last SIZE of Xen's trace."),
    ] = None,
    events: Annotated[
        bool, typer.Option("--events", help="Stream bpf's events, beside its histograms.")
    ] = False,
    frequency: Annotated[
        int,
        typer.Option("--frequency", "-F", min=1, max=10000, metavar="HZ", help="RIP samples a second."),
    ] = 99,
    domain: Annotated[
        list[int] | None, typer.Option(help="Sample this domain by xenctx. May be given again.")
    ] = None,
    max_size: Annotated[
        str | None, typer.Option(metavar="SIZE", help="End when the capture has SIZE bytes: 500M, 2G.")
    ] = None,
    reserve: Annotated[str, typer.Option(metavar="SIZE", help="Of the disk to leave free.")] = "64M",
    force: Annotated[
        bool, typer.Option("--force", "-f", help="Overwrite, without keeping NAME.xtrace.old.")
    ] = False,
    timing: Annotated[
        str | None, typer.Option(metavar="HOW", help="emulated or hardware, where it cannot be told.")
    ] = None,
) -> None:
    """Record a live Xen host, as root in dom0, for a time, until Ctrl-C or while COMMAND runs.

    Exit status: of COMMAND, if one is run; else 0; 1 if the disk is full or a recorder died, with
    what was recorded kept.
    """
    from xtrace.probes.capture import writer
    from xtrace.probes.recording.backends import registry
    from xtrace.probes.recording.backends.base import Options
    from xtrace.probes.recording.backends.masks import event_mask
    from xtrace.probes.recording.session import FAILED, Request
    from xtrace.probes.recording.session import record as run

    if unknown := sorted(set(backend or ()) - set(registry.NAMES)):
        raise typer.BadParameter(
            f"{unknown[0]!r} is none of {', '.join(registry.NAMES)}", param_hint="--backend"
        )
    if timing not in (None, "emulated", "hardware"):
        raise typer.BadParameter(f"{timing!r} is neither emulated nor hardware", param_hint="--timing")
    try:
        event_mask(event)
    except ValueError as error:
        raise typer.BadParameter(str(error), param_hint="--event") from None
    memory_bytes, max_bytes = _size(memory, "--memory"), _size(max_size, "--max-size")
    options = Options(
        mask=event,
        pcpus=pcpus,
        ring_pages=ring_pages,
        poll_ms=poll_ms,
        memory_mib=None if memory_bytes is None else max(1, memory_bytes >> 20),
        reserve_mib=(_size(reserve, "--reserve") or 0) >> 20,
        events=events,
        sample_hz=frequency,
        domains=tuple(domain or ()),
    )
    if os.geteuid() != 0:
        raise TraceError("recording needs root; run it by sudo")
    request = Request(
        output=writer.named(output),
        options=options,
        backends=None if backend is None else tuple(backend),
        duration_s=duration,
        command=tuple(command or ()),
        max_bytes=max_bytes,
        overwrite=force,
        timing=timing,
    )
    live = _Live()
    summary = run(request, say=live.say, watch=live.watch)
    live.say(closing_line(summary))
    if summary.end_reason in FAILED:
        raise TraceError(summary.message)
    if summary.message:
        live.say(summary.message)
    if code := summary.command_code:
        raise typer.Exit(_SIGNAL_CODE - code if code < 0 else code)


def closing_line(summary: Summary) -> str:
    """Return what a recording came to: where, size, records, losses, time, cost."""
    parts = [f"{summary.output}: {_bytes(summary.byte_count)}"]
    parts += [f"{name} {_counts(counts)}" for name, counts in summary.counts.items()]
    cost = summary.overhead
    parts.append(f"{summary.duration_s:.1f} s")
    share = cost.cpu_s / summary.duration_s if summary.duration_s else 0.0
    upcalls = "" if cost.own_upcalls is None else f", at most {cost.own_upcalls:,} upcalls"
    parts.append(f"cost {share:.1%} of a CPU{upcalls}")
    return "; ".join(parts)


class _Live:
    """Lines on standard error, and on a terminal one that is written over each second."""

    def __init__(self) -> None:
        self._is_terminal = sys.stderr.isatty()
        self._is_open = False

    def say(self, line: str) -> None:
        """Print a line, whatever a guest or a tool has put into it."""
        if self._is_open:
            typer.echo("\r\x1b[K", nl=False, err=True)
            self._is_open = False
        typer.echo(f"xtrace: {_plain(line)}", err=True)

    def watch(self, elapsed_s: float, byte_count: int, counts: Mapping[str, Counts]) -> None:
        """Show how far the recording is."""
        if self._is_terminal:
            rows = ", ".join(f"{name} {_counts(each)}" for name, each in counts.items())
            line = f"{elapsed_s:.0f} s, {_bytes(byte_count)}; {rows}"[:79]
            typer.echo(f"\r\x1b[K{_plain(line)}", nl=False, err=True)
            self._is_open = True


def _counts(counts: Counts) -> str:
    lost = f"{counts.lost:,} lost" if counts.lost_known else f"{counts.lost:,} lost or more"
    return f"{counts.records:,} records, {lost}"


def _bytes(count: int) -> str:
    if count < 10 << 20:
        return f"{count / 1e3:,.0f} kB"
    return f"{count / 1e6:,.1f} MB"


def _plain(text: str) -> str:
    return "".join(c if c.isprintable() else repr(c)[1:-1] for c in text)


def _size(text: str | None, option: str) -> int | None:
    """Return the bytes of ``500M``; K, M, G and T are powers of 1024."""
    if text is None:
        return None
    found = re.fullmatch(r"(\d{1,12}(?:\.\d{1,6})?)([kmgt]?)(?:i?b)?", text.strip().lower())
    if found is None:
        raise typer.BadParameter(f"{text!r} is no size; write 500M or 2G", param_hint=option)
    return round(float(found[1]) * _MULTIPLES[found[2]])
