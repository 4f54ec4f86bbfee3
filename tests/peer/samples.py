"""The real traces that peers are asked about.

They come from the project's samples folder, or from the folder that the environment variable
XTRACE_SAMPLES names.
"""

from __future__ import annotations

import bz2
import gzip
import lzma
import os
import re
from collections.abc import Callable
from pathlib import Path

SAMPLES = Path(os.environ.get("XTRACE_SAMPLES", Path(__file__).parents[2] / "samples"))

UNPACK: dict[str, Callable[[bytes], bytes]] = {
    ".bin": bytes,
    ".xz": lzma.decompress,
    ".gz": gzip.decompress,
    ".bz2": bz2.decompress,
}


def sample_files() -> list[Path]:
    """Return the sample traces, packed or not, by name."""
    return sorted(path for path in SAMPLES.glob("*.bin*") if path.suffix in UNPACK)


def decoded_files() -> list[Path]:
    """Return those whose every text xenalyze_dump knows: not yet those of the schedulers null and RTDS."""
    return [path for path in sample_files() if not re.search("-(null|rtds)", path.name)]
