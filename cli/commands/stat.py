"""`xtrace stat`: what the whole host did, one line per interval, like vmstat."""

from __future__ import annotations

import shutil
import sys
from typing import TYPE_CHECKING, Annotated

import typer

from xtrace.cli.options import (
    AsJsonLines,
    CpuHz,
    Follow,
    InputFile,
    MaxInput,
    Strict,
    TracesHvm,
    seconds,
    told_to_follow,
)

if TYPE_CHECKING:
    from xtrace.cli.live.feed import Watched


def stat(
    interval: Annotated[
        float,
        typer.Argument(metavar="[INTERVAL]", parser=seconds(0.01), help="Between lines: 2 (seconds), 500ms."),
    ] = 1.0,
    count: Annotated[
        int | None,
        typer.Argument(
            metavar="[COUNT]", min=1, help="Number of lines. Default: until Ctrl-C, or 120,000 of a trace."
        ),
    ] = None,
    input_: InputFile = None,
    hvm: TracesHvm = False,
    cpu_hz: CpuHz = None,
    strict: Strict = False,
    max_input: MaxInput = None,
    follow: Follow = False,
    json: AsJsonLines = False,
    openmetrics: Annotated[
        bool,
        typer.Option("--openmetrics", help="Print counters since the start at the end, as OpenMetrics text."),
    ] = False,
) -> None:
    """Print one line per interval for the whole host: wakes, wake to running, upcalls, sends.

    Upcalls are shown as least-most. Needs root in dom0, or -i FILE.
    """
    from xtrace.cli.live.feed import Watched, as_json, opened, printed, until_interrupted
    from xtrace.cli.render.live import rate_line, stat_covered, stat_header, stat_line

    if json and openmetrics:
        raise typer.BadParameter("choose one of --json and --openmetrics", param_hint="--openmetrics")
    lines = max(shutil.get_terminal_size().lines - 3, 1) if sys.stdout.isatty() else 22
    with (
        opened(
            input_, cpu_hz, irqs=True, hvm=hvm, strict=strict, follow=told_to_follow(follow, input_)
        ) as feed,
        until_interrupted(),
    ):
        watched = Watched(feed, interval, is_live=input_ is None, by_vcpu=openmetrics)
        if openmetrics:
            _print_openmetrics(watched, count)
            return
        is_known = True
        for number, period in enumerate(printed(watched, count, "INTERVAL")):
            if json:
                import json as codec

                typer.echo(codec.dumps(as_json(watched, period, feed.names(), vcpus=False)))
            else:
                is_other = watched.feed.rate.is_known != is_known
                if is_other:
                    is_known = watched.feed.rate.is_known
                    typer.echo(rate_line(watched))
                if number == 0:
                    typer.echo("\n".join(stat_covered(watched, period)))
                if number % lines == 0 or is_other:
                    typer.echo("\n".join(stat_header(has_rate=is_known)))
                typer.echo(stat_line(watched, period))
            sys.stdout.flush()


def _print_openmetrics(watched: Watched, count: int | None) -> None:
    """Print what happened in up to ``count`` intervals, also where Ctrl-C ends them."""
    from xtrace.cli.live.feed import MAX_ROWS, some_periods
    from xtrace.cli.live.openmetrics import Totals, exposition

    totals = Totals()
    try:
        for period in some_periods(watched, count):
            totals.add(watched, period)
            if count is None and watched.replayed_rows > MAX_ROWS:
                watched.widen()
    finally:
        typer.echo(exposition(totals), nl=False)
