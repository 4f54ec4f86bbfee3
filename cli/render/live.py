"""The figures of a period on a terminal of 80 columns: a block for `xtrace top`, a line for `stat`."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from xtrace.cli.live.feed import total_of
from xtrace.cli.render.report.head import resolution_text
from xtrace.cli.terminal.ranges import ranges
from xtrace.cli.terminal.style import WIDTH
from xtrace.cli.terminal.text import domain_name, labelled, safe, shortened
from xtrace.probes.words import count_of, scaled, time_text
from xtrace.probes.xen_abi import IDLE_DOMAIN

if TYPE_CHECKING:
    from xtrace.cli.live.feed import Watched
    from xtrace.probes.live.counters import Figures
    from xtrace.probes.live.histogram import Histogram
    from xtrace.probes.live.periods import Period
    from xtrace.probes.live.ports import PortPeriod

_MAX_PCPUS_NAMED = 8
_BUSY_RATIO = 0.8

TOP_WIDTHS = (7, 9, 8, 7, 7, 12, 7, 7, 8)
TOP_GROUPS = f"{'= exact < bound ~ inferred':27}{'wake to running':>15}{'':14}{'upcall at most':>15}"
TOP_HEADINGS = ("vcpu", "domain", "wakes/s=", "p50=", "p99=", "upcalls/s~<", "p50<", "p99<", "force/s=")

#: Time in the handler, and from the entry of the upcall to the handler.
PORT_WIDTHS = (5, 5, 25, 10, 7, 7, 7, 7)
PORT_HEADINGS = ("port", "irq", "name".ljust(25), "handled/s=", "p50=", "p99=", "after=", "p99=")

STAT_WIDTHS = (6, 5, 5, 6, 6, 11, 5, 6, 5, 5, 8)
STAT_NAMES = ("time", "recs", "wakes", "wake to run", "upcalls", "sends", "forced", "runs", "irqs", "lost")
STAT_MARKS = ("s", "/s=", "/s=", "p50=", "p99=", "/s~<", "/s=", "/s=", "/s=", "/s=", "=")


@dataclass(frozen=True, slots=True)
class View:
    """What a block of `xtrace top` shows.

    Attributes:
        sort: a key of SORTS.
        by_domain: one row per domain, not per vCPU.
    """

    sort: str = "wakes"
    by_domain: bool = False

    def pressed(self, key: str) -> View:
        """Return the view after a key was pressed."""
        if key == "d":
            return replace(self, by_domain=not self.by_domain)
        return replace(self, sort=KEYS[key]) if key in KEYS else self


def _at(histogram: Histogram, q: float) -> float:
    return histogram.quantile(q) if histogram.buckets else -1.0


#: Sort keys; rows are sorted in descending order.
SORTS: Mapping[str, Callable[[Figures], float]] = {
    "wakes": lambda figures: figures.wakes,
    "run": lambda figures: _at(figures.wake_to_running, 0.99),
    "upcalls": lambda figures: figures.upcalls_most + figures.injections,
    "time": lambda figures: max(_at(figures.upcall_most, 0.99), _at(figures.hvm_upcall, 0.99)),
    "forced": lambda figures: figures.forced,
    "vcpu": lambda figures: 0,
}
KEYS = {name[0]: name for name in SORTS}


def top_block(
    watched: Watched, period: Period, names: Mapping[int, str], view: View, rows: int | None = None
) -> list[str]:
    """Return the lines of a period, with at most ``rows`` vCPUs or domains."""
    hz = watched.feed.rate.hz
    span_s = period.span_cycles / hz
    lines = [*_state(watched, period, span_s), "", TOP_GROUPS, _joined(TOP_HEADINGS, TOP_WIDTHS, 2)]
    table = _rows(period, view)
    for key, figures in table[:rows]:
        lines.append(
            _joined(
                _top_cells(key, figures, names, hz if watched.feed.rate.is_known else None, span_s, view),
                TOP_WIDTHS,
                2,
            )
        )
    if rows is not None and len(table) > rows:
        lines.append(f"{len(table) - rows} more")
    if watched.ports is not None:
        lines += _port_lines(watched.ports, rows)
    if any(figures.injections for _, figures in table):
        lines.append("i: interrupts injected (exact), upcall times from entry to next exit (inferred)")
    return lines


def _port_lines(found: PortPeriod, rows: int | None) -> list[str]:
    """Return dom0's ports, busiest first."""
    if not found.seconds:
        return ["", "dom0's ports: nothing counted yet"]
    upcalls = f"{_rate(found.upcalls, found.seconds)} upcalls/s="
    p50, p99 = _tail(found.upcall, 1e9)
    lines = ["", f"dom0 by bpf over {found.seconds:.2f} s: {upcalls}, p50= {p50}, p99= {p99}"]
    lines.append(_joined(PORT_HEADINGS, PORT_WIDTHS, 0))
    table = sorted(found.ports, key=lambda row: (-row.handled, row.port or 0, row.irq or 0))
    for row in table[:rows]:
        cells = [
            "-" if row.port is None else str(row.port),
            "-" if row.irq is None else str(row.irq),
            shortened(safe(row.name) or "-", PORT_WIDTHS[2]).ljust(PORT_WIDTHS[2]),
            _rate(row.handled, found.seconds),
            *_tail(row.handler, 1e9),
            *_tail(row.dispatch, 1e9),
        ]
        lines.append(_joined(cells, PORT_WIDTHS, 0))
    if rows is not None and len(table) > rows:
        lines.append(f"{len(table) - rows} more ports")
    return lines


def _rows(period: Period, view: View) -> list[tuple[int, Figures]]:
    from xtrace.probes.live.counters import Figures

    table: dict[int, Figures] = {}
    for key, figures in period.vcpus.items():
        if key >> 16 == IDLE_DOMAIN:
            continue
        if view.by_domain:
            table.setdefault(key >> 16 << 16, Figures()).add(figures)
        else:
            table[key] = figures
    order = SORTS[view.sort]
    return sorted(table.items(), key=lambda row: (-order(row[1]), row[0]))


def _top_cells(
    key: int, figures: Figures, names: Mapping[int, str], hz: float | None, span_s: float, view: View
) -> list[str]:
    upcalls, times, mark = _upcalls(figures, span_s), figures.upcall_most, ""
    if figures.injections and not figures.upcalls_most:
        upcalls, times, mark = f"{_rate(figures.injections, span_s)}i", figures.hvm_upcall, "~"
    domain = key >> 16
    name = domain_name(domain)
    return [
        name if view.by_domain else f"{name}v{key & 0xFFFF}",
        shortened(safe(names.get(domain, "-")), TOP_WIDTHS[1]),
        _rate(figures.wakes, span_s),
        *_tail(figures.wake_to_running, hz),
        upcalls,
        *(f"{text}{mark if text != '-' else ''}" for text in _tail(times, hz)),
        _rate(figures.forced, span_s),
    ]


def _state(watched: Watched, period: Period, span_s: float) -> list[str]:
    """Return lines about the whole host and the trace itself, of 80 columns at most."""
    host, total = period.host, total_of(period)
    rate, busy = watched.feed.rate, watched.busy_ratio
    name = shortened(safe(watched.feed.name), 40)
    unit = "s" if rate.is_known else "Gc"
    lines = [
        f"{name}: {span_s:.2f} {unit} from {_since(watched, period):.2f} {unit}",
        f"{f'per {unit}=':<9}records {_rate(host.records, span_s)}, sends {_rate(total.sends, span_s)}, "
        f"runs {_rate(total.runs, span_s)}{'' if busy is None else f'; reader {busy:.0%} of a CPU'}",
        rate_line(watched),
        f"lost=    {_lost(period, total)}",
    ]
    if watched.feed.emulated:
        lines.insert(1, "host     emulated: times show order and proportions, not hardware durations")
    if host.lost and busy is not None and busy > _BUSY_RATIO:
        lines.append("         the reader cannot keep up; a longer -d does not help, less load does")
    framer = watched.periods.framer
    if watched.damage_count:
        lines.append(
            f"damage   {count_of(watched.damage_count, 'place')}, {watched.skipped_bytes:,} bytes skipped"
        )
    if framer.restart_count:
        lines.append(f"restart  {count_of(framer.restart_count, 'restart')} of the TSC; times go on there")
    if framer.late_count:
        lines.append(f"order    {framer.late_count:,} records came too late to be sorted by time")
    if period.pause_cycles:
        lines.append(
            f"pause    {period.pause_cycles / rate.hz:.3g} {unit} without records was skipped before this"
        )
    return lines


def _since(watched: Watched, period: Period) -> float:
    return period.since_cycles / watched.feed.rate.hz


def _lost(period: Period, total: Figures) -> str:
    host = period.host
    if not host.lost:
        return "0 records"
    pcpus = sorted(host.lost_pcpus)
    named = ", ".join(map(str, pcpus[:_MAX_PCPUS_NAMED])) + (
        " and more" if len(pcpus) > _MAX_PCPUS_NAMED else ""
    )
    text = f"{host.lost:,} records in {host.gaps} gaps on pCPU {named}"
    return f"{text}; {total.cuts} measurements cut"[: WIDTH - 9]


def stat_header() -> list[str]:
    """Return the two heading lines of `xtrace stat`."""
    pair = STAT_WIDTHS[3] + 1 + STAT_WIDTHS[4]
    widths = (*STAT_WIDTHS[:3], pair, *STAT_WIDTHS[5:])
    return [_joined(STAT_NAMES, widths, 0), _joined(STAT_MARKS, STAT_WIDTHS, 0)]


def stat_covered(watched: Watched, period: Period) -> list[str]:
    """Return what the first interval covers, in one or two lines: pCPUs, and classes with records."""
    total = total_of(period)
    seen = {
        "sched": total.runs,
        "pv": total.hypercalls,
        "hvm": total.injections,
        "hw": period.host.irqs,
    }
    pcpus = watched.periods.machine.pcpus
    which = f"pCPU{'s' if len(pcpus) != 1 else ''} {ranges(pcpus)}" if pcpus else "no pCPU"
    some = ", ".join(name for name, count in seen.items() if count)
    none = ", ".join(name for name, count in seen.items() if not count)
    text = f"{which}; records of {some or 'no class that is counted'}"
    if none:
        text += f"; none of {none} in the first interval"
    return labelled("covered", text, WIDTH)


def rate_line(watched: Watched) -> str:
    """Return what is known of the TSC's rate; without it, times are in cycles and rates per 10^9 cycles."""
    rate = watched.feed.rate
    if not rate.is_known:
        return "TSC      rate not known (yet): 10^9 cycles (Gc) stand for a second; or give --cpu-hz"
    return f"TSC      {rate.hz / 1e6:.3f} MHz, {rate.source}{resolution_text(rate.hz)}"[:WIDTH]


def stat_line(watched: Watched, period: Period) -> str:
    """Return a period as one line."""
    hz = watched.feed.rate.hz
    span_s = period.span_cycles / hz
    host, total = period.host, total_of(period)
    since = _since(watched, period) + span_s
    return _joined(
        [
            f"{since:.2f}" if since < 1000 else f"{since:.0f}",
            _rate(host.records, span_s),
            _rate(total.wakes, span_s),
            *_tail(total.wake_to_running, hz if watched.feed.rate.is_known else None),
            _upcalls(total, span_s),
            _rate(total.sends, span_s),
            _rate(total.forced, span_s),
            _rate(total.runs, span_s),
            _rate(host.irqs, span_s),
            f"{host.lost:,}" if host.lost < 10_000_000 else scaled(host.lost),
        ],
        STAT_WIDTHS,
        0,
    )


def _upcalls(figures: Figures, span_s: float) -> str:
    """Return upcalls per second, at least and at most."""
    if not figures.upcalls_most:
        return "-"
    return f"{_rate(figures.upcalls_least, span_s)}-{_rate(figures.upcalls_most, span_s)}"


def _tail(histogram: Histogram, hz: float | None) -> tuple[str, str]:
    p50, p99 = (time_text(histogram.quantile(q), hz) for q in (0.5, 0.99))
    return p50, p99


def _rate(count: int, span_s: float) -> str:
    if span_s <= 0:
        return "-"
    value = count / span_s
    return scaled(value) if value >= 100 else f"{value:.1f}"


def _joined(cells: Iterable[str], widths: Sequence[int], to_left: int) -> str:
    """Return cells in columns, the first ``to_left`` of them left-aligned."""
    columns = zip(cells, widths, strict=True)
    return " ".join(
        cell.ljust(width) if number < to_left else cell.rjust(width)
        for number, (cell, width) in enumerate(columns)
    ).rstrip()
