"""A capture without Xen's trace: every command reads it, or says in one line which command does."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from builders.dom0_capture import Values, bpf_capture, sampled_capture, streamed_capture
from builders.host import Kind as GuestKind
from builders.host import simulate
from xtrace.analysis import report_schema
from xtrace.analysis.tables.dom0_only import OF_TRACE
from xtrace.cli.main import main
from xtrace.probes.bpf.abi import Kind
from xtrace.symbols.image.image import open_image

DOMAINS: list[tuple[int, int, GuestKind]] = [(0, 2, "pv"), (1, 2, "pv")]
VALUES: Values = {
    (Kind.UPCALL, 0, 0): [5_000, 7_000, 0, 9_000],
    (Kind.IRQ_HANDLER, 45, 1): [1_000] * 6,
    (Kind.SOFTIRQ, 9, 1): [250],
}
EVENTS = [
    (1_000_000_000, 0, Kind.UPCALL, 5_000, 0, 11),
    (1_500_000_000, 1, Kind.IRQ_HANDLER, 1_000, 45, 12),
    (1_500_000_001, 1, Kind.SEND, 0, 45, 12),
    (2_000_000_000, 0, Kind.SOFTIRQ, 250, 9, 0),
    (2_250_000_000, 1, Kind.PRIVCMD, 70, 200, 13),
]
META: dict[str, Any] = {
    "schema_version": 1,
    "state": "ended",
    "end_reason": "duration",
    "duration_s": 2.5,
    "tsc_hz": 2.6e9,
    "tsc_hz_source": "a line through 9 clock pairs",
    "kernel": {"release": "6.1.0", "cpus": 2},
    "xen": {"info": {"xen_version": "4.17.7"}},
    "domains": [{"id": 0, "name": "Domain-0"}, {"id": 3, "name": "w\x1beb"}],
    "backends": {
        "bpf": {"used": True, "reason": "bcc", "counts": {"records": 11, "lost": 2, "lost_known": True}},
        "perf": {"used": True, "reason": "clock", "counts": {"records": 3, "lost": 0, "lost_known": False}},
        "xenctx": {"used": False, "reason": "xenctx is not installed", "counts": None},
    },
}
SAMPLES = [(0, 0xFFFF_FFFF_8100_1234, 0x200), (1, 0xFFFF_FFFF_8100_1234, 0), (1, 0x401136, 0x200)]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with captures by bpf, by bpf and perf, by perf, of nothing, and a trace."""
    path: Path = tmp_path_factory.mktemp("dom0")
    for name in ("bpf", "both", "perf", "counted"):
        capture = path / f"{name}.xtrace"
        if name in ("both", "perf"):
            sampled_capture(capture, "software clock", SAMPLES)
        if name != "perf":
            bpf_capture(capture, VALUES)
        if name in ("bpf", "both"):
            streamed_capture(capture, EVENTS, discarded=2)
        (capture / "meta.json").write_text(json.dumps(META))
    (path / "trace").write_bytes(simulate(5, 2, DOMAINS, 4_000_000).data)
    return path


def printed(capfd: pytest.CaptureFixture[str], *arguments: str | Path) -> str:
    """Return what a command prints; it must succeed and print nothing on standard error."""
    assert main([str(word) for word in arguments]) == 0
    out, err = capfd.readouterr()
    assert err == ""
    return out


def said(capfd: pytest.CaptureFixture[str], code: int, *arguments: str | Path) -> str:
    """Return the one line of a command that must fail."""
    assert main([str(word) for word in arguments]) == code
    out, err = capfd.readouterr()
    assert out == ""
    assert err.count("\n") == 1
    return err.rstrip()


def in_json(capfd: pytest.CaptureFixture[str], *arguments: str | Path) -> Any:
    """Return a report as JSON, which the schema must allow."""
    from jsonschema import Draft202012Validator

    found = json.loads(printed(capfd, "report", "--json", *arguments))
    assert [error.message for error in Draft202012Validator(report_schema()).iter_errors(found)] == []
    return found


# --- report ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "recorded", "known"),
    [
        ("bpf", "bpf only, for 2.000 s", "sections other than dom0 need one"),
        ("both", "bpf and perf only, for 2.000 s", "sections other than dom0, rips and kernel need one"),
        ("perf", "perf only, for 2.500 s", "sections other than dom0, rips and kernel need one"),
    ],
)
def test_the_head_says_what_recorded_it(
    name: str, recorded: str, known: str, folder: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    out = printed(capfd, "report", folder / f"{name}.xtrace")
    head, _, tables = out.partition("\n\n")
    lines = head.splitlines()
    assert lines[0] == f"capture  {folder / name}.xtrace"
    assert lines[1] == f"dom0     recorded by {recorded}"
    assert known in " ".join(" ".join(lines[2:4]).split())
    assert "xtrace record without --backend" in " ".join(head.split())
    assert "marks " not in head
    assert not any(word in head for word in ("span", "detected", "records ", "TSC"))
    assert ("dom0's upcalls" in tables) == (name != "perf")
    assert ("dom0 samples by function" in tables) == (name != "bpf")
    assert max(map(len, out.splitlines()[1:])) <= 80


def test_the_report_in_json_has_no_figure_of_a_trace(folder: Path, capfd: pytest.CaptureFixture[str]) -> None:
    found = in_json(capfd, folder / "both.xtrace")
    trace = found["trace"]
    assert {key for key in OF_TRACE if trace[key] is None} == set(OF_TRACE)
    assert (trace["dom0_only_files"], trace["files"], trace["records"]) == (1, 1, 0)
    assert (trace["dom0_backends"], trace["dom0_span_ns"]) == (["bpf", "perf"], 2_000_000_000)
    assert trace["dom0_lost_count"] == 0
    assert trace["tsc_hz"] == 2.6e9
    assert {name for name, table in found["tables"].items() if table["rows"]} == {
        "rip_samples", "dom0_upcalls", "dom0_irqs", "dom0_work", "dom0_samples", "dom0_losses",
    }  # fmt: skip


def test_losses_are_shown(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    capture = tmp_path / "c.xtrace"
    bpf_capture(capture, VALUES)
    line = {"t_ns": 3 * 10**9, "counters": {"dropped": 5, "no_tally": 7, "no_bucket": 0, "unpaired": 1}}
    with (capture / "bpf" / "tables.jsonl").open("a") as file:
        file.write(json.dumps(line) + "\n")
    (capture / "meta.json").write_text(json.dumps(META))
    assert "\nlost     12 events or samples: rings or tables of bpf were full" in printed(
        capfd, "report", capture
    )


def test_where_nothing_was_counted_there_is_no_legend(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    capture = tmp_path / "c.xtrace"
    bpf_capture(capture, {})
    (capture / "meta.json").write_text(json.dumps(META))
    out = printed(capfd, "report", capture)
    assert out.splitlines()[-1] == "counts   none: nothing happened that is counted"
    assert "marks" not in out


def test_a_trace_beside_it_keeps_its_figures(folder: Path, capfd: pytest.CaptureFixture[str]) -> None:
    alone = in_json(capfd, folder / "trace")
    for order in (("trace", "both.xtrace"), ("both.xtrace", "trace")):
        found = in_json(capfd, *(folder / name for name in order))
        for key in set(OF_TRACE) | {"records", "tsc_hz"}:
            assert found["trace"][key] == alone["trace"][key], key
        assert (found["trace"]["dom0_only_files"], found["trace"]["files"]) == (1, 2)
        assert found["tables"]["wakes"] == alone["tables"]["wakes"]
        assert found["tables"]["dom0_upcalls"]["rows"][0]["count"] == 3
    out = printed(capfd, "report", folder / "trace", folder / "both.xtrace")
    assert "\ndom0     1 of 2 files without Xen's trace: figures of dom0 only\n" in out


def test_two_of_them_add_up(folder: Path, capfd: pytest.CaptureFixture[str]) -> None:
    both = ("report", folder / "bpf.xtrace", folder / "both.xtrace")
    assert "recorded by bpf and perf only, for 4.000 s in 2 captures\n" in printed(capfd, *both)


def test_a_stored_summary_gives_the_same_report(
    folder: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    stored = tmp_path / "stored"
    assert main(["report", "--summary", str(stored), str(folder / "both.xtrace")]) == 0
    capfd.readouterr()
    assert in_json(capfd, stored) == in_json(capfd, folder / "both.xtrace")
    shown = printed(capfd, "report", folder / "both.xtrace").splitlines()
    assert printed(capfd, "report", stored).splitlines()[1:] == shown[1:]


@pytest.mark.parametrize(
    "section", ["delivery", "upcalls", "runstates", "hypercalls", "hvm", "irqs", "trace", "cost"]
)
@pytest.mark.parametrize("form", [[], ["--json"]], ids=["text", "JSON"])
def test_a_section_of_the_trace_is_one_line(
    section: str, form: list[str], folder: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    path = folder / "both.xtrace"
    line = said(capfd, 1, "report", *form, "--section", section, path)
    assert line == (
        f"xtrace: {path}: nothing for --section {section}: it has no Xen trace (xentrace.bin); "
        "xtrace record without --backend, in a dom0, makes one"
    )


def test_sections_of_what_was_not_recorded_are_one_line(
    folder: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    line = said(capfd, 1, "report", "--section", "rips", folder / "bpf.xtrace")
    assert line.endswith("nothing for --section rips: it has no samples (record --backend perf)")
    line = said(capfd, 1, "report", "--section", "kernel", folder / "both.xtrace")
    assert "it needs an image (--kernel DOMAIN=IMAGE) and samples" in line
    assert "d0v1  perf_clock" in printed(capfd, "report", "--section", "rips", folder / "both.xtrace")


def test_samples_are_looked_up_in_an_image(
    folder: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    image = Path(__file__).parents[2] / "samples" / "own-lfence.elf"
    code = open_image(image).code[0]
    capture = tmp_path / "c.xtrace"
    sampled_capture(capture, "software clock", [(0, code.address + at, 0x200) for at in (1, 2, 9)])
    (capture / "meta.json").write_text(json.dumps(META))
    out = printed(capfd, "report", "--kernel", f"0={image}@0x0", capture)
    assert "no domain" not in out
    assert "3 samples at 3 addresses, 3 in the image" in " ".join(out.split())
    assert "records of the trace" not in out
    found = in_json(capfd, "--kernel", f"0={image}@0x0", capture)
    assert found["tables"]["kernel_images"]["rows"][0]["note"] == ""


def test_a_part_of_it_cannot_be_counted(folder: Path, capfd: pytest.CaptureFixture[str]) -> None:
    line = said(capfd, 2, "report", "--from", "1s", folder / "bpf.xtrace")
    assert "has no Xen trace (xentrace.bin), which --from and --to count in" in line


def test_domains_that_only_samples_show_are_known(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    capture = tmp_path / "c.xtrace"
    (capture / "xenctx").mkdir(parents=True)
    row = {"t_ns": [1, 2], "domain": 3, "vcpu": 1, "rip": "0xffffffff81a442b5"}
    (capture / "xenctx" / "samples.jsonl").write_text(json.dumps(row) + "\n")
    (capture / "meta.json").write_text(json.dumps(META))
    out = printed(capfd, "report", "--domain", "3", "--section", "rips", capture)
    assert "recorded by xenctx only, for 2.500 s" in out
    assert "d3v1  xenctx" in out
    assert said(capfd, 1, "report", "--domain", "4", capture).endswith("has no domain 4; its domains are d3")


# --- info --------------------------------------------------------------------------------------


def test_info_golden(folder: Path, capfd: pytest.CaptureFixture[str]) -> None:
    path = folder / "both.xtrace"
    size = sum(each.stat().st_size for each in path.rglob("*") if each.is_file())
    assert (
        printed(capfd, "info", path)
        == f"""{path}
  size       {f"{size:,} bytes in 9 files":<35} exact
  Xen trace  none: recorded by bpf, perf
  end        duration                            from meta.json
  length     2.500 s                             from meta.json
  bpf        11 records, 2 lost                  from meta.json
  perf       3 records, at least 0 lost          from meta.json
  xenctx     not used: xenctx is not installed
  kernel     6.1.0, 2 CPUs
  Xen        4.17.7                              from xl info
  TSC        2600.000 MHz                        a line through 9 clock pairs
  domains    d0 Domain-0, d3 w\\x1beb

Of 11 events that bpf counted:
   54.5%          6  irq_handler
   36.4%          4  upcall
    9.1%          1  softirq
xtrace report shows them; xtrace dump --bpf prints each event
"""
    )


def test_info_in_json(folder: Path, capfd: pytest.CaptureFixture[str]) -> None:
    found = json.loads(printed(capfd, "info", "--json", folder / "both.xtrace"))
    of_trace = json.loads(printed(capfd, "info", "--json", folder / "trace"))
    assert set(found) == set(of_trace)
    assert of_trace["capture"] is None
    assert (found["schema_version"], found["records"], found["xen"], found["headers"]) == (
        1,
        None,
        None,
        None,
    )
    capture = found["capture"]
    assert capture["events"][0] == {"name": "irq_handler", "count": 6}
    assert [each["used"] for each in capture["backends"]] == [True, True, False]
    assert (capture["length_s"], capture["xen_version"], capture["streams_events"]) == (2.5, "4.17.7", True)


def test_info_of_a_recorder_that_was_killed(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    capture = tmp_path / "c.xtrace"
    bpf_capture(capture, VALUES)
    (capture / "meta.json").write_text(json.dumps(META | {"state": "recording", "xen": None}))
    rows = [
        {"kind": "progress", "elapsed_s": at, "backends": {"bpf": {"records": 10 * at, "lost": at}}}
        for at in (1, 2)
    ]
    (capture / "progress.jsonl").write_text("".join(f"{json.dumps(row)}\n" for row in rows))
    out = printed(capfd, "info", capture)
    assert "  end        none: killed, or still recording    from meta.json\n" in out
    assert "  length     2.000 s                             the last that was noted\n" in out
    assert "  bpf        20 records, 2 lost                  the last that was noted\n" in out
    assert "  perf       used                                the last that was noted\n" in out
    assert "  Xen        none: the host is not a dom0        from meta.json\n" in out
    assert out.endswith("xtrace report shows them\n")


@pytest.mark.parametrize(
    "meta",
    [
        {},
        {"backends": [], "kernel": 5, "xen": {"info": []}, "tsc_hz": "fast", "duration_s": "long"},
        {"backends": {"bpf": {"used": True, "counts": {"records": -1, "lost": "x"}}}, "domains": {"id": 3}},
        {
            "tsc_hz": float("inf"),
            "duration_s": float("nan"),
            "backends": {"bpf": 7},
            "kernel": {"cpus": True},
        },
    ],
)
def test_info_believes_no_other_types(
    meta: dict[str, Any], tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    capture = tmp_path / "c.xtrace"
    bpf_capture(capture, VALUES)
    (capture / "meta.json").write_text(json.dumps({"schema_version": 1, "state": "ended", **meta}))
    out = printed(capfd, "info", capture)
    assert "Of 11 events that bpf counted:" in out
    assert "length" not in out
    json.loads(printed(capfd, "info", "--json", capture), parse_constant=pytest.fail)


def test_info_of_damaged_tables_is_one_line(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    capture = tmp_path / "c.xtrace"
    (capture / "bpf").mkdir(parents=True)
    (capture / "bpf" / "tables.jsonl").write_text('{"t_ns": 1, "rows": [[1]]}\n')
    (capture / "meta.json").write_text(json.dumps(META))
    assert "damaged bpf tables" in said(capfd, 1, "info", capture)
    assert "damaged bpf tables" in said(capfd, 1, "report", capture)


# --- dump --------------------------------------------------------------------------------------

LINES = """\
 0.000000000 d0v0  upcall duration_ns=5000 pid=11
 0.500000000 d0v1  irq_handler duration_ns=1000 pid=12 irq=45 name=blkif
 0.500000001 d0v1  send pid=12 irq=45 name=blkif
 1.000000000 d0v0  softirq duration_ns=250 pid=0 softirq=rcu
 1.250000000 d0v1  privcmd duration_ns=70 pid=13 ioctl=200
""".splitlines()
LOST = "xtrace: 2 events lost: a ring was full\n"


@pytest.mark.parametrize(
    ("choice", "shown"),
    [
        ([], [0, 1, 2, 3, 4]),
        (["--head", "2"], [0, 1]),
        (["--event", "softirq", "--event", "6"], [2, 3]),
        (["--event", "*q*"], [1, 3]),
        (["--vcpu", "d0v1"], [1, 2, 4]),
        (["--vcpu", "0"], [0, 3]),
        (["--from", "500ms", "--to", "1"], [1, 2]),
        (["--from", "500.0000005ms"], [2, 3, 4]),
    ],
    ids=lambda value: " ".join(map(str, value)),
)
def test_dump_of_events(
    choice: list[str], shown: list[int], folder: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    assert main(["dump", "--bpf", *choice, str(folder / "bpf.xtrace")]) == 0
    out, err = capfd.readouterr()
    assert out.splitlines() == [LINES[at] for at in shown]
    assert err == LOST


def test_dump_of_events_in_json(folder: Path, capfd: pytest.CaptureFixture[str]) -> None:
    assert main(["dump", "--bpf", "--json", str(folder / "bpf.xtrace")]) == 0
    rows = [json.loads(line) for line in capfd.readouterr().out.splitlines()]
    assert rows[0] == {
        "t_ns": 10**9, "vcpu": 0, "event": 1, "name": "upcall", "duration_ns": 5000, "pid": 11,
    }  # fmt: skip
    assert rows[2] == {
        "t_ns": 1_500_000_001, "vcpu": 1, "event": 6, "name": "send", "pid": 12, "irq": 45,
        "irq_name": "blkif",
    }  # fmt: skip
    assert (rows[3]["softirq"], rows[3]["softirq_name"]) == (9, "rcu")


def test_dump_escapes_names(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    capture = tmp_path / "c.xtrace"
    bpf_capture(capture, VALUES, irq_name="a\x1b[2Jb")
    streamed_capture(capture, EVENTS[1:2])
    (capture / "meta.json").write_text(json.dumps(META))
    assert printed(capfd, "dump", "--bpf", capture).endswith("irq=45 name=a\\x1b[2Jb\n")


def test_dump_of_events_of_a_capture_with_a_trace(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    capture = tmp_path / "c.xtrace"
    bpf_capture(capture, VALUES)
    streamed_capture(capture, EVENTS)
    (capture / "meta.json").write_text(json.dumps(META))
    (capture / "xentrace.bin").write_bytes(simulate(5, 2, DOMAINS, 4_000_000).data)
    assert printed(capfd, "dump", "--bpf", capture).splitlines() == LINES
    assert main(["dump", "--head", "1", str(capture)]) == 0
    assert " p" in capfd.readouterr().out


def test_dump_of_a_cut_stream(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    capture = tmp_path / "c.xtrace"
    streamed_capture(capture, EVENTS)
    (capture / "meta.json").write_text(json.dumps(META))
    with (capture / "events" / "stream_0").open("ab") as file:
        file.truncate((capture / "events" / "stream_0").stat().st_size - 1)
    assert main(["dump", "--bpf", str(capture)]) == 0
    out, err = capfd.readouterr()
    assert len(out.splitlines()) == 3
    assert err.startswith("xtrace: cut short, ")


@pytest.mark.parametrize(
    ("arguments", "name", "code", "expected"),
    [
        ([], "bpf", 1, "has no Xen trace (xentrace.bin); xtrace dump --bpf prints its events"),
        ([], "counted", 1, "has no Xen trace (xentrace.bin); xtrace report and xtrace info read it"),
        (["--bpf"], "counted", 1, "has no events of bpf: xtrace record --events writes them; xtrace report "
         "shows what bpf counted"),
        (["--bpf"], "perf", 1, "has no events of bpf: xtrace record --events writes them"),
        (["--bpf", "--vcpu", "d3v0"], "bpf", 1, "none of its 5 events of bpf is selected"),
        (["--bpf", "--to", "0s"], "bpf", 1, "none of its 5 events of bpf is selected"),
        (["--bpf", "--event", "softirqs"], "bpf", 2, "there is no event 'softirqs'; did you mean softirq"),
        (["--bpf", "--tsc"], "bpf", 2, "--tsc: is about Xen's trace"),
        (["--bpf", "--from", "5c"], "bpf", 2, "--from: 5c: events of bpf have no TSC"),
    ],
)  # fmt: skip
def test_dump_without_a_line_says_why(
    arguments: list[str],
    name: str,
    code: int,
    expected: str,
    folder: Path,
    capfd: pytest.CaptureFixture[str],
) -> None:
    assert main(["dump", *arguments, str(folder / f"{name}.xtrace")]) == code
    out, err = capfd.readouterr()
    assert out == ""
    assert expected in err.splitlines()[-1]


def test_only_captures_have_events_of_bpf(folder: Path, capfd: pytest.CaptureFixture[str]) -> None:
    for file in (folder / "trace", "-"):
        assert said(capfd, 1, "dump", "--bpf", file).endswith("--bpf needs a capture of xtrace record")


# --- the others --------------------------------------------------------------------------------


@pytest.mark.parametrize("command", ["top -n 1 -i", "top -p -n 1 -i", "top -n 1 --cpu-hz 1G -i", "stat -i"])
def test_a_replay_needs_the_trace(command: str, folder: Path, capfd: pytest.CaptureFixture[str]) -> None:
    path = folder / "both.xtrace"
    line = said(capfd, 1, *command.split(), path)
    assert line == f"xtrace: {path}: has no Xen trace (xentrace.bin); xtrace report and xtrace info read it"


@pytest.mark.parametrize("others", [("both.xtrace", "bpf.xtrace"), ("trace", "both.xtrace")])
def test_diff_needs_traces(others: tuple[str, str], folder: Path, capfd: pytest.CaptureFixture[str]) -> None:
    paths = [folder / name for name in others]
    line = said(capfd, 1, "diff", *paths)
    assert line.endswith(
        "both.xtrace: has no Xen trace (xentrace.bin), whose figures diff compares; xtrace report reads it"
    )
    assert not any((path / "summary").exists() for path in paths)


def test_diff_of_stored_summaries_needs_traces(
    folder: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    for name in ("old", "new"):
        assert main(["report", "--summary", str(tmp_path / name), str(folder / "both.xtrace")]) == 0
    capfd.readouterr()
    assert "whose figures diff compares" in said(capfd, 1, "diff", tmp_path / "old", tmp_path / "new")


def test_a_folder_with_nothing_recorded_is_one_line(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "meta.json").write_text(json.dumps(META))
    for command in ("report", "info", "dump", "stat -i"):
        line = said(capfd, 1, *command.split(), tmp_path)
        assert "was recorded without xentrace; give a trace file, or a capture that contains" in line
