"""What a trial of a domain compares, and what it says before it changes anything."""

from __future__ import annotations

from pathlib import Path

from builders.made_trials import result
from lab.guest.build import Variant, build
from xtrace.analysis.trial.rehearsal import intention
from xtrace.probes.trial.mapped_image import Code, without_page
from xtrace.symbols import find_sites, open_image

PIECE = Code(0x1000, 0x200, bytes(range(256)) * 64)


def test_the_hypercall_page_is_not_compared() -> None:
    assert without_page(PIECE, None) == [PIECE]
    assert without_page(PIECE, 0x5000) == [PIECE]
    assert without_page(PIECE, 0x0) == [PIECE]
    assert without_page(PIECE, 0x1000) == [Code(0x2000, 0x1200, PIECE.data[0x1000:])]
    assert without_page(PIECE, 0x4000) == [Code(0x1000, 0x200, PIECE.data[:0x3000])]
    assert without_page(PIECE, 0x2000) == [
        Code(0x1000, 0x200, PIECE.data[:0x1000]),
        Code(0x3000, 0x2200, PIECE.data[0x2000:]),
    ]
    assert not without_page(Code(0x1000, 0x200, bytes(4096)), 0x1000)


def test_a_guest_s_hypercall_page_is_known(tmp_path: Path) -> None:
    image = open_image(build(tmp_path, Variant("lfence", "inline")))
    page = find_sites(image, lines=False).facts.hypercall_page
    (text,) = image.code
    (rest,) = without_page(Code(text.address, text.offset, bytes(text.data)), page)
    assert page == text.address
    assert rest.address == page + 4096
    assert image.read(rest.address, 16) == rest.data[:16]


def test_what_is_going_to_be_done_is_said_with_its_bytes() -> None:
    (item,) = result().exchanged
    first, second = intention([item], "domain 3 web", "netbsd", 30.0)
    assert first.startswith("domain 3 web: a trial exchanges 1 instruction of netbsd in its memory")
    assert second == "0x4010 0faee8 -> 0f1f00, lfence -> nop in mask"
    *_, last = intention([item] * 25, "domain 3", "netbsd", 30.0)
    assert last == "and 5 more; --plan lists all"
