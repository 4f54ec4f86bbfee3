"""`xtrace trial` on a running worker, and its result in report, diff and a page."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from builders.made_trials import group, result
from builders.trial_targets import is_as_built
from builders.workers import built, must_be_consistent, running
from xtrace import samples
from xtrace.analysis.trial.result import Interval, read, text_of
from xtrace.cli.main import main
from xtrace.probes.trial import journal

SAMPLES = Path(__file__).parents[3] / "samples"


@pytest.fixture(scope="module")
def program(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return built(tmp_path_factory.mktemp("worker"))


@pytest.fixture(autouse=True)
def own_journals(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / "run"
    monkeypatch.setenv("XTRACE_RUN_DIR", str(folder))
    return folder


def test_a_trial_finds_what_fences_cost(
    program: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    output, page = tmp_path / "t.json", tmp_path / "t.html"
    with running(program, "hash", "65536") as worker:
        arguments = ["--image", str(program), "--pid", str(worker.pid), "--counter", "worker_units"]
        assert main(["trial", *arguments, "-d", "20", "--precision", "2", "-o", str(output)]) == 0
        assert is_as_built(worker.pid, program)
        assert not list(journal.left())
        must_be_consistent(worker.end())
    printed = capsys.readouterr().out
    assert printed.startswith("Turning the 34 removable fences into no-ops saves ")
    found = read(output)
    # An lfence after loads that miss takes most of the time; nobody knows how much, so far less is asked for.
    assert found.group("all").saved.low > 0.1
    assert found.group("A/A").saved.low < 0.1
    assert found.group("all").p < 0.01
    assert len(found.exchanged) == 34
    assert main(["report", "--trial", str(output), "--html", str(page)]) == 0
    assert "What no-ops in place of fences save" in page.read_text()
    assert main(["report", "--trial", str(output)]) == 0
    assert capsys.readouterr().out == printed


def test_doses_say_what_each_more_fence_takes(
    program: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    output = tmp_path / "t.json"
    with running(program, "spl", "16") as worker:
        arguments = ["--image", str(program), "--pid", str(worker.pid), "--counter", "worker_units"]
        arguments += ["--doses", "--slice", "2ms", "-d", "60", "--precision", "3", "-o", str(output)]
        assert main(["trial", *arguments]) == 0
        assert is_as_built(worker.pid, program)
        must_be_consistent(worker.end())
    assert "Each more fence in x86_fence adds " in capsys.readouterr().out
    found = read(output)
    assert found.added_ns is not None
    assert found.added_ns.low > 0
    more = [group.saved for group in found.groups if group.kind == "dose"]
    assert more[0].value > more[1].value > more[2].value
    assert more[2].high < 0 < found.group("all").saved.low


def test_inline_fences_have_no_doses(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    program = built(tmp_path, "lfence", "inline")
    with running(program, "spl", "16") as worker:
        arguments = ["--image", str(program), "--pid", str(worker.pid), "--counter", "worker_units"]
        assert main(["trial", *arguments, "--doses"]) == 1
    assert "no function has room for more fences" in capsys.readouterr().err


def test_plan_prints_the_exchanges_and_touches_nothing(
    program: Path, own_journals: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["trial", "--image", str(program), "--plan"]) == 0
    printed = capsys.readouterr().out
    assert "34 instructions can be exchanged" in printed
    assert "call x86_fence -> nop in loop_hash" in printed
    assert main(["trial", "--image", str(program), "--plan", "--json"]) == 0
    planned = json.loads(capsys.readouterr().out)
    assert len(planned["exchanges"]) == 34
    assert [dose["callee"] for dose in planned["doses"]] == ["x86_fence"]
    assert "x86_fence: room for 1 to 3 more lfence (--doses)" in printed
    assert "no dose  inline fences: there is no room beside an inline fence" in printed
    assert not own_journals.exists()


def test_without_a_counter_it_names_some_and_exits_with_2(
    program: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["trial", "--image", str(program), "--pid", "1"]) == 2
    assert "functions with fences increment guest_counts, worker_units" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        ([], 2, "needs a file"),
        (["--image", "PROGRAM"], 2, "needs one of --pid and DOMAIN"),
        (["--image", "PROGRAM", "--pid", "1", "--by", "x"], 2, "--by"),
        (["--image", "PROGRAM", "--pid", "1", "--allow", "keep"], 2, "--allow"),
        (["--image", "PROGRAM", "--pid", "999999999", "--counter", "worker_units"], 1, "does not exist"),
        (["--image", "PROGRAM", "--pid", "1", "--counter", "nothing"], 1, "no symbol"),
        (["--image", "nowhere", "--plan"], 1, "nowhere"),
    ],
)
def test_wrong_usage_is_one_clear_line(
    program: Path, arguments: list[str], code: int, message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["trial", *(str(program) if item == "PROGRAM" else item for item in arguments)]) == code
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1


def test_a_counter_that_stands_still_ends_it(program: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with running(program, "list", "16") as worker:
        arguments = ["--image", str(program), "--pid", str(worker.pid), "--counter", "xen_counts+0x8"]
        assert main(["trial", *arguments, "-d", "60", "--slice", "150us"]) == 1
        assert is_as_built(worker.pid, program)
    assert "the counter does not advance" in capsys.readouterr().err


def test_ctrl_c_ends_it_with_a_figure(program: Path, tmp_path: Path) -> None:
    output = tmp_path / "t.json"
    with running(program, "hash", "16") as worker:
        command = [sys.executable, "-c", "import sys; from xtrace.cli.start import main; sys.exit(main())"]
        command += ["trial", "--image", str(program), "--pid", str(worker.pid), "--counter", "worker_units"]
        command += ["-d", "200", "--precision", "0.001", "--slice", "300us", "-o", str(output)]
        process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
        deadline = time.monotonic() + 60
        while not list(journal.left()):
            assert time.monotonic() < deadline
            time.sleep(0.01)
        time.sleep(6)
        process.send_signal(signal.SIGINT)
        assert process.wait(60) == 0
        assert is_as_built(worker.pid, program)
    assert read(output).ended_by == "request"


def test_doctor_puts_back_what_a_trial_left(
    program: Path, own_journals: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from builders.trial_targets import patches_of

    with running(program, "list", "16") as worker:
        mine = journal.Journal(journal.Subject.process(worker.pid))
        mine.begin("guest", patches_of(program, 0), journal.process_identity(worker.pid))
        mine.keep()
        memory = os.open(f"/proc/{worker.pid}/mem", os.O_RDWR)
        first = patches_of(program, 0)[0]
        os.kill(worker.pid, signal.SIGSTOP)
        os.pwrite(memory, first.arms[1], first.address)
        os.kill(worker.pid, signal.SIGCONT)
        os.close(memory)
        assert not is_as_built(worker.pid, program)
        main(["doctor"])
        assert f"restored process {worker.pid}" in capsys.readouterr().err
        assert is_as_built(worker.pid, program)
    assert main(["trial", "--restore"]) == 0
    assert "no trial left anything" in capsys.readouterr().err


def _made(path: Path, saved: Interval, build_id: str) -> Path:
    groups = (group("A/A", "again"), group("all", "all", saved))
    path.write_text(text_of(result(build_id=build_id, groups=groups)))
    return path


def test_beside_a_trace_it_leads_the_cost(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from xtrace.symbols import open_image

    image = SAMPLES / "own-lfence.elf"
    trial = _made(tmp_path / "t.json", Interval(0.0031, 0.0027, 0.0035), open_image(image).build_id)
    trace = str(SAMPLES / "xen417-own-lfence.bin.xz")
    assert main(["report", "--trial", str(trial), "--kernel", f"1={image}", trace]) == 0
    printed = " ".join(capsys.readouterr().out.split())
    assert "trial d1: Turning the 12 removable fences into no-ops saves 0.31 % (0.27 to 0.35)" in printed
    assert main(["report", "--trial", str(trial), "--kernel", f"1={image}", "--json", trace]) == 0
    rows = json.loads(capsys.readouterr().out)["tables"]["cost_estimates"]["rows"]
    assert [row["estimate"] for row in rows] == ["trial", "model"]
    assert (rows[0]["cost_low_ratio"], rows[0]["cost_high_ratio"]) == (0.0027, 0.0035)
    page = tmp_path / "report.html"
    assert main(["report", "--trial", str(trial), "--kernel", f"1={image}", "--html", str(page), trace]) == 0
    text = page.read_text()
    assert "Turning the 12 removable fences into no-ops saves 0.31 %" in text
    assert "What no-ops in place of fences save" in text
    assert "What fences cost is not known here" not in text
    capsys.readouterr()
    assert main(["report", "--trial", str(trial), trace]) == 2
    assert "no --kernel is that file" in capsys.readouterr().err


def test_a_file_that_is_no_trial_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "t.json").write_text("{}")
    assert main(["report", "--trial", str(tmp_path / "t.json")]) == 1
    assert "not a result of xtrace trial" in capsys.readouterr().err
    assert main(["report", "--trial", str(samples.path())]) == 1


def test_two_trials_are_compared(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    old = _made(tmp_path / "old.json", Interval(0.01, 0.008, 0.012), "a")
    new = _made(tmp_path / "new.json", Interval(0.05, 0.045, 0.055), "b")
    assert main(["diff", str(old), str(new)]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert next(line for line in lines if "A/A" in line).startswith("~ ")
    assert "+4.000%" in next(line for line in lines if " all " in line)
    assert main(["diff", "--json", str(old), str(new)]) == 0
    changes = json.loads(capsys.readouterr().out)["changes"]
    assert [change["may_be_chance"] for change in changes] == [True, False]
    assert changes[1]["difference"]["value"] == pytest.approx(0.04)
    page = tmp_path / "diff.html"
    assert main(["diff", "--html", str(page), str(old), str(new)]) == 0
    assert not capsys.readouterr().out
    assert "1 of 2 groups changed by more than chance explains" in page.read_text()
    assert "+4.000%" in page.read_text()


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["3", "--pid", "1"], "needs one of --pid and DOMAIN"),
        ([], "needs one of --pid and DOMAIN"),
        (["3", "--doses"], "is for a process only"),
        (["3", "--allow", "undecided"], "is for a process only"),
        (["3", "--slice", "5ms"], "is at least 10ms for a domain"),
        (["--pid", "1", "--really"], "is for a domain"),
        (["--pid", "1", "--dry-run"], "is for a domain"),
    ],
)
def test_options_of_domains_and_of_processes_are_not_mixed(
    program: Path, arguments: list[str], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["trial", "--image", str(program), "--counter", "worker_units", *arguments]) == 2
    assert said in " ".join(capsys.readouterr().err.split())


@pytest.mark.skipif(Path("/proc/xen/capabilities").exists(), reason="this is a Xen host")
def test_a_domain_is_tried_in_dom0(program: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["trial", "3", "--image", str(program), "--counter", "worker_units"]
    assert main([*arguments, "--really"]) == 1
    assert "a domain is tried from its dom0" in capsys.readouterr().err
