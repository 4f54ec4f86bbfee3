"""The real traces for the comparisons with peers.

They are those of the project's samples folder, or of the folder in the environment variable XTRACE_SAMPLES.
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
    """Return the sample traces, compressed or not, sorted by name."""
    return sorted(path for path in SAMPLES.glob("*.bin*") if path.suffix in UNPACK)


def decoded_files() -> list[Path]:
    """Return the samples whose dumps xenalyze_dump can parse: all but those of null and RTDS."""
    return [path for path in sample_files() if not re.search("-(null|rtds)", path.name)]
