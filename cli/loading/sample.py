"""The bundled sample, which `xtrace report` reads when no file is named."""

from __future__ import annotations

from pathlib import Path

import xtrace.samples

NAME = "xen417-pv-all.bin.xz"


def path() -> Path:
    """Return where the sample lies: in the checkout, or in the installed wheel."""
    return Path(xtrace.samples.__path__[0]) / NAME
