"""The lock files fit pyproject.toml, and ./run installs nothing whose hash is another."""

from __future__ import annotations

import hashlib
import importlib
import os
import shutil
import subprocess
import sys
import venv
import zipfile
from pathlib import Path
from typing import Any

import pip
import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).parents[2]
sys.path.insert(0, str(ROOT / "tools" / "lock"))
lockfile: Any = importlib.import_module("lockfile")
renew: Any = importlib.import_module("renew")
LOCKS = {lock.name: lock for lock in renew.locks()}
#: A wheel of nothing.
TINY = "tiny-1-py3-none-any.whl"


@pytest.mark.parametrize("name", LOCKS)
def test_each_target_has_one_pin_that_fits_for_each_requirement(name: str) -> None:
    pins = lockfile.of(name)
    for target in lockfile.TARGETS:
        here = {pin.name: pin for pin in pins if target.has(pin.marker)}
        assert len(here) == sum(target.has(pin.marker) for pin in pins)
        for text in LOCKS[name].requirements:
            wanted = Requirement(text)
            if target.has(str(wanted.marker) if wanted.marker else None):
                pin = here[canonicalize_name(wanted.name)]
                assert wanted.specifier.contains(pin.version, prereleases=True), (target, text)


def test_all_files_have_the_same_versions_and_hashes() -> None:
    seen: dict[tuple[str, str | None], Any] = {}
    for name in ("build", "runtime", "trial", "developer", "linker", "tools"):
        for pin in lockfile.of(name):
            assert seen.setdefault((pin.name, pin.marker), pin) == pin
    assert {path.stem for path in lockfile.FOLDER.glob("*.txt")} == set(LOCKS)
    assert {pin.name for pin in lockfile.of("runtime")} < {pin.name for pin in lockfile.of("developer")}


@pytest.mark.parametrize(
    "line",
    [
        "numpy==2.4.6\n",
        "numpy>=2.4.6 \\\n    --hash=sha256:" + "0" * 64 + "\n",
        "--index-url there\n",
        "numpy @ file:///numpy \\\n    --hash=sha256:" + "0" * 64 + "\n",
    ],
)
def test_nothing_but_pins_with_hashes_is_read(line: str) -> None:
    text = (lockfile.FOLDER / "build.txt").read_text()
    assert lockfile.read(text)
    with pytest.raises(ValueError, match="neither a comment nor a pin"):
        lockfile.read(text + line)


@pytest.fixture
def copy(tmp_path: Path) -> Path:
    """Return a folder with ./run, the lock files, an environment that has only pip, and the wheel TINY."""
    for name in ("run", "pyproject.toml"):
        shutil.copy(ROOT / name, tmp_path)
    shutil.copytree(lockfile.FOLDER, tmp_path / "tools" / "lock", ignore=shutil.ignore_patterns("*.py"))
    venv.create(tmp_path / ".venv", with_pip=False)
    (site(tmp_path) / "pip.pth").write_text(str(Path(pip.__file__).parents[1]))
    with zipfile.ZipFile(tmp_path / TINY, "w") as wheel:
        about = "tiny-1.dist-info"
        wheel.writestr(f"{about}/METADATA", "Metadata-Version: 2.1\nName: tiny\nVersion: 1\n")
        wheel.writestr(f"{about}/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        wheel.writestr(f"{about}/RECORD", "")
    return tmp_path


def site(folder: Path) -> Path:
    return next((folder / ".venv" / "lib").glob("python*/site-packages"))


def run(folder: Path, lock: str) -> list[str]:
    """Start ./run with another lock file `build`; return what it says after its first line."""
    (folder / "tools" / "lock" / "build.txt").write_text(lock)
    done = subprocess.run(
        [folder / "run", "report"], cwd=folder, capture_output=True, text=True, check=False,
        env={
            "PATH": os.environ["PATH"], "HOME": str(folder), "PIP_CONFIG_FILE": os.devnull,
            "PIP_NO_INDEX": "1", "PIP_FIND_LINKS": str(folder),
        },
    )  # fmt: skip
    assert (done.returncode, done.stdout) == (1, "")
    assert not list((folder / ".venv").glob(".xtrace-*"))
    first, *rest = done.stderr.splitlines()
    assert first.startswith("run: installing xtrace and its dependencies")
    return rest


def test_another_hash_is_refused_in_one_line_and_nothing_is_installed(copy: Path) -> None:
    said = run(copy, f"tiny==1 \\\n    --hash=sha256:{'0' * 64}\n")
    got = hashlib.sha256((copy / TINY).read_bytes()).hexdigest()
    assert said == [
        f"run: tiny==1 is not what tools/lock/build.txt has: expected sha256 {'0' * 64}, got {got}; "
        "nothing was installed"
    ]
    assert not list(site(copy).glob("tiny*"))


def test_what_has_no_hash_is_refused(copy: Path) -> None:
    assert any("Hashes are required" in line for line in run(copy, "tiny==1\n"))
    assert not list(site(copy).glob("tiny*"))


def test_what_is_not_to_be_had_is_said_with_the_pythons_that_it_is_for(copy: Path) -> None:
    assert run(copy, f"tiny==2 \\\n    --hash=sha256:{'0' * 64}\n")[-1] == (
        "run: cannot install what tools/lock/build.txt has; "
        "it is for CPython 3.11 to 3.14 on x86-64 and aarch64"
    )
