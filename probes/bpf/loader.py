"""Load a program with bcc, attach it to functions and tracepoints, read its tables.

bcc compiles at load time.  The programs name no kernel struct, so the small tree in ``shim`` is
all they need of kernel headers, and they are compiled the same way on every host.
"""

from __future__ import annotations

import contextlib
import ctypes
import functools
import importlib
import os
import platform
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Any, Literal

from xtrace.probes.bpf.abi import LEAST_KERNEL
from xtrace.probes.errors import TraceError
from xtrace.probes.host import privileges
from xtrace.probes.host.run_folder import BPF_SCRATCH, run_folder

#: The kernel headers that bcc compiles with.
HEADERS = "xtrace's shim: the programs read no kernel struct"

_KERNEL_SOURCE = "BCC_KERNEL_SOURCE"
_TABLES = "measure.h"
_BATCH = 1024
_LAST_RUNS_S = 0.02
_BPF_MAP_TYPE_RINGBUF = 27
_ENOENT = 2

How = Literal["kprobe", "kretprobe", "raw", "tracepoint", "uprobe", "uretprobe"]


class ProbeError(TraceError):
    """bcc or the kernel refuses a program, a probe or a map."""


@dataclass(frozen=True, slots=True)
class Probe:
    """A program and what it is attached to.

    Attributes:
        program: function in the source.
        how: kind of probe.
        target: function, or tracepoint: ``irq_handler_entry`` if raw, otherwise ``sched:sched_switch``.
        path: of the executable, for uprobes.
    """

    program: str
    how: How
    target: str
    path: str = ""

    def __str__(self) -> str:
        return f"{self.how} {self.target}"


def why_not() -> tuple[str, str]:
    """Return why bpf cannot be used here, and the command that fixes it; both empty if it can."""
    if lacking := privileges.lacking(privileges.FOR_BPF):
        return f"without root it needs {' and '.join(lacking)}", "run it with sudo"
    if kernel_version() < LEAST_KERNEL:
        return f"Linux {platform.release()} has no BPF ring buffer; 5.8 or later has one", ""
    if platform.machine() != "x86_64":
        return f"the programs are for x86_64, this is {platform.machine()}", ""
    try:
        bcc()
    except TraceError as error:
        return str(error), bcc_remedy()
    return "", ""


@functools.cache
def bcc_remedy() -> str:
    """Return what makes bcc available: the interpreter that has it, or the command that installs it."""
    mine, system = os.path.realpath(sys.executable), os.path.realpath(_SYSTEM_PYTHON)
    has_bcc = [_SYSTEM_PYTHON, "-c", "from bcc import BPF"]
    with contextlib.suppress(OSError, subprocess.SubprocessError):
        if subprocess.run(has_bcc, capture_output=True, check=False, timeout=_IMPORT_LIMIT_S).returncode == 0:
            return f"run xtrace.pyz with {_SYSTEM_PYTHON}, which has bcc ({_ZIPAPP})"
    if mine == system and sys.prefix == sys.base_prefix:
        return _BCC_REMEDY
    return f"{_BCC_REMEDY}, then run xtrace.pyz with {_SYSTEM_PYTHON} ({_ZIPAPP})"


def must_work(backend: str) -> None:
    """Raise if bpf cannot be used here.

    Raises:
        TraceError: with the name of the backend that asks, the reason and the fix.
    """
    reason, remedy = why_not()
    if reason:
        raise TraceError(f"{backend}: {reason}" + (f"; {remedy}" if remedy else ""))


#: The interpreter that Debian's python3-bpfcc is for.
_SYSTEM_PYTHON = "/usr/bin/python3"
_ZIPAPP = "make zipapp builds it"
_IMPORT_LIMIT_S = 20.0
_BCC_REMEDY = "apt-get install python3-bpfcc"


def bcc() -> Any:
    """Return the IO Visor project's module bcc.

    Raises:
        TraceError: it is missing, or another package of that name is installed.
    """
    try:
        module = importlib.import_module("bcc")
    except (ImportError, OSError) as error:
        raise TraceError(f"bcc is missing for {sys.executable} ({error})") from None
    if not hasattr(module, "BPF"):
        raise TraceError(f"{module.__file__}: another package named bcc, not the BPF compiler")
    return module


def bcc_version() -> str:
    """Return bcc's version."""
    return str(getattr(bcc(), "__version__", "unknown"))


def kernel_version() -> tuple[int, int]:
    """Return the running kernel's version, major and minor."""
    numbers = platform.release().split(".")[:2]
    return int(numbers[0]), int("".join(filter(str.isdigit, numbers[1])) or 0)


class Program:
    """A compiled source whose functions can be attached; the kernel detaches them when the process ends.

    Attributes:
        load_s: how long compiling took.
        attached: probes, in order.
    """

    def __init__(self, source: str, settings: Mapping[str, int]) -> None:
        """Compile ``source``, a file of this package or a path.

        Args:
            settings: macros to define with -D.

        Raises:
            ProbeError: it does not compile; the message has the compiler's first error.
        """
        module = bcc()
        self._lib = importlib.import_module("bcc.libbcc").lib
        begin = time.monotonic()
        with _sources(source) as (directory, path), _kernel_source(str(directory / "shim")):
            flags = [f"-I{directory}", *(f"-D{name}={value}" for name, value in settings.items())]
            with _said() as said:
                try:
                    self._bpf = module.BPF(src_file=str(path).encode(), cflags=flags)
                except Exception as error:  # noqa: BLE001 bcc raises nothing more precise
                    raise ProbeError(f"{source}: does not compile: {_first(said(), error)}") from None
        self.load_s = time.monotonic() - begin
        self.attached: list[Probe] = []
        self._own_fds: list[int] = []

    def attach(self, probe: Probe) -> None:
        """Attach a program to its target.

        Raises:
            ProbeError: the kernel refuses.
        """
        name, target = probe.program.encode(), probe.target.encode()
        with _said() as said:
            try:
                if probe.how == "kprobe":
                    self._bpf.attach_kprobe(event=target, fn_name=name)
                elif probe.how == "kretprobe":
                    self._bpf.attach_kretprobe(event=target, fn_name=name)
                elif probe.how == "raw":
                    self._bpf.attach_raw_tracepoint(tp=target, fn_name=name)
                elif probe.how == "tracepoint":
                    self._bpf.attach_tracepoint(tp=target, fn_name=name)
                elif probe.how == "uprobe":
                    self._bpf.attach_uprobe(name=probe.path.encode(), sym=target, fn_name=name)
                else:
                    self._bpf.attach_uretprobe(name=probe.path.encode(), sym=target, fn_name=name)
            except Exception as error:  # noqa: BLE001
                raise ProbeError(f"{probe}: {_first(said(), error)}") from None
        self.attached.append(probe)

    def attach_all(self, probes: Sequence[Probe]) -> None:
        """Attach programs that belong together to their targets: all of them or none.

        Raises:
            ProbeError: the kernel refuses one.
        """
        done = []
        try:
            for probe in probes:
                self.attach(probe)
                done.append(probe)
        except ProbeError:
            for probe in done:
                self._detach(probe)
            raise

    def _detach(self, probe: Probe) -> None:
        if probe.how not in ("kprobe", "kretprobe"):
            raise ValueError(f"{probe} cannot be detached on its own")
        event = f"{'p' if probe.how == 'kprobe' else 'r'}_{probe.target}".encode()
        functions = self._bpf.kprobe_fds[event]
        self._lib.bpf_close_perf_event_fd(functions.pop(probe.program.encode()))
        if not functions:
            del self._bpf.kprobe_fds[event]
        self.attached.remove(probe)

    def sample(self, program: str, event_type: int, config: int, hz: int) -> None:
        """Run ``program`` ``hz`` times per second on each online CPU.

        Args:
            event_type, config: of perf_event_attr.

        Raises:
            ProbeError: the kernel has no such event.
        """
        with _said() as said:
            try:
                self._bpf.attach_perf_event(
                    ev_type=event_type, ev_config=config, fn_name=program.encode(), sample_freq=hz
                )
            except Exception as error:  # noqa: BLE001
                raise ProbeError(f"perf event {event_type}:{config}: {_first(said(), error)}") from None

    def map_fd(self, name: str) -> int:
        """Return the file descriptor of a map."""
        return int(self._bpf[name.encode()].map_fd)

    def new_ring(self, name: str, byte_count: int) -> int:
        """Create a ring buffer and return its file descriptor.

        Args:
            byte_count: its size, a power of 2 and a multiple of the page size.

        Raises:
            ProbeError: the kernel refuses.
        """
        fd = int(self._lib.bcc_create_map(_BPF_MAP_TYPE_RINGBUF, name.encode(), 0, 0, byte_count, 0))
        if fd < 0:
            raise ProbeError(f"no ring buffer of {byte_count:,} bytes: {os.strerror(ctypes.get_errno())}")
        self._own_fds.append(fd)
        return fd

    def put(self, name: str, key: bytes, value: bytes) -> None:
        """Set an element of a map.

        Raises:
            ProbeError: the kernel refuses.
        """
        if self._lib.bpf_update_elem(self.map_fd(name), key, value, 0):
            raise ProbeError(f"map {name}: {os.strerror(ctypes.get_errno())}")

    def elements(self, name: str, key_bytes: int, value_bytes: int) -> Iterator[tuple[bytes, bytes]]:
        """Yield each (key, value) of a hash; a value of a per-CPU hash has all CPUs' values in order.

        Args:
            value_bytes: size of a value, all CPUs together.

        Raises:
            ProbeError: the kernel refuses.
        """
        fd = self.map_fd(name)
        keys = ctypes.create_string_buffer(_BATCH * key_bytes)
        values = ctypes.create_string_buffer(_BATCH * value_bytes)
        token = ctypes.c_uint32(0)
        before: Any = None
        while True:
            count = ctypes.c_uint32(_BATCH)
            failed = self._lib.bpf_lookup_batch(
                fd,
                before,
                ctypes.byref(token),
                ctypes.cast(keys, ctypes.c_void_p),
                ctypes.cast(values, ctypes.c_void_p),
                ctypes.byref(count),
            )
            if failed and ctypes.get_errno() != _ENOENT:
                raise ProbeError(f"map {name}: {os.strerror(ctypes.get_errno())}")
            # Copy once: each use of .raw copies the whole buffer.
            told, held = keys.raw, values.raw
            for at in range(count.value):
                yield (
                    told[at * key_bytes : (at + 1) * key_bytes],
                    held[at * value_bytes : (at + 1) * value_bytes],
                )
            if failed:
                return
            before = ctypes.byref(token)

    def element(self, name: str, key: bytes, value_bytes: int) -> bytes:
        """Return the value of one element, zeros if there is none."""
        value = ctypes.create_string_buffer(value_bytes)
        self._lib.bpf_lookup_elem(self.map_fd(name), key, value)
        return value.raw

    def misses(self) -> int | None:
        """Return how often programs were skipped because they already ran; None if Linux does not count."""
        total = None
        for function in self._bpf.funcs.values():
            with contextlib.suppress(OSError, ValueError, IndexError):
                text = Path(f"/proc/self/fdinfo/{function.fd}").read_text()
                total = (total or 0) + int(text.split("recursion_misses:")[1].split()[0])
        return total

    def run_times(self) -> dict[str, tuple[int, int]]:
        """Return each program's runs and total ns; zeros unless kernel.bpf_stats_enabled is 1."""
        times = {}
        for name, function in self._bpf.funcs.items():
            fields = dict(
                line.split(":\t", 1)
                for line in Path(f"/proc/self/fdinfo/{function.fd}").read_text().splitlines()
                if ":\t" in line
            )
            times[name.decode()] = (int(fields.get("run_cnt", 0)), int(fields.get("run_time_ns", 0)))
        return times

    def switch(self, *, on: bool) -> None:
        """Switch counting on or off; it is off before the first call."""
        self.put("recording", bytes(4), int(on).to_bytes(4, "little"))

    def detach(self) -> None:
        """Detach every program; the maps stay readable.  May be called twice."""
        if self._bpf is None:
            return
        self.switch(on=False)
        bpf = self._bpf
        # bcc's own detach fails if tracefs is not mounted, after it has closed the descriptor that matters.
        for functions in bpf.kprobe_fds.values():
            for fd in functions.values():
                self._lib.bpf_close_perf_event_fd(fd)
        for fd in bpf.uprobe_fds.values():
            self._lib.bpf_close_perf_event_fd(fd)
        bpf.kprobe_fds.clear()
        bpf.uprobe_fds.clear()
        for attached, detach in (
            (bpf.raw_tracepoint_fds, bpf.detach_raw_tracepoint),
            (bpf.tracepoint_fds, bpf.detach_tracepoint),
        ):
            for name in list(attached):
                detach(name)
        for event_type, config in list(bpf.open_perf_events):
            bpf.detach_perf_event(event_type, config)
        # Wait for programs that are running on other CPUs at this moment.
        time.sleep(_LAST_RUNS_S)

    def close(self) -> None:
        """Remove every program and its maps from the kernel.  May be called twice."""
        if self._bpf is not None:
            self.detach()
            with _said():
                self._bpf.cleanup()
            for fd in self._own_fds:
                os.close(fd)
            self._own_fds.clear()
            self._bpf = None


def possible_cpus() -> int:
    """Return how many CPUs a per-CPU map has values for."""
    text = Path("/sys/devices/system/cpu/possible").read_text().strip()
    return int(text.split(",")[-1].split("-")[-1]) + 1


@contextlib.contextmanager
def _sources(source: str) -> Iterator[tuple[Path, Path]]:
    """Copy the package's C files into a folder, even if the package is in an archive."""
    with run_folder() as run, run.scratch(BPF_SCRATCH) as directory:
        _copy(resources.files("xtrace.probes.bpf"), directory)
        path = Path(source)
        text = (path if path.is_absolute() else directory / source).read_text()
        whole = directory / "whole.bpf.c"
        whole.write_text(_merged(text, path.name, (directory / _TABLES).read_text()))
        yield directory, whole


def _merged(text: str, name: str, tables: str) -> str:
    """Return ``text`` with the header of tables inlined: bcc rewrites uses of maps only in the main file."""
    before, include, after = text.partition(f'#include "{_TABLES}"\n')
    if not include:
        return text
    line = before.count("\n") + 2
    return f'{before}#line 1 "{_TABLES}"\n{tables}\n#line {line} "{name}"\n{after}'


def _copy(place: Any, directory: Path) -> None:
    directory.mkdir(exist_ok=True)
    for entry in place.iterdir():
        if entry.is_dir():
            if not entry.name.startswith("__"):
                _copy(entry, directory / entry.name)
        elif entry.name.endswith((".c", ".h")):
            (directory / entry.name).write_bytes(entry.read_bytes())


@contextlib.contextmanager
def _kernel_source(directory: str) -> Iterator[None]:
    before = os.environ.get(_KERNEL_SOURCE)
    os.environ[_KERNEL_SOURCE] = directory
    try:
        yield
    finally:
        if before is None:
            del os.environ[_KERNEL_SOURCE]
        else:
            os.environ[_KERNEL_SOURCE] = before


@contextlib.contextmanager
def _said() -> Iterator[Any]:
    """Capture what bcc's libraries print on descriptors 1 and 2: they report errors nowhere else."""
    sys.stdout.flush()
    sys.stderr.flush()
    kept = os.dup(1), os.dup(2)
    with tempfile.TemporaryFile() as file:
        try:
            os.dup2(file.fileno(), 1)
            os.dup2(file.fileno(), 2)

            def said() -> str:
                file.seek(0)
                return file.read(1 << 16).decode(errors="replace")

            yield said
        finally:
            for fd, number in zip(kept, (1, 2), strict=True):
                os.dup2(fd, number)
                os.close(fd)


def _first(said: str, error: Exception) -> str:
    """Return the first line with "error" in ``said``, else its first line, else ``error``, as one line."""
    lines = [line.strip() for line in said.splitlines() if line.strip()]
    telling = [line for line in lines if "error" in line.lower()] or lines[:1]
    text = (telling[0] if telling else "") or str(error)
    return "".join(c if c.isprintable() else " " for c in text)[:300]
