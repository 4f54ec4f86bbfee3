"""A trace read with offsets of its TSCs gives what the trace with these TSCs gives."""

from __future__ import annotations

import lzma
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pytest

from builders.host import simulate
from builders.hosts import DOMAINS, HOSTS
from builders.restarted import halves
from builders.shifted import offsets, shifted
from xtrace.analysis.state_machine.one_pass import collect
from xtrace.analysis.summary.partial import Partial, partial_of
from xtrace.probes.errors import TraceError
from xtrace.probes.reader.writer import pack_record, pack_window

SAMPLES = Path(__file__).parents[3] / "samples"
WAYS = [{0: 5}, {1: -230_000}, {0: 70_000, 1: -3, 2: 1 << 41}, {1: 1 << 36, 2: -(1 << 36)}]


def read(path: Path, data: bytes, cycles: Mapping[int, int]) -> Partial:
    path.write_bytes(data)
    return partial_of(collect(path, tsc_offsets=offsets(cycles)))


def assert_same(data: bytes, cycles: Mapping[int, int], folder: Path) -> None:
    found = read(folder / "trace", data, cycles)
    expected = read(folder / "moved", shifted(data, cycles), {})
    for part in Partial.__slots__:
        mine, its = getattr(found, part), getattr(expected, part)
        assert mine.names == its.names
        for name in mine.names:
            assert np.array_equal(mine[name], its[name]), (part, name)


@pytest.mark.parametrize("cycles", WAYS)
@pytest.mark.parametrize("host", HOSTS)
def test_made_hosts(host: str, cycles: Mapping[int, int], tmp_path: Path) -> None:
    assert_same(HOSTS[host](3), cycles, tmp_path)


@pytest.mark.parametrize("sample", ["xen417-pv-lost", "xen417-netbsd7-idle"])
def test_samples(sample: str, tmp_path: Path) -> None:
    assert_same(lzma.decompress((SAMPLES / f"{sample}.bin.xz").read_bytes()), {1: -230_000}, tmp_path)


def test_segments_have_the_same_offsets(tmp_path: Path) -> None:
    first, second = halves(simulate(5, 3, DOMAINS, 80_000_000).data)
    assert_same(second + first, {1: -230_000}, tmp_path)


def test_more_pcpus_than_the_machines_begin_with(tmp_path: Path) -> None:
    data = simulate(4, 80, DOMAINS, 3_000_000, loss=0.4, ring_bytes=4088, poll_cycles=1_000_000).data
    assert_same(data, {pcpu: 1000 * pcpu for pcpu in range(80)}, tmp_path)


@pytest.mark.parametrize(("tsc", "by", "expected"), [(100, -200, 1), (0, 200, 3200)])
def test_no_offset_makes_a_tsc_damage(tsc: int, by: int, expected: int, tmp_path: Path) -> None:
    found = collect(two_records(tmp_path / "trace", tsc), tsc_offsets=offsets({0: by}))
    assert found.segments[0].first_tsc == expected


@pytest.mark.parametrize("tsc", [1 << 62, 1 << 63])
def test_no_offset_makes_a_tsc_right(tsc: int, tmp_path: Path) -> None:
    """The window is left out, and there is no other."""
    with pytest.raises(TraceError, match="a TSC is out of range at offset 0"):
        collect(two_records(tmp_path / "trace", tsc), tsc_offsets=offsets({0: -5}))


def two_records(path: Path, tsc: int) -> Path:
    body = b"".join(pack_record(0x21101, each, (1 << 16,)) for each in (tsc, tsc + 3000))
    path.write_bytes(pack_window(0, body))
    return path
