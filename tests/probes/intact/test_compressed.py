"""Compressed traces: several streams, padding, frames to be skipped, cuts."""

from __future__ import annotations

import io
import os
from pathlib import Path
from typing import Any, cast

import pytest

from builders.damaged import PACK
from xtrace.probes.errors import TraceError
from xtrace.probes.intact import compressed
from xtrace.probes.intact.compressed import Damage, Raw, Streams, compression_in
from xtrace.probes.reader.sources import open_source

PLAIN = bytes(range(256)) * 1000
#: A frame that zstd and lz4 skip: any content.
SKIPPED = b"\x50\x2a\x4d\x18\x05\x00\x00\x00hello"


def unpacked(packed: bytes) -> tuple[bytes, str]:
    """Return the plain bytes, and what is wrong after them."""
    found = compression_in(packed[:6])
    assert found is not None
    streams = Streams(cast(Raw, io.BytesIO(packed)), found, "x")
    plain = bytearray()
    buffer = bytearray(10_000)
    try:
        while count := streams.readinto(memoryview(buffer)):
            plain += buffer[:count]
    except Damage as error:
        return bytes(plain), str(error)
    return bytes(plain), ""


@pytest.mark.parametrize("name", PACK)
def test_streams_one_after_the_other(name: str) -> None:
    assert unpacked(PACK[name](PLAIN)) == (PLAIN, "")
    assert unpacked(PACK[name](PLAIN) * 3) == (PLAIN * 3, "")
    assert unpacked(PACK[name](b"") + PACK[name](PLAIN)) == (PLAIN, "")


@pytest.mark.parametrize("name", PACK)
def test_zeros_between_and_after_streams(name: str) -> None:
    packed = PACK[name](PLAIN)
    assert unpacked(packed + bytes(4096) + packed + bytes(8)) == (PLAIN * 2, "")


@pytest.mark.parametrize("name", ["lz4", "zst"])
def test_frames_to_be_skipped(name: str) -> None:
    packed = PACK[name](PLAIN)
    assert unpacked(SKIPPED + packed + SKIPPED + packed) == (PLAIN * 2, "")


def test_streams_of_different_kinds() -> None:
    assert unpacked(PACK["gz"](PLAIN) + PACK["xz"](PLAIN)) == (PLAIN * 2, "")


@pytest.mark.parametrize("name", PACK)
@pytest.mark.parametrize("share", [0.1, 0.5, 0.9, 0.999])
def test_a_cut_stream_is_read_up_to_the_cut(name: str, share: float) -> None:
    packed = PACK[name](PLAIN)
    plain, said = unpacked(packed + packed[: int(len(packed) * share)])
    assert plain[: len(PLAIN)] == PLAIN
    assert plain[len(PLAIN) :] == PLAIN[: len(plain) - len(PLAIN)]
    assert said.endswith("stream ends early")


@pytest.mark.parametrize("name", PACK)
def test_what_follows_and_is_not_compressed_is_damage(name: str) -> None:
    assert unpacked(PACK[name](PLAIN) + b"exit status 1, see the log\n") == (
        PLAIN,
        f"what follows a {compression_name(name)} stream is not compressed",
    )


def compression_name(name: str) -> str:
    found = compression_in(PACK[name](b"")[:6])
    assert found is not None
    return found.name


@pytest.mark.parametrize("name", PACK)
def test_what_unpacks_to_far_more_than_any_recording_is_refused(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    packed = PACK[name](PLAIN) + PACK[name](bytes(80 << 20))
    with pytest.raises(TraceError, match=r"unpack to over .* times as many.*--max-input"):
        unpacked(packed)
    monkeypatch.setattr(compressed._limit, "plain_bytes", compressed._limit.plain_bytes)
    compressed.allow(100 << 20)
    plain, said = unpacked(packed)
    assert (len(plain), said) == (len(PLAIN) + (80 << 20), "")


def test_a_file_that_is_all_holes_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """In an archive a terabyte of zeros takes a few bytes."""
    path, size = tmp_path / "trace.bin", 1 << 40
    path.write_bytes(PLAIN)
    os.truncate(path, size)
    with (
        pytest.raises(TraceError, match=r"1,099,511,627,776 bytes, all but .* holes .*--max-input"),
        open_source(path),
    ):
        pass
    os.truncate(path, 40 << 20)
    with path.open("r+b") as file:
        file.seek(30 << 20)
        file.write(PLAIN)  # a hundredth is data
    with open_source(path) as source:
        head = bytearray(len(PLAIN))
        assert source.readinto(memoryview(head))
    assert head[:6] == PLAIN[:6]
    os.truncate(path, size)
    monkeypatch.setattr(compressed._limit, "plain_bytes", compressed._limit.plain_bytes)
    compressed.allow(size)
    with open_source(path):
        pass


@pytest.mark.parametrize("name", PACK)
def test_very_many_short_streams_are_read_once(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """What follows a stream was copied after each: the work grew with the square of their number."""
    given = 0
    found = compression_in(PACK[name](b"")[:6])
    assert found is not None
    make = found.open

    class Counted:
        def __init__(self, stream: compressed.Stream) -> None:
            self._stream: Any = stream

        def __getattr__(self, name: str) -> Any:
            return getattr(self._stream, name)

        def decompress(self, data: bytes, /, max_length: int = -1) -> bytes:
            nonlocal given
            given += len(data)
            plain: bytes = self._stream.decompress(data, max_length)
            return plain

    counted = compressed.Compression(
        found.name,
        found.magic,
        found.chunk_bytes,
        lambda _: lambda: cast(compressed.Stream, Counted(make("x")())),
    )
    monkeypatch.setattr(compressed, "compression_in", lambda _: counted)
    content = PACK[name](b"") * 3000
    streams = Streams(cast(Raw, io.BytesIO(content)), counted, "x")
    assert streams.readinto(memoryview(bytearray(10))) == 0
    assert given <= 600 * 3000
