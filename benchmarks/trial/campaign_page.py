"""The page of a campaign: how often trial and truth agree, how wide they are, and what failed."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Sequence
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


def is_carried(row: dict[str, Any]) -> bool:
    """Return whether the trial found that one slice disturbed the next."""
    return Interval(**row["trial"]["carried"]).excludes(0.0)


def is_unseen(row: dict[str, Any]) -> bool:
    """Return whether the trial could not see if one slice disturbed the next."""
    return Interval(**row["trial"]["carried"]).half >= 1.0


def line_of(row: dict[str, Any]) -> str:
    """Return a line about one result, for whoever waits."""
    if "failed" in row["trial"]:
        return f"{_name(row)}: {row['trial']['failed']}"
    true = saved_by(row["rounds"], "patched")
    return f"{_name(row)}: trial {_text(trial_of(row))}, truth {_text(true)}{' MISS' if is_miss(row) else ''}"


def _name(row: dict[str, Any]) -> str:
    beside = ", busy neighbour" if row["neighbour"] else ""
    return f"{row['fence']} {row['place']} {row['work']} {row['kilobytes']} kB{beside}"


def _text(found: Interval) -> str:
    return f"{100 * found.value:.2f} ±{100 * found.half:.2f} %"


def model_width(calibration: Path, fence: str, place: str) -> float | None:
    """Return the width in cycles of the model's interval for a unit: a mask and a restore, any context."""
    if not calibration.exists():
        return None
    name = {"lockadd": "lock add"}.get(fence, fence)
    width = 0.0
    for kind in ("mask", "restore"):
        mine = [
            item
            for item in read_calibration(calibration).rows
            if item.fence == name
            and item.kind == kind
            and item.place == place
            and item.median_cycles is not None
        ]
        if not mine:
            return None
        width += max(item.high_cycles or 0.0 for item in mine) - min(item.low_cycles or 0.0 for item in mine)
    return round(width, 1)


def is_busy(row: dict[str, Any]) -> bool:
    """Return whether other programs used the machine: a neighbour that was started, or any others."""
    return bool(row["neighbour"]) or max(row["load_average"]) > row["processors"]


def _trial_width(row: dict[str, Any]) -> float:
    """Return the width of the trial's interval for a unit, in TSC cycles."""
    found = trial_of(row)
    return (found.high - found.low) * row["trial"]["unit_ns"] * row["trial"]["tsc_hz"] / 1e9


def page(rows: Sequence[dict[str, Any]], wanted: int) -> str:
    """Return the page."""
    if not rows:
        return "# Is the trial right?\n\nNothing has been measured yet.\n"
    said = _head()
    for host in dict.fromkeys(_host_of(row) for row in rows):
        mine = [row for row in rows if _host_of(row) == host]
        failed = [f"- Without a figure: {line_of(row)}" for row in mine if "failed" in row["trial"]]
        mine = [row for row in mine if "failed" not in row["trial"]]
        said += [f"## {host}", ""]
        if mine:
            said += [*_state(mine, wanted), *_verdicts(mine), *_by_kind(mine), *_all(mine)]
        said += [*failed, ""] if failed else []
    return "\n".join([*said, *_rest()])


def _host_of(row: dict[str, Any]) -> str:
    host = row["host"]
    return f"{host['cpu_model']}, hypervisor {host['hypervisor']}"


def _head() -> list[str]:
    return [
        "# Is the trial right?",
        "",
        "`xtrace trial` measures in place what a running program's fences cost ([trial.md](trial.md)). This",
        "page checks it on real hardware: the same program with the same bytes exchanged in its file, run as",
        "whole processes, is the truth.",
        "",
        "- **Trial**: a worker does one kind of kernel-like work between a mask and a restore, in memory of",
        "  a size that fits one of the caches or none; `xtrace trial` runs for 20 seconds or less.",
        "- **Truth**: worker and patched worker in random order, as whole processes, two rounds before the",
        "  trial, then until the truth's own 95 % interval is no wider than the trial's, or time was up.",
        "- **A miss**: the two differ by more than the root of the summed squares of both half-widths.",
        "- **Rebuilt**: the worker compiled without fences: what the compiler gains on top.",
        "- **Busy**: a neighbour kept the other processor busy with traffic to memory (so marked), or the",
        "  load average was above the number of processors: other work of the machine.",
        "",
        "All processes run at the same addresses (`setarch -R`): a trial measures one process, and where its",
        "stack lies changes what a small loop takes. No result of the present design is left out.",
        "",
    ]


def _state(rows: Sequence[dict[str, Any]], wanted: int) -> list[str]:
    share = np.median([row["trial"]["running_ratio"] for row in rows])
    loads = [load for row in rows for load in row["load_average"]]
    days = sorted({row["date"][:10] for row in rows})
    return [
        f"{len(rows)} of {wanted} configurations, {' to '.join(dict.fromkeys((days[0], days[-1])))}. "
        "In the median trial the worker had",
        f"{100 * share:.0f} % of a processor; load averages were {min(loads):.1f} to {max(loads):.1f}.",
        "",
    ]


def _verdicts(rows: Sequence[dict[str, Any]]) -> list[str]:
    far = [row for row in rows if row["kilobytes"] >= MISSES_KILOBYTES]
    widths = [_trial_width(row) for row in far]
    models = [width for row in far if (width := row["model_width_cycles"]) is not None]
    said = [
        "| what | found | required |",
        "|---|---|---|",
        f"| misses | {_count(rows, is_miss)} | at most {MOST_MISSES[0]} of {MOST_MISSES[1]} |",
        f"| A/A alarms | {_count(rows, is_alarm)} | at most {MOST_ALARMS[0]} of {MOST_ALARMS[1]} |",
        f"| trials that said that slices disturbed each other | {_count(rows, is_carried)} | |",
        f"| trials that said that they could not see it | {_count(rows, is_unseen)} | |",
        f"| median half-width, share of the running time | "
        f"{100 * float(np.median([trial_of(row).half for row in rows])):.2f} % | |",
    ]
    if widths:
        model = f"the model's {float(np.median(models)):.0f}" if models else "no model: too busy to calibrate"
        said.append(
            "| median width where the second cache is missed, cycles per unit | "
            f"{float(np.median(widths)):.1f}, {model} | "
            f"at most {_MOST_SHARE_OF_MODEL:g} of the model's |"
        )
    for name, kept in (("on a busy machine", True), ("on a quiet machine", False)):
        some = [row for row in rows if is_busy(row) is kept]
        if some:
            said.append(f"| misses {name} | {_count(some, is_miss)} | |")
    return [*said, ""]


def _count(rows: Sequence[dict[str, Any]], test: Callable[[dict[str, Any]], bool]) -> str:
    return f"{sum(map(test, rows))} of {len(rows)}"


def _by_kind(rows: Sequence[dict[str, Any]]) -> list[str]:
    said = [
        "By size of the memory:",
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
        "All configurations: share of the running time per unit; the misses in bold.",
        "",
        "| configuration | load | ns per unit | slice | trial | truth | rounds | rebuilt without fences |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for row in sorted(rows, key=_name):
        name = f"**{_name(row)}**" if is_miss(row) else _name(row)
        said.append(
            f"| {name} | {max(row['load_average']):.1f} | {row['trial']['unit_ns']:.1f} | "
            f"{1e3 * row['trial']['slice_s']:g} ms | {_text(trial_of(row))} | "
            f"{_text(saved_by(row['rounds'], 'patched'))} | {len(row['rounds'])} | "
            f"{_text(saved_by(row['rounds'], 'rebuilt'))} |"
        )
    return [*said, ""]


def _rest() -> list[str]:
    return [
        "## What limits it",
        "",
        "- Truth and trial are not measured at the same moment. If other programs change what memory and",
        "  caches give in the meantime, both are right and differ, and neither interval contains this. Runs",
        "  of one program on 8 MB differed by a factor of two, on a machine with more runnable processes",
        "  than processors.",
        "- An earlier campaign, with slices of at most 10 ms, missed 7 of 20 on an AMD EPYC with 15 runnable",
        "  processes, 4 of the 6 on 8 MB: one slice found the caches as another arm had left them",
        "  ([trial.md](trial.md#what-one-slice-leaves-to-the-next)). Before that was fixed, 16 more were",
        "  measured on the Xeon with slices of mostly 0.5 ms: 7 missed. Neither is in the tables: they show",
        "  a design that is gone. The tables have every result since then.",
        "- The truth may be wide: on a busy machine its time was up (40 s) long before it was narrow.",
        "",
        "## Run it again",
        "",
        "```sh",
        ".venv/bin/python benchmarks/trial/campaign.py --out docs/accuracy-trial.md",
        "```",
        "",
        "adds to benchmarks/trial/results.jsonl what this machine has not measured yet. All configurations",
        "take hours; on an idle machine less, because a truth ends once it is as narrow as the trial.",
        "",
    ]
