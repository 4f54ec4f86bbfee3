"""Without a C compiler, the build fetches zig's and links with it; zig links for another processor, too."""

from __future__ import annotations

import os
import platform
import subprocess
import sys
import venv
import zipfile
from pathlib import Path

import pytest
from elftools.elf.elffile import ELFFile
from elftools.elf.sections import SymbolTableSection

from xtrace import samples
from xtrace.probes.compiled import library

ROOT = Path(__file__).parents[2]
pytestmark = [pytest.mark.nightly, pytest.mark.timeout(900)]


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Build the wheel in an environment whose PATH is empty."""
    folder: Path = tmp_path_factory.mktemp("wheel")
    done = subprocess.run(
        [sys.executable, "-m", "build", "--wheel", "--outdir", folder, ROOT],
        env=os.environ | {"PATH": os.fspath(folder)}, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    assert "ziglang" in done.stdout + done.stderr
    (found,) = folder.glob("*.whl")
    return found


def test_the_wheel_has_the_library_and_reports(wheel: Path, tmp_path: Path) -> None:
    machine = platform.machine()
    assert wheel.name.endswith(f"-py3-none-linux_{machine}.whl")
    with zipfile.ZipFile(wheel) as archive:
        libraries = [name for name in archive.namelist() if name.endswith(".so")]
    assert libraries == [f"xtrace/probes/compiled/loops.{machine}.so"]
    venv.create(tmp_path, with_pip=True)
    python, xtrace = tmp_path / "bin" / "python", tmp_path / "bin" / "xtrace"
    subprocess.run([python, "-m", "pip", "install", "--quiet", wheel], check=True)
    installed = subprocess.run([xtrace, "report", "--json"], capture_output=True, text=True, check=True)
    here = subprocess.run(
        [sys.executable, "-m", "xtrace", "report", "--json", samples.path()],
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert installed.stdout == here.stdout


def test_zig_links_for_another_processor(tmp_path: Path) -> None:
    subprocess.run(
        [sys.executable, "-m", "pip", "install", "--quiet", "--target", tmp_path, "ziglang"], check=True
    )
    other = "aarch64" if platform.machine() == "x86_64" else "x86_64"
    path = tmp_path / library.path_for(other).name
    program = ROOT / "tools" / "building" / "compile_loops.py"
    subprocess.run(
        [sys.executable, program, path, other], env=os.environ | {"PYTHONPATH": str(tmp_path)}, check=True
    )
    machine, names = exported(path)
    assert machine == {"aarch64": "AArch64", "x86_64": "x64"}[other]
    loops = {name for name in exported(library.path_for(platform.machine()))[1] if name.startswith("xtrace_")}
    assert len(loops) > 5
    assert loops <= names


def exported(path: Path) -> tuple[str, set[str]]:
    """Return a library's processor and the names in its dynamic symbol table."""
    with path.open("rb") as file:
        image = ELFFile(file)
        table = image.get_section_by_name(".dynsym")
        assert isinstance(table, SymbolTableSection)
        return image.get_machine_arch(), {symbol.name for symbol in table.iter_symbols()}
