"""Read a capture's bpf tables and samples into columns that can be merged.

The number of an irq or a port means something else after a reboot, so its name is part of the key.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sized
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from xtrace.analysis.columns import Columns, of_rows
from xtrace.analysis.state_machine.keys import paired, vcpu_key
from xtrace.analysis.state_machine.metrics import Metric, RipSource
from xtrace.analysis.summary.dom0_calls import Calls, calls_of
from xtrace.probes.bpf.event_names import without_lines
from xtrace.probes.bpf.symbols import KERNEL_FIRST, is_hypervisor
from xtrace.probes.capture.layout import BPF_TABLES, SAMPLES, SYMBOLS, XENCTX_SAMPLES, Capture
from xtrace.probes.errors import TraceError
from xtrace.probes.xen_abi import DOM0, IDLE_DOMAIN

#: The event whose samples are of dom0 only, as perf/symbols.jsonl names it.
SOFTWARE_CLOCK = "software clock"

#: min_ns of rows without durations, so that the minimum of merged rows is right.
NO_MINIMUM = 1 << 62
_MOST_NAME = 60
_IF = 0x200
_LIMIT = 1 << 62
#: Of each table: more than any of the recorders' own tables has.
_MOST_ROWS = 1 << 18
_INT, _TEXT = np.int64, object
_KEY = {"kind": _INT, "id": _INT, "vcpu": _INT, "name": _TEXT}
_TALLIES = {**_KEY, "count": _INT, "sum_ns": _INT, "min_ns": _INT, "max_ns": _INT, "zero_count": _INT}
_BUCKETS = {**_KEY, "bucket": _INT, "count": _INT}
_SAMPLES = {"space": _TEXT, "name": _TEXT, "masked": _INT, "count": _INT}
FACTS = (
    "captures", "span_ns", "dropped", "no_tally", "no_bucket", "unpaired", "interrupt_count",
    "sample_count", "sample_dropped", "sample_hz", "sample_mixed", "dom0_only", "length_ns",
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Dom0Columns:
    """What was recorded inside dom0; see Partial for the columns of each.

    Attributes:
        guest_rips: rows of Partial.tallies: instruction pointers of guests by xenctx, and of dom0 by perf.
        calls: of dom0's functions; None where bpf did not count them.
    """

    tallies: Columns
    buckets: Columns
    samples: Columns
    facts: Columns
    guest_rips: Columns
    calls: Calls | None = None


def nothing() -> Dom0Columns:
    """Return the columns for a capture without bpf tables and samples."""
    return _columns({}, {}, Counter(), dict.fromkeys(FACTS, 0), Counter())


def read(capture: Capture) -> Dom0Columns:
    """Return the columns of a capture; they are empty for backends that were not used.

    Raises:
        TraceError: a file is damaged in another way than being truncated.
        OSError: a file cannot be read.
    """
    facts = dict.fromkeys(FACTS, 0)
    try:
        tallies, buckets, calls = _tables(capture, facts)
        samples, rips = _samples(capture, facts)
        rips += _guest_rips(capture)
        if not capture.has_trace:
            facts["dom0_only"] = 1
            # As bpf's tables have it, or else meta.json.
            facts["length_ns"] = facts["span_ns"] or round((capture.length_s or 0) * 1e9)
        else:
            facts["length_ns"] = facts["span_ns"]
        return replace(_columns(tallies, buckets, samples, facts, rips), calls=calls)
    except (KeyError, TypeError, ValueError, IndexError, OverflowError, AttributeError) as error:
        if isinstance(error, TraceError):
            raise
        raise TraceError(f"{capture.path}: damaged bpf tables or samples: {error!s:.100}") from None


_TallyKey = tuple[int, int, int]
#: domain << 16 | vcpu, source, address.
_Rips = Counter[tuple[int, RipSource, int]]


def _tables(
    capture: Capture, facts: dict[str, int]
) -> tuple[
    dict[tuple[int, int, int, str], list[int]], dict[tuple[int, int, int, str, int], int], Calls | None
]:
    """Sum the lines of the tables; for names, the last line that has one counts."""
    sums: dict[_TallyKey, list[int]] = {}
    by_time: Counter[tuple[int, int]] = Counter()
    buckets: Counter[tuple[int, int, int, int]] = Counter()
    names = without_lines(capture)
    begin = end = None
    counters: Mapping[str, Any] = {}
    before: Mapping[str, Any] | None = None
    for line in capture.lines(BPF_TABLES):
        if "t_ns" in line:
            end = int(line["t_ns"])
            begin = end if begin is None else begin
            by_time[end, 0] += 0
        for row in line.get("rows", ()) if "t_ns" in line else ():
            kind, *rest = map(_sound, row)
            _add(sums, [kind, *rest])
            by_time[end or 0, kind] += rest[2] + rest[6]
        for row in line.get("buckets", ()) if "t_ns" in line else ():
            kind, ident, vcpu, bucket, count = map(_sound, row)
            buckets[kind, ident, vcpu, bucket] += count
            _few(buckets)
        names.take(line)
        counters = line.get("counters", counters) if "t_ns" in line else counters
        before = line.get("interrupts_begin", before)
        if before is not None and "interrupts_end" in line:
            facts["interrupt_count"] = _added(before, line["interrupts_end"])
    if begin is None or end is None:
        return {}, {}, None
    facts |= {"captures": 1, "span_ns": end - begin}
    for name in ("dropped", "no_tally", "no_bucket", "unpaired"):
        facts[name] = _sound(counters.get(name, 0))

    named = {(kind, ident): names.of(kind, ident) for kind, ident, _ in sums}
    return (
        {(kind, ident, vcpu, named[kind, ident]): row for (kind, ident, vcpu), row in sums.items()},
        {
            (kind, ident, vcpu, named[kind, ident], bucket): count
            for (kind, ident, vcpu, bucket), count in buckets.items()
            # A line's rows are read before its buckets: if it is the last one, an event may be only in these.
            if sums.get((kind, ident, vcpu), (0,))[0]
        },
        calls_of(capture, by_time, counters),
    )


def _add(sums: dict[_TallyKey, list[int]], row: list[int]) -> None:
    kind, ident, vcpu, count, total, least, most, zeros = row
    known = sums.setdefault((kind, ident, vcpu), [0, 0, NO_MINIMUM, 0, 0])
    _few(sums)
    known[0] += count
    known[1] += total
    known[2] = least or known[2]
    known[3] = most or known[3]
    known[4] += zeros


def _few(table: Sized) -> None:
    """Raise ValueError where a table has more rows than any recorder can have counted."""
    if len(table) > _MOST_ROWS:
        raise ValueError(f"more than {_MOST_ROWS} rows of one table")


def _sound(value: Any) -> int:
    number = int(value)
    if not 0 <= number < _LIMIT:
        raise ValueError(f"{number} is not a possible count")
    return number


def _added(before: Mapping[str, Any], after: Mapping[str, Any]) -> int:
    """Return how many interrupts came in between; an irq that is new started at 0."""
    return sum(map(int, _flat(after.values()))) - sum(
        map(int, _flat(counts for irq, counts in before.items() if irq in after))
    )


def _flat(rows: Iterable[Any]) -> Iterable[Any]:
    return (value for row in rows for value in row)


def _samples(capture: Capture, facts: dict[str, int]) -> tuple[Counter[tuple[str, str, int]], _Rips]:
    """Count perf's samples by space, name and whether interrupts were off, and those that are RIPs of dom0.

    All samples of the software clock are dom0's, each of the vCPU whose stream it is in.  Hardware cycles
    are sampled in all domains, and a sample does not say in which.
    """
    found: Counter[tuple[str, str, int]] = Counter()
    rips: _Rips = Counter()
    folder = capture.path / SAMPLES
    if not (folder / "metadata").is_file():
        return found, rips
    from xtrace.probes.bpf.ctf_reader import read_samples

    names: dict[int, str] = {}
    event = ""
    for line in capture.lines(SYMBOLS):
        names |= {int(row[0], 16): str(row[1])[:_MOST_NAME] for row in line.get("symbols", ())}
        _few(names)
        facts["sample_hz"] = _sound(line.get("sample_hz", facts["sample_hz"]))
        event = line.get("event", event)
    read_ = read_samples(folder)
    facts |= {"sample_count": len(read_.records), "sample_dropped": read_.discarded}
    records = read_.records
    is_own = event == SOFTWARE_CLOCK
    facts["sample_mixed"] = 0 if is_own else len(records)
    columns = (records[name].tolist() for name in ("ip", "comm", "flags", "cpu"))
    for ip, comm, flags, cpu in zip(*columns, strict=True):
        place = "xen" if is_hypervisor(ip) else "kernel" if ip >= KERNEL_FIRST else "user"
        name = comm.decode("utf-8", "backslashreplace") if place == "user" else names.get(ip, "")
        found[place, name, int(place == "kernel" and not flags & _IF)] += 1
        _few(found)
        if is_own and place != "xen":
            if cpu >= 1 << 16:
                raise ValueError("a sample of an impossible vCPU")
            rips[vcpu_key(DOM0, cpu), RipSource.PERF_CLOCK, ip] += 1
            _few(rips)
    return found, rips


def _guest_rips(capture: Capture) -> _Rips:
    """Count the samples taken with xenctx."""
    found: _Rips = Counter()
    for line in capture.lines(XENCTX_SAMPLES):
        if "rip" in line:
            domain, vcpu, rip = int(line["domain"]), int(line["vcpu"]), int(line["rip"], 16)
            if not 0 <= domain < IDLE_DOMAIN or not 0 <= vcpu < 1 << 16 or not 0 <= rip < 1 << 64:
                raise ValueError("a sample of an impossible vCPU")
            found[vcpu_key(domain, vcpu), RipSource.XENCTX, rip] += 1
            _few(found)
    return found


def _columns(
    tallies: Mapping[tuple[int, int, int, str], list[int]],
    buckets: Mapping[tuple[int, int, int, str, int], int],
    samples: Mapping[tuple[str, str, int], int],
    facts: Mapping[str, int],
    rips: Mapping[tuple[int, RipSource, int], int],
) -> Dom0Columns:
    zeros = np.zeros(len(rips), np.int64)
    return Dom0Columns(
        of_rows([(*key, *row) for key, row in tallies.items()], _TALLIES),
        of_rows([(*key, count) for key, count in buckets.items()], _BUCKETS),
        of_rows([(*key, count) for key, count in samples.items()], _SAMPLES),
        of_rows([[facts[name] for name in FACTS]], dict.fromkeys(FACTS, np.int64)),
        Columns(
            {
                "metric": np.full(len(rips), int(Metric.RIP), np.int64),
                "a": np.array([paired(source, vcpu) for vcpu, source, _ in rips], np.int64),
                "b": np.array([rip for _, _, rip in rips], np.uint64).view(np.int64),
                "count": np.array(list(rips.values()), np.int64),
                "sum_cycles": zeros,
                "min_cycles": zeros,
                "max_cycles": zeros,
            }
        ),
    )
