"""What a trial of a domain compares."""

from __future__ import annotations

from pathlib import Path

from lab.guest.build import Variant, build
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
