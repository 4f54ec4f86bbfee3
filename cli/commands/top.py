"""`xtrace top`: what each vCPU and domain is doing, refreshed."""

from __future__ import annotations

import sys
from collections.abc import Iterable
from contextlib import ExitStack
from typing import TYPE_CHECKING, Annotated, Any

import typer

from xtrace.cli.options import (
    AsJsonLines,
    CpuHz,
    Follow,
    InputFile,
    MaxInput,
    NoColor,
    Strict,
    TracesHvm,
    offered,
    one_of,
    parsed,
    seconds,
    told_to_follow,
)

if TYPE_CHECKING:
    from xtrace.cli.live.feed import Watched
    from xtrace.cli.live.listen import Address
    from xtrace.cli.render.live import View
else:
    # http.server takes time to import, which --help does not need.
    Address = Any


def _address(text: str) -> Address:
    from xtrace.cli.live.listen import address_of

    return address_of(text)


def top(
    delay: Annotated[
        float,
        typer.Option(
            "--delay",
            "-d",
            parser=seconds(0.01),
            metavar="TIME",
            help="Between refreshes: 2 (seconds), 500ms.",
        ),
    ] = 1.0,
    count: Annotated[
        int | None,
        typer.Option(
            "--count",
            "-n",
            min=1,
            metavar="N",
            help="Number of refreshes. Default: until q or Ctrl-C; with -b, 120,000 rows of a trace.",
        ),
    ] = None,
    sort: Annotated[
        str,
        typer.Option(
            "--sort",
            "-s",
            metavar="KEY",
            help="Sort by wakes, cpu, lag (waits), run (p99), upcalls, time (p99), forced, vcpu.",
            autocompletion=offered(lambda: _sorts()),
        ),
    ] = "wakes",
    domains: Annotated[bool, typer.Option("--domains", help="One row per domain, not per vCPU.")] = False,
    ports: Annotated[
        bool, typer.Option("--ports", "-p", help="Also show dom0's event channels, counted by bpf.")
    ] = False,
    batch: Annotated[
        bool, typer.Option("--batch", "-b", help="Print one block after the other, without a screen.")
    ] = False,
    input_: InputFile = None,
    hvm: TracesHvm = False,
    cpu_hz: CpuHz = None,
    strict: Strict = False,
    max_input: MaxInput = None,
    follow: Follow = False,
    no_color: NoColor = False,
    json: AsJsonLines = False,
    listen: Annotated[
        Address | None,
        typer.Option(
            "--listen",
            parser=parsed(_address),
            metavar="[HOST:]PORT",
            help="Serve counters to Prometheus there instead; without HOST, to this host only.",
        ),
    ] = None,
) -> None:
    """Show wakes, wake to running and upcalls of each vCPU, refreshed. Needs root in dom0, or -i FILE.

    Upcalls are shown as least-most. Keys: h explains them all, q quits, space pauses.
    """
    from xtrace.cli.live.feed import Watched, live_ports, opened, replayed_ports, until_interrupted
    from xtrace.cli.render.live import SORTS, View

    one_of(sort, SORTS, "--sort")
    on_screen = not (batch or json) and sys.stdout.isatty() and sys.stdin.isatty()
    with ExitStack() as stack:
        # bpf takes seconds to load: xentrace starts after it, or its records would wait and be lost.
        counted = stack.enter_context(live_ports()) if ports and input_ is None else None
        feed = stack.enter_context(
            opened(input_, cpu_hz, hvm=hvm, strict=strict, follow=told_to_follow(follow, input_))
        )
        if ports and input_ is not None:
            counted = replayed_ports(input_, feed.rate.hz)
        stack.enter_context(until_interrupted())
        watched = Watched(feed, delay, is_live=input_ is None, ports=counted)
        view = View(sort, domains)
        if listen is not None:
            _serve(watched, listen, count)
        elif on_screen:
            from xtrace.cli.render.screen import show

            show(watched, view, count, delay if input_ is not None else None)
        else:
            _print(watched, view, count, json=json)


def _serve(watched: Watched, address: Address, count: int | None) -> None:
    """Serve what happened so far until the trace ends, after ``count`` periods, or until Ctrl-C."""
    from xtrace.cli.live.feed import some_periods
    from xtrace.cli.live.listen import listening
    from xtrace.cli.live.openmetrics import Totals
    from xtrace.cli.terminal.style import tell

    totals = Totals()
    with listening(address) as (served, url):
        tell(url)
        for period in some_periods(watched, count):
            totals.add(watched, period)
            served.show(totals)


def _sorts() -> Iterable[str]:
    from xtrace.cli.render.live import SORTS

    return SORTS


def _print(watched: Watched, view: View, count: int | None, *, json: bool) -> None:
    from xtrace.cli.live.feed import as_json, printed
    from xtrace.cli.render.live import History, top_block

    history = History()
    for period in printed(watched, count, "--delay"):
        names = watched.feed.names()
        if json:
            import json as codec

            typer.echo(codec.dumps(as_json(watched, period, names, vcpus=True)))
        else:
            history.add(period)
            typer.echo("\n".join([*top_block(watched, period, names, view, history), ""]))
        sys.stdout.flush()
