"""Recordings that were cut, joined, packed or had text put in them, and what must still be read of each."""

from __future__ import annotations

import bz2
import gzip
import lzma
import random
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache

import lz4.frame
import pytest

from builders.mutated import real_offsets, real_rounds
from oracle.reader import Window, frame
from oracle.reading import ALL_SAMPLES, sample_bytes

#: What stderr and other programs write into a pipe or a file.
MESSAGES = (
    b"xentrace: reader: lost 12 records\n",
    b"change evtmask to 0x20f000\n",
    b"$ \n",
    b"Warning: Permanently added 'dom0' (ED25519) to the list of known hosts.\r\n",
    b"  % Total    % Received % Xferd  Average Speed\n  0     0    0     0\n",
    b"write failed: No space left on device\n",
)
PACK: dict[str, Callable[[bytes], bytes]] = {
    "gz": lambda data: gzip.compress(data, 1),
    "xz": lambda data: lzma.compress(data, preset=0),
    "bz2": lambda data: bz2.compress(data, 1),
    "lz4": lambda data: bytes(lz4.frame.compress(data, block_size=lz4.frame.BLOCKSIZE_MAX64KB)),
    "zst": lambda data: bytes(pytest.importorskip("zstandard").ZstdCompressor().compress(data)),
}
_POOL = 48
_LONG_RATIO = 0.1
_MOST_PIECE_BYTES = 64 << 10


@dataclass(frozen=True, slots=True)
class Original:
    """A recording, and its windows with their records."""

    data: bytes
    windows: tuple[Window, ...]


@dataclass(frozen=True, slots=True)
class Damaged:
    """A damaged recording.

    Attributes:
        data: what is left of it; packed: it is compressed.
        originals: of it; each of their records may be read once.
        kept: the windows that the damage does not touch; all of their records must be read.
        what: was done to it.
        without_text: what it is without the text that stands for a piece of it, and without the letters
            before it, which read as its beginning.
    """

    data: bytes
    originals: tuple[Original, ...]
    kept: tuple[Window, ...]
    what: str
    packed: bool = False
    without_text: tuple[bytes, ...] = ()


@cache
def pool() -> tuple[Original, ...]:
    """Return short recordings made of the samples' records, and some stretches of the samples themselves."""
    random_ = random.Random(21)
    made = []
    for _ in range(_POOL):
        data = real_rounds(random_)
        if _has_times(data):
            made.append(_whole(data))
    for path in ALL_SAMPLES:
        offsets = real_offsets(path)
        data = sample_bytes(path)
        begin = random_.randrange(len(offsets))
        end = next((at for at in offsets if at - offsets[begin] > 40_000 and at > offsets[begin]), len(data))
        made.append(_whole(data[offsets[begin] : end]))
    return tuple(made)


def _has_times(data: bytes) -> bool:
    return any(raw.tsc is not None for window in frame(data).windows for raw in window.records)


def _whole(data: bytes) -> Original:
    """Return the recording without what follows its last whole window."""
    framing = frame(data)
    assert not framing.damages
    windows = [window for window in framing.windows if window.offset + 12 + window.size <= len(data)]
    last = windows[-1]
    return Original(data[: last.offset + 12 + last.size], tuple(windows))


def shows(case: Damaged) -> bool:
    """Return whether anything shows that bytes are missing, apart from a last window that can be cut."""
    if any(not frame(rest).damages for rest in case.without_text):
        return False  # the text can have been written between two bytes
    return case.packed or bool(frame(case.data).damages) or case.what.startswith(("truncated", "joined"))


def _end(window: Window) -> int:
    return window.offset + 12 + window.size


def _place(random_: random.Random, original: Original) -> int:
    """Return where damage begins: anywhere, or near a window's header."""
    if random_.random() < 0.8:
        return random_.randrange(1, len(original.data))
    window = random_.choice(original.windows)
    return min(max(window.offset + random_.randrange(-16, 28), 1), len(original.data) - 1)


def _size(random_: random.Random, most: int) -> int:
    size = random_.choice(
        (1, 2, 3, 4, 8, 12, 24, 4096, random_.randrange(1, 64), random_.randrange(1, _MOST_PIECE_BYTES))
    )
    return min(size, most)


def truncated(random_: random.Random, original: Original) -> Damaged:
    """Cut it at any byte."""
    at = _place(random_, original)
    kept = [window for window in original.windows if _end(window) <= at]
    return Damaged(original.data[:at], (original,), tuple(kept), f"truncated at {at}")


def headless(random_: random.Random, original: Original) -> Damaged:
    """Leave out its beginning."""
    at = _place(random_, original)
    kept = [window for window in original.windows if window.offset >= at]
    return Damaged(original.data[at:], (original,), tuple(kept), f"headless: begins at {at}")


def removed(random_: random.Random, original: Original) -> Damaged:
    """Remove a piece."""
    at = _place(random_, original)
    stop = at + _size(random_, len(original.data) - at)
    # A cut at the end of a window looks like one inside it that joins two windows.
    kept = [each for each in original.windows if _end(each) + 1 < at or each.offset >= stop]
    data = original.data[:at] + original.data[stop:]
    return Damaged(data, (original,), tuple(kept), f"removed {at} to {stop}")


def repeated(random_: random.Random, original: Original) -> Damaged:
    """Repeat a piece after itself."""
    # A repetition from the beginning on is another recording.
    begin = next(each.offset for each in original.windows if any(raw.tsc is not None for raw in each.records))
    at = min(max(_place(random_, original), begin + 1), len(original.data) - 1)
    stop = at + _size(random_, len(original.data) - at)
    if original.data[begin:at] == original.data[stop - at + begin : stop]:
        stop += 1  # it would be the same bytes as a repetition from the beginning on
    kept = [each for each in original.windows if _end(each) + 1 < stop or each.offset >= stop]
    data = original.data[:stop] + original.data[at:]
    return Damaged(data, (original,), tuple(kept), f"repeated {at} to {stop}")


def replaced(random_: random.Random, original: Original) -> Damaged:
    """Replace a piece by a line of text, of the same length or not."""
    at = _place(random_, original)
    if any(_end(window) == at + 1 for window in original.windows):
        at += 1  # the first letter would pass for the last byte of a window that a line follows
    # A shorter one can take the place of a part of a TSC or a word.
    text = random_.choice([each for each in MESSAGES if len(each) >= 8])
    size = random_.choice((len(text), _size(random_, len(original.data))))
    if size < len(text) and random_.random() < 0.5:
        size = len(text)
    stop = min(at + size, len(original.data))
    kept = [each for each in original.windows if _end(each) + 1 < at or each.offset >= stop]
    data = original.data[:at] + text + original.data[stop:]
    begin = at
    while begin and 0x20 <= original.data[begin - 1] < 0x7F:
        begin -= 1
    rests = tuple(original.data[:first] + original.data[stop:] for first in {at, begin})
    what = f"replaced {at} to {stop} by {text!r}"
    return Damaged(data, (original,), tuple(kept), what, without_text=rests)


def interrupted(random_: random.Random, original: Original) -> Damaged:
    """Put a line of text into it."""
    at = _place(random_, original)
    text = random_.choice(MESSAGES)
    # After a byte that can be a letter, it can be the end of a longer line that stands for other bytes.
    after_letter = 0x20 <= original.data[at - 1] < 0x7F
    inside = [
        each
        for each in original.windows
        if each.offset < at < each.offset + 12
        or (each.offset < at <= _end(each) and (after_letter or len(text) < 8))
    ]
    kept = [each for each in original.windows if each not in inside]
    return Damaged(
        original.data[:at] + text + original.data[at:],
        (original,),
        tuple(kept),
        f"interrupted at {at} by {text!r}",
    )


def joined(random_: random.Random, original: Original) -> Damaged:
    """Append another recording, or the same, to it or to what is left of it."""
    other = random_.choice(pool()[: -len(ALL_SAMPLES)])
    at = len(original.data) if random_.random() < 0.5 else _place(random_, original)
    kept = [each for each in original.windows if _end(each) <= at]
    return Damaged(
        original.data[:at] + other.data, (original, other), (*kept, *other.windows), f"joined, cut at {at}"
    )


def packed(random_: random.Random, original: Original) -> Damaged:
    """Compress it and cut that anywhere."""
    name = random_.choice([*PACK])
    whole = PACK[name](original.data)
    at = random_.choice((len(whole), random_.randrange(12, len(whole))))
    kept = original.windows if at == len(whole) else ()
    return Damaged(whole[:at], (original,), kept, f"packed {name} cut at {at} of {len(whole)}", packed=True)


KINDS = (truncated, headless, removed, removed, repeated, replaced, interrupted, joined, packed)


def damaged(random_: random.Random) -> Damaged:
    """Return a damaged recording, of one case in ten a long one, which takes ten times as long to read."""
    of = pool()[-len(ALL_SAMPLES) :] if random_.random() < _LONG_RATIO else pool()[: -len(ALL_SAMPLES)]
    return random_.choice(KINDS)(random_, random_.choice(of))
