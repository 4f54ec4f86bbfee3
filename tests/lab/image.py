"""Build the image that QEMU boots from Debian packages, and cache it under a hash of its inputs.

An image is a folder: ``xen`` (the hypervisor as ELF), ``vmlinux`` (dom0's and the guests' kernel),
``dom0.cpio`` (the initial file system, which includes the guests' kernel and file system) and
``versions.json``.

Nothing is compressed: in emulation, decompression would take seconds at each boot and at each creation of a
guest.
"""

from __future__ import annotations

import gzip
import hashlib
import json
import lzma
import os
import re
import shutil
import struct
import subprocess
import sys
import tarfile
import tempfile
import time
from collections.abc import Iterable
from pathlib import Path

from lab.cpio import Entry, console_node, directory, link, plain, program, write
from lab.packages import LabError, Package, download, listed, members, resolve

_HERE = Path(__file__).parent
_DOM0 = _HERE / "dom0"

_DOM0_MODULES = (
    *("virtio_pci", "9pnet_virtio", "9p"),
    *("virtio_blk", "crc32c_generic", "ext4"),
    *("xenfs", "xen-privcmd", "xen-evtchn", "xen-gntdev", "xen-gntalloc"),
    *("xen-blkback", "xen-netback", "bridge", "loop"),
)
_GUEST_MODULES = ("xen-evtchn", "xen-blkfront", "xen-netfront")

#: The files of the packages that go into the file systems; whole packages would be ten times as large.
_KEPT = re.compile(
    r"(usr/)?(lib|lib64)/(x86_64-linux-gnu/)?(lib[^/]*|ld-[^/]*)\.so[^/]*$"
    r"|usr/lib/xen-4\.17/bin/(xl|xenstored|xen-init-dom0|xenconsoled?|xentrace|xentrace_setsize|xenctx"
    r"|lsevtchn|xen-hptool|xenpm|xenperf|xen-cpuid)$"
    r"|usr/bin/(xenalyze|xenstore[^/]*)$"
    r"|etc/xen/xl\.conf$"
)
_BUSYBOX = "bin/busybox"


def cache() -> Path:
    """Return the folder with the cached images and packages."""
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(base) / "xtrace-lab"


def image() -> Path:
    """Return the image made of the current packages and scripts; build it if it does not exist.

    Raises:
        LabError: apt, dpkg-deb or gcc fails, or a package lacks something that is expected in it.
    """
    packages = resolve(listed("diskless"))
    folder = cache() / "images" / _key(packages)
    if not (folder / "versions.json").exists():
        begin = time.monotonic()
        folder.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=folder.parent) as scratch:
            _build(packages, Path(scratch))
            shutil.rmtree(folder, ignore_errors=True)
            shutil.copytree(scratch, folder)
        sys.stderr.write(f"lab: image built in {time.monotonic() - begin:.0f} s\n")
    return folder


def _key(packages: list[Package]) -> str:
    digest = hashlib.sha256()
    for package in packages:
        digest.update(f"{package.file} {package.checksum}\n".encode())
    sources = [*_HERE.glob("*.py"), *_DOM0.iterdir()]
    for path in sorted(path for path in sources if path.name in _MAKERS or path.parent == _DOM0):
        digest.update(path.name.encode() + path.read_bytes())
    return digest.hexdigest()[:16]


_MAKERS = {"image.py", "cpio.py"}


def _build(packages: list[Package], folder: Path) -> None:
    files = download(packages, cache() / "packages")
    kept: list[Entry] = []
    modules: dict[str, bytes] = {}
    busybox = b""
    for file in files:
        for path, entry, content in members(file):
            if path == "boot/xen-4.17-amd64.gz":
                (folder / "xen").write_bytes(gzip.decompress(content))
            elif path.startswith("boot/vmlinuz-"):
                (folder / "vmlinux").write_bytes(kernel_elf(content))
            elif path.endswith(".ko"):
                modules[_module_name(path)] = content
            elif path == _BUSYBOX:
                busybox = content
            elif _KEPT.match(path):
                kept.append(_entry(path, entry, content))
    write(folder / "guest.cpio", [*_base(busybox), *_guest(), *_loading(modules, _GUEST_MODULES)])
    guest = [plain(f"boot/{name}", (folder / name).read_bytes()) for name in ("vmlinux", "guest.cpio")]
    write(folder / "dom0.cpio", [*_base(busybox), *_dom0(), *_loading(modules, _DOM0_MODULES), *kept, *guest])
    versions = {package.name: package.file.split("_")[1].replace("%3a", ":") for package in packages}
    (folder / "versions.json").write_text(json.dumps(versions, indent=1) + "\n")


def _entry(path: str, member: tarfile.TarInfo, content: bytes) -> Entry:
    if member.issym():
        return link(path, member.linkname)
    if member.islnk():
        return link(path, "/" + member.linkname.removeprefix("./"))
    return program(path, content) if member.mode & 0o100 else plain(path, content)


def kernel_elf(image: bytes) -> bytes:
    """Return the ELF inside a bzImage (Linux, Documentation/x86/boot.rst, payload_offset).

    Raises:
        LabError: the payload is not one xz stream.
    """
    setup_sectors = image[0x1F1] or 4
    offset, length = struct.unpack_from("<II", image, 0x248)
    start = (setup_sectors + 1) * 512 + offset
    try:
        return lzma.LZMADecompressor().decompress(image[start : start + length])
    except lzma.LZMAError as error:
        raise LabError(f"the kernel's payload is not xz: {error}; add its compression to image.py") from None


def _base(busybox: bytes) -> list[Entry]:
    applets = _run([_written(busybox), "--list"]).split()
    folders = [
        directory(name)
        for name in ("dev", "proc", "sys", "run", "tmp", "var/run/xen", "var/lib/xen", "var/log/xen")
    ]
    return [
        console_node(),
        *folders,
        program(_BUSYBOX, busybox),
        *[link(f"bin/{name}", "busybox") for name in applets if name != "busybox"],
    ]


def _written(content: bytes) -> str:
    path = cache() / "busybox"
    path.write_bytes(content)
    path.chmod(0o755)
    return str(path)


def _dom0() -> list[Entry]:
    scripts = [
        program(f"etc/xen/scripts/{name}", (_DOM0 / name).read_bytes()) for name in ("block", "vif-bridge")
    ]
    return [
        program("init", (_DOM0 / "init").read_bytes()),
        program("lib/lab.sh", (_DOM0 / "lab.sh").read_bytes()),
        *scripts,
        *_compiled("clock"),
    ]


def _guest() -> list[Entry]:
    return [program("init", (_DOM0 / "guest-init").read_bytes())]


def _compiled(*names: str) -> list[Entry]:
    entries = []
    for name in names:
        with tempfile.TemporaryDirectory() as scratch:
            output = Path(scratch) / name
            _run(["gcc", "-O2", "-Wall", "-Werror", "-static", "-o", str(output), str(_DOM0 / f"{name}.c")])
            entries.append(program(f"bin/{name}", output.read_bytes()))
    return entries


def _loading(modules: dict[str, bytes], wanted: Iterable[str]) -> list[Entry]:
    """Return the modules ``wanted`` and their dependencies, and a file with the order to load them in."""
    order: list[str] = []

    def visit(name: str) -> None:
        if name not in modules:
            raise LabError(f"the kernel package has no module {name}; image.py lists modules of Debian 12")
        found = re.search(rb"\0depends=([^\0]*)\0", modules[name])
        for needed in found[1].decode().split(",") if found and found[1] else []:
            visit(_module_name(needed))
        if name not in order:
            order.append(name)

    for name in wanted:
        visit(_module_name(name))
    return [
        plain("lib/modules/order", "".join(f"{name}\n" for name in order).encode()),
        *[plain(f"lib/modules/{name}.ko", modules[name]) for name in order],
    ]


def _module_name(path: str) -> str:
    return path.rsplit("/", 1)[-1].removesuffix(".ko").replace("-", "_")


def _run(command: list[str]) -> str:
    try:
        return subprocess.run(command, check=True, capture_output=True, text=True, timeout=120).stdout
    except FileNotFoundError:
        raise LabError(f"{command[0]} is missing; install it") from None
    except subprocess.CalledProcessError as error:
        raise LabError(f"{' '.join(command)}: {error.stderr.strip()}") from None
