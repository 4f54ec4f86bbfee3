"""Samples of guests' instruction pointers as folded stacks, and as a profile for speedscope.

A sample is an address in a record.  Its stack is the domain, what recorded it, and the function.  What is
sampled is biased to what makes the guest enter Xen.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, BinaryIO

import numpy as np

from xtrace.analysis.columns import Columns
from xtrace.analysis.export.source import Exported
from xtrace.analysis.measures.kernel_samples import Kernel, resolve
from xtrace.analysis.state_machine.keys import domain_of, high_of, low_of
from xtrace.analysis.state_machine.metrics import Metric, RipSource
from xtrace.probes.errors import TraceError
from xtrace.probes.words import printable

_NAME_MOST = 300
_SCHEMA = "https://www.speedscope.app/file-format-schema.json"


@dataclass(frozen=True, slots=True)
class Stack:
    """A stack, the outermost frame first, and how often it was sampled."""

    frames: tuple[str, ...]
    count: int


def write(exported: Exported, file: BinaryIO, format_: str, kernels: Sequence[Kernel] = ()) -> int:
    """Write the samples of the wanted domains and return their number.

    Args:
        kernels: images that domains run, for the functions.

    Raises:
        TraceError: the trace has no such sample.
        OSError: the file cannot be written.
    """
    found = stacks(exported, kernels)
    if not found:
        raise TraceError(
            f"{exported.request.path}: has no sample of an instruction pointer; record pv or hvm"
        )
    if format_ == "folded":
        lines = (f"{';'.join(stack.frames)} {stack.count}\n" for stack in found)
        file.write("".join(lines).encode("utf-8", "backslashreplace"))
    else:
        file.write(json.dumps(_speedscope(exported, found)).encode())
    return sum(stack.count for stack in found)


def stacks(exported: Exported, kernels: Sequence[Kernel]) -> list[Stack]:
    """Return the stacks, the most sampled first."""
    tallies = exported.partial.tallies
    rows = tallies.where(tallies["metric"] == Metric.RIP)
    rows = rows.where(exported.is_wanted(low_of(rows["a"])))
    known = _functions(exported, kernels) if kernels else {}
    counts: dict[tuple[str, ...], int] = {}
    domains, sources = domain_of(rows["a"]).tolist(), high_of(rows["a"]).tolist()
    addresses, numbers = rows["b"].view(np.uint64).tolist(), rows["count"].tolist()
    for domain, source, address, number in zip(domains, sources, addresses, numbers, strict=True):
        function = known.get((domain, address)) or f"{address:#x}"
        frames = (_domain(exported, domain), RipSource(source).name.lower(), function)
        counts[frames] = counts.get(frames, 0) + number
    found = [Stack(frames, count) for frames, count in counts.items()]
    return sorted(found, key=lambda stack: (-stack.count, stack.frames))


def _functions(exported: Exported, kernels: Sequence[Kernel]) -> dict[tuple[int, int], str]:
    """Return the function of each address of a domain that is in its image."""
    addresses: Columns = resolve(exported.partial, kernels).addresses
    columns = (addresses[name].tolist() for name in ("domain", "rip", "function", "inside"))
    return {
        (domain, rip): _frame(function)
        for domain, rip, function, inside in zip(*columns, strict=True)
        if inside and function
    }


def _domain(exported: Exported, domain: int) -> str:
    name = exported.names.get(domain, "")
    return _frame(f"d{domain} {name}" if name else f"d{domain}")


def _frame(text: str) -> str:
    """Return a name that is one frame: a semicolon would separate two, a line end two stacks."""
    return printable(text)[:_NAME_MOST].replace(";", ":")


def _speedscope(exported: Exported, found: Sequence[Stack]) -> dict[str, Any]:
    frames: dict[str, int] = {}
    profiles = []
    for domain in dict.fromkeys(stack.frames[0] for stack in found):
        own = [stack for stack in found if stack.frames[0] == domain]
        total = sum(stack.count for stack in own)
        profiles.append(
            {
                "type": "sampled",
                "name": domain,
                "unit": "none",
                "startValue": 0,
                "endValue": total,
                "samples": [[frames.setdefault(frame, len(frames)) for frame in each.frames] for each in own],
                "weights": [each.count for each in own],
            }
        )
    return {
        "$schema": _SCHEMA,
        "name": str(exported.request.path),
        "shared": {"frames": [{"name": frame} for frame in frames]},
        "profiles": profiles,
    }
