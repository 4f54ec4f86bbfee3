"""A test that hangs is killed with everything it started, and a run that leaves anything over fails."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

TESTS = Path(__file__).parents[1]
SETTINGS = "[pytest]\ntimeout = 1\nfaulthandler_timeout = 4\nfaulthandler_exit_on_timeout = true\n"
IMPORTS = "import ctypes, signal, subprocess, tempfile, time"


def run(folder: Path, *lines: str) -> tuple[int, str]:
    """Run each line as a test in a worker; return the exit code and the report of what was left."""
    tests = "\n".join(f"def test_{number}():\n    {line}" for number, line in enumerate(lines))
    (folder / "test_planted.py").write_text(f"{IMPORTS}\n{tests}\n")
    (folder / "pytest.ini").write_text(SETTINGS)
    command = [sys.executable, "-P", "-m", "pytest", "-n1", "-p", "conftest", "-p", "no:cacheprovider"]
    environment = {**os.environ, "PYTHONPATH": str(TESTS)}
    done = subprocess.run(
        [*command, str(folder)], cwd=folder, env=environment, capture_output=True, text=True, check=False
    )
    return done.returncode, done.stdout.partition("left over by the tests")[2]


def runs(command: str) -> bool:
    return subprocess.run(["pgrep", "-fx", command], stdout=subprocess.DEVNULL, check=False).returncode == 0


def test_a_run_without_leftovers_passes(tmp_path: Path) -> None:
    assert run(tmp_path, "subprocess.run(['true'], check=True)", "tempfile.TemporaryFile().close()") == (
        0,
        "",
    )


def test_leftovers_are_reported_and_fail_the_run(tmp_path: Path) -> None:
    code, told = run(
        tmp_path,
        "subprocess.Popen(['setsid', 'sleep', '4001']).returncode = 0",
        "tempfile.mkdtemp(prefix='planted')",
        # A software event of this process (Linux, include/uapi/linux/perf_event.h).
        "assert ctypes.CDLL(None).syscall(298, (ctypes.c_uint * 32)(1, 128), 0, -1, -1, 0) >= 0",
    )
    assert code == 1
    assert "test_0: process " in told
    assert "sleep 4001" in told
    assert "/planted" in told
    assert "anon_inode:[perf_event]" in told or os.geteuid() != 0
    assert not runs("sleep 4001")


def test_a_test_that_hangs_is_killed_with_its_children(tmp_path: Path) -> None:
    code, told = run(tmp_path, "subprocess.run(['sh', '-c', 'sleep 4002; true'])", "pass")
    assert code == 1
    assert "sleep 4002" in told
    assert not runs("sleep 4002")


def test_a_test_that_python_cannot_interrupt_is_killed_with_its_worker(tmp_path: Path) -> None:
    blocked = "signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGALRM}); time.sleep(4004)"
    code, told = run(tmp_path, f"subprocess.Popen(['sleep', '4003']); {blocked}", "pass")
    assert code == 1
    assert "sleep 4003" in told
    assert not runs("sleep 4003")
