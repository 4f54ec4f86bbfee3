"""`xtrace record` as users run it: refusals, the closing line, exit codes, and the zipapp for a dom0."""

from __future__ import annotations

import json
import os
import stat
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from builders import ticker
from builders.ticker import Ticker
from xtrace.cli.commands.record import closing_line
from xtrace.cli.main import main
from xtrace.probes.capture.layout import open_capture
from xtrace.probes.host import dom0, run_folder
from xtrace.probes.recording.backends.base import Availability, Counts, Overhead
from xtrace.probes.recording.session import Summary

ROOT = Path(__file__).parents[3]
HEAVY = {"bcc", "iced_x86", "numba", "numpy", "pandas", "rich"}


@pytest.fixture
def ticking(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(run_folder.RUN_DIRECTORY_VARIABLE, str(tmp_path / "run"))
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    ticker.install(monkeypatch)


def refusal(capfd: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, str]:
    code = main(["record", *arguments])
    out, err = capfd.readouterr()
    assert out == ""
    return code, err


def test_record_needs_dom0(tmp_path: Path, ticking: None, capfd: pytest.CaptureFixture[str]) -> None:
    code, said = refusal(capfd)
    assert code == 1
    assert said.count("\n") == 1
    assert "--backend bpf" in said
    assert not (tmp_path / "capture.xtrace").exists()


@pytest.mark.parametrize(
    ("arguments", "option"),
    [
        (["--backend", "ftrace"], "--backend"),
        (["-e", "sched+nothing"], "--class"),
        (["-c", "0-x"], "--pcpu"),
        (["--duration", "10 minutes"], "--duration"),
        (["--max-size", "many"], "--max-size"),
        (["--reserve", "-1"], "--reserve"),
        (["--timing", "fast"], "--timing"),
        (["-d", "0"], "-d"),
    ],
)
def test_wrong_usage(
    arguments: list[str], option: str, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    # It is reported before the lack of root.
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    code, said = refusal(capfd, *arguments)
    assert code == 2
    assert option in said


def test_a_recording_ends_with_one_line(
    tmp_path: Path, ticking: None, capfd: pytest.CaptureFixture[str]
) -> None:
    for _ in range(2):
        assert main(["record", "--backend", "ticker", "-d", "0.3", "--reserve", "0"]) == 0
        out, err = capfd.readouterr()
        assert out == ""
        first, last = err.splitlines()
        assert first == "xtrace: recording by ticker"
        assert last.startswith("xtrace: capture.xtrace: ")
        assert "ticker" in last
        assert " records, 0 lost" in last
        assert "% of a CPU" in last
    modes = {stat.S_IMODE(path.stat().st_mode) for path in (tmp_path / "capture.xtrace").rglob("*")}
    assert modes == {0o600, 0o700}
    assert open_capture(tmp_path / "capture.xtrace.old").has_ended
    assert main(["record", "--backend", "ticker", "-d", "0.1", "-f", "-o", "capture.xtrace"]) == 0


def test_the_exit_code_is_that_of_the_command(ticking: None, capfd: pytest.CaptureFixture[str]) -> None:
    arguments = ["record", "--backend", "ticker", "--reserve", "0", "--"]
    assert main([*arguments, "sh", "-c", "exit 7"]) == 7
    assert main([*arguments, "sh", "-c", "kill -9 $$"]) == 128 + 9
    assert main([*arguments, "no-such-command"]) == 1
    assert "no such command" in capfd.readouterr().err


def test_a_backend_that_dies_is_a_failure_and_its_records_are_kept(
    tmp_path: Path, ticking: None, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(Ticker, "lives", 2)
    assert main(["record", "--backend", "ticker", "--reserve", "0"]) == 1
    lines = capfd.readouterr().err.splitlines()
    assert "2 records" in lines[-2]
    assert "ticker: it fell silent" in lines[-1]
    assert "kept" in lines[-1]


def test_reaching_max_size_is_a_success(
    tmp_path: Path, ticking: None, capfd: pytest.CaptureFixture[str]
) -> None:
    assert main(["record", "--backend", "ticker", "--max-size", "200k", "--reserve", "0"]) == 0
    last = capfd.readouterr().err.splitlines()[-1]
    assert "--max-size" in last
    assert "204,800 bytes" in last


def test_control_characters_from_a_backend_are_escaped(
    ticking: None, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    hostile = Availability(True, "it ticks", missing=("red \x1b[31m\r\nxtrace: all is well",))
    monkeypatch.setattr(Ticker, "probe", lambda self: hostile)
    assert main(["record", "--backend", "ticker", "-d", "0.1", "--reserve", "0"]) == 0
    err = capfd.readouterr().err
    assert "\x1b" not in err
    assert "\\x1b[31m\\r\\nxtrace" in err


def test_the_closing_line() -> None:
    summary = Summary(
        Path("a.xtrace"),
        counts={"xentrace": Counts(140_171, 3, 1), "bpf": Counts(12, 0, 1, lost_known=False)},
        duration_s=10.0,
        byte_count=12_345_678,
        overhead=Overhead(cpu_s=0.13, cpu_s_by_backend={"bpf": 0.02, "xentrace": 0.1}, own_upcalls=214),
    )
    assert closing_line(summary) == (
        "a.xtrace: 12.3 MB; xentrace 140,171 records, 3 lost; bpf 12 records, at least 0 lost; "
        "10.0 s; cost 1.3% of a CPU (bpf 0.2%, xentrace 1.0%), at most 214 upcalls"
    )


def test_the_recorder_imports_no_heavy_module() -> None:
    program = (
        "import json, sys; import xtrace.cli.commands.record, xtrace.probes.recording.session as s; "
        "from xtrace.probes.recording.backends import registry; [registry.make(n) for n in registry.NAMES]; "
        "print(json.dumps(sorted({name.partition('.')[0] for name in sys.modules})))"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert HEAVY.isdisjoint(json.loads(done.stdout))


@pytest.fixture(scope="module")
def zipapp(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = tmp_path_factory.mktemp("zipapp") / "xtrace.pyz"
    subprocess.run([sys.executable, ROOT / "tools" / "zipapp.py", made], check=True, capture_output=True)
    return made


def run(zipapp: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    # -S: no installed package is visible.
    command = [sys.executable, "-S", str(zipapp), *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=False, cwd=zipapp.parent)


def test_the_zipapp_is_reproducible_and_complete(zipapp: Path, tmp_path: Path) -> None:
    again = tmp_path / "again.pyz"
    subprocess.run([sys.executable, ROOT / "tools" / "zipapp.py", again], check=True, capture_output=True)
    assert zipapp.read_bytes() == again.read_bytes()
    assert os.access(zipapp, os.X_OK)
    with zipfile.ZipFile(zipapp) as archive:
        names = set(archive.namelist())
    for package in ("cli", "probes", "symbols"):
        for path in (ROOT / package).rglob("*"):
            if path.suffix in (".py", ".c", ".h"):
                name = f"xtrace/{path.relative_to(ROOT)}"
                assert name in names
                assert path.suffix != ".py" or f"{name}c" in names
    assert [name for name in names if name.endswith(".so")] == []


def test_building_the_zipapp_names_a_missing_package(tmp_path: Path) -> None:
    made = tmp_path / "xtrace.pyz"
    command = [sys.executable, "-S", str(ROOT / "tools" / "zipapp.py"), str(made)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=tmp_path)
    assert (done.returncode, done.stdout, done.stderr.count("\n")) == (1, "", 1)
    assert done.stderr.startswith("zipapp.py: ")
    assert "has no annotated-doc" in done.stderr
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("isolated", [False, True])
def test_the_zipapp_imports_nothing_from_elsewhere(zipapp: Path, tmp_path: Path, isolated: bool) -> None:
    """Neither PYTHONPATH nor the current folder can make root run another's module.

    What Python's own start imports, such as contextlib here, it has before the file can start itself again.
    """
    for name in ("typer", "json", "inspect", "xtrace"):
        (tmp_path / f"{name}.py").write_text("raise SystemExit('not ours')\n")
    command = [str(zipapp)] if isolated else [sys.executable, str(zipapp)]
    environment = {"PYTHONPATH": str(tmp_path), "PATH": os.environ["PATH"]}
    done = subprocess.run(
        [*command, "--version"], capture_output=True, text=True, check=False, cwd=tmp_path, env=environment
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith("xtrace ")


def test_the_zipapp_runs_on_a_bare_python(zipapp: Path, tmp_path: Path) -> None:
    version = run(zipapp, "--version")
    assert (version.returncode, version.stdout) == (0, "xtrace 0.1.0\n")
    assert run(zipapp, "record", "--help").stdout.startswith("Usage: ")
    sample = min((ROOT / "samples").glob("*.bin.xz"), key=lambda path: path.stat().st_size)
    assert "windows" in run(zipapp, "info", str(sample)).stdout
    for command in (["report"], ["dump", str(sample)], ["sites", sys.executable]):
        done = run(zipapp, *command)
        assert done.returncode == 1
        assert done.stderr.count("\n") == 1
        assert "; pip install xtrace" in done.stderr
    if os.geteuid() == 0 and dom0.why_no_dom0():
        done = run(zipapp, "record", "-d", "1")
        assert (done.returncode, done.stderr.count("\n")) == (1, 1)
        assert "--backend bpf" in done.stderr
