"""Damaged DWARF: locations may be missing, but nothing else goes wrong."""

from __future__ import annotations

import random
import time
from pathlib import Path

import pytest

from builders.dwarf import compile_kernel, instructions
from xtrace.symbols.dwarf import source_locations as dwarf
from xtrace.symbols.dwarf.source_locations import SourceLocation, lines_of, member_offsets
from xtrace.symbols.errors import ImageError
from xtrace.symbols.image.image import Image, Section, open_image

MEMBERS = {("vcpu_info", "evtchn_upcall_mask"), ("cpu_info", "ci_vcpu")}
MUTATIONS = 500
#: The byte values most likely to break a DWARF reader.
TELLING = (0, 1, 0x7F, 0x80, 0xFF)


@pytest.fixture(scope="module", params=[2, 4, 5])
def kernel(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Path, list[int]]:
    path = compile_kernel(tmp_path_factory.mktemp("damaged") / "k", version=request.param)
    return path, instructions(path)[".text"][::5]


def debug_sections(image: Image) -> list[Section]:
    return [section for section in image.sections if section.name.startswith(".debug_") and section.size]


def ask(path: Path, addresses: list[int]) -> tuple[dict[int, SourceLocation], list[str]]:
    damage: list[str] = []
    try:
        image = open_image(path)
        found = lines_of(image, addresses, damage)
        member_offsets(image, MEMBERS, damage)
    except ImageError as error:
        return {}, [str(error)]
    return found, damage


def test_mutations_are_survived(kernel: tuple[Path, list[int]], tmp_path: Path) -> None:
    path, addresses = kernel
    whole = path.read_bytes()
    sections = debug_sections(open_image(path))
    rng = random.Random(2022)
    damaged_count = 0
    begin = time.process_time()
    for _ in range(MUTATIONS):
        data = bytearray(whole)
        section = rng.choice(sections)
        for _ in range(rng.choice((1, 1, 2, 8, 64))):
            place = section.offset + rng.randrange(section.size)
            data[place] = rng.choice(TELLING) if rng.random() < 0.5 else rng.randrange(256)
        (tmp_path / "k").write_bytes(data)
        one = time.process_time()
        found, damage = ask(tmp_path / "k", addresses)
        assert time.process_time() - one < 10
        assert set(found) <= set(addresses)
        assert len(damage) <= 22
        assert all(len(note) < 400 and note.isprintable() for note in damage)
        damaged_count += bool(damage)
    assert damaged_count > MUTATIONS // 20
    assert time.process_time() - begin < 60


def test_truncated_sections_are_survived(kernel: tuple[Path, list[int]], tmp_path: Path) -> None:
    path, addresses = kernel
    whole = path.read_bytes()
    for section in debug_sections(open_image(path)):
        for kept in (0, 1, 5, section.size // 2, section.size - 1):
            # The part that is cut off reads as zeros, or as the greatest numbers.
            for filler in (b"\0", b"\xff"):
                end = section.offset + section.size
                cut = whole[: section.offset + kept] + filler * (section.size - kept) + whole[end:]
                (tmp_path / "k").write_bytes(cut)
                found, _ = ask(tmp_path / "k", addresses)
                assert set(found) <= set(addresses)


def test_damage_is_reported_and_other_units_are_read(kernel: tuple[Path, list[int]], tmp_path: Path) -> None:
    path, addresses = kernel
    whole, damage = ask(path, addresses)
    assert damage == []
    assert len(whole) > 10
    image = open_image(path)
    line = next(section for section in image.sections if section.name == ".debug_line")
    data = bytearray(path.read_bytes())
    data[line.offset + 4 : line.offset + 6] = b"\x63\x00"  # the first program has version 99
    (tmp_path / "k").write_bytes(data)
    found, damage = ask(tmp_path / "k", addresses)
    assert 0 < len(found) < len(whole)
    assert found.items() <= whole.items()
    assert damage == ["unit at 0x0 in .debug_info: unsupported line program version 99"]


def test_self_referencing_origin_terminates(kernel: tuple[Path, list[int]], tmp_path: Path) -> None:
    path, addresses = kernel
    whole, _ = ask(path, addresses)
    image = open_image(path)
    info = next(section for section in image.sections if section.name == ".debug_info")
    data = bytes(info.data)
    notes: set[str] = set()
    # Write into each place its own offset, so that any reference there refers to itself.
    for place in range(12, min(len(data), 1500), 7):
        changed = bytearray(path.read_bytes())
        changed[info.offset + place : info.offset + place + 4] = place.to_bytes(4, "little")
        (tmp_path / "k").write_bytes(changed)
        found, damage = ask(tmp_path / "k", addresses)
        assert set(found) <= set(whole)
        notes.update(damage)
    assert notes


def test_absurd_counts_take_no_time(tmp_path: Path) -> None:
    path = compile_kernel(tmp_path / "k")
    addresses = instructions(path)[".text"]
    image = open_image(path)
    line = next(section for section in image.sections if section.name == ".debug_line")
    data = bytearray(path.read_bytes())
    # The directory table of DWARF 5: no columns, then a huge count of entries of 0 bytes.
    opcode_lengths = line.offset + 12 + 6
    data[opcode_lengths + 12 : opcode_lengths + 24] = b"\0" + b"\xff" * 9 + b"\1" + b"\0"
    (tmp_path / "absurd").write_bytes(data)
    begin = time.process_time()
    found, damage = ask(tmp_path / "absurd", addresses)
    assert time.process_time() - begin < 2
    assert any("file table" in note and "entries" in note for note in damage)
    assert found


def test_reading_stops_when_the_budget_is_spent(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = compile_kernel(tmp_path / "k")
    image, addresses = open_image(path), instructions(path)[".text"]
    whole = lines_of(image, addresses)
    counts = []
    for budget in (10, 200, 400, 600):
        monkeypatch.setattr(dwarf, "_BUDGET", budget)
        damage: list[str] = []
        found = lines_of(image, addresses, damage)
        assert any("takes too long to read" in note for note in damage)
        assert set(found) <= set(whole)
        counts.append(len(found))
    assert counts == sorted(counts)
    assert counts[0] == 0
    assert counts[-1] > 0
