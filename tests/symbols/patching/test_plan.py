"""What can be exchanged in compiled and assembled guests, and what is refused with which reason."""

from __future__ import annotations

from pathlib import Path

import pytest

from builders.planned import REMOVABLE, mask_with, planned
from builders.workers import built
from xtrace.symbols import Verdict, find_sites, open_image
from xtrace.symbols.errors import ImageError
from xtrace.symbols.patching.counters import counter, counters_near_sites
from xtrace.symbols.patching.plan import plan


@pytest.mark.parametrize(
    ("fence", "removed", "text"),
    [
        ("lfence", "0f1f00", "lfence -> nop"),
        ("mfence", "0f1f00", "mfence -> nop"),
        ("sfence", "0f1f00", "sfence -> nop"),
        ("lock addq $0, -8(%rsp)", "0f1f8000000000", "lock add -> nop"),
        ("lock orl $0, (%rsp)", "0f1f440000", "lock or -> nop"),
        ("lock andl $-1, (%rsp)", "0f1f440000", "lock and -> nop"),
        ("xchg %rcx, -8(%rsp)", "48894c24f8", "xchg -> mov"),
    ],
)
def test_an_inline_fence_becomes_one_instruction(tmp_path: Path, fence: str, removed: str, text: str) -> None:
    (found,) = planned(tmp_path, mask_with(fence)).exchanges
    assert (found.removed.hex(), found.text, found.symbol, found.callee) == (removed, text, "mask", "")
    assert len(found.original) == len(found.removed)


@pytest.mark.parametrize(
    ("fence", "reason"),
    [
        ("lock incl (%rsp)", "changes memory"),
        ("lock addl $1, (%rsp)", "changes memory"),
        ("lock addl $0, (%rsp)\n jz 1f\n nop\n1:", "flags"),
        ("lock addl $0, (%rsp)\n adc $0, %esi", "flags"),
        ("xchg %rax, -8(%rsp)", "what the xchg loads"),  # the caller may use rax
        ("xchg %rcx, -8(%rsp)\n add %rcx, %rsi", "what the xchg loads"),
        ("call other", "more than fence and return"),
        ("call flags\n jc 1f\n nop\n1:", "flags"),
    ],
)
def test_what_would_change_more_than_the_fence_is_refused(tmp_path: Path, fence: str, reason: str) -> None:
    callees = """
    .globl other
    .type other, @function
other:
    lfence
    xor %eax, %eax
    ret
    .globl flags
    .type flags, @function
flags:
    lock addq $0, -8(%rsp)
    ret
"""
    found = planned(tmp_path, mask_with(fence, callees))
    assert found.exchanges == ()
    (refusal,) = found.refusals
    assert reason in refusal.reason


def test_calls_and_tail_jumps_to_a_leaf_are_exchanged_and_the_leaf_is_not(tmp_path: Path) -> None:
    body = """
    .globl x86_fence
    .type x86_fence, @function
x86_fence:
    push %rbp
    mov %rsp, %rbp
    mfence
    pop %rbp
    ret
    .globl driver                  # another caller: it must keep its fence
    .type driver, @function
driver:
    mov %rsi, (%rdi)
    call x86_fence
    mov (%rdx), %rax
    ret
    .globl mask
    .type mask, @function
mask:
    VCPU %rax
    movb $1, 1(%rax)
    jmp x86_fence
    .globl mask_and_go_on
    .type mask_and_go_on, @function
mask_and_go_on:
    VCPU %rax
    movb $1, 1(%rax)
    call x86_fence
    ret
"""
    found = planned(tmp_path, body)
    assert [(item.symbol, item.removed.hex(), item.text) for item in found.exchanges] == [
        ("mask", "c3cccccccc"[: 2 * len(found.exchanges[0].original)], "jmp x86_fence -> ret"),
        ("mask_and_go_on", "0f1f440000", "call x86_fence -> nop"),
    ]


@pytest.mark.parametrize("crossing", [True, False])
def test_an_instruction_across_two_pages_is_refused(tmp_path: Path, crossing: bool) -> None:
    # The code before the fence takes 20 bytes.
    room = 4096 - 21 - (0 if crossing else 2)
    found = planned(tmp_path, f".balign 4096\n.skip {room}, 0x90\n" + mask_with("lfence"))
    assert [item.reason for item in found.refusals] == (
        ["the instruction crosses a page: it cannot be written in one piece"] if crossing else []
    )
    assert len(found.exchanges) == (0 if crossing else 1)


def test_a_fence_that_code_jumps_into_is_refused(tmp_path: Path) -> None:
    body = mask_with("cmpb $0, %sil\n je 1f+1\n1: lock addq $0, -8(%rsp)")
    found = planned(tmp_path, body)
    assert found.exchanges == ()
    assert "jumps into the middle" in found.refusals[0].reason


def test_undecided_fences_are_kept_unless_allowed(tmp_path: Path) -> None:
    body = """
    .globl spl
    .type spl, @function
spl:
    VCPU %rdx
    movb $0, 1(%rdx)
    lfence
    ret
"""
    kept = planned(tmp_path, body)
    assert (kept.exchanges, kept.kept_count) == ((), 3)  # the handler's xchg, twice
    allowed = planned(tmp_path, body, frozenset((Verdict.REMOVABLE, Verdict.UNDECIDED)))
    assert [item.text for item in allowed.exchanges] == ["lfence -> nop"]


@pytest.mark.parametrize("place", ["inline", "outofline"])
def test_all_sites_of_the_worker_can_be_exchanged(tmp_path: Path, place: str) -> None:
    image = open_image(built(tmp_path, "lockadd", place))
    table = find_sites(image)
    found = plan(image, table, REMOVABLE)
    fences = [fence for site in table.sites for fence in site.fences if fence.verdict is Verdict.REMOVABLE]
    assert len(found.exchanges) == len(fences) == 34
    assert found.refusals == ()
    names = counters_near_sites(image, table)
    assert "worker_units" in names
    assert counter(image, "worker_units").address == image.symbols.find("worker_units")


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("nothing_like_that", "no symbol"),
        ("unmask", "writable"),
        ("0x10", "writable"),
        ("worker_units+1", "aligned"),
        ("worker_units+99999999", "writable"),
    ],
)
def test_a_counter_must_be_a_word_of_the_image(tmp_path: Path, name: str, message: str) -> None:
    image = open_image(built(tmp_path))
    with pytest.raises(ImageError, match=message if name != "unmask" else "no symbol"):
        counter(image, name)


@pytest.mark.parametrize(
    ("access", "removed", "text"),
    [
        ("mov $1, %ecx\n xchg %cl, 1(%rdx)", "884a01", "xchg -> mov"),
        ("lock orb $1, 1(%rdx)", "3e804a0101", "lock or -> or"),
    ],
)
def test_a_locked_access_becomes_its_plain_form_where_the_verdict_says_so(
    tmp_path: Path, access: str, removed: str, text: str
) -> None:
    body = f"""
    .globl mask
    .type mask, @function
mask:
    VCPU %rdx
    {access}
    ret
"""
    assert planned(tmp_path, body).exchanges == ()
    found = planned(tmp_path, body, frozenset((Verdict.REMOVABLE, Verdict.REPLACEABLE)))
    assert [(item.removed.hex(), item.text) for item in found.exchanges] == [(removed, text)]
