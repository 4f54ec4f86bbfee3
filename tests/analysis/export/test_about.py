"""Records of some domains and vCPUs, against a plain loop over the reference reader's records."""

from __future__ import annotations

import functools
import io
import json
import subprocess
import time
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from builders.bpf.system import require_tool
from oracle.reader import Record
from oracle.reader import read as read_slowly
from oracle.reading import SAMPLES, sample_bytes
from xtrace import samples
from xtrace.analysis.export import ctf, tables, write_table
from xtrace.analysis.export.source import Exported, ExportRequest
from xtrace.analysis.state_machine import one_pass
from xtrace.probes.catalog import VersionRange, find
from xtrace.probes.reader.reader import open_trace
from xtrace.probes.selection.times import Moment
from xtrace.probes.selection.vcpus import Vcpu

HVM = next(path for path in SAMPLES if "pvh-all" in path.name)
LOST = next(path for path in SAMPLES if "lost" in path.name)
XEN = VersionRange.parse("4.17")


def exported(path: Path, **request: Any) -> list[dict[str, Any]]:
    out = io.BytesIO()
    of = Exported(ExportRequest(path=path, versions=XEN, **request))
    write_table.write(of, tables.table(of, "records"), out, "json")
    found: list[dict[str, Any]] = json.loads(out.getvalue())["rows"]
    return found


def named(record: Record) -> Iterator[tuple[int, int | None]]:
    """Yield the domains that a record names, each with its vCPU if it names one."""
    match = find(record.event, len(record.words), record.timed, XEN)
    if match is None or match.layout is None:
        return
    fields = {field.name: field.value(record.words) for field in match.layout.present(len(record.words))}
    for name, value in fields.items():
        if name.endswith("dom"):
            prefix = name.removesuffix("dom")
            yield value & 0xFFFF, fields.get(f"{prefix}vcpu", fields.get(f"{prefix}unit"))


@functools.cache
def known(path: Path) -> list[tuple[Record, set[tuple[int, int | None]]]]:
    """Return each record with the vCPUs that ran before and after it, and what it names."""
    running: dict[int, tuple[int, int] | None] = {}
    found = []
    for record in read_slowly(sample_bytes(path)).records:
        before = running.get(record.pcpu)
        old, new = record.event >> 8 & 3, record.event >> 4 & 3
        if record.event & ~0x330 == 0x21001 and 0 in (old, new):
            vcpu = record.words[0] >> 16, record.words[0] & 0xFFFF
            running[record.pcpu] = vcpu if new == 0 else None
        after = running.get(record.pcpu)
        current = before if after is None else after
        found.append((record, {*named(record), *([] if current is None else [current])}))
    return found


def test_records_of_a_domain() -> None:
    """Of an HVM guest: those of the pCPUs that run it, and those that name it, such as wakes by dom0."""
    found = exported(HVM, domains=[1])
    expected = [record for record, about in known(HVM) if any(domain == 1 for domain, _ in about)]
    assert [(row["tsc"], row["event"], row["pcpu"]) for row in found] == [
        (record.tsc, record.event, record.pcpu) for record in expected
    ]
    assert 1000 < len(found) < len(known(HVM)) / 2
    elsewhere = [row for row in found if row["running_domain"] != 1]
    assert {row["name"] for row in elsewhere} >= {"wake", "runstate_change"}
    assert {row["name"] for row in found if row["running_domain"] == 1} >= {"vmexit", "vmentry", "hlt"}


def test_records_of_a_vcpu_in_a_window() -> None:
    window = {"begin": Moment.parse("500ms"), "end": Moment.parse("1s")}
    found = exported(HVM, vcpus=[Vcpu.parse("d0v1")], **window)
    times = {row["tsc"] for row in exported(HVM, **window)}
    low, high = min(times), max(times)
    expected = [record for record, about in known(HVM) if (0, 1) in about and low <= record.tsc <= high]
    assert [(row["tsc"], row["event"]) for row in found] == [
        (record.tsc, record.event) for record in expected
    ]
    assert len(found) > 100


def test_a_loss_is_about_every_domain(tmp_path: Path) -> None:
    found = exported(LOST, domains=[1])
    assert sum(row["name"] == "lost_records" for row in found) == 126
    assert len(found) < 191_881 / 2
    count = ctf.write(Exported(ExportRequest(path=LOST, domains=[1], versions=XEN)), tmp_path / "ctf")
    tool = require_tool("babeltrace2", "babeltrace2")
    done = subprocess.run(
        [tool, "--names=none", str(tmp_path / "ctf")], capture_output=True, text=True, check=True, timeout=120
    )
    assert len(done.stdout.splitlines()) == count == len(found)


def test_records_stay_as_they_are_while_the_trace_is_read_on(monkeypatch: pytest.MonkeyPatch) -> None:
    """The reader uses its memory again; who is slow must not see what comes later."""
    monkeypatch.setattr(one_pass, "open_trace", functools.partial(open_trace, chunk_bytes=1 << 16))

    def sums(wait_s: float) -> tuple[int, int]:
        times = words = 0
        for piece in one_pass.stream(samples.path()):
            time.sleep(wait_s)
            if piece.records is not None and len(piece.records):
                times = zlib.crc32(piece.records.tsc.tobytes(), times)
                # Where a record without words would have them is whatever comes next in memory.
                has_words = piece.records.shapes.words[piece.records.shape] > 0
                first_words = piece.records.words[piece.records.start[has_words]]
                words = zlib.crc32(first_words.tobytes(), words)
        return times, words

    assert sums(0.03) == sums(0)
