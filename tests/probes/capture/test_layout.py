"""Read captures: complete, cut short, damaged, of a later version."""

from __future__ import annotations

import json
import lzma
import shutil
from pathlib import Path
from typing import Any

import pytest

from oracle.reader import read
from xtrace.cli.main import main
from xtrace.probes import open_trace
from xtrace.probes.capture.layout import is_capture, open_capture, trace_in
from xtrace.probes.capture.sidecar import sidecar_of
from xtrace.probes.errors import TraceError

SAMPLE = Path(__file__).parents[3] / "samples" / "xen417-sched-credit.bin.xz"


def capture(tmp_path: Path, **meta: Any) -> Path:
    folder = tmp_path / "a.xtrace"
    folder.mkdir()
    (folder / "meta.json").write_text(json.dumps({"schema_version": 1, "state": "ended", **meta}))
    return folder


def test_lines_before_a_cut_are_read(tmp_path: Path) -> None:
    folder = capture(tmp_path)
    text = b'{"n": 1}\n{"n": 2}\n{"n": 3}\n'
    for cut in range(len(text) + 1):
        (folder / "x.jsonl").write_bytes(text[:cut])
        found = [line["n"] for line in open_capture(folder).lines("x.jsonl")]
        assert found == [1, 2, 3][: text[:cut].count(b"\n")]
    assert list(open_capture(folder).lines("none.jsonl")) == []


@pytest.mark.parametrize("bad", [b"{\n", b"[1]\n", b"\xff\n", b"[" * 100_000 + b"\n"])
def test_a_damaged_line_is_reported_by_number(bad: bytes, tmp_path: Path) -> None:
    folder = capture(tmp_path)
    (folder / "x.jsonl").write_bytes(b'{"n": 1}\n' + bad + b'{"n": 3}\n')
    with pytest.raises(TraceError, match="line 2 is damaged"):
        list(open_capture(folder).lines("x.jsonl"))


def test_a_line_that_is_longer_than_any_that_is_written_is_refused(tmp_path: Path) -> None:
    folder = capture(tmp_path)
    longest = b'{"n": "' + b"x" * ((1 << 20) - 10) + b'"}\n'
    for more in (b"", b" "):
        (folder / "x.jsonl").write_bytes(b'{"n": 1}\n' + longest.replace(b": ", b": " + more) + b'{"n": 3}\n')
        if more:
            with pytest.raises(TraceError, match="line 2 is longer than 1 MiB"):
                list(open_capture(folder).lines("x.jsonl"))
        else:
            assert len(list(open_capture(folder).lines("x.jsonl"))) == 3
    (folder / "x.jsonl").write_bytes(b'{"n": 1}\n' + b"x" * (2 << 20) + b'{"n": 3}\n')
    with pytest.raises(TraceError, match="line 2 is longer than 1 MiB"):
        list(open_capture(folder).lines("x.jsonl"))


def test_losses_of_a_killed_recording_are_the_last_reported(tmp_path: Path) -> None:
    folder = capture(tmp_path, state="recording", lost={"xentrace": 0})
    lines = [{"kind": "progress", "backends": {"xentrace": {"lost": lost}}} for lost in (0, 7, 30)]
    text = "".join(f"{json.dumps(line)}\n" for line in lines)
    (folder / "progress.jsonl").write_text(text[:-3])
    found = open_capture(folder)
    assert not found.has_ended
    assert found.lost == {"xentrace": 7}


def test_domain_names(tmp_path: Path) -> None:
    rows = [{"id": 0, "name": "Domain-0"}, {"id": 3, "name": None}, {"id": "4", "name": "x"}, 5]
    assert open_capture(capture(tmp_path, domains=rows)).domain_names == {0: "Domain-0"}


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("{", "is damaged"),
        ("[]", "not a JSON object"),
        ('{"schema_version": 99}', "schema_version 99"),
        ("{}", "schema_version None"),
    ],
)
def test_an_invalid_meta_is_an_error(text: str, said: str, tmp_path: Path) -> None:
    folder = capture(tmp_path)
    (folder / "meta.json").write_text(text)
    with pytest.raises(TraceError, match=said):
        open_capture(folder)


def test_a_folder_that_is_not_a_capture(tmp_path: Path) -> None:
    assert not is_capture(tmp_path)
    with pytest.raises(TraceError, match="not a capture"):
        open_capture(tmp_path)
    with pytest.raises(TraceError, match="is a folder, not a trace"):
        trace_in(tmp_path)
    folder = capture(tmp_path)
    assert is_capture(folder)
    with pytest.raises(TraceError, match="recorded without xentrace"):
        trace_in(folder)
    assert trace_in("-") == "-"
    assert trace_in(tmp_path / "no such") == str(tmp_path / "no such")


@pytest.mark.parametrize("ending", ["", ".xz"])
def test_the_trace_of_a_capture_has_its_meta_as_sidecar(ending: str, tmp_path: Path) -> None:
    folder = capture(tmp_path, tsc_hz=2.6e9, xen_version="4.17", timing="emulated")
    data = SAMPLE.read_bytes() if ending else lzma.decompress(SAMPLE.read_bytes())
    inside = folder / f"xentrace.bin{ending}"
    inside.write_bytes(data)
    for path in (folder, inside):
        beside = sidecar_of(path)
        assert beside is not None
        assert (beside.tsc_hz, beside.xen_version, beside.emulated) == (2.6e9, "4.17", True)
        with open_trace(path) as reader:
            assert sum(len(batch) for batch in reader) > 0


def test_commands_read_a_capture_like_its_trace(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    folder = capture(tmp_path, tsc_hz=2.6e9)
    bare = tmp_path / "bare.bin"
    bare.write_bytes(lzma.decompress(SAMPLE.read_bytes())[:300_000])
    (tmp_path / "bare.bin.json").write_text('{"tsc_hz": 2600000000.0}')
    shutil.copy(bare, folder / "xentrace.bin")
    for command in (["dump", "--json"], ["info", "--json"], ["report", "--json"]):
        said = []
        for path in (bare, folder):
            assert main([*command, str(path)]) == 0
            out = capfd.readouterr().out
            said.append(out.replace(str(path), "FILE").replace("bare.bin.json", "meta.json"))
        assert said[0] == said[1]
    assert len(read(bare.read_bytes()).records) > 1000


def test_a_report_escapes_domain_names(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    rows = [{"id": 0, "name": "Domain-0"}, {"id": 77, "name": "not in the trace"}]
    folder = capture(tmp_path, domains=[{"id": 1, "name": "red\x1b[31m"}, {"id": 2, "name": "two"}, *rows])
    shutil.copy(SAMPLE, folder / "xentrace.bin.xz")
    assert main(["report", str(folder)]) == 0
    out = capfd.readouterr().out
    assert "\x1b" not in out
    assert "domains  d0 Domain-0, d1 red\\x1b[31m, d2 two\n" in out
    assert main(["report", "--json", str(folder)]) == 0
    assert json.loads(capfd.readouterr().out)["trace"]["domains"]["77"] == "not in the trace"


def test_a_report_warns_about_an_incomplete_capture(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    folder = capture(tmp_path, state="recording")
    shutil.copy(SAMPLE, folder / "xentrace.bin.xz")
    assert main(["report", str(folder)]) == 0
    assert "its recorder was killed or is still recording" in capfd.readouterr().err
