"""Damaged kernel images, from the file to the sites and the resolver: each gives one clear error or a result.

XTRACE_FUZZ_IMAGES sets the number of cases, 300 by default.  A failing case prints its seed:
XTRACE_FUZZ_IMAGE_SEED=N runs only that one.
"""

from __future__ import annotations

import os
import random
import resource
import signal
import struct
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType

import numpy as np
import pytest

from builders.damaged_images import (
    MASK,
    POINTER,
    STORMS,
    Span,
    Victim,
    change_bytes,
    change_words,
    cut,
    damaged,
    in_elf,
    storm,
    victims_in,
)
from builders.guest import Builder, Carries, Variant
from xtrace.symbols import AddressResolver, ImageError, SiteTable, find_sites, open_image
from xtrace.symbols.listing.export import json_object

CASES = int(os.environ.get("XTRACE_FUZZ_IMAGES", "300"))
ONE_SEED = os.environ.get("XTRACE_FUZZ_IMAGE_SEED")
#: The loop is split into this many tests, so that pytest-xdist can distribute them.
PARTS = 8
#: CPU time, so that no test fails because the machine is busy.
MOST_CPU_S = 5.0
MOST_BYTES = 1 << 30


class TooLongError(BaseException):
    """A case used up its CPU time.  Not an Exception, so that the code under test cannot catch it."""


# --- what is damaged -------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def victims(tmp_path_factory: pytest.TempPathFactory) -> list[Victim]:
    return victims_in(tmp_path_factory.mktemp("guests"))


# --- what must hold --------------------------------------------------------------------------------


@contextmanager
def bounded(cpu_s: float = MOST_CPU_S, grown_bytes: int = MOST_BYTES) -> Iterator[None]:
    """Raise TooLongError if a block takes more CPU time, MemoryError if it takes more memory."""

    def stop(_number: int, _frame: FrameType | None) -> None:
        raise TooLongError

    before = signal.signal(signal.SIGPROF, stop)
    soft, hard = resource.getrlimit(resource.RLIMIT_AS)
    used = int(Path("/proc/self/statm").read_text("ascii").split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (used + grown_bytes, hard))
    signal.setitimer(signal.ITIMER_PROF, cpu_s)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)
        resource.setrlimit(resource.RLIMIT_AS, (soft, hard))
        signal.signal(signal.SIGPROF, before)


def examine(path: Path, rng: random.Random, **beside: Path) -> SiteTable | None:
    """Do everything that a command does with an image; return its sites, None if it cannot be read."""
    try:
        image = open_image(path, **beside)
        table = find_sites(image, lines=True)
    except ImageError as error:
        said = str(error)
        assert said.startswith(tuple(map(str, (path, *beside.values()))))
        assert said.isprintable()
        assert len(said) < 1000
        return None
    addresses = [site.address for site in table.sites]
    assert addresses == sorted(set(addresses))
    assert all(len(line) < 1000 and line.isprintable() for line in (*table.layout, *table.damage))
    json_object(table, table.sites)
    rips = np.array(addresses + [rng.getrandbits(64) for _ in range(100)], np.uint64)
    resolver = AddressResolver(image)
    found = resolver.resolve(rips)
    assert len(found.symbols) == len(found.offsets) == len(rips)
    resolver.names(found.symbols)
    resolver.places(rips[:20].tolist())
    ranges = [part for site in table.sites for part in site.masked]
    starts, ends = (np.array([part[side] for part in ranges], np.uint64) for side in (0, 1))
    assert (resolver.ranges(rips, starts, ends) < len(ranges)).all()
    return table


def seeds_of(part: int) -> range | list[int]:
    if ONE_SEED is not None:
        return [int(ONE_SEED)] if part == 0 else []
    return range(part, CASES, PARTS)


@pytest.mark.parametrize("part", range(PARTS))
def test_damaged_images(part: int, victims: list[Victim], tmp_path: Path) -> None:
    path = tmp_path / "kernel"
    read = failed = 0
    for seed in seeds_of(part):
        rng = random.Random(seed)
        name, data = damaged(rng, victims)
        # Do not write to a file that is still mapped.
        path.unlink(missing_ok=True)
        path.write_bytes(data)
        try:
            with bounded():
                table = examine(path, rng)
        except (Exception, TooLongError) as error:
            raise AssertionError(f"XTRACE_FUZZ_IMAGE_SEED={seed} reproduces this: {name}") from error
        read += table is not None
        failed += table is None
    if ONE_SEED is None and read + failed > 30:
        assert read > failed / 10
        assert failed > read / 10


def test_damaged_files_beside_an_image(tmp_path: Path) -> None:
    """Damage the debug file or the map of an intact image."""
    builder = Builder(tmp_path / "guests")
    with_debug = builder.build("netbsd_amd64.S", Variant(carries=Carries.DEBUG_FILE))
    with_map = builder.build("netbsd_amd64.S", Variant(carries=Carries.MAP))
    assert with_debug.debug is not None
    assert with_map.map is not None
    whole = {
        "debug_path": (with_debug.image, with_debug.debug.read_bytes()),
        "symbols_path": (with_map.image, with_map.map.read_bytes()),
    }
    beside = tmp_path / "beside"
    for seed in range(max(CASES // 10, 20)):
        rng = random.Random(seed)
        option = rng.choice(sorted(whole))
        image, content = whole[option]
        data = bytearray(content)
        for _ in range(rng.choice((1, 2, 5))):
            if len(data) >= 8:
                rng.choice((change_words, change_bytes, cut))(rng, data, [Span("all", 0, len(data))])
        beside.unlink(missing_ok=True)
        beside.write_bytes(data)
        try:
            with bounded():
                examine(image, rng, **{option: beside})
        except (Exception, TooLongError) as error:
            raise AssertionError(f"seed {seed} reproduces this: {option}") from error


@pytest.mark.parametrize("name", STORMS)
def test_code_designed_to_be_slow(name: str, tmp_path: Path) -> None:
    rng = random.Random(name)
    path = tmp_path / "kernel"
    path.write_bytes(in_elf(storm(rng, name)))
    with bounded(25.0):
        assert examine(path, rng) is not None


def test_decompression_bomb_takes_less_than_a_gigabyte(tmp_path: Path) -> None:
    packer = zlib.compressobj(9, wbits=31)
    first = packer.compress(in_elf(POINTER + MASK + b"\xc3")) + packer.flush()
    packer = zlib.compressobj(9, wbits=31)
    zeros = packer.compress(bytes(64 << 20)) + packer.flush()
    path = tmp_path / "bomb.gz"
    path.write_bytes(first + zeros * 64)
    with bounded(30.0), pytest.raises(ImageError, match="to more than"):
        open_image(path)


def test_extreme_values_in_the_elf_header(victims: list[Victim], tmp_path: Path) -> None:
    """Every 16-bit word of the ELF header, with 0, 1 and the largest signed and unsigned value."""
    victim = next(one for one in victims if one.name.startswith("page"))
    rng = random.Random(0)
    path = tmp_path / "kernel"
    for place in range(16, 64, 2):
        for value in (b"\0\0", b"\xff\xff", b"\xff\x7f", b"\x01\0"):
            data = bytearray(victim.data)
            data[place : place + 2] = value
            path.unlink(missing_ok=True)
            path.write_bytes(data)
            with bounded():
                examine(path, rng)


def test_overlapping_sections(victims: list[Victim], tmp_path: Path) -> None:
    """Every section covers the whole file, all at one address."""
    rng = random.Random(0)
    for victim in victims:
        path = tmp_path / "kernel"
        path.unlink(missing_ok=True)
        data = bytearray(victim.data)
        wide = data[4] == 2
        table = next(span for span in reversed(victim.spans) if span.role == "headers")
        row = 64 if wide else 40
        for place in range(table.offset + row, table.offset + table.size, row):
            if wide:
                struct.pack_into("<QQQ", data, place + 16, 0xFFFF_FFFF_8000_0000, 0, len(data))
            else:
                struct.pack_into("<III", data, place + 12, 0xC000_0000, 0, len(data))
        path.write_bytes(data)
        with bounded():
            examine(path, rng)
