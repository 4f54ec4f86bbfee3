"""A command that loses its output exits with 0 or 1, without a traceback, and corrupts no other file.

The installed program runs in an environment without Python's variables, because some of them
(PYTHONUNBUFFERED) hide how an interpreter ends when it cannot write.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import pty
import signal
import subprocess
import sys
import termios
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import pytest

from builders.host import WAKE
from builders.reported import SOME
from xtrace.probes.reader.writer import pack_record, pack_window

ROOT = Path(__file__).parents[2]
XTRACE = Path(sys.executable).with_name("xtrace")
IMAGE = ROOT / "samples" / "own-lfence.elf"
LIMIT_S = 60

#: State of a stream: "closed" from the start, "full" (/dev/full), "left" (a pipe whose reader has exited),
#: "gone" (a terminal that was closed), "empty" (/dev/null), "kept" (read by the test).
Streams = tuple[str, str, str]
USUAL: Streams = ("empty", "kept", "kept")

CLOSED = "xtrace: standard output: Bad file descriptor\n"
FULL = "xtrace: standard output: No space left on device\n"
GONE = "xtrace: standard output: Input/output error\n"
#: Stdin, stdout and stderr; the error message and the exit code of a command that prints to stdout.
WAYS: dict[str, tuple[Streams, str, int]] = {
    "stdout closed": (("empty", "closed", "kept"), CLOSED, 1),
    "stdin and stdout closed": (("closed", "closed", "kept"), CLOSED, 1),
    "stdout and stderr closed": (("empty", "closed", "closed"), "", 1),
    "all closed": (("closed", "closed", "closed"), "", 1),
    "disk full": (("empty", "full", "kept"), FULL, 1),
    "disk full for both": (("empty", "full", "full"), "", 1),
    "reader left": (("empty", "left", "kept"), "", 0),
    "reader of both left": (("empty", "left", "left"), "", 0),
    "terminal gone": (("gone", "gone", "kept"), GONE, 1),
    "terminal gone for all": (("gone", "gone", "gone"), "", 1),
}
#: Commands that take a tenth of a second: tested in all cases.
QUICK = {
    "help": "--help",
    "version": "--version",
    "doctor": "doctor",
    "info": "info trace",
    "stat": "stat -i trace",
    "top": "top -i trace",
}
#: Slower commands, and other options, in some of the cases: all commands share the code that is tested.
SLOW = {
    "help of a command": ("report --help", ["all closed"]),
    "doctor --json": ("doctor --json", ["stdout closed"]),
    "top --json": ("top --json -i trace", ["disk full"]),
    "dump": ("dump trace", ["stdout closed", "reader left", "terminal gone"]),
    "sites": (f"sites {IMAGE}", ["stdout closed", "terminal gone for all"]),
    "sites --csv": (f"sites --csv {IMAGE}", ["reader left"]),
    "sites --explain": (f"sites --explain upcalls_mask+0x14 {IMAGE}", ["disk full"]),
    "report": ("report trace", ["stdout closed", "terminal gone for all"]),
    "report --json": ("report --json trace", ["reader left"]),
    "diff": ("diff --no-keep trace other", ["all closed"]),
    "calibrate": ("calibrate --duration 0.5", ["all closed"]),
}
LINES = QUICK | {name: line for name, (line, _) in SLOW.items()}
CASES = [
    *((command, way) for command in QUICK for way in WAYS),
    *((command, way) for command, (_, ways) in SLOW.items() for way in ways),
]


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder with two traces, to run commands in."""
    folder = tmp_path_factory.mktemp("home")
    records = b"".join(pack_record(WAKE, tsc, (1, 0)) for tsc in (1000, 3_000_000))
    for name in ("trace", "other"):
        (folder / name).write_bytes(pack_window(0, records))
        (folder / f"{name}.json").write_text('{"tsc_hz": 1000000000.0}')
    return folder


def run(
    home: Path, arguments: Sequence[str], streams: Streams, variables: dict[str, str] | None = None
) -> subprocess.CompletedProcess[str]:
    """Run a command in ``home`` with streams of these kinds."""
    reader, left = os.pipe()
    os.close(reader)
    primary, gone = pty.openpty()
    os.close(primary)
    full = os.open("/dev/full", os.O_WRONLY)
    stands_for = {
        "empty": subprocess.DEVNULL, "closed": subprocess.DEVNULL, "kept": subprocess.PIPE,
        "left": left, "gone": gone, "full": full,
    }  # fmt: skip
    stdin, stdout, stderr = (stands_for[stream] for stream in streams)

    def close() -> None:
        for fd, stream in enumerate(streams):
            if stream == "closed":
                os.close(fd)

    try:
        return subprocess.run(
            arguments, stdin=stdin, stdout=stdout, stderr=stderr, preexec_fn=close,
            cwd=home, env=bare(home, variables), text=True, timeout=LIMIT_S, check=False,
        )  # fmt: skip
    finally:
        for fd in (left, gone, full):
            os.close(fd)


def bare(home: Path, variables: dict[str, str] | None = None) -> dict[str, str]:
    """Return a minimal environment plus ``variables``."""
    return {"HOME": str(home), "PATH": os.environ["PATH"], "TERM": "dumb"} | (variables or {})


@pytest.mark.parametrize(("command", "way"), CASES, ids=[f"{command}, {way}" for command, way in CASES])
def test_lost_output(command: str, way: str, home: Path) -> None:
    streams, said, code = WAYS[way]
    done = run(home, [str(XTRACE), *LINES[command].split()], streams)
    notes = [line for line in (done.stderr or "").splitlines(keepends=True) if line not in said]
    assert all(line.startswith("xtrace: ") for line in notes)
    assert (done.stderr or "").endswith(said)
    assert done.returncode == code


@pytest.mark.parametrize(
    "streams",
    [("closed", "kept", "kept"), ("closed", "kept", "closed"), ("empty", "kept", "left"),
     ("empty", "kept", "full"), ("gone", "kept", "gone")],
    ids=",".join,
)  # fmt: skip
def test_no_command_needs_stdin_or_stderr(streams: Streams, home: Path) -> None:
    usual = run(home, [str(XTRACE), "info", "trace"], USUAL)
    lacking = run(home, [str(XTRACE), "info", "trace"], streams)
    assert usual.returncode == 0
    assert (lacking.returncode, lacking.stdout) == (0, usual.stdout)


def test_a_lost_note_does_not_stop_a_command(home: Path) -> None:
    done = run(home, [str(XTRACE), "report", "--csv", "tables", "trace"], ("empty", "closed", "full"))
    assert done.returncode == 0
    assert list((home / "tables").glob("*.csv"))


def test_a_closed_stdin_is_an_error_not_an_empty_trace(home: Path) -> None:
    done = run(home, [str(XTRACE), "info", "-"], ("closed", "kept", "kept"))
    assert (done.returncode, done.stderr) == (1, "xtrace: standard input: Bad file descriptor\n")


def test_characters_that_stdout_cannot_encode_are_escaped(tmp_path: Path) -> None:
    image = tmp_path / "日本.elf"
    image.write_bytes(IMAGE.read_bytes())
    done = run(tmp_path, [str(XTRACE), "sites", image.name], USUAL, {"PYTHONIOENCODING": "latin-1"})
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith("image    \\u65e5\\u672c.elf\n")


def test_a_reader_that_takes_only_one_line(tmp_path: Path) -> None:
    line = f'("$XTRACE" dump {SOME[0]}; echo $? >code) | head -1'
    done = run(tmp_path, ["sh", "-c", line], USUAL, {"XTRACE": str(XTRACE)})
    assert done.stdout.count("\n") == 1
    assert all(line.startswith("xtrace: ") for line in done.stderr.splitlines())
    assert (tmp_path / "code").read_text() == "0\n"


# --- a recording -------------------------------------------------------------------------------

#: `xtrace record` with a backend that needs neither Xen nor root.
PROGRAM = f"""
import os, sys
sys.path.insert(0, {str(ROOT / "tests")!r})
from builders import ticker
from xtrace.probes.host import dom0
from xtrace.probes.recording.backends import registry
registry._HOMES, registry.NAMES = ticker.TICKER_HOMES, tuple(ticker.TICKER_HOMES)
dom0.why_no_dom0 = lambda: "this is a test"
os.geteuid = lambda: 0
from xtrace.cli.start import main
main()
"""
RECORD = [
    sys.executable,
    "-P",
    "-c",
    PROGRAM,
    "record",
    "--backend",
    "ticker",
    "--reserve",
    "0",
    "-o",
    "made",
]
APART = {"XTRACE_RUN_DIR": "run"}


@pytest.mark.parametrize(
    "way", ["stdout closed", "all closed", "disk full for both", "terminal gone for all"]
)
def test_a_recording_does_not_need_its_output(way: str, tmp_path: Path) -> None:
    done = run(tmp_path, [*RECORD, "-d", "0.2"], WAYS[way][0], APART)
    assert done.returncode == 0
    assert all(line.startswith("xtrace: ") for line in (done.stderr or "").splitlines())
    assert '"end_reason": "duration"' in (tmp_path / "made.xtrace" / "meta.json").read_text()


def test_closed_streams_are_replaced_by_dev_null(tmp_path: Path) -> None:
    """Otherwise a file of the capture could get descriptor 1 or 2, and the output of a child with it."""
    look = (
        'for fd in 0 1 2; do all="$all $(readlink /proc/$PPID/fd/$fd /proc/$$/fd/$fd)"; done; echo $all >seen'
    )
    done = run(tmp_path, [*RECORD, "--", "sh", "-c", look], ("closed", "closed", "closed"), APART)
    assert done.returncode == 0
    assert (tmp_path / "seen").read_text().split() == ["/dev/null"] * 6


# --- a terminal that closes while a command runs -----------------------------------------------


@pytest.fixture(autouse=True)
def heard() -> Iterator[None]:
    """Let commands receive SIGHUP: if the tests run under `nohup`, their children ignore it."""
    before = signal.signal(signal.SIGHUP, signal.SIG_DFL)
    yield
    signal.signal(signal.SIGHUP, before)


def on_terminal(
    home: Path, arguments: Sequence[str], *, controlling: bool = True
) -> tuple[subprocess.Popen[bytes], int]:
    """Start a command on its own terminal, with stderr as a pipe; return it and the terminal's other end."""
    primary, secondary = pty.openpty()
    process = subprocess.Popen(
        arguments, stdin=secondary, stdout=secondary, stderr=subprocess.PIPE, start_new_session=True,
        # The kernel sends SIGHUP only if it is the controlling terminal.
        preexec_fn=lambda: controlling and fcntl.ioctl(0, termios.TIOCSCTTY, 0),
        cwd=home, env=bare(home, APART),
    )  # fmt: skip
    os.close(secondary)
    return process, primary


def read_until(primary: int, text: bytes) -> None:
    seen = b""
    while text not in seen:
        seen += os.read(primary, 1 << 12)


def end_of(process: subprocess.Popen[bytes]) -> tuple[int, str]:
    try:
        _, said = process.communicate(timeout=LIMIT_S)
    finally:
        with contextlib.suppress(ProcessLookupError):
            process.kill()
    return process.returncode, said.decode()


def wait_for(condition: Callable[[], object]) -> None:
    limit = time.monotonic() + LIMIT_S
    while not condition():
        assert time.monotonic() < limit
        time.sleep(0.01)


@pytest.mark.parametrize(
    ("arguments", "shown"), [(["top", "-d", "5", "-i"], b"[wakes]"), (["dump"], b"\n")], ids=["top", "dump"]
)
def test_a_command_ends_when_its_terminal_hangs_up(
    arguments: list[str], shown: bytes, tmp_path: Path
) -> None:
    process, primary = on_terminal(tmp_path, [str(XTRACE), *arguments, str(SOME[0])])
    read_until(primary, shown)
    os.close(primary)
    code, said = end_of(process)
    assert all(line.startswith("xtrace: ") for line in said.splitlines())
    assert code == 1


def test_top_ends_if_its_terminal_closed_while_it_was_stopped(tmp_path: Path) -> None:
    arguments = [str(XTRACE), "top", "-d", "5", "-i", str(SOME[0])]
    process, primary = on_terminal(tmp_path, arguments, controlling=False)
    read_until(primary, b"[wakes]")
    process.send_signal(signal.SIGTSTP)
    _, status = os.waitpid(process.pid, os.WUNTRACED)
    assert os.WIFSTOPPED(status)
    os.close(primary)
    process.send_signal(signal.SIGCONT)
    assert end_of(process) == (1, "xtrace: standard input: Input/output error\n")


def test_a_recording_is_complete_after_a_hangup(tmp_path: Path) -> None:
    process, primary = on_terminal(tmp_path, RECORD)
    wait_for(lambda: (tmp_path / "made.xtrace" / "ticks.jsonl").exists())
    os.close(primary)
    code, said = end_of(process)
    assert all(line.startswith("xtrace: ") for line in said.splitlines())
    assert code == 0
    assert '"end_reason": "signal"' in (tmp_path / "made.xtrace" / "meta.json").read_text()


def waiting(home: Path, line: str, ignored: Sequence[signal.Signals] = ()) -> subprocess.Popen[bytes]:
    """Start a command that waits for a trace on stdin."""

    def ignore() -> None:
        for number in ignored:
            signal.signal(number, signal.SIG_IGN)

    return subprocess.Popen(
        [XTRACE, *line.split()], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        preexec_fn=ignore, cwd=home, env=bare(home),
    )  # fmt: skip


def test_a_command_survives_a_hangup_under_nohup(home: Path) -> None:
    process = waiting(home, "info -", [signal.SIGHUP])
    process.send_signal(signal.SIGHUP)
    assert process.stdin is not None
    process.stdin.write((home / "trace").read_bytes())
    assert end_of(process) == (0, "")
