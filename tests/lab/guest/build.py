"""Build the guest's variants with the compiler of this machine."""

from __future__ import annotations

import subprocess
from dataclasses import dataclass
from pathlib import Path

SOURCES = Path(__file__).parent
FENCES = ("none", "lfence", "mfence", "lockadd", "xchg")
PLACES = ("inline", "outofline")
LIMIT_S = 60


class BuildError(RuntimeError):
    """gcc or binutils failed."""


@dataclass(frozen=True, slots=True)
class Variant:
    """The fence at the guest's sites, and whether it is inline or in a separate function."""

    fence: str
    place: str

    def __str__(self) -> str:
        return f"{self.fence}-{self.place}"


VARIANTS = tuple(Variant(fence, place) for fence in FENCES for place in PLACES)


def build(folder: Path, variant: Variant) -> Path:
    """Build a variant's image in a folder and return its path.

    Raises:
        BuildError: the build failed or printed warnings; has the output.
    """
    command = [str(SOURCES / "build.sh"), str(folder), variant.fence, variant.place]
    done = subprocess.run(command, capture_output=True, text=True, timeout=LIMIT_S, check=False)
    if done.returncode != 0 or done.stderr:
        raise BuildError(done.stderr)
    return folder / f"guest-{variant}.elf"
