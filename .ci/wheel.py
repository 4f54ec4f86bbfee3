"""Compare a wheel with the tree: it must contain every module, and nothing but xtrace.

usage: wheel.py WHEEL
"""

from __future__ import annotations

import sys
import zipfile
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
PACKAGES = ("analysis", "cli", "probes", "samples", "symbols")
SAMPLE = "xtrace/samples/xen417-pv-all.bin.xz"
ALSO = ("xtrace/py.typed", "xtrace/samples/README.md", SAMPLE, f"{SAMPLE}.json")


def faults(wheel: Path) -> list[str]:
    """Return the faults of ``wheel``, one line each."""
    with zipfile.ZipFile(wheel) as archive:
        inside = set(archive.namelist())
    expected = {
        f"xtrace/{path.relative_to(ROOT)}" for name in PACKAGES for path in (ROOT / name).rglob("*.py")
    }
    expected |= {f"xtrace/{path.name}" for path in (ROOT / "xtrace").glob("*.py")}
    tops = {name.split("/")[0] for name in inside}
    strange = {top for top in tops if top != "xtrace" and not top.startswith("xtrace-")}
    lines = [f"missing from the wheel: {name}" for name in sorted(expected.union(ALSO) - inside)]
    lines += [f"generic name in site-packages: {top}" for top in sorted(strange)]
    lines += [f"not in the tree: {name}" for name in sorted(inside - expected) if name.endswith(".py")]
    return lines


if __name__ == "__main__":
    found = faults(Path(sys.argv[1]))
    print("\n".join(found) if found else f"{Path(sys.argv[1]).name}: complete")
    sys.exit(bool(found))
