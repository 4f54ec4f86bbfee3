"""Encoding, checked by decoding the result; which instructions count as general."""

from __future__ import annotations

import pytest

from xtrace.symbols.x86.decode import RAX, RBX, RSP, InsnDecoder
from xtrace.symbols.x86.encode import Assembler, At, Gpr, Xmm, is_general, plain_access

ADDRESS = 0x5000_0000
DECODER = InsnDecoder(64)


def texts(code: bytes, address: int = ADDRESS) -> list[str]:
    return [
        DECODER.text(code[insn.address - address :], insn.address) for insn in DECODER.decode(code, address)
    ]


def test_each_form_of_operands() -> None:
    asm = Assembler()
    asm.op("MOV_R32_IMM32", Gpr(RBX, 4), 5)
    asm.op("MOV_R64_IMM64", Gpr(9), 0xFFFF_8000_0000_1234)
    asm.op("MOV_RM8_IMM8", At(RBX, 1), 1)
    asm.op("MOV_RM8_R8", At(RBX, 1), Gpr(6, 1))
    asm.op("MOVZX_R32_RM8", Gpr(RAX, 4), At(RBX, 0))
    asm.op("MOV_R64_RM64", Gpr(14), At(-1, 0x5806_0000, 15, 8))
    asm.op("MOV_RM64_R64", At(-1, 0x5800_0010), Gpr(RSP))
    asm.op("MOVD_XMM_RM32", Xmm(15), At(14, 0x40))
    asm.op("ADD_RM64_IMM8", At(RSP, -8), 0, lock=True)
    asm.op("IMUL_R64_RM64", Gpr(8), Gpr(8))
    asm.op("PUSH_R64", Gpr(13))
    asm.op("LFENCE")
    assert texts(asm.code(ADDRESS)) == [
        "mov $5,%ebx",
        "movabs $0xFFFF800000001234,%r9",
        "movb $1,1(%rbx)",
        "mov %sil,1(%rbx)",
        "movzbl (%rbx),%eax",
        "mov 0x58060000(,%r15,8),%r14",
        "mov %rsp,0x58000010",
        "movd 0x40(%r14),%xmm15",
        "lock addq $0,-8(%rsp)",
        "imul %r8,%r8",
        "push %r13",
        "lfence",
    ]


def test_branches_go_to_labels() -> None:
    asm = Assembler()
    back, on = asm.label(), asm.label()
    asm.mark(back)
    asm.op("CALL_REL32_64", on)
    asm.op("JNE_REL8_64", back)
    asm.raw(b"\x90" * 200)
    asm.mark(on)
    asm.op("RETNQ")
    insns = list(DECODER.decode(asm.code(ADDRESS), ADDRESS))
    assert insns[0].target == insns[-1].address
    assert insns[1].target == ADDRESS


def test_unknown_operands_are_refused() -> None:
    with pytest.raises(ValueError, match="with"):
        Assembler().op("MOV_RM64_R64", At(RBX, 0), At(RBX, 8))


@pytest.mark.parametrize(
    ("data", "options", "text"),
    [
        ("c6430101", {}, "movb $1,1(%rbx)"),
        ("488d0510000000", {"absolute": 0x5808_0000}, "lea 0x58080000,%rax"),
        ("65488b042520000000", {"absolute": 0x5808_0000}, "mov 0x58080000,%rax"),
        ("0fb60411", {"absolute": 0x5808_0000}, "movzbl 0x58080000,%eax"),
    ],
)
def test_copied_instructions(data: str, options: dict[str, int], text: str) -> None:
    asm = Assembler()
    asm.copy(bytes.fromhex(data), 0xFFFF_FFFF_8000_0000, **options)  # type: ignore[arg-type]
    assert texts(asm.code(ADDRESS)) == [text]


@pytest.mark.parametrize(
    ("data", "text"),
    [
        ("f0480fba6b0100", "btsq $0,1(%rbx)"),
        ("864301", "mov %al,1(%rbx)"),
        ("4887442408", "mov %rax,8(%rsp)"),
        ("f04883056000000001", "addq $1,0xFFFFFFFF80000069"),
    ],
)
def test_plain_accesses(data: str, text: str) -> None:
    address = 0xFFFF_FFFF_8000_0000
    assert texts(plain_access(bytes.fromhex(data), address), address) == [text]


def test_a_branch_is_copied_with_its_new_target() -> None:
    asm = Assembler()
    following = asm.label()
    asm.copy(bytes.fromhex("7505"), 0xFFFF_FFFF_8000_0000, target=following)
    asm.mark(following)
    asm.op("RETNQ")
    insns = list(DECODER.decode(asm.code(ADDRESS), ADDRESS))
    assert insns[0].target == insns[0].end


@pytest.mark.parametrize(
    "data",
    [
        "488b0510000000",  # relative to rip
        "65488b042520000000",  # a segment
        "7505",  # a branch
        "e800000000",
        "06",  # invalid in 64-bit mode
        "c64301",  # truncated
        "c643010190",  # two instructions
    ],
)
def test_instructions_that_need_a_place_are_not_copied(data: str) -> None:
    with pytest.raises(ValueError, match=r"not an instruction|no (address|target) given"):
        Assembler().copy(bytes.fromhex(data), 0x1000)


@pytest.mark.parametrize(
    ("data", "general"),
    [
        ("c6430101", True),  # movb $1,1(%rbx)
        ("65488b042520000000", True),  # mov %gs:0x20,%rax
        ("488b0510000000", True),  # mov 0x10(%rip),%rax
        ("f04883042400", True),  # lock addq $0,(%rsp)
        ("f30fb8c3", True),  # popcnt: its prefix is part of it
        ("f390", True),  # pause
        ("f3a4", False),  # rep movsb
        ("a4", False),  # movsb
        ("ac", False),  # lods
        ("0f20c0", False),  # mov %cr0,%rax
        ("8ed8", False),  # mov %eax,%ds
        ("8cd8", False),  # mov %ds,%eax
        ("0f28c1", False),  # movaps
        ("0f6f03", False),  # movq (%rbx),%mm0
        ("d9e8", True),  # fld1: refused by its mnemonic elsewhere
        ("67c6430101", False),  # an address of 32 bits
        ("e420", False),  # in
        ("fa", False),  # cli
        ("f4", False),  # hlt
        ("0f01f8", False),  # swapgs
        ("0f22d8", False),  # mov %rax,%cr3
        ("c5f877", True),  # vzeroupper, likewise
    ],
)
def test_what_is_general(data: str, general: bool) -> None:
    assert is_general(bytes.fromhex(data), 0x1000) is general
