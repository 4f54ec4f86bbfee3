"""End real recordings badly, hundreds of times: `kill -9` at a random moment, a disk that fills up.

    python -m soak.ends kill COUNT [FOLDER]      by bpf, bpf with events and perf in turn; as root, with bcc
    python -m soak.ends disk COUNT [FOLDER]      on a tmpfs of random size that another process may fill
    python -m soak.ends page [FOLDER]            what was found so far, as a table

FOLDER (build/ends) keeps a line per recording, and a campaign goes on where it was stopped.  Each recording
is a process of its own: build/xtrace.pyz, as on a dom0.  All share one folder of notes, so that each start
finds what the one before left.
"""

from __future__ import annotations

import contextlib
import io
import json
import os
import random
import select
import shutil
import signal
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import leftovers
from xtrace.cli.main import main as xtrace
from xtrace.probes.capture.layout import PROGRESS, open_capture
from xtrace.probes.errors import TraceError
from xtrace.probes.host.run_folder import BPF_SCRATCH, RUN_DIRECTORY_VARIABLE

ROOT = Path(__file__).parents[2]
PYTHON = "/usr/bin/python3"
KINDS = (("bpf",), ("bpf", "--events"), ("perf",))
#: A third are killed up to EARLY_S after their start, while programs are compiled and attached; the others up
#: to LATE_S after recording began.
EARLY_S, LATE_S = 3.0, 2.5
BEGIN_LIMIT_S, END_LIMIT_S = 600.0, 300.0
#: Every so many kills a recording ends normally, and must leave nothing at all.
NORMAL_EVERY = 50


class Recorder:
    """A recorder that was started."""

    def __init__(self, folder: Path, output: Path, kind: tuple[str, ...], *options: str) -> None:
        self.command = [
            PYTHON, "-I", str(folder / "xtrace.pyz"), "record", "--backend", *kind, "-o", str(output),
            *options,
        ]  # fmt: skip
        self.said = b""
        self.process = subprocess.Popen(
            self.command, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE,
            env={"PATH": os.environ["PATH"], RUN_DIRECTORY_VARIABLE: str(folder / "run")},
        )  # fmt: skip

    def has_begun(self, limit_s: float) -> bool:
        """Wait until it records, ends, or the time is over; return whether it records."""
        assert self.process.stderr is not None
        end = time.monotonic() + limit_s
        while b"recording by" not in self.said and (left := end - time.monotonic()) > 0:
            if not select.select([self.process.stderr], [], [], left)[0]:
                break
            if not (more := os.read(self.process.stderr.fileno(), 4096)):
                break
            self.said += more
        return b"recording by" in self.said

    def ended(self) -> int:
        """Wait until it has ended; return the exit code."""
        _, rest = self.process.communicate(timeout=END_LIMIT_S)
        self.said += rest
        return self.process.returncode

    def kill(self) -> None:
        """Kill it, as `kill -9` does."""
        self.process.send_signal(signal.SIGKILL)
        self.process.communicate()


def killed(folder: Path, seed: int) -> dict[str, Any]:
    """Kill a recorder at a random moment; return what was found."""
    chance = random.Random(seed)
    kind = KINDS[seed % len(KINDS)]
    output = folder / "killed.xtrace"
    shutil.rmtree(output, ignore_errors=True)
    faults = []
    recorder = Recorder(folder, output, kind, "-d", "600")
    if chance.random() < 1 / 3:
        begun = recorder.has_begun(chance.uniform(0, EARLY_S))
    else:
        begun = recorder.has_begun(BEGIN_LIMIT_S)
        if not begun:
            faults.append(f"did not begin: {recorder.said.decode()[-300:]}")
        faults += _after_a_start(folder / "run") if begun else []
        time.sleep(chance.uniform(0, LATE_S))
    now_ns = time.monotonic_ns()
    recorder.kill()
    age_s = None
    if output.exists():
        age_s = _age_s(output, now_ns)
        # In its first second it may have nothing to show yet.
        faults += _readable(output, begun=age_s is not None)
    elif begun:
        faults.append("no capture")
    faults += [f"left: {one}" for one in _in_kernel()]
    return {"seed": seed, "kind": " ".join(kind), "begun": begun, "age_s": age_s, "faults": faults}


def normal(folder: Path) -> list[str]:
    """Record for a moment; return what that left, or left of recorders before it."""
    output = folder / "normal.xtrace"
    shutil.rmtree(output, ignore_errors=True)
    recorder = Recorder(folder, output, KINDS[0], "-d", "0.2")
    if code := recorder.ended():
        return [f"exit code {code}: {recorder.said.decode()[-300:]}"]
    there = sorted(path.name for path in (folder / "run").iterdir() if path.name != "lock")
    return [*_readable(output), *(f"left in /run: {name}" for name in there)]


def _after_a_start(run: Path) -> list[str]:
    """Return what recorders before the running one left, although it has started."""
    names = [path.name for path in run.iterdir()]
    scratch = [name for name in names if name.startswith(BPF_SCRATCH)]
    return [f"left in /run: {name}" for name in scratch] if scratch else []


def _in_kernel() -> set[str]:
    """Return the probes and programs that no process holds, once the kernel had time to remove them."""
    end = time.monotonic() + 5
    while (found := leftovers.probes()) and time.monotonic() < end:
        time.sleep(0.2)
    return found


def _readable(output: Path, *, begun: bool = True) -> list[str]:
    """Return why `xtrace info` and `xtrace report` cannot read a capture, or cannot say what is wrong.

    One that had not begun to record may have nothing to show, which is said in one line.
    """
    found = []
    try:
        open_capture(output)
    except TraceError as error:
        # Killed before the first meta.json was in its place: nothing was recorded yet.
        return [] if not (output / "meta.json").exists() else [str(error)]
    for command in ("info", "report"):
        with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()) as said:
            code = xtrace([command, str(output)])
        refused = not begun and code == 1 and said.getvalue().count("\n") == 1
        if code and not refused:
            found.append(f"{command}: exit code {code}: {said.getvalue()[-300:]}")
    return found


def _age_s(output: Path, now_ns: int) -> float | None:
    """Return how old the last whole line of progress was when the recorder was killed; None without one."""
    try:
        lines = (output / PROGRESS).read_bytes().split(b"\n")[:-1]
    except OSError:
        return None
    times = [json.loads(line)["monotonic_ns"] for line in lines if b'"progress"' in line]
    return (now_ns - times[-1]) / 1e9 if times else None


def full(folder: Path, seed: int) -> dict[str, Any]:
    """Record on a small disk, which something else fills at a random moment; return what was found."""
    chance = random.Random(seed)
    kind = KINDS[seed % len(KINDS)]
    disk = folder / "disk"
    disk.mkdir(exist_ok=True)
    size_kib = round(2 ** chance.uniform(7, 12))
    subprocess.run(
        ["mount", "-t", "tmpfs", "-o", f"size={size_kib}k,mode=700", "none", str(disk)], check=True
    )
    faults = []
    try:
        output = disk / "full.xtrace"
        recorder = Recorder(folder, output, kind, "-d", "600", "--reserve", "0")
        begun = recorder.has_begun(BEGIN_LIMIT_S)
        if begun:
            time.sleep(chance.uniform(0, LATE_S))
            _fill(disk / "filler")
        try:
            code = recorder.ended()
        except subprocess.TimeoutExpired:
            recorder.kill()
            code = None
        said = recorder.said.decode()
        if code != 1:
            faults.append(f"exit code {code}: {said[-300:]}")
        last = said.splitlines()[-1]
        if "Traceback" in said or not ("disk" in last or "space" in last):
            faults.append(f"said {said[-300:]}")
        if begun:
            faults += _readable(output)
            meta = open_capture(output).meta
            if (meta["state"], meta["end_reason"]) != ("ended", "disk"):
                faults.append(f"meta.json: {meta['state']}, {meta['end_reason']}")
        elif output.exists():
            faults.append("a capture, although nothing was recorded")
    finally:
        subprocess.run(["umount", str(disk)], check=True)
    there = [path.name for path in (folder / "run").iterdir() if path.name != "lock"]
    faults += [f"left: {one}" for one in (*_in_kernel(), *there)]
    return {"seed": seed, "kind": " ".join(kind), "begun": begun, "size_kib": size_kib, "faults": faults}


def _fill(path: Path) -> None:
    with contextlib.suppress(OSError), path.open("wb", buffering=0) as file:
        while True:
            file.write(bytes(4096))


def _kept(folder: Path, what: str) -> Iterator[dict[str, Any]]:
    with contextlib.suppress(FileNotFoundError):
        for line in (folder / f"{what}.jsonl").read_text().splitlines():
            yield json.loads(line)


def campaign(what: str, count: int, folder: Path) -> int:
    """Go on until there are ``count`` recordings; return the exit code."""
    folder.mkdir(parents=True, exist_ok=True)
    done = sum(1 for _ in _kept(folder, what))
    if not (folder / "xtrace.pyz").exists():
        subprocess.run([sys.executable, ROOT / "tools" / "zipapp.py", folder / "xtrace.pyz"], check=True)
    with (folder / f"{what}.jsonl").open("a") as file:
        for seed in range(done, count):
            row = killed(folder, seed) if what == "kill" else full(folder, seed)
            if what == "kill" and seed % NORMAL_EVERY == NORMAL_EVERY - 1:
                row["faults"] += normal(folder)
            file.write(json.dumps(row) + "\n")
            file.flush()
            for fault in row["faults"]:
                sys.stdout.write(f"{what} {seed} {row['kind']}: {fault}\n")
                sys.stdout.flush()
    return int(any(row["faults"] for row in _kept(folder, what)))


def page(folder: Path) -> None:
    """Print a line for each kind of recording."""
    for what in ("kill", "disk"):
        rows = list(_kept(folder, what))
        for kind in sorted({row["kind"] for row in rows}):
            chosen = [row for row in rows if row["kind"] == kind]
            ages = [row["age_s"] for row in chosen if row.get("age_s") is not None]
            cells = [
                what, kind, str(len(chosen)), str(sum(row["begun"] for row in chosen)),
                str(sum(bool(row["faults"]) for row in chosen)),
                f"{statistics.median(ages):.2f}, {max(ages):.2f}" if ages else "",
            ]  # fmt: skip
            sys.stdout.write(f"| {' | '.join(cells)} |\n")


def main(arguments: list[str]) -> int:
    """Run what is asked for; return the exit code."""
    what, rest = arguments[0], arguments[1:]
    if what == "page":
        page(Path(rest[0] if rest else "build/ends"))
        return 0
    return campaign(what, int(rest[0]), Path(rest[1] if len(rest) > 1 else "build/ends").absolute())


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
