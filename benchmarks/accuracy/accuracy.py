"""Is the figure true? Predict what the fences of a program cost, and measure it.

    .venv/bin/python benchmarks/accuracy/accuracy.py [--only STAGE]... [--out DIR]

Stages, each of which stores its results in build/accuracy (--data):

- truth: run every build in turn, in random order; adds to the existing rounds;
- calibrate: `xtrace calibrate` on the processor that the guest runs on; adds to the existing calibrations;
- image: `xtrace calibrate IMAGE` for each build, there too; those that exist are kept;
- counts: compare the program's own counts with uprobes (needs root; uprobes are slow);
- page: predict, compare, and write accuracy.md and accuracy.svg to --out; without --out, print the page.

Needs an idle machine with two processors, gcc, and a few minutes.  The influence of neighbours and clocks
changes from minute to minute, so truth and calibrate take several turns (--turns).  --small runs everything
but the page within seconds, to check that it works, and prints JSON; its times are meaningless.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import counts
import found
import page
import program
import truth

STAGES = ("truth", "calibrate", "image", "counts", "page")
#: Only a few, because building takes longest.
SMALL_BUILDS = (
    program.UNFENCED,
    program.Build("lfence", "outofline"),
    program.Build("mfence", "inline"),
    program.Build("lockadd", "outofline"),
    program.Build("xchg", "inline"),
)
SMALL_LOOPS = (program.Loop("inlined", "stores_8"), program.Loop("called", "load_miss_1"))
XTRACE = (sys.executable, "-c", "import sys; from xtrace.cli.start import main; sys.exit(main())")


def measure_truth(
    folder: Path, programs: dict[program.Build, Path], rounds: int, cpus: tuple[int, int]
) -> None:
    """Add rounds of runs to DIR/truth.jsonl."""
    file_path = folder / "truth.jsonl"
    rows = truth.read(file_path)
    first = 1 + max((row["seed"] for row in rows), default=-1)
    begin = time.monotonic()
    with file_path.open("a") as file:
        for seed in range(first, first + rounds):
            for row in truth.measure(programs, program.LOOPS, seed, cpus):
                # What a round that is interrupted has measured is kept: builds are compared within a round.
                file.write(json.dumps(row) + "\n")
                file.flush()
    print(f"truth: {rounds} rounds in {time.monotonic() - begin:.0f} s", file=sys.stderr)


def calibrate(folder: Path, seconds: float, cpu: int) -> None:
    """Add a calibration of the standard sequences to those in DIR."""
    _calibrate(folder / f"calibration-{len(list(folder.glob('calibration-*.json')))}.json", seconds, cpu)


def calibrate_images(folder: Path, programs: dict[program.Build, Path], seconds: float, cpu: int) -> None:
    """Calibrate each fenced build with its own sites, as `xtrace calibrate IMAGE`, unless that was done."""
    for build in sorted(program.FENCED, key=lambda build: build.place):
        kept = folder / f"image-{build.name}.json"
        if not kept.exists():
            _calibrate(kept, seconds, cpu, str(programs[build]))


def _calibrate(kept: Path, seconds: float, cpu: int, *image: str) -> None:
    """Run `xtrace calibrate`; nothing is kept of a run that others disturbed too much."""
    options = ["--duration", str(seconds), "--cpu", str(cpu), "--output", str(kept)]
    done = subprocess.run([*XTRACE, "calibrate", *image, *options], check=False, stdout=subprocess.DEVNULL)
    if done.returncode:
        kept.unlink(missing_ok=True)
        print(f"{kept.name}: not measured; run this stage again", file=sys.stderr)


def cross_check(folder: Path, programs: dict[program.Build, Path]) -> None:
    """Write the counts of uprobes and those of the program to DIR/counts.json."""
    rows = []
    for build, loop in counts.CHECKED:
        places = counts.check(programs[build], build, loop)
        rows.append({"build": build.name, "loop": str(loop), "places": places})
    (folder / "counts.json").write_text(json.dumps(rows, indent=1))
    wrong = [row for row in rows for one in row["places"].values() if one["uprobes"] != one["program"]]
    print(f"uprobes: {len(rows)} runs, {len(wrong)} counts that differ", file=sys.stderr)


def small(folder: Path, programs: dict[program.Build, Path], probes: bool) -> dict[str, object]:
    """Return the results of tiny runs of every build: wrong fences, counts, predictions.

    Args:
        folder: the folder with results, whose calibrations the predictions use.
        programs: the file of each build.
        probes: compare with uprobes too.
    """
    wrong: list[str] = []
    upcalls = 0
    rows = []
    for build, path in programs.items():
        sites, _ = found.sites(path)
        for loop in program.LOOPS:
            wrong += found.wrong_fences(sites, build, loop)
        told = program.run(path, SMALL_LOOPS, rounds=20_000, batches=2, period_us=20, xen_cpu=_other_cpu())
        upcalls += told["upcall_count"]
        rows += [
            {"build": build.name, "loop": f"{one['sites']}/{one['work']}", "executions": one["executions"]}
            for one in told["loops"]
        ]
    result: dict[str, object] = {
        "wrong_fences": wrong,
        "upcall_count": upcalls,
        "runs": rows,
        "uprobes": None,
    }
    if list(folder.glob("calibration-*.json")):
        result["predictions"] = page.predictions(folder, SMALL_BUILDS[1:], SMALL_LOOPS)
    if probes:
        build = SMALL_BUILDS[1]
        try:
            result["uprobes"] = counts.check(programs[build], build, SMALL_LOOPS[0], rounds=101)
        except counts.NoProbesError as error:
            result["uprobes"] = str(error)
    return result


def _other_cpu() -> int:
    """Return the sender's processor: the guest's if the machine has only one."""
    allowed = os.sched_getaffinity(0)
    return program.XEN_CPU if program.XEN_CPU in allowed else program.GUEST_CPU


def _another_cpu(cpu: int) -> int:
    """Return a processor for the sender that is not the guest's, if there is one."""
    return min(os.sched_getaffinity(0) - {cpu}, default=cpu)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the stages."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", type=Path, default=Path("build/accuracy"), help="the folder for results")
    parser.add_argument("--turns", type=int, default=4, help="turns of truth and calibrate")
    parser.add_argument("--rounds", type=int, default=10, help="rounds to add to the truth per turn")
    parser.add_argument("--seconds", type=float, default=40, help="duration of each calibration")
    parser.add_argument("--cpu", type=int, default=program.GUEST_CPU, help="the guest's processor")
    parser.add_argument("--only", action="append", choices=STAGES, help="run only this stage; repeatable")
    parser.add_argument("--out", type=Path, help="the folder for accuracy.md and accuracy.svg")
    parser.add_argument("--small", action="store_true", help="check within seconds that everything works")
    parser.add_argument("--no-uprobes", action="store_true", help="with --small: skip the uprobes")
    given = parser.parse_args(arguments)
    stages = given.only or STAGES
    given.data.mkdir(parents=True, exist_ok=True)
    programs = program.build_all(given.data, SMALL_BUILDS if given.small else program.BUILDS)
    if given.small:
        print(json.dumps(small(given.data, programs, not given.no_uprobes), indent=1))
        return 0
    for _ in range(given.turns):
        if "truth" in stages:
            measure_truth(given.data, programs, given.rounds, (given.cpu, _another_cpu(given.cpu)))
        if "calibrate" in stages:
            calibrate(given.data, given.seconds, given.cpu)
    if "image" in stages:
        calibrate_images(given.data, programs, given.seconds, given.cpu)
    if "counts" in stages:
        cross_check(given.data, programs)
    if "page" in stages:
        page.write(given.data, given.out)
    return 0


if __name__ == "__main__":
    sys.exit(main())
