"""Build the disk with the project's wheel, installed for dom0's own Python.

It is a virtual environment that sees the system's packages, because bcc is one of them.  Debian's Python is
3.11, so a Python of that version must run pip; dom0 cannot reach a package index.  The wheel has the compiled
loops, so the disk needs no numba.
"""

from __future__ import annotations

import hashlib
import shutil
import sys
import tempfile
import time
import tomllib
from collections.abc import Iterator
from pathlib import Path

from lab.disk import file_system, run
from lab.image import cache
from lab.packages import LabError

_HERE = Path(__file__).parent
_ROOT = _HERE.parents[1]
_LOCK = _ROOT / "tools" / "lock" / "trial.txt"
#: Its mount point in dom0's userland, which is also in the scripts' first lines.
PLACE = "/opt/xtrace"
_VERSION = "3.11"
_CONFIG = f"home = /usr/bin\ninclude-system-site-packages = true\nversion = {_VERSION}\n"
_FREE_MIB = 64
_KEPT = 3
_LIMIT_S = 280


def wheel_disk(python: str) -> Path:
    """Return the disk of this checkout's wheel, an ext4 file; build it if it does not exist.

    Args:
        python: path of a Python 3.11 with pip.

    Raises:
        LabError: ``python`` does not exist or has another version, or pip or mke2fs fails.
    """
    digest = hashlib.sha256(Path(__file__).read_bytes() + _LOCK.read_bytes())
    for path in sources():
        content = path.read_bytes()
        digest.update(f"{path.relative_to(_ROOT)} {len(content)}\n".encode() + content)
    disk = cache() / "images" / f"wheel-{digest.hexdigest()[:16]}.ext4"
    if not disk.exists():
        begin = time.monotonic()
        disk.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=disk.parent) as scratch:
            _install(python, Path(scratch))
            file_system(Path(scratch) / "xtrace", Path(scratch) / "disk", "xtrace", _FREE_MIB).rename(disk)
        sys.stderr.write(f"lab: wheel installed in {time.monotonic() - begin:.0f} s\n")
    disk.touch()
    drop_old(disk.parent)
    return disk


def drop_old(folder: Path) -> None:
    """Delete the least recently used disks: each change of the checkout makes one, of 316 MB."""
    disks = sorted(folder.glob("wheel-*.ext4"), key=lambda path: path.stat().st_mtime)
    for path in disks[:-_KEPT]:
        path.unlink(missing_ok=True)


def sources() -> Iterator[Path]:
    """Yield the files of the checkout that go into the wheel or build it, according to pyproject.toml."""
    yield from (_ROOT / name for name in ("pyproject.toml", "README.md", "LICENSE"))
    project = tomllib.loads((_ROOT / "pyproject.toml").read_text())
    for folder in project["build-system"]["backend-path"]:
        yield from sorted((_ROOT / folder).glob("*.py"))
    tool = project["tool"]["setuptools"]
    for files in tool["data-files"].values():
        yield from (_ROOT / name for name in files)
    data = tool["package-data"]
    package = _ROOT / "xtrace"
    yield from (path for path in sorted(package.iterdir()) if path.is_file())
    for link in sorted(path for path in package.iterdir() if path.is_symlink()):
        for init in sorted(link.resolve().rglob("__init__.py")):
            folder = link / init.parent.relative_to(link.resolve())
            name = ".".join(folder.relative_to(_ROOT).parts)
            for pattern in ("*.py", *data["*"], *data.get(name, ())):
                yield from sorted(folder.glob(pattern))


def _install(python: str, scratch: Path) -> None:
    if not Path(python).exists():
        raise LabError(f"the wheel needs {python}; create it with ./run test --version")
    version = run(python, "-c", "import sys; print('%d.%d' % sys.version_info[:2])").strip()
    if version != _VERSION:
        raise LabError(f"{python} is Python {version}; dom0 has {_VERSION}: make .venv with python{_VERSION}")
    # From a copy: setuptools would include files that an earlier build left in the checkout's build/.
    for path in sources():
        copy = scratch / "source" / path.relative_to(_ROOT)
        copy.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(path, copy)
    pip = (python, "-m", "pip", "--disable-pip-version-check", "--quiet")
    build = ("wheel", "--no-deps", "--no-build-isolation", "-w", str(scratch), str(scratch / "source"))
    run(*pip, *build, limit_s=_LIMIT_S)
    (wheel,) = scratch.glob("xtrace-*.whl")
    place = scratch / "xtrace"
    # Ignore what is installed for the Python that runs pip.
    install = (*pip, "install", "--ignore-installed", "--no-warn-script-location", "--prefix", str(place))
    run(*install, "--require-hashes", "--requirement", str(_LOCK), limit_s=_LIMIT_S)
    run(*install, "--no-index", "--no-deps", str(wheel), limit_s=_LIMIT_S)
    (place / "pyvenv.cfg").write_text(_CONFIG)
    for script in (path for path in (place / "bin").iterdir() if path.is_file()):
        _, _, rest = script.read_bytes().partition(b"\n")
        script.write_bytes(f"#!{PLACE}/bin/python3\n".encode() + rest)
    (place / "bin" / "python3").symlink_to("/usr/bin/python3")
