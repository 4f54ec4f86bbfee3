"""Get files of Debian packages that are not installed, for comparisons with real images.

Packages are downloaded with ``apt-get download`` and cached below XDG_CACHE_HOME.
"""

from __future__ import annotations

import os
import re
import subprocess
from pathlib import Path
from typing import NoReturn

import pytest

from peer.xenalyze_run import REQUIRE_VARIABLE

TIMEOUT_S = 300


class PackageError(RuntimeError):
    """A package that apt cannot download or dpkg cannot unpack."""


_MISSING = (PackageError, OSError, subprocess.TimeoutExpired)


def unpacked(package: str) -> Path:
    """Return the folder with a package's files.

    Without the package, the test is skipped, or fails under XTRACE_REQUIRE_PEERS=1.
    """
    try:
        return _unpacked(package)
    except _MISSING as error:
        _missing(error)


def dependency(package: str, pattern: str) -> str:
    """Return the package whose name matches ``pattern`` among the dependencies of a metapackage.

    If apt does not find it, skip or fail like unpacked().
    """
    try:
        listed = _run("apt-cache", "depends", package)
        match = re.search(rf"Depends: ({pattern})$", listed, re.MULTILINE)
        if not match:
            raise PackageError(f"{package} depends on no {pattern}")
    except _MISSING as error:
        _missing(error)
    return match[1]


def _missing(error: Exception) -> NoReturn:
    if os.environ.get(REQUIRE_VARIABLE) == "1":
        pytest.fail(f"{error} ({REQUIRE_VARIABLE}=1 forbids skipping)", pytrace=False)
    pytest.skip(str(error))


def _unpacked(package: str) -> Path:
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "xtrace-tests"
    folder = cache / package
    if not folder.is_dir():
        downloads = cache / "downloads" / package
        downloads.mkdir(parents=True, exist_ok=True)
        _run("apt-get", "download", "-o", "APT::Sandbox::User=root", package, folder=downloads)
        archive = max(downloads.glob("*.deb"), key=lambda path: path.stat().st_mtime)
        partial = cache / f"{package}.partial-{os.getpid()}"
        _run("dpkg-deb", "-x", str(archive), str(partial))
        partial.rename(folder)
        archive.unlink()
    return folder


def _run(*command: str, folder: Path | None = None) -> str:
    environment = {**os.environ, "LC_ALL": "C"}
    done = subprocess.run(
        command, capture_output=True, text=True, cwd=folder, env=environment, timeout=TIMEOUT_S, check=False
    )
    if done.returncode != 0:
        raise PackageError(f"{' '.join(command)}: {' '.join(done.stderr.split())[-300:]}")
    return done.stdout
