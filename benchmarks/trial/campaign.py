"""Is the trial right? Try programs in place, and time the same programs with the same bytes changed on disk.

    .venv/bin/python benchmarks/trial/campaign.py [--out docs/accuracy-trial.md]

For each kind of work, size of memory and place of the fence:

- trial: `xtrace trial` of a running worker;
- truth: the worker as built, and a copy with the same bytes exchanged in the file, run as whole processes in
  random order until the truth's 95 % interval is no wider than the trial's, or --truth-seconds are spent;
- rebuilt: the worker compiled without fences, run in between, which shows what the compiler gains on top.

Each result is kept in --data at once, so the campaign can be stopped and started again; it goes on where it
was.  --only-page writes the page of what there is.  Needs gcc and two processors.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import campaign_page

from xtrace.analysis.trial.result import read
from xtrace.symbols import Verdict, find_sites, open_image
from xtrace.symbols.patching.plan import plan

HERE = Path(__file__).parent
XTRACE = (sys.executable, "-c", "import sys; from xtrace.cli.start import main; sys.exit(main())")
WORKS = [
    "hash",
    "list",
    "copy",
    "slab",
    "queue",
    "spl",
    "callout",
    "checksum",
    "tree",
    "bitmap",
    "pages",
    "lru",
    "sort",
    "clear",
    "names",
]  # works.h
KILOBYTES = (16, 512, 8192, 262_144)  # the first, second and third cache, and memory
PLACES = ("inline", "outofline")
WORKER_CPU, TRIAL_CPU = 0, 1
#: How long a whole process runs for the truth.
RUN_S = 0.4
NEIGHBOUR = ("copy", "262144")


@dataclass(frozen=True, slots=True)
class Configuration:
    """What is tried."""

    fence: str
    place: str
    work: str
    kilobytes: int
    neighbour: bool = False


def configurations(fence: str, neighbour: bool) -> list[Configuration]:
    """Return all, in an order in which a campaign that is cut short has some of everything."""
    found = [
        Configuration(fence, place, work, size, neighbour)
        for size in KILOBYTES
        for work in WORKS
        for place in PLACES
    ]
    random.Random(1).shuffle(found)
    return found


def build(folder: Path, fence: str, place: str) -> Path:
    """Compile a worker, if it is not there."""
    program = folder / f"worker-{fence}-{place}"
    if not program.exists():
        subprocess.run(["/bin/sh", str(HERE / "build.sh"), str(folder), fence, place], check=True)
    return program


def patched(program: Path) -> Path:
    """Return a copy of a program in which every fence that the plan exchanges is exchanged in the file."""
    target = program.with_name(f"{program.name}.patched")
    image = open_image(program)
    data = bytearray(program.read_bytes())
    allowed = {Verdict.REMOVABLE, Verdict.REPLACEABLE}
    for item in plan(image, find_sites(image, lines=False), allowed).exchanges:
        section = image.section_at(item.address)
        assert section is not None
        at = section.offset + item.address - section.address
        assert data[at : at + len(item.original)] == item.original
        data[at : at + len(item.removed)] = item.removed
    target.write_bytes(data)
    target.chmod(0o755)
    return target


@contextmanager
def working(program: Path, *arguments: str, cpu: int = WORKER_CPU) -> Iterator[int]:
    """Run a worker until the end of the context."""
    command = ["taskset", "-c", str(cpu), str(program), *arguments]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout is not None
        process.stdout.readline()
        yield process.pid
    finally:
        process.send_signal(signal.SIGTERM)
        process.communicate()


def one_trial(program: Path, which: Configuration, seconds: float, seed: int, folder: Path) -> dict[str, Any]:
    """Run a trial; return the figures that are kept of it."""
    result = folder / "trial.json"
    command = [*XTRACE, "trial", "--image", str(program), "--counter", "worker_units", "--json", "-f"]
    command += ["-d", str(seconds), "--precision", "0.1", "--seed", str(seed), "-o", str(result)]
    with working(program, which.work, str(which.kilobytes)) as pid:
        subprocess.run(
            ["taskset", "-c", str(TRIAL_CPU), *command, "--pid", str(pid)],
            check=True,
            stdout=subprocess.DEVNULL,
        )
    found = read(result)
    result.unlink()
    every, again = found.group("all"), found.group("A/A")
    return {
        "saved": asdict(every.saved),
        "again": asdict(again.saved),
        "unit_ns": found.unit_ns.value,
        "tsc_hz": found.tsc_hz,
        "seconds": found.seconds,
        "blocks": found.block_count,
        "slice_s": found.slice_s,
        "ended_by": found.ended_by,
        "load": found.running_ratio,
        "host": found.host,
    }


def units_of(program: Path, which: Configuration, units: int) -> float:
    """Return the running time per unit of a whole process."""
    done = subprocess.run(
        [
            *("taskset", "-c", str(WORKER_CPU), str(program), which.work, str(which.kilobytes)),
            *("--units", str(units)),
        ],
        check=True,
        capture_output=True,
        text=True,
    )
    counts = json.loads(done.stdout.splitlines()[-1])
    return float(counts["running_ns"]) / float(counts["units"])


def truth(
    programs: dict[str, Path], which: Configuration, unit_ns: float, half: float, seconds: float, seed: int
) -> Iterator[dict[str, float]]:
    """Yield rounds of one run of each program, until the interval is narrow enough or time is up."""
    units = max(int(RUN_S * 1e9 / unit_ns), 2_000)
    draw = random.Random(seed)
    end = time.monotonic() + seconds
    rounds: list[dict[str, float]] = []
    while time.monotonic() < end or len(rounds) < campaign_page.LEAST_ROUNDS:
        order = draw.sample(sorted(programs), len(programs))
        ns = {name: units_of(programs[name], which, units) for name in order}
        rounds.append(ns)
        yield ns
        if len(rounds) >= campaign_page.LEAST_ROUNDS:
            found = campaign_page.saved_by(rounds, "patched")
            if found.half <= half:
                return


@contextmanager
def neighbour(program: Path, wanted: bool) -> Iterator[None]:
    """Keep the other processor busy with traffic to memory, if wanted."""
    if not wanted:
        yield
        return
    with working(program, *NEIGHBOUR, cpu=TRIAL_CPU):
        yield


def measure(which: Configuration, given: argparse.Namespace, seed: int) -> dict[str, Any]:
    """Return trial and truth of one configuration."""
    folder = given.data
    program = build(folder, which.fence, which.place)
    programs = {
        "as built": program,
        "patched": patched(program),
        "rebuilt": build(folder, "none", which.place),
    }
    with neighbour(program, which.neighbour):
        tried = one_trial(program, which, given.seconds, seed, folder)
        half = (tried["saved"]["high"] - tried["saved"]["low"]) / 2
        rounds = list(truth(programs, which, tried["unit_ns"], half, given.truth_seconds, seed))
    return {**asdict(which), "seed": seed, "trial": tried, "rounds": rounds}


def calibrated(folder: Path, quick: bool) -> None:
    """Calibrate this host, for the model's intervals; once."""
    target = folder / "calibration.json"
    if not target.exists():
        options = ["--cpu", str(WORKER_CPU), "-o", str(target), *(["--quick"] if quick else [])]
        subprocess.run([*XTRACE, "calibrate", *options], check=False, stdout=subprocess.DEVNULL)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the campaign, or what is left of it."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", type=Path, default=Path("build/trial"), help="the folder for results")
    parser.add_argument("--seconds", type=float, default=4.0, help="of each trial, at most")
    parser.add_argument("--truth-seconds", type=float, default=240.0, help="of each truth, at most")
    parser.add_argument("--fence", default="lfence", help="lfence, mfence, sfence, lockadd or xchg")
    parser.add_argument("--neighbours", type=int, default=20, help="configurations beside a busy neighbour")
    parser.add_argument("--most", type=int, help="measure at most this many configurations now")
    parser.add_argument("--minutes", type=float, help="begin none after this time")
    parser.add_argument("--quick", action="store_true", help="calibrate for 5 s instead of 45")
    parser.add_argument("--only-page", action="store_true", help="measure nothing")
    parser.add_argument("--out", type=Path, help="the page to write")
    given = parser.parse_args(arguments)
    given.data.mkdir(parents=True, exist_ok=True)
    if shutil.which("taskset") is None or len(os.sched_getaffinity(0)) < TRIAL_CPU + 1:
        parser.error("needs taskset and two processors")
    rows_path = given.data / "results.jsonl"
    rows = campaign_page.read_rows(rows_path)
    done = {Configuration(**{key: row[key] for key in Configuration.__slots__}) for row in rows}
    wanted = configurations(given.fence, False) + configurations(given.fence, True)[: given.neighbours]
    end = time.monotonic() + 60 * given.minutes if given.minutes else float("inf")
    if not given.only_page:
        calibrated(given.data, given.quick)
        for which in [item for item in wanted if item not in done][: given.most]:
            if time.monotonic() > end:
                break
            row = measure(which, given, len(rows))
            rows.append(row)
            with rows_path.open("a") as file:
                file.write(json.dumps(row) + "\n")
            sys.stderr.write(campaign_page.line_of(row) + "\n")
    text = campaign_page.page(rows, given.data / "calibration.json", len(wanted))
    if given.out is None:
        sys.stdout.write(text)
    else:
        given.out.write_text(text)
    return 0


if __name__ == "__main__":
    sys.exit(main())
