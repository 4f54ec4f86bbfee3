"""The pages of a trial, and of two trials that are compared, from their JSON."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from xtrace.cli.page.figure import Fact, Page, Said
from xtrace.cli.page.figures import trial
from xtrace.cli.page.words import name_text


def trial_page(found: Mapping[str, Any], sentence: str, warned: Sequence[str]) -> Page:
    """Return the page; ``sentence``: the answer; ``warned``: what speaks against it."""
    unit, length = found["unit_ns"]["value"], found["slice_s"] * 1e6
    facts = [
        Fact("target", name_text(found["target"], 60)),
        Fact("load", f"{100 * found['running_ratio']:.0f}%", "running_ratio", "of a CPU"),
        Fact("unit", f"{unit:,.2f} ns", "unit_ns.value", name_text(found["counter"], 40)),
        Fact("units", f"{found['unit_count']:,}", "unit_count"),
        Fact(
            "blocks",
            f"{found['block_count']:,}",
            "block_count",
            f"slices of {length:,.0f} us",
        ),
        Fact("build-id", name_text(found["build_id"] or "none", 40)),
        Fact("timing", name_text(found["timing"])),
        Fact("date", name_text(found["date"])),
    ]
    refused = [
        Said(
            "missing",
            f"{item['address']:#x} {name_text(item['place'], 80)}: {name_text(item['reason'], 300)}",
        )
        for item in found["refused"]
    ]
    return Page(
        "xtrace trial",
        name_text(found["host"].get("cpu_model", "unknown processor"), 120),
        facts,
        [
            *(Said("problem", text) for text in warned),
            *refused,
            *(Said("remark", name_text(note, 400)) for note in found["notes"]),
        ],
        [trial.forest(found, "")],
        f"{name_text(sentence, 400)} (measured in place)",
        said_title="What was not tried",
    )


def trial_diff_page(found: Mapping[str, Any]) -> Page:
    """Return the page of two trials; ``found``: the JSON of what changed."""
    rows = found["changes"]
    changed = [row for row in rows if not row["may_be_chance"]]
    old, new = found["old"], found["new"]
    if changed:
        said = f"{len(changed)} of {len(rows)} groups changed by more than chance explains"
    else:
        said = f"None of {len(rows)} groups is shown to have changed"
    return Page(
        "xtrace diff of two trials",
        f"{name_text(old['image'], 60)} against {name_text(new['image'], 60)}",
        [
            Fact(f"{which} {label}", name_text(one[key] or "none", 40))
            for which, one in (("old", old), ("new", new))
            for key, label in (("build_id", "build-id"), ("date", "date"))
        ],
        [],
        [trial.changes(found)],
        f"{said} (measured in place)",
    )
