"""The content of meta.json: the host, its domains, the clocks, each backend, the overhead.

The whole file is written when the recording has started and again when it has ended.  It is
JSON in ASCII; text that guests chose is bounded in length and must be escaped when printed.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

from xtrace import __version__
from xtrace.probes.host import dom0, xen_tools
from xtrace.probes.recording.backends.base import Availability, Counts, Options, Overhead
from xtrace.probes.recording.clocks import Clocks

SCHEMA_VERSION = 1
#: Over a shorter span the clock pairs give the TSC's rate no better than Xen does.
_FIT_LEAST_S = 1.0


def beginning(
    options: Options,
    command: Sequence[str],
    *,
    timing: str | None,
    with_xen: bool,
) -> dict[str, Any]:
    """Return what is known before the backends start."""
    content: dict[str, Any] = {
        "schema_version": SCHEMA_VERSION,
        "kind": "xtrace capture",
        "xtrace_version": __version__,
        "state": "recording",
        "tsc_hz": None,
        "tsc_hz_source": None,
        "xen_version": None,
        "timing": timing,
        "started": now(),
        "command": list(command),
        "options": asdict(options),
        "kernel": dom0.kernel_facts(),
        "xen": xen_tools.xen_facts() if with_xen else None,
    }
    info = (content["xen"] or {}).get("info", {})
    content["xen_version"] = ".".join(info["xen_version"].split(".")[:2]) if "xen_version" in info else None
    content["scheduler"] = info.get("xen_scheduler")
    with contextlib.suppress(KeyError, ValueError):
        content["tsc_hz"] = round(float(info["cpu_mhz"]) * 1e6)
        content["tsc_hz_source"] = "xl info: cpu_mhz"
    return content


def with_clocks(content: dict[str, Any], clocks: Clocks) -> None:
    """Add the clock facts; over a long enough span their rate replaces Xen's."""
    facts = clocks.facts()
    content["clocks"] = facts
    fitted = facts["fit"]
    if fitted is not None and fitted["span_s"] >= _FIT_LEAST_S:
        content["tsc_hz"] = fitted["hz"]
        content["tsc_hz_source"] = f"a line through {fitted['pairs']} clock pairs"


def backend_rows(
    found: Mapping[str, Availability],
    facts: Mapping[str, Mapping[str, Any]],
    counts: Mapping[str, Counts],
    failures: Mapping[str, str],
) -> dict[str, Any]:
    """Return a row for each backend: whether it was used, why not, what it recorded and lost."""
    return {
        name: {
            "used": name in facts,
            "reason": failures.get(name) or availability.reason,
            "missing": list(availability.missing),
            "counts": asdict(counts[name]) if name in counts else None,
            "facts": dict(facts.get(name, {})),
        }
        for name, availability in found.items()
    }


def overhead_row(overhead: Overhead) -> dict[str, Any]:
    """Return what recording cost."""
    return asdict(overhead)


def now() -> dict[str, int]:
    """Return CLOCK_REALTIME and CLOCK_MONOTONIC, in ns."""
    return {"realtime_ns": time.time_ns(), "monotonic_ns": time.monotonic_ns()}
