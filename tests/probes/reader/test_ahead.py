"""A stream that is read ahead gives the same bytes, and its errors after the bytes before them."""

from __future__ import annotations

import io
import os
import threading
import time

import pytest

from xtrace.probes.reader.ahead import Ahead, Source

SIZES = (0, 1, 1 << 20, (1 << 20) + 1, (7 << 20) + 3)


class Failing:
    """A stream that fails after its bytes, with another error each time."""

    def __init__(self, content: bytes) -> None:
        self._content = io.BytesIO(content)

    def readinto(self, buffer: memoryview, /) -> int:
        count = self._content.readinto(buffer)
        if not count:
            raise ValueError("damage")
        return count


def read(source: Source, piece: int) -> bytes:
    """Read to the end."""
    buffer = bytearray(piece)
    found = bytearray()
    while count := source.readinto(memoryview(buffer)):
        found += buffer[:count]
    return bytes(found)


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("piece", [1000, 3 << 20])
def test_the_bytes_are_the_same(size: int, piece: int) -> None:
    content = os.urandom(size)
    ahead = Ahead(io.BytesIO(content))
    assert read(ahead, piece) == content
    assert ahead.readinto(memoryview(bytearray(1))) == 0


@pytest.mark.parametrize("size", SIZES)
def test_an_error_comes_after_the_bytes_before_it_and_again(size: int) -> None:
    content = os.urandom(size)
    ahead = Ahead(Failing(content))
    buffer = bytearray(max(size, 1))
    filled = 0
    while filled < size:
        filled += ahead.readinto(memoryview(buffer)[filled:])
    assert buffer[:size] == content
    for _ in range(2):
        with pytest.raises(ValueError, match="damage"):
            ahead.readinto(memoryview(buffer))


def test_little_is_read_before_it_is_wanted() -> None:
    content = io.BytesIO(bytes(64 << 20))
    ahead = Ahead(content)
    before = -1
    while content.tell() != before:
        before = content.tell()
        time.sleep(0.1)
    assert 0 < before <= 6 << 20
    ahead.close()


def test_closing_ends_the_thread_but_does_not_wait_for_a_pipe() -> None:
    threads = threading.active_count()
    full = Ahead(io.BytesIO(bytes(64 << 20)))
    full.close()
    for _ in range(100):
        if threading.active_count() == threads:
            break
        time.sleep(0.05)
    assert threading.active_count() == threads
    there, here = os.pipe()
    with open(there, "rb", buffering=0) as pipe, open(here, "wb") as writer:
        waiting = Ahead(pipe)
        waiting.close()
        writer.write(b"x")
