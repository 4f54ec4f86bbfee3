"""Compare a wheel or a source distribution with the tree: every module, compiled loops, nothing but xtrace.

usage: wheel.py WHEEL_OR_SDIST...
"""

from __future__ import annotations

import re
import sys
import tarfile
import zipfile
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
PACKAGES = ("analysis", "cli", "probes", "samples", "symbols")
SAMPLE = "xtrace/samples/xen417-pv-all.bin.xz"
TEMPLATES = ("xtrace/cli/page/templates/page.css", "xtrace/cli/page/templates/page.html")
ALSO = ("xtrace/py.typed", "xtrace/samples/README.md", SAMPLE, f"{SAMPLE}.json", *TEMPLATES)


def faults(path: Path) -> list[str]:
    """Return the faults of a wheel or a source distribution, one line each."""
    return _wheel_faults(path) if path.suffix == ".whl" else _sdist_faults(path)


def _modules() -> set[str]:
    modules = {
        f"xtrace/{path.relative_to(ROOT)}" for name in PACKAGES for path in (ROOT / name).rglob("*.py")
    }
    return modules | {f"xtrace/{path.name}" for path in (ROOT / "xtrace").glob("*.py")}


def _wheel_faults(path: Path) -> list[str]:
    with zipfile.ZipFile(path) as archive:
        inside = set(archive.namelist())
    expected = _modules()
    tops = {name.split("/")[0] for name in inside}
    strange = {top for top in tops if top != "xtrace" and not top.startswith("xtrace-")}
    lines = [f"missing from the wheel: {name}" for name in sorted(expected.union(ALSO) - inside)]
    lines += [f"generic name in site-packages: {top}" for top in sorted(strange)]
    lines += [f"not in the tree: {name}" for name in sorted(inside - expected) if name.endswith(".py")]
    tag, libraries = path.stem.split("-", 2)[-1], _libraries(inside)
    machine = re.fullmatch(r"py3-none-\w+?_(x86_64|aarch64)", tag)
    if machine is None:
        lines.append(f"the tag is not py3-none and a platform: {tag}")
    elif libraries != [f"xtrace/probes/compiled/loops.{machine[1]}.so"]:
        lines.append(f"not one library of loops for {machine[1]}: {' '.join(libraries) or 'none'}")
    return lines


def _sdist_faults(path: Path) -> list[str]:
    with tarfile.open(path) as archive:
        inside = {name.partition("/")[2] for name in archive.getnames()}
    building = {str(file.relative_to(ROOT)) for file in (ROOT / "tools" / "building").glob("*.py")}
    expected = _modules() | building | {*ALSO, "pyproject.toml"}
    lines = [f"missing from the source distribution: {name}" for name in sorted(expected - inside)]
    return lines + [f"a library in the source distribution: {name}" for name in _libraries(inside)]


def _libraries(names: set[str]) -> list[str]:
    return sorted(name for name in names if ".so" in Path(name).suffixes)


def main(arguments: list[str]) -> int:
    """Print the faults of each file; return whether there are any."""
    found = {Path(name): faults(Path(name)) for name in arguments}
    for path, lines in found.items():
        print("\n".join(f"{path.name}: {line}" for line in lines) or f"{path.name}: complete")
    return int(any(found.values()))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
