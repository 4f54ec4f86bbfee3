"""Cases of which each is aimed at one bound of the program: it goes as far beyond it as a small input can.

Damage alone does not get there.  A flood of losses is slow only after records of thousands of vCPUs, ids
collide only if they are chosen, a summary or a line has to be whole to be read, and the command has to be the
one that reads what is too large.
"""

from __future__ import annotations

import io
import json
import os
import random
import zipfile
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import zstandard

from builders.mutated import real_rounds
from soak.child import Case
from soak.shapes import calm, colliding, distinct_rips, losses_of_all, spread, zeros
from xtrace.analysis.summary.summary_head import HEAD
from xtrace.probes.capture.layout import BPF_TABLES

_REPORTS = (("report", "--json"), ("report", "--no-pager"), ("report", "--only-findings"))
_LIVE = (("stat", "-i"), ("stat", "--json", "-i"), ("top", "-b", "-i"), ("top", "--json", "-i"))


def _trace(
    chance: random.Random, folder: Path, data: bytes, what: str, commands: Sequence[tuple[str, ...]]
) -> Case:
    path = folder / "trace.bin"
    path.write_bytes(data)
    return Case((*chance.choice(commands), str(path)), what, len(data))


def _zst(data: bytes) -> bytes:
    return bytes(zstandard.ZstdCompressor(level=3).compress(data))


def flood(chance: random.Random, folder: Path) -> Case:
    """Thousands of vCPUs of which each has a state to lose, and then nothing but losses; it is watched."""
    vcpus, size = chance.choice((12_000, 16_000)), chance.choice((1_500_000, 2_000_000))
    return _trace(chance, folder, losses_of_all(chance, size, vcpus), f"flood {vcpus} {size}", _LIVE)


def long_flood(chance: random.Random, folder: Path) -> Case:
    """The same with as many as compiled code needs."""
    vcpus, size = 30_000, chance.choice((5_000_000, 8_000_000))
    return _trace(chance, folder, losses_of_all(chance, size, vcpus), f"long flood {vcpus} {size}", _REPORTS)


def rare(chance: random.Random, folder: Path) -> Case:
    """Thousands of vCPUs that wait, and one record in 1 to 70 s for days, months or years; it is watched."""
    vcpus, size = chance.choice((8_000, 16_000)), chance.choice((1_000_000, 4_000_000))
    data = calm(chance, size, vcpus, chance.choice((1, 3, 70)) * 2_400_000_000)
    commands = (*_LIVE, ("stat", "0.05", "-i"), ("stat", "--openmetrics", "-i"))
    return _trace(chance, folder, data, f"rare {vcpus} {size}", commands)


def unpacks(chance: random.Random, folder: Path) -> Case:
    """Compressed streams in a row, some kilobytes each, that unpack to gigabytes."""
    from soak.cases import PACK

    how = chance.choice(("gz", "xz", "zst", "bz2"))
    piece = PACK[how](real_rounds(chance)[:2_000] + zeros(20 << 20))
    commands = (*_REPORTS, ("info",), ("stat", "-i"), ("dump",))
    return _trace(chance, folder, piece * 1000, f"unpacks to 20 GB, {how}", commands)


def tallies(chance: random.Random, folder: Path) -> Case:
    """More RIPs than there are tallies; they are counts, so that no histogram is full before."""
    size = chance.choice((60_000_000, 90_000_000))
    return _trace(chance, folder, _zst(distinct_rips(size)), f"tallies {size}", _REPORTS)


def octaves(chance: random.Random, folder: Path) -> Case:
    """More octaves of histograms than there is room for: most memory for the fewest bytes."""
    size = chance.choice((40_000_000, 60_000_000))
    return _trace(chance, folder, _zst(spread(size)), f"octaves {size}", _REPORTS)


def vcpu_ids(chance: random.Random, folder: Path) -> Case:
    """vCPU ids of one slot of a hash table that is not keyed."""
    size = chance.choice((2_000_000, 4_000_000))
    data = colliding(chance, size, "vcpus")
    return _trace(chance, folder, data, f"colliding vCPUs {size}", _REPORTS)


def keys(chance: random.Random, folder: Path) -> Case:
    """Interrupts or RIPs of one slot of a hash table that is not keyed."""
    size, which = chance.choice((4_000_000, 6_000_000)), chance.choice(("irqs", "rips"))
    data = colliding(chance, size, which)
    return _trace(chance, folder, data, f"colliding {which} {size}", _REPORTS)


def _summary(chance: random.Random, folder: Path, members: dict[str, bytes], what: str) -> Case:
    path = folder / "a.summary"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as archive:
        for name, content in members.items():
            archive.writestr(name, content)
    commands = (*_REPORTS, ("diff", str(path)), ("report", "--full", "--no-pager"))
    return Case((*chance.choice(commands), str(path)), what, path.stat().st_size)


def headers(chance: random.Random, folder: Path) -> Case:
    """The header of one array is an expression that is deep, long, or none."""
    from soak.cases import HEADERS, summary_members

    members = dict(summary_members())
    name = chance.choice([name for name in members if name.endswith(".npy")])
    header = chance.choice(HEADERS)
    members[name] = members[name][:8] + len(header).to_bytes(2, "little") + header + members[name][128:]
    return _summary(chance, folder, members, f"header {name} {header[:30]!r}")


def texts(chance: random.Random, folder: Path) -> Case:
    """A column of text that is whole, and takes over ten times its size as objects."""
    rows = chance.choice((20_000_000, 24_000_000))
    content = b'["ab"' + b',"ab"' * (rows - 1) + b"]"
    return _summary(chance, folder, _with_column("text", content, rows), f"texts {rows}")


def numbers(chance: random.Random, folder: Path) -> Case:
    """A column of numbers that is whole, of over half a gigabyte, and compresses to a thousandth."""
    rows = chance.choice((75_000_000, 90_000_000))
    out = io.BytesIO()
    np.lib.format.write_array_header_1_0(out, {"descr": "<i8", "fortran_order": False, "shape": (rows,)})
    content = out.getvalue() + bytes(8 * rows)
    return _summary(chance, folder, _with_column("npy", content, rows), f"numbers {rows}")


def sums(chance: random.Random, folder: Path) -> Case:
    """Sums by slots of time that are greater than a slot is long."""
    from soak.cases import summary_members

    members = dict(summary_members())
    totals = np.load(io.BytesIO(members["slots/total.npy"]))
    out = io.BytesIO()
    np.save(out, totals * chance.choice((2, 7)) + chance.choice((0, 1 << 33)))
    return _summary(chance, folder, members | {"slots/total.npy": out.getvalue()}, "sums of slots")


def no_span(chance: random.Random, folder: Path) -> Case:
    """Times in a trace that takes none."""
    from soak.cases import summary_members

    members = dict(summary_members())
    out = io.BytesIO()
    np.save(out, 0 * np.load(io.BytesIO(members["facts/span_cycles.npy"])))
    return _summary(chance, folder, members | {"facts/span_cycles.npy": out.getvalue()}, "no span")


def _with_column(kind: str, content: bytes, rows: int) -> dict[str, bytes]:
    """Return a summary with another column, which is read before those that have other lengths."""
    from soak.cases import summary_members

    members = dict(summary_members())
    head = json.loads(members[HEAD])
    frame = next(iter(head["frames"]))
    head["frames"][frame] = {"more": kind} | head["frames"][frame]
    head["rows"][frame] = rows
    return members | {HEAD: json.dumps(head).encode(), f"{frame}/more.{kind}": content}


def _capture(folder: Path, files: dict[str, bytes]) -> Path:
    top = folder / "a.xtrace"
    for name, content in files.items():
        path = top / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
    return top


def endless(chance: random.Random, folder: Path) -> Case:
    """A capture that is whole but for a file that has no end, or is waited for; all files are hashed."""
    from soak.cases import META

    name = chance.choice(("samples/stream_0", "events/stream_7", "xentrace.log", "more"))
    top = _capture(folder, {"meta.json": json.dumps(META).encode(), "xentrace.bin": real_rounds(chance)})
    (top / name).parent.mkdir(exist_ok=True)
    how = chance.choice(("/dev/zero", "/dev/zero", "/dev/urandom", "pipe"))
    if how == "pipe":
        os.mkfifo(top / name)
    else:
        (top / name).symlink_to(how)
    return Case(("diff", "--keep", str(top), str(top)), f"endless {how} as {name}", 10_000)


def long_line(chance: random.Random, folder: Path) -> Case:
    """A capture that is whole but for a line of JSON that takes twenty times its size."""
    from soak.cases import META

    size = chance.choice((60_000_000, 80_000_000))
    lines = b'{"schema_version":1}\n{"t_ns":1000000000,"more":[[]' + b",[]" * (size // 3) + b"]}\n"
    files = {"meta.json": json.dumps(META).encode(), "xentrace.bin": real_rounds(chance), BPF_TABLES: lines}
    top = _capture(folder, files)
    return Case((*chance.choice(_REPORTS), str(top)), f"line of {size}", size)


BOUNDS: dict[str, tuple[Callable[[random.Random, Path], Case], ...]] = {
    "captures": (endless, long_line),
    "summaries": (headers, texts, numbers, sums, no_span),
    "traces": (flood, unpacks, tallies, octaves, vcpu_ids, keys, long_flood, rare),
}
