"""Is the trial right? Try programs in place, and time the same programs with the same bytes changed on disk.

    .venv/bin/python benchmarks/trial/campaign.py [--out docs/accuracy-trial.md]

For each kind of work, size of memory and place of the fence:

- trial: `xtrace trial` of a running worker;
- truth: the worker as built, and a copy with the same bytes exchanged in the file, run as whole processes in
  random order until the truth's 95 % interval is no wider than the trial's, or --truth-seconds are spent;
- rebuilt: the worker compiled without fences, run in between, which shows what the compiler gains on top.

Each result is added to --results at once, one line of JSON, so the campaign can be stopped and started again,
also in another clone: it measures what is not there yet.  --only-page writes the page of what there is.
Needs gcc, util-linux (taskset, setarch) and two processors.

All workers run at the same addresses (setarch -R): where the stack lies changes what a small loop takes, and
a trial measures one process.
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
from datetime import UTC, datetime
from functools import cache
from pathlib import Path
from typing import Any

import campaign_page

from xtrace import __version__
from xtrace.analysis.trial.result import read
from xtrace.probes.timing import this_host
from xtrace.probes.timing.native import Native
from xtrace.symbols import Verdict, find_sites, open_image
from xtrace.symbols.patching.plan import plan
from xtrace.symbols.replay import timed_loop

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


def _placed(program: Path, cpu: int, *arguments: str) -> list[str]:
    return ["setarch", "-R", "taskset", "-c", str(cpu), str(program), *arguments]


@contextmanager
def working(program: Path, *arguments: str, cpu: int = WORKER_CPU) -> Iterator[int]:
    """Run a worker until the end of the context."""
    process = subprocess.Popen(_placed(program, cpu, *arguments), stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout is not None
        process.stdout.readline()
        yield process.pid
    finally:
        process.send_signal(signal.SIGTERM)
        process.communicate()


def one_trial(program: Path, which: Configuration, seconds: float, seed: int, folder: Path) -> dict[str, Any]:
    """Run a trial; return the figures that are kept of it, or why it failed."""
    result = folder / "trial.json"
    command = [*XTRACE, "trial", "--image", str(program), "--counter", "worker_units", "--json", "-f"]
    command += ["-d", str(seconds), "--precision", "0.1", "--seed", str(seed), "-o", str(result)]
    with working(program, which.work, str(which.kilobytes)) as pid:
        done = subprocess.run(
            ["taskset", "-c", str(TRIAL_CPU), *command, "--pid", str(pid)],
            check=False,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
        )
    if done.returncode:
        return {"failed": done.stderr.strip().splitlines()[-1]}
    found = read(result)
    result.unlink()
    every, again = found.group("all"), found.group("A/A")
    return {
        "saved": asdict(every.saved),
        "again": asdict(again.saved),
        "carried": asdict(found.carried),
        "unit_ns": found.unit_ns.value,
        "tsc_hz": found.tsc_hz,
        "seconds": found.seconds,
        "blocks": found.block_count,
        "slice_s": found.slice_s,
        "lengthened": found.lengthened_count,
        "ended_by": found.ended_by,
        "running_ratio": found.running_ratio,
    }


def units_of(program: Path, which: Configuration, units: int) -> float:
    """Return the running time per unit of a whole process."""
    command = _placed(program, WORKER_CPU, which.work, str(which.kilobytes), "--units", str(units))
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    counts = json.loads(done.stdout.splitlines()[-1])
    return float(counts["running_ns"]) / float(counts["units"])


class Truth:
    """Whole runs of the programs, in rounds of one run each, before and after the trial.

    Half of the least number comes first, so that what slowly changes on the machine weighs on both sides.

    Args:
        seconds: at most, unless there are fewer than the least number of rounds.
    """

    def __init__(
        self, programs: dict[str, Path], which: Configuration, seconds: float, draw: random.Random
    ) -> None:
        self._programs, self._which = programs, which
        self._left, self._draw = seconds, draw
        self._units = 2_000
        self.rounds: list[dict[str, float]] = []

    def before(self) -> None:
        """Find out how many units take long enough; run the first rounds."""
        first = units_of(self._programs["as built"], self._which, self._units)
        self._units = max(int(RUN_S * 1e9 / first), self._units)
        while len(self.rounds) < campaign_page.LEAST_ROUNDS // 2:
            self._round()

    def after(self, half: float) -> None:
        """Run rounds until the interval's half-width is ``half``, or time is up."""
        while len(self.rounds) < campaign_page.LEAST_ROUNDS or (
            self._left > 0 and campaign_page.saved_by(self.rounds, "patched").half > half
        ):
            self._round()

    def _round(self) -> None:
        begin = time.monotonic()
        order = self._draw.sample(sorted(self._programs), len(self._programs))
        ns = {name: units_of(self._programs[name], self._which, self._units) for name in order}
        self.rounds.append({name: round(value, 4) for name, value in ns.items()})
        self._left -= time.monotonic() - begin


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
    loads = [os.getloadavg()[0]]
    with neighbour(program, which.neighbour):
        true = Truth(programs, which, given.truth_seconds, random.Random(seed))
        true.before()
        tried = one_trial(program, which, given.seconds, seed, folder)
        if "failed" not in tried:
            true.after((tried["saved"]["high"] - tried["saved"]["low"]) / 2)
    loads.append(os.getloadavg()[0])
    return {
        **asdict(which),
        "host": host(),
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "xtrace": __version__,
        "processors": len(os.sched_getaffinity(0)),
        "load_average": [round(load, 2) for load in loads],
        "seed": seed,
        "trial": tried,
        "rounds": true.rounds,
        "model_width_cycles": campaign_page.model_width(
            folder / "calibration.json", which.fence, which.place
        ),
    }


@cache
def host() -> dict[str, str]:
    """Return what this machine is."""
    facts = this_host.facts(this_host.signatures(Native(timed_loop.cpuid_stub())))
    return {name: facts[name] for name in ("cpu_model", "hypervisor", "kernel")}


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
    parser.add_argument("--data", type=Path, default=Path("build/trial"), help="the folder for programs")
    parser.add_argument("--results", type=Path, default=HERE / "results.jsonl", help="one line each")
    parser.add_argument("--seconds", type=float, default=20.0, help="of each trial, at most")
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
    if None in map(shutil.which, ("taskset", "setarch")) or len(os.sched_getaffinity(0)) < TRIAL_CPU + 1:
        parser.error("needs taskset, setarch and two processors")
    rows = campaign_page.read_rows(given.results)
    done = {
        Configuration(**{key: row[key] for key in Configuration.__slots__})
        for row in rows
        if all(row["host"][name] == host()[name] for name in ("cpu_model", "hypervisor"))
    }
    wanted = configurations(given.fence, False) + configurations(given.fence, True)[: given.neighbours]
    end = time.monotonic() + 60 * given.minutes if given.minutes else float("inf")
    if not given.only_page:
        calibrated(given.data, given.quick)
        for which in [item for item in wanted if item not in done][: given.most]:
            if time.monotonic() > end:
                break
            row = measure(which, given, len(rows))
            rows.append(row)
            with given.results.open("a") as file:
                file.write(json.dumps(row) + "\n")
            sys.stderr.write(campaign_page.line_of(row) + "\n")
    text = campaign_page.page(rows, len(wanted))
    if given.out is None:
        sys.stdout.write(text)
    else:
        given.out.write_text(text)
    return 0


if __name__ == "__main__":
    sys.exit(main())
