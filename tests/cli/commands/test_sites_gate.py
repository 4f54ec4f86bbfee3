"""The gate's options of `xtrace sites`, as a kernel's CI uses them."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from builders.guest import Builder, Variant
from xtrace.cli.main import main

Capture = pytest.CaptureFixture[str]
Run = Callable[..., tuple[int, str, str]]


@pytest.fixture(scope="module")
def builder(tmp_path_factory: pytest.TempPathFactory) -> Builder:
    if shutil.which("gcc") is None or shutil.which("objcopy") is None:
        pytest.skip("no compiler here")
    return Builder(tmp_path_factory.mktemp("guests"))


@pytest.fixture(scope="module")
def guest(builder: Builder) -> Path:
    return builder.build("illumos_amd64.S", Variant()).image


@pytest.fixture
def run(capfd: Capture) -> Run:
    """Return a function that runs `xtrace sites` and returns its exit code and what it printed."""

    def call(*arguments: str | Path) -> tuple[int, str, str]:
        code = main(["sites", *map(str, arguments)])
        return code, *capfd.readouterr()

    return call


def count(run: Run, guest: Path) -> int:
    return len(json.loads(run(guest, "--json")[1])["sites"])


def test_number_of_sites(run: Run, guest: Path) -> None:
    number = count(run, guest)
    assert number > 15
    code, plain, said = run(guest)
    assert (code, said) == (0, "")
    assert run(guest, "--expect", str(number)) == (0, plain, "")
    for wrong in (0, number - 1, number + 1):
        code, out, said = run(guest, "--expect", str(wrong))
        assert (code, out) == (3, plain)
        assert said.startswith(f"xtrace: {wrong} sites expected, {number} found: 2 mask, ")


def test_expected_sites(run: Run, guest: Path, tmp_path: Path) -> None:
    file = tmp_path / "sites.txt"
    code, listed, said = run(guest, "--list-sites")
    assert (code, said) == (0, "")
    assert len(listed.splitlines()) == count(run, guest)
    file.write_text(listed)
    assert run(guest, "--expect-sites", file)[::2] == (0, "")
    file.write_text(listed + "sti, unmask, lock cmpxchg\n")
    code, _, said = run(guest, "--expect-sites", file)
    last = len(listed.splitlines()) + 1
    assert (code, said) == (
        3,
        f"xtrace: not found: sti, unmask, lock cmpxchg (line {last} of --expect-sites)\n",
    )


def test_finder_that_sees_nothing_fails_what_is_expected(
    run: Run, builder: Builder, guest: Path, tmp_path: Path
) -> None:
    blind = builder.build("hvm_amd64.S", Variant()).image
    file = tmp_path / "sites.txt"
    file.write_text(run(guest, "--list-sites")[1])
    code, _, said = run(blind, "--expect-sites", file, "--expect", "19")
    assert code == 3
    assert said.startswith("xtrace: 19 sites expected, 0 found: no site was found")
    assert said.count("not found: ") == count(run, guest)


@pytest.mark.parametrize("reason", ["hazard", "removable", "replaceable", "undecided"])
def test_program_that_is_no_guest_cannot_be_checked(run: Run, reason: str) -> None:
    code, out, said = run("/bin/ls", "--fail-on", reason)
    assert code == 1
    assert "no site found" in out or "nothing" in out
    assert said.count("\n") == 1
    assert "/bin/ls: it is not a Xen guest" in said
    assert run("/bin/ls")[0] == 0


def test_accepted_findings(run: Run, guest: Path, tmp_path: Path) -> None:
    code, _, said = run(guest, "--fail-on", "replaceable")
    assert (code, said) == (3, "xtrace: found: 2 replaceable, at sti+0x11, sti_guarded+0x1d (--fail-on)\n")
    file = tmp_path / "accepted.txt"
    file.write_text("sti, unmask, replaceable, old processors\n# note\nsti, mask, replaceable, gone\n")
    code, _, said = run(guest, "--fail-on", "replaceable", "--accept", file)
    assert code == 3
    assert said == (
        f"xtrace: {file}:3: matches nothing: sti, mask, replaceable\n"
        "xtrace: found: 1 replaceable, at sti_guarded+0x1d (--fail-on)\n"
    )
    file.write_text("sti, unmask, replaceable, old\nsti_guarded, unmask, replaceable, old\n")
    assert run(guest, "--fail-on", "replaceable", "--accept", file)[::2] == (0, "")
    assert run(guest, "--fail-on", "undecided", "--accept", file)[0] == 3


def test_files_of_other_systems(run: Run, guest: Path, tmp_path: Path) -> None:
    file = tmp_path / "two words.txt"
    listed = run(guest, "--list-sites")[1]
    file.write_bytes(b"\xef\xbb\xbf# from Windows\r\n" + listed.replace("\n", "\r\n").encode())
    assert run(guest, "--expect-sites", file)[::2] == (0, "")


def test_lines_that_match_nothing_are_named_without_a_gate(run: Run, guest: Path, tmp_path: Path) -> None:
    file = tmp_path / "accepted.txt"
    file.write_text("gone, mask, removable, why\n")
    code, _, said = run(guest, "--accept", file)
    assert (code, said) == (0, f"xtrace: {file}:1: matches nothing: gone, mask, removable\n")


@pytest.mark.parametrize(
    ("option", "text", "words"),
    [
        (
            "--accept",
            "sti, unmask, replaceable,\n",
            "file.txt:1: the reason is empty; say why sti is accepted",
        ),
        ("--accept", "sti, unmask\n", "file.txt:1: has 2 fields; write: symbol, kind, finding, reason"),
        ("--expect-sites", "sti\n", "file.txt:1: has 1 fields; write: symbol, kind, fence"),
        ("--expect-sites", "sti, open, -\n", "file.txt:1: no such kind: open"),
        ("--expect-sites", "sti, mask, none\x1b[1m\n", "file.txt:1: no such fence: none\\x1b[1m"),
        ("--expect-sites", "# none yet\n", "file.txt: expects no site; write it with --list-sites"),
    ],
)
def test_bad_files(run: Run, guest: Path, tmp_path: Path, option: str, text: str, words: str) -> None:
    file = tmp_path / "file.txt"
    file.write_text(text)
    code, out, said = run(guest, option, file)
    assert (code, out) == (2, "")
    assert words in said.replace("\n", " ")


def test_missing_files(run: Run, guest: Path, tmp_path: Path) -> None:
    for option in ("--accept", "--expect-sites"):
        code, out, said = run(guest, option, tmp_path / "none")
        assert (code, out) == (1, "")
        assert said.count("\n") == 1
        assert "none" in said


def test_sarif_of_a_guest(run: Run, guest: Path, tmp_path: Path) -> None:
    code, out, said = run(guest, "--sarif")
    assert (code, said) == (0, "")
    results = json.loads(out)["runs"][0]["results"]
    lines = [one["locations"][0]["physicalLocation"]["region"]["startLine"] for one in results]
    assert {"replaceable", "no-pending-test", "undecided"} <= {one["ruleId"] for one in results}
    assert len(lines) == len(results)
    file = tmp_path / "accepted.txt"
    file.write_text("sti, unmask, replaceable, old processors\n")
    code, out, said = run(guest, "--sarif", "--accept", file, "--fail-on", "replaceable")
    assert code == 3
    suppressed = [one for one in json.loads(out)["runs"][0]["results"] if "suppressions" in one]
    assert [one["suppressions"][0]["justification"] for one in suppressed] == ["old processors"]


@pytest.mark.parametrize("option", ["--sarif", "--list-sites"])
def test_output_for_machines_needs_one_image_and_no_other_form(run: Run, guest: Path, option: str) -> None:
    assert run(guest, guest, option)[0] == 2
    assert run(guest, option, "--json")[0] == 2


def test_only_replaceable_sites(run: Run, guest: Path) -> None:
    found = json.loads(run(guest, "--json", "--only", "replaceable")[1])["sites"]
    assert [one["symbol"] for one in found] == ["sti", "sti_guarded"]
    assert {one["verdict"] for one in found} == {"replaceable"}
    assert json.loads(run(guest, "--json", "--only", "removable")[1])["sites"] == []
