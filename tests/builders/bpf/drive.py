"""Actions that tests run with the system's Python, which has bcc but not NumPy or pytest.  Prints JSON."""

from __future__ import annotations

import ctypes
import importlib
import json
import os
import signal
import struct
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from xtrace.probes.bpf import ctf_writer, loader, tables
from xtrace.probes.bpf.abi import EVENT_BYTES, Counter, Kind
from xtrace.probes.bpf.functions import ROLES, probes_of
from xtrace.probes.bpf.rings import Rings
from xtrace.probes.bpf.symbols import Names
from xtrace.probes.capture.writer import CaptureWriter
from xtrace.probes.errors import TraceError
from xtrace.probes.host import privileges
from xtrace.probes.host.run_folder import RUN_DIRECTORY_VARIABLE
from xtrace.probes.recording.backends.base import Backend, Options
from xtrace.probes.recording.backends.bpf import BpfBackend
from xtrace.probes.recording.backends.perf import PerfBackend

_SAMPLE_HZ = 199
_CLONE_NEWNS = 0x20000
_FUNCTIONS = {
    "upcall": "xen_evtchn_do_upcall",
    "port": "handle_irq_for_port",
    "late_eoi": "xen_irq_lateeoi",
    "send": "notify_remote_via_irq",
    "send_ipi": "xen_send_IPI_one",
    "device_event": "evtchn_interrupt",
    "privcmd": "privcmd_ioctl",
}


def probe() -> Any:
    """Check whether bpf works here by loading a program: some containers do not let root do it."""
    reason, _ = loader.why_not()
    if not reason:
        try:
            loader.Program("dom0.bpf.c", _settings()).close()
        except TraceError as error:
            reason = str(error)
    return {"usable": not reason, "reason": reason}


def uprobes(executable: str, *words: str) -> Any:
    """Attach the programs to an executable's functions, run it, and return the counts."""
    program, drain = _on_executable(executable, _settings())
    subprocess.run(["taskset", "-c", "0", executable, *words], check=True)
    found = drain.difference()
    again = drain.difference()
    counters = {counter.name: count for counter, count in drain.counters().items()}
    program.close()
    return {**found, "again": again, "counters": counters}


def overload(executable: str, directory: str, ring_bytes: str, *words: str) -> Any:
    """Stream more than a ring holds while nobody reads it; return how much was read and dropped."""
    capture = CaptureWriter(Path(directory))
    program = loader.Program("dom0.bpf.c", {**_settings(), "STREAM": 1})
    drain = tables.Drain(program)
    rings = Rings(program, drain, loader.possible_cpus(), EVENT_BYTES)
    rings.open(capture, "events", int(ring_bytes))
    rings.describe(capture, "events", ctf_writer.event_metadata())
    _hang_on(program, executable, ("send",))
    # On one CPU, so that one ring gets everything.
    subprocess.run(["taskset", "-c", "0", executable, *words], check=True)
    program.detach()
    rings.finish()
    counters = drain.counters()
    rows = drain.difference()["rows"]
    rings.close()
    program.close()
    capture.close()
    return {
        "written": rings.record_count,
        "streamed": counters[Counter.STREAMED],
        "dropped": counters[Counter.DROPPED],
        "tallied": sum(row[3] for row in rows if row[0] == Kind.SEND),
    }


def no_room(executable: str, *words: str) -> Any:
    """Count more ids than there is room for."""
    program, drain = _on_executable(executable, {**_settings(), "TALLIES": 2, "BUCKETS": 1})
    subprocess.run([executable, *words], check=True)
    rows = drain.difference()["rows"]
    counters = drain.counters()
    program.close()
    return {
        "counted": sum(row[3] for row in rows),
        "not_counted": counters[Counter.NO_TALLY],
        "no_bucket": counters[Counter.NO_BUCKET],
    }


def record(name: str, directory: str, seconds: str, events: str, *command: str) -> Any:
    """Record with a backend while a command runs; return what both did."""
    _mount_tracefs()
    backend = _backend(name)
    capture = CaptureWriter(Path(directory))
    backend.start(capture, Options(events=events == "events", sample_hz=_SAMPLE_HZ))
    command_cpu_s = 0.0
    process = subprocess.Popen(command) if command else None
    end = time.monotonic() + float(seconds)
    while time.monotonic() < end:
        time.sleep(0.1)
        backend.poll()
    if process is not None:
        process.kill()
        usage = os.wait4(process.pid, 0)[2]
        command_cpu_s = usage.ru_utime + usage.ru_stime
    counts = backend.stop()
    assert backend.stop() == counts
    capture.close()
    return {
        "records": counts.records,
        "lost": counts.lost,
        "byte_count": counts.byte_count,
        "pid": process.pid if process else 0,
        "command_cpu_s": command_cpu_s,
        "sample_hz": _SAMPLE_HZ,
        "facts": dict(backend.facts()),
    }


def full(name: str, directory: str, max_bytes: str) -> Any:
    """Record into a capture that may have only a few bytes, until it ends."""
    _mount_tracefs()
    backend = _backend(name)
    capture = CaptureWriter(Path(directory), max_bytes=int(max_bytes))
    said = ""
    try:
        backend.start(capture, Options(events=True, sample_hz=999))
        end = time.monotonic() + 20
        while time.monotonic() < end:
            time.sleep(0.1)
            backend.poll()
    except TraceError as error:
        said = str(error)
    counts = backend.stop()
    capture.close()
    return {
        "said": said,
        "byte_count": capture.byte_count,
        "lost": counts.lost,
        "facts": dict(backend.facts()),
    }


def killed(name: str, directory: str) -> Any:
    """Record until killed; the parent checks what is left."""
    _mount_tracefs()
    child = os.fork()
    if child == 0:
        backend = _backend(name)
        backend.start(CaptureWriter(Path(directory)), Options(events=True))
        # The parent waits for this file.
        Path(f"{directory}.started").touch()
        while True:
            time.sleep(0.05)
            backend.poll()
    while not Path(f"{directory}.started").exists():
        time.sleep(0.02)
    time.sleep(1.5)
    programs = _program_count(child)
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    left = [path for path in ("kprobe_events", "uprobe_events") if _events(path)]
    return {"programs_before": programs, "left": left}


def as_nobody(name: str, directory: str, *capabilities: str) -> Any:
    """Record for a moment as nobody, with these capabilities, in a folder that everyone can write to."""
    _mount_tracefs()
    os.environ[RUN_DIRECTORY_VARIABLE] = f"{directory}.run"
    # Nobody may not be able to read the modules.
    symbols = Names()
    with suppress(TraceError):
        loader.bcc()
        importlib.import_module("bcc.libbcc")
    os.seteuid(65534)
    _keep_only(capabilities)
    backend = _backend(name)
    said = backend.probe()
    capture = CaptureWriter(Path(directory))
    try:
        backend.start(capture, Options(sample_hz=_SAMPLE_HZ))
    except (TraceError, OSError) as error:
        return {"usable": said.usable, "reason": said.reason, "error": str(error)}
    end = time.monotonic() + 1.2
    while time.monotonic() < end:
        time.sleep(0.1)
        backend.poll()
    counts = backend.stop()
    capture.close()
    return {
        "usable": said.usable,
        "missing": said.missing,
        "records": counts.records,
        "user": Path(directory).stat().st_uid,
        "named": next(symbols.new([0xFFFF_FFFF_8100_0000 + (1 << 20)], 1))[1],
    }


def _keep_only(capabilities: Sequence[str]) -> None:
    """Drop all capabilities but some (man 2 capset, version 3)."""
    mask = sum(1 << privileges.BITS[name] for name in capabilities)
    low, high = mask & 0xFFFF_FFFF, mask >> 32
    header = struct.pack("<Ii", 0x2008_0522, 0)
    libc = ctypes.CDLL(None, use_errno=True)
    assert libc.capset(header, struct.pack("<6I", low, low, 0, high, high, 0)) == 0, ctypes.get_errno()


def without_bcc(name: str, package: str) -> Any:
    """Try without bcc, or with another package of the same name."""
    sys.path.insert(0, package)
    if not Path(package, "bcc").exists():
        sys.modules["bcc"] = None  # type: ignore[assignment]
    said = _backend(name).probe()
    return {"usable": said.usable, "reason": said.reason, "remedy": said.remedy}


def broken(source: str) -> Any:
    """Compile an invalid source."""
    try:
        loader.Program(source, _settings())
    except TraceError as error:
        return str(error)
    return ""


def _settings() -> dict[str, int]:
    return {"OWN_PID": os.getpid(), "TALLIES": 64, "BUCKETS": 4096, "CPUS": loader.possible_cpus()}


def _on_executable(executable: str, settings: dict[str, int]) -> tuple[loader.Program, tables.Drain]:
    program = loader.Program("dom0.bpf.c", settings)
    drain = tables.Drain(program)
    _hang_on(program, executable, tuple(_FUNCTIONS))
    return program, drain


def _hang_on(program: loader.Program, executable: str, names: tuple[str, ...]) -> None:
    how: dict[str, loader.How] = {"kprobe": "uprobe", "kretprobe": "uretprobe"}
    for role in ROLES:
        if role.name in names:
            for one in probes_of(role, _FUNCTIONS[role.name]):
                program.attach(loader.Probe(one.program, how[one.how], one.target, executable))
    program.switch(on=True)


def _backend(name: str) -> Backend:
    made: dict[str, Callable[[], Backend]] = {"bpf": BpfBackend, "perf": PerfBackend}
    return made[name]()


def _mount_tracefs() -> None:
    """Mount tracefs if it is not mounted, for this process and its children only."""
    if Path("/sys/kernel/tracing/events").exists():
        return
    libc = ctypes.CDLL(None, use_errno=True)
    assert libc.unshare(_CLONE_NEWNS) == 0, os.strerror(ctypes.get_errno())
    subprocess.run(["mount", "--make-rprivate", "/"], check=True)
    subprocess.run(["mount", "-t", "tracefs", "tracefs", "/sys/kernel/tracing"], check=True)


def _program_count(pid: int) -> int:
    folder = Path(f"/proc/{pid}/fdinfo")
    return sum("prog_id" in path.read_text() for path in folder.iterdir())


def _events(name: str) -> str:
    path = Path("/sys/kernel/tracing") / name
    return path.read_text() if path.exists() else ""


if __name__ == "__main__":
    actions = (probe, uprobes, overload, no_room, record, full, killed, as_nobody, without_bcc, broken)
    action = {one.__name__: one for one in actions}[sys.argv[1]]
    sys.stdout.write(json.dumps(action(*sys.argv[2:])) + "\n")
