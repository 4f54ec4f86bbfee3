"""Damage kernel images in every way, and make code that is slow to analyse."""

from __future__ import annotations

import random
import struct
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

from builders.guest import Builder, Carries, Variant
from builders.images import PACKERS, bzimage
from xtrace.symbols import open_image

#: Small guests that together have every kind of site, both machines, and all data that is read.
GUESTS = (
    ("hazards_amd64.S", Variant()),
    ("netbsd_i386.S", Variant(bits=32)),
    ("page_amd64.S", Variant()),
    ("linux_amd64.S", Variant(carries=Carries.SYMBOLS)),
    ("netbsd_amd64.S", Variant(carries=Carries.NOTHING)),
    ("minios.c", Variant(relocatable=True)),
    ("linux.c", Variant()),
)

Change = Callable[[random.Random, bytearray, Sequence["Span"]], None]


@dataclass(frozen=True, slots=True)
class Span:
    """A range of a file, and which changes apply to it.

    Attributes:
        role: headers, symbols, names, dwarf, code, notes or data.
    """

    role: str
    offset: int
    size: int


@dataclass(frozen=True, slots=True)
class Victim:
    """An image to damage, and the ranges in it."""

    name: str
    data: bytes
    spans: tuple[Span, ...]


def victims_in(folder: Path) -> list[Victim]:
    """Return the guests, compiled into a folder."""
    builder = Builder(folder)
    found = []
    for name, variant in GUESTS:
        path = builder.build(name, variant).image
        found.append(Victim(f"{name} {variant}", path.read_bytes(), tuple(spans(path))))
    return found


def spans(path: Path) -> Iterator[Span]:
    """Yield the ranges of an ELF file."""
    image = open_image(path)
    data = image.data
    wide = image.bits == 64
    yield Span("headers", 0, 64 if wide else 52)
    segments, sections = struct.unpack_from("<QQ" if wide else "<II", data, 32 if wide else 28)
    size, count, row, rows = struct.unpack_from("<HHHH", data, 54 if wide else 42)
    if count:
        yield Span("headers", segments, size * count)
    yield Span("headers", sections, row * rows)
    for section in image.sections:
        # .bss has no bytes in the file, and the section of undefined symbols has no offset.
        if section.size and section.offset and section.kind != 8:
            yield Span(_role(section.name, section.executable), section.offset, section.size)


def _role(name: str, executable: bool) -> str:
    if executable:
        return "code"
    if name.startswith(".debug"):
        return "dwarf"
    if name.startswith(".note"):
        return "notes"
    return {".symtab": "symbols", ".strtab": "names", ".shstrtab": "names"}.get(name, "data")


def some_value(rng: random.Random, size: int) -> bytes:
    """Return an unexpected number: 0, an extreme of signed or unsigned, a power of 2, or a random one."""
    most = (1 << 8 * size) - 1
    value = rng.choice(
        (0, 1, most, most - 1, most >> 1, (most >> 1) + 1, 1 << rng.randrange(8 * size), rng.randint(0, most))
    )
    return value.to_bytes(size, "little")


def change_words(rng: random.Random, data: bytearray, spans: Sequence[Span]) -> None:
    """Overwrite words with unexpected numbers."""
    span = rng.choice(spans)
    for _ in range(rng.choice((1, 1, 2, 4, 30))):
        size = rng.choice((1, 2, 4, 8))
        place = span.offset + rng.randrange(0, max(span.size - size, 0) + 1, rng.choice((1, size)))
        data[place : place + size] = some_value(rng, size)


def change_bytes(rng: random.Random, data: bytearray, spans: Sequence[Span]) -> None:
    """Overwrite single bytes, or a whole range."""
    span = rng.choice(spans)
    if rng.random() < 0.5:
        for _ in range(rng.choice((1, 4, 40))):
            data[span.offset + rng.randrange(span.size)] = rng.randrange(256)
        return
    begin = rng.randrange(span.size)
    size = min(rng.choice((8, 100, 1000, 10_000)), span.size - begin)
    filler = rng.choice((bytes(1), b"\xff", b"\x80", rng.randbytes(rng.choice((3, 8, size)))))
    data[span.offset + begin : span.offset + begin + size] = (filler * (size // len(filler) + 1))[:size]


def change_code(rng: random.Random, data: bytearray, spans: Sequence[Span]) -> None:
    """Overwrite code with random jumps, endless prefixes, loops or other pieces of code."""
    span = rng.choice([span for span in spans if span.role == "code"])
    begin = rng.randrange(span.size)
    size = min(rng.choice((2, 16, 64, 512, 4096)), span.size - begin)
    kind = rng.randrange(6)
    if kind == 0:
        code = b"".join(bytes((0x70 + rng.randrange(16), rng.randrange(256))) for _ in range(size // 2 + 1))
    elif kind == 1:
        reach = span.size
        code = b"".join(
            rng.choice((b"\xe8", b"\xe9", b"\x0f\x84")) + struct.pack("<i", rng.randint(-reach, reach))
            for _ in range(size // 5 + 1)
        )
    elif kind == 2:
        code = rng.choice((b"\x66", b"\xf0", b"\x2e", b"\x65", b"\xeb\xfe", b"\xff\xe0", b"\x90")) * size
    elif kind == 3:
        code = rng.choice((b"\xc6\x40\x01\x01", b"\xc6\x40\x01\x00", b"\x0f\xae\xe8", b"\x80\x38\x00")) * size
    elif kind == 4:
        other = span.offset + rng.randrange(span.size)
        code = bytes(data[other : other + size])
    else:
        code = rng.randbytes(size)
    size = min(size, len(code))
    data[span.offset + begin : span.offset + begin + size] = code[:size]


def cut(rng: random.Random, data: bytearray, spans: Sequence[Span]) -> None:
    """Truncate the file, or remove some bytes."""
    place = rng.choice((rng.randrange(len(data)), rng.choice(spans).offset + rng.randrange(-2, 9)))
    place = max(min(place, len(data) - 1), 0)
    if rng.random() < 0.6:
        del data[place:]
    else:
        del data[place : place + rng.choice((1, 8, 1000))]


def move(rng: random.Random, data: bytearray, spans: Sequence[Span]) -> None:
    """Copy one part of the file over another."""
    source, target = rng.choice(spans), rng.choice(spans)
    size = rng.randint(0, min(source.size, target.size, 4096))
    data[target.offset : target.offset + size] = data[source.offset : source.offset + size]


CHANGES: tuple[tuple[Change, int, tuple[str, ...]], ...] = (
    (change_words, 5, ("headers",)),
    (change_words, 3, ("symbols", "names")),
    (change_words, 2, ("notes",)),
    (change_words, 3, ("dwarf",)),
    (change_words, 2, ("data", "code")),
    (change_bytes, 5, ("headers", "symbols", "names", "dwarf", "notes", "data", "code")),
    (change_code, 6, ("code",)),
    (cut, 2, ("headers", "symbols", "names", "dwarf", "notes", "data", "code")),
    (move, 2, ("headers", "symbols", "names", "dwarf", "notes", "data", "code")),
)


def damaged(rng: random.Random, victims: Sequence[Victim]) -> tuple[str, bytes]:
    """Return a description of the damage and the damaged image."""
    victim = rng.choice(victims)
    data = bytearray(victim.data)
    done = []
    for _ in range(rng.choice((1, 1, 1, 2, 5))):
        change, _, roles = rng.choices(CHANGES, [weight for _, weight, _ in CHANGES])[0]
        fitting = [span for span in victim.spans if span.role in roles]
        if not fitting:
            continue
        try:
            change(rng, data, fitting)
        except (IndexError, ValueError):
            continue  # an earlier change cut this range off
        done.append(change.__name__)
    name = f"{victim.name}: {', '.join(done)}"
    if rng.random() < 0.1:
        how = rng.choice(sorted(PACKERS))
        packed = bytearray(
            bzimage(bytes(data) or b"\0", how) if rng.random() < 0.5 else PACKERS[how](bytes(data))
        )
        whole = [Span("packed", 0, len(packed))]
        if rng.random() < 0.8:
            rng.choice((change_words, change_bytes, cut))(rng, packed, whole)
        return f"{name}, {how}", bytes(packed)
    return name, bytes(data)


#: Code that storm() makes.
STORMS = (
    "branches",
    "functions",
    "far branches",
    "calls",
    "sites",
    "pointers",
    "masks",
    "stack",
    "chains",
    "noise",
)


def in_elf(code: bytes) -> bytes:
    """Return a 64-bit executable with ``code`` in one segment and a Xen note in another."""
    note = struct.pack("<III4s8s", 4, 8, 6, b"Xen", b"NetBSD")
    base, size, start = 0xFFFF_FFFF_8010_0000, len(code), 64 + 2 * 56
    header = b"\x7fELF\2\1\1" + bytes(9)
    header += struct.pack("<HHIQQQIHHHHHH", 2, 62, 1, base, 64, 0, 0, 64, 56, 2, 0, 0, 0)
    loaded = struct.pack("<IIQQQQQQ", 1, 7, start, base, base, size, size, 4096)
    noted = struct.pack("<IIQQQQQQ", 4, 4, start + size, 0, 0, len(note), len(note), 4)
    return header + loaded + noted + code + note


POINTER = (
    b"\x65\x48\x8b\x04\x25\x10\0\0\0" + b"\x48\x8b\x98\x90\x02\0\0"
)  # mov %gs:0x10,%rax; mov 0x290(%rax),%rbx
MASK, UNMASK, TEST = b"\xc6\x43\x01\x01", b"\xc6\x43\x01\x00", b"\x80\x3b\x00"
FORCE = b"\x31\xff\xb8\x11\0\0\0\x0f\x05"  # xen_version(0)


def storm(rng: random.Random, name: str) -> bytes:
    """Return 128 KiB of code that is designed to be slow to analyse."""
    head = POINTER + MASK + UNMASK + TEST + b"\x74\x09" + FORCE
    size = 1 << 17
    near = (bytes((0x70 + rng.randrange(16), rng.randrange(256))) for _ in range(size))
    if name == "branches":
        return head + b"".join(islice(near, size // 2))
    if name == "functions":
        return b"".join(head + b"".join(islice(near, 200)) + b"\xc3" for _ in range(size // 440))
    if name == "far branches":
        far = (b"\x0f\x84" + struct.pack("<i", rng.randint(-size, size)) for _ in range(size // 6))
        return head + b"".join(far)
    if name == "calls":
        calls = (b"\xe8" + struct.pack("<i", rng.randint(-size, size)) for _ in range(size // 5))
        return head + b"".join(calls)
    if name == "sites":
        return head + b"".join(rng.choice((MASK, UNMASK, TEST + b"\x75\xf0")) for _ in range(size // 4))
    if name == "pointers":
        return b"".join(POINTER + rng.choice((MASK, UNMASK)) + b"\xc3" for _ in range(size // 21))
    if name == "masks":
        link = b"\xe9" + struct.pack("<i", 1) + b"\xc3"
        return head + b"\xc3" + (POINTER + MASK + link) * (size // 26) + b"\xc3"
    if name == "stack":
        moves = (
            b"\x48\x89\x9c\x24" + struct.pack("<i", 8 * rng.randrange(1 << 20)) for _ in range(size // 8)
        )
        return head + b"".join(moves)
    if name == "chains":
        return head + b"".join(POINTER[9:12] + b"\x90\x02\0\0\x48\x89\xd8" for _ in range(size // 10))
    return rng.randbytes(size)
