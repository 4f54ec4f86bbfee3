"""The kinds of input that the campaign damages, and the command lines that read them."""

from __future__ import annotations

import bz2
import gzip
import io
import json
import lzma
import os
import random
import zipfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from pathlib import Path

import lz4.frame
import zstandard

from builders.damaged_images import STORMS, Victim, damaged, in_elf, storm
from builders.made_costs import LFENCE, calibration, rows_of
from builders.made_trials import result
from builders.mutated import MUTATIONS, case_of, real_rounds, real_slice
from oracle.reading import SAMPLES, sample_bytes
from soak.child import Case
from soak.json_texts import damaged as damaged_json
from soak.shapes import SHAPES, tail_calls
from xtrace.analysis.trial.result import text_of as text_of_trial
from xtrace.probes.reader.writer import pack_window
from xtrace.probes.timing.calibration import text_of as text_of_calibration

ROOT = Path(__file__).parents[2]
PACK: dict[str, Callable[[bytes], bytes]] = {
    "gz": lambda data: gzip.compress(data, 6),
    "xz": lambda data: lzma.compress(data, preset=1),
    "zst": lambda data: bytes(zstandard.ZstdCompressor(level=9).compress(data)),
    "lz4": lz4.frame.compress,
    "bz2": lambda data: bz2.compress(data, 9),
}
_SIZES = (100, 3000, 30_000, 300_000, 1_000_000, 3_000_000)


def _text_of(chance: random.Random, folder: Path, file: str) -> tuple[str, ...]:
    """Return a command line that reads a trace, a capture or a summary."""
    return chance.choice(
        (
            ("report", "--no-pager", file), ("report", "--json", file), ("report", "--json", file),
            ("report", "--full", "--no-pager", file), ("report", "--csv", str(folder / "csv"), file),
            ("report", "--html", str(folder / "page.html"), file), ("report", "--only-findings", file),
            ("report", "--summary", str(folder / "kept"), file), ("info", file), ("info", "--json", file),
            ("dump", file), ("dump", "--json", file), ("stat", "-i", file), ("stat", "--json", "-i", file),
            ("top", "-b", "-i", file), ("top", "--json", "-i", file), ("diff", file, file),
            ("report", "--strict", "--no-pager", file), ("report", "--from", "1ms", "--to", "2ms", file),
        )
    )  # fmt: skip


def trace_bytes(chance: random.Random, sizes: Sequence[int] = _SIZES) -> tuple[str, bytes]:
    """Return a trace that is damaged or built to be expensive, and what it is."""
    if chance.random() < 0.5:
        return "damaged", case_of(chance)
    name = chance.choice(sorted(SHAPES))
    size = chance.choice(sizes)
    data = SHAPES[name](chance, size)
    what = f"{name} {size}"
    if chance.random() < 0.3 and data:
        changed = bytearray(data)
        for _ in range(chance.randrange(1, 4)):
            if changed:
                change = chance.choice(MUTATIONS)
                change(chance, changed)
                what += f", {change.__name__}"
        data = bytes(changed)
    if chance.random() < 0.3:
        data += real_slice(chance)
        what += ", and a sample"
    return what, data


def _bomb(chance: random.Random) -> tuple[str, bytes]:
    """Return compressed streams in a row that unpack to some hundred megabytes of a valid trace."""
    how = chance.choice(("xz", "zst", "bz2"))
    plain = real_rounds(chance)[:2_000] + pack_window(0, bytes(60_000)) * 300
    return f"unpacks to much, {how}", PACK[how](plain) * 40


def traces(chance: random.Random, folder: Path) -> Case:
    """A trace in a file, packed or not."""
    if chance.random() < 0.02:
        what, data = _bomb(chance)
        path = folder / "trace.bin"
        path.write_bytes(data)
        return Case(_text_of(chance, folder, str(path)), what, len(data))
    what, data = trace_bytes(chance)
    if chance.random() < 0.3:
        how = chance.choice(sorted(PACK))
        data, what = PACK[how](data), f"{what}, {how}"
        if chance.random() < 0.3:
            changed = bytearray(data)
            chance.choice(MUTATIONS)(chance, changed)
            data, what = bytes(changed), f"{what}, damaged"
        elif chance.random() < 0.3:
            data += chance.choice((bytes(4), bytes(8), bytes(3), data, bytes(1 << 16)))
            what += ", more after it"
    path = folder / "trace.bin"
    path.write_bytes(data)
    return Case(_text_of(chance, folder, str(path)), what, len(data))


def images(chance: random.Random, folder: Path) -> Case:
    """A kernel image."""
    kind = chance.random()
    if kind < 0.75:
        what, data = damaged(chance, _victims())
    elif kind < 0.9:
        what = chance.choice(STORMS)
        data = in_elf(storm(chance, what))
    else:
        count = chance.choice((100, 3000, 20_000))
        what, data = f"tail calls {count}", in_elf(tail_calls(count))
    path = folder / "kernel"
    path.write_bytes(data)
    name = str(path)
    argv: tuple[str, ...] = chance.choice(
        (
            ("sites", name), ("sites", name), ("sites", "--json", name), ("sites", "--no-lines", name),
            ("sites", "--sarif", name), ("sites", name, name),
        )
    )  # fmt: skip
    if chance.random() < 0.15:
        trace = folder / "trace.bin"
        trace.write_bytes(sample_bytes(SAMPLES[0])[:60_000])
        argv = ("report", "--json", "--kernel", f"1={name}", str(trace))
    return Case(argv, what, len(data))


_VICTIMS: list[Victim] = []


def keep_victims(victims: Sequence[Victim]) -> None:
    """Take the guests that images() damages; they are compiled once, before anything is forked."""
    _VICTIMS[:] = victims


def _victims() -> Sequence[Victim]:
    return _VICTIMS


_SIDECAR = {
    "tsc_hz": 2_300_000_000, "xen_version": "4.17", "timing": "emulated", "pcpus": 2,
    "command": "xentrace -e sched",
}  # fmt: skip
META = {
    "schema_version": 1, "state": "ended", "tsc_hz": 2_300_000_000, "xen_version": "4.17",
    "scheduler": "credit", "duration_s": 2.5, "lost": {"xentrace": 5},
    "overhead": {"cpu_s": 0.5, "cpu_s_by_backend": {"xentrace": 0.25}},
    "xen": {"info": {"nr_cpus": "2"}}, "clock": {"tsc_hz": 2.3e9},
    "backends": {"xentrace": {"facts": {"event_mask": "sched,pv"}, "lost": 5, "records": 100}},
    "domains": [
        {"id": 0, "name": "Domain-0", "weight": 256, "vcpus": [{"id": 0}], "event_channels":
            [{"port": 17, "kind": "Interdomain", "domain": 3}]},
        {"id": 1, "name": "guest", "weight": 256, "vcpus": [{"id": 0}, {"id": 1}]},
    ],
}  # fmt: skip
_RATES = {"counts": {"restore": 1000, "unmask": 50}, "seconds": 10, "domain": 1, "contexts": {"empty": 1}}
_CLOCKS = [
    {"kind": "pair", "tsc": [1000, 1100], "monotonic_ns": 1000, "cpu": 0},
    {"kind": "pair", "tsc": [2_300_001_000, 2_300_001_100], "monotonic_ns": 1_000_001_000, "cpu": 0},
    {"kind": "mark", "tsc": [5000, 5100], "number": 7, "cpu": 1},
    {"kind": "step", "tsc": [5000, 5100], "seconds": 7},
]
_PROGRESS = [
    {"kind": "progress", "elapsed_s": 1.0, "backends": {"xentrace": {"lost": 3, "records": 10}}},
    {"kind": "domain", "id": 4, "name": "new"},
]
_TABLES = [
    {"schema_version": 1},
    {"t_ns": 10**9, "interrupts_begin": {"45": [7, 1]}},
    {"t_ns": 2 * 10**9, "rows": [[1, 17, 0, 5, 5000, 900, 1100, 0], [2, 45, 1, 5, 5000, 900, 1100, 0]]},
    {"t_ns": 2 * 10**9, "buckets": [[1, 17, 0, 300, 5], [2, 45, 1, 300, 5]]},
    {"t_ns": 3 * 10**9, "irqs": {"45": ["xen-dyn-lateeoi-event", "blkif"]}, "ports": {"17": 45}},
    {"t_ns": 3 * 10**9, "interrupts_end": {"45": [10, 3], "46": [1, 0]}},
]
_SYMBOLS = [{"schema_version": 1, "event": "cpu-clock", "sample_hz": 99}, {"address": 4096, "name": "f"}]


def json_files(chance: random.Random, folder: Path) -> Case:
    """JSON beside a trace, or for a cost."""
    trace = folder / "trace.bin"
    trace.write_bytes(real_rounds(chance))
    kind = chance.choice(("sidecar", "calibration", "rates", "rates", "trial", "trial", "expect"))
    file = folder / kind
    more: tuple[str, ...] = ()
    if kind == "sidecar":
        file, text = folder / "trace.bin.json", damaged_json(chance, _SIDECAR)
    elif kind == "calibration":
        text = damaged_json(chance, json.loads(text_of_calibration(calibration(*rows_of(LFENCE)))))
        image = str(ROOT / "samples" / "own-lfence.elf")
        more = ("--calibration", str(file), "--kernel", f"1={image}", "--section", "cost")
    elif kind == "rates":
        text = damaged_json(chance, chance.choice((_RATES, _RATES["counts"])))
        if chance.random() < 0.3:
            text = f"[  1.0] guest: counters {text}\n"
        elif chance.random() < 0.2:
            text = "name,count,seconds\nrestore," + damaged_json(chance, 7) + ",2\n"
        image = str(ROOT / "samples" / "own-lfence.elf")
        more = ("--rates", f"1={file}", "--kernel", f"1={image}", "--section", "cost")
    elif kind == "trial":
        text = damaged_json(chance, json.loads(text_of_trial(result())))
        file.write_text(text, "utf-8", "surrogatepass")
        argv = chance.choice(
            (
                ("report", "--trial", str(file)),
                ("report", "--json", "--trial", str(file)),
                ("diff", str(file), str(file)),
            )
        )
        return Case(argv, kind, len(text))
    else:
        text = damaged_json(chance, {"schema_version": 2, "sites": [{"address": 4096, "kind": "mask"}]})
        file.write_text(text, "utf-8", "surrogatepass")
        option = chance.choice(("--expect-sites", "--accept"))
        return Case(("sites", str(ROOT / "samples" / "own-lfence.elf"), option, str(file)), kind, len(text))
    file.write_text(text, "utf-8", "surrogatepass")
    how = chance.choice((("--json",), ("--no-pager",)))
    return Case(("report", *how, *more, str(trace)), kind, len(text) + trace.stat().st_size)


def captures(chance: random.Random, folder: Path) -> Case:
    """The folder of a capture: damaged files, links, pipes, files of a size that nobody expects."""
    top = folder / "a.xtrace"
    what = []
    files: dict[str, bytes] = {
        "meta.json": json.dumps(META).encode(),
        "xentrace.bin": real_rounds(chance),
        "xentrace.log": b"hello\n",
        "clocks.jsonl": _lines(_CLOCKS),
        "progress.jsonl": _lines(_PROGRESS),
    }
    if chance.random() < 0.6:
        files["bpf/tables.jsonl"] = _lines(_TABLES)
    if chance.random() < 0.3:
        files["perf/symbols.jsonl"] = _lines(_SYMBOLS)
        files["samples/metadata"] = b"/* CTF 1.8 */\n"
        files["samples/stream_0"] = chance.randbytes(300)
    if chance.random() < 0.2:
        del files["xentrace.bin"]
    if chance.random() < 0.2 and "xentrace.bin" in files:
        files["xentrace.bin.xz"] = PACK["xz"](files.pop("xentrace.bin"))
    for _ in range(chance.randrange(3)):
        name = chance.choice(sorted(files))
        what.append(f"{name} damaged")
        if name == "meta.json":
            files[name] = damaged_json(chance, META).encode("utf-8", "surrogatepass")
        elif name.endswith(".jsonl"):
            lines = list(_objects(files[name].splitlines()[:6]))
            if lines:
                at = chance.randrange(len(lines))
                texts = [json.dumps(line) for line in lines]
                texts[at] = damaged_json(chance, lines[at])
                files[name] = "\n".join(texts).encode("utf-8", "surrogatepass") + b"\n"
        else:
            changed = bytearray(files[name] or b"\0")
            chance.choice(MUTATIONS)(chance, changed)
            files[name] = bytes(changed)
    for name, content in files.items():
        path = top / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
    if chance.random() < 0.6:
        name = chance.choice(sorted(files))
        what.append(f"{name} {_replaced(chance, top / name, folder)}")
    argv = _text_of(chance, folder, str(top))
    if argv[0] == "diff" and chance.random() < 0.7:
        argv = ("diff", "--keep", *argv[1:])
    return Case(argv, ", ".join(what) or "whole", sum(map(len, files.values())))


def _objects(lines: Sequence[bytes]) -> Iterator[object]:
    """Yield the short ones of lines that are JSON still: a file may have been damaged before."""
    for line in lines:
        if len(line) < 10_000:
            with suppress(ValueError, RecursionError):
                yield json.loads(line)


def _lines(objects: Sequence[object]) -> bytes:
    return b"".join(json.dumps(each).encode() + b"\n" for each in objects)


def _replaced(chance: random.Random, path: Path, folder: Path) -> str:
    """Put something else there instead of a file."""
    how = chance.choice(("zero", "pipe", "link", "dangling", "folder", "loop", "sparse", "nested", "tty"))
    if how == "nested":
        path.write_bytes(b'{"a":' + b"[" * 100_000)
        return how
    content = path.read_bytes()
    path.unlink()
    if how == "zero":
        path.symlink_to("/dev/zero")
    elif how == "tty":
        path.symlink_to("/dev/ptmx")
    elif how == "pipe":
        os.mkfifo(path)
    elif how == "link":
        (folder / "outside").write_bytes(content)
        path.symlink_to(folder / "outside")
    elif how == "dangling":
        path.symlink_to(folder / "nowhere")
    elif how == "folder":
        path.mkdir()
    elif how == "loop":
        path.symlink_to(path)
    else:
        with path.open("wb") as file:
            file.write(content)
            file.truncate(chance.choice((1 << 31, 1 << 40)))
    return how


def summaries(chance: random.Random, folder: Path) -> Case:
    """A stored summary, with damaged heads, arrays and archives."""
    members = dict(summary_members())
    what = []
    for _ in range(chance.choice((1, 1, 2, 4))):
        name = chance.choice(sorted(members))
        if chance.random() < 0.2:
            name = next(iter(members))
        content = members[name]
        how = "bits"
        if name.endswith(".json"):
            how, members[name] = "json", _other_json(chance, content)
        elif name.endswith(".npy") and chance.random() < 0.8:
            how, members[name] = _other_array(chance, content)
        elif name.endswith((".objects", ".text")):
            how, members[name] = "json", _other_json(chance, content)
        else:
            changed = bytearray(content)
            if changed:
                chance.choice(MUTATIONS)(chance, changed)
            members[name] = bytes(changed)
        what.append(f"{name} {how}")
    if chance.random() < 0.15:
        what.append(f"rows {_stretched(chance, members)}")
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in members.items():
            archive.writestr(name, content)
    data = out.getvalue()
    if chance.random() < 0.2:
        changed = bytearray(data)
        chance.choice(MUTATIONS)(chance, changed)
        data = bytes(changed)
    path = folder / "a.summary"
    path.write_bytes(data)
    return Case(_text_of(chance, folder, str(path)), ", ".join(what), len(data))


_SUMMARIES: list[tuple[tuple[str, bytes], ...]] = []


def keep_summaries(folder: Path) -> None:
    """Take the members of a summary of a sample, which summaries() damages."""
    from xtrace.analysis.loading.summaries import analyse
    from xtrace.analysis.summary.summary_file import write_summary

    path = folder / "kept.summary"
    if not path.exists():
        trace = folder / "kept.bin"
        trace.write_bytes(sample_bytes(SAMPLES[0])[:400_000])
        write_summary(analyse(trace), path)
    with zipfile.ZipFile(path) as archive:
        _SUMMARIES[:] = [tuple((name, archive.read(name)) for name in archive.namelist())]


def summary_members() -> tuple[tuple[str, bytes], ...]:
    """Return the members of the summary that is damaged."""
    return _SUMMARIES[0]


HEADERS = (
    b"{'descr': '<i8', 'fortran_order': False, 'shape': (9999999999999,), }",
    b"{'descr': '|O', 'fortran_order': False, 'shape': (1,), }",
    b"{'descr': '<i8', 'fortran_order': False, 'shape': (-1,), }",
    b"{'descr': [('a', '<i8')], 'fortran_order': False, 'shape': (1,), }",
    b"{'descr': '<i8', 'fortran_order': False, 'shape': ((1,),), }",
    b"{'descr': '<i8', 'fortran_order': False, 'shape': 1, }",
    b"{'descr': '<i8', 'fortran_order': 7}",
    b"(" * 2000, b"-" * 50_000, b"{" * 300, b"\x00\xff", b"1if", b"'",
    b"{'descr': 'M8[ns]', 'fortran_order': False, 'shape': (1,)}",
)  # fmt: skip
_NUMBERS = (
    0,
    1,
    -1,
    255,
    256,
    1 << 31,
    1 << 32,
    1 << 47,
    1 << 48,
    (1 << 62) - 1,
    1 << 62,
    (1 << 63) - 1,
    -(1 << 63),
)


def _other_json(chance: random.Random, content: bytes) -> bytes:
    try:
        value = json.loads(content)
    except (ValueError, RecursionError):
        return content  # it was damaged before
    return damaged_json(chance, value).encode("utf-8", "surrogatepass")


def _other_array(chance: random.Random, content: bytes) -> tuple[str, bytes]:
    import numpy as np

    kind = chance.random()
    if kind < 0.25:
        header = chance.choice(HEADERS)
        return "header", content[:8] + len(header).to_bytes(2, "little") + header + content[128:]
    try:
        array = np.load(io.BytesIO(content))
    except Exception:  # noqa: BLE001 - it was damaged before, and NumPy raises anything
        return "again", content
    if kind < 0.9 and len(array):
        for _ in range(chance.choice((1, 1, 3, len(array)))):
            number = chance.choice(_NUMBERS)
            at = chance.randrange(len(array))
            if array.dtype.kind in "iu":
                information = np.iinfo(array.dtype)
                array[at] = min(max(number, information.min), information.max)
            else:
                array[at] = chance.choice((np.nan, np.inf, -1, 1e300)) if array.dtype.kind == "f" else True
        how = "values"
    else:
        how, array = "type", array.astype(chance.choice(("<f8", "<i4", ">i8", "<u8", "<f2", "?")))
    out = io.BytesIO()
    np.save(out, array)
    return how, out.getvalue()


def _stretched(chance: random.Random, members: dict[str, bytes]) -> str:
    """Repeat the rows of a frame so often that little compressed data has very many rows."""
    import numpy as np

    head_name = next(iter(members))
    try:
        head = json.loads(members[head_name])
        frame = chance.choice(sorted(head["rows"]))
        rows = chance.choice((100_000, 2_000_000))
        for column, kind in head["frames"][frame].items():
            name = f"{frame}/{column}.{kind}"
            if kind == "npy":
                try:
                    array = np.load(io.BytesIO(members[name]))
                except Exception:  # noqa: BLE001 - it was damaged before
                    continue
                fresh = np.resize(array if len(array) else np.zeros(1, array.dtype), rows)
                if chance.random() < 0.3 and fresh.dtype.kind == "i":
                    fresh = np.arange(rows).astype(fresh.dtype)
                out = io.BytesIO()
                np.save(out, fresh)
                members[name] = out.getvalue()
            else:
                members[name] = json.dumps(["x"] * rows).encode()
        head["rows"][frame] = rows
        members[head_name] = json.dumps(head).encode()
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return "not"
    return f"{frame} {rows}"


def live(chance: random.Random, folder: Path) -> Case:
    """A stream that arrives in pieces on standard input, or a file that grows."""
    what, data = trace_bytes(chance, _SIZES[:5])
    pieces: list[bytes] = []
    at = 0
    while at < len(data) and len(pieces) < 30:
        size = chance.choice((1, 7, 100, 4096, len(data)))
        pieces.append(data[at : at + size])
        at += size
    pieces.append(data[at:])
    commands = (
        ("top", "-b", "-i"), ("top", "--json", "-i"), ("stat", "-i"), ("stat", "--json", "-i"),
        ("stat", "0.05", "-i"),
    )  # fmt: skip
    if chance.random() < 0.7:
        more = chance.choice((*commands, *commands, ("report", "--no-pager"), ("dump",)))
        return Case((*more, "-"), f"{what}, stdin", len(data), stdin=tuple(pieces))
    path = folder / "grows.bin"
    path.write_bytes(pieces[0])
    later = tuple((str(path), piece) for piece in pieces[1:])
    return Case((*chance.choice(commands), str(path), "-F"), f"{what}, grows", len(data), later=later)


KINDS: dict[str, Callable[[random.Random, Path], Case]] = {
    "traces": traces,
    "images": images,
    "json": json_files,
    "captures": captures,
    "summaries": summaries,
    "live": live,
}
