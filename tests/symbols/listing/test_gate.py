"""The gate: what must be found, what is accepted, and images that cannot be checked."""

from __future__ import annotations

from dataclasses import replace

import pytest

from builders.made_sites import BASE, FACTS, fence, site, table
from xtrace.symbols.image.linux_patching import Patching
from xtrace.symbols.listing import gate
from xtrace.symbols.listing.gate import Accepted, Expected
from xtrace.symbols.sites.model import Hazard, Kind, Site, Verdict

MOVED = Hazard("unstable-pointer", "the pointer was loaded earlier")
LOCKED = fence("xchg", "", position="access", verdict=Verdict.REPLACEABLE, reason="a byte store would do")
SITES = (
    site("spllower", 0x12, fences=(fence(),), hazards=(MOVED,)),
    site("spllower", 0x30, address=BASE + 0x30, fences=(LOCKED,)),
    site("cli", 0, Kind.MASK, address=BASE + 0x100, aliases=("x86_disable_intr",)),
    site("", 0, Kind.SAVE, address=BASE + 0x200),
    site("panic", 0, Kind.DEBUG_READ, address=BASE + 0x300, hazards=(MOVED,)),
)
NO_GUEST = replace(
    FACTS, guest_os="", guest_version="", notes=(), legacy=(), hypercall_page=None, callbacks=()
)


def test_findings_are_verdicts_and_hazards() -> None:
    found = [(one.site.offset, one.name, one.reason, one.is_hazard) for one in gate.findings(SITES)]
    assert found == [
        (0x12, "removable", "one byte is stored and the pending test follows on all paths", False),
        (0x12, "unstable-pointer", "the pointer was loaded earlier", True),
        (0x30, "replaceable", "a byte store would do", False),
    ]
    assert {"removable", "replaceable", "undecided"} < set(gate.FINDINGS)
    assert len(set(gate.FINDINGS)) == len(gate.FINDINGS) == 12


def test_a_site_has_each_verdict_of_its_fences() -> None:
    fences = (fence(), LOCKED, fence(verdict=Verdict.UNDECIDED, reason="why"), fence(verdict=Verdict.KEEP))
    found = gate.findings([site(fences=fences)])
    assert [one.name for one in found] == ["removable", "replaceable", "undecided"]


# --- expected sites --------------------------------------------------------------------------------


def test_listed_sites_are_expected_sites() -> None:
    lines = list(gate.list_lines(SITES))
    assert lines == [
        "spllower, unmask, lfence",
        "spllower, unmask, xchg",
        "cli, mask, -",
        f"{BASE + 0x200:#x}, save, -",
        "panic, debug read, -",
    ]
    expected = gate.read_expected("\n".join(lines), "sites.txt")
    assert gate.missing(expected, SITES) == []
    for place, one in enumerate(SITES):
        rest = [other for other in SITES if other is not one]
        assert [line.line for line in gate.missing(expected, rest)] == [place + 1]


@pytest.mark.parametrize(
    ("line", "found"),
    [
        ("spllower+0x12, unmask, lfence", True),
        ("spllower+0x13, unmask, lfence", False),
        ("spllower, unmask, mfence", False),
        ("spllower, unmask, -", False),
        ("spllower, mask, lfence", False),
        (f"{BASE + 0x12:#x}, unmask, lfence", True),
        (f"{BASE + 0x13:#x}, unmask, lfence", False),
        ("x86_disable_intr, mask, -", True),
        ("x86_disable_intr+0x0, mask, -", True),
        ("cli, mask,", True),
        ("cli, mask, lfence", False),
        (", save, -", False),
    ],
)
def test_expected_site(line: str, found: bool) -> None:
    assert (gate.missing(gate.read_expected(line, "f"), SITES) == []) is found


def test_each_site_serves_for_one_line() -> None:
    twice = "cli, mask, -\ncli, mask, -"
    assert [line.line for line in gate.missing(gate.read_expected(twice, "f"), SITES)] == [2]
    # A line that names the place takes its site before one that names only the symbol.
    one = site("f", 1, Kind.MASK)
    other = site("f", 9, Kind.MASK)
    mixed = gate.read_expected("f, mask, -\nf+0x1, mask, -", "f")
    assert gate.missing(mixed, [one, other]) == []
    assert gate.missing(mixed, [other]) == [mixed[1]]


@pytest.mark.parametrize(
    ("symbol", "line", "found"),
    [
        ("enable.constprop.0", "enable", True),
        ("enable.isra.0.cold", "enable", True),
        ("enable.cold", "enable.part.0", True),
        ("enable", "enable.lto_priv.0", True),
        ("enable.llvm.8123", "enable", True),
        ("enable.cfi", "enable", True),
        ("enable.__uniq.123.cfi", "enable", True),
        ("enable.1234", "enable", True),
        ("enable.late", "enable", False),
        ("enable_cold", "enable", False),
        ("enable.cold", "disable", False),
        (".cold", "enable", False),
        (".cold", ".cold", True),
        # A place is exact.
        ("enable.cold", "enable+0x12", False),
        ("enable.cold", "enable.cold+0x12", True),
    ],
)
def test_copies_of_a_function_count_as_it(symbol: str, line: str, found: bool) -> None:
    one = site(symbol)
    assert (gate.missing(gate.read_expected(f"{line}, unmask, -", "f"), [one]) == []) is found
    accepted = gate.read_accepted(f"{line}, unmask, unstable-pointer, why", "f")
    left, _, unused = gate.sort_out(gate.findings([site(symbol, hazards=(MOVED,))]), accepted)
    assert (not left, not unused) == (found, found)


@pytest.mark.parametrize(
    ("symbol", "line"),
    [
        ("enable.constprop.0", "enable, unmask, -"),
        ("a,b", "a,b, unmask, -"),
        ("f<a, mask, b>", "f<a, mask, b>, unmask, -"),
        ("#odd", f"{BASE + 0x12:#x}, unmask, -"),
        (" spaced ", f"{BASE + 0x12:#x}, unmask, -"),
        ("two words", "two words, unmask, -"),
    ],
)
def test_every_listed_line_is_read_back(symbol: str, line: str) -> None:
    one = site(symbol)
    assert list(gate.list_lines([one])) == [line]
    expected = gate.read_expected(line, "f")
    assert gate.missing(expected, [one]) == []


@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
@pytest.mark.parametrize("mark", ["", "\ufeff"])
def test_line_ends_and_marks_of_other_systems(end: str, mark: str) -> None:
    text = mark + end.join(["# note", "", "cli, mask, -", "spllower, unmask, lfence", ""])
    assert [line.line for line in gate.read_expected(text, "f")] == [3, 4]
    text = mark + end.join(["# note", "cli, mask, removable, form feed \x0c and \u2028 within", ""])
    (line,) = gate.read_accepted(text, "f")
    assert (line.line, line.symbol) == (2, "cli")


def test_order_and_spaces_of_fences_do_not_matter() -> None:
    many = site("f", fences=(fence(), fence("lock add"), fence()))
    for text, found in (
        ("lock  add + lfence+ lfence", True),
        ("lfence+lock add+lfence", True),
        ("lfence+lock add", False),
        ("lfence+lfence+lfence", False),
        ("-", False),
    ):
        assert (gate.missing(gate.read_expected(f"f, unmask, {text}", "f"), [many]) == []) is found


def test_commas_in_symbols_and_reasons() -> None:
    (line,) = gate.read_accepted("f<a, b>, unmask, unstable-pointer, as said, twice", "f")
    assert (line.symbol, line.finding, line.reason) == ("f<a, b>", "unstable-pointer", "as said, twice")


def test_several_fences_are_joined() -> None:
    many = site("f", fences=(fence(), fence("lock add")))
    assert gate.fence_key(many.fences) == "lfence+lock add"
    assert gate.missing(gate.read_expected("f, unmask, lfence+lock add", "f"), [many]) == []


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a, mask", "sites.txt:1: has 2 fields; write: symbol, kind, fence"),
        ("# note\n\na, mask, -, x", "sites.txt:3: has 4 fields"),
        ("a, mask, - # note", "sites.txt:1: no such fence: - # note; write mnemonics joined by"),
        ("a, mask, LFENCE", "sites.txt:1: no such fence: LFENCE"),
        ("a, mask, lfence+", "sites.txt:1: no such fence"),
        ("", "sites.txt: expects no site; write it with --list-sites"),
        ("# only this\n\n", "sites.txt: expects no site"),
        ("a, masked, -", "sites.txt:1: no such kind: masked; known are mask, save"),
        ("x" * 5000, "sites.txt:1: has 5,000 characters"),
        ("\n" * 100_002, "sites.txt: has 100,002 lines"),
    ],
)
def test_bad_file_of_expected_sites(text: str, message: str) -> None:
    with pytest.raises(ValueError, match=message.replace(".", r"\.")):
        gate.read_expected(text, "sites.txt")


def test_comments_and_blank_lines_are_skipped() -> None:
    assert gate.read_expected("# a\n\n  # b\n a , mask , lfence \n", "f") == [
        Expected(4, "a", Kind.MASK, "lfence")
    ]


# --- accepted findings -----------------------------------------------------------------------------


def test_accepted_findings_are_left_out() -> None:
    text = (
        "spllower, unmask, unstable-pointer, only with preemption off, see cpu.h\n"
        "spllower, unmask, unbalanced, gone\n"
        "cli, mask, removable, gone too\n"
    )
    accepted = gate.read_accepted(text, "f")
    assert accepted[0] == Accepted(
        1, "spllower", Kind.UNMASK, "unstable-pointer", "only with preemption off, see cpu.h"
    )
    left, closed, unused = gate.sort_out(gate.findings(SITES), accepted)
    assert [one.name for one in left] == ["removable", "replaceable"]
    assert [(one.name, reason) for one, reason in closed] == [
        ("unstable-pointer", "only with preemption off, see cpu.h")
    ]
    assert [line.line for line in unused] == [2, 3]


def test_one_line_accepts_all_sites_of_a_symbol_or_one() -> None:
    sites = [site("f", 1, hazards=(MOVED,)), site("f", 9, hazards=(MOVED,))]
    for symbol, count in (("f", 0), ("f+0x9", 1), ("g", 2)):
        accepted = gate.read_accepted(f"{symbol}, unmask, unstable-pointer, why", "f")
        left, _, unused = gate.sort_out(gate.findings(sites), accepted)
        assert len(left) == count
        assert bool(unused) is (symbol == "g")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a, mask, removable", "f:1: has 3 fields; write: symbol, kind, finding, reason"),
        ("a, mask, removable,", "f:1: the reason is empty; say why a is accepted"),
        ("a, mask, removable, , ", "f:1: the reason is empty"),
        ("a, mask, keep, why", "f:1: no such finding: keep; known are removable"),
        ("a, masks, removable, why", "f:1: no such kind: masks"),
    ],
)
def test_bad_file_of_accepted_findings(text: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        gate.read_accepted(text, "f")


# --- images that cannot be checked -----------------------------------------------------------------


@pytest.mark.parametrize(
    ("facts", "layout", "sites", "words"),
    [
        (NO_GUEST, (), (), "it is not a Xen guest, as far as it shows"),
        (FACTS, (), (), "nothing in it shows where vcpu_info is"),
        (replace(NO_GUEST, hypercall_page=4096), (), (), "nothing in it shows where vcpu_info is"),
        (replace(NO_GUEST, legacy=(("GUEST_OS", "x"),)), (), (), "nothing in it shows where"),
        (FACTS, ("pending 0: by DWARF",), (), "no site was found, though pending 0: by DWARF"),
        (NO_GUEST, ("pending 0: by DWARF",), (), "no site was found"),
        (NO_GUEST, (), SITES, ""),
        (FACTS, ("pending 0",), SITES, ""),
    ],
)
def test_image_that_cannot_be_checked(
    facts: object, layout: tuple[str, ...], sites: tuple[Site, ...], words: str
) -> None:
    found = gate.blindness(table(*sites, facts=facts, layout=layout))
    assert found.startswith(words)
    assert bool(found) is bool(words)


def test_image_of_which_only_part_was_followed() -> None:
    found = gate.blindness(table(*SITES, partial="only part of it was followed"))
    assert found == "only part of it was followed; its sites are not all known"


def test_summary_names_the_first_places() -> None:
    found = list(gate.findings([site(f"f{number}", 0, hazards=(MOVED,)) for number in range(5)]))
    assert gate.summary(found[:2]) == "2 unstable-pointer, at f0, f1"
    assert gate.summary(found) == "5 unstable-pointer, at f0, f1, f2 and elsewhere"
    assert Patching((), ()) == FACTS.patching
