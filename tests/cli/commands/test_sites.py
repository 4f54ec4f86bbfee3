"""`xtrace sites` as users run it, and its text for hand-made sites."""

from __future__ import annotations

import csv
import io
import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from wcwidth import wcswidth

from builders.guest import Builder, Variant
from builders.made_sites import BASE, FACTS, fence, site, table
from xtrace.cli.main import main
from xtrace.cli.render import sites
from xtrace.cli.terminal.style import put
from xtrace.symbols.dwarf.source_locations import Frame, SourceLocation
from xtrace.symbols.flow.walk import Paths
from xtrace.symbols.image.linux_patching import Patching
from xtrace.symbols.listing.compare import compare
from xtrace.symbols.sites.model import Hazard, How, Kind, Site, SiteTable, Verdict

WIDTH = 80
MOVED = Hazard(
    "unstable-pointer", "the pointer was loaded earlier; nothing found keeps the thread on its CPU"
)

Capture = pytest.CaptureFixture[str]
Run = Callable[..., tuple[int, str]]

# --- text, of hand-made sites ----------------------------------------------------------------------

SITES = table(
    site("spllower", 0x12, fences=(fence(),)),
    site(
        "xen_upcall_with_a_name_wider_than_its_column",
        0x1112,
        address=BASE + 0x99,
        fences=(
            fence(how=How.TAIL_JUMP),
            fence("mfence", "", verdict=Verdict.UNDECIDED, reason="the paths differ"),
        ),
        hazards=(MOVED,),
    ),
    site("stipending", 0x33, address=BASE + 0x300, hazards=(MOVED,), pending_paths=Paths.NONE),
    site("plain", 0, address=BASE + 0x380),
    site(
        "Xsti",
        0,
        address=BASE + 0x340,
        exit="iretq at 0xffffffff80200360",
        patched=".altinstructions",
    ),
    site("cli", 0, Kind.MASK, address=BASE + 0x400),
    site(
        "take",
        0x40,
        Kind.SELECTOR_TAKE,
        fences=(
            fence(
                "xchg",
                "",
                position="access",
                verdict=Verdict.KEEP,
                reason="other CPUs write this field: the access must stay locked",
            ),
        ),
    ),
    site("panic", 0x40, Kind.DEBUG_READ),
    damage=("symbol table: 3 entries lie outside the file",),
)

HEAD = """\
image    /boot/netbsd
guest    NetBSD 4.99
unread   symbol table: 3 entries lie outside the file
found    8 sites, 2 with a hazard; 3 with a fence: 2 removable, 1 keep
"""

DETAILS = """\

kind           sites  fenced  removable  undecided  keep  no fence  hazards
---------------------------------------------------------------------------
mask               1       0          0          0     0         1        0
unmask             5       2          2          0     0         3        2
selector take      1       1          0          0     1         0        0
debug read         1       0          0          0     0         1        0
(removable: no upcall is lost without it; undecided: the image alone does not
show it; keep: needed, or the rule does not cover it; --explain SITE shows why)

build-id 0123456789abcdef0123456789abcdef01234567
notes    VIRT_BASE=0xffffffff80000000
entries  hypercall page 0xffffffff80201000 by note; callbacks: event
         0xffffffff80200100 by symbol hypervisor_callback
patching no table shows that the kernel patches its code
fields   pending 0, mask 1: by DWARF
"""

TABLE = """\

unmask: 5 sites, 2 with a fence
ffffffff80200099  xen_upcall_wi..olumn+0x1112  lfence jump x86_lfence  removable
                                               mfence inline           undecided
  hazard unstable-pointer: the pointer was loaded earlier; nothing found keeps
    the thread on its CPU
  removable: one byte is stored and the pending test follows on all paths
  undecided: the paths differ
ffffffff80200012  spllower+0x12                lfence call x86_lfence  removable
  removable: one byte is stored and the pending test follows on all paths
ffffffff80200300  stipending+0x33                                      no fence
  hazard unstable-pointer: the pointer was loaded earlier; nothing found keeps
    the thread on its CPU
ffffffff80200340  Xsti                                                 no fence
  exit: iretq at 0xffffffff80200360
  patched: .altinstructions lets the kernel change these bytes at run time
ffffffff80200380  plain                                                no fence

selector take: 1 site, 1 with a fence
ffffffff80200040  take+0x40  xchg inline  keep
  keep: other CPUs write this field: the access must stay locked

mask: 1 site, none with a fence
ffffffff80200400  cli  no fence
"""

COMPARED = """\

change   fences removed 2, added 0; sites gone 1, new 1, changed 1, same 2
removed  1 lfence in x86_lfence, 1 xchg inline

gone, selector take: 1 site of the old image
ffffffff80200040  take+0x40  xchg inline  keep
  keep: other CPUs write this field: the access must stay locked

new, save: 1 site of the new image
ffffffff80200000  added  no fence

changed: 1 site
ffffffff80200010  unmask  spllower+0x10
    fence gone: lfence in x86_lfence
    verdict: removable -> no fence
"""

ONE = """\
0xffffffff80200012  spllower+0x12
kind     unmask
also     _spllower
source   arch/xen/hypervisor_machdep.c:123
         in unmask cpu.h:7
         in spllower arch/xen/hypervisor_machdep.c:120
code     movb $0x0,0x1(%rbx)
access   1 byte, in .text
pointer  %gs:0x10, then field 0x290; running CPU, preemption off
fence    lfence call x86_lfence at 0xffffffff8020f000, after the access on all
         paths: removable, one byte is stored and the pending test follows on
         all paths
tests    0xffffffff8020001b on all paths
patched  by .altinstructions
verdict  removable: one byte is stored and the pending test follows on all paths
hazard   unstable-pointer: the pointer was loaded earlier; nothing found keeps
         the thread on its CPU
"""


def test_the_head_describes_the_image(capsys: Capture) -> None:
    sites.print_head(put, SITES)
    assert capsys.readouterr().out == HEAD
    sites.print_details(put, SITES)
    assert capsys.readouterr().out == DETAILS


def test_sites_with_nothing_to_say_about_them_are_cut_with_a_count(capsys: Capture) -> None:
    many = [site(f"plain{number}", 0, address=BASE + number) for number in range(9)]
    notable = [site("last", 0, address=BASE + 99, patched=".altinstructions")]
    sites.print_sites(put, [*many, *notable])
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[1] for line in lines if line.startswith("ffffffff")] == [
        "last", "plain0", "plain1", "plain2", "plain3",
    ]  # fmt: skip
    assert lines[-1] == "  5 more without a fence: --wide"


def test_a_wide_terminal_shows_names_whole(capsys: Capture, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "200")
    sites.print_sites(put, [site("a" * 100, 0x10, fences=(fence(),))])
    out = capsys.readouterr().out
    assert "a" * 100 in out
    assert max(map(len, out.splitlines())) <= 200


def test_sites_are_grouped_by_kind_with_fenced_sites_first(capsys: Capture) -> None:
    sites.print_sites(put, SITES.sites)
    assert capsys.readouterr().out == TABLE


def test_a_comparison_shows_what_changed(capsys: Capture) -> None:
    kept = [one for one in SITES.sites if one.symbol in ("spllower", "cli", "Xsti", "take")]
    old = table(*kept)
    new = table(
        site("spllower", 0x10),
        site("added", 0, Kind.SAVE),
        *(replace(one, address=one.address + 64) for one in kept if one.symbol in ("cli", "Xsti")),
    )
    sites.print_comparison(put, compare(old, new))
    assert capsys.readouterr().out == COMPARED


def test_all_facts_of_one_site(capsys: Capture) -> None:
    source = "arch/xen/hypervisor_machdep.c"
    place = SourceLocation(
        source, 123, "unmask", (Frame("unmask", "cpu.h", 7), Frame("spllower", source, 120))
    )
    found = site(
        fences=(fence(),),
        aliases=("_spllower",),
        place=place,
        patched=".altinstructions",
        hazards=(MOVED,),
    )
    sites.print_site(put, found)
    assert capsys.readouterr().out == ONE


def test_an_image_without_sites_says_so(capsys: Capture) -> None:
    facts = replace(FACTS, hypercall_page=None, callbacks=(), notes=(), guest_os="", guest_version="")
    nothing = table(facts=facts, layout=(), build_id="")
    sites.print_head(put, nothing)
    out = capsys.readouterr().out
    assert "guest    no Xen note" in out
    assert "fields   not found" in out
    assert out.endswith("\nfound    no site\n")
    sites.print_details(put, nothing)
    assert "entries  callbacks: none" in capsys.readouterr().out


def test_problems_of_patch_tables_are_shown(capsys: Capture) -> None:
    facts = replace(FACTS, patching=Patching((), (".smp_locks: no known layout fits its 3 bytes",)))
    sites.print_details(put, table(site(patched=".altinstructions"), facts=facts))
    assert "         .smp_locks: no known layout fits its 3 bytes\n" in capsys.readouterr().out


def test_names_from_an_image_are_escaped_and_fit_80_columns(capsys: Capture) -> None:
    name = "\x1b[2J" + "x" * 5000
    nasty = site(
        name,
        aliases=(name,),
        fences=(fence(name, name, reason=name),),
        hazards=(Hazard(name, name),),
        section=name,
        text=name,
        origin=name,
        patched=name,
        place=SourceLocation(name, 1, name, (Frame(name, name, 1),)),
    )
    found = table(nasty, path=name, layout=(name,), damage=(name,))
    sites.print_head(put, found)
    sites.print_sites(put, found.sites)
    sites.print_details(put, found)
    sites.print_comparison(put, compare(table(), found))
    sites.print_comparison(put, compare(found, table(replace(nasty, fences=()))))
    sites.print_site(put, replace(nasty, symbol=name[:40]))
    out = capsys.readouterr().out
    assert "\x1b" not in out
    assert max(map(len, out.splitlines())) <= WIDTH


@pytest.mark.parametrize("name", ["\u4e2d\u6587" * 30, "e\u0301" * 30, "\u05e9\u05dc\u05d5\u05dd"])
def test_names_of_any_script_break_no_column(name: str, capsys: Capture) -> None:
    rows = [site(name, 0x10, fences=(fence(),)), site("plain", 0x20, address=BASE + 1, fences=(fence(),))]
    sites.print_sites(put, [replace(one, verdict=Verdict.REMOVABLE) for one in rows])
    lines = [line.replace("\u200e", "") for line in capsys.readouterr().out.splitlines()]
    assert max(map(wcswidth, lines)) <= WIDTH
    ends = {wcswidth(line) for line in lines if line.endswith("removable")}
    assert len(ends) == 1


def test_32_bit_addresses_leave_more_room_for_names(capsys: Capture) -> None:
    sites.print_sites(put, [site("a" * 60, 0, address=0xC010_0000, fences=(fence(),))])
    row = capsys.readouterr().out.splitlines()[2]
    assert row.startswith("c0100000  aaaaaaaaaaaaaa")
    assert len(row) <= WIDTH


# --- the command, on guests compiled by the tests --------------------------------------------------


@pytest.fixture(scope="module")
def builder(tmp_path_factory: pytest.TempPathFactory) -> Builder:
    if shutil.which("gcc") is None or shutil.which("objcopy") is None:
        pytest.skip("no compiler here")
    return Builder(tmp_path_factory.mktemp("guests"))


@pytest.fixture(scope="module")
def guest(builder: Builder) -> Path:
    return builder.build("netbsd.c", Variant()).image


@pytest.fixture
def run(capfd: Capture) -> Run:
    """Return a function that runs `xtrace sites` and returns its exit code and what it printed."""

    def call(*arguments: str | Path) -> tuple[int, str]:
        code = main(["sites", *map(str, arguments)])
        out, err = capfd.readouterr()
        assert not (out and err and "(--fail-on)" not in err)
        return code, out or err

    return call


def loaded(run: Run, *arguments: str | Path) -> Any:
    code, out = run(*arguments, "--json")
    assert code == 0
    return json.loads(out)


def test_the_sites_of_a_guest(run: Run, guest: Path) -> None:
    code, out = run(guest)
    assert code == 0
    assert max(map(len, out.splitlines())) <= WIDTH
    assert out.startswith(f"image    {guest}"[:WIDTH])
    for kind in ("mask", "unmask", "restore", "selector take"):
        assert f"\n{kind}: " in out
    assert out.index("with a fence") < out.index("none with a fence")
    assert "lfence call x86_lfence" in out


def test_json_of_a_guest(run: Run, guest: Path) -> None:
    found = loaded(run, guest)
    assert found["schema_version"] == 2
    assert found["image"]["path"] == str(guest)
    addresses = [one["address"] for one in found["sites"]]
    assert addresses == sorted(addresses)
    by_symbol = {one["symbol"]: one for one in found["sites"] if one["kind"] == "unmask"}
    assert by_symbol["unmask"]["fences"][0]["via"] == "x86_lfence"
    assert by_symbol["unmask"]["file"].endswith("netbsd.c")
    assert by_symbol["unmask_plain"]["fences"] == []


def test_csv_of_a_guest(run: Run, guest: Path) -> None:
    code, out = run(guest, "--csv")
    assert code == 0
    rows = list(csv.DictReader(io.StringIO(out, newline="")))
    found = loaded(run, guest)["sites"]
    assert [int(row["address"], 16) for row in rows] == [one["address"] for one in found]


def test_wide_has_one_line_per_site_and_all_columns(run: Run, guest: Path) -> None:
    code, out = run(guest, "--wide")
    assert code == 0
    head, *lines = out.splitlines()
    assert len(lines) == len(loaded(run, guest)["sites"])
    assert {"inline", "origin", "cpu", "file", "line", "text", "hazards"} <= set(head.split())


def test_no_lines_leaves_out_source_lines(run: Run, guest: Path) -> None:
    assert {one["file"] for one in loaded(run, guest, "--no-lines")["sites"]} == {None}


@pytest.mark.parametrize("only", ["fenced", "hazards", "removable"])
def test_only_selects_sites(run: Run, guest: Path, only: str) -> None:
    whole, part = loaded(run, guest)["sites"], loaded(run, guest, "--only", only)["sites"]
    chosen: dict[str, Callable[[Any], bool]] = {
        "fenced": lambda one: bool(one["fences"]),
        "hazards": lambda one: bool(one["hazards"]),
        "removable": lambda one: any(known["verdict"] == "removable" for known in one["fences"]),
    }
    assert part == [one for one in whole if chosen[only](one)]
    assert 0 < len(part) < len(whole)


@pytest.mark.parametrize(
    ("name", "reasons", "code"),
    [
        ("netbsd.c", ["removable"], 3),
        ("hazards_amd64.S", ["undecided"], 3),
        ("hazards_amd64.S", ["hazard"], 3),
        ("hvm_amd64.S", ["hazard", "removable", "replaceable", "undecided"], 1),
        ("illumos_amd64.S", ["replaceable"], 3),
        ("netbsd.c", ["replaceable"], 0),
    ],
)
@pytest.mark.parametrize("shape", [[], ["--json"], ["--csv"], ["--only", "hazards"]])
def test_fail_on_does_not_change_the_output(
    run: Run,
    capfd: Capture,
    builder: Builder,
    name: str,
    reasons: list[str],
    code: int,
    shape: list[str],
) -> None:
    image = builder.build(name, Variant()).image
    plain, out = run(image, *shape)
    assert plain == 0
    options = [word for reason in reasons for word in ("--fail-on", reason)]
    capfd.readouterr()
    assert main(["sites", str(image), *shape, *options]) == code
    with_gate, said = capfd.readouterr()
    assert with_gate == out
    # Only standard error says what was found.
    assert bool(said) is bool(code)
    assert said.startswith("xtrace: found: " if code == 3 else "xtrace: ") or not said


def test_the_same_image_twice_shows_no_change(run: Run, guest: Path) -> None:
    code, out = run(guest, guest)
    assert code == 0
    assert "fences removed 0, added 0; sites gone 0, new 0, changed 0, same" in out
    assert "\nchanged: " not in out


def test_a_patch_that_removes_fences(run: Run, builder: Builder, tmp_path: Path) -> None:
    """The fences of the new image are nops; nothing else differs."""
    old = builder.build("netbsd.c", Variant()).image
    new = tmp_path / "patched"
    data = old.read_bytes()
    found = loaded(run, old)
    inline = sum(known["how"] == "inline" for one in found["sites"] for known in one["fences"])
    fences = {"lfence": b"\x0f\xae\xe8", "mfence": b"\x0f\xae\xf0"}
    new.write_bytes(
        data.replace(fences["lfence"], b"\x0f\x1f\x00").replace(fences["mfence"], b"\x0f\x1f\x00")
    )
    counts = [len(one["fences"]) for one in found["sites"]]
    left = loaded(run, new)
    kept = sum(len(one["fences"]) for one in left["sites"])
    assert inline > 0
    changes = loaded(run, old, new)["changes"]
    assert changes["fences_removed_count"] == sum(counts) - kept > 5
    assert (changes["gone_count"], changes["added_count"], changes["fences_added_count"]) == (0, 0, 0)
    code, out = run(old, new, "--fail-on", "removable")
    assert code == 0, "--fail-on is about the new image"
    assert f"fences removed {sum(counts) - kept}, added 0" in out
    assert max(map(len, out.splitlines())) <= WIDTH
    assert run(new, old, "--fail-on", "removable")[0] == 3
    code, out = run(old, new, "--csv")
    assert {row["change"] for row in csv.DictReader(io.StringIO(out, newline=""))} == {"changed"}


def test_explain_by_symbol_offset_and_address(run: Run, guest: Path) -> None:
    one = next(s for s in loaded(run, guest)["sites"] if (s["symbol"], s["kind"]) == ("unmask", "unmask"))
    place = f"unmask+{one['offset']:#x}"
    code, out = run(guest, "--explain", place)
    assert code == 0
    assert max(map(len, out.splitlines())) <= WIDTH
    assert f"{place}, path 1 of 2:" in out
    assert re.search(r"^  0x[0-9a-f]+ +movb \$0,.*; M := 0", out, re.MULTILINE)
    assert re.search(r"^  0x[0-9a-f]+ +lfence; fence, called at 0x", out, re.MULTILINE)
    assert "protects nothing here" in out
    for name in (hex(one["address"]), f"{one['address']:x}"):
        assert run(guest, "--explain", name) == (0, out)
    assert out.strip() in run(guest, "--explain", "unmask")[1]


def test_explain_shows_how_an_upcall_is_lost(run: Run, builder: Builder) -> None:
    image = builder.build("hazards_amd64.S", Variant()).image
    code, out = run(image, "--explain", "tested_before")
    assert code == 0
    assert "Counterexample: an upcall is lost" in out


def test_explain_lists_nearby_sites(run: Run, guest: Path) -> None:
    code, out = run(guest, "--explain", "unmask+0xfff")
    assert code == 2
    assert re.search(r"no site at unmask\+0xfff; .*\bunmask\+0x1", out)
    code, out = run(guest, "--explain", "no such\nthing")
    assert code == 2
    assert out.count("\n") == 1


def test_a_separate_debug_file(run: Run, builder: Builder) -> None:
    from builders.guest import Carries

    made = builder.build("netbsd.c", Variant(carries=Carries.DEBUG_FILE))
    assert made.debug is not None
    assert {one["file"] for one in loaded(run, made.image)["sites"]} == {None}
    found = loaded(run, made.image, "--debug", made.debug)["sites"]
    assert any((one["file"] or "").endswith("netbsd.c") for one in found)


def test_a_system_map_beside_an_image_without_symbols(run: Run, builder: Builder, tmp_path: Path) -> None:
    from builders.guest import Carries

    made = builder.build("netbsd.c", Variant(carries=Carries.NOTHING))
    listed = subprocess.run(["nm", "-n", made.reference], capture_output=True, text=True, check=True)
    path = tmp_path / "System.map"
    path.write_text("".join(line + "\n" for line in listed.stdout.splitlines() if line.split()[-2] in "tT"))
    found = loaded(run, made.image, "--symbols", path)["sites"]
    assert {"unmask", "mask", "handle"} <= {one["symbol"] for one in found}


# --- errors ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("content", "said"), [(b"#!/bin/sh\n", "text"), (b"", "empty"), (b"\x7fELF" + bytes(9), "cut")]
)
def test_a_file_that_is_not_an_image_is_one_line(run: Run, tmp_path: Path, content: bytes, said: str) -> None:
    path = tmp_path / f"{said}\nimage"
    path.write_bytes(content)
    code, out = run(path)
    assert code == 1
    assert out.startswith("xtrace: ")
    assert out.count("\n") == 1
    assert f"{said}\\nimage" in out


def test_a_missing_image_is_one_line(run: Run, tmp_path: Path) -> None:
    code, out = run(tmp_path / "missing")
    assert (code, out.count("\n")) == (1, 1)
    assert "missing" in out


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ([], "Missing argument"),
        (["a", "b", "c"], "unexpected extra argument"),
        (["a", "--json", "--csv"], "--json/--csv/--wide"),
        (["a", "b", "--debug", "x"], "--debug"),
        (["a", "--symbols", "x", "--symbols", "y"], "--symbols"),
        (["a", "b", "--explain", "x"], "--explain"),
        (["a", "--only", "all"], "--only"),
        (["a", "--fail-on", "keep"], "--fail-on"),
        (["a", "--explain", "x", "--fail-on", "hazard"], "--fail-on"),
        (["a", "--explain", "x", "--expect", "3"], "--expect"),
        (["a", "--litmus", "x", "--expect", "0"], "--expect"),
    ],
)
def test_wrong_usage_is_one_line(run: Run, arguments: list[str], said: str) -> None:
    code, out = run(*arguments)
    assert code == 2
    assert said in out
    assert out.count("\n") == 1


def test_help_imports_no_heavy_module() -> None:
    program = (
        "import sys; from xtrace.cli.main import main; code = main(['sites', '--help']);"
        "heavy = {'numpy', 'iced_x86', 'elftools', 'pandas'} & set(sys.modules);"
        "sys.exit(code or bool(heavy))"
    )
    environment = {name: value for name, value in os.environ.items() if not name.startswith("COVERAGE")}
    done = subprocess.run(
        [sys.executable, "-P", "-c", program], capture_output=True, check=False, env=environment, text=True
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert "--fail-on" in done.stdout


def test_hand_made_tables_have_the_finders_types(run: Run, guest: Path) -> None:
    """The hand-made tables above have the same types as the finder's."""
    from xtrace.symbols.image.image import open_image
    from xtrace.symbols.sites.finder import find_sites

    found = find_sites(open_image(guest))
    assert isinstance(found, SiteTable)
    for one in found.sites:
        assert isinstance(one, Site)
        assert type(one.verdict) is Verdict
        assert type(one.kind) is Kind


def test_litmus_tests_are_written_once(run: Run, guest: Path, tmp_path: Path) -> None:
    folder = tmp_path / "litmus"
    code, _ = run(guest, "--litmus", folder)
    assert code == 0
    names = sorted(path.name for path in folder.iterdir())
    assert names[0] == "README"
    assert len(names) > 10
    readme = (folder / "README").read_text()
    assert "herd7 -optace true -speedcheck fast d01-01.litmus" in readme
    first = (folder / "d01-01.litmus").read_text()
    assert first.startswith("X86_64 d01-01\n")
    # A folder with files is refused, and so is an image without sites.
    code, out = run(guest, "--litmus", folder)
    assert code == 1
    assert "not empty" in out
