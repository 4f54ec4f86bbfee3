"""Build the disk of the full image: a Debian userland with bcc and the kernel's headers.

It is not booted: the diskless dom0 mounts it at /full, and ``full COMMAND`` runs there.  The packages are
only unpacked, without their install scripts, so there are no accounts and services; none are needed.
"""

from __future__ import annotations

import hashlib
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from lab.image import cache
from lab.packages import LabError, download, listed, resolve_all

_FREE_MIB = 300
_LIMIT_S = 240
#: Mount points for dom0's own file systems; /share is from the host.
_MOUNTED = ("proc", "sys", "dev", "run", "tmp", "share")


def disk() -> Path:
    """Return the disk made of the current packages, an ext4 file; build it if it does not exist.

    Raises:
        LabError: apt, dpkg-deb or mke2fs fails.
    """
    packages = resolve_all(listed("full"))
    said = "".join(f"{package.file} {package.checksum}\n" for package in packages)
    key = hashlib.sha256(said.encode() + Path(__file__).read_bytes()).hexdigest()[:16]
    path = cache() / "images" / f"{key}.ext4"
    if not path.exists():
        begin = time.monotonic()
        path.parent.mkdir(parents=True, exist_ok=True)
        files = download(packages, cache() / "packages")
        with tempfile.TemporaryDirectory(dir=path.parent) as scratch:
            made = _make(files, Path(scratch))
            made.rename(path)
        sys.stderr.write(f"lab: disk built in {time.monotonic() - begin:.0f} s\n")
    return path


def _make(packages: list[Path], scratch: Path) -> Path:
    root = scratch / "root"
    for package in packages:
        run("dpkg-deb", "-x", str(package), str(root))
    for name in _MOUNTED:
        (root / name).mkdir(exist_ok=True)
    return file_system(root, scratch / "disk.ext4", "full", _FREE_MIB)


def file_system(root: Path, image: Path, label: str, free_mib: int) -> Path:
    """Make ``image``, an ext4 file with the content of ``root`` and at least ``free_mib`` of room; return it.

    Raises:
        LabError: mke2fs fails.
    """
    used_mib = int(run("du", "-sm", str(root)).split()[0])
    # No journal, because every boot starts from the same file.
    options = ["-q", "-t", "ext4", "-O", "^has_journal", "-L", label, "-d", str(root)]
    run("mke2fs", *options, str(image), f"{used_mib * 5 // 4 + free_mib}M")
    return image


def run(*command: str, limit_s: float = _LIMIT_S) -> str:
    """Return the output of a command.

    Raises:
        LabError: the command fails, is missing, or takes longer than ``limit_s``.
    """
    if shutil.which(command[0]) is None:
        raise LabError(f"{command[0]} is missing; install it")
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=limit_s)
    except subprocess.TimeoutExpired:
        raise LabError(f"{' '.join(command)}: did not end within {limit_s:.0f} s") from None
    if done.returncode:
        raise LabError(f"{' '.join(command)}: {done.stderr.strip()}")
    return done.stdout
