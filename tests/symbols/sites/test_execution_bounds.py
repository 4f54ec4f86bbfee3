"""Sites of compiled guests: executions per call and per upcall, and the addresses after their fences."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from builders.made_sites import site, table
from lab.guest.build import Variant, build
from xtrace.symbols.image.image import Image, open_image
from xtrace.symbols.sites.execution_bounds import MOST_SITES, behind_fences, site_paths
from xtrace.symbols.sites.finder import find_sites
from xtrace.symbols.sites.model import Kind, SiteTable

INF = float("inf")
Made = Callable[[str], tuple[Image, SiteTable]]


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Made:
    if shutil.which("gcc") is None:
        pytest.skip("no compiler here")

    def open_built(variant: str) -> tuple[Image, SiteTable]:
        fence, place = variant.split("-")
        path = build(tmp_path_factory.mktemp("guest"), Variant(fence, place))
        image = open_image(path)
        return image, find_sites(image, lines=False)

    return open_built


def assembled(folder: Path, text: str) -> tuple[Image, SiteTable]:
    if shutil.which("gcc") is None:
        pytest.skip("no compiler here")
    source, path = folder / "guest.s", folder / "guest.o"
    source.write_text(text)
    subprocess.run(["gcc", "-c", str(source), "-o", str(path)], check=True, timeout=60)
    image = open_image(path)
    return image, find_sites(image, lines=False)


def test_each_function_of_the_lab_guest_executes_its_sites_once(made: Made) -> None:
    image, found = made("lfence-inline")
    paths = site_paths(image, found)
    stores = [
        place for place, one in enumerate(paths.sites) if one.kind in (Kind.MASK, Kind.RESTORE, Kind.SAVE)
    ]
    assert len(stores) == 4
    assert (paths.call.least[stores] == 1).all()
    assert (paths.call.most[stores] == 1).all()
    tests = [place for place, one in enumerate(paths.sites) if one.kind is Kind.PENDING_TEST]
    # After a restore, pending is tested only if the mask became 0.
    assert sorted(paths.call.least[tests].tolist()) == [0, 1]
    assert paths.upcall is not None
    assert paths.parts is not None
    assert paths.parts.most.tolist() == [0, 0, 0]
    taken = [place for place, one in enumerate(paths.sites) if one.kind is Kind.SELECTOR_TAKE]
    assert (paths.upcall.least[taken].tolist(), paths.upcall.most[taken].tolist()) == ([1], [1])


GUEST = """
    .text
    .macro FUNC name
    .globl \\name
    .type \\name, @function
\\name:
    .endm
    .macro VCPU register
    mov %gs:0x20, \\register
    mov 0x1c8(\\register), \\register
    .endm

FUNC hypervisor_callback
    push %rdi
    call handle_events
    call spl
    cmpl $0, %gs:0x1d0
    je 1f
    call spl
1:  pop %rdi
    push $0
    jmp hypercall_page+23*32
FUNC handle_events
    VCPU %rdi
2:  movb $0, (%rdi)
    xor %eax, %eax
    xchg %rax, 8(%rdi)
    cmpb $0, (%rdi)
    jne 2b
    call block
    ret
FUNC block
    test %eax, %eax
    je 3f
    call spl
    call spl
    call hypercall_page+29*32
3:  ret
FUNC spl
    VCPU %rbx
    movzbl 1(%rbx), %ecx
    movb $1, 1(%rbx)
    lfence
    mov %cl, 1(%rbx)
    mfence
    cmpb $0, (%rbx)
    jne force_callback
    ret
FUNC outside
    VCPU %rbx
    movb $0, 1(%rbx)
    lfence
    cmpb $0, (%rbx)
    jne force_callback
    ret
FUNC force_callback
    xor %edi, %edi
    xor %esi, %esi
    jmp hypercall_page+17*32
FUNC hypercall_page
    .skip 4096, 0xc3
    .section .note.GNU-stack, "", @progbits
"""


def test_paths_through_an_upcall(tmp_path: Path) -> None:
    image, found = assembled(tmp_path, GUEST)
    by_name = {}
    for never in (frozenset(), frozenset((29,))):
        paths = site_paths(image, found, never)
        assert paths.upcall is not None
        assert paths.parts is not None
        for place, one in enumerate(paths.sites):
            ends = paths.upcall.least[place], paths.upcall.most[place]
            by_name[one.symbol, one.kind, bool(never)] = ends
        assert paths.parts.least[0] == 2
        assert paths.parts.most[0] == (4 if never else 8)
        assert paths.entry.startswith("symbol hypervisor_callback")
    assert by_name["spl", Kind.MASK, False] == (1, 4)
    assert by_name["spl", Kind.RESTORE, True] == (1, 2)
    assert by_name["outside", Kind.UNMASK, False] == (0, 0)
    assert by_name["handle_events", Kind.SELECTOR_TAKE, False] == (1, INF)


def test_addresses_after_fences(tmp_path: Path) -> None:
    image, found = assembled(tmp_path, GUEST)
    behind = behind_fences(image, found)
    # lfence and mfence are three bytes long; the handler's xchg is not a fence of these sites.
    assert len(behind) == 3
    assert {after - at for at, after in behind.items()} == {3}


def test_no_site_is_counted_if_there_are_too_many(made: Made) -> None:
    image, _ = made("none-inline")
    many = table(*(site(offset=number) for number in range(MOST_SITES + 1)))
    assert site_paths(image, many).sites == ()


def test_without_a_callback_no_upcall_is_counted(tmp_path: Path) -> None:
    image, found = assembled(tmp_path, GUEST.replace("hypervisor_callback", "unknown_callback"))
    paths = site_paths(image, found)
    assert (paths.upcall, paths.parts, paths.entry) == (None, None, "")
    assert paths.call.least.max() == 1
