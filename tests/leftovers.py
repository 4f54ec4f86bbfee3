"""Find what tests leave on the machine: processes, bpf programs and probes, files outside their own folders.

Other test suites may run on the machine: their leftovers are distinguished by the owning process, by the type
of program, or by name.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import signal
import struct
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

#: How long processes and probes that are being removed may take.
GRACE_S = 2.0
_PR_SET_CHILD_SUBREAPER = 36
_SYS_BPF = 321  # x86-64
_PROG_GET_NEXT_ID, _PROG_GET_FD_BY_ID, _OBJ_GET_INFO_BY_FD = 11, 13, 15
#: Program types of probes: kprobe, tracepoint, perf event, raw tracepoint, tracing.
_PROBES = (2, 5, 7, 17, 26)
_TRACEFS = Path("/sys/kernel/tracing")
_EVENTS = ("kprobe_events", "uprobe_events")
_HELD = ("anon_inode:bpf-", "anon_inode:[perf_event]")
#: Commands of xdist's workers and of the server in builders/ready.py, which are not leftovers.
_WORKER = "exec(eval(sys.stdin.readline()))"
READY = "from builders.ready import serve; serve()"

_libc = ctypes.CDLL(None, use_errno=True)


# --- processes ---------------------------------------------------------------------------------


def adopt() -> None:
    """Become the parent of every descendant that loses its own parent."""
    _libc.prctl(_PR_SET_CHILD_SUBREAPER, 1)


def descendants(pid: int | None = None) -> dict[int, str]:
    """Return pid and command of each descendant of this process, or of ``pid``."""
    found: dict[int, str] = {}
    for path in Path(f"/proc/{pid or os.getpid()}/task").glob("*/children"):
        with contextlib.suppress(OSError):
            for child in map(int, path.read_text().split()):
                command = _command(child)
                if command and _WORKER not in command and READY not in command:
                    found |= {child: command, **descendants(child)}
    return found


def _command(pid: int) -> str:
    """Return the command of a process; "" for one that is gone or a zombie."""
    try:
        words = Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
    except OSError:
        return ""
    return b" ".join(words).decode(errors="replace").strip()


def end_processes() -> list[str]:
    """Kill the descendants of this process that do not end within ``GRACE_S``; return a line for each."""
    if not descendants():
        return []
    _until(lambda: not descendants())
    left = descendants()
    for pid in left:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
    return [f"process {pid}: {command}" for pid, command in left.items()]


def held() -> set[str]:
    """Return the bpf objects and perf events that this process has open."""
    found = set()
    for path in Path("/proc/self/fd").iterdir():
        with contextlib.suppress(OSError):
            if (target := str(path.readlink())).startswith(_HELD):
                found.add(f"open file {path.name}: {target}")
    return found


def _until(is_over: Callable[[], bool]) -> None:
    end = time.monotonic() + GRACE_S
    while not is_over() and time.monotonic() < end:
        time.sleep(0.02)


# --- probes ------------------------------------------------------------------------------------


def probes() -> set[str]:
    """Return the kernel's probes that no process holds; only root can create or see them."""
    if os.geteuid() != 0:
        return set()
    return {*_events(), *_programs()}


def _events() -> set[str]:
    """Return the kprobe and uprobe events of tracefs, which may not be mounted here."""
    mounted = (_TRACEFS / "events").exists()
    files = " ".join(str(_TRACEFS / name) for name in _EVENTS)
    mount = "" if mounted else f"mount -t tracefs tracefs {_TRACEFS} && "
    command = ["unshare", "--mount", "sh", "-c", f"{mount}cat {files}"]
    # Some kernels lack one or both of the files.
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    return {f"probe {line}" for line in done.stdout.splitlines()}


def _programs() -> set[str]:
    loaded = dict(_loaded())
    kept = _ids_in_processes() if loaded else set()
    return {f"bpf program {ident}: {name}" for ident, name in loaded.items() if ident not in kept}


def _loaded() -> Iterator[tuple[int, str]]:
    """Yield id and name of each loaded program of a probe type (Linux, include/uapi/linux/bpf.h)."""
    ident = 0
    while (words := _bpf(_PROG_GET_NEXT_ID, struct.pack("<II", ident, 0)))[0] == 0:
        ident = int(struct.unpack_from("<I", words[1], 4)[0])
        fd, _ = _bpf(_PROG_GET_FD_BY_ID, struct.pack("<I", ident))
        if fd < 0:
            continue
        info = ctypes.create_string_buffer(256)
        _bpf(_OBJ_GET_INFO_BY_FD, struct.pack("<IIQ", fd, len(info), ctypes.addressof(info)))
        os.close(fd)
        if struct.unpack_from("<I", info)[0] in _PROBES:
            yield ident, info.raw[64:80].partition(b"\0")[0].decode(errors="replace")


def _bpf(command: int, attributes: bytes) -> tuple[int, bytes]:
    buffer = ctypes.create_string_buffer(attributes, 128)
    return int(_libc.syscall(_SYS_BPF, command, buffer, len(buffer))), buffer.raw


def _ids_in_processes() -> set[int]:
    found = set()
    for path in Path("/proc").glob("[0-9]*/fdinfo/*"):
        with contextlib.suppress(OSError):
            for line in path.read_text().splitlines():
                if line.startswith("prog_id:"):
                    found.add(int(line.split()[1]))
    return found


# --- files -------------------------------------------------------------------------------------

#: Folders in which programs put temporary files; a file there with our name is a leftover.
PLACES = (Path(tempfile.gettempdir()), *map(Path, ("/tmp", "/var/tmp", "/dev/shm", "/run")), Path.home())
_FOLDER = "xtrace-tests-"


def files() -> set[str]:
    """Return the paths in ``PLACES`` that have our name."""
    found = set()
    for place in PLACES:
        with contextlib.suppress(OSError):
            found |= {str(path) for path in place.glob("*xtrace*") if not path.name.startswith(_FOLDER)}
    return found


class Folder:
    """This run's own temporary folder, in which nothing may be left."""

    def __init__(self) -> None:
        self._before = tempfile.gettempdir()
        # pytest keeps the folders of its last runs: not in here, because this one is removed.
        self._root = os.environ.setdefault("PYTEST_DEBUG_TEMPROOT", self._before)
        self.path = Path(tempfile.mkdtemp(prefix=_FOLDER))
        # Children that run as another user must be able to use it.
        self.path.chmod(0o1777)
        os.environ["TMPDIR"] = tempfile.tempdir = str(self.path)

    def end(self) -> set[str]:
        """Remove the folder and return the paths that were in it."""
        found = {str(path) for path in self.path.iterdir()}
        os.environ["TMPDIR"] = tempfile.tempdir = self._before
        subprocess.run(["rm", "-rf", "--one-file-system", "--", str(self.path)], check=True)
        return found


class Machine:
    """The state of the machine before the tests."""

    def __init__(self) -> None:
        self._probes, self._files, self.folder = probes(), files(), Folder()

    def left(self) -> list[str]:
        """Kill the processes and remove the folder that were left, and return a line for each leftover."""
        found = end_processes()
        _until(lambda: probes() <= self._probes)
        found += sorted(probes() - self._probes)
        return found + [f"in {path}" for path in sorted((files() - self._files) | self.folder.end())]
