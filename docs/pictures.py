"""Take the pictures of pages in docs/page/, with Debian's Chromium and pngquant.

usage: .venv/bin/python docs/pictures.py
"""

from __future__ import annotations

import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "tests"))

from builders import made_pages, reported  # noqa: E402 - from tests/
from builders.big_host import big_report  # noqa: E402
from builders.made_pages import SAMPLES  # noqa: E402
from peer.chromium_run import Look, seen  # noqa: E402

FOLDER = ROOT / "docs" / "page"


def main() -> None:
    """Write the pictures and print their sizes."""
    pngquant = shutil.which("pngquant")
    if pngquant is None:
        sys.exit("pictures.py: pngquant is missing: apt-get install pngquant")
    FOLDER.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory() as name:
        scratch = Path(name)
        pages = {
            _written(scratch, "sample", _bundled()): (
                _look("sample", 1000),
                _look("dark", 1000, "dark"),
                _look("wide", 1600),
                _look("phone", 400),
                _look("paper", 1000, media="print"),
                _look("readme", 1000, part="#bursts, #timeline"),
            ),
            _written(scratch, "cost", made_pages.cost().text): (_look("cost", 1000),),
            _written(scratch, "diff", made_pages.repetitions().text): (_look("diff", 1000),),
            _written(scratch, "big", big_report()): (_look("big", 1600),),
        }
        seen(pages, scratch)
    for picture in sorted(FOLDER.glob("*.png")):
        subprocess.run([pngquant, "--force", "--ext", ".png", "--speed", "1", "24", picture], check=True)
        sys.stdout.write(f"{picture.relative_to(ROOT)}: {picture.stat().st_size:,} bytes\n")


def _bundled() -> str:
    return reported.printed("report", "--html", "-", str(SAMPLES / "xen417-pv-all.bin.xz"))


def _look(name: str, width: int, scheme: str = "light", media: str = "screen", part: str = "") -> Look:
    return Look(width, scheme, media, picture=str(FOLDER / f"{name}.png"), part=part)


def _written(folder: Path, name: str, text: str) -> Path:
    path = folder / f"{name}.html"
    path.write_text(text, encoding="utf-8")
    return path


if __name__ == "__main__":
    main()
