"""Which functions have room for more fences, and what makes padding unusable."""

from __future__ import annotations

from pathlib import Path

import pytest

from builders.planned import REMOVABLE, mask_with, planned
from builders.workers import built
from lab.guest.build import Variant, build
from xtrace.symbols import find_sites, open_image
from xtrace.symbols.patching.doses import variants_of
from xtrace.symbols.patching.plan import Plan, plan
from xtrace.symbols.x86.decode import Flow, InsnDecoder

_LFENCE = bytes.fromhex("0faee8")


def _with_fence(
    folder: Path, padding: str = ".balign 64, 0x90", fence: str = "lfence", more: str = "", data: str = ""
) -> Plan:
    """Return the plan of a guest in which a function fences, with what comes after it."""
    return planned(
        folder,
        mask_with(
            "call fence",
            f"""
            .globl fence
            .type fence, @function
            .balign 64
        fence:
            {fence}
            ret
        .Lroom:
            {padding}
            .globl after
            .type after, @function
        after:
            {more}
            ret
            .section .data
            .balign 8
            {data}
            .text
            """,
        ),
    )


def test_padding_after_a_function_has_room_for_three(tmp_path: Path) -> None:
    found = _with_fence(tmp_path)
    (dose,) = found.doses
    assert (dose.callee, dose.fence, dose.most) == ("fence", "lfence", 3)
    assert dose.original[:1] == b"\xc3"
    assert len(dose.original) == 10
    assert dose.variants == variants_of(_LFENCE, 3)
    assert not [item for item in found.dose_refusals if item.place == "fence"]


@pytest.mark.parametrize("fence", [_LFENCE, bytes.fromhex("f048830c2400"), bytes.fromhex("f0834424f800")])
@pytest.mark.parametrize("most", [1, 2, 3])
def test_an_instruction_of_each_variant_begins_one_in_all_others_that_leads_to_a_return(
    fence: bytes, most: int
) -> None:
    variants = variants_of(fence, most)
    decoder = InsnDecoder(64)
    boundaries = {len(fence) * count for count in range(most + 1)}
    for count, variant in enumerate(variants):
        for start in boundaries:
            executed = []
            for insn in decoder.decode(variant[start:], start):
                executed.append(insn)
                if insn.flow is Flow.RETURN:
                    break
            assert executed[-1].flow is Flow.RETURN
            assert {insn.address for insn in executed} <= boundaries
            assert len(executed) - 1 == max(count - start // len(fence), 0)


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"padding": ""}, "no room: 0 bytes of padding"),
        ({"padding": "nop\nnop"}, "no room: 2 bytes"),
        ({"padding": ".byte 0, 0, 0, 0, 0, 0"}, "no room: 0 bytes"),
        ({"more": "jmp .Lroom+4"}, "code may jump into the padding"),
        ({"more": "je .Lroom+4"}, "code may jump into the padding"),
        ({"more": ".skip 200, 0x90\n call .Lroom+1"}, "code may jump into the padding"),
        ({"data": ".quad .Lroom+3"}, "data of the image points into the padding"),
        ({"fence": "nop\n lfence\n inc %rax"}, "does more than fence and return"),
        ({"padding": ".globl hidden\n.type hidden, @function\nhidden: .balign 64, 0x90"}, "no room: 0 bytes"),
    ],
)
def test_what_may_use_the_padding_forbids_it(tmp_path: Path, changes: dict[str, str], reason: str) -> None:
    found = _with_fence(tmp_path, **changes)
    assert not found.doses
    assert reason in next(item.reason for item in found.dose_refusals if item.place == "fence")


def test_little_padding_has_room_for_fewer(tmp_path: Path) -> None:
    (dose,) = _with_fence(tmp_path, ".skip 7, 0x90").doses
    assert dose.most == 2
    assert len(dose.original) == 7


def test_a_function_at_the_end_of_a_page_has_room_up_to_there(tmp_path: Path) -> None:
    found = planned(
        tmp_path,
        mask_with(
            "call fence",
            ".balign 4096\n .skip 4088, 0x90\n.globl fence\n.type fence, @function\n"
            "fence: lfence\n ret\n .balign 64, 0x90\n",
        ),
    )
    (dose,) = found.doses
    assert dose.most == 1
    assert (dose.address + len(dose.original) - 1) // 4096 == dose.address // 4096


def test_inline_fences_have_no_room_and_the_plan_says_so(tmp_path: Path) -> None:
    image = open_image(built(tmp_path, "lfence", "inline"))
    found = plan(image, find_sites(image, lines=False), REMOVABLE)
    assert not found.doses
    assert [item.reason for item in found.dose_refusals] == ["there is no room beside an inline fence"]


@pytest.mark.parametrize("place", ["inline", "outofline"])
def test_a_kernel_s_addresses_are_beyond_63_bits(tmp_path: Path, place: str) -> None:
    image = open_image(build(tmp_path, Variant("lfence", place)))
    found = plan(image, find_sites(image, lines=False), REMOVABLE)
    assert [item.symbol for item in found.exchanges] == [
        "upcalls_mask",
        "upcalls_save",
        "upcalls_restore",
        "upcalls_unmask",
    ]
    assert all(item.address > 1 << 63 for item in found.exchanges)
    assert bool(found.doses) == (place == "outofline")
