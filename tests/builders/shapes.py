"""Compile and link the shapes of tests/symbols/guests/shapes, as each source says."""

from __future__ import annotations

import subprocess
from pathlib import Path

from builders.guest import GUESTS

SHAPES = GUESTS / "shapes"
_COMPILE = (
    "-O2", "-ffreestanding", "-fno-pic", "-fcf-protection=none", "-fno-asynchronous-unwind-tables",
)  # fmt: skip
#: Assembled and linked for i386.
_I386 = ("fallthrough-into-symbol.s", "i386-lea-nop-in-callee.s", "k20_i386.S")
#: Objects, not linked.
_OBJECTS = ("k1_linux_andw_bug.S", "k2_illumos.S", "k2b_illumos_learn.S", "k20_i386.S")
_HELPERS = ("hp.S", "vc.h", "tail.inc")


def shapes() -> list[str]:
    """Return the names of the sources."""
    return sorted(path.name for path in SHAPES.iterdir() if path.name not in _HELPERS)


def built(folder: Path, name: str) -> Path:
    """Compile or assemble a shape in a folder."""
    target = folder / name.replace(".", "-")
    bits = ["-m32"] if name in _I386 else []
    made = target.with_suffix(".o")
    _run(folder, "gcc", *bits, *_COMPILE, f"-I{SHAPES}", "-c", str(SHAPES / name), "-o", str(made))
    if name in _OBJECTS:
        return made
    parts = [str(made)]
    if name.endswith(".c"):
        _run(folder, "gcc", "-c", str(SHAPES / "hp.S"), "-o", "hp.o")
        parts.append("hp.o")
    mode = ["-m", "elf_i386"] if bits else []
    _run(
        folder, "ld", *mode, "-Ttext=0x100000", "-e", "0", "--unresolved-symbols=ignore-all",
        "-o", str(target), *parts,
    )  # fmt: skip
    return target


def _run(folder: Path, *command: str) -> None:
    subprocess.run(command, cwd=folder, check=True, capture_output=True)
