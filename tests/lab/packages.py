"""Fetch the Debian packages of the lab's image, from the apt sources of this machine."""

from __future__ import annotations

import os
import re
import subprocess
import tarfile
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

_LIST = Path(__file__).with_name("packages.txt")
_URI = re.compile(r"^'[^']*' (?P<name>\S+) \d+ (?P<sum>\S+)$", re.MULTILINE)
_INSTALLED = re.compile(r"^'[^']*' (\S+) \d+", re.MULTILINE)
_DOWNLOAD_LIMIT_S = 240


class LabError(Exception):
    """The lab cannot continue; the text says why and what to do."""


@dataclass(frozen=True, slots=True)
class Package:
    """A package that apt would download now.

    Attributes:
        name: the name that was requested.
        file: the file name that apt uses.
        checksum: its hash with the kind of hash, from the package index.
    """

    name: str
    file: str
    checksum: str


def listed(size: str) -> list[str]:
    """Return the package names of an image size, with the kernel's metapackage resolved to its kernel."""
    rows = [line.split() for line in _LIST.read_text().splitlines() if line and not line.startswith("#")]
    names = [name for wanted, name in rows if wanted == size]
    return [_kernel_of(name) if name.startswith("linux-") else name for name in names]


def _kernel_of(metapackage: str) -> str:
    found = re.search(r"Depends: (linux-\S+)", _apt("apt-cache", "depends", metapackage))
    if found is None:
        raise LabError(f"{metapackage} depends on no kernel; run apt-get update as root and try again")
    return found[1]


def resolve(names: list[str]) -> list[Package]:
    """Return the files that apt would download for ``names``; download nothing.

    Raises:
        LabError: apt does not have one of them.
    """
    found = {
        row["name"].split("_")[0]: Package(row["name"].split("_")[0], row["name"], row["sum"])
        for row in _URI.finditer(_apt("apt-get", "download", "--print-uris", *names))
    }
    missing = [name for name in names if name not in found]
    if missing:
        raise LabError(f"apt does not have {', '.join(missing)}; run apt-get update as root and try again")
    return [found[name] for name in names]


def resolve_all(names: list[str]) -> list[Package]:
    """Return ``names`` and all their dependencies, as if nothing were installed on this machine.

    Raises:
        LabError: apt does not have one of them, or they conflict.
    """
    with tempfile.TemporaryDirectory() as nothing:
        status = Path(nothing) / "status"
        status.touch()
        # An empty archive folder too: apt prints no address for a package that it has already downloaded.
        options = [f"Dir::State::status={status}", f"Dir::Cache::archives={nothing}", "Debug::NoLocking=1"]
        said = _apt(
            *("apt-get", *(word for option in options for word in ("-o", option))),
            *("--no-install-recommends", "--yes", "--print-uris", "install", *names),
        )
    # Install prints a weaker hash, or none, so resolve asks again; newer kernels may have other names.
    return resolve(sorted({row[1].split("_")[0] for row in _INSTALLED.finditer(said)}))


def download(packages: list[Package], folder: Path) -> list[Path]:
    """Download the ``packages`` that are missing from ``folder``, and return the files in order."""
    folder.mkdir(parents=True, exist_ok=True)
    absent = [package.name for package in packages if not (folder / package.file).exists()]
    if absent:
        _apt("apt-get", "-qq", "-o", "APT::Sandbox::User=root", "download", *absent, folder=folder)
    return [folder / package.file for package in packages]


def members(package: Path) -> Iterator[tuple[str, tarfile.TarInfo, bytes]]:
    """Yield (path without leading slash, entry, content) of each file and link in a package."""
    with subprocess.Popen(["dpkg-deb", "--fsys-tarfile", str(package)], stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        with tarfile.open(fileobj=process.stdout, mode="r|") as tar:
            for entry in tar:
                if entry.isdir():
                    continue
                file = tar.extractfile(entry) if entry.isfile() else None
                yield entry.name.removeprefix("./"), entry, file.read() if file else b""
    if process.returncode:
        raise LabError(f"{package}: dpkg-deb cannot read it; delete it and try again")


def _apt(*command: str, folder: Path | None = None) -> str:
    try:
        done = subprocess.run(
            command,
            cwd=folder,
            env={**os.environ, "LC_ALL": "C"},
            capture_output=True,
            text=True,
            timeout=_DOWNLOAD_LIMIT_S,
        )
    except FileNotFoundError:
        raise LabError(f"{command[0]} is missing; the lab needs a Debian machine's apt and dpkg") from None
    except subprocess.TimeoutExpired:
        raise LabError(f"{' '.join(command)}: did not end within {_DOWNLOAD_LIMIT_S} s") from None
    if done.returncode:
        raise LabError(f"{' '.join(command)}: {done.stderr.strip()}")
    return done.stdout
