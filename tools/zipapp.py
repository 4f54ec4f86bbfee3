"""Build xtrace.pyz: a single file that records on a dom0 with its system Python alone.

usage: tools/zipapp.py [OUTPUT]     (default: build/xtrace.pyz)

It contains the commands, the recorder, the readers of captures, and typer, but not
NumPy: a command that needs more says what to install.  bcc comes from the dom0
(python3-bpfcc).  Each module is included as source and as byte code of the Python that
builds the file, which halves the start time: build it with the dom0's Python version.
The same tree and the same Python produce the same bytes.
"""

from __future__ import annotations

import importlib.util
import marshal
import os
import sys
import tempfile
import zipfile
from collections.abc import Iterator
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
#: Without analysis, which needs NumPy.
PACKAGES = ("cli", "probes", "symbols")
_TOP = ("__init__.py", "__main__.py", "lazy.py")
VENDORED = ("annotated-doc", "shellingham", "typer", "wcwidth")
#: -I: nothing is imported from the current folder, from PYTHONPATH or from the user's own packages.
SHEBANG = b"#!/usr/bin/python3 -I\n"
#: Started as `python3 xtrace.pyz` it starts itself again with -I, before it imports more than these two.
MAIN = """import sys

if not sys.flags.isolated:
    import os

    without_site = ["-S"] if sys.flags.no_site else []
    os.execv(sys.executable, [sys.executable, "-I", *without_site, *sys.argv])

from xtrace.cli.start import main

main()
"""
#: Nor the compiled loops (.so): they cannot be loaded from an archive, and work on NumPy's arrays.
_NOT_KEPT = {".pyc", ".pyi", ".so", ".typed"}


def contents() -> Iterator[tuple[str, bytes]]:
    """Yield the name and the content of each file of the archive."""
    yield "__main__.py", MAIN.encode()
    for name in _TOP:
        yield f"xtrace/{name}", (ROOT / "xtrace" / name).read_bytes()
    for package in PACKAGES:
        for path in sorted((ROOT / package).rglob("*")):
            if path.is_file() and path.suffix not in _NOT_KEPT:
                yield f"xtrace/{path.relative_to(ROOT).as_posix()}", path.read_bytes()
    # Commands import this module of samples for the default sample's path.
    yield "xtrace/samples/__init__.py", (ROOT / "samples" / "__init__.py").read_bytes()
    yield "xtrace/LICENSE", (ROOT / "LICENSE").read_bytes()
    for name in VENDORED:
        for file in distribution(name).files or ():
            if ".." not in file.parts and file.suffix not in _NOT_KEPT and file.name != "RECORD":
                yield file.as_posix(), Path(str(file.locate())).read_bytes()


def build(output: Path) -> int:
    """Write the archive to ``output``, executable, and return its size in bytes.

    Raises:
        PackageNotFoundError: the Python that runs this lacks one of VENDORED.
    """
    files = list(contents())
    output.parent.mkdir(parents=True, exist_ok=True)
    handle, scratch = tempfile.mkstemp(dir=output.parent, suffix=".pyz.new")
    with os.fdopen(handle, "wb") as file:
        file.write(SHEBANG)
        with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
            for name, content in files:
                _put(archive, name, content)
                if name.endswith(".py"):
                    _put(archive, f"{name}c", _compiled(name, content))
    Path(scratch).chmod(0o755)
    Path(scratch).replace(output)
    return output.stat().st_size


def _put(archive: zipfile.ZipFile, name: str, content: bytes) -> None:
    entry = zipfile.ZipInfo(name, (1980, 1, 1, 0, 0, 0))
    entry.external_attr = 0o644 << 16
    archive.writestr(entry, content, zipfile.ZIP_DEFLATED, 9)


def _compiled(name: str, source: bytes) -> bytes:
    """Return a module's .pyc that is not checked against its source when loaded (PEP 552)."""
    code = compile(source, f"xtrace.pyz/{name}", "exec", dont_inherit=True, optimize=0)
    flags = 0b01
    digest = importlib.util.source_hash(source)
    return importlib.util.MAGIC_NUMBER + flags.to_bytes(4, "little") + digest + marshal.dumps(code)


def main(arguments: list[str]) -> int:
    """Build the file and print its path, size and Python version; return the exit code."""
    output = Path(arguments[0]) if arguments else ROOT / "build" / "xtrace.pyz"
    try:
        size = build(output)
    except PackageNotFoundError as error:
        sys.stderr.write(
            f"zipapp.py: {sys.executable} has no {error.name}; the archive includes {', '.join(VENDORED)}: "
            "run it with .venv/bin/python, which ./run creates\n"
        )
        return 1
    version = f"{sys.version_info.major}.{sys.version_info.minor}"
    sys.stdout.write(f"{output}: {size / 1e3:.0f} kB, compiled for Python {version}\n")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
