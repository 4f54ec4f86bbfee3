"""Pages of samples, each made once in a run, with what `--json` prints beside them."""

from __future__ import annotations

import functools
import json
import tempfile
from pathlib import Path
from typing import Any, NamedTuple

from builders.made_costs import LFENCE, calibration, row, rows_of
from builders.read_page import Element, parsed
from builders.reported import printed
from builders.wakes import TSC_HZ, wakes
from xtrace.probes.timing.calibration import text_of

SAMPLES = Path(__file__).parents[2] / "samples"
IMAGE, OTHER_IMAGE = SAMPLES / "own-lfence.elf", SAMPLES / "own-none.elf"
FENCED, UNFENCED = SAMPLES / "xen417-own-lfence.bin.xz", SAMPLES / "xen417-own-none.bin.xz"
#: What the fences of a page of costs cost; a stream of misses is faster with them.
PRICES = [
    *rows_of(LFENCE, 0.5),
    *rows_of({"empty": 30.0, "store_stream_1": -19.5}, place="outofline"),
    row("store_stream_4", None),
    row("store_miss_1", 40.0, tight=False, fence="mfence"),
]


class Made(NamedTuple):
    """A page, and the JSON of the same command."""

    text: str
    page: Element
    json: dict[str, Any]


@functools.cache
def made(*arguments: str) -> Made:
    """Return the page that a command writes, and what it prints with --json."""
    text = printed(*arguments, "--html", "-")
    return Made(text, parsed(text), json.loads(printed(*arguments, "--json")))


def report(path: Path, *more: str) -> Made:
    """Return the page of a report."""
    return made("report", *more, str(path))


def write_prices(path: Path) -> None:
    """Write a calibration."""
    path.write_text(text_of(calibration(*PRICES)))


def write_repetitions(folder: Path) -> None:
    """Write ten captures into each of the folders old and new; in the new ones wakes take 5 % longer."""
    for group, first, factor in (("old", 0, 1.0), ("new", 100, 1.05)):
        (folder / group).mkdir()
        for number in range(10):
            path = folder / group / f"{number}.bin"
            path.write_bytes(wakes(first + number, count=150, wake_cycles=10_000 * factor))
            Path(f"{path}.json").write_text(json.dumps({"tsc_hz": TSC_HZ}))


@functools.cache
def cost() -> Made:
    """Return the page of a report with the cost of fences."""
    with tempfile.TemporaryDirectory() as folder:
        prices = Path(folder) / "calibration.json"
        write_prices(prices)
        rates = SAMPLES / "xen417-own-lfence.d1.log.xz"
        inputs = ["--kernel", f"1={IMAGE}", "--rates", f"1={rates}", "--calibration", str(prices)]
        return made("report", *inputs, str(FENCED))


def diff() -> Made:
    """Return the page of a comparison of one capture with another."""
    return made("diff", "--no-keep", str(FENCED), str(UNFENCED))


@functools.cache
def repetitions() -> Made:
    """Return the page of a comparison of ten captures with ten, in which some metrics change by 5 %."""
    with tempfile.TemporaryDirectory() as folder:
        write_repetitions(Path(folder))
        return made("diff", "--no-keep", f"{folder}/old", f"{folder}/new")


def sites(*images: Path) -> Made:
    """Return the page of one image or two."""
    return made("sites", *map(str, images))
