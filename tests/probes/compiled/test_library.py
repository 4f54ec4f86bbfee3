"""The library of compiled loops: found, compared with its sources, compiled again, or replaced by numba."""

from __future__ import annotations

import os
import platform
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from xtrace.probes.compiled import library
from xtrace.probes.errors import TraceError


@pytest.fixture(autouse=True)
def forgotten(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Have the library looked for again in this test, and as it is after it."""
    monkeypatch.delenv(library.VARIABLE, raising=False)
    library.how.cache_clear()
    library.loaded.cache_clear()
    yield
    library.how.cache_clear()
    library.loaded.cache_clear()


def test_a_variable_chooses(monkeypatch: pytest.MonkeyPatch) -> None:
    assert library.how() == library.COMPILED
    library.how.cache_clear()
    monkeypatch.setenv(library.VARIABLE, "python")
    assert library.how() == library.PYTHON


def test_a_wrong_choice_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(library.VARIABLE, "fast")
    with pytest.raises(TraceError, match="XTRACE_LOOPS: 'fast' is not one of compiled, numba, python"):
        library.how()


def installed(monkeypatch: pytest.MonkeyPatch, *, numba: bool) -> None:
    """Pretend that xtrace is installed on a processor that it was not built for."""
    monkeypatch.setattr(library, "_COMPILER", Path("/nonexistent"))
    monkeypatch.setattr(platform, "machine", lambda: "riscv64")
    monkeypatch.setattr(library, "_has_numba", lambda: numba)


def test_without_a_library_numba_compiles(monkeypatch: pytest.MonkeyPatch) -> None:
    installed(monkeypatch, numba=True)
    assert library.how() == library.NUMBA


def test_without_both_one_line_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    installed(monkeypatch, numba=False)
    with pytest.raises(TraceError, match="no compiled loops for riscv64: pip install numba"):
        library.how()


def test_the_command_prints_that_line() -> None:
    program = (
        "import platform, sys; from pathlib import Path; from xtrace.probes.compiled import library;"
        "library._COMPILER = Path('/nonexistent'); platform.machine = lambda: 'riscv64';"
        "library._has_numba = lambda: False;"
        "from xtrace.cli.main import main; sys.exit(main(['report']))"
    )
    done = subprocess.run([sys.executable, "-P", "-c", program], capture_output=True, text=True, check=False)
    said = "xtrace: this installation has no compiled loops for riscv64: pip install numba\n"
    assert (done.returncode, done.stdout, done.stderr) == (1, "", said)


ROOT = Path(library.__file__).resolve().parents[2]
LIBRARY = library.path_for(platform.machine())


def test_a_library_is_current_until_one_of_its_sources_changes(tmp_path: Path) -> None:
    (tmp_path / "a.py").write_text("one")
    (tmp_path / "b.py").write_text("")
    path = tmp_path / "loops.so"
    path.write_bytes(b"code\0" + library.text_about(["a.py", "b.py"], tmp_path).encode() + b"\0more")
    assert library.is_current(path, tmp_path)
    (tmp_path / "a.py").write_text("on")
    (tmp_path / "b.py").write_text("e")
    assert not library.is_current(path, tmp_path)
    (tmp_path / "b.py").unlink()
    assert not library.is_current(path, tmp_path)
    path.write_bytes(b"code")
    assert not library.is_current(path, tmp_path)


def test_the_library_depends_on_the_numbers_that_loops_use_and_on_its_compiler() -> None:
    assert library.is_current(LIBRARY)
    content = LIBRARY.read_bytes()
    for name in (
        b"analysis/state_machine/metrics.py",
        b"probes/format.py",
        b"tools/building/compile_loops.py",
    ):
        assert name in content


class Runs:
    """Pretend that a source has changed: keep the commands that would compile, and end them with a code."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.commands: list[list[str]] = []
        self.code = 0
        monkeypatch.setattr(library, "is_current", lambda path: False)
        monkeypatch.setattr(subprocess, "run", self._run)

    def _run(self, command: list[str], **_: object) -> subprocess.CompletedProcess[str]:
        self.commands.append(command)
        return subprocess.CompletedProcess(command, self.code)


@pytest.fixture
def runs(monkeypatch: pytest.MonkeyPatch) -> Runs:
    return Runs(monkeypatch)


def test_a_library_older_than_its_sources_is_compiled_again(runs: Runs) -> None:
    library.loaded()
    assert runs.commands == [
        [sys.executable, str(ROOT / "tools" / "building" / "compile_loops.py"), str(LIBRARY)]
    ]


def test_without_numba_pip_installs_the_checkout_again(
    runs: Runs, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(library, "_has_numba", lambda: False)
    library.loaded()
    assert [command[1:4] + command[-2:] for command in runs.commands] == [
        ["-m", "pip", "install", "--editable", str(ROOT)]
    ]
    assert capsys.readouterr().err.startswith("xtrace: the loops have changed; ")


def test_a_failed_compilation_is_one_line(runs: Runs) -> None:
    runs.code = 1
    with pytest.raises(TraceError, match=r"the hot loops have changed and cannot be compiled: .* failed"):
        library.loaded()


def test_a_damaged_library_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "loops.so"
    path.write_bytes(b"\x7fELF" + os.urandom(100))
    monkeypatch.setattr(library, "_COMPILER", Path("/nonexistent"))
    monkeypatch.setattr(library, "path_for", lambda machine: path)
    with pytest.raises(TraceError, match=r"loops\.so: cannot be loaded: "):
        library.loaded()
