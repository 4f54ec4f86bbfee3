"""`xtrace diff` as users run it: the groups, the output, the summaries that it keeps, the exit codes."""

from __future__ import annotations

import contextlib
import io
import json
import os
import re
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest

from builders import ready
from builders.partials import partial
from builders.wakes import TSC_HZ, wakes
from xtrace import samples
from xtrace.analysis.summary.summary_file import Summary, read_summary, write_summary
from xtrace.analysis.summary.summary_head import Origin
from xtrace.cli.commands import diff as command_module
from xtrace.cli.main import main

WIDTH = 80
ESCAPE = "\x1b"
P50 = "wake_to_running_p50"

Done = subprocess.CompletedProcess[str]


def run(*arguments: str | Path, name: str = "diff", cwd: Path | None = None) -> Done:
    """Run an xtrace command and check that it shows no traceback."""
    dropped = ("COLUMNS", "FORCE_COLOR", "NO_COLOR", "TTY_COMPATIBLE", "TERM")
    kept = {key: value for key, value in os.environ.items() if key not in dropped}
    done = ready.run([name, *arguments], environment=kept, cwd=cwd)
    assert "Traceback" not in done.stderr, done.stderr
    return Done(done.args, done.returncode, done.stdout, done.stderr)


def run_here(*arguments: str | Path, cwd: Path) -> Done:
    """Run `xtrace diff` in this process, which is fast."""
    out, err = io.StringIO(), io.StringIO()
    with contextlib.chdir(cwd), contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        code = main(["diff", *map(str, arguments)])
    return Done(arguments, code, out.getvalue(), err.getvalue())


def one_line(done: Done, code: int, said: str) -> None:
    assert (done.returncode, done.stdout) == (code, "")
    assert done.stderr.startswith("xtrace: ")
    assert done.stderr.count("\n") == 1
    assert said in done.stderr


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder with summaries of ten captures (old), and of ten whose wakes take 5 % longer (new)."""
    made = tmp_path_factory.mktemp("captures")
    for group, first, factor in (("old", 0, 1.0), ("new", 100, 1.05)):
        (made / group).mkdir()
        for number in range(10):
            part = partial(wakes(first + number, count=150, wake_cycles=10_000 * factor))
            origin = Origin(f"{group}/{number}", TSC_HZ, "given")
            write_summary(Summary(part, origin), made / group / f"{number}.summary")
    return made


def traces(folder: Path, count: int, factor: float = 1.0) -> list[Path]:
    folder.mkdir()
    paths = [folder / f"{number}.bin" for number in range(count)]
    for number, path in enumerate(paths):
        path.write_bytes(wakes(number, count=40, wake_cycles=10_000 * factor))
        Path(f"{path}.json").write_text(json.dumps({"tsc_hz": TSC_HZ}))
    return paths


# --- output ------------------------------------------------------------------------------------


def test_a_change_of_5_percent_is_found(folder: Path) -> None:
    done = run(folder / "old", folder / "new")
    assert (done.returncode, done.stderr) == (0, "")
    lines = done.stdout.splitlines()
    assert max(map(len, lines)) <= WIDTH
    assert ESCAPE not in done.stdout
    assert lines[0] == "old      10 in old: 0, 1, 2 and 7 more"
    (row,) = (line.split() for line in lines if f" {P50} " in line)
    assert row[0] == "d1"
    assert row[2].endswith("us")
    assert 3 <= float(row[4].strip("+%")) <= 7
    assert float(row[5].strip("+%")) < float(row[4].strip("+%")) < float(row[6].strip("+%"))
    assert row[-1] == "10+10"
    assert "rows together (Holm)" in " ".join(done.stdout.split())
    rest = [line.split() for line in lines if line.startswith(("d1", "host")) and P50 not in line]
    assert all(row[4].startswith("~") for row in rest if not row[1].startswith(("waiting_share", "wake_to")))


def test_equal_groups_show_no_change(folder: Path) -> None:
    done = run_here("old", "old", "--all", "--sort", "p", cwd=folder)
    assert done.returncode == 0
    rows = [line.split() for line in done.stdout.splitlines() if line.startswith(("d1", "host"))]
    assert len(rows) > 8
    assert all(row[4].startswith("~") for row in rows)
    assert "both groups" in " ".join(done.stdout.split())


def test_single_captures_cannot_show_a_change(folder: Path) -> None:
    done = run_here("old/0.summary", "new/0.summary", "--metric", P50, cwd=folder)
    assert done.returncode == 0
    text = " ".join(done.stdout.split())
    assert "one run each cannot show what is chance" in text
    assert "5 per side" in text
    assert re.search(r" ~[+-][\d.]+% ", text)
    assert " 1+1" in text


def test_json(folder: Path) -> None:
    done = run_here("old", "new", "--json", "--metric", P50, cwd=folder)
    assert (done.returncode, done.stderr) == (0, "")
    found = json.loads(done.stdout)
    assert found["schema_version"] == 2
    assert found["old"] == [f"old/{number}" for number in range(10)]
    (row,) = found["rows"]
    assert (row["domain"], row["metric"], row["differs"]) == ("d1", P50, True)


def test_sort_by_change_puts_changed_rows_first(folder: Path) -> None:
    done = run_here("old", "new", "--sort", "change", cwd=folder)
    rows = [line.split() for line in done.stdout.splitlines() if line.startswith(("d1", "host"))]
    marks = [row[4].startswith("~") for row in rows]
    assert marks == sorted(marks)
    assert not marks[0]


def test_control_characters_in_names_are_escaped(tmp_path: Path) -> None:
    path = tmp_path / "x.summary"
    part = partial(wakes(1, count=40))
    write_summary(
        Summary(part, Origin(f"{ESCAPE}[2J\nname", TSC_HZ, "given", domains={1: f"{ESCAPE}]0;web\n"})), path
    )
    done = run_here(path, path, cwd=tmp_path)
    assert done.returncode == 0
    assert ESCAPE not in done.stdout
    assert r"\x1b[2J\nname" in done.stdout
    assert r"\x1b]0;web\n" in done.stdout
    assert max(map(len, done.stdout.splitlines())) <= WIDTH


# --- groups ------------------------------------------------------------------------------------


def test_files_folders_and_patterns_give_the_same_groups(folder: Path) -> None:
    by_folder = run_here("old", "new", cwd=folder)
    files = {group: sorted((folder / group).iterdir()) for group in ("old", "new")}
    by_files = run_here(*files["old"], "--", *files["new"], cwd=folder)
    by_pattern = run_here("old/*.summary", "new/?.summary", cwd=folder)
    mixed = run_here("old", "--", *files["new"], "--metric", P50, cwd=folder)
    assert by_folder.returncode == 0
    assert by_files.stdout == by_folder.stdout == by_pattern.stdout
    assert "10+10" in mixed.stdout


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        (["old"], 2, "two captures"),
        (["old", "new", "new"], 2, "write -- between"),
        (["old", "--", "new", "--", "new"], 2, "write one --"),
        (["old", "--"], 2, "no new capture"),
        (["--", "old"], 2, "no old capture"),
        (["old/0.summary", "old/../old/0.summary", "--", "new"], 2, "old/0.summary is given twice"),
        (["old", "missing"], 1, "missing: No such file"),
        (["old", "missing*"], 1, "missing*: no file"),
        (["old", "empty"], 1, "empty: "),
        (["old", "new", "--metric", "nonsense"], 2, f" {P50}, "),
        (["old", "new", "--fail-above", "nonsense=5"], 2, f" {P50}, "),
        (["old", "new", "--fail-above", P50], 2, "METRIC=PERCENT"),
        (["old", "new", "--fail-above", f"{P50}=-3"], 2, "METRIC=PERCENT"),
        (["old", "new", "--fail-above", f"{P50}=nan"], 2, "METRIC=PERCENT"),
        (["old", "new", "--map", "3"], 2, "OLD=NEW"),
        (["old", "new", "--sort", "x"], 2, "--sort"),
        (["old", "new", "--domain", "9"], 1, "domain '9'"),
        (["old", "bad.summary"], 1, "bad.summary: damaged"),
        (["old", "text"], 1, "text: not a xentrace file"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_an_error_is_one_line(arguments: Sequence[str], code: int, said: str, folder: Path) -> None:
    (folder / "empty").mkdir(exist_ok=True)
    (folder / "text").write_text("not a trace, but long enough for a header")
    (folder / "bad.summary").write_bytes((folder / "old" / "0.summary").read_bytes()[:5000])
    reads_a_trace = arguments[-1] in ("missing", "text")
    one_line((run if reads_a_trace else run_here)(*arguments, cwd=folder), code, said)


def test_which_files_of_a_folder_are_captures(tmp_path: Path) -> None:
    paths = traces(tmp_path / "a", 2)
    (tmp_path / "a" / ".hidden").write_text("")
    (tmp_path / "a" / "0.bin.summary").write_bytes(b"")  # its trace is there: the trace is the capture
    (tmp_path / "a" / "9.bin.summary").write_bytes(b"")  # its trace is gone
    capture = tmp_path / "a" / "c.xtrace"
    capture.mkdir()
    (capture / "xentrace.bin").write_bytes(paths[0].read_bytes())
    assert command_module._files(str(tmp_path / "a")) == [*paths, tmp_path / "a" / "9.bin.summary", capture]
    assert command_module._files(str(capture)) == [capture]


# --- summaries ---------------------------------------------------------------------------------


def test_a_trace_is_read_once_and_its_summary_kept(tmp_path: Path) -> None:
    for group, factor in (("old", 1.0), ("new", 1.3)):
        traces(tmp_path / group, 5, factor)
    first = run("old", "new", "--keep", "--metric", P50, cwd=tmp_path)
    assert first.returncode == 0
    assert first.stderr.startswith("xtrace: 10 summaries kept ")
    assert first.stderr.count("\n") == 1
    assert "+3" in first.stdout
    kept = sorted(path.name for path in (tmp_path / "old").glob("*.summary"))
    assert kept == [f"{number}.bin.summary" for number in range(5)]
    os.utime(tmp_path / "old" / "0.bin", ns=(1, 1))
    again = run("old", "new", "--keep", "--metric", P50, cwd=tmp_path)
    assert again.stdout == first.stdout
    assert again.stderr == "xtrace: 10 summaries used, made from the same bytes as the traces\n"
    # Another trace of the same size and time is read.
    path = tmp_path / "old" / "0.bin"
    before = path.stat()
    path.write_bytes(bytes(before.st_size))
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    done = run("old", "new", "--keep", cwd=tmp_path)
    assert done.returncode == 1
    assert "0.bin: not a xentrace file" in done.stderr


def test_no_summary_is_kept_if_not_wanted_or_not_possible(tmp_path: Path) -> None:
    one, other = traces(tmp_path / "a", 2)
    done = run(one, other)
    assert (done.returncode, done.stderr) == (0, "")
    assert not list((tmp_path / "a").glob("*.summary"))
    Path(f"{one}.summary").write_text("notes")
    done = run(one, other, "--keep")
    assert done.returncode == 0
    assert "summary not kept: " in done.stderr
    assert Path(f"{one}.summary").read_text() == "notes"


def test_domains_are_matched_by_name(tmp_path: Path) -> None:
    for name, domain in (("old", 3), ("new", 7)):
        capture = tmp_path / f"{name}.xtrace"
        capture.mkdir()
        (capture / "xentrace.bin").write_bytes(wakes(domain, domain=domain, count=40))
        meta = {"schema_version": 1, "tsc_hz": TSC_HZ, "domains": [{"id": domain, "name": "web"}]}
        (capture / "meta.json").write_text(json.dumps(meta))
    done = run("old.xtrace", "new.xtrace", "--keep", cwd=tmp_path)
    assert done.returncode == 0
    assert f"web     {P50}" in done.stdout
    assert (tmp_path / "old.xtrace" / "summary").is_file()
    mapped = run("old.xtrace", "new.xtrace", "--map", "web=db", cwd=tmp_path)
    assert "only in old: db" in mapped.stdout


def test_a_report_writes_a_summary_and_reads_it(tmp_path: Path) -> None:
    path = tmp_path / "s.summary"
    done = run("--summary", path, name="report")
    assert (done.returncode, done.stdout, done.stderr) == (0, "", f"xtrace: summary written to {path}\n")
    assert read_summary(path).origin.emulated
    whole, again = run("--json", name="report"), run("--json", path, name="report")
    assert json.loads(again.stdout) == json.loads(whole.stdout)
    both = json.loads(run("--json", path, samples.path(), name="report").stdout)
    assert both["trace"]["records"] == 2 * json.loads(whole.stdout)["trace"]["records"]
    one_line(run("--from", "1", path, name="report"), 2, "not a summary")
    notes = tmp_path / "notes"
    notes.write_text("mine")
    one_line(run("--summary", notes, path, name="report"), 1, "not an xtrace summary")
    assert notes.read_text() == "mine"


def test_a_summary_of_a_time_span_says_so(tmp_path: Path) -> None:
    path = tmp_path / "part.summary"
    assert run("--summary", path, "--from", "2", "--to", "3", name="report").returncode == 0
    assert "2s to 3s" in run(path, name="report").stdout


# --- --fail-above ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("old", "new", "gate", "code"),
    [
        ("old", "new", f"{P50}=1", 3),
        ("old", "new", f"{P50}=2%", 3),
        ("old", "new", f"{P50}=20", 0),
        ("new", "old", f"{P50}=1", 0),  # it fell
        ("old", "new", "wake_to_running_p95=90", 0),
        ("old", "new", "exits_per_s=1", 1),  # a PV guest has no VM exits
    ],
)
def test_fail_above(old: str, new: str, gate: str, code: int, folder: Path) -> None:
    done = run_here(old, new, "--fail-above", gate, cwd=folder)
    assert done.returncode == code
    assert "domain" in done.stdout
    assert ("no domain has it" in done.stderr) is (code == 1)


def test_fail_above_fails_if_it_cannot_be_decided(folder: Path) -> None:
    done = run_here("old/0.summary", "new/0.summary", "--fail-above", f"{P50}=5", cwd=folder)
    assert done.returncode == 1
    assert "1 against 1 captures of d1 cannot decide it" in done.stderr
    assert done.stderr.count("\n") == 1


def test_help_imports_no_heavy_module() -> None:
    code = (
        "import sys; from xtrace.cli.main import main; main(['diff', '--help']);"
        "sys.exit(bool({'numpy', 'pandas', 'numba', 'rich'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-P", "-c", code], capture_output=True, check=False, text=True)
    assert (done.returncode, done.stderr) == (0, "")
    assert "--fail-above METRIC=PERCENT" in done.stdout


def test_the_page_describes_every_metric(folder: Path) -> None:
    from xtrace.analysis.comparison.figures import FIGURES

    page = (Path(__file__).parents[3] / "docs" / "diff.md").read_text()
    assert all(f"`{figure.name}`" in page for figure in FIGURES)
