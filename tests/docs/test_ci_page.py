"""The recipes of docs/ci.md are run, with the kernel of docs/sites.md."""

from __future__ import annotations

import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from xtrace.symbols.listing.gate import HAZARDS, read_accepted, read_expected

DOCS = Path(__file__).parents[2] / "docs"
PAGE = (DOCS / "ci.md").read_text()
COMMAND = 'import sys; from xtrace.cli.start import main; sys.argv[0] = "xtrace"; main()'
#: The kernel has this fence, so a gate on it fails.
BAD = "--fail-on removable"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Return a folder with a kernel and the two files of the page."""
    if shutil.which("gcc") is None:
        pytest.skip("no compiler here")
    source = re.search(r"```asm\n(.*?)```", (DOCS / "sites.md").read_text(), re.DOTALL)
    assert source is not None
    (tmp_path / "guest.s").write_text(source[1])
    subprocess.run(["gcc", "-g", "-c", "guest.s", "-o", "netbsd"], cwd=tmp_path, check=True)
    (tmp_path / "ci").mkdir()
    sites, accepted = re.findall(r"```text\n(.*?)```", PAGE, re.DOTALL)
    (tmp_path / "ci" / "sites.txt").write_text(sites)
    (tmp_path / "ci" / "accepted.txt").write_text(accepted)
    (tmp_path / "bin").mkdir()
    xtrace = tmp_path / "bin" / "xtrace"
    xtrace.write_text(f'#!/bin/sh\nexec {shlex.quote(sys.executable)} -c {shlex.quote(COMMAND)} "$@"\n')
    xtrace.chmod(0o755)
    return tmp_path


def run(folder: Path, command: str) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "PATH": f"{folder / 'bin'}:{os.environ['PATH']}"}
    # As GitHub and GitLab do it.
    return subprocess.run(
        ["bash", "-eo", "pipefail", "-c", command],
        cwd=folder,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )


def recipes(language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", PAGE, re.DOTALL)


def commands(recipe: str) -> list[str]:
    """Return the commands of a YAML recipe that run xtrace."""
    lines = re.findall(r"^\s*- (?:run: )?(xtrace .*)$", recipe, re.MULTILINE)
    assert lines
    return lines


@pytest.mark.parametrize("recipe", recipes("yaml"), ids=["GitHub", "GitLab"])
def test_recipe_of_a_forge(folder: Path, recipe: str) -> None:
    for command in commands(recipe):
        done = run(folder, command)
        assert (done.returncode, done.stderr) == (0, ""), command
        if "--fail-on" in command:
            # The same command fails if there is what it looks for.
            failed = run(folder, command.replace("--fail-on hazard", BAD))
            assert failed.returncode == 3, command
            assert "removable" in failed.stderr
            (folder / "ci" / "accepted.txt").write_text("")
            assert run(folder, command).returncode == 3


def test_recipe_of_make(folder: Path) -> None:
    (recipe,) = recipes("make")
    (folder / "Makefile").write_text(recipe)
    assert run(folder, "make -s check-sites").returncode == 0
    assert (folder / "sites.out").read_text().startswith("image    netbsd")
    assert run(folder, "make -s update-sites").returncode == 0
    assert run(folder, "make -s check-sites").returncode == 0
    listed = (folder / "ci" / "sites.txt").read_text()
    (folder / "ci" / "sites.txt").write_text(listed + "gone, unmask, -\n")
    done = run(folder, "make -s check-sites")
    assert done.returncode == 2, "make's own status for a command that failed"
    assert "gone, unmask, -" in done.stderr


def test_files_of_the_page() -> None:
    sites, accepted = re.findall(r"```text\n(.*?)```", PAGE, re.DOTALL)
    assert len(read_expected(sites, "sites.txt")) == 5
    assert {line.finding for line in read_accepted(accepted, "accepted.txt")} <= set(HAZARDS)
