"""The figures of a period on a terminal: a block for `xtrace top`, a line for `stat`."""

from __future__ import annotations

import math
import re
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from xtrace.cli.render.report.head import EMULATED, resolution_text
from xtrace.cli.terminal.drawn import is_drawn, spark
from xtrace.cli.terminal.grid import GridColumn, grid_lines
from xtrace.cli.terminal.style import WIDTH, width
from xtrace.cli.terminal.text import domain_name, labelled, safe, shortened
from xtrace.probes.words import count_of, ranges, scaled, time_text
from xtrace.probes.xen_abi import DEFAULT_DOMAIN, IDLE_DOMAIN

if TYPE_CHECKING:
    from xtrace.cli.live.feed import Watched
    from xtrace.probes.live.counters import Figures
    from xtrace.probes.live.histogram import Histogram
    from xtrace.probes.live.periods import Period
    from xtrace.probes.live.ports import PortPeriod

_MAX_PCPUS_NAMED = 8
_BUSY_RATIO = 0.8

#: Time in the handler, and from the entry of the upcall to the handler.
PORT_WIDTHS = (5, 5, 25, 10, 7, 7, 7, 7)
PORT_HEADINGS = ("port", "irq", "name".ljust(25), "handled/s", "p50", "p99", "after", "p99")

STAT_WIDTHS = (6, 5, 5, 6, 6, 11, 5, 6, 5, 5, 8)
STAT_NAMES = ("time", "recs", "wakes", "wake to run", "upcalls", "sends", "forced", "runs", "irqs", "lost")
STAT_UNITS = ("s", "/s", "/s", "p50", "p99", "/s", "/s", "/s", "/s", "/s", "")


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
    "cpu": lambda figures: figures.running_cycles,
    "lag": lambda figures: figures.waiting_cycles,
    "run": lambda figures: _at(figures.wake_to_running, 0.99),
    "upcalls": lambda figures: figures.upcalls_most + figures.injections,
    "time": lambda figures: max(_at(figures.upcall_most, 0.99), _at(figures.hvm_upcall, 0.99)),
    "forced": lambda figures: figures.forced,
    "vcpu": lambda figures: 0,
}
KEYS = {name[0]: name for name in SORTS}


#: How the figures of the table are known, in the words of the report.
_KNOWN = "(exact, but runs, waits, least-most upcalls/s inferred; upcall p50, p99 at most)"
#: From this width on, rows have a picture of their history.
_WIDE = 120


class History:
    """The p99 of wake to running over the last periods: of the host, and of each vCPU or domain."""

    def __init__(self) -> None:
        self._periods: deque[dict[int, float]] = deque(maxlen=PERIODS)

    def add(self, period: Period) -> None:
        """Take a period."""
        found = {key: _at(figures.wake_to_running, 0.99) for key, figures in _by(period, by_domain=False)}
        found |= {
            key | _OF_DOMAIN: _at(figures.wake_to_running, 0.99)
            for key, figures in _by(period, by_domain=True)
        }
        found[_OF_HOST] = _at(period.total.wake_to_running, 0.99)
        self._periods.append(found)

    def of(self, key: int) -> list[float]:
        """Return the p99 of each period, in cycles, NaN where nothing was measured."""
        return [value if (value := found.get(key, -1.0)) >= 0 else math.nan for found in self._periods]


#: How many periods a history has.
PERIODS = 60
#: Keys of a history besides those of vCPUs: the host; a domain, with this bit.
_OF_HOST, _OF_DOMAIN = -1, 1 << 40


def top_block(
    watched: Watched,
    period: Period,
    names: Mapping[int, str],
    view: View,
    history: History,
    rows: int | None = None,
    first: int = 0,
) -> list[str]:
    """Return the lines of a period, with at most ``rows`` vCPUs or domains from the ``first`` on."""
    rate = watched.feed.rate
    hz = rate.hz if rate.is_known else None
    span_s = period.span_cycles / rate.hz
    lines = [
        *_state(watched, period, span_s),
        *_history_line(history, hz),
        "",
        _KNOWN if hz else _KNOWN.replace("/s", "/Gc"),
    ]
    table = _rows(period, view)
    shown = table[first : None if rows is None else first + rows]
    heads, body, _ = grid_lines(_columns(shown, names, hz, period, span_s, view, history), width())
    lines += [*heads, *body]
    if first or len(shown) < len(table):
        lines.append(f"{first + 1} to {first + len(shown)} of {len(table)}")
    if watched.ports is not None:
        lines += _port_lines(watched.ports, rows)
    if any(figures.injections for _, figures in table):
        lines.append("i: interrupts injected (exact), upcall times from entry to next exit (inferred)")
    return lines


def row_count(period: Period, view: View) -> int:
    """Return how many rows the table has."""
    return len(_rows(period, view))


def _history_line(history: History, hz: float | None) -> Iterator[str]:
    values = history.of(_OF_HOST)
    known = [value for value in values if value == value]
    if not known:
        return
    ends = f"{time_text(min(known), hz)} to {time_text(max(known), hz)}"
    what = f"p99 wake to running, {count_of(len(values), 'period')}: "
    yield f"{what}{ends}" + (f" {spark(values)}" if is_drawn() else "")


def _columns(
    table: Sequence[tuple[int, Figures]],
    names: Mapping[int, str],
    hz: float | None,
    period: Period,
    span_s: float,
    view: View,
    history: History,
) -> list[GridColumn]:
    labels, domains, cells = [], [], []
    for key, figures in table:
        domain = key >> 16
        label = domain_name(domain)
        labels.append(label if view.by_domain else f"{label}v{key & 0xFFFF}")
        domains.append(safe(names.get(domain, "-")))
        cells.append(_cells(figures, hz, span_s, period.span_cycles))
    per = "s" if hz else "Gc"
    heads = ("runs", "waits", f"wakes/{per}", "p50", "p99", f"upcalls/{per}", "p50", "p99", f"forced/{per}")
    over = ("", "", "", "wake to", "running", "", "upcall", "", "")
    made = [
        GridColumn(("", "vcpu"), labels, left=True),
        GridColumn(("", "domain"), domains, left=True, shorten=shortened),
        *(
            GridColumn((above, head), [row[place] for row in cells])
            for place, (above, head) in enumerate(zip(over, heads, strict=True))
        ),
    ]
    if width() >= _WIDE and is_drawn():
        bit = _OF_DOMAIN if view.by_domain else 0
        pictures = [spark(history.of(key | bit)) for key, _ in table]
        made.append(GridColumn(("p99 wake to running", "over time"), pictures, left=True))
    return made


def _port_lines(found: PortPeriod, rows: int | None) -> list[str]:
    """Return dom0's ports, busiest first."""
    if not found.seconds:
        return ["", "dom0's ports: nothing counted yet"]
    upcalls = f"{_rate(found.upcalls, found.seconds)} upcalls/s"
    p50, p99 = _tail(found.upcall, 1e9)
    lines = ["", f"dom0 by bpf over {found.seconds:.2f} s (exact): {upcalls}, p50 {p50}, p99 {p99}"]
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


def _by(period: Period, *, by_domain: bool) -> Iterable[tuple[int, Figures]]:
    """Return the figures of each vCPU, or of each domain by the key of its vCPU 0."""
    from xtrace.probes.live.counters import Figures

    table: dict[int, Figures] = {}
    for key, figures in period.vcpus.items():
        if key >> 16 in (IDLE_DOMAIN, DEFAULT_DOMAIN):
            continue
        if by_domain:
            table.setdefault(key >> 16 << 16, Figures()).add(figures)
        else:
            table[key] = figures
    return table.items()


def _rows(period: Period, view: View) -> list[tuple[int, Figures]]:
    order = SORTS[view.sort]
    return sorted(_by(period, by_domain=view.by_domain), key=lambda row: (-order(row[1]), row[0]))


def _cells(figures: Figures, hz: float | None, span_s: float, span_cycles: int) -> list[str]:
    upcalls, times, mark = _upcalls(figures, span_s), figures.upcall_most, ""
    if figures.injections and not figures.upcalls_most:
        upcalls, times, mark = f"{_rate(figures.injections, span_s)}i", figures.hvm_upcall, "~"
    return [
        _share(figures.running_cycles, span_cycles),
        _share(figures.waiting_cycles, span_cycles),
        _rate(figures.wakes, span_s),
        *_tail(figures.wake_to_running, hz),
        upcalls,
        *(f"{text}{mark if text != '-' else ''}" for text in _tail(times, hz)),
        _rate(figures.forced, span_s),
    ]


def _share(cycles: int, span_cycles: int) -> str:
    """Return a share of the period; a domain's is that of all its vCPUs together, so it may exceed 100 %."""
    return f"{cycles / span_cycles:.0%}" if span_cycles > 0 else "-"


def _state(watched: Watched, period: Period, span_s: float) -> list[str]:
    """Return lines about the whole host and the trace itself, of 80 columns at most."""
    host, total = period.host, period.total
    rate, busy = watched.feed.rate, watched.busy_ratio
    name = shortened(safe(watched.feed.name), 40)
    unit = "s" if rate.is_known else "Gc"
    lines = [
        f"{name}: {span_s:.2f} {unit} from {_since(watched, period):.2f} {unit}",
        f"host     {_rate(host.records, span_s)} records/{unit}, {_rate(total.sends, span_s)} sends/{unit}, "
        f"{_rate(total.runs, span_s)} runs/{unit}"
        + ("" if busy is None else f"; reader {busy:.0%} of a CPU"),
        f"lost     {_lost(period, total)}",
    ]
    if not rate.is_known or resolution_text(rate.hz):
        lines.append(rate_line(watched))
    if watched.feed.emulated:
        lines.append(f"timing   {EMULATED}")
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


def stat_header(*, has_rate: bool) -> list[str]:
    """Return the two heading lines of `xtrace stat`; Gc stand for seconds without a TSC rate."""
    pair = STAT_WIDTHS[3] + 1 + STAT_WIDTHS[4]
    widths = (*STAT_WIDTHS[:3], pair, *STAT_WIDTHS[5:])
    units = STAT_UNITS if has_rate else [re.sub(r"\bs$", "Gc", unit) for unit in STAT_UNITS]
    return [_joined(STAT_NAMES, widths, 0), _joined(units, STAT_WIDTHS, 0)]


def stat_covered(watched: Watched, period: Period) -> list[str]:
    """Return what the first interval covers, in one or two lines: pCPUs, and classes with records."""
    total = period.total
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
    known = "exact, but least-most upcalls/s inferred"
    return [*labelled("covered", text, WIDTH), *labelled("known", known, WIDTH)]


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
    host, total = period.host, period.total
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
