"""The page of a calibration, from its JSON."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from xtrace.cli.page.figure import Fact, Page, Said
from xtrace.cli.page.figures import calibration
from xtrace.cli.page.words import name_text


def calibration_page(found: Mapping[str, Any]) -> Page:
    """Return the page."""
    host = found["host"]
    ratio = found["core_per_tsc_ratio"]
    facts = [
        Fact("timing", name_text(found["timing"])),
        Fact(
            "TSC",
            f"{found['tsc_hz'] / 1e6:,.3f} MHz",
            "tsc_hz",
            f"in steps of {found['tsc_quantum_cycles']:g}",
        ),
        Fact("rows", f"{len(found['rows']):,}"),
        Fact("date", name_text(found["date"])),
    ]
    if ratio is not None:
        facts.insert(2, Fact("core clock", f"{ratio:.3f}", "core_per_tsc_ratio", "of the TSC's rate"))
    facts += [
        Fact(label, name_text(host[key]))
        for key, label in (("hypervisor", "hypervisor"), ("microcode", "microcode"))
        if host.get(key)
    ]
    return Page(
        "xtrace calibrate",
        name_text(host.get("cpu_model", "unknown processor"), 120),
        facts,
        [Said("missing", name_text(note, 400)) for note in found["notes"]],
        calibration.calibration(found, ""),
        calibration.sentence(found),
        said_title="What could not be measured",
    )
