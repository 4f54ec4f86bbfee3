"""What a capture's bpf tables and samples come down to, as frames that merge.

An irq or a port has another meaning in another boot, so its name is a part of the key.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from xtrace.probes.bpf.abi import ID_OF, Kind, name_of_id
from xtrace.probes.bpf.symbols import KERNEL_FIRST, is_hypervisor
from xtrace.probes.capture import BPF_TABLES, Capture
from xtrace.probes.errors import TraceError

SYMBOLS = "perf/symbols.jsonl"
SAMPLES = "samples"

#: min_ns of rows that have none, so that the least of several is right.
NO_MINIMUM = 1 << 62
_MOST_NAME = 60
_IF = 0x200
_LIMIT = 1 << 62
_TALLY = ("kind", "id", "vcpu", "name")
FACTS = (
    "captures", "span_ns", "dropped", "no_tally", "no_bucket", "unpaired", "interrupt_count",
    "sample_count", "sample_dropped", "sample_hz",
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Dom0Frames:
    """Frames of dom0's own side; see Partial for their columns."""

    tallies: pd.DataFrame
    buckets: pd.DataFrame
    samples: pd.DataFrame
    facts: pd.DataFrame


def nothing() -> Dom0Frames:
    """Return the frames of a capture without bpf tables and samples."""
    return _frames({}, {}, Counter(), dict.fromkeys(FACTS, 0))


def read(capture: Capture) -> Dom0Frames:
    """Return the frames of a capture; empty ones where its backends were not used.

    Raises:
        TraceError: a file is damaged, other than cut short.
        OSError: one cannot be read.
    """
    facts = dict.fromkeys(FACTS, 0)
    try:
        tallies, buckets = _tables(capture, facts)
        samples = _samples(capture, facts)
    except (KeyError, TypeError, ValueError, IndexError, OverflowError, AttributeError) as error:
        if isinstance(error, TraceError):
            raise
        raise TraceError(f"{capture.path}: damaged bpf tables or samples: {error!s:.100}") from None
    return _frames(tallies, buckets, samples, facts)


_TallyKey = tuple[int, int, int]


def _tables(
    capture: Capture, facts: dict[str, int]
) -> tuple[dict[tuple[int, int, int, str], list[int]], dict[tuple[int, int, int, str, int], int]]:
    """Add up the lines of the tables; names are those that were told last."""
    sums: dict[_TallyKey, list[int]] = {}
    buckets: Counter[tuple[int, int, int, int]] = Counter()
    irqs: dict[int, str] = {}
    ports: dict[int, int] = {}
    begin = end = None
    counters: Mapping[str, Any] = {}
    before: Mapping[str, Any] | None = None
    for line in capture.lines(BPF_TABLES):
        if "t_ns" in line:
            end = int(line["t_ns"])
            begin = end if begin is None else begin
        for row in line.get("rows", ()) if "t_ns" in line else ():
            _add(sums, [_sound(value) for value in row])
        for row in line.get("buckets", ()) if "t_ns" in line else ():
            kind, ident, vcpu, bucket, count = map(_sound, row)
            buckets[kind, ident, vcpu, bucket] += count
        irqs |= {int(irq): str(found[1])[:_MOST_NAME] for irq, found in line.get("irqs", {}).items()}
        ports |= {int(port): int(irq) for port, irq in line.get("ports", {}).items()}
        counters = line.get("counters", counters) if "t_ns" in line else counters
        before = line.get("interrupts_begin", before)
        if before is not None and "interrupts_end" in line:
            facts["interrupt_count"] = _added(before, line["interrupts_end"])
    if begin is None or end is None:
        return {}, {}
    facts |= {"captures": 1, "span_ns": end - begin}
    for name in ("dropped", "no_tally", "no_bucket", "unpaired"):
        facts[name] = _sound(counters.get(name, 0))

    names = {(kind, ident): _name(kind, ident, irqs, ports) for kind, ident, _ in sums}
    return (
        {(kind, ident, vcpu, names[kind, ident]): row for (kind, ident, vcpu), row in sums.items()},
        {
            (kind, ident, vcpu, names[kind, ident], bucket): count
            for (kind, ident, vcpu, bucket), count in buckets.items()
        },
    )


def _add(sums: dict[_TallyKey, list[int]], row: list[int]) -> None:
    kind, ident, vcpu, count, total, least, most, zeros = row
    known = sums.setdefault((kind, ident, vcpu), [0, 0, NO_MINIMUM, 0, 0])
    known[0] += count
    known[1] += total
    known[2] = least or known[2]
    known[3] = most or known[3]
    known[4] += zeros


def _sound(value: Any) -> int:
    number = int(value)
    if not 0 <= number < _LIMIT:
        raise ValueError(f"{number} is no count")
    return number


def _added(before: Mapping[str, Any], after: Mapping[str, Any]) -> int:
    """Return how many interrupts came in between; those that are new began at 0."""
    return sum(map(int, _flat(after.values()))) - sum(
        map(int, _flat(counts for irq, counts in before.items() if irq in after))
    )


def _flat(rows: Iterable[Any]) -> Iterable[Any]:
    return (value for row in rows for value in row)


def _name(kind: int, ident: int, irqs: Mapping[int, str], ports: Mapping[int, int]) -> str:
    """Return what the host called an id."""
    try:
        known = Kind(kind)
    except ValueError:
        return ""
    if ID_OF.get(known) == "port":
        return irqs.get(ports.get(ident, -1), "")
    if ID_OF.get(known) == "irq":
        return irqs.get(ident, "")
    return name_of_id(known, ident)


def _samples(capture: Capture, facts: dict[str, int]) -> Counter[tuple[str, str, int]]:
    """Count the samples by where they lie, what runs there and whether events were masked."""
    found: Counter[tuple[str, str, int]] = Counter()
    folder = capture.path / SAMPLES
    if not (folder / "metadata").is_file():
        return found
    from xtrace.probes.events import read_samples

    names: dict[int, str] = {}
    for line in capture.lines(SYMBOLS):
        names |= {int(row[0], 16): str(row[1])[:_MOST_NAME] for row in line.get("symbols", ())}
        facts["sample_hz"] = _sound(line.get("sample_hz", facts["sample_hz"]))
    read_ = read_samples(folder)
    facts |= {"sample_count": len(read_.records), "sample_dropped": read_.discarded}
    records = read_.records
    for ip, comm, flags in zip(
        records["ip"].tolist(), records["comm"].tolist(), records["flags"].tolist(), strict=True
    ):
        place = "xen" if is_hypervisor(ip) else "kernel" if ip >= KERNEL_FIRST else "user"
        name = comm.decode("utf-8", "backslashreplace") if place == "user" else names.get(ip, "")
        found[place, name, int(place == "kernel" and not flags & _IF)] += 1
    return found


def _frames(
    tallies: Mapping[tuple[int, int, int, str], list[int]],
    buckets: Mapping[tuple[int, int, int, str, int], int],
    samples: Mapping[tuple[str, str, int], int],
    facts: Mapping[str, int],
) -> Dom0Frames:
    columns: dict[str, list[Any]] = defaultdict(list)
    for key, row in tallies.items():
        for name, value in zip(
            (*_TALLY, "count", "sum_ns", "min_ns", "max_ns", "zero_count"), (*key, *row), strict=True
        ):
            columns[name].append(value)
    return Dom0Frames(
        _frame(columns, (*_TALLY, "count", "sum_ns", "min_ns", "max_ns", "zero_count"), ("name",)),
        _frame(_columns(buckets, (*_TALLY, "bucket")), (*_TALLY, "bucket", "count"), ("name",)),
        _frame(
            _columns(samples, ("space", "name", "masked")),
            ("space", "name", "masked", "count"),
            ("space", "name"),
        ),
        pd.DataFrame([[facts[name] for name in FACTS]], columns=list(FACTS), dtype=np.int64),
    )


def _columns(counts: Mapping[Any, int], keys: tuple[str, ...]) -> dict[str, list[Any]]:
    columns: dict[str, list[Any]] = {name: [key[at] for key in counts] for at, name in enumerate(keys)}
    return {**columns, "count": list(counts.values())}


def _frame(columns: Mapping[str, list[Any]], names: tuple[str, ...], text: tuple[str, ...]) -> pd.DataFrame:
    return pd.DataFrame(
        {name: pd.Series(columns.get(name, []), dtype=object if name in text else np.int64) for name in names}
    )
