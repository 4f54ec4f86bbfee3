"""Put a calibration on a terminal of 80 columns."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING

from xtrace.cli.terminal.style import WIDTH, Put, width
from xtrace.cli.terminal.text import safe, shortened, wrapped

if TYPE_CHECKING:
    from xtrace.probes.timing.calibration import Calibration, Row

_LABEL = 9
_CELL = 8
_SITE_LABEL = 5
_HEADINGS = {
    "empty": "empty",
    "stores_8": "8 st",
    "stores_40": "40 st",
    "store_miss_1": "1 stmiss",
    "store_miss_4": "4 stmiss",
    "load_miss_1": "1 ldmiss",
    "store_stream_1": "1 stream",
    "store_stream_4": "4 stream",
    "nt_stream_1": "1 nt",
    "nt_stream_8": "8 nt",
    "cold_chain_2": "2 cold",
    "cold_chain_4": "4 cold",
    "alu_chain": "alu",
    "alu_fresh": "fresh",
    "alu_fresh_180": "fresh180",
    "site": "site",
}
#: What fits in 80 columns, in two tables: one execution at a time, and streams and chains of misses.
_SHOWN = {
    name: _HEADINGS[name]
    for name in (
        "empty", "stores_8", "stores_40", "alu_chain", "alu_fresh", "alu_fresh_180", "store_miss_1",
        "load_miss_1",
    )
}  # fmt: skip
_APART = {
    name: _HEADINGS[name]
    for name in (
        "store_miss_4", "store_stream_1", "store_stream_4", "nt_stream_1", "nt_stream_8", "cold_chain_2",
        "cold_chain_4",
    )
}  # fmt: skip
_SITE_HEADINGS = {
    name: _HEADINGS[name]
    for name in (
        "empty", "stores_40", "store_miss_1", "load_miss_1", "cold_chain_4", "alu_chain", "alu_fresh", "site",
    )
}  # fmt: skip
_PLACES = {
    "inline": "inline",
    "outofline": "out of line, with its call, frame and saved register",
    "close": "a mask and a restore close together",
}


def print_calibration(
    put: Put, found: Calibration, names: Mapping[tuple[int, str], str], *, ns: bool
) -> None:
    """Print the result: a table for each sequence, then one for each site.

    Args:
        put: prints a line.
        names: name of a site and its fence, by address and fence name.
        ns: print nanoseconds instead of TSC cycles.
    """
    _print_host(put, found)
    scale = 1e9 / found.tsc_hz if ns else 1.0
    if found.rows:
        unit = "ns" if ns else f"TSC cycles of {1e9 / found.tsc_hz:.3g} ns"
        put("")
        put(f"Time a fence adds to one execution, in {unit}")
        put("(measured on this host: median, larger side of its 95% interval; ? not tight)", dim=True)
        put("(in flight before it: st stores that hit, stmiss stores and ldmiss a load that", dim=True)
        put("miss, alu a chain of 180 core cycles, fresh and fresh180 chains of 60 and 180", dim=True)
        put("started anew each time)", dim=True)
    standard = [row for row in found.rows if row.place != "site"]
    _print_standard(put, standard, _SHOWN, scale)
    if any(row.context in _APART for row in standard):
        put("")
        put("The same in streams and chains of misses", bold=True)
        put("(4 stmiss stores that miss at once; stream stores that miss one after the other;", dim=True)
        put("nt words stored past the caches; cold loads of which each needs the one before,", dim=True)
        put("of lines that neither caches nor TLB hold)", dim=True)
        _print_standard(put, standard, _APART, scale)
    _print_sites(put, [row for row in found.rows if row.place == "site"], names, scale)
    for note in found.notes if found.timing == "hardware" else ():
        for number, line in enumerate(wrapped(safe(note), width() - 2)):
            put(("! " if not number else "  ") + line)
    if said := sentence(found):
        put("")
        for line in wrapped(said, width()):
            put(line, bold=True)


def _print_standard(put: Put, standard: Sequence[Row], shown: Mapping[str, str], scale: float) -> None:
    """Print a table for each sequence, of the contexts shown."""
    for kind, place in dict.fromkeys((row.kind, row.place) for row in standard):
        mine = [row for row in standard if (row.kind, row.place) == (kind, place) and row.context in shown]
        if mine:
            put("")
            put(f"{kind}{' fenced' if place == 'close' else ''}, {_PLACES[place]}", bold=True)
            _print_table(put, mine, shown, scale)


def sentence(found: Calibration) -> str:
    """Return what the fences take while nothing misses the caches, as one says it; "" without a figure."""
    from xtrace.analysis.calibrate.sentence import hot_sentence

    rows = ((row.fence, row.place, row.context, row.low_cycles, row.high_cycles) for row in found.rows)
    return hot_sentence(rows, found.tsc_hz)


def _print_host(put: Put, found: Calibration) -> None:
    host = found.host
    lines = [
        ("host", host.get("cpu_model", "unknown")),
        (
            "",
            f"microcode {host.get('microcode', 'unknown')}; hypervisor: {host.get('hypervisor', 'unknown')}",
        ),
        ("kernel", host.get("kernel", "unknown")),
        ("TSC", f"{found.tsc_hz / 1e6:.3f} MHz in steps of {found.tsc_quantum_cycles:g}"),
        ("timing", found.timing),
    ]
    if found.core_per_tsc_ratio is not None:
        lines[3] = ("TSC", f"{lines[3][1]}; the core ran at {found.core_per_tsc_ratio:.3f} of it")
    waiting = found.settings.get("waiting_ratio")
    if isinstance(waiting, float):
        lines.append(("waited", f"{waiting:.1%} of the time, because others used the CPU"))
    for label, text in lines:
        for number, line in enumerate(wrapped(safe(text), width() - _LABEL)):
            put(f"{label if not number else '':<{_LABEL}}{line}")


def _print_table(put: Put, rows: Sequence[Row], shown: Mapping[str, str], scale: float) -> None:
    contexts = [name for name in shown if any(row.context == name for row in rows)]
    put(" " * _LABEL + " ".join(f"{_HEADINGS[name]:>{_CELL}}" for name in contexts), dim=True)
    for fence in dict.fromkeys(row.fence for row in rows):
        cells = _cells((row for row in rows if row.fence == fence), scale)
        line = " ".join(f"{cells.get(name, '-'):>{_CELL}}" for name in contexts)
        put(f"{shortened(fence, _LABEL - 1):<{_LABEL}}{line}")


def _print_sites(put: Put, rows: Sequence[Row], names: Mapping[tuple[int, str], str], scale: float) -> None:
    if not rows:
        return
    put("")
    put("sites of the image, as compiled", bold=True)
    put("(call: without the call of the fence; lean: also without what only the call", dim=True)
    put("needs: frame, saved registers, spills; site: after its own preceding code)", dim=True)
    put(" " * _SITE_LABEL + " ".join(f"{_SITE_HEADINGS[name]:>{_CELL}}" for name in _SITE_HEADINGS), dim=True)
    keys = list(dict.fromkeys((row.address or 0, row.fence) for row in rows))
    for address, fence in keys:
        mine = [row for row in rows if (row.address, row.fence) == (address, fence)]
        title = f"{address:x}  {mine[0].kind}  {names.get((address, fence), fence)}"
        put(shortened(safe(title), WIDTH), bold=True)
        _print_site(put, mine, scale)


def _print_site(put: Put, rows: Sequence[Row], scale: float) -> None:
    cells = _cells(rows, scale)
    put(f"{'call':<{_SITE_LABEL}}" + " ".join(f"{cells.get(name, '-'):>{_CELL}}" for name in _SITE_HEADINGS))
    if any(row.lean_median_cycles is not None for row in rows):
        lean = {
            row.context: figure(
                row.lean_median_cycles, row.lean_low_cycles, row.lean_high_cycles, scale, tight=True
            )
            for row in rows
        }
        put(
            f"{'lean':<{_SITE_LABEL}}"
            + " ".join(f"{lean.get(name, '-'):>{_CELL}}" for name in _SITE_HEADINGS)
        )
    reasons = dict.fromkeys(row.note for row in rows if row.note.startswith("not replayed"))
    for reason in reasons:
        for number, line in enumerate(wrapped(safe(reason), width() - 4)):
            put(("  ! " if not number else "    ") + line)


def _cells(rows: Iterable[Row], scale: float) -> dict[str, str]:
    return {
        row.context: figure(row.median_cycles, row.low_cycles, row.high_cycles, scale, tight=row.tight)
        for row in rows
    }


def figure(median: float | None, low: float | None, high: float | None, scale: float, *, tight: bool) -> str:
    """Return a median with the larger side of its interval, in 8 characters if it fits."""
    if median is None or low is None or high is None:
        return "-"
    side = max(high - median, median - low) * scale
    value = median * scale
    text = f"{value:.1f}" if abs(value) < 99.95 else f"{value:.0f}"
    text = "0.0" if text == "-0.0" else text
    mark = "" if tight else "?"
    fine = f"{text}\N{PLUS-MINUS SIGN}{side:.1f}{mark}"
    if side < 9.95 and abs(value) < 99.95 and len(fine) <= _CELL:
        return fine
    size = f"{side:.0f}" if side < 999.5 else f"{side / 1e3:.0f}k" if side < 999.5e3 else f"{side / 1e6:.0f}M"
    coarse = f"{text}\N{PLUS-MINUS SIGN}{size}{mark}"
    return coarse if len(coarse) <= _CELL else f"{value:.0f}\N{PLUS-MINUS SIGN}{size}{mark}"
