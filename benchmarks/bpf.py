"""Measure what recording by bpf costs: the traced call, each program, the recorder itself, lost events.

    PYTHONPATH=. /usr/bin/python3 benchmarks/bpf.py [--seconds 5]

Needs root, gcc, tracefs mounted and bcc (Debian: python3-bpfcc) in the system's Python.  A getppid loop plays
the traced kernel.  Functions of an executable with the names of kernel functions, with uprobes, play those
that have kprobes: the same programs run, and only the trap into them differs.  No test checks the results.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

from xtrace.probes.bpf import ctf_writer, functions, loader, tables
from xtrace.probes.bpf.abi import EVENT_BYTES, Counter
from xtrace.probes.bpf.rings import Rings
from xtrace.probes.capture.stream import Lines
from xtrace.probes.capture.writer import CaptureWriter

HERE = Path(__file__).resolve().parent
KERNEL = HERE.parent / "tests" / "probes" / "bpf" / "kernel.c"
SOURCE = HERE / "bpf_load.bpf.c"
STATISTICS = Path("/proc/sys/kernel/bpf_stats_enabled")
POLL_S = 0.1
#: What is attached to a system call, (program, raw tracepoint) each, and whether it streams.
WAYS: dict[str, tuple[tuple[tuple[str, str], ...], bool]] = {
    "no program": ((), False),
    "an empty program": ((("nothing", "sys_enter"),), False),
    "count": ((("counted", "sys_enter"),), False),
    "duration and histogram": ((("ended", "sys_exit"), ("begun", "sys_enter")), False),
    "count, streamed": ((("counted", "sys_enter"),), True),
    "duration and histogram, streamed": ((("ended", "sys_exit"), ("begun", "sys_enter")), True),
}


class Recorder:
    """Load the benchmark's programs for one load process and drain them as the backend does."""

    def __init__(
        self, pid: int, probes: Sequence[tuple[str, str]], directory: Path, *, streams: bool
    ) -> None:
        cpus = loader.possible_cpus()
        settings = {"OWN_PID": os.getpid(), "LOAD_PID": pid, "TALLIES": 4096, "BUCKETS": 32768, "CPUS": cpus}
        self.program = loader.Program(str(SOURCE), settings | ({"STREAM": 1} if streams else {}))
        self.drain = tables.Drain(self.program)
        self.capture = CaptureWriter(directory)
        self.rings: Rings | None = None
        self._lines = Lines(self.capture.stream("bpf/tables.jsonl"))
        if streams:
            self.rings = Rings(self.program, self.drain, cpus, EVENT_BYTES)
            self.rings.open(self.capture, "events")
            self.rings.describe(self.capture, "events", ctf_writer.event_metadata())
        for name, tracepoint in probes:
            self.program.attach(loader.Probe(name, "raw", tracepoint))
        self.program.switch(on=True)

    def run(self, process: subprocess.Popen[str]) -> float:
        """Drain until the load ends; return the share of a CPU that this took."""
        begin, before = time.monotonic(), _own_cpu_s()
        due = begin + 1
        while process.poll() is None:
            time.sleep(POLL_S)
            if self.rings is not None:
                self.rings.take()
            if time.monotonic() >= due:
                due += 1
                self._lines.write(self.drain.difference())
                self.capture.flush()
        return (_own_cpu_s() - before) / (time.monotonic() - begin)

    def close(self) -> tuple[int, int, int]:
        """Return the numbers of events counted, records written and records dropped."""
        self.program.detach()
        if self.rings is not None:
            self.rings.finish()
        self.drain.difference()
        dropped = self.drain.counters()[Counter.DROPPED]
        written = self.rings.record_count if self.rings else 0
        if self.rings is not None:
            self.rings.close()
        self.program.close()
        self.capture.close()
        return sum(self.drain.totals.values()), written, dropped


def _own_cpu_s() -> float:
    used = resource.getrusage(resource.RUSAGE_SELF)
    return used.ru_utime + used.ru_stime


@contextlib.contextmanager
def _load(executable: Path, rate: int, seconds: float) -> Iterator[subprocess.Popen[str]]:
    """Start the load; it waits for a byte, so that the programs know its pid before it calls."""
    line = f"read go; exec taskset -c 0 {executable} {rate} {seconds}"
    with subprocess.Popen(
        ["/bin/sh", "-c", line], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        yield process


def _go(process: subprocess.Popen[str]) -> None:
    assert process.stdin is not None
    process.stdin.write("go\n")
    process.stdin.flush()


def latency(executable: Path, scratch: Path, seconds: float) -> None:
    """Print what each way adds to a system call."""
    print("system call with       | calls/s | p50 ns | p99 ns | p99.9 ns")
    for number, (name, (probes, streams)) in enumerate(WAYS.items()):
        with _load(executable, 0, seconds) as process:
            recorder = Recorder(process.pid, probes, scratch / f"latency_{number}", streams=streams)
            _go(process)
            recorder.run(process)
            recorder.close()
            assert process.stdout is not None
            calls, p50, p99, p999 = map(int, process.stdout.read().split())
        shutil.rmtree(scratch / f"latency_{number}")
        print(f"{name:<33} | {calls / seconds:>9,.0f} | {p50:>5} | {p99:>5} | {p999:>6}")


def recorder_share(executable: Path, scratch: Path, seconds: float) -> None:
    """Print the recorder's share of a CPU at several rates, and the lost events."""
    print("\nevents/s asked | streamed | CPU of the recorder |    events |   written | dropped")
    for rate in (10_000, 300_000, 1_000_000):
        for streams in (False, True):
            with _load(executable, rate, seconds) as process:
                recorder = Recorder(process.pid, WAYS["count"][0], scratch / "rate", streams=streams)
                _go(process)
                share = recorder.run(process)
                events, written, dropped = recorder.close()
            shutil.rmtree(scratch / "rate")
            how = "yes" if streams else "no"
            print(f"{rate:>14,} | {how:>8} | {share:>18.1%} | {events:>9,} | {written:>9,} | {dropped:>7,}")


def programs(scratch: Path) -> None:
    """Print the time per run of each program, as measured by the kernel."""
    executable = scratch / "kernel"
    subprocess.run(["gcc", "-O1", "-no-pie", "-o", executable, KERNEL], check=True)
    how: dict[str, loader.How] = {"kprobe": "uprobe", "kretprobe": "uretprobe"}
    targets = {
        "upcall": "xen_evtchn_do_upcall", "port": "handle_irq_for_port", "late_eoi": "xen_irq_lateeoi",
        "send": "notify_remote_via_irq", "send_ipi": "xen_send_IPI_one", "device_event": "evtchn_interrupt",
        "privcmd": "privcmd_ioctl",
    }  # fmt: skip
    cpus = loader.possible_cpus()
    settings = {"OWN_PID": os.getpid(), "TALLIES": 4096, "BUCKETS": 32768, "CPUS": cpus, "SCHED": 1}
    before = STATISTICS.read_text()
    found: list[dict[str, tuple[int, int]]] = []
    try:
        STATISTICS.write_text("1")
        for streams in (False, True):
            program = loader.Program("dom0.bpf.c", settings | ({"STREAM": 1} if streams else {}))
            drain = tables.Drain(program)
            rings = Rings(program, drain, cpus, EVENT_BYTES) if streams else None
            capture = CaptureWriter(scratch / f"programs_{streams}")
            if rings is not None:
                rings.open(capture, "events")
            for role in functions.ROLES:
                for probe in functions.probes_of(role, targets[role.name]):
                    hook = loader.Probe(probe.program, how[probe.how], probe.target, str(executable))
                    program.attach(hook)
            for probe in (
                *functions.RAW_TRACEPOINTS,
                *functions.SCHED_TRACEPOINTS,
                *functions.vector_probes(),
            ):
                program.attach(probe)
            program.switch(on=True)
            subprocess.run(["taskset", "-c", "0", executable, "20000", "2", "60000"], check=False)
            program.switch(on=False)
            found.append(program.run_times())
            if rings is not None:
                rings.close()
            program.close()
            capture.close()
    finally:
        STATISTICS.write_text(before)
    print("\nprogram        | runs     | ns/run | streamed ns/run")
    for name, (runs, ns) in sorted(found[0].items()):
        streamed_runs, streamed_ns = found[1].get(name, (0, 0))
        streamed = f"{streamed_ns / streamed_runs:.0f}" if streamed_runs else "-"
        print(f"{name:<14} | {runs:>8,} | {ns / runs if runs else 0:>6.0f} | {streamed:>6}")


def main(arguments: Sequence[str]) -> int:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--seconds", type=float, default=5)
    seconds = parser.parse_args(arguments).seconds
    with tempfile.TemporaryDirectory(prefix="xtrace-bench-") as folder:
        scratch = Path(folder)
        executable = scratch / "bpf_load"
        subprocess.run(["gcc", "-O2", "-o", executable, HERE / "bpf_load.c"], check=True)
        latency(executable, scratch, seconds)
        recorder_share(executable, scratch, seconds)
        programs(scratch)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
