"""The decoder matches objdump, instruction by instruction; the fields that the data flow relies on."""

from __future__ import annotations

import re
import subprocess

import pytest

from builders.guest import Builder, Variant
from xtrace.symbols.image.image import open_image
from xtrace.symbols.x86.decode import NO_REGISTER, READ, WRITE, Flow, Insn, InsnDecoder

LINE = re.compile(r"^ *([0-9a-f]+):\t((?:[0-9a-f]{2} )+) *\t?([a-z]\S*)?(?: +([^#<\n]*))?", re.MULTILINE)
BRANCHES = ("j", "call", "loop")


@pytest.fixture(scope="module")
def builder(tmp_path_factory: pytest.TempPathFactory) -> Builder:
    return Builder(tmp_path_factory.mktemp("decoded"))


def one(code: str, bits: int = 64, address: int = 0x1000) -> Insn:
    """Decode the one instruction of some hexadecimal bytes."""
    (insn,) = InsnDecoder(bits).decode(bytes.fromhex(code), address)
    return insn


@pytest.mark.parametrize("bits", [32, 64])
@pytest.mark.parametrize("name", ["netbsd.c", "linux.c", "minios.c"])
def test_lengths_and_targets_match_objdump(name: str, bits: int, builder: Builder) -> None:
    image = open_image(builder.build(name, Variant(bits, "-O3")).image)
    listing = subprocess.run(
        ["objdump", "-d", "-w", image.path], capture_output=True, text=True, check=True, timeout=60
    ).stdout
    decoder = InsnDecoder(bits)
    compared = branches = 0
    for found in LINE.finditer(listing):
        address, length = int(found[1], 16), len(found[2].split())
        mnemonic, operands = found[3] or "", (found[4] or "").strip()
        if "bad" in mnemonic or not mnemonic:
            continue
        insn = next(decoder.decode(image.read(address, 15), address))
        assert insn.length == length, found[0]
        compared += 1
        if mnemonic.startswith(BRANCHES) and re.fullmatch("[0-9a-f]+", operands):
            assert insn.target == int(operands, 16), found[0]
            branches += 1
    assert compared > 300
    assert branches > 10


def test_repeated_instruction_has_its_own_address() -> None:
    decoder = InsnDecoder(64)
    first, second = decoder.decode(bytes.fromhex("90 90"), 0x1000)
    assert (first.address, second.address, second.end) == (0x1000, 0x1001, 0x1002)
    (jump,), (other) = (
        decoder.decode(bytes.fromhex("eb02"), 0x1000),
        next(decoder.decode(b"\xeb\x02", 0x2000)),
    )
    assert (jump.target, other.target) == (0x1004, 0x2004)


@pytest.mark.parametrize(
    ("code", "bits", "per_cpu", "base", "displacement", "size"),
    [
        ("65c6042541000000 01", 64, True, NO_REGISTER, 0x41, 1),  # movb $1,%gs:0x41
        ("65c6053a000000 01", 64, True, NO_REGISTER, 0x1000 + 8 + 0x3A, 1),  # the same relative to rip
        ("c6430100", 64, False, 3, 1, 1),  # movb $0,1(%rbx)
        ("488b45c8", 64, False, 5, -0x38, 8),  # mov -0x38(%rbp),%rax
        ("8b80 041010c0", 32, False, 0, 0xC0101004, 4),  # mov 0xc0101004(%eax),%eax: an address
        ("8b45fc", 32, False, 5, -4, 4),  # mov -4(%ebp),%eax: a distance
        ("64a1 34010000", 32, True, NO_REGISTER, 0x134, 4),  # mov %fs:0x134,%eax
    ],
)
def test_memory_operands(
    code: str, bits: int, per_cpu: bool, base: int, displacement: int, size: int
) -> None:
    memory = one(code, bits).memory
    assert memory is not None
    assert (memory.per_cpu, memory.base, memory.displacement, memory.size) == (
        per_cpu,
        base,
        displacement,
        size,
    )


@pytest.mark.parametrize(
    ("code", "access", "written"),
    [
        ("c6430100", WRITE, ()),  # movb $0,1(%rbx)
        ("803b00", READ, ()),  # cmpb $0,(%rbx)
        ("3c00", 0, ()),  # cmp $0,%al: the same operation on a register
        ("8a4301", READ, (0,)),  # mov 1(%rbx),%al
        ("4887 5008", READ | WRITE, (2,)),  # xchg %rdx,8(%rax)
        ("f0480fba2800", READ | WRITE, ()),  # lock btsq $0,(%rax)
        ("488d4301", 0, (0,)),  # lea 1(%rbx),%rax
        ("0fa2", 0, (0, 1, 2, 3)),  # cpuid
    ],
)
def test_what_is_read_and_written(code: str, access: int, written: tuple[int, ...]) -> None:
    insn = one(code)
    assert (insn.access, tuple(sorted(insn.written))) == (access, written)


def test_one_opcode_with_memory_and_with_a_register() -> None:
    """The two forms share an opcode: what is cached for one must not be used for the other."""
    decoder = InsnDecoder(64)
    register, memory = decoder.decode(bytes.fromhex("80f900 803900"), 0)
    assert (register.access, memory.access) == (0, READ)


@pytest.mark.parametrize(
    ("code", "flow"),
    [
        ("c3", Flow.RETURN),
        ("48cf", Flow.RETURN),
        ("ff24c500000000", Flow.INDIRECT_JUMP),
        ("ffd0", Flow.INDIRECT_CALL),
        ("7500", Flow.CONDITIONAL),
        ("e800000000", Flow.CALL),
        ("0f0b", Flow.STOP),
        ("cc", Flow.STOP),
        ("cd82", Flow.NEXT),
        ("06", Flow.STOP),
    ],
)
def test_flow_of_control(code: str, flow: Flow) -> None:
    assert one(code).flow is flow


def test_text_is_in_att_syntax() -> None:
    assert InsnDecoder(64).text(bytes.fromhex("c6430100"), 0) == "movb $0,1(%rbx)"
    assert InsnDecoder(64).text(b"", 0) == ""


def test_truncated_instruction_stops() -> None:
    assert [insn.flow for insn in InsnDecoder(64).decode(b"\xc6\x43", 0)] == [Flow.STOP]
