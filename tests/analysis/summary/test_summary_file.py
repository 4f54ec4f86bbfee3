"""Stored summaries survive write and read, and untrusted ones do no harm."""

from __future__ import annotations

import io
import json
import os
import random
import zipfile
from collections.abc import Callable
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from builders.hosts import HOSTS
from builders.partials import partial
from xtrace.analysis.comparison.figures import measure
from xtrace.analysis.report.build import build, json_text
from xtrace.analysis.summary import summary_head
from xtrace.analysis.summary.partial import Partial
from xtrace.analysis.summary.partial import merge as merge_partials
from xtrace.analysis.summary.summary_file import Summary, merge, read_summary, write_summary
from xtrace.analysis.summary.summary_head import HEAD, Origin, beside, files_of, is_summary, kept
from xtrace.probes.errors import TraceError

DAMAGED = b"\0" * 8
ORIGIN = Origin(
    "a trace",
    2.5e9,
    "from x.json",
    True,
    "1 s to 2 s",
    {3: "web\x1b"},
    (("x", "0" * 64),),
    {3: (-0.1, 0.01, 0.25, 1.0)},
)


@pytest.fixture(scope="module")
def parts() -> dict[str, Partial]:
    """Return hosts that are calm, lossy, damaged, and one without records."""
    traces = {
        "calm": HOSTS["calm"](1),
        "lossy": HOSTS["lossy"](2),
        "damaged": DAMAGED + HOSTS["calm"](4),
        "nothing": b"",
    }
    return {name: partial(data) for name, data in traces.items()}


def assert_same(one: Partial, other: Partial) -> None:
    for part in fields(Partial):
        left, right = getattr(one, part.name), getattr(other, part.name)
        assert left.names == right.names, part.name
        assert left.rows() == right.rows(), part.name
        for name in left.names:
            assert left[name].dtype == right[name].dtype, (part.name, name)


def through_a_file(one: Partial, folder: Path, origin: Origin = ORIGIN) -> Summary:
    path = folder / "a.summary"
    write_summary(Summary(one, origin), path)
    assert is_summary(path)
    return read_summary(path)


# --- round trip --------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["calm", "lossy", "damaged", "nothing"])
def test_a_partial_survives_write_and_read(name: str, parts: dict[str, Partial], tmp_path: Path) -> None:
    found = through_a_file(parts[name], tmp_path)
    assert_same(found.partial, parts[name])
    assert found.origin == ORIGIN


def test_merged_and_labelled_partials_survive_too(parts: dict[str, Partial], tmp_path: Path) -> None:
    merged = merge_partials(parts.values())
    assert_same(through_a_file(merged, tmp_path).partial, merged)
    labelled = merge_partials([parts["calm"].labelled("athens"), parts["damaged"].labelled("\0berne\n")])
    assert_same(through_a_file(labelled, tmp_path).partial, labelled)


def test_additional_columns_survive(parts: dict[str, Partial], tmp_path: Path) -> None:
    """They must be numbers or text; anything else cannot be written."""
    calm = parts["calm"]
    mixed = np.array([1, *["x"] * (len(calm.vcpus) - 1)], object)
    extended = calm.vcpus.having(ratio=0.5, is_new=True, name="n", mixed=mixed)
    more = replace(calm, vcpus=extended)
    assert_same(through_a_file(more, tmp_path).partial, more)
    with pytest.raises(TypeError, match=r"vcpus\.bad"):
        write_summary(
            Summary(replace(calm, vcpus=calm.vcpus.having(bad=None)), ORIGIN), tmp_path / "b.summary"
        )
    assert not (tmp_path / "b.summary").exists()


def test_merging_summaries_merges_partials(parts: dict[str, Partial], tmp_path: Path) -> None:
    found = []
    for name, part in parts.items():
        path = tmp_path / f"{name}.summary"
        write_summary(Summary(part, Origin(name)), path)
        found.append(read_summary(path))
    together = merge(found)
    assert_same(together.partial, merge_partials(parts.values()))
    assert json_text(build(together.partial)) == json_text(build(merge_partials(parts.values())))
    assert together.origin == Origin("calm and 3 more")


def test_the_same_summary_makes_the_same_bytes(parts: dict[str, Partial], tmp_path: Path) -> None:
    one, other = tmp_path / "one", tmp_path / "other"
    for path in (one, other):
        write_summary(Summary(parts["calm"], ORIGIN), path)
    assert one.read_bytes() == other.read_bytes()


def test_the_head_describes_the_summary(parts: dict[str, Partial], tmp_path: Path) -> None:
    path = tmp_path / "a.summary"
    write_summary(Summary(parts["calm"], ORIGIN), path)
    with zipfile.ZipFile(path) as archive:
        head = json.loads(archive.read(HEAD))
        counts = np.load(io.BytesIO(archive.read("tallies/count.npy")), allow_pickle=False)
    assert head["schema_version"] == summary_head.SCHEMA_VERSION
    assert head["metrics"]["WAKE_TO_RUNNING"] == 16
    assert set(head["frames"]) == {part.name for part in fields(Partial)}
    assert counts.tolist() == parts["calm"].tallies["count"].tolist()


# --- files -------------------------------------------------------------------------------------


def test_only_a_summary_is_overwritten(parts: dict[str, Partial], tmp_path: Path) -> None:
    path = tmp_path / "precious"
    path.write_text("notes")
    with pytest.raises(TraceError, match="not an xtrace summary"):
        write_summary(Summary(parts["calm"], ORIGIN), path)
    assert path.read_text() == "notes"
    path.unlink()
    write_summary(Summary(parts["calm"], ORIGIN), path)
    write_summary(Summary(parts["lossy"], ORIGIN), path)
    assert_same(read_summary(path).partial, parts["lossy"])
    assert [each.name for each in tmp_path.iterdir()] == ["precious"]


def test_a_link_is_replaced_and_not_followed(parts: dict[str, Partial], tmp_path: Path) -> None:
    target, link = tmp_path / "target", tmp_path / "link"
    write_summary(Summary(parts["calm"], ORIGIN), target)
    link.symlink_to(target)
    write_summary(Summary(parts["lossy"], ORIGIN), link)
    assert not link.is_symlink()
    assert_same(read_summary(target).partial, parts["calm"])


def test_a_kept_summary_is_used_for_the_unchanged_trace_only(
    parts: dict[str, Partial], tmp_path: Path
) -> None:
    trace = tmp_path / "t.bin"
    trace.write_bytes(b"1234")
    assert kept(trace) is None
    write_summary(Summary(parts["calm"], Origin("t.bin", files=files_of(trace))), beside(trace))
    assert kept(trace) == beside(trace) == tmp_path / "t.bin.summary"
    os.utime(trace, ns=(1, 1))
    assert kept(trace) == beside(trace), "the bytes are the same"
    before = trace.stat()
    trace.write_bytes(b"1235")
    os.utime(trace, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert kept(trace) is None
    write_summary(Summary(parts["calm"], Origin("t.bin", files=files_of(trace))), beside(trace))
    Path(f"{trace}.json").write_text("{}")
    assert kept(trace) is None, "a sidecar may have another TSC rate"
    write_summary(Summary(parts["calm"], Origin("t.bin", window="1 s", files=files_of(trace))), beside(trace))
    assert kept(trace) is None, "it is of a part"


def test_a_kept_summary_of_another_version_is_not_used(
    parts: dict[str, Partial], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    trace = tmp_path / "t.bin"
    trace.write_bytes(b"1234")
    write_summary(Summary(parts["calm"], Origin("t.bin", files=files_of(trace))), beside(trace))
    monkeypatch.setattr(summary_head, "__version__", "0.0.1")
    assert kept(trace) is None
    monkeypatch.undo()
    beside(trace).write_bytes(beside(trace).read_bytes()[:-50])
    assert kept(trace) is None, "it is damaged"


def test_a_trace_of_holes_is_not_hashed(tmp_path: Path) -> None:
    with open(tmp_path / "t.bin", "wb") as file:
        os.truncate(file.fileno(), 1 << 40)
    with pytest.raises(TraceError, match="in holes of the file"):
        files_of(tmp_path / "t.bin")


def test_the_summary_of_a_folder_is_inside_it(parts: dict[str, Partial], tmp_path: Path) -> None:
    capture = tmp_path / "a.xtrace"
    (capture / "bpf").mkdir(parents=True)
    (capture / "xentrace.bin").write_bytes(b"1234")
    (capture / "bpf" / "x").write_bytes(b"5")
    write_summary(Summary(parts["calm"], Origin("a", files=files_of(capture))), beside(capture))
    assert kept(capture) == capture / "summary"
    (capture / "bpf" / "x").write_bytes(b"56")
    assert kept(capture) is None


# --- untrusted files ---------------------------------------------------------------------------


Members = dict[str, bytes]


@pytest.fixture(scope="module")
def members(parts: dict[str, Partial], tmp_path_factory: pytest.TempPathFactory) -> Members:
    path = tmp_path_factory.mktemp("sound") / "a.summary"
    write_summary(Summary(parts["damaged"], ORIGIN), path)
    with zipfile.ZipFile(path) as archive:
        return {name: archive.read(name) for name in archive.namelist()}


def packed(members: Members, path: Path) -> Path:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in members.items():
            archive.writestr(name, content)
    return path


def array(values: Any) -> bytes:
    out = io.BytesIO()
    np.lib.format.write_array(out, np.asarray(values), allow_pickle=True)
    return out.getvalue()


def npy(header: bytes) -> bytes:
    """Return an array file with any header, and no values."""
    return b"\x93NUMPY\x01\x00" + (len(header) + 1).to_bytes(2, "little") + header + b"\n"


def with_head(members: Members, change: Callable[[dict[str, Any]], object]) -> Members:
    head = json.loads(members[HEAD])
    change(head)
    return {**members, HEAD: json.dumps(head).encode()}


def with_column(members: Members, name: str, change: Callable[[Any], Any]) -> Members:
    values = np.load(io.BytesIO(members[f"{name}.npy"]))
    return {**members, f"{name}.npy": array(change(values.copy()))}


def first(value: int) -> Callable[[Any], Any]:
    def change(values: Any) -> Any:
        values[0] = value
        return values

    return change


def every(value: int) -> Callable[[Any], Any]:
    return lambda values: np.where(values >= 0, value, values)


BAD: dict[str, Callable[[Members], Members]] = {
    "no head": lambda m: {**m, HEAD: b""},
    "no object": lambda m: {**m, HEAD: b"[1]"},
    "deep": lambda m: {**m, HEAD: b"[" * 100_000},
    "large head": lambda m: {**m, HEAD: b" " * (5 << 20)},
    "no member": lambda m: {name: content for name, content in m.items() if name != "tallies/b.npy"},
    "pickle": lambda m: {**m, "tallies/b.npy": array(np.array([{}] * 3, object))},
    "a header that Python cannot read": lambda m: {**m, "tallies/b.npy": npy(b"(")},
    "a header with a call": lambda m: {**m, "tallies/b.npy": npy(b"{'descr': print(1), 'shape': (1,)}")},
    "a shape of a shape": lambda m: {
        **m,
        "tallies/b.npy": npy(b"{'descr': '<i8', 'fortran_order': False, 'shape': ((1,),), }"),
    },
    "much text": lambda m: {**m, "damages/reason.objects": b" " * (17 << 20) + b"[]"},
    "not an array": lambda m: {**m, "tallies/b.npy": b"nothing"},
    "many rows": lambda m: with_head(m, lambda h: h["rows"].update(tallies=1 << 40)),
    "negative rows": lambda m: with_head(m, lambda h: h["rows"].update(tallies=-1)),
    "rows in words": lambda m: with_head(m, lambda h: h["rows"].update(tallies="ten")),
    "no rows": lambda m: with_head(m, lambda h: h.pop("rows")),
    "a list for frames": lambda m: with_head(m, lambda h: h.update(frames=[])),
    "unknown kind": lambda m: with_head(m, lambda h: h["frames"]["tallies"].update(b="pickle")),
    "short": lambda m: {**m, "tallies/b.npy": m["tallies/b.npy"][:-8]},
    "two dimensions": lambda m: with_column(m, "tallies/b", lambda v: v.reshape(-1, 1)),
    "floats": lambda m: with_column(m, "tallies/b", lambda v: v.astype(float)),
    "bytes": lambda m: with_column(m, "tallies/count", lambda v: v.astype(np.int8)),
    "big-endian": lambda m: with_column(m, "tallies/count", lambda v: v.astype(">i8")),
    "dates": lambda m: with_column(m, "tallies/count", lambda v: v.astype("M8[s]")),
    "no such bucket": lambda m: with_column(m, "buckets/bucket", first(1 << 40)),
    "negative bucket": lambda m: with_column(m, "buckets/bucket", first(-1)),
    "negative count": lambda m: with_column(m, "buckets/count", first(-1)),
    "a slot after all times": lambda m: with_column(m, "slots/slot", first(1 << 62)),
    "more slots than there can be": lambda m: with_head(
        with_column(
            {
                **m,
                **{
                    f"slots/{n}.npy": array(np.repeat(np.load(io.BytesIO(m[f"slots/{n}.npy"]))[:1], 600))
                    for n in json.loads(m[HEAD])["frames"]["slots"]
                },
            },
            "slots/slot",
            lambda v: np.arange(len(v)) + v,
        ),
        lambda h: h["rows"].update(slots=600),
    ),
    "slots of several lengths": lambda m: with_column(m, "slots/shift", first(3)),
    "huge count": lambda m: with_column(m, "tallies/count", first(1 << 62)),
    "negative loss": lambda m: with_column(m, "dom0_facts/dropped", first(-1)),
    "no such metric": lambda m: with_column(m, "tallies/metric", first(-5)),
    "no such pCPU": lambda m: with_column(m, "pcpus/pcpu", first(1 << 40)),
    "a pCPU twice": lambda m: with_column(m, "pcpus/pcpu", lambda v: 0 * v),
    "a vCPU twice": lambda m: with_column(m, "vcpus/vcpu", lambda v: 0 * v),
    "text for numbers": lambda m: {
        **with_head(m, lambda h: h["frames"]["vcpus"].update(vcpu="objects")),
        "vcpus/vcpu.objects": b'["a"]',
    },
    "numbers for text": lambda m: {**m, "damages/reason.objects": b"[1]"},
    "escapes": lambda m: {**m, "damages/reason.objects": b'["\\u001b[2J"]'},
    "no text": lambda m: {**m, "damages/reason.objects": b"[null]"},
    "origin": lambda m: with_head(m, lambda h: h.update(origin=5)),
    "rate": lambda m: with_head(m, lambda h: h["origin"].update(tsc_hz=-1)),
    "rate in words": lambda m: with_head(m, lambda h: h["origin"].update(tsc_hz="fast")),
    "domains": lambda m: with_head(m, lambda h: h["origin"].update(domains={"x": "y"})),
    "files": lambda m: with_head(m, lambda h: h["origin"].update(files=[1])),
    "many members": lambda m: {**m, **{f"x/{number}": b"" for number in range(1001)}},
}


def test_what_older_versions_wrote_is_read(members: Members, tmp_path: Path) -> None:
    """They stored text of their own type, and columns without rows as objects."""
    sound = packed(members, tmp_path / "sound.summary")
    older = with_head(members, lambda head: head["frames"]["damages"].update(reason="text"))
    older["damages/reason.text"] = older.pop("damages/reason.objects")
    assert_same(read_summary(packed(older, tmp_path / "old.summary")).partial, read_summary(sound).partial)

    kinds = {"offset": "objects", "reason": "objects", "skipped_bytes": "objects"}
    empty = with_head(members, lambda head: head["frames"].update(damages=kinds))
    empty = with_head(empty, lambda head: head["rows"].update(damages=0))
    empty |= {f"damages/{name}.objects": b"[]" for name in kinds}
    found = read_summary(packed(empty, tmp_path / "empty.summary")).partial.damages
    assert [found[name].dtype for name in kinds] == [np.int64, object, np.int64]


@pytest.mark.parametrize("kind", BAD)
def test_a_bad_summary_is_a_one_line_error(kind: str, members: Members, tmp_path: Path) -> None:
    path = packed(BAD[kind](members), tmp_path / "bad.summary")
    with pytest.raises(TraceError) as raised:
        read_summary(path)
    said = str(raised.value)
    assert said.startswith(f"{path}: damaged summary: ")
    assert said.endswith("; make it again from the trace")
    assert "\n" not in said
    assert len(said) < 400 + len(str(path))


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda head: head.update(schema_version=99), "another schema"),
        (lambda head: head["metrics"].update(RUNNING=3), "other metrics"),
        (lambda head: head["frames"].pop("pairs"), "its frames differ"),
        (lambda head: head["frames"]["pairs"].pop("ns"), "columns of pairs are missing"),
    ],
)
def test_a_summary_of_another_version_is_an_error(
    change: Callable[[dict[str, Any]], object], said: str, members: Members, tmp_path: Path
) -> None:
    path = packed(with_head(members, change), tmp_path / "other.summary")
    with pytest.raises(TraceError, match=rf"another version of xtrace \({said}\)"):
        read_summary(path)


def test_a_zip_bomb_is_refused_by_its_size(
    members: Members, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = packed({**members, "x/y": bytes(1 << 20)}, tmp_path / "bomb.summary")
    assert path.stat().st_size < 1 << 19
    monkeypatch.setattr(summary_head, "_MAX_BYTES", 1 << 19)
    with pytest.raises(TraceError, match="more than"):
        read_summary(path)


@pytest.mark.parametrize("compression", [zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA])
def test_a_member_compressed_in_another_way_is_refused(
    compression: int, members: Members, tmp_path: Path
) -> None:
    """The archive is one that Python could read: what it raises on damage depends on the compression."""
    path = packed(members, tmp_path / "other.summary")
    with zipfile.ZipFile(path, "a") as archive:
        archive.writestr("x/y", b"content", compression)
    with pytest.raises(TraceError, match="damaged summary: a member is compressed in another way"):
        read_summary(path)


def test_changed_bytes_are_noticed_or_harmless(members: Members, tmp_path: Path) -> None:
    path = packed(members, tmp_path / "flipped.summary")
    sound = path.read_bytes()
    chance = random.Random(5)
    refused = 0
    for _ in range(150):
        damaged = bytearray(sound)
        for _ in range(chance.choice((1, 1, 4))):
            damaged[chance.randrange(len(damaged))] ^= 1 << chance.randrange(8)
        if chance.random() < 0.2:
            del damaged[chance.randrange(len(damaged)) :]
        path.write_bytes(damaged)
        try:
            read_summary(path)
        except TraceError:
            refused += 1
    assert refused > 130


def test_nonsense_numbers_cause_no_traceback(members: Members, tmp_path: Path) -> None:
    """A summary that passes the checks goes through every table and every figure of a diff."""
    chance = random.Random(6)
    names = [name.removesuffix(".npy") for name in members if name.endswith(".npy")]
    passed = 0
    for _ in range(40):
        changed = members
        for name in chance.sample(names, 3):
            value = chance.choice((0, 1, -1, 77, 1 << 16, 1 << 31, 1 << 47, -(1 << 40), (1 << 62)))
            changed = with_column(changed, name, every(value))
        path = packed(changed, tmp_path / "senseless.summary")
        try:
            found = read_summary(path)
        except TraceError:
            continue
        passed += 1
        json_text(build(found.partial))
        measure(found)
    assert passed > 10
