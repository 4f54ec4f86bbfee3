"""Open pages in Debian's Chromium, with axe-core: what they request, what the browser says, what axe finds.

puppeteer-core and axe-core come from npm, by the lock file in chromium/, into XDG_CACHE_HOME; they download
no browser.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import shutil
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple, NoReturn

import pytest

from peer.xenalyze_run import REQUIRE_VARIABLE

PROJECT = Path(__file__).with_name("chromium")
TIMEOUT_S = 240


class Look(NamedTuple):
    """How a page is looked at.

    Attributes:
        width: pixels.
        scheme: light or dark.
        media: screen or print.
        axe: whether axe-core looks, too, at all tables; it takes a second or two.
        picture: file for a screenshot; None for none.
        part: the picture is of the elements that this selects, and what is between them; empty for the page.
        zoom: whether the timeline is zoomed and scrolled.
    """

    width: int
    scheme: str = "light"
    media: str = "screen"
    axe: bool = False
    picture: str | None = None
    part: str = ""
    zoom: bool = False


def seen(pages: Mapping[Path, Sequence[Look]], folder: Path) -> list[dict[str, Any]]:
    """Return what the browser says about each look of each page, in order; ``folder``: for scratch files.

    Without Chromium, the test is skipped, or fails under XTRACE_REQUIRE_PEERS=1.
    """
    browser = shutil.which("chromium") or _missing("Chromium is missing: apt-get install chromium")
    modules = _modules()
    wanted = [
        {"url": page.as_uri(), "looks": [look._asdict() for look in looks]} for page, looks in pages.items()
    ]
    listed = folder / "pages.json"
    listed.write_text(json.dumps(wanted))
    scratch = folder / "browser"
    scratch.mkdir()
    # Chromium keeps its profile and its caches below these.
    environment = {**os.environ, "TMPDIR": str(scratch), "HOME": str(scratch), "NODE_PATH": str(modules)}
    done = subprocess.run(
        ["node", str(PROJECT / "check.js"), browser, str(listed)],
        capture_output=True,
        check=False,
        env=environment,
        text=True,
        timeout=TIMEOUT_S,
    )
    assert done.returncode == 0, done.stderr
    found: list[dict[str, Any]] = json.loads(done.stdout)
    return found


def _modules() -> Path:
    """Return the folder with what package-lock.json names, installed once per version of it."""
    if not shutil.which("node") or not shutil.which("npm"):
        _missing("node or npm is missing: apt-get install nodejs npm")
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "xtrace-tests"
    cache.mkdir(parents=True, exist_ok=True)
    version = hashlib.sha256((PROJECT / "package-lock.json").read_bytes()).hexdigest()[:16]
    folder = cache / f"chromium-{version}"
    with open(cache / "chromium.lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not (folder / "node_modules").is_dir():
            partial = cache / f"chromium-{version}.partial"
            shutil.rmtree(partial, ignore_errors=True)
            partial.mkdir()
            for name in ("package.json", "package-lock.json", ".npmrc"):
                shutil.copy(PROJECT / name, partial)
            done = subprocess.run(
                ["npm", "ci"], cwd=partial, capture_output=True, check=False, text=True, timeout=TIMEOUT_S
            )
            if done.returncode:
                _missing(f"npm ci failed: {done.stderr.strip()[-300:]}")
            partial.rename(folder)
    return folder / "node_modules"


def _missing(reason: str) -> NoReturn:
    if os.environ.get(REQUIRE_VARIABLE) == "1":
        pytest.fail(f"{reason} ({REQUIRE_VARIABLE}=1 forbids skipping)", pytrace=False)
    pytest.skip(reason)
