"""Resolved symbols, lines and ranges match slow, obvious methods on compiled kernels."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from builders.dwarf import TEXT_ADDRESS, addr2line, compile_kernel, frames, instructions, run
from xtrace.symbols.addresses.resolve import AddressResolver, Partition, ranges_partition
from xtrace.symbols.image.image import Image, open_image

U64 = npt.NDArray[np.uint64]
SMALL = st.integers(0, 300)
FAR = st.sampled_from([0, 1, 0xFFFF_FFFF, 1 << 40, (1 << 64) - 1])


@pytest.fixture(scope="module")
def image(tmp_path_factory: pytest.TempPathFactory) -> Image:
    return open_image(compile_kernel(tmp_path_factory.mktemp("resolve") / "k"))


@pytest.fixture(scope="module")
def every_address(image: Image) -> U64:
    text = next(section for section in image.sections if section.name == ".text")
    first = text.address - 64
    return np.uint64(first) + np.arange(text.size + 128, dtype=np.uint64)


@pytest.mark.parametrize("load_offset", [0, 42 << 21, -(3 << 21)])
def test_each_address_has_the_symbol_of_a_single_lookup(
    image: Image, every_address: U64, load_offset: int
) -> None:
    rips = every_address + np.uint64(load_offset % (1 << 64))
    found = AddressResolver(image, load_offset).resolve(rips)
    inside = [any(s.address <= a < s.address + s.size for s in image.code) for a in every_address.tolist()]
    for address, within, symbol, offset in zip(
        every_address.tolist(), inside, found.symbols.tolist(), found.offsets.tolist(), strict=True
    ):
        index = image.symbols.index_of(address) if within else None
        assert symbol == (-1 if index is None else index)
        assert offset == address - (0 if index is None else int(image.symbols.addresses[index]))
    assert (found.symbols >= 0).sum() > 100


def test_only_the_symbols_that_occur_are_named(image: Image) -> None:
    start = image.symbols.find("start")
    assert start is not None
    resolver = AddressResolver(image)
    found = resolver.resolve(np.array([start, start + 3, 0, start], np.uint64))
    assert found.offsets.tolist() == [0, 3, 0, 0]
    assert resolver.names(found.symbols) == {int(found.symbols[0]): "start"}


def test_no_addresses_resolve_to_nothing(image: Image) -> None:
    found = AddressResolver(image).resolve(np.empty(0, np.uint64))
    assert found.symbols.dtype == np.int64
    assert found.offsets.dtype == np.uint64
    assert len(found.symbols) == len(found.offsets) == 0


def test_an_image_without_symbols_has_none(tmp_path: Path) -> None:
    path = compile_kernel(tmp_path / "k")
    run(path.parent, "strip", "kernel")
    addresses = np.array([0, TEXT_ADDRESS, TEXT_ADDRESS + 5], np.uint64)
    found = AddressResolver(open_image(path)).resolve(addresses)
    assert found.symbols.tolist() == [-1, -1, -1]
    assert (found.offsets == addresses).all()


def test_source_locations_match_addr2line(image: Image) -> None:
    load_offset = 7 << 21
    addresses = instructions(Path(image.path))[".text"]
    told = addr2line(Path(image.path), addresses)
    found = AddressResolver(image, load_offset).places([address + load_offset for address in addresses])
    for address in addresses:
        ours = frames(found.get(address + load_offset))
        assert [frame[1:] for frame in ours] == [frame[1:] for frame in told[address]]


@given(
    ranges=st.lists(st.tuples(SMALL, SMALL), max_size=12),
    addresses=st.lists(st.one_of(SMALL, FAR), min_size=1, max_size=60),
)
def test_shortest_of_nested_ranges_counts(ranges: list[tuple[int, int]], addresses: list[int]) -> None:
    starts = np.array([start for start, _ in ranges], np.uint64)
    ends = np.array([end for _, end in ranges], np.uint64)
    found = ranges_partition(starts, ends).owners(np.array(addresses, np.uint64)).tolist()
    for address, index in zip(addresses, found, strict=True):
        sizes = {n: end - start for n, (start, end) in enumerate(ranges) if start <= address < end}
        assert (index == -1) == (not sizes)
        if sizes:
            assert sizes[index] == min(sizes.values())


def test_ranges_move_with_the_image(image: Image) -> None:
    rips = np.array([99, 100, 119, 120, 130], np.uint64) + np.uint64(1 << 21)
    starts, ends = np.array([100, 110], np.uint64), np.array([120, 112], np.uint64)
    assert AddressResolver(image, 1 << 21).ranges(rips, starts, ends).tolist() == [-1, 0, 0, -1, -1]
    assert AddressResolver(image).ranges(rips, starts[:0], ends[:0]).tolist() == [-1] * 5


@example(breaks=[0, (1 << 64) - 1], addresses=[])
@given(
    breaks=st.lists(st.one_of(SMALL, st.integers(0, (1 << 64) - 1)), min_size=1, max_size=200, unique=True),
    addresses=st.lists(st.one_of(SMALL, st.integers(0, (1 << 64) - 1)), max_size=60),
)
def test_unevenly_spaced_pieces_are_found(breaks: list[int], addresses: list[int]) -> None:
    edges = np.sort(np.array(breaks, np.uint64))
    owners = np.append(np.arange(len(edges) - 1), -1)
    asked = np.concatenate((np.array(addresses, np.uint64), edges, edges - np.uint64(1)))
    bisected = np.searchsorted(edges, asked, "right") - 1
    expected = np.where(bisected >= 0, owners[bisected], -1)
    assert (Partition(edges, owners).owners(asked) == expected).all()


def test_many_pieces_in_one_bucket_are_found() -> None:
    crowd = np.arange(0, 3000, 3, dtype=np.uint64)
    edges = np.concatenate((crowd, np.array([1 << 62], np.uint64)))
    owners = np.append(np.arange(len(crowd)), -1)
    asked = np.arange(3100, dtype=np.uint64)
    expected = np.minimum(np.arange(3100) // 3, len(crowd) - 1)
    assert (Partition(edges, owners).owners(asked) == expected).all()
