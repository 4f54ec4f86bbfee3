"""Write docs/accuracy.md: predictions and truths, how many intervals contain the truth, how wide they are."""

from __future__ import annotations

import json
import os
import statistics
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import found
import plot
from predict import KINDS, Prediction, known_contexts, merged, predict
from program import FENCED, FENCES, HOT_WORKS, LOOPS, MNEMONICS, PLACES, Build, Loop
from truth import Truth, read, truths

from xtrace.probes.timing import calibration

#: An interval within calibrate's own goal, 2 cycles per execution, is narrow at any ratio.
NARROW_CYCLES, NARROW_RATIO = 4.0, 3.0
#: Each round executes both sites once.
_COUNTS = (1000.0, 1000.0)
GROUPS = {
    "hot, kind of work known": tuple(KINDS),
    "hot, kind of work unknown": tuple(work for work in HOT_WORKS if work not in KINDS),
    "caches may miss": tuple(dict.fromkeys(loop.work for loop in LOOPS if loop.work not in HOT_WORKS)),
}


@dataclass(frozen=True, slots=True)
class Case:
    """One configuration with its prediction and its truth."""

    loop: Loop
    build: Build
    prediction: Prediction
    truth: Truth

    @property
    def holds(self) -> bool:
        """Return whether the interval contains the truth."""
        return self.prediction.holds(self.truth.value_cycles)

    @property
    def touches(self) -> bool:
        """Return whether the interval and the truth's interval overlap."""
        return (
            self.prediction.low_cycles <= self.truth.high_cycles
            and self.truth.low_cycles <= self.prediction.high_cycles
        )

    @property
    def narrow(self) -> bool:
        """Return whether the interval is narrow enough."""
        low, high = self.prediction.low_cycles, self.prediction.high_cycles
        return high - low <= NARROW_CYCLES or 0 < high <= NARROW_RATIO * low


def cases(folder: Path) -> list[Case]:
    """Return all measured configurations."""
    measured = truths(read(folder / "truth.jsonl"))
    result = []
    known = calibrated(folder)
    for build in FENCED:
        sites, build_id = found.sites(folder / build.name)
        for loop in LOOPS:
            if (loop, build) in measured:
                made = predict(
                    found.of_loop(sites, loop), build_id, _COUNTS, known_contexts(loop.work), known
                )
                result.append(Case(loop, build, made, measured[loop, build]))
    return result


def predictions(folder: Path, builds: Sequence[Build], loops: Sequence[Loop]) -> list[dict[str, str | float]]:
    """Return predictions for builds that were not measured."""
    result: list[dict[str, str | float]] = []
    known = calibrated(folder)
    for build in builds:
        sites, build_id = found.sites(folder / build.name)
        for loop in loops:
            made = predict(found.of_loop(sites, loop), build_id, _COUNTS, known_contexts(loop.work), known)
            result.append({"build": build.name, "loop": str(loop), **asdict(made)})
    return result


def calibrated(folder: Path) -> calibration.Calibration:
    """Return the calibrations of all turns merged into one."""
    return merged([calibration.read(path) for path in sorted(folder.glob("calibration-*.json"))])


def coverage(all_cases: Sequence[Case]) -> list[str]:
    """Return the table of groups."""
    lines = [
        "| work | configurations | interval contains the truth | overlaps the truth's interval "
        "| narrow enough | median of high/low |",
        "|---|---|---|---|---|---|",
    ]
    for name, works in [*GROUPS.items(), ("all", tuple(work for group in GROUPS.values() for work in group))]:
        mine = [case for case in all_cases if case.loop.work in works]
        ratios = [
            case.prediction.high_cycles / case.prediction.low_cycles
            for case in mine
            if case.prediction.low_cycles > 0
        ]
        ratio = f"{statistics.median(ratios):.1f}" if 2 * len(ratios) > len(mine) else "from 0"
        lines.append(
            f"| {name} | {len(mine)} | {_share(case.holds for case in mine)} "
            f"| {_share(case.touches for case in mine)} | {_share(case.narrow for case in mine)} | {ratio} |"
        )
    return lines


def by_fence(all_cases: Sequence[Case]) -> list[str]:
    """Return the table of how often intervals contain the truth, by fence and place."""
    lines = ["| | " + " | ".join(PLACES) + " |", "|---|" + "---|" * len(PLACES)]
    for fence in FENCES:
        cells = [
            _share(case.holds for case in all_cases if case.build == Build(fence, place)) for place in PLACES
        ]
        lines.append(f"| {MNEMONICS[fence]} | " + " | ".join(cells) + " |")
    return lines


def costs(all_cases: Sequence[Case]) -> list[str]:
    """Return the truth of each loop: cycles that one fence adds, the mean of both sites and places."""
    lines = [
        "| work | unfenced round | " + " | ".join(MNEMONICS.values()) + " |",
        "|---|---|" + "---|" * len(FENCES),
    ]
    for work in dict.fromkeys(case.loop.work for case in all_cases):
        mine = [case for case in all_cases if case.loop.work == work]
        cells = []
        for fence in FENCES:
            values = [case.truth.median_cycles / 2 for case in mine if case.build.fence == fence]
            cells.append(f"{min(values):.0f} to {max(values):.0f}".replace("-0 ", "0 ").replace(" -0", " 0"))
        base = [case.truth.unfenced_cycles for case in mine]
        lines.append(f"| {work} | {min(base):.0f} to {max(base):.0f} | " + " | ".join(cells) + " |")
    return lines


def details(all_cases: Sequence[Case]) -> list[str]:
    """Return a table of configurations, or a sentence if there are none."""
    if not all_cases:
        return ["None in this run."]
    lines = ["| loop | fence | truth | its 95 % | predicted | |", "|---|---|---|---|---|---|"]
    ordered = sorted(all_cases, key=lambda case: LOOPS.index(case.loop))
    return lines + [
        f"| {case.loop} | {case.build.fence} {case.build.place} | {case.truth.median_cycles:.1f} "
        f"| {case.truth.low_cycles:.1f} to {case.truth.high_cycles:.1f} "
        f"| {case.prediction.low_cycles:.1f} to {case.prediction.high_cycles:.1f} "
        f"| {'' if case.holds else 'missed'} |"
        for case in ordered
    ]


def counted(folder: Path) -> str:
    """Return a sentence about the uprobes' counts."""
    path = folder / "counts.json"
    if not path.exists():
        return "Not checked in this run."
    rows: list[dict[str, Any]] = json.loads(path.read_text())
    pairs = [pair for row in rows for pair in row["places"].values()]
    differ = sum(pair["uprobes"] != pair["program"] for pair in pairs)
    hits = sum(pair["uprobes"] for pair in pairs)
    return f"In {len(rows)} runs {len(pairs)} counts were compared, {hits:,} hits: {differ} differ."


def figure(all_cases: Sequence[Case]) -> str:
    """Return the plot."""

    def bars(works: Iterable[str]) -> list[plot.Bar]:
        return [
            plot.Bar(
                case.build.fence,
                case.truth.value_cycles,
                case.prediction.low_cycles,
                case.prediction.high_cycles,
            )
            for case in all_cases
            if case.loop.work in works
        ]

    hot, unknown, missing = GROUPS.values()
    return plot.svg(
        [
            plot.Panel("hot, kind of work known", bars(hot), 1e4, (-10, 0, 30, 60, 90, 120, 150)),
            plot.Panel("hot, kind of work unknown", bars(unknown), 1e4, (-10, 0, 30, 60, 90, 120, 150)),
            plot.Panel("caches may miss", bars(missing), 20, (-500, -100, -20, 0, 20, 100, 1000)),
        ]
    )


def machine(folder: Path) -> str:
    """Return a description of the machine, with the date."""
    known = calibrated(folder)
    host = known.host
    ratio = f", core clock {known.core_per_tsc_ratio:.2f} times that" if known.core_per_tsc_ratio else ""
    return (
        f"{host.get('cpu_model', 'unknown processor')}, hypervisor {host.get('hypervisor', 'unknown')}, "
        f"Linux {host.get('kernel', 'unknown').removeprefix('Linux ')}; {os.cpu_count()} processors; "
        f"TSC {known.tsc_hz / 1e6:.0f} MHz{ratio}; {known.date[:10]}"
    )


def measured(folder: Path, all_cases: Sequence[Case]) -> str:
    """Return a sentence about the amount of measurements."""
    rows = read(folder / "truth.jsonl")
    rounds = len({row["seed"] for row in rows})
    repeated = sum(row["repeats"] > 0 for row in rows) / max(len(rows), 1)
    turns = len(list(folder.glob("calibration-*.json")))
    hz = calibrated(folder).tsc_hz
    rates = [2 * hz / row["cycles"] for row in rows]
    return (
        f"{len(all_cases)} configurations, {rounds} passes, {len(rows):,} runs of a loop; "
        f"{repeated:.0%} of them were repeated after a disturbance; {turns} calibrations between the passes. "
        f"The sites executed {min(rates) / 1e6:.1f} to {max(rates) / 1e6:.0f} million times per second."
    )


def summary(all_cases: Sequence[Case]) -> str:
    """Return the result as a sentence."""
    hot = [case for case in all_cases if case.loop.work in HOT_WORKS]
    missing = [case for case in all_cases if case.loop.work not in HOT_WORKS]
    shares = [_share(case.holds for case in group) for group in (hot, missing, all_cases)]
    return (
        f"Configurations whose interval contains the truth: {shares[0]}, if nothing misses the caches; "
        f"{shares[1]}, if something does; {shares[2]}, overall."
    )


def text(folder: Path, all_cases: Sequence[Case]) -> str:
    """Return the page."""
    template = Path(__file__).with_name("page.md").read_text()
    for name, value in {
        "machine": machine(folder),
        "measured": measured(folder, all_cases),
        "summary": summary(all_cases),
        "coverage": "\n".join(coverage(all_cases)),
        "by_fence": "\n".join(by_fence(all_cases)),
        "costs": "\n".join(costs(all_cases)),
        "counted": counted(folder),
        "details": "\n".join(details([case for case in all_cases if not case.holds])),
    }.items():
        template = template.replace(f"{{{{{name}}}}}", value)
    return template


def write(folder: Path, out: Path | None) -> None:
    """Write accuracy.md and accuracy.svg to ``out``; without it, print the page."""
    all_cases = cases(folder)
    page = text(folder, all_cases)
    if out is None:
        print(page)
        return
    (out / "accuracy.md").write_text(page)
    (out / "accuracy.svg").write_text(figure(all_cases))


def _share(flags: Iterable[bool]) -> str:
    values = list(flags)
    return f"{sum(values)} of {len(values)}, {sum(values) / max(len(values), 1):.0%}"
