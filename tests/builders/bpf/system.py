"""Run a script with the system's Python, the only one that has bcc, with xtrace on its path."""

from __future__ import annotations

import functools
import json
import os
import subprocess
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[3]
PYTHON = "/usr/bin/python3"
_REQUIRED = os.environ.get("XTRACE_REQUIRE_PEERS") == "1"


@functools.cache
def _why_not() -> str:
    if os.geteuid() != 0:
        return "bpf needs root"
    done = _start(ROOT / "tests" / "builders" / "bpf" / "drive.py", "probe")
    if done.returncode:
        return f"{PYTHON}: {(done.stderr.strip().splitlines() or ['no answer'])[-1]}"
    answer = json.loads(done.stdout)
    return "" if answer["usable"] else str(answer["reason"])


def require_bpf() -> None:
    """Skip, or fail if peers are required, unless bcc can load programs here."""
    if reason := _why_not():
        if _REQUIRED:
            pytest.fail(f"XTRACE_REQUIRE_PEERS=1, and {reason}")
        pytest.skip(reason)


def require_tool(name: str, package: str) -> str:
    """Return the path of a peer; if it is missing, skip, or fail if peers are required."""
    import shutil

    path = shutil.which(name)
    if path is None:
        reason = f"{name} is missing: apt-get install {package}"
        if _REQUIRED:
            pytest.fail(f"XTRACE_REQUIRE_PEERS=1, and {reason}")
        pytest.skip(reason)
    return path


def drive(action: str, *arguments: str | Path, timeout_s: float = 60) -> Any:
    """Run an action of drive.py and return its result."""
    done = _start(Path(__file__).with_name("drive.py"), action, *map(str, arguments), timeout_s=timeout_s)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def _start(script: Path, *arguments: str, timeout_s: float = 60) -> subprocess.CompletedProcess[str]:
    environment = {
        "PATH": os.environ["PATH"],
        "PYTHONPATH": str(ROOT),
        "PYTHONDONTWRITEBYTECODE": "1",
    }
    return subprocess.run(
        [PYTHON, str(script), *arguments],
        capture_output=True,
        text=True,
        timeout=timeout_s,
        env=environment,
        stdin=subprocess.DEVNULL,
    )


def compile_c(source: Path, target: Path, *flags: str) -> Path:
    """Compile a C file."""
    done = subprocess.run(["gcc", *flags, "-o", str(target), str(source)], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return target
