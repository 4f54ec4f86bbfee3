"""The page of a campaign: how often trial and truth agree, how wide they are, and what failed."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from scipy import stats

from xtrace.analysis.trial.result import Interval
from xtrace.probes.timing.calibration import read as read_calibration

LEAST_ROUNDS = 4
#: From this size on, the work misses the second cache.
MISSES_KILOBYTES = 8192
MOST_MISSES, MOST_ALARMS = (12, 120), (17, 200)
_LEVEL = 0.95
_MOST_SHARE_OF_MODEL = 0.1


def read_rows(path: Path) -> list[dict[str, Any]]:
    """Return the results in a file, without a last line that was cut off."""
    rows = []
    if path.exists():
        for line in path.read_text().splitlines():
            try:
                rows.append(json.loads(line))
            except ValueError:
                break
    return rows


def saved_by(rounds: Sequence[dict[str, float]], name: str) -> Interval:
    """Return the share of the running time per unit that a program saves against the one as built."""
    saved = np.array([1 - one[name] / one["as built"] for one in rounds])
    middle = float(saved.mean())
    half = float(stats.t.isf((1 - _LEVEL) / 2, len(saved) - 1) * saved.std(ddof=1) / math.sqrt(len(saved)))
    return Interval(middle, middle - half, middle + half)


def trial_of(row: dict[str, Any]) -> Interval:
    """Return what the trial found."""
    return Interval(**row["trial"]["saved"])


def is_miss(row: dict[str, Any]) -> bool:
    """Return whether trial and truth differ by more than both half-widths, squared and summed, explain."""
    tried, true = trial_of(row), saved_by(row["rounds"], "patched")
    return abs(tried.value - true.value) > math.hypot(tried.half, true.half)


def is_alarm(row: dict[str, Any]) -> bool:
    """Return whether slices with the same bytes seemed to differ."""
    return Interval(**row["trial"]["again"]).excludes(0.0)


def line_of(row: dict[str, Any]) -> str:
    """Return a line about one result, for whoever waits."""
    true = saved_by(row["rounds"], "patched")
    return f"{_name(row)}: trial {_text(trial_of(row))}, truth {_text(true)}{' MISS' if is_miss(row) else ''}"


def _name(row: dict[str, Any]) -> str:
    beside = ", busy neighbour" if row["neighbour"] else ""
    return f"{row['fence']} {row['place']} {row['work']} {row['kilobytes']} kB{beside}"


def _text(found: Interval) -> str:
    return f"{100 * found.value:.2f} ±{100 * found.half:.2f} %"


def _model_width(path: Path, row: dict[str, Any]) -> float | None:
    """Return the width in cycles of the model's interval for a unit: a mask and a restore, any context."""
    if not path.exists():
        return None
    name = {"lockadd": "lock add"}.get(row["fence"], row["fence"])
    width = 0.0
    for kind in ("mask", "restore"):
        mine = [
            item
            for item in read_calibration(path).rows
            if item.fence == name
            and item.kind == kind
            and item.place == row["place"]
            and item.median_cycles is not None
        ]
        if not mine:
            return None
        width += max(item.high_cycles or 0.0 for item in mine) - min(item.low_cycles or 0.0 for item in mine)
    return width


def _trial_width(row: dict[str, Any]) -> float:
    """Return the width of the trial's interval for a unit, in TSC cycles."""
    found = trial_of(row)
    return (found.high - found.low) * row["trial"]["unit_ns"] * row["trial"]["tsc_hz"] / 1e9


def page(rows: Sequence[dict[str, Any]], calibration: Path, wanted: int) -> str:
    """Return the page."""
    if not rows:
        return "# Is the trial right?\n\nNothing has been measured yet.\n"
    return "\n".join(
        [*_head(rows, wanted), *_verdicts(rows, calibration), *_by_kind(rows), *_all(rows), *_rest()]
    )


def _head(rows: Sequence[dict[str, Any]], wanted: int) -> list[str]:
    host = rows[0]["trial"]["host"]
    load = np.median([row["trial"]["load"] for row in rows])
    return [
        "# Is the trial right?",
        "",
        "`xtrace trial` measures in place what a running program's fences cost ([trial.md](trial.md)). This",
        "page checks it on real hardware: the same program with the same bytes exchanged in its file, run as",
        "whole processes, is the truth.",
        "",
        f"{host['cpu_model']}, hypervisor {host['hypervisor']}, {host['kernel']}.",
        f"{len(rows)} of {wanted} configurations have been measured. In the median trial the worker had "
        f"{100 * load:.0f} % of a",
        "processor; the rest went to other work on the machine and to the trial's stops.",
        "",
        "- **Trial**: a worker does one kind of kernel-like work between a mask and a restore, in memory of",
        "  a size that fits one of the caches or none; `xtrace trial` runs for a few seconds.",
        "- **Truth**: worker and patched worker in random order, as whole processes, until the truth's own",
        "  95 % interval is no wider than the trial's, or time was up. Its width is in the table.",
        "- **A miss**: the two differ by more than the root of the summed squares of both half-widths.",
        "- **Rebuilt**: the worker compiled without fences: what the compiler gains on top.",
        "",
    ]


def _verdicts(rows: Sequence[dict[str, Any]], calibration: Path) -> list[str]:
    misses = sum(map(is_miss, rows))
    alarms = sum(map(is_alarm, rows))
    far = [row for row in rows if row["kilobytes"] >= MISSES_KILOBYTES]
    widths = [_trial_width(row) for row in far]
    models = [width for row in far if (width := _model_width(calibration, row)) is not None]
    said = [
        "| what | found | required |",
        "|---|---|---|",
        f"| misses | {misses} of {len(rows)} | at most {MOST_MISSES[0]} of {MOST_MISSES[1]} |",
        f"| A/A alarms | {alarms} of {len(rows)} | at most {MOST_ALARMS[0]} of {MOST_ALARMS[1]} |",
        f"| median half-width, share of the running time | "
        f"{100 * float(np.median([trial_of(row).half for row in rows])):.2f} % | |",
    ]
    if widths and models:
        mine, model = float(np.median(widths)), float(np.median(models))
        said.append(
            "| median width where the second cache is missed, cycles per unit | "
            f"{mine:.1f}, the model's {model:.0f} | "
            f"at most {_MOST_SHARE_OF_MODEL:g} of the model's |"
        )
    beside = [row for row in rows if row["neighbour"]]
    if beside:
        said.append(f"| misses beside a busy neighbour | {sum(map(is_miss, beside))} of {len(beside)} | |")
    return [*said, ""]


def _by_kind(rows: Sequence[dict[str, Any]]) -> list[str]:
    said = [
        "## By size of the memory",
        "",
        "| memory | configurations | misses | saved, lowest to highest | half-width, median | truth's |",
        "|---|---|---|---|---|---|",
    ]
    for size in sorted({row["kilobytes"] for row in rows}):
        mine = [row for row in rows if row["kilobytes"] == size]
        values = [100 * trial_of(row).value for row in mine]
        half = float(np.median([100 * trial_of(row).half for row in mine]))
        true = float(np.median([100 * saved_by(row["rounds"], "patched").half for row in mine]))
        said.append(
            f"| {size:,} kB | {len(mine)} | {sum(map(is_miss, mine))} | "
            f"{min(values):.1f} to {max(values):.1f} % | ±{half:.2f} % | ±{true:.2f} % |"
        )
    return [*said, ""]


def _all(rows: Sequence[dict[str, Any]]) -> list[str]:
    said = [
        "## All configurations",
        "",
        "Share of the running time per unit; the misses in bold.",
        "",
        "| configuration | ns per unit | trial | truth | rounds | rebuilt without fences |",
        "|---|---|---|---|---|---|",
    ]
    for row in sorted(rows, key=_name):
        name = f"**{_name(row)}**" if is_miss(row) else _name(row)
        said.append(
            f"| {name} | {row['trial']['unit_ns']:.1f} | {_text(trial_of(row))} | "
            f"{_text(saved_by(row['rounds'], 'patched'))} | {len(row['rounds'])} | "
            f"{_text(saved_by(row['rounds'], 'rebuilt'))} |"
        )
    return [*said, ""]


def _rest() -> list[str]:
    return [
        "## What limits it",
        "",
        "- The truth is measured after the trial. If other programs change what memory and caches give in",
        "  the meantime, both are right and differ, and neither interval contains this. Runs of one program",
        "  on 8 MB differed by a factor of two, on a machine with more runnable processes than processors.",
        "- A slice finds the caches as others left them ([trial.md](trial.md#what-it-proves-and-what-not)).",
        "",
        "## Run it again",
        "",
        "```sh",
        ".venv/bin/python benchmarks/trial/campaign.py --out docs/accuracy-trial.md",
        "```",
        "",
        "goes on where it was stopped, and takes up to nine hours for all configurations; an idle machine",
        "takes far less, because a truth ends once it is as narrow as the trial.",
        "",
    ]
