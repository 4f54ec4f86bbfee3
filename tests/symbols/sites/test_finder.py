"""Run the site finder on guests built here and compare with the expectations in their source."""

from __future__ import annotations

import os
import shutil
from dataclasses import replace
from pathlib import Path

import pytest

from builders.expected import Expected, Lines, Spot, differences, expectations
from builders.guest import GUESTS, Builder, Carries, Guest, Variant
from peer.xenalyze_run import REQUIRE_VARIABLE
from xtrace.symbols.image.image import Image, open_image
from xtrace.symbols.sites.finder import find_sites
from xtrace.symbols.sites.model import Hazard, Kind, Site, SiteTable, Verdict

ASSEMBLY = sorted(path.name for path in GUESTS.glob("*.S") if path.name != "common.S")
COMPILED = sorted(path.name for path in GUESTS.glob("*.c"))
LEVELS = ("-O0", "-O1", "-O2", "-O3", "-Os")
FRAMES = ("-fno-omit-frame-pointer", "-fomit-frame-pointer")
#: Built with frame pointers only, to save time: others have the same code without them.
ONE_FRAME = ("unikraft.c",)
#: As Linux is compiled: indirect branches and returns go through thunks.
THUNKS = ("-mfunction-return=thunk", "-mindirect-branch=thunk")
#: What cannot be known in stripped images.
NAMED = ("via", "aliases")
UNNAMED = (": not found", "the pointer is unstable", "expected guarded")
#: This guest needs labels to distinguish code from data: without symbols it cannot be read correctly.
LABELLED = "labels_amd64.S"


@pytest.fixture(scope="session")
def builder(tmp_path_factory: pytest.TempPathFactory) -> Builder:
    return Builder(tmp_path_factory.mktemp("guests"))


def assembly_variants() -> list[tuple[str, Variant]]:
    """Return every assembly guest, linked with each kind of symbols it may carry, and as an object file."""
    variants = []
    for name in ASSEMBLY:
        plain = Variant(bits=32 if "i386" in name else 64)
        variants += [
            (name, replace(plain, carries=carries))
            for carries in Carries
            if name != LABELLED or carries is not Carries.NOTHING
        ]
        for carries in (Carries.DWARF, Carries.SYMBOLS):
            variants.append((name, replace(plain, carries=carries, relocatable=True)))
    return variants


def compiled_variants() -> list[tuple[str, Variant]]:
    """Return every C guest at each optimisation level, with and without frame pointers, 32 and 64 bits."""
    variants = []
    for name in COMPILED:
        for bits in (64, 32):
            for level in LEVELS:
                frames = FRAMES[:1] if name in ONE_FRAME else FRAMES
                variants += [(name, Variant(bits, level, flags=(frame,))) for frame in frames]
            variants += [(name, Variant(bits, level, "clang")) for level in LEVELS]
            plain = Variant(bits, "-O2")
            variants += [
                (name, replace(plain, carries=carries))
                for carries in Carries
                if name != LABELLED or carries is not Carries.NOTHING
            ]
            variants.append((name, replace(plain, relocatable=True)))
            variants.append((name, replace(plain, relocatable=True, carries=Carries.SYMBOLS)))
        variants.append((name, Variant(32, "-O2", flags=("-mregparm=3",))))
        variants.append((name, Variant(64, "-O2", flags=THUNKS)))
        variants.append((name, Variant(64, "-O2", flags=THUNKS, carries=Carries.NOTHING)))
    return variants


def named(variants: list[tuple[str, Variant]]) -> list[str]:
    return [f"{name} {variant}" for name, variant in variants]


def found(guest: Guest) -> tuple[SiteTable, list[tuple[Spot, Site]]]:
    """Return a guest's site table, and its sites with section and offset."""
    image = open_image(guest.image, symbols_path=guest.map, debug_path=guest.debug)
    table = find_sites(image, lines=True)
    return table, [(spot_of(image, site), site) for site in table.sites]


def spot_of(image: Image, site: Site) -> Spot:
    section = next(one for one in image.code if one.address <= site.address < one.address + one.size)
    assert section.name == site.section
    return section.name, site.address - section.address


def expected_of(guest: Guest, variant: Variant) -> list[Expected]:
    headers = [GUESTS / "guest.h"] if guest.source.suffix == ".c" else []
    expected = expectations(guest.source, *headers)
    if variant.carries in (Carries.DWARF, Carries.DEBUG_FILE):
        expected = [one for one in expected if "decoy" not in one.keys]
    if variant.carries is Carries.NOTHING:
        return [
            replace(one, keys={key: value for key, value in one.keys.items() if key not in NAMED})
            for one in expected
        ]
    return expected


def check(builder: Builder, name: str, variant: Variant, *, exact: bool) -> None:
    guest = builder.build(name, variant)
    table, sites = found(guest)
    assert not table.damage
    assert [site.address for site in table.sites] == sorted({site.address for site in table.sites})
    wrong = differences(sites, expected_of(guest, variant), Lines(guest.reference), exact=exact)
    if variant.carries is Carries.NOTHING:
        # Without symbols a way to vcpu_info must be learned, and a single site is not enough for that;
        # and calls that keep the thread on its CPU look like any other.
        lost = [line for line in wrong if line.endswith(": not found")]
        assert len(lost) <= len(sites), "\n".join(["", *lost])
        wrong = [line for line in wrong if not line.endswith(UNNAMED)]
    assert not wrong, "\n".join(["", *wrong])


@pytest.mark.parametrize(("name", "variant"), assembly_variants(), ids=named(assembly_variants()))
def test_assembly(builder: Builder, name: str, variant: Variant) -> None:
    check(builder, name, variant, exact=True)


@pytest.mark.parametrize(("name", "variant"), compiled_variants(), ids=named(compiled_variants()))
def test_compiled(builder: Builder, name: str, variant: Variant) -> None:
    if shutil.which(variant.compiler) is None:
        if os.environ.get(REQUIRE_VARIABLE) == "1":
            pytest.fail(
                f"{variant.compiler} is missing ({REQUIRE_VARIABLE}=1 forbids skipping)", pytrace=False
            )
        pytest.skip(f"no {variant.compiler} here")
    check(builder, name, variant, exact=False)


@pytest.mark.parametrize("name", COMPILED)
def test_places_match_the_line_table(builder: Builder, name: str) -> None:
    guest = builder.build(name, Variant())
    _, sites = found(guest)
    lines = Lines(guest.reference)
    assert sites
    for spot, site in sites:
        assert site.place is not None, site
        assert (Path(site.place.file).name, site.place.line) == lines.at(spot)


def test_places_from_a_debug_file(builder: Builder) -> None:
    own, _ = found(builder.build("netbsd.c", Variant()))
    apart, _ = found(builder.build("netbsd.c", Variant(carries=Carries.DEBUG_FILE)))
    bare, _ = found(builder.build("netbsd.c", Variant(carries=Carries.SYMBOLS)))
    assert [site.place for site in own.sites] == [site.place for site in apart.sites]
    assert not any(site.place for site in bare.sites)


def test_debug_file_is_found_by_build_id(builder: Builder, tmp_path: Path) -> None:
    guest = builder.build("netbsd.c", Variant(carries=Carries.DEBUG_FILE))
    assert guest.debug is not None
    own, _ = found(builder.build("netbsd.c", Variant()))
    image = shutil.copy(guest.image, tmp_path / "netbsd")
    by_id = tmp_path / ".build-id" / own.build_id[:2]
    by_id.mkdir(parents=True)
    shutil.copy(guest.debug, by_id / f"{own.build_id[2:]}.debug")
    table = find_sites(open_image(image), lines=True)
    assert len(own.build_id) == 40
    assert table.build_id == own.build_id
    assert [site.place for site in table.sites] == [site.place for site in own.sites]
    assert all(site.place for site in table.sites)


def test_inline_chain_of_inlined_helpers(builder: Builder) -> None:
    table, _ = found(builder.build("netbsd.c", Variant()))
    saves = [site for site in table.sites if site.kind is Kind.SAVE and "section" in site.symbol]
    assert {site.symbol for site in saves} == {"first_section", "second_section", "third_section"}
    for site in saves:
        assert site.place is not None
        names = [frame.function for frame in site.place.inline]
        assert names[0] == "enter"
        assert names[-1] == site.symbol


def test_masked_range_ends_at_its_restore(builder: Builder) -> None:
    table, _ = found(builder.build("netbsd_amd64.S", Variant()))
    inside = [site for site in table.sites if site.symbol == "spl_section"]
    mask = next(site for site in inside if site.kind is Kind.MASK)
    restore = next(site for site in inside if site.kind is Kind.RESTORE)
    assert any(start <= mask.address + 8 < end for start, end in mask.masked)
    assert not any(start <= restore.address + 8 < end for start, end in mask.masked)


def test_pending_tests_are_sites(builder: Builder) -> None:
    table, _ = found(builder.build("netbsd_amd64.S", Variant()))
    tests = {site.address for site in table.sites if site.kind is Kind.PENDING_TEST}
    followed = [site for site in table.sites if site.pending_tests]
    assert len(followed) >= 8
    assert {site.kind for site in followed} == {Kind.RESTORE, Kind.UNMASK}
    for site in followed:
        assert set(site.pending_tests) <= tests
        assert all(site.address != call for call in site.callbacks)


def test_unlocked_handler_leaves_every_fence_undecided(builder: Builder) -> None:
    table, _ = found(builder.build("unlocked_amd64.S", Variant()))
    fences = [fence for site in table.sites for fence in site.fences if site.kind in (Kind.MASK, Kind.UNMASK)]
    assert len(fences) == 3
    assert {fence.verdict for fence in fences} == {Verdict.UNDECIDED}


def test_unstable_pointer_does_not_change_the_verdict(builder: Builder) -> None:
    table, _ = found(builder.build("netbsd_amd64.S", Variant()))
    site = next(site for site in table.sites if site.symbol == "unmask_callee" and site.kind is Kind.UNMASK)
    assert site.verdict is Verdict.REMOVABLE


def test_hazards_have_reasons(builder: Builder) -> None:
    table, _ = found(builder.build("hazards_amd64.S", Variant()))
    hazards: list[Hazard] = [hazard for site in table.sites for hazard in site.hazards]
    assert {hazard.name for hazard in hazards} >= {
        "wide-store",
        "test-before-store",
        "no-pending-test",
        "unbalanced",
    }
    assert all(hazard.reason for hazard in hazards)


def test_hvm_guest_has_no_sites(builder: Builder) -> None:
    table, sites = found(builder.build("hvm_amd64.S", Variant()))
    assert not sites
    assert not table.damage
