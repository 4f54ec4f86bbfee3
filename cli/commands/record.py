"""`xtrace record`: record a live Xen host into a capture, which has everything that a report needs."""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Annotated

import typer

from xtrace.cli.options import (
    DOMAIN_FORMS,
    EventClasses,
    PcpuList,
    offered,
    one_of,
    parsed,
    renamed,
    seconds,
    size_bytes,
)
from xtrace.cli.terminal.text import safe
from xtrace.probes.errors import TraceError
from xtrace.probes.selection.vcpus import Pcpus

if TYPE_CHECKING:
    from xtrace.probes.recording.backends.base import Counts
    from xtrace.probes.recording.session import Summary

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
        typer.Option(
            "--duration",
            "-d",
            parser=seconds(0.1),
            metavar="TIME",
            help="How long: 10 (seconds), 500ms, 5m. Default: until Ctrl-C.",
        ),
    ] = None,
    backend: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NAME",
            help="Use only this recorder: xentrace, bpf, perf, xenctx. Default: the first two. Repeatable.",
            autocompletion=offered(lambda: _backends()),
        ),
    ] = None,
    classes: EventClasses = None,
    pcpu: PcpuList = None,
    ring_pages: Annotated[
        int | None,
        typer.Option(
            "--ring-pages",
            "-S",
            min=1,
            max=65535,
            metavar="N",
            help="Pages of Xen's trace buffer per pCPU; Xen allocates it once per boot.",
        ),
    ] = None,
    poll_ms: Annotated[
        int,
        typer.Option(
            "--poll-ms", "-s", min=1, max=10000, metavar="MS", help="How often to empty Xen's buffers."
        ),
    ] = 100,
    memory: Annotated[
        str | None,
        typer.Option("--memory", "-M", metavar="SIZE", help="Keep only the last SIZE of Xen's trace."),
    ] = None,
    events: Annotated[
        bool, typer.Option("--events", help="Record each bpf event, in addition to histograms.")
    ] = False,
    frequency: Annotated[
        int,
        typer.Option("--frequency", "-F", min=1, max=10000, metavar="HZ", help="RIP samples per second."),
    ] = 99,
    domain: Annotated[
        list[str] | None,
        typer.Option(
            "--domain",
            metavar="DOMAIN",
            help=f"Sample only this domain with xenctx, {DOMAIN_FORMS}. Repeatable.",
        ),
    ] = None,
    max_size: Annotated[
        str | None, typer.Option(metavar="SIZE", help="Stop when the capture reaches SIZE: 500M, 2G.")
    ] = None,
    reserve: Annotated[str, typer.Option(metavar="SIZE", help="Disk space to leave free.")] = "64M",
    force: Annotated[
        bool, typer.Option("--force", "-f", help="Overwrite, without keeping NAME.xtrace.old.")
    ] = False,
    user: Annotated[
        str | None,
        typer.Option(
            metavar="USER",
            help="Who gets the capture at the end. Default: who ran sudo, else root.",
        ),
    ] = None,
    timing: Annotated[
        str | None,
        typer.Option(metavar="HOW", help="emulated or hardware, on a host where xtrace cannot detect it."),
    ] = None,
    old_event: Annotated[str | None, renamed("--event", "--class")] = None,
    old_pcpus: Annotated[Pcpus | None, renamed("--pcpus", "--pcpu", parser=parsed(Pcpus.parse))] = None,
) -> None:
    """Record a live Xen host until Ctrl-C or for a time, or while COMMAND runs.

    If the disk is full or a recorder dies, what was recorded is kept.
    """
    from xtrace.probes.capture import writer
    from xtrace.probes.recording.backends import registry
    from xtrace.probes.recording.backends.base import Options
    from xtrace.probes.recording.session import FAILED, Request
    from xtrace.probes.recording.session import record as run
    from xtrace.probes.selection.event_masks import event_mask

    for name in backend or ():
        one_of(name, registry.NAMES, "--backend")
    classes, pcpu = classes or old_event or "all", pcpu or old_pcpus
    if timing not in (None, "emulated", "hardware"):
        raise typer.BadParameter(f"{timing!r} is neither emulated nor hardware", param_hint="--timing")
    try:
        event_mask(classes)
    except ValueError as error:
        raise typer.BadParameter(str(error), param_hint="--class") from None
    memory_bytes, max_bytes = _size(memory, "--memory"), _size(max_size, "--max-size")
    options = Options(
        mask=classes,
        pcpus=None if pcpu is None else pcpu.text,
        ring_pages=ring_pages,
        poll_ms=poll_ms,
        memory_mib=None if memory_bytes is None else max(1, memory_bytes >> 20),
        reserve_mib=(_size(reserve, "--reserve") or 0) >> 20,
        events=events,
        sample_hz=frequency,
    )
    owner = _owner(user)
    options = replace(options, domains=_domains(domain or []))
    request = Request(
        output=writer.named(output),
        options=options,
        backends=None if backend is None else tuple(backend),
        duration_s=duration,
        command=tuple(command or ()),
        max_bytes=max_bytes,
        overwrite=force,
        timing=timing,
        owner=owner,
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
    """Return the result of a recording in one line: where, size, records, losses, time, cost."""
    parts = [f"{summary.output}: {_bytes(summary.byte_count)}"]
    parts += [f"{name} {_counts(counts)}" for name, counts in summary.counts.items()]
    cost = summary.overhead
    parts.append(f"{summary.duration_s:.1f} s")
    share = cost.cpu_s / summary.duration_s if summary.duration_s else 0.0
    upcalls = "" if cost.own_upcalls is None else f", at most {cost.own_upcalls:,} upcalls"
    each = ", ".join(
        f"{name} {used_s / summary.duration_s:.1%}" for name, used_s in cost.cpu_s_by_backend.items()
    )
    parts.append(f"cost {share:.1%} of a CPU{f' ({each})' if each else ''}{upcalls}")
    return "; ".join(parts)


class _Live:
    """Lines on standard error; on a terminal also a progress line, rewritten once a second."""

    def __init__(self) -> None:
        self._is_terminal = sys.stderr.isatty()
        self._is_open = False

    def say(self, line: str) -> None:
        """Print a line; what a guest or a tool put into it is escaped."""
        if self._is_open:
            typer.echo("\r\x1b[K", nl=False, err=True)
            self._is_open = False
        typer.echo(f"xtrace: {safe(line)}", err=True)

    def watch(self, elapsed_s: float, byte_count: int, counts: Mapping[str, Counts]) -> None:
        """Show the progress of the recording."""
        if self._is_terminal:
            rows = ", ".join(f"{name} {_counts(each)}" for name, each in counts.items())
            line = f"{elapsed_s:.0f} s, {_bytes(byte_count)}; {rows}"[:79]
            typer.echo(f"\r\x1b[K{safe(line)}", nl=False, err=True)
            self._is_open = True


def _counts(counts: Counts) -> str:
    lost = f"{counts.lost:,} lost" if counts.lost_known else f"at least {counts.lost:,} lost"
    return f"{counts.records:,} records, {lost}"


def _bytes(count: int) -> str:
    if count < 10 << 20:
        return f"{count / 1e3:,.0f} kB"
    return f"{count / 1e6:,.1f} MB"


def _backends() -> Sequence[str]:
    from xtrace.probes.recording.backends import registry

    return registry.NAMES


def _domains(wanted: list[str]) -> tuple[int, ...]:
    """Return ids of running domains; xenstore is asked only for names."""
    from xtrace.probes.selection.vcpus import domain_ids

    try:
        return tuple(domain_ids(wanted, _names, "xenstore"))
    except TraceError as error:
        raise typer.BadParameter(str(error), param_hint="--domain") from None


def _names() -> dict[int, str]:
    from xtrace.probes.host import xen_tools
    from xtrace.probes.host.xenstore import open_xenstore

    with open_xenstore() as store:
        return xen_tools.names_of(xen_tools.store_facts(store, domain) for domain in store.domains())


def _owner(user: str | None) -> tuple[int, int] | None:
    """Return the ids of the user and group that get the capture; None leaves it to root."""
    import pwd

    if user is None:
        ids = os.environ.get("SUDO_UID", ""), os.environ.get("SUDO_GID", "")
        if not all(re.fullmatch(r"[0-9]{1,9}", number) for number in ids):
            return None
        return int(ids[0]), int(ids[1])
    try:
        found = pwd.getpwuid(int(user)) if re.fullmatch(r"[0-9]{1,9}", user) else pwd.getpwnam(user)
    except KeyError:
        raise typer.BadParameter(f"{user!r} is no user of this host", param_hint="--user") from None
    return found.pw_uid, found.pw_gid


def _size(text: str | None, option: str) -> int | None:
    """Return the bytes of ``500M``; K, M, G and T are powers of 1024."""
    try:
        return None if text is None else size_bytes(text)
    except ValueError as error:
        raise typer.BadParameter(str(error), param_hint=option) from None
