"""Measure `xtrace sites` against `objdump -d` of the same image, and the address resolver.

    python benchmarks/sites.py [--text-mb 5] [--runs 5] [--image FILE]... [--no-linux]

The first image is made by kernel_maker.py, the second is Debian's kernel, as packaged
(vmlinuz) and unpacked.  objdump only disassembles, which is the least that finding sites
takes.  benchmarks/run.py puts the same table into docs/benchmarks.md.
"""

from __future__ import annotations

import argparse
import re
import shutil
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from kernel_maker import cache, kernel
from timing import MEGABYTE, XTRACE, best_rate, median, paired, ratio

ADDRESSES = 20 * 10**6

UNPACK = """
import sys
from pathlib import Path
from xtrace.symbols.image.files import map_file
from xtrace.symbols.image.vmlinuz import unpack
Path(sys.argv[2]).write_bytes(unpack(map_file(sys.argv[1]), sys.argv[1])[0])
"""


@dataclass(frozen=True, slots=True)
class Case:
    """An image to measure.

    Attributes:
        name: its name in the table.
        image: the file that xtrace reads.
        plain: the same, unpacked, for objdump.
        limit_s: time limit; None if there is none.
    """

    name: str
    image: Path
    plain: Path
    limit_s: float | None = None


def page(text_mb: float, runs: int, images: Sequence[Path] = (), *, linux: bool = True) -> list[str]:
    """Return the section of docs/benchmarks.md about sites, as lines."""
    if shutil.which("objdump") is None or shutil.which("gcc") is None:
        raise SystemExit("gcc or objdump is missing: apt-get install gcc binutils")
    made = kernel(int(text_mb * MEGABYTE))
    cases = [Case("made like NetBSD's", made, made, 1.5)]
    if linux:
        cases += debian_kernel()
    cases += [Case(path.name, path, path) for path in images]
    lines = [
        "## Sites",
        "",
        "`xtrace sites` as a whole process, including source lines, and `objdump -d` of the same image;",
        "limits are in wall seconds; each may use 600 MB of memory.",
        "",
        "| image | code MB | DWARF MB | sites | `xtrace sites` s | limit | `objdump -d` s | ratio "
        "| MB resident |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    lines += [row(case, runs) for case in cases]
    lines += ["", "| what | figure |", "|---|---|"]
    lines += [
        f"| addresses to symbols, one core, {name} | {resolver_rate(path, runs):.1f} M/s |"
        for name, path in {case.name: case.plain for case in cases}.items()
    ]
    return [*lines, ""]


def row(case: Case, runs: int) -> str:
    """Return a row of the table."""
    ours, theirs = paired([*XTRACE, "sites", str(case.image)], ["objdump", "-d", str(case.plain)], runs)
    code, dwarf = sizes(case.plain)
    listed = [*XTRACE, "sites", "--no-lines", "--csv", str(case.image)]
    count = subprocess.run(listed, capture_output=True, check=True).stdout.count(b"\n") - 1
    limit = "-" if case.limit_s is None else f"{case.limit_s:.1f}"
    return (
        f"| {case.name} | {code / MEGABYTE:.1f} | {dwarf / MEGABYTE:.1f} | {count} "
        f"| {median(ours):.2f} | {limit} | {median(theirs):.2f} | {ratio(ours, theirs):.2f} "
        f"| {max(one.resident_mb for one in ours):.0f} |"
    )


def sizes(image: Path) -> tuple[int, int]:
    """Return the sizes of code and DWARF in bytes, from objdump."""
    told = subprocess.run(["objdump", "-hw", image], capture_output=True, check=True, text=True).stdout
    code = dwarf = 0
    for line, name, size in re.findall(r"^( *\d+ (\S+) +([0-9a-f]{8,}) .*)$", told, re.MULTILINE):
        code += int(size, 16) * ("CODE" in line)
        dwarf += int(size, 16) * name.startswith(".debug")
    return code, dwarf


def debian_kernel() -> list[Case]:
    """Return Debian's kernel, as packaged and unpacked."""
    folder = cache() / "linux"
    folder.mkdir(parents=True, exist_ok=True)
    image = next(iter(sorted(folder.glob("boot/vmlinuz-*"))), None) or _download(folder)
    plain = folder / "vmlinux"
    if not plain.exists():
        subprocess.run([sys.executable, "-c", UNPACK, image, plain], check=True)
    return [Case("Debian's vmlinuz", image, plain, 3.0), Case("the same, unpacked", plain, plain, 3.0)]


def _download(folder: Path) -> Path:
    listed = subprocess.run(
        ["apt-cache", "depends", "linux-image-amd64"], capture_output=True, check=False, text=True
    ).stdout
    found = re.search(r"Depends: (linux-image-\S+)", listed)
    if not found:
        raise SystemExit("apt does not have linux-image-amd64; leave out Debian's kernel with --no-linux")
    subprocess.run(
        ["apt-get", "download", "-o", "APT::Sandbox::User=root", found[1]],
        cwd=folder,
        check=True,
        stdout=subprocess.DEVNULL,
    )
    archive = next(folder.glob("*.deb"))
    with subprocess.Popen(["dpkg-deb", "--fsys-tarfile", archive], stdout=subprocess.PIPE) as packed:
        subprocess.run(["tar", "-x", "-C", folder, "./boot"], stdin=packed.stdout, check=True)
    archive.unlink()
    return next(folder.glob("boot/vmlinuz-*"))


def resolver_rate(image: Path, runs: int) -> float:
    """Return how many million addresses per second are resolved to symbols, measured in a separate process.

    A child's peak memory is at least its parent's, so large arrays must not be made in this process.
    """
    told = subprocess.run(
        [sys.executable, __file__, "--resolver", image, "--runs", str(runs)],
        capture_output=True,
        check=True,
        text=True,
    )
    return float(told.stdout)


def _resolve(path: Path, runs: int) -> float:
    import numpy as np

    from xtrace.symbols import AddressResolver, open_image

    image = open_image(path)
    resolver = AddressResolver(image)
    largest = max(image.code, key=lambda section: section.size)
    rng = np.random.default_rng(1)
    rips = np.uint64(largest.address) + rng.integers(0, largest.size, ADDRESSES, np.uint64)
    resolver.resolve(rips[:1000])
    return best_rate(lambda: len(resolver.resolve(rips).symbols), runs) * 1e3


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--text-mb", type=float, default=5, help="code size of the generated kernel")
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--image", type=Path, action="append", default=[], help="another image to measure")
    parser.add_argument("--no-linux", action="store_true", help="leave out Debian's kernel")
    parser.add_argument("--resolver", type=Path, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.resolver:
        print(_resolve(arguments.resolver, arguments.runs))
        return
    lines = page(arguments.text_mb, arguments.runs, arguments.image, linux=not arguments.no_linux)
    print("\n".join(lines))


if __name__ == "__main__":
    main()
