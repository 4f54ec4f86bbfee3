"""Replayed sites: what is run of them, what is refused, and that only private memory is accessed."""

from __future__ import annotations

import random
import subprocess
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from builders.guest import Builder, Variant
from builders.timed import bodies, laid, run
from xtrace.symbols import ImageError, find_sites, open_image
from xtrace.symbols.replay import timed_loop
from xtrace.symbols.replay.path import Step, refusal
from xtrace.symbols.replay.site_loop import Replay, replays
from xtrace.symbols.replay.timed_loop import ARENA_ADDRESS, ARENA_BYTES, LoopCode
from xtrace.symbols.x86.decode import Flow, InsnDecoder

#: A mask with its fence, on the pointer in rbx.
LFENCE_SITE = """
    movb $1, 1(%rbx)
    lfence
    ret
"""
#: Make gcc assume that the fence function clobbers registers; otherwise it saves none around the call.
BLIND = ("-fno-ipa-ra",)
GUESTS = (
    ("netbsd_amd64.S", Variant()),
    ("netbsd.c", Variant()),
    ("netbsd.c", Variant(optimise="-O0")),
    ("netbsd.c", Variant(optimise="-Os", flags=(*BLIND, "-fno-omit-frame-pointer"))),
    ("linux_amd64.S", Variant()),
    ("minios.c", Variant(flags=BLIND)),
    ("minios_amd64.S", Variant()),
    ("freebsd.c", Variant()),
    ("hazards_amd64.S", Variant()),
    ("decoys_amd64.S", Variant()),
)
#: Instructions of the loop around a body, besides those that are replayed: see timed_loop.loop().
FRAME = {"rdtscp", "clflush", "jne", "call", "ret"}
FUZZED = 16

EXPECTED_REFUSALS = {"cpuid is not a fence that is replayed"}

Read = Callable[[str], dict[str, Replay]]


@pytest.fixture(scope="module")
def guests(tmp_path_factory: pytest.TempPathFactory) -> Builder:
    return Builder(tmp_path_factory.mktemp("guests"))


def replays_of(path: Path) -> list[Replay]:
    image = open_image(path)
    return list(replays(image, find_sites(image, lines=False)))


@pytest.fixture
def assembled(tmp_path: Path) -> Read:
    """Return a function that assembles text and returns its replays by their sites' symbols."""

    def read(text: str) -> dict[str, Replay]:
        source, target = tmp_path / "guest.s", tmp_path / "guest.o"
        source.write_text(TAUGHT + text + '\n    .section .note.GNU-stack, "", @progbits\n')
        subprocess.run(["gcc", "-c", str(source), "-o", str(target)], check=True, timeout=60)
        return {item.site.symbol: item for item in replays_of(target)}

    return read


#: Enough code for the finder to learn how vcpu_info is reached.
TAUGHT = """
    .text
    .macro FUNC name
    .balign 16
    .globl \\name
    .type \\name, @function
\\name:
    .endm
    .macro VCPU register
    mov %gs:0x20, \\register
    mov 0x1c8(\\register), \\register
    .endm
FUNC x86_lfence
    lfence
    ret
FUNC handle_events
    VCPU %rdi
    movb $0, (%rdi)
    xor %eax, %eax
    xchg %rax, 8(%rdi)
    ret
FUNC taught
    VCPU %rbx
    movb $0, 1(%rbx)
    movzbl (%rbx), %eax
    test %al, %al
    jne force_callback
    ret
FUNC force_callback
    xor %edi, %edi
    xor %esi, %esi
    jmp hypercall_page+17*32
    .balign 4096
FUNC hypercall_page
    .skip 4096, 0xc3
"""


def order(steps: tuple[Step, ...]) -> list[str]:
    """Return the mnemonics in execution order, including those of callees."""
    found = []
    for step in steps:
        found.append(step.insn.mnemonic)
        found.extend(order(step.callee or ()))
    return found


def decoded(code: bytes) -> list[str]:
    return [insn.mnemonic for insn in InsnDecoder(64).decode(code, timed_loop.CODE_ADDRESS)]


def audit(code: LoopCode) -> None:
    """Check that finished machine code neither leaves itself nor does more than compute."""
    start, end = timed_loop.CODE_ADDRESS, timed_loop.CODE_ADDRESS + len(code.code)
    for insn in InsnDecoder(64).decode(code.code, start):
        text = code.code[insn.address - start : insn.end - start]
        assert insn.flow in (Flow.NEXT, Flow.CALL, Flow.JUMP, Flow.CONDITIONAL, Flow.RETURN), text.hex()
        if insn.target >= 0:
            assert start <= insn.target < end
        elif insn.mnemonic not in FRAME:
            assert not refusal(insn, text) or insn.operands[0].register == 4, text.hex()
        memory = insn.memory
        if memory is not None and insn.access:
            assert not memory.per_cpu
            if memory.base < 0 and memory.index_register < 0:
                assert (
                    timed_loop.DATA_ADDRESS
                    <= memory.displacement
                    < timed_loop.DATA_ADDRESS + timed_loop.DATA_BYTES
                )


def loops(items: list[Replay]) -> Iterator[LoopCode]:
    for item in items:
        for body in bodies(item):
            yield timed_loop.loop("site", body)


@pytest.mark.parametrize(("name", "variant"), GUESTS, ids=str)
def test_every_site_of_every_guest_runs(guests: Builder, name: str, variant: Variant) -> None:
    items = replays_of(guests.build(name, variant).image)
    codes = list(loops(items))
    for code in codes:
        audit(code)
    assert all(cycles > 0 for cycles in run(laid(codes)))
    refused = {item.reason for item in items if item.core is None}
    assert refused <= EXPECTED_REFUSALS, refused


def test_out_of_line_fence_with_its_call_and_spills(guests: Builder) -> None:
    # As NetBSD compiles it: a frame, and a slot that keeps the pointer across the call of the fence.
    item = {i.site.symbol: i for i in replays_of(guests.build("netbsd_amd64.S", Variant()).image)}[
        "unmask_spilled"
    ]
    assert item.whole is not None
    assert item.whole.lean is not None
    assert item.called
    assert " ".join(order(item.steps)) == (
        "push mov sub mov mov mov mov call lfence ret mov movzx test je leave ret"
    )
    fenced, plain, lean = (
        decoded(timed_loop.loop("site", body).code)
        for body in (item.whole.fenced, item.whole.plain, item.whole.lean)
    )
    # One lfence belongs to the loop itself.
    assert [names.count("lfence") for names in (fenced, plain, lean)] == [2, 1, 1]
    assert [names.count("call") for names in (fenced, plain, lean)] == [4, 3, 3]
    assert [names.count("push") + names.count("leave") for names in (fenced, plain, lean)] == [2, 2, 0]
    assert len(fenced) > len(plain) > len(lean)


@pytest.mark.parametrize("frame", ["-fomit-frame-pointer", "-fno-omit-frame-pointer"])
@pytest.mark.parametrize("symbol", ["unmask", "restore", "unmask_reloads"])
def test_lean_variant_drops_what_is_only_for_the_call(guests: Builder, symbol: str, frame: str) -> None:
    variant = Variant(flags=(*BLIND, frame))
    item = {i.site.symbol: i for i in replays_of(guests.build("netbsd.c", variant).image)}[symbol]
    assert item.whole is not None
    assert item.whole.lean is not None
    fenced, plain, lean = (
        decoded(timed_loop.loop("site", body).code)
        for body in (item.whole.fenced, item.whole.plain, item.whole.lean)
    )
    stack = {"push", "pop", "leave"}
    assert stack & set(order(item.steps))
    assert stack & set(plain)
    assert not stack & set(lean)
    assert len(fenced) > len(plain) > len(lean)
    # As short as what gcc makes of the same function without a fence.
    last = len(lean) - lean[::-1].index("nop")
    assert " ".join(lean[last:]) in (
        "mov mov mov movzx test jne ret",
        "mov mov mov mov movzx test jne ret",  # with a reload
    )


@pytest.mark.parametrize("symbol", ["mask", "unmask"])
def test_the_core_begins_with_the_loads_of_the_pointer(guests: Builder, symbol: str) -> None:
    item = {i.site.symbol: i for i in replays_of(guests.build("netbsd.c", Variant()).image)}[symbol]
    assert item.core is not None
    for body in (item.core.fenced, item.core.plain):
        code = timed_loop.loop("empty", body).code
        insns = [insn for insn in InsnDecoder(64).decode(code, timed_loop.CODE_ADDRESS) if insn.memory]
        # The CPU's own structure, at an address of its own here, the pointer in it, and what that points to.
        chains = [
            own
            for own, pointer, access in zip(insns, insns[1:], insns[2:], strict=False)
            if own.memory is not None and own.memory.base < 0 and own.operands[0].register >= 0
            if pointer.memory is not None and pointer.memory.base == own.operands[0].register
            if access.memory is not None and access.memory.base == pointer.operands[0].register
        ]
        assert len(chains) == 1


def test_work_between_a_far_load_and_the_site_is_not_its_own(assembled: Read) -> None:
    far = assembled("\nFUNC far\n    VCPU %rbx\n" + "    add %rsi, %rdi\n" * 30 + LFENCE_SITE)["far"]
    near = assembled("\nFUNC near\n    VCPU %rbx\n    add %rsi, %rdi\n" + LFENCE_SITE)["near"]
    counts = [
        decoded(timed_loop.loop("empty", one.core.fenced).code).count("add")
        for one in (far, near)
        if one.core is not None
    ]
    assert counts == [0, 1]


def test_two_calls_of_one_fence_belong_to_one_site_each(guests: Builder) -> None:
    found = [
        i
        for i in replays_of(guests.build("netbsd_amd64.S", Variant()).image)
        if i.site.symbol == "spl_section"
    ]
    assert [str(i.site.kind) for i in found] == ["mask", "restore"]
    assert [order(i.steps).count("lfence") for i in found] == [1, 1]


def test_access_that_is_itself_the_fence(assembled: Read) -> None:
    item = assembled(
        """
FUNC swaps
    VCPU %rbx
    xor %eax, %eax
    xchg %al, 1(%rbx)
    cmpb $0, (%rbx)
    jne force_callback
    ret
"""
    )["swaps"]
    assert item.core is not None
    assert "xchg" in decoded(timed_loop.loop("site", item.core.fenced).code)
    assert "xchg" not in decoded(timed_loop.loop("site", item.core.plain).code)


#: Code between a fence and the pending test.  If True, the path ends before it, at the fence.
HOSTILE = {
    "syscall": ("syscall", True),
    "wrmsr": ("wrmsr", True),
    "rdmsr": ("rdmsr", True),
    "hlt": ("hlt", True),
    "cli": ("cli", True),
    "in": ("in $0x20, %al", True),
    "int": ("int $0x80", True),
    "cr3": ("mov %rax, %cr3", True),
    "ds": ("mov %eax, %ds", True),
    "divide": ("div %rcx", True),
    "movs": ("mov $-1, %rcx\n rep movsb", True),
    "stos": ("mov $-1, %rcx\n rep stosq", True),
    "sse": ("movaps %xmm0, (%rbx)", True),
    "flags": ("push %rax\n popf", True),
    "indirect_call": ("call *%rax", True),
    "indirect_memory": ("call *0x40(%rbx)", True),
    "indirect_jump": ("jmp *%rax", True),
    "pointer": ("mov $0x7fff00001000, %rdx\n movb $1, (%rdx)", True),
    "scaled": ("imul $8, %rsi, %rdx\n movb $1, (%rbx,%rdx)", False),
    "computed": ("imul %rsi, %rdx\n movb $1, (%rdx)", True),
    "shifted": ("shl $12, %rdx\n mov (%rdx), %rax", True),
    "bits": ("bts %rsi, 0x100(%r9)", True),
    "far": ("mov 0x7fffffff(%rdx), %rax\n movb $1, 0x7fffff00(%rdx)", False),
    "outside": ("mov (%rdx), %rax\n movb $1, 0x80000(%rdx)", True),
    "pivot": ("mov %rsi, %rsp\n push %rax", True),
    "pivot_add": ("add %rsi, %rsp\n push %rax", True),
    "popped": ("call 7f\n jmp 8f\n7: pop %rax\n ret\n8:", True),
    "overwritten": ("call 7f\n jmp 8f\n7: mov %rax, (%rsp)\n ret\n8:", True),
    "returns_far": ("call 7f\n jmp 8f\n7: lretq\n8:", True),
    "returns_more": ("call 7f\n jmp 8f\n7: ret $8\n8:", True),
    "returns_iret": ("call 7f\n jmp 8f\n7: iretq\n8:", True),
    "deep": ("call 7f\n jmp 8f\n7: call 7b\n ret\n8:", True),
    "own_code": ("movb $0x90, hostile(%rip)", False),
    "walks": ("mov 0x40(%rsi), %rdx\n mov (%rdx), %rax\n add $8, %rdx\n mov %rdx, 0x40(%rsi)", True),
    "long_loop": ("mov $-1, %rcx\n7: dec %rcx\n jne 7b", False),
    "jumps_out": ("jc hypercall_page+32", False),
    "narrow_shift": ("mov $0x40, %eax\n shl $33, %eax\n movb $1, (%rbx,%rax)", False),
    "shifted_out": ("mov $0x5500000, %eax\n shl $36, %eax\n movb $1, (%rax)", True),
    "short_push": ("pushw %ax\n pop %rdx\n movb $1, (%rdx)", True),
    "short_pop": ("push %rbx\n popw %dx\n movb $1, (%rdx)", True),
    "short_pushes": ("pushw $5\n pushw $6\n add $4, %rsp", False),
    "short_leave": ("leavew\n movb $1, (%rbp)", True),
    "implied": (
        "cmpxchg %rax, 0x48(%rbx)\n mov %rbx, %rax\n cmpxchg %rcx, 0x40(%rbx)\n movb $1, (%rax)",
        True,
    ),
    "multiplied": ("imul %rax\n mov %rbx, %rdx\n imul %rcx\n movb $1, (%rdx)", True),
    "signed": ("movslq 0x40(%rsi), %rdx\n sub $0x7fffffff, %rdx\n movb $1, (%rdx)", True),
    "hidden": ("mov %rsi, 0x40(%r9)\n movb $0, 0x40(%r9)\n mov 0x44(%r9), %ecx\n movb $1, (%rcx)", True),
    "two_lines": ("lock addq $1, 0x3c(%rbx)", True),
    "swapped_stack": ("xchg %rsp, %rax\n push %rcx", True),
}
NEVER = {"syscall", "wrmsr", "rdmsr", "hlt", "cli", "in", "int", "div", "movsb", "stosq", "movaps", "popfq"}


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_code_is_not_run(assembled: Read, name: str) -> None:
    inserted, cut = HOSTILE[name]
    item = assembled(
        f"""
FUNC hostile
    VCPU %rbx
    movb $0, 1(%rbx)
    lfence
    {inserted}
    cmpb $0, (%rbx)
    jne force_callback
    ret
"""
    ).get("hostile")
    assert item is not None
    assert item.core is not None
    names = [step.insn.mnemonic for step in item.steps]
    codes = list(loops([item]))
    for code in codes:
        audit(code)
        assert not set(decoded(code.code)) & NEVER
    assert all(cycles > 0 for cycles in run(laid(codes)))
    assert (names[-1] != "ret") is cut, names


def test_only_private_memory_is_written(guests: Builder) -> None:
    import numpy as np

    from xtrace.probes.timing.session import Session

    codes = list(loops(replays_of(guests.build("netbsd_amd64.S", Variant()).image)))
    laid_out = laid(codes)
    low, high = ARENA_ADDRESS - timed_loop.DATA_ADDRESS, ARENA_ADDRESS + ARENA_BYTES - timed_loop.DATA_ADDRESS
    pattern = bytes(range(256)) * ((timed_loop.DATA_BYTES - high) // 256)
    before = bytes(low - timed_loop.ORDER_OFFSET - 4096)
    program = replace(
        laid_out.program,
        initial=(*laid_out.program.initial, (high, pattern), (timed_loop.ORDER_OFFSET + 4096, before)),
    )
    with Session(program, 0) as session:
        session.run(np.array([[loop.address, 3, 50] for loop in laid_out.loops]), 20.0)
        memory = bytes(session.memory)
    assert memory[high : high + len(pattern)] == pattern
    assert memory[timed_loop.ORDER_OFFSET + 4096 : low] == before


def test_random_code_around_sites(guests: Builder, tmp_path: Path) -> None:
    """With random bytes around fenced sites, the code that is still accepted runs and ends."""
    data = guests.build("netbsd_amd64.S", Variant()).image.read_bytes()
    known = [item.site.address for item in replays_of(guests.build("netbsd_amd64.S", Variant()).image)]
    image = open_image(guests.build("netbsd_amd64.S", Variant()).image)
    section = next(item for item in image.sections if item.name == ".text")
    accepted: list[LoopCode] = []
    for seed in range(FUZZED):
        chance = random.Random(seed)
        changed = bytearray(data)
        for _ in range(chance.randrange(1, 12)):
            site = chance.choice(known) - section.address + section.offset
            place = site + chance.randrange(-24, 24)
            size = chance.randrange(1, 5)
            changed[place : place + size] = chance.randbytes(size)
        path = tmp_path / f"{seed}.elf"
        path.write_bytes(changed)
        try:
            items = replays_of(path)
        except ImageError:
            continue
        codes = list(dict.fromkeys(loops(items)))
        for code in codes:
            audit(code)
        accepted.extend(codes)
    accepted = list(dict.fromkeys(accepted))
    assert len(accepted) > 3 * FUZZED
    assert all(cycles > 0 for cycles in run(laid(accepted)))


def test_nested_calls_are_bounded(assembled: Read) -> None:
    levels = "".join(
        f"FUNC level{number}\n" + f"    call level{number + 1}\n" * 30 + "    ret\n" for number in range(4)
    )
    item = assembled(
        f"""
FUNC many
    VCPU %rbx
{"    call level0" + chr(10)}
    movb $0, 1(%rbx)
    lfence
{("    call level0" + chr(10)) * 20}
    cmpb $0, (%rbx)
    jne force_callback
    ret
{levels}
FUNC level4
    ret
"""
    )["many"]
    assert len(order(item.steps)) <= 400
    for code in loops([item]):
        assert len(code.code) < 10_000
