"""Write docs/accuracy.md: what the command prints, how often it contains the truth, how wide it is."""

from __future__ import annotations

import json
import math
import os
import statistics
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import found
import plot
from predict import OLD_CONTEXTS, Prediction, merged, predict
from program import ALL_HOT_WORKS, FENCED, FENCES, LOOPS, MNEMONICS, OLD_LOOPS, Build, Loop
from truth import Truth, read, truths

from xtrace.probes.timing import calibration
from xtrace.probes.timing.calibration import CONTEXTS
from xtrace.probes.words import count_of

#: Each round executes both sites once.
_COUNTS = (1000.0, 1000.0)
_MISSED = 0.05
#: The rival of the model: a constant per execution for each fence, in TSC cycles, as tables of instructions
#: have them for processors of about 2 GHz TSC; the interval is from 0 to so many times that.
CONSTANTS = {"lfence": 20.0, "mfence": 45.0, "sfence": 5.0, "lockadd": 20.0, "xchg": 20.0}
HOT_TIMES, MISS_TIMES = 3.0, 40.0


@dataclass(frozen=True, slots=True)
class Case:
    """One configuration: its truth, and what was predicted by each calibration.

    Attributes:
        standard, image: by the standard sequences, and by `calibrate IMAGE`.
        before: by the standard sequences in the contexts that there were before.
    """

    loop: Loop
    build: Build
    truth: Truth
    standard: Prediction
    before: Prediction
    image: Prediction | None

    @property
    def is_hot(self) -> bool:
        """Return whether the work misses no cache."""
        return self.loop.work in ALL_HOT_WORKS

    @property
    def is_old(self) -> bool:
        """Return whether the work was known when the model's contexts were chosen."""
        return self.loop in OLD_LOOPS


#: An interval per round.
Ends = tuple[float, float]
Printed = Callable[[Case], Ends | None]


def likely(of: str) -> Printed:
    """Return what gives a case's likely range by a prediction: "standard", "before" or "image"."""

    def ends(case: Case) -> Ends | None:
        made = getattr(case, of)
        return None if made is None else (made.hot_low_cycles, made.hot_high_cycles)

    return ends


def whole(of: str) -> Printed:
    """Return what gives the range from the least to what the cost is usually below."""

    def ends(case: Case) -> Ends | None:
        made = getattr(case, of)
        return None if made is None else (made.low_cycles, made.high_cycles)

    return ends


def constant(times: float) -> Printed:
    """Return what gives 0 to ``times`` the constant of a fence."""
    return lambda case: (0.0, 2 * times * CONSTANTS[case.build.fence])


def contains(ends: Ends, truth: Truth) -> bool:
    """Return whether an interval contains a truth's median, or 0 if that cannot be distinguished from 0."""
    return ends[0] <= truth.value_cycles <= ends[1]


def score(ends: Ends, value: float) -> float:
    """Return the interval score: its width, and 2 / 5 % times how far the truth is outside (less is better).

    Source: Gneiting and Raftery, Strictly proper scoring rules, 2007, equation 43.
    """
    outside = max(ends[0] - value, value - ends[1], 0.0)
    return ends[1] - ends[0] + 2 / _MISSED * outside


def binomial_interval(held: int, count: int) -> tuple[float, float]:
    """Return the 95 % interval of a share by Clopper and Pearson."""

    ways = [math.log(math.comb(count, k)) for k in range(count + 1)]

    def tail(share: float, least: int) -> float:
        """Return the probability of ``least`` or more of ``count``."""
        if not 0 < share < 1:
            return float(share >= 1 or least <= 0)
        odds = math.log(share), math.log(1 - share)
        return sum(math.exp(ways[k] + k * odds[0] + (count - k) * odds[1]) for k in range(least, count + 1))

    def solved(wanted: Callable[[float], bool]) -> float:
        low, high = 0.0, 1.0
        for _ in range(40):
            middle = (low + high) / 2
            low, high = (middle, high) if wanted(middle) else (low, middle)
        return low

    least = solved(lambda share: tail(share, held) < 0.025) if held else 0.0
    most = solved(lambda share: 1 - tail(share, held + 1) > 0.025) if held < count else 1.0
    return least, most


def misses_allowed(count: int) -> int:
    """Return how many of ``count`` may be missed if each is with 5 %: the 99 % quantile."""
    total = 0.0
    for missed in range(count + 1):
        total += math.comb(count, missed) * _MISSED**missed * (1 - _MISSED) ** (count - missed)
        if total >= 0.99:
            return missed
    return count


def cases(folder: Path) -> list[Case]:
    """Return all measured configurations."""
    measured = truths(read(folder / "truth.jsonl"))
    known = calibrated(folder)
    result = []
    for build in FENCED:
        sites, build_id = found.sites(folder / build.name)
        own_path = folder / f"image-{build.name}.json"
        own = calibration.read(own_path) if own_path.exists() else None
        loops = [
            loop
            for loop in LOOPS
            if (loop, build) in measured and not math.isnan(measured[loop, build].median_cycles)
        ]
        mine = [found.of_loop(sites, loop) for loop in loops]
        standard = predict(mine, build_id, _COUNTS, known)
        before = predict(mine, build_id, _COUNTS, known, OLD_CONTEXTS)
        image = [None] * len(loops) if own is None else predict(mine, build_id, _COUNTS, own, CONTEXTS)
        result += [
            Case(loop, build, measured[loop, build], *made)
            for loop, *made in zip(loops, standard, before, image, strict=True)
        ]
    return result


def predictions(folder: Path, builds: Sequence[Build], loops: Sequence[Loop]) -> list[dict[str, str | float]]:
    """Return predictions for builds that were not measured."""
    result: list[dict[str, str | float]] = []
    known = calibrated(folder)
    for build in builds:
        sites, build_id = found.sites(folder / build.name)
        made = predict([found.of_loop(sites, loop) for loop in loops], build_id, _COUNTS, known)
        result += [
            {"build": build.name, "loop": str(loop), **asdict(one)}
            for loop, one in zip(loops, made, strict=True)
        ]
    return result


def calibrated(folder: Path) -> calibration.Calibration:
    """Return the calibrations of all turns merged into one."""
    return merged([calibration.read(path) for path in sorted(folder.glob("calibration-*.json"))])


# --- tables ---


def coverage(mine: Sequence[Case], rows: Sequence[tuple[str, Printed]]) -> list[str]:
    """Return a table: each of ``rows`` on the old work and on the new."""
    lines = [
        "| printed | work | contains the truth | 95 % of that | misses, allowed | above it "
        "| median width | mean score |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for name, printed in rows:
        for work, group in (
            ("old", [case for case in mine if case.is_old]),
            ("new", [case for case in mine if not case.is_old]),
        ):
            lines += _coverage_row(name, work, group, printed)
    return lines


def _coverage_row(name: str, work: str, group: Sequence[Case], printed: Printed) -> list[str]:
    known = [(case, ends) for case in group for ends in [printed(case)] if ends is not None]
    if not known:
        return []
    held = sum(contains(ends, case.truth) for case, ends in known)
    above = sum(case.truth.value_cycles > ends[1] for case, ends in known)
    low, high = binomial_interval(held, len(known))
    width = statistics.median((ends[1] - ends[0]) / 2 for _, ends in known)
    mean = statistics.fmean(score(ends, case.truth.value_cycles) / 2 for case, ends in known)
    return [
        f"| {name} | {work} | {_share(held, len(known))} | {low:.1%} to {high:.1%} "
        f"| {len(known) - held}, {misses_allowed(len(known))} | {above} | {width:.1f} | {mean:.1f} |"
    ]


def by_fence(mine: Sequence[Case], printed: Printed) -> list[str]:
    """Return a table of what is contained and how wide it is, by fence."""
    lines = ["| fence | contains the truth | median width |", "|---|---|---|"]
    for fence in FENCES:
        known = [
            (case, ends)
            for case in mine
            if case.build.fence == fence
            for ends in [printed(case)]
            if ends is not None
        ]
        if known:
            held = sum(contains(ends, case.truth) for case, ends in known)
            width = statistics.median((ends[1] - ends[0]) / 2 for _, ends in known)
            lines.append(f"| {MNEMONICS[fence]} | {_share(held, len(known))} | {width:.1f} |")
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
            cells.append(_range(values) if values else "-")
        base = [case.truth.unfenced_cycles for case in mine]
        lines.append(f"| {work} | {_range(base)} | " + " | ".join(cells) + " |")
    return lines


def _range(values: Sequence[float]) -> str:
    low, high = (f"{value:.0f}".replace("-0", "0") if abs(value) < 0.5 else f"{value:.0f}" for value in
                 (min(values), max(values)))  # fmt: skip
    return low if low == high else f"{low} to {high}"


def failures(mine: Sequence[Case], printed: Printed) -> list[str]:
    """Return a table of the configurations that are not contained, or a sentence if all are."""
    missed = [
        (case, ends)
        for case in mine
        for ends in [printed(case)]
        if ends is not None and not contains(ends, case.truth)
    ]
    if not missed:
        return ["None in this run."]
    lines = ["| loop | fence | truth | its 95 % | printed |", "|---|---|---|---|---|"]
    missed.sort(key=lambda pair: LOOPS.index(pair[0].loop))
    return lines + [
        f"| {case.loop} | {case.build.fence} {case.build.place} | {case.truth.median_cycles / 2:.1f} "
        f"| {case.truth.low_cycles / 2:.1f} to {case.truth.high_cycles / 2:.1f} "
        f"| {ends[0] / 2:.1f} to {ends[1] / 2:.1f} |"
        for case, ends in missed
    ]


def bounds(all_cases: Sequence[Case]) -> str:
    """Return how many figures a report would call bounds, and whether a truth is above one."""
    called, above = 0, 0
    for case in all_cases:
        running = case.truth.unfenced_cycles + case.truth.median_cycles
        if case.standard.high_cycles > running:
            called += 1
            above += case.truth.value_cycles > running
    return (
        f"Of the {len(all_cases)} figures that the cost is usually below, {called} are more than the time "
        "that the loop takes with its fences. There the report prints that time, and only it is called a "
        f"bound, because no fence takes longer than everything does; {above} truths are above one."
    )


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

    def bars(group: Iterable[Case], printed: Printed) -> list[plot.Bar]:
        return [
            plot.Bar(case.build.fence, case.truth.value_cycles, *ends)
            for case in group
            for ends in [printed(case)]
            if ends is not None
        ]

    hot = [case for case in all_cases if case.is_hot]
    missing = [case for case in all_cases if not case.is_hot]
    ticks = (-10, 0, 50, 100, 150, 200, 250)
    return plot.svg(
        [
            plot.Panel("hot, old work", bars((c for c in hot if c.is_old), likely("standard")), 1e4, ticks),
            plot.Panel(
                "hot, new work", bars((c for c in hot if not c.is_old), likely("standard")), 1e4, ticks
            ),
            plot.Panel(
                "memory is missed", bars(missing, whole("standard")), 20, (-500, -20, 0, 20, 500, 10000)
            ),
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


#: The program's two threads keep the load at about 1: Xen's waits most of the time.
_OWN_MOST = 1.5
_OWN_LOAD, _OTHER_LOAD = "did nothing else during the passes", "was not idle"


def measured(folder: Path, all_cases: Sequence[Case]) -> str:
    """Return a sentence about the amount of measurements, and the load under which they were made."""
    rows = read(folder / "truth.jsonl")
    rounds = len({row["seed"] for row in rows})
    disturbed = sum(row["switches"] > 0 for row in rows) / max(len(rows), 1)
    loads = [row["load"] for row in rows]
    turns = [calibration.read(path) for path in sorted(folder.glob("calibration-*.json"))]
    images = [calibration.read(path) for path in sorted(folder.glob("image-*.json"))]
    waited = [float(turn.settings.get("waiting_ratio", 0.0)) for turn in (*turns, *images)]
    hz = turns[0].tsc_hz
    rates = [2 * hz / row["cycles"] for row in rows]
    return (
        f"{len(all_cases)} configurations, {rounds} passes, {len(rows):,} runs of a loop; "
        f"{count_of(len(turns), 'calibration')} of the standard sequences between the passes, "
        f"{len(images)} of a build. The sites executed {min(rates) / 1e6:.1f} to {max(rates) / 1e6:.0f} "
        "million times per second. The machine "
        f"{_OWN_LOAD if statistics.median(loads) < _OWN_MOST else _OTHER_LOAD}: "
        f"its load was {min(loads):.1f} to {max(loads):.1f} "
        f"(median {statistics.median(loads):.1f}) on {os.cpu_count()} processors, {disturbed:.0%} of the "
        "runs were interrupted at least once, and "
        f"calibrations waited {min(waited):.0%} to {max(waited):.0%} of their time for the processor."
    )


def summary(all_cases: Sequence[Case]) -> str:
    """Return the result on the new work as a sentence."""
    new = [case for case in all_cases if not case.is_old]
    hot, missing = [case for case in new if case.is_hot], [case for case in new if not case.is_hot]
    said = []
    for what, group, printed in (
        ("the likely range, where nothing misses the caches", hot, likely("standard")),
        ("the same after `calibrate IMAGE`", hot, likely("image")),
        ("the range over all contexts, where memory is missed", missing, whole("standard")),
    ):
        known = [(case, ends) for case in group for ends in [printed(case)] if ends is not None]
        if known:
            held = sum(contains(ends, case.truth) for case, ends in known)
            said.append(f"{what}: {_share(held, len(known))}")
    return f"On work that the model was not made for, the truth is in {'; in '.join(said)}."


def text(folder: Path, all_cases: Sequence[Case]) -> str:
    """Return the page."""
    template = Path(__file__).with_name("page.md").read_text()
    hot = [case for case in all_cases if case.is_hot]
    missing = [case for case in all_cases if not case.is_hot]
    for name, value in {
        "machine": machine(folder),
        "measured": measured(folder, all_cases),
        "summary": summary(all_cases),
        "hot": "\n".join(
            coverage(
                hot,
                (
                    ("likely, `calibrate`", likely("standard")),
                    ("likely, `calibrate IMAGE`", likely("image")),
                    ("likely, in the contexts before", likely("before")),
                    (f"0 to {HOT_TIMES:g} times a constant", constant(HOT_TIMES)),
                ),
            )
        ),
        "missing": "\n".join(
            coverage(
                missing,
                (
                    ("all contexts, `calibrate`", whole("standard")),
                    ("all contexts, `calibrate IMAGE`", whole("image")),
                    ("all contexts before", whole("before")),
                    ("likely, `calibrate`", likely("standard")),
                    (f"0 to {MISS_TIMES:g} times a constant", constant(MISS_TIMES)),
                ),
            )
        ),
        "constants": ", ".join(f"{MNEMONICS[fence]} {cycles:g}" for fence, cycles in CONSTANTS.items()),
        "by_fence": "\n".join(by_fence(hot, likely("standard"))),
        "by_fence_image": "\n".join(by_fence(hot, likely("image"))),
        "bounds": bounds(all_cases),
        "costs": "\n".join(costs(all_cases)),
        "counted": counted(folder),
        "hot_failures": "\n".join(failures(hot, likely("standard"))),
        "image_failures": "\n".join(failures(hot, likely("image"))),
        "missing_failures": "\n".join(failures(missing, whole("standard"))),
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


def _share(held: int, count: int) -> str:
    return f"{held} of {count}, {held / max(count, 1):.1%}"
