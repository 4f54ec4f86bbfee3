"""Build Xen from Debian's own source package, with the schedulers that Debian leaves out, or with a patch.

Debian's Xen has credit and credit2.  For ``null`` and ``rtds``, only the hypervisor is rebuilt, with the
release's upstream default configuration plus these two.  With EVENT_RECORDS, it also writes records of the
delivery of event channels (docs/xen-records.md).  apt finds the sources through a temporary copy of
this machine's source lists with deb-src in place of deb.
"""

from __future__ import annotations

import hashlib
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from lab.image import cache
from lab.packages import LabError, resolve

#: The patch for records of event delivery.  It has Xen's licence.
EVENT_RECORDS = Path(__file__).parent / "xen" / "event-records.patch"
_PACKAGE = "xen-hypervisor-4.17-amd64"
_CONFIG = """\
CONFIG_DEBUG=n
CONFIG_EXPERT=y
CONFIG_UNSUPPORTED=y
CONFIG_SCHED_NULL=y
CONFIG_SCHED_RTDS=y
"""
#: Makes builds reproducible: the same source gives the same file, whoever builds it.
_ENVIRONMENT = {"XEN_BUILD_DATE": "xtrace", "XEN_WHOAMI": "xtrace", "XEN_BUILD_HOST": "xtrace"}
_SOURCE_ENTRY = re.compile(r"^(Types:\s*)deb\b.*$|^deb(?=[\s\[])", re.MULTILINE)
_TOOLS = ("dpkg-source", "make", "gcc", "bison", "flex", "patch")
_LIMIT_S = 1800
_FETCH_LIMIT_S = 240


def hypervisor(patch: Path | None = None) -> Path:
    """Return a folder with ``xen``, an ELF file, and ``version``, its source's version; build it if needed.

    Args:
        patch: applied to the source before it is built.

    Raises:
        LabError: apt has no sources of Xen, the patch does not apply, or a tool is missing or fails.
    """
    binary = resolve([_PACKAGE])[0]
    said = f"{binary.file} {binary.checksum}\n{_CONFIG}{_ENVIRONMENT}".encode()
    if patch is not None:
        said += patch.read_bytes()
    folder = cache() / "images" / f"xen-{hashlib.sha256(said).hexdigest()[:16]}"
    if not (folder / "version").exists():
        missing = [tool for tool in _TOOLS if shutil.which(tool) is None]
        if missing:
            wanted = "dpkg-dev make gcc bison flex patch"
            raise LabError(f"missing: {', '.join(missing)}; apt-get install {wanted}")
        begin = time.monotonic()
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=cache()) as scratch:
            version = _source(Path(scratch), binary.file.split("_")[1].replace("%3a", ":"))
            if patch is not None:
                command = ["patch", "-p1", "--fuzz=0", "--batch", f"--input={patch}"]
                _run(command, Path(scratch) / "xen", {}, _LIMIT_S)
            _make(Path(scratch) / "xen" / "xen", folder / "xen")
        (folder / "version").write_text(f"{version}\n")
        sys.stderr.write(f"lab: Xen {version} built in {time.monotonic() - begin:.0f} s\n")
    return folder


def _source(scratch: Path, wanted: str) -> str:
    """Unpack Xen's source to scratch/xen and return its version: ``wanted``, or else the newest available.

    Not every archive keeps the sources of its security updates.
    """
    environment = _apt_environment(scratch)
    _run(["apt-get", "-q", "update"], scratch, environment, _FETCH_LIMIT_S)
    shown = _run(["apt-cache", "showsrc", "xen"], scratch, environment, _FETCH_LIMIT_S)
    found: list[str] = re.findall(r"^Version: (\S+)$", shown, re.MULTILINE)
    series = wanted.split(".")[:2]
    versions = [version for version in found if version.split(".")[:2] == series]
    versions.sort(key=lambda version: (version == wanted, found.index(version)), reverse=True)
    refused = f"apt has no source of Xen {'.'.join(series)}"
    for version in versions:
        try:
            command = ["apt-get", "-q", "source", "--download-only", f"xen={version}"]
            _run(command, scratch, environment, _FETCH_LIMIT_S)
        except LabError as error:
            refused = str(error)
            continue
        files = [str(path) for path in scratch.glob("xen_*.dsc")]
        _run(["dpkg-source", "--no-check", "-x", *files, "xen"], scratch, environment, _FETCH_LIMIT_S)
        return version
    raise LabError(f"cannot get the source of Xen: {refused}")


def _apt_environment(scratch: Path) -> dict[str, str]:
    """Return an environment in which apt has the source packages of this machine's Debian lists."""
    targets = _run(["apt-get", "indextargets", "--format", "$(ORIGIN) $(SOURCESENTRY)"], scratch, {}, 60)
    entries = {line.split()[1] for line in targets.splitlines() if line.startswith("Debian /")}
    (scratch / "sources.d").mkdir()
    for number, path in enumerate(sorted({Path(entry.rpartition(":")[0]) for entry in entries})):
        text = _SOURCE_ENTRY.sub(_as_source, path.read_text())
        (scratch / "sources.d" / f"{number}{path.suffix}").write_text(text)
    (scratch / "lists" / "partial").mkdir(parents=True)
    (scratch / "apt.conf").write_text(
        f'Dir::Etc::sourcelist "-";\nDir::Etc::sourceparts "{scratch}/sources.d";\n'
        f'Dir::State::lists "{scratch}/lists";\nDir::Cache "{scratch}";\nAPT::Sandbox::User "root";\n'
    )
    return {"APT_CONFIG": str(scratch / "apt.conf")}


def _as_source(found: re.Match[str]) -> str:
    return f"{found[1]}deb-src" if found[1] else "deb-src"


def _make(tree: Path, target: Path) -> None:
    (tree / ".config").write_text(_CONFIG)
    _run(["make", "olddefconfig"], tree, _ENVIRONMENT, _LIMIT_S)
    _run(["make", f"-j{os.cpu_count()}", "xen"], tree, _ENVIRONMENT, _LIMIT_S)
    shutil.copyfile(tree / "xen", target)


def _run(command: list[str], folder: Path, environment: dict[str, str], limit_s: int) -> str:
    try:
        done = subprocess.run(
            command,
            cwd=folder,
            env={**os.environ, "LC_ALL": "C", **environment},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=limit_s,
        )
    except subprocess.TimeoutExpired:
        raise LabError(f"{' '.join(command)}: did not end within {limit_s} s") from None
    if done.returncode:
        raise LabError(f"{' '.join(command)}: {(done.stderr.strip() or done.stdout)[-500:]}")
    return done.stdout
