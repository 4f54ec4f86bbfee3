"""`xtrace report --kernel` with a guest compiled by the tests and traces of its addresses."""

from __future__ import annotations

import csv
import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from builders.guest import Builder, Carries, Variant
from builders.sampled import PRIVOP, RUN_D3V0, TO_RUNNING, TRAP, VMEXIT, rip, trace
from xtrace import samples
from xtrace.cli.main import main
from xtrace.probes.reader.writer import pack_record, pack_window
from xtrace.symbols.image.image import open_image
from xtrace.symbols.sites.finder import find_sites
from xtrace.symbols.sites.model import SiteTable

WIDTH = 80
TITLES = ("Kernel samples by source", "Kernel samples by function", "Kernel samples by source line")

Run = Callable[..., tuple[int, str]]


@pytest.fixture(scope="module")
def builder(tmp_path_factory: pytest.TempPathFactory) -> Builder:
    if shutil.which("gcc") is None or shutil.which("objcopy") is None:
        pytest.skip("no compiler here")
    return Builder(tmp_path_factory.mktemp("guests"))


@pytest.fixture(scope="module")
def guest(builder: Builder) -> Path:
    return builder.build("netbsd.c", Variant()).image


@pytest.fixture(scope="module")
def sites(guest: Path) -> SiteTable:
    return find_sites(open_image(guest))


@pytest.fixture(scope="module")
def masked(sites: SiteTable) -> tuple[int, int]:
    """Return the mask section of `first_section`, as addresses [start, end)."""
    return next(one.masked[0] for one in sites.sites if one.symbol == "first_section" and one.masked)


@pytest.fixture
def traced(tmp_path: Path, guest: Path, masked: tuple[int, int]) -> Callable[[int], Path]:
    """Return a function that makes a trace: 5 samples in a mask section, 4 at a function, 1 in user code."""

    def make(moved: int) -> Path:
        start = open_image(guest).symbols.find("unmask")
        assert start is not None
        samples = [(PRIVOP, masked[0] + moved)] * 5 + [(TRAP, start + moved)] * 4 + [(TRAP, 0x40_1000)]
        path = tmp_path / f"trace{moved:x}"
        path.write_bytes(trace(*samples))
        return path

    return make


@pytest.fixture
def run(capfd: pytest.CaptureFixture[str]) -> Run:
    def call(*arguments: str | Path) -> tuple[int, str]:
        code = main(["report", *map(str, arguments)])
        out, err = capfd.readouterr()
        return code, out or err

    return call


def tables(run: Run, *arguments: str | Path) -> dict[str, list[dict[str, Any]]]:
    code, out = run("--json", *arguments)
    assert code == 0, out
    found = json.loads(out)["tables"]
    return {name: found[name]["rows"] for name in found if name.startswith("kernel_")}


def test_functions_lines_and_the_masked_share(run: Run, guest: Path, traced: Callable[[int], Path]) -> None:
    found = tables(run, "--kernel", f"3={guest}@0x0", traced(0))
    assert [(row["source"], row["function"], row["count"]) for row in found["kernel_functions"]] == [
        ("privop", "first_section", 5),
        ("trap", "unmask", 4),
        ("trap", "(not in the image)", 1),
    ]
    (image,) = found["kernel_images"]
    assert (image["count"], image["inside_count"], image["masked_count"]) == (10, 9, 5)
    assert image["masked_ratio"] == pytest.approx(5 / 9)
    assert (image["load_offset"], image["load_offset_source"]) == ("0x0", "given")
    assert image["build_id"] == open_image(guest).build_id
    lines = found["kernel_lines"]
    assert [(row["place"].split("+")[0], row["masked"], row["count"]) for row in lines] == [
        ("first_section", "yes", 5),
        ("unmask", "no", 4),
    ]
    assert all(row["file"].endswith("netbsd.c") and row["line"] > 0 for row in lines)


@pytest.mark.parametrize("moved", [0x1_0000, 0x1234_0000, -0x20_0000])
def test_a_given_load_offset(run: Run, guest: Path, traced: Callable[[int], Path], moved: int) -> None:
    shown = f"{'-' if moved < 0 else ''}{abs(moved):#x}"
    found = tables(run, "--kernel", f"3={guest}@{shown}", traced(moved))
    assert found["kernel_images"][0]["load_offset"] == shown
    assert found["kernel_functions"][0]["function"] == "first_section"
    assert found["kernel_images"][0]["masked_count"] == 5


def hvm_trace(sites: SiteTable, moved: int) -> bytes:
    """Return a trace of VM exits at every function's start in a guest loaded ``moved`` bytes higher."""
    image = open_image(sites.path)
    starts = [int(start) for start in image.symbols.function_starts().tolist()]
    exits = [pack_record(VMEXIT, 2000 + i, (0x7B, *rip(start + moved))) for i, start in enumerate(starts)]
    return pack_window(0, pack_record(TO_RUNNING, 1000, RUN_D3V0) + b"".join(exits))


@pytest.mark.parametrize("moved", [0, 0x20_0000, 0x3A00_0000])
def test_a_fitted_load_offset(run: Run, sites: SiteTable, tmp_path: Path, moved: int) -> None:
    path = tmp_path / "trace"
    path.write_bytes(hvm_trace(sites, moved))
    found = tables(run, "--kernel", f"3={sites.path}", path)
    (image,) = found["kernel_images"]
    assert image["load_offset"] == hex(moved)
    assert image["load_offset_source"].startswith("fitted: ")
    assert image["inside_count"] == image["count"] > 10
    _, out = run("--section", "kernel", "--kernel", f"3={sites.path}", path)
    assert f"load offset {moved:#x}, fitted: " in out
    assert max(map(len, out.splitlines()[1:])) <= WIDTH


def test_an_unknown_load_offset(run: Run, sites: SiteTable, tmp_path: Path) -> None:
    path = tmp_path / "trace"
    exits = pack_record(VMEXIT, 2000, (0x7B, *rip(0x40_1000)))
    path.write_bytes(pack_window(0, pack_record(TO_RUNNING, 1000, RUN_D3V0) + exits))
    (image,) = tables(run, "--kernel", f"3={sites.path}", path)["kernel_images"]
    assert (image["load_offset"], image["inside_count"]) == ("", 0)
    assert image["note"].startswith("unknown load offset: ")


def test_a_pv_guest_runs_at_its_linked_addresses(
    run: Run, guest: Path, traced: Callable[[int], Path]
) -> None:
    (image,) = tables(run, "--kernel", f"3={guest}", traced(0))["kernel_images"]
    assert (image["load_offset"], image["inside_count"]) == ("0x0", 9)
    assert image["load_offset_source"].startswith("as linked")


def test_text_output(run: Run, guest: Path, traced: Callable[[int], Path]) -> None:
    code, out = run("--kernel", f"3={guest}@0x0", "--kernel", f"9={guest}", traced(0))
    assert code == 0
    assert max(map(len, out.splitlines())) <= WIDTH
    words = " ".join(out.split())
    assert "10 samples at 3 addresses, 9 in the image, 5 of them (55.6%) " in words
    assert re.search(r"d9 image: .*no domain 9", words)
    assert re.search(r"10 records .* 0 left out, 0 of a domain", words)
    assert "d3   privop" in out
    assert all(title in out for title in TITLES)


def test_long_names_fit_80_columns(
    run: Run, builder: Builder, traced: Callable[[int], Path], tmp_path: Path
) -> None:
    folder = tmp_path / ("x" * 90)
    folder.mkdir()
    image = folder / ("\x1b[31m" + "y" * 90)
    shutil.copy(builder.build("netbsd.c", Variant()).image, image)
    code, out = run("--section", "kernel", "--kernel", f"3={image}@0x0", traced(0))
    assert code == 0
    assert "\x1b" not in out
    assert max(map(len, out.splitlines()[1:])) <= WIDTH


def test_without_dwarf_there_are_no_source_lines(
    run: Run, builder: Builder, traced: Callable[[int], Path]
) -> None:
    image = builder.build("netbsd.c", Variant(carries=Carries.SYMBOLS)).image
    found = tables(run, "--kernel", f"3={image}@0x0", traced(0))
    assert found["kernel_lines"] == []
    assert found["kernel_functions"][0]["function"] == "first_section"


def test_a_domain_without_samples_is_one_line(run: Run, guest: Path, tmp_path: Path) -> None:
    path = tmp_path / "trace"
    other = pack_window(1, pack_record(0x21101, 1000, (5 << 16, 0)) + pack_record(PRIVOP, 1001, rip(0x1000)))
    path.write_bytes(trace() + other)
    code, out = run("--section", "kernel", "--kernel", f"3={guest}", path)
    assert code == 0
    assert len(re.findall(r"^kernel   d3 image: .*no RIP sample.*$", out, re.MULTILINE)) == 1
    assert not any(title in out for title in TITLES)


def test_csv_has_the_tables(run: Run, guest: Path, traced: Callable[[int], Path], tmp_path: Path) -> None:
    code, _ = run("--csv", tmp_path / "out", "--kernel", f"3={guest}@0x0", traced(0))
    assert code == 0
    with (tmp_path / "out" / "kernel_functions.csv").open(encoding="utf-8", newline="") as file:
        assert next(csv.DictReader(file))["function"] == "first_section"


def test_without_an_image_there_are_no_kernel_tables(run: Run) -> None:
    _, out = run(samples.path())
    assert "kernel" not in out.split("Hypercalls")[0].replace("netbsd", "")
    assert not any(title in out for title in TITLES)


@pytest.mark.parametrize(
    "value", ["3", "=x", "x=y", "3=", "99999=x", "32767=x", "-1=x"], ids=lambda value: value or "empty"
)
def test_a_value_that_is_not_domain_and_image(run: Run, value: str) -> None:
    code, out = run("--kernel", value)
    assert (code, out.count("\n")) == (2, 1)
    assert "--kernel" in out


def test_two_images_for_a_domain(run: Run, guest: Path) -> None:
    code, out = run("--kernel", f"3={guest}", "--kernel", f"3={guest}")
    assert (code, out.count("\n")) == (2, 1)
    assert "two images for domain 3" in out


def test_a_file_that_is_not_an_image(run: Run, tmp_path: Path, traced: Callable[[int], Path]) -> None:
    path = tmp_path / "text@home"
    path.write_text("not a kernel\n")
    code, out = run("--kernel", f"3={path}", traced(0))
    assert (code, out.count("\n")) == (1, 1)
    assert out.startswith(f"xtrace: {path}")
    code, out = run("--kernel", f"3={tmp_path / 'missing'}@0x10", traced(0))
    assert (code, out.count("\n")) == (1, 1)
