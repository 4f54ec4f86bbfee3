"""Take the pictures of pages in docs/page/, with Debian's Chromium and pngquant.

usage: .venv/bin/python docs/pictures.py
"""

from __future__ import annotations

import contextlib
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "tests"))

from builders import made_pages  # noqa: E402 - from tests/
from builders.big_host import trace  # noqa: E402
from builders.made_pages import SAMPLES  # noqa: E402
from peer.chromium_run import Look, seen  # noqa: E402

FOLDER = ROOT / "docs" / "page"
_COST = (
    "report", "--kernel", "1=own-lfence.elf", "--rates", "1=xen417-own-lfence.d1.log.xz", "--calibration",
    "calibration.json", "xen417-own-lfence.bin.xz",
)  # fmt: skip


def main() -> None:
    """Write the pictures and print their sizes."""
    pngquant = shutil.which("pngquant")
    if pngquant is None:
        sys.exit("pictures.py: pngquant is missing: apt-get install pngquant")
    FOLDER.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory() as name, contextlib.chdir(name):
        scratch = Path(name)
        made_pages.write_repetitions(scratch)
        made_pages.write_prices(scratch / "calibration.json")
        (scratch / "busy.bin").write_bytes(trace())
        for path in (*SAMPLES.glob("xen417-own-lfence.*"), SAMPLES / "own-lfence.elf"):
            (scratch / path.name).symlink_to(path)
        pages = {
            _page("sample", "report", folder=ROOT): (
                _look("sample", 1000),
                _look("dark", 1000, "dark"),
                _look("wide", 1600),
                _look("phone", 400),
                _look("paper", 1000, media="print"),
                _look("readme", 1000, part="#bursts, #timeline"),
            ),
            _page("cost", *_COST): (_look("cost", 1000),),
            _page("diff", "diff", "old", "new"): (_look("diff", 1000),),
            _page("big", "report", "--cpu-hz", "2.6G", "busy.bin"): (_look("big", 1600),),
        }
        seen(pages, scratch)
    for picture in sorted(FOLDER.glob("*.png")):
        reduced = [pngquant, "--force", "--ext", ".png", "--speed", "1", "--nofs", "32", picture]
        subprocess.run(reduced, check=True)
        sys.stdout.write(f"{picture.relative_to(ROOT)}: {picture.stat().st_size:,} bytes\n")


def _page(name: str, *arguments: str, folder: Path | None = None) -> Path:
    """Run a command that writes a page, in a folder; return the page's path."""
    command = [sys.executable, "-P", "-m", "xtrace", *arguments, "--html", f"{name}.html"]
    path = Path.cwd() / f"{name}.html"
    subprocess.run(command, check=True, cwd=folder)
    if folder is not None:
        (folder / path.name).rename(path)
    return path


def _look(name: str, width: int, scheme: str = "light", media: str = "screen", part: str = "") -> Look:
    return Look(width, scheme, media, picture=str(FOLDER / f"{name}.png"), part=part)


if __name__ == "__main__":
    main()
