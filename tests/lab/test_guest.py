"""The lab's own guest: its image is as intended, and the site finder finds its sites and fences."""

from __future__ import annotations

import os
import re
import struct
import subprocess
from dataclasses import dataclass
from pathlib import Path

import pytest
from elftools.elf.elffile import ELFFile

from lab.guest.build import FENCES, PLACES, SOURCES, VARIANTS, Variant, build
from xtrace.symbols.image.image import open_image
from xtrace.symbols.sites.finder import find_sites
from xtrace.symbols.sites.model import Fence, Kind, Site, Verdict

TIMEOUT_S = 60
VIRT_BASE = 0xFFFF_FFFF_8000_0000
#: Each fence as printed by objdump and by the site finder; its operands distinguish the handler's xchg.
SPELLED = {
    "none": ("", ""),
    "lfence": ("lfence", "lfence"),
    "mfence": ("mfence", "mfence"),
    "lockadd": ("lock addq $0x0,(%rsp)", "lock add"),
    "xchg": ("xchg %rax,-0x8(%rsp)", "xchg"),
}
#: Functions with a fence, once each.
FENCED = ("upcalls_mask", "upcalls_save", "upcalls_restore", "upcalls_unmask")
#: Every site, in address order: function, kind, part of its source line.
SITES = (
    ("take_events", Kind.PENDING_CLEAR, "evtchn_upcall_pending = 0"),
    ("take_events", Kind.SELECTOR_TAKE, "xchgq"),
    ("force_callback", Kind.FORCE_CALLBACK, "call hypercall_page"),
    ("upcalls_mask", Kind.MASK, "evtchn_upcall_mask = 1"),
    ("upcalls_save", Kind.SAVE, "mask = vcpu->evtchn_upcall_mask"),
    ("upcalls_save", Kind.MASK, "evtchn_upcall_mask = 1"),
    ("upcalls_restore", Kind.RESTORE, "evtchn_upcall_mask = mask"),
    ("upcalls_restore", Kind.PENDING_TEST, "vcpu->evtchn_upcall_pending)"),
    ("upcalls_unmask", Kind.UNMASK, "evtchn_upcall_mask = 0"),
    ("upcalls_unmask", Kind.PENDING_TEST, "vcpu->evtchn_upcall_pending)"),
)
PADDING = re.compile(r"(data16 |cs )*nop|xchg %ax,%ax$")
PENDING_ORDER = ("xchg", "inline", "", "after", Verdict.KEEP)
SELECTOR_ACCESS = ("xchg", "inline", "", "access", Verdict.KEEP)


@dataclass(frozen=True, slots=True)
class Built:
    variant: Variant
    image: Path


def run(*command: str | Path, folder: Path | None = None) -> str:
    done = subprocess.run(
        [str(word) for word in command],
        capture_output=True,
        text=True,
        timeout=TIMEOUT_S,
        check=False,
        cwd=folder,
        env={**os.environ, "LC_ALL": "C"},
    )
    assert done.returncode == 0, done.stderr
    assert not done.stderr
    return done.stdout


@pytest.fixture(scope="session")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("guest")


@pytest.fixture(scope="session", params=VARIANTS, ids=str)
def built(request: pytest.FixtureRequest, folder: Path) -> Built:
    return Built(request.param, build(folder, request.param))


def notes(image: Path) -> dict[int, bytes]:
    """Return the values of the notes for Xen by type (xen/include/public/elfnote.h)."""
    with image.open("rb") as file:
        (segment,) = (one for one in ELFFile(file).iter_segments() if one["p_type"] == "PT_NOTE")
        data = segment.data()
    found = {}
    while data:
        name_bytes, value_bytes, kind = struct.unpack_from("<III", data)
        start = 12 + (name_bytes + 3) // 4 * 4
        if data[12 : 12 + name_bytes] == b"Xen\0":
            found[kind] = data[start : start + value_bytes]
        data = data[start + (value_bytes + 3) // 4 * 4 :]
    return found


def symbols(image: Path) -> dict[str, tuple[int, int]]:
    """Return each symbol's address and size by name, according to readelf."""
    rows = re.findall(
        r"^ *\d+: ([0-9a-f]{16}) +(\d+) \w+ +\w+ +\w+ +(\w+) (\w+)$", run("readelf", "-sW", image), re.M
    )
    assert not [name for _, _, section, name in rows if section == "UND"]
    return {name: (int(address, 16), int(size)) for address, size, _, name in rows}


def instructions(image: Path, function: str) -> list[str]:
    listing = run("objdump", "-d", "--no-show-raw-insn", "--no-addresses", f"--disassemble={function}", image)
    _, _, body = listing.partition(f"<{function}>:\n")
    lines = [re.sub(r" *#.*", "", line) for line in body.splitlines() if line.startswith("\t")]
    return [re.sub(r"\s+", " ", line).strip() for line in lines]


def test_xen_finds_its_notes(built: Built) -> None:
    listed = run("readelf", "-nW", built.image)
    assert len(re.findall(r"^  Xen ", listed, re.M)) == 9
    assert "Build ID" in listed
    known = symbols(built.image)
    values = notes(built.image)
    assert values.pop(1) == struct.pack("<Q", known["_start"][0])
    assert values.pop(2) == struct.pack("<Q", known["hypercall_page"][0])
    assert values.pop(3) == struct.pack("<Q", VIRT_BASE)
    assert values.pop(4) == struct.pack("<Q", 0)
    assert values == {
        5: b"xen-3.0\0",
        6: b"xtrace-guest\0",
        7: b"1\0",
        8: b"generic\0",
        10: b"pae_pgdir_above_4gb\0",
    }


def test_it_is_linked_at_the_address_in_its_notes(built: Built) -> None:
    assert "There are no relocations in this file." in run("readelf", "-rW", built.image)
    known = symbols(built.image)
    for page in ("hypercall_page", "shared_info"):
        address, size = known[page]
        assert (address % 4096, size) == (0, 4096)
    assert known["counters"][0] % 4096 == 0
    with built.image.open("rb") as file:
        elf = ELFFile(file)
        assert elf["e_entry"] == known["_start"][0]
        loaded = [one for one in elf.iter_segments() if one["p_type"] == "PT_LOAD"]
        assert [one["p_vaddr"] - one["p_paddr"] for one in loaded] == [VIRT_BASE] * 2
        assert not [one for one in loaded if one["p_flags"] & 3 == 3]
        assert elf.has_dwarf_info()


def test_its_fences_are_where_the_build_put_them(built: Built) -> None:
    fence = SPELLED[built.variant.fence][0]
    outside = built.variant.place == "outofline"
    for function in FENCED:
        code = instructions(built.image, function)
        assert code.count(fence) == (fence != "" and not outside), function
        assert len([line for line in code if line in ("call <fence>", "jmp <fence>")]) == outside
    known = symbols(built.image)
    assert ("fence" in known) == outside
    if outside:
        assert instructions(built.image, "fence")[:2] == ([fence, "ret"] if fence else ["ret"])
    everywhere = run("objdump", "-d", "--no-show-raw-insn", "--no-addresses", built.image)
    found = re.findall(r"^\t([lms]fence|lock add|xchg *%\w+,\S*\(%rsp\))", everywhere, re.M)
    assert len(found) == (fence != "") * (1 if outside else len(FENCED))


@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize("fence", [fence for fence in FENCES if fence != "none"])
def test_only_the_fence_differs(folder: Path, fence: str, place: str) -> None:
    fenced, plain = build(folder, Variant(fence, place)), build(folder, Variant("none", place))

    def code(image: Path, function: str) -> list[str]:
        unplaced = [
            re.sub(r"\+0x\w+>|\S+(?=\(%rip\))|\$0xffffffff8\w+", "", line)
            for line in instructions(image, function)
        ]
        return [line for line in unplaced if line != SPELLED[fence][0] and not PADDING.match(line)]

    for function in (*FENCED, "take_events", "evtchn_upcall", "guest_main"):
        assert code(fenced, function) == code(plain, function)
        assert code(plain, function)


def expected_fences(
    site: tuple[str, Kind, str], variant: Variant
) -> list[tuple[str, str, str, str, Verdict]]:
    function, kind, _ = site
    if kind is Kind.PENDING_CLEAR:
        return [PENDING_ORDER]
    if kind is Kind.SELECTOR_TAKE:
        return [SELECTOR_ACCESS]
    if variant.fence == "none" or kind not in (Kind.MASK, Kind.RESTORE, Kind.UNMASK):
        return []
    how = "inline" if variant.place == "inline" else "tail jump" if function == "upcalls_mask" else "callee"
    via = "" if how == "inline" else "fence"
    return [(SPELLED[variant.fence][1], how, via, "after", Verdict.REMOVABLE)]


def shown(fence: Fence, named: bool = True) -> tuple[str, str, str, str, Verdict]:
    return fence.mnemonic, str(fence.how), fence.via if named else "", fence.position, fence.verdict


def source_line(site: Site) -> str:
    assert site.place is not None
    return (SOURCES / site.place.file).read_text().splitlines()[site.place.line - 1]


def test_the_finder_finds_exactly_its_sites(built: Built) -> None:
    table = find_sites(open_image(built.image))
    assert not table.damage
    assert [(site.symbol, site.kind) for site in table.sites] == [
        (function, kind) for function, kind, _ in SITES
    ]
    for site, expected in zip(table.sites, SITES, strict=True):
        assert [shown(fence) for fence in site.fences] == expected_fences(expected, built.variant), expected
        assert expected[2] in source_line(site)
        # One vCPU and no threads, which the code does not show.
        assert {hazard.name for hazard in site.hazards} <= {"unstable-pointer"}
        if site.kind in (Kind.RESTORE, Kind.UNMASK):
            assert len(site.callbacks) == 1
            assert site.pending_paths == "all paths"
    known = symbols(built.image)
    assert table.facts.hypercall_page == known["hypercall_page"][0]
    assert known["hypervisor_callback"][0] in {one.address for one in table.facts.callbacks}


@pytest.mark.parametrize("strip", ["--strip-debug", "--strip-all"])
def test_the_finder_needs_neither_dwarf_nor_symbols(built: Built, tmp_path: Path, strip: str) -> None:
    bare = tmp_path / "bare.elf"
    run("objcopy", strip, built.image, bare)
    whole, table = find_sites(open_image(built.image)), find_sites(open_image(bare))

    def facts(site: Site) -> tuple[int, Kind, list[tuple[str, str, str, str, Verdict]]]:
        return site.address, site.kind, [shown(fence, named=False) for fence in site.fences]

    assert [facts(site) for site in table.sites] == [facts(site) for site in whole.sites]


def test_an_image_depends_only_on_its_sources(tmp_path: Path, folder: Path) -> None:
    variant = Variant("mfence", "outofline")
    first, second = build(folder, variant), build(tmp_path / "elsewhere", variant)
    assert first.read_bytes() == second.read_bytes()
    assert str(SOURCES.parents[2]).encode() not in first.read_bytes()


def test_the_build_script_prints_its_usage(tmp_path: Path) -> None:
    out = str(tmp_path)
    wrong: list[list[str]] = [
        [],
        [out, "sfence"],
        [out, "lfence", "outside"],
        [out, "none", "inline", "more"],
    ]
    for words in wrong:
        command = [str(SOURCES / "build.sh"), *words]
        done = subprocess.run(command, capture_output=True, text=True, timeout=TIMEOUT_S, check=False)
        assert done.returncode == 2
        assert "FENCE: none, lfence" in done.stderr


def test_the_configuration_names_the_image(built: Built) -> None:
    text = (built.image.parent / "guest.cfg").read_text()
    assert 'type = "pv"' in text
    assert re.search(r'^kernel = "guest-\w+-\w+\.elf"$', text, re.M)
