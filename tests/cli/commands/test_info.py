"""`xtrace info`: facts from the window headers, each exact or marked as not exact."""

from __future__ import annotations

import gzip
import json
import struct
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from oracle import reader as oracle
from peer.samples import UNPACK, sample_files
from xtrace.cli.main import main
from xtrace.probes.catalog import VersionRange
from xtrace.probes.catalog.types import Version
from xtrace.probes.reader import survey

PROGRAM = "from xtrace.cli.start import main; main()"
WAKE = (0xA002_8004, 10, 0, 3, 0)
#: How much of a compressed file is read.
LOOKED_AT_BYTES = 4 << 20
SAMPLES = pytest.mark.parametrize("packed", sample_files(), ids=lambda path: path.name.split(".")[0])


def window(*words: int, pcpu: int = 0) -> bytes:
    return struct.pack(f"<{3 + len(words)}I", 0x2001F003, pcpu, 4 * len(words), *words)


def told(capfd: pytest.CaptureFixture[str], path: Path) -> Any:
    assert main(["info", "--json", str(path)]) == 0
    return json.loads(capfd.readouterr().out)


@SAMPLES
def test_samples_agree_with_the_oracle(
    packed: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    data = UNPACK[packed.suffix](packed.read_bytes())
    path = tmp_path / "plain"
    path.write_bytes(data)
    framing, trace = oracle.frame(data), oracle.read(data)
    check_sample(told(capfd, path), path, framing, trace)
    found = told(capfd, packed)
    if len(data) <= LOOKED_AT_BYTES:
        check_sample(found, packed, framing, trace)
    else:
        # A compressed file is not read to its end: only what was read is reported.
        check_file(found, packed)
        headers = found["headers"]
        assert (headers["exact"], headers["seen_bytes"]) == (False, LOOKED_AT_BYTES)
        assert (found["last_tsc"], found["records"]) == (None, None)


def check_file(found: Any, path: Path) -> None:
    compressed = path.suffix == ".xz"
    assert found["schema_version"] == 1
    assert found["size_bytes"] == path.stat().st_size
    assert found["emulated"] is compressed, "only the compressed file has a sidecar"
    assert found["compression"] == ("xz" if compressed else None)


def check_sample(found: Any, path: Path, framing: oracle.Framing, trace: oracle.Trace) -> None:
    check_file(found, path)
    headers = found["headers"]
    timed = [record.tsc for record in trace.records if record.timed]
    assert (headers["exact"], headers["fault"], headers["missing_bytes"]) == (True, None, 0)
    assert headers["windows"] == len(framing.windows)
    sizes: dict[str, int] = {}
    for one in framing.windows:
        sizes[str(one.pcpu)] = sizes.get(str(one.pcpu), 0) + one.size
    assert headers["pcpu_bytes"] == sizes
    assert (found["first_tsc"], found["last_tsc"], found["last_tsc_exact"]) == (min(timed), max(timed), True)
    assert found["records"] == pytest.approx(len(trace.records), rel=0.1)
    assert found["records_exact"] is False
    assert VersionRange.parse(found["xen"]["versions"]).overlaps(Version(4, 17), Version(4, 17))
    assert sum(event["records"] for event in found["sample"]["events"]) == found["sample"]["records"]


@SAMPLES
def test_text_fits_80_columns(packed: Path, capfd: pytest.CaptureFixture[str]) -> None:
    assert main(["info", str(packed)]) == 0
    lines = capfd.readouterr().out.splitlines()
    assert max(map(len, lines[1:])) <= 80
    size = len(UNPACK[packed.suffix](packed.read_bytes()))
    known = "exact" if size <= LOOKED_AT_BYTES else "from the first 4 MiB"
    assert any(line.startswith("  windows") and line.endswith(known) for line in lines)
    assert any(line.startswith("  timing     emulated") for line in lines)


def test_golden_text(
    tmp_path: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TERM", "xterm")
    path = tmp_path / "trace"
    path.write_bytes(window(*WAKE, *WAKE) + window(*WAKE, pcpu=3)[:-4])
    assert main(["info", str(path)]) == 0
    assert (
        capfd.readouterr().out
        == f"""{path}
  size       80 bytes, not compressed            exact
  windows    2                                   exact
  pCPUs      2 (0,3)                             exact
  end        cut short, 4 bytes are missing      exact
  first TSC  10                                  first records of each pCPU
  spans      0 cycles                            exact
  records    2                                   exact
  Xen        4.0+                                exact

Of 2 records (all):
  sched 100.0%
  no record of pv, hvm, hw, mem among them (report says what lacks without them)
  100.0%  wake  {chr(0x2588) * 40}
"""
    )


def test_the_rate_beside_a_trace_with_its_resolution(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "trace"
    path.write_bytes(window(*WAKE, *WAKE))
    for hz, rate in ((24_000_000, "24.000 MHz; resolution 41.7 ns"), (2_600_000_000, "2600.000 MHz")):
        Path(f"{path}.json").write_text(json.dumps({"tsc_hz": hz}))
        assert main(["info", str(path)]) == 0
        assert f"  TSC        {rate:<35} from the file's .json" in capfd.readouterr().out.splitlines()


def wakes(*tscs: int) -> list[int]:
    return [word for tsc in tscs for word in (WAKE[0], tsc, *WAKE[2:])]


def test_restarts_of_the_tsc(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    late = b"".join(window(*wakes(tsc, tsc + 5), pcpu=pcpu) for tsc in (5000, 5100, 5200) for pcpu in (0, 1))
    early = b"".join(window(*wakes(tsc, tsc + 5), pcpu=pcpu) for tsc in (7, 30, 60) for pcpu in (0, 1))
    path = tmp_path / "trace"
    path.write_bytes(late + early + late + early)
    found = told(capfd, path)
    offsets = [len(late), 2 * len(late) + len(early)]
    assert found["tsc_restarts"] == [{"offset": offset, "back_cycles": 5193} for offset in offsets]
    assert main(["info", str(path)]) == 0
    out = capfd.readouterr().out
    assert f"\n  restart    back about 5,193 cycles, offset {offsets[0]}" in out
    assert "spans" not in out
    assert max(map(len, out.splitlines()[1:])) <= 80


@pytest.mark.parametrize("pcpus", [1, 2])
@pytest.mark.parametrize("place", range(8))
@pytest.mark.parametrize("wrong", [3, 99_999])
def test_one_damaged_tsc_is_no_restart(
    pcpus: int, place: int, wrong: int, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    tscs = [1000 + 10 * number for number in range(8)]
    tscs[place] = wrong
    path = tmp_path / "trace"
    path.write_bytes(b"".join(window(*wakes(tsc), pcpu=i % pcpus) for i, tsc in enumerate(tscs)))
    assert told(capfd, path)["tsc_restarts"] == []


def test_tscs_that_go_back(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "trace"
    path.write_bytes(window(*wakes(10, 20, 15, 18, 30)))
    assert told(capfd, path)["sample"]["backward_tsc_count"] == 2
    assert main(["info", str(path)]) == 0
    assert "order: 2 records have a TSC below an earlier one on their pCPU" in capfd.readouterr().out


def test_damage_is_shown_first(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "bad"
    path.write_bytes(window(*WAKE) + b"\1" * 16 + window(*WAKE))
    found = told(capfd, path)
    assert (found["damage_count"], found["skipped_bytes"], found["headers"]["windows"]) == (1, 48, 1)
    assert [damage["offset"] for damage in found["damages"]] == [0]
    assert main(["info", str(path)]) == 0
    lines = capfd.readouterr().out.splitlines()
    assert lines[2].split() == ["damage", "1", "place,", "48", "bytes", "skipped"]
    assert "first at offset 0: no window follows" in lines[3]
    assert main(["info", "--strict", str(path)]) == 1


def test_only_the_start_of_a_long_stream_is_read(
    tmp_path: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(survey, "_STREAM_BYTES", 4096)
    path = tmp_path / "trace.gz"
    path.write_bytes(gzip.compress(window(*WAKE) * 1000))
    found = told(capfd, path)
    assert (found["compression"], found["headers"]["exact"], found["records"]) == ("gzip", False, None)
    assert found["headers"]["windows"] == 128
    assert main(["info", str(path)]) == 0
    assert "  end        not read\n" in capfd.readouterr().out


def test_long_files_are_not_read_to_their_end(
    tmp_path: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(survey, "_HOP_SECONDS", -1.0)
    path = tmp_path / "long"
    path.write_bytes(window(*WAKE) * 20_000)
    found = told(capfd, path)
    assert (found["headers"]["exact"], found["headers"]["windows"]) == (False, 1024)
    assert (found["records"], found["last_tsc_exact"]) == (pytest.approx(20_000, rel=0.7), False)


@pytest.mark.parametrize(
    "content", [None, b"not a trace, but long enough", b"\x1f\x8bbroken", b"vm\n", b"\n"]
)
def test_a_file_that_is_not_a_trace_fails_with_one_line(
    tmp_path: Path, capfd: pytest.CaptureFixture[str], content: bytes | None
) -> None:
    path = tmp_path / "x"
    if content is not None:
        path.write_bytes(content)
    assert main(["info", str(path)]) == 1
    out, err = capfd.readouterr()
    assert (out, err.count("\n")) == ("", 1)


@pytest.mark.parametrize("cut_bytes", [1, 3, 4, 11])
def test_a_trace_cut_in_its_first_header_is_a_trace(
    tmp_path: Path, capfd: pytest.CaptureFixture[str], cut_bytes: int
) -> None:
    path = tmp_path / "x"
    path.write_bytes(struct.pack("<III", oracle.WINDOW_HEADER, 0, 0)[:cut_bytes])
    assert main(["info", str(path)]) == 0
    assert "cut short" in capfd.readouterr().out


def test_a_folder_fails_with_one_line(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    assert main(["info", str(tmp_path)]) == 1
    assert capfd.readouterr().err.count("\n") == 1


def test_standard_input(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-P", "-c", PROGRAM, "info", "-", "--json"],
        input=window(*WAKE),
        capture_output=True,
        check=True,
    )
    found = json.loads(done.stdout)
    assert (found["file"], found["size_bytes"], found["records"]) == ("standard input", None, 1)


def test_numba_is_not_loaded() -> None:
    program = (
        "import sys; from xtrace.cli.main import main; main(sys.argv[1:]); assert 'numba' not in sys.modules"
    )
    subprocess.run(
        [sys.executable, "-P", "-c", program, "info", sample_files()[0]], check=True, capture_output=True
    )
