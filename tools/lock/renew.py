"""Write the lock files: the exact versions, and the hashes, of all that ./run and CI install from PyPI.

usage: renew.py [--newest]     (make lock; make lock NEWEST=1)

Without --newest, versions stay as they are where pyproject.toml allows it.  uv resolves for every Python and
platform; kept are the hashes of wheels for the targets in lockfile.py, so that nothing is built from source
except what BUILT names.  Files have no addresses: pip's index is the user's.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
import tomllib
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from lockfile import FOLDER, MACHINES, PYTHONS, TARGETS, Pin, Target, read
from packaging.tags import Tag, compatible_tags, cpython_tags
from packaging.utils import parse_wheel_filename

PROJECT = FOLDER.parents[1] / "pyproject.toml"
#: Wheels may ask for the C library 2.36, Debian 12's, or older; developers on aarch64 need 2.38, for z3.
GLIBC_MINOR, DEVELOPERS_GLIBC_MINOR = 36, 38
#: Built from source where there is no wheel, with what the file `build` has.
BUILT = {"iced-x86": {"aarch64"}, "yattag": set(MACHINES)}
_BUILD_ON_AARCH64 = 'setuptools-rust>=1.9 ; platform_machine == "aarch64"'
_HEAD = "# Written by `make lock`: do not edit.  {}\n"


class Lock(NamedTuple):
    """A lock file: its name, what it is for, and what it is resolved from."""

    name: str
    purpose: str
    requirements: tuple[str, ...]
    glibc_minor: int = GLIBC_MINOR


class LockError(Exception):
    """The lock cannot be written; the text says why."""


def locks() -> tuple[Lock, ...]:
    """Return the lock files that pyproject.toml asks for."""
    project = tomllib.loads(PROJECT.read_text())
    needed = tuple(project["project"]["dependencies"])
    extras = {name: tuple(found) for name, found in project["project"]["optional-dependencies"].items()}
    build = (*project["build-system"]["requires"], _BUILD_ON_AARCH64)
    return (
        Lock("build", "What the project is built with.", build),
        Lock("runtime", "What `xtrace` imports.", (*needed, *extras["zstd"])),
        Lock(
            "trial",
            "What `xtrace` imports, `xtrace trial` included.",
            (*needed, *extras["zstd"], *extras["trial"]),
        ),
        Lock("developer", "For tests and checks.", (*needed, *extras["dev"], *build), DEVELOPERS_GLIBC_MINOR),
        Lock("linker", "Where there is no C compiler.", extras["linker"]),
        Lock("tools", "For `make lock` and `make mutants`.", (*extras["lock"], *extras["mutants"])),
    )


def resolved(requirements: Iterable[str], constraints: Iterable[str]) -> list[dict[str, Any]]:
    """Return the packages of a resolution for every platform, as PEP 751 describes them.

    Raises:
        LockError: there is none, or uv is missing.
    """
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "in").write_text("\n".join(requirements))
        (folder / "constraints").write_text("\n".join(constraints))
        command = [
            sys.executable, "-m", "uv", "pip", "compile", "--quiet", "--universal", "--no-header",
            "--python-version", PYTHONS[0], "--format", "pylock.toml", "--constraints", "constraints",
            "--output-file", "pylock.toml", "in",
        ]  # fmt: skip
        done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
        if done.returncode:
            raise LockError(done.stderr.strip())
        packages: list[dict[str, Any]] = tomllib.loads((folder / "pylock.toml").read_text())["packages"]
    return packages


def pins(packages: Iterable[dict[str, Any]], glibc_minor: int) -> Iterator[Pin]:
    """Yield each package that a target with this C library, 2.x, needs.

    Raises:
        LockError: a package has nothing that a target can install.
    """
    for package in packages:
        if targets := [target for target in TARGETS if target.has(package.get("marker"))]:
            hashes = {digest for target in targets for digest in _hashes(package, target, glibc_minor)}
            yield Pin(package["name"], package["version"], _marker(targets), tuple(sorted(hashes)))


def _marker(targets: Sequence[Target]) -> str | None:
    """Return the marker of what only these targets have: a range of Pythons, a machine."""
    parts = []
    pythons = [python for python in PYTHONS if any(target.python == python for target in targets)]
    if pythons[0] != PYTHONS[0]:
        parts.append(f'python_version >= "{pythons[0]}"')
    if pythons[-1] != PYTHONS[-1]:
        parts.append(f'python_version <= "{pythons[-1]}"')
    machines = {target.machine for target in targets}
    if len(machines) == 1:
        parts.append(f'platform_machine == "{machines.pop()}"')
    return " and ".join(parts) or None


def _hashes(package: dict[str, Any], target: Target, glibc_minor: int) -> list[str]:
    """Return the hashes of the wheels that the target can install, else of a source that is allowed."""
    possible = _tags(target, glibc_minor)
    found = [
        file["hashes"]["sha256"]
        for file in package.get("wheels", ())
        if possible & parse_wheel_filename(file["url"].rpartition("/")[2])[3]
    ]
    if not found and target.machine in BUILT.get(package["name"], ()):
        return [package["sdist"]["hashes"]["sha256"]]
    if not found:
        raise LockError(
            f"{package['name']} {package['version']} has no wheel for Python {target.python} on "
            f"{target.machine} with glibc 2.{glibc_minor}"
        )
    return found


def _tags(target: Target, glibc_minor: int) -> frozenset[Tag]:
    platforms = [f"manylinux_2_{minor}_{target.machine}" for minor in range(glibc_minor, 4, -1)]
    platforms += [f"{old}_{target.machine}" for old in ("manylinux2014", "manylinux2010", "manylinux1")]
    platforms.append(f"linux_{target.machine}")
    major, minor = map(int, target.python.split("."))
    version = (major, minor)
    return frozenset(
        [
            *cpython_tags(version, platforms=platforms),
            *compatible_tags(version, f"cp{major}{minor}", platforms),
        ]
    )


def main(arguments: list[str]) -> int:
    """Write the files; return the exit code."""
    if arguments not in ([], ["--newest"]):
        sys.stderr.write("usage: renew.py [--newest]\n")
        return 2
    wanted = locks()
    old = [] if arguments else [pin for path in FOLDER.glob("*.txt") for pin in read(path.read_text())]
    try:
        # First all together, so that each file has the same version of what several need.
        together = resolved(
            [one for lock in wanted for one in lock.requirements], [pin.constraint() for pin in old]
        )
        same = [pin.constraint() for pin in pins(together, DEVELOPERS_GLIBC_MINOR)]
        found = {lock: list(pins(resolved(lock.requirements, same), lock.glibc_minor)) for lock in wanted}
    except LockError as error:
        sys.stderr.write(f"renew.py: {error}\n")
        return 1
    for lock, kept in found.items():
        text = _HEAD.format(lock.purpose) + "".join(pin.lines() for pin in kept)
        (FOLDER / f"{lock.name}.txt").write_text(text)
        sys.stdout.write(f"{lock.name}: {len(kept)} packages\n")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
