"""Cross-check the program's own counts with the kernel's uprobes.

Needs root and tracefs.  Each probe is on the site's own instruction in the ELF file, which also shows that
the addresses from the finder are those that execute.
"""

from __future__ import annotations

import os
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import found
from elftools.elf.elffile import ELFFile
from program import FENCED, LOOPS, Build, Loop, run

#: A prime, so that it cannot be confused with a multiple of another count.
ROUNDS = 1009
#: All loops with one build, one loop with all builds.
CHECKED = [(Build("lfence", "outofline"), loop) for loop in LOOPS] + [
    (build, LOOPS[1]) for build in FENCED if build != Build("lfence", "outofline")
]
GROUP = f"xtrace_accuracy_{os.getpid()}"


class NoProbesError(Exception):
    """Uprobes cannot be used on this machine; the text says why."""


@contextmanager
def _tracefs() -> Iterator[Path]:
    for place in (Path("/sys/kernel/tracing"), Path("/sys/kernel/debug/tracing")):
        if os.access(place / "uprobe_events", os.W_OK):
            yield place
            return
    with tempfile.TemporaryDirectory() as folder:
        done = subprocess.run(
            ["mount", "-t", "tracefs", "none", folder], capture_output=True, text=True, check=False
        )
        if done.returncode:
            raise NoProbesError(f"cannot mount tracefs: {done.stderr.strip()}")
        try:
            if not os.access(Path(folder, "uprobe_events"), os.W_OK):
                raise NoProbesError("this kernel has no uprobes, or they need root")
            yield Path(folder)
        finally:
            subprocess.run(["umount", folder], check=True)


def file_offset(program: Path, address: int) -> int:
    """Return the file offset of an address in an ELF file."""
    with program.open("rb") as file:
        for segment in ELFFile(file).iter_segments("PT_LOAD"):
            if segment["p_vaddr"] <= address < segment["p_vaddr"] + segment["p_filesz"]:
                return int(address - segment["p_vaddr"] + segment["p_offset"])
    raise ValueError(f"{program} has nothing at {address:#x}")


def counted(
    program: Path, addresses: dict[str, int], loop: Loop, rounds: int
) -> tuple[dict[str, int], dict[str, Any]]:
    """Run a loop under uprobes; return the hits at each named address, and the program's output.

    Raises:
        NoProbesError: uprobes cannot be used, or the kernel missed hits.
    """
    with _tracefs() as trace:
        events = trace / "uprobe_events"
        for name, address in addresses.items():
            _append(events, f"p:{GROUP}/{name} {program.resolve()}:{file_offset(program, address):#x}")
        try:
            (trace / "events" / GROUP / "enable").write_text("1")
            told = run(program, [loop], rounds=rounds, batches=1, period_us=500)
            (trace / "events" / GROUP / "enable").write_text("0")
            hits = _profile((trace / "uprobe_profile").read_text(), program)
        finally:
            for name in addresses:
                _append(events, f"-:{GROUP}/{name}")
    return hits, told


def check(program: Path, build: Build, loop: Loop, rounds: int = ROUNDS) -> dict[str, dict[str, int]]:
    """Return the counts of uprobes and of the program by place.

    Raises:
        NoProbesError: uprobes cannot be used, or the kernel missed hits.
    """
    known, _ = found.sites(program)
    of_loop = found.of_loop(known, loop)
    addresses = {str(site.kind): site.address for site in of_loop}
    addresses |= {
        name.replace(" ", "_"): site.address
        for site in known
        for name in [str(site.kind)]
        if name in ("pending clear", "force callback")
    }
    # Linux refuses a uprobe on an instruction with a lock prefix.
    callee = next(
        (
            fence.address
            for site in of_loop
            for fence in site.fences
            if fence.via and not fence.mnemonic.startswith("lock")
        ),
        None,
    )
    if callee is not None:
        addresses["fence"] = callee
    hits, told = counted(program, addresses, loop, rounds)
    said = {entry["kind"]: entry["count"] for entry in told["loops"][0]["executions"]}
    said |= {"pending_clear": told["upcall_count"], "force_callback": told["forced_callback_count"]}
    if callee is not None:
        said["fence"] = sum(said[str(site.kind)] for site in of_loop)
    return {name: {"uprobes": hits.get(name, 0), "program": said[name]} for name in addresses}


def _append(events: Path, line: str) -> None:
    # Python's own append mode seeks to the end, which this file refuses.
    descriptor = os.open(events, os.O_WRONLY | os.O_APPEND)
    try:
        os.write(descriptor, f"{line}\n".encode())
    finally:
        os.close(descriptor)


def _profile(text: str, program: Path) -> dict[str, int]:
    # FILE EVENT HITS, and in later kernels MISSES; a file's name may contain spaces.
    hits = {}
    for line in text.splitlines():
        if line.lstrip().startswith(str(program.resolve())):
            name, count, *misses = line.replace(str(program.resolve()), "", 1).split()
            if any(int(number) for number in misses):
                raise NoProbesError(f"the kernel missed hits: {line.strip()}")
            hits[name] = int(count)
    return hits
