"""What is covered, in the first lines of every command, in exit codes, and in what is not compared."""

from __future__ import annotations

import json
import lzma
from collections.abc import Callable
from pathlib import Path

import pytest

from builders.reported import printed
from oracle.reader import frame
from oracle.reading import SAMPLES
from xtrace.cli.main import main
from xtrace.probes.reader.writer import pack_record, pack_window
from xtrace.probes.selection.event_masks import event_mask, passes

WHOLE = next(path for path in SAMPLES if "pv-all" in path.name)
#: Of windows, two in each round: without the second one of the last round its pCPU would end too early.
ROUNDS = 40
KEPT_AWAY = 0x1F000  # Xen's own records about the trace pass every mask


def cut(path: Path, *, classes: str = "all", pcpus: tuple[int, ...] = (0, 1)) -> Path:
    """Write the records of some classes and pCPUs of a sample's first rounds, as xentrace -e and -c would."""
    mask = event_mask(classes)
    data = bytearray()
    for window in frame(lzma.decompress(WHOLE.read_bytes())).windows[:ROUNDS]:
        if window.pcpu not in pcpus:
            continue
        records = [
            raw for raw in window.records if passes(mask, raw.event) or raw.event & 0xFFFFF000 == KEPT_AWAY
        ]
        data += pack_window(
            window.pcpu, b"".join(pack_record(raw.event, raw.tsc, raw.words) for raw in records)
        )
    path.write_bytes(data)
    return path


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = tmp_path_factory.mktemp("cut")
    cut(made / "all")
    cut(made / "sched", classes="sched")
    cut(made / "pv", classes="pv")
    cut(made / "p0", pcpus=(0,))
    return made


def head(command: str, path: Path) -> str:
    """Return a report's head as one line."""
    lines = printed(command, *(["--full"] if command == "report" else []), str(path)).splitlines()
    return " ".join(" ".join(lines[: lines.index("") if "" in lines else None]).split())


def test_the_report_says_what_is_missing_and_what_records_it(folder: Path) -> None:
    assert "missing" not in head("report", folder / "all")
    said = head("report", folder / "sched")
    assert "no record of guests' hypercalls in" in said
    assert "-e 0x201000 or 0x82000 (xtrace record --class pv_entry, hvm_handler)" in said
    said = head("report", folder / "pv")
    assert "no record of changes of runstates in" in said
    assert "-e 0x21000 (xtrace record --class sched_min)" in said
    said = head("report", folder / "p0")
    assert "covered pCPU 0, " in said
    assert "missing pCPU 1: named by records, but without a window" in said
    assert "shares are lower bounds, times are inferred" in said


@pytest.mark.parametrize(
    ("name", "required", "lacks"),
    [
        ("all", "sched,pv", None),
        ("sched", "sched", None),
        ("sched", "0x21000", None),
        ("sched", "sched,pv", "pv_entry"),
        ("pv", "sched", "sched_min, sched_verbose"),
        ("pv", "mem", "mem"),
        ("all", "shadow", "0x40f000"),
    ],
)
def test_required_classes(
    folder: Path, name: str, required: str, lacks: str | None, capfd: pytest.CaptureFixture[str]
) -> None:
    code = main(["report", "--require", required, str(folder / name)])
    out, err = capfd.readouterr()
    if lacks is None:
        assert (code, err) == (0, "")
        assert out.startswith(str(folder / name))
    else:
        assert (code, out) == (3, "")
        assert err == f"xtrace: {folder / name}: not recorded: {lacks} (--require {required})\n"


def test_a_class_that_does_not_exist_cannot_be_required(
    folder: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    assert main(["report", "--require", "nonsense", str(folder / "all")]) == 2
    assert "'nonsense' is none of gen, sched" in capfd.readouterr().err


@pytest.mark.parametrize("turned", [False, True])
def test_diff_compares_what_both_sides_recorded(folder: Path, turned: bool) -> None:
    sides = [folder / "all", folder / "sched"]
    if turned:
        sides.reverse()
    found = json.loads(printed("diff", "--no-keep", "--all", "--json", *map(str, sides)))
    compared = {row["metric"] for row in found["rows"]}
    assert {"wakes_per_s", "running_share", "wake_to_running_p50"} <= compared
    assert not {"sends_per_s", "hypercalls_per_s", "upcall_most_p50", "send_to_wake_p50"} & compared
    side = "OLD" if turned else "NEW"
    lines = [line for line in found["warnings"] if line.startswith("not recorded in")]
    assert lines
    assert all(line.startswith(f"not recorded in {side}: ") for line in lines)
    text = printed("diff", "--no-keep", *map(str, sides))
    assert text.count("covered: pCPUs 0-1, ") == 2


def test_diff_with_a_side_that_lacks_a_pcpu(folder: Path) -> None:
    sides = (str(folder / "all"), str(folder / "p0"))
    found = json.loads(printed("diff", "--no-keep", "--all", "--json", *sides))
    rows = {row["metric"]: row for row in found["rows"]}
    assert "running_share" not in rows
    assert rows["wake_to_running_p50"]["quality"] == "inferred"
    assert any("vCPUs ran on pCPUs that NEW lacks" in line for line in found["warnings"])


def test_stat_says_what_its_first_interval_covers(folder: Path) -> None:
    for name, says in (
        ("all", "covered  pCPUs 0-1; records of sched, pv"),
        ("sched", "covered  pCPUs 0-1; records of sched; none of pv, hvm, hw in the first interval"),
    ):
        first = printed("stat", "1", "1", "-i", str(folder / name)).splitlines()[0]
        assert first.startswith(says)


def test_info_says_which_classes_it_does_not_see(folder: Path) -> None:
    assert "no record of hvm, hw, mem" in printed("info", str(folder / "all"))
    assert "no record of pv, hvm, hw, mem" in printed("info", str(folder / "sched"))


OF_ENTRIES = ("event_channel_count", "send_to_wake_p50_cycles", "hypercall_count", "other_count")


@pytest.mark.parametrize(
    ("name", "is_absent"), [("all", lambda row: False), ("sched", lambda row: row in OF_ENTRIES)]
)
def test_a_figure_is_null_exactly_where_its_quality_says_so(
    folder: Path, name: str, is_absent: Callable[[str], bool]
) -> None:
    table = json.loads(printed("report", "--json", str(folder / name)))["tables"]["wakes"]
    for column in OF_ENTRIES:
        assert (table["quality"][column] == "not recorded") == is_absent(column)
        if column.endswith("count"):
            assert all((row[column] is None) == is_absent(column) for row in table["rows"])
