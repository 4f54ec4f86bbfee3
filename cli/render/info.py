"""Lines of `xtrace info`; those of a capture without Xen's trace, and its JSON."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from textwrap import wrap
from typing import TYPE_CHECKING, Any

from xtrace.cli.render.report.head import resolution_text
from xtrace.cli.terminal.drawn import bar, is_drawn
from xtrace.cli.terminal.style import width
from xtrace.cli.terminal.text import safe
from xtrace.probes.words import count_of

if TYPE_CHECKING:
    from xtrace.probes.bpf.dom0_survey import Dom0Survey, Recorder

_LABEL, _VALUE = 11, 35
#: Columns of a bar that stands for all records.
_BAR = 40
_DOMAINS_SHOWN = 12


def row(name: str, value: str, how: str) -> str:
    """Return a line: a fact, and how it is known."""
    return f"  {name:<{_LABEL}}{value:<{_VALUE}} {how}".rstrip()


def share_lines(counts: Sequence[tuple[str, int]], total: int) -> Iterator[str]:
    """Yield a line per name: its share of ``total``, and that as a bar; the greatest first."""
    longest = max((len(name) for name, _ in counts), default=0)
    for name, count in counts:
        drawn = f"  {bar(count / total, _BAR)}" if is_drawn() else ""
        yield f"  {count / total:6.1%}  {name:<{longest}}{drawn}".rstrip()


def rate_text(tsc_hz: float) -> str:
    """Return the rate of a TSC and, where it is slow, how long a cycle is."""
    return f"{tsc_hz / 1e6:.3f} MHz{resolution_text(tsc_hz)}"


def dom0_text(found: Dom0Survey) -> Iterator[str]:
    """Yield the lines about a capture without Xen's trace."""
    yield safe(found.name)
    yield row("size", f"{found.size_bytes:,} bytes in {count_of(found.file_count, 'file')}", "exact")
    used = [each.name for each in found.recorders if each.used and each.name != "xentrace"]
    yield row("Xen trace", f"none: recorded by {', '.join(used) or 'bpf, perf or xenctx'}", "")
    ended = found.end_reason or "ended"
    yield row("end", ended if found.has_ended else "none: killed, or still recording", "from meta.json")
    noted = "from meta.json" if found.has_ended else "the last that was noted"
    if found.length_s is not None:
        yield row("length", f"{found.length_s:.3f} s", noted)
    for each in found.recorders:
        yield from _labelled(each.name, _recorder(each), noted if each.used else "")
    if found.kernel:
        cpus = f", {count_of(found.cpus, 'CPU')}" if found.cpus else ""
        yield from _labelled("kernel", f"{found.kernel}{cpus}", "")
    if found.xen_version is None:
        yield row("Xen", "none: the host is not a dom0", "from meta.json")
    else:
        yield row("Xen", safe(found.xen_version) or "not known: xl info failed", "from xl info")
    if found.tsc_hz:
        yield row("TSC", rate_text(found.tsc_hz), safe(found.tsc_hz_source))
    if found.emulated:
        yield row("timing", "emulated, not hardware durations", "from meta.json")
    names = [f"d{domain} {name}" for domain, name in sorted(found.domains.items())]
    if names:
        more = f" and {len(names) - _DOMAINS_SHOWN} more" if len(names) > _DOMAINS_SHOWN else ""
        yield from _labelled("domains", ", ".join(names[:_DOMAINS_SHOWN]) + more, "")
    yield ""
    yield from _events(found)


def _events(found: Dom0Survey) -> Iterator[str]:
    total = sum(found.counts.values())
    if total:
        yield f"Of {count_of(total, 'event')} that bpf counted:"
    for name, count in found.counts.items():
        yield f"  {count / total:6.1%}  {count:9,}  {name}"
    reads = "xtrace report shows them" if total else "xtrace report shows what was recorded"
    yield reads + ("; xtrace dump --bpf prints each event" if found.streams_events else "")


def _recorder(found: Recorder) -> str:
    if not found.used:
        return f"not used: {found.reason or 'not asked for'}"
    if found.name == "xentrace":
        return "used, but its xentrace.bin is not in the folder"
    if found.records is None or found.lost is None:
        return "used"
    least = "at least " if found.is_least else ""
    return f"{count_of(found.records, 'record')}, {least}{found.lost:,} lost"


def _labelled(label: str, text: str, how: str) -> Iterator[str]:
    """Yield a row, over several lines if the text is longer than a line."""
    text = safe(text)
    if len(text) <= _VALUE:
        yield row(label, text, how)
        return
    for line in wrap(text, width() - _LABEL - 2):
        yield f"  {label:<{_LABEL}}{line}"
        label = ""


def dom0_json(found: Dom0Survey) -> dict[str, Any]:
    """Return the JSON of a capture without Xen's trace: null for what only a trace has."""
    return {
        "file": found.name,
        "size_bytes": found.size_bytes,
        "compression": None,
        "headers": None,
        "damage_count": None,
        "skipped_bytes": None,
        "damages": None,
        "first_tsc": None,
        "last_tsc": None,
        "last_tsc_exact": False,
        "tsc_restarts": None,
        "emulated": found.emulated,
        "records": None,
        "records_exact": False,
        "sample": None,
        "xen": None,
        "capture": {
            "files": found.file_count,
            "ended": found.has_ended,
            "end_reason": found.end_reason or None,
            "length_s": found.length_s,
            "backends": [
                {
                    "name": each.name,
                    "used": each.used,
                    "reason": each.reason,
                    "records": each.records,
                    "lost": each.lost,
                    "lost_exact": not each.is_least,
                }
                for each in found.recorders
            ],
            "kernel": found.kernel or None,
            "cpus": found.cpus,
            "xen_version": found.xen_version or None,
            "tsc_hz": found.tsc_hz,
            "tsc_hz_source": found.tsc_hz_source or None,
            "domains": {str(domain): name for domain, name in sorted(found.domains.items())},
            "events": [{"name": name, "count": count} for name, count in found.counts.items()],
            "streams_events": found.streams_events,
        },
    }
