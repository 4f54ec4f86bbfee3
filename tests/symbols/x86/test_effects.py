"""What an instruction reads and writes depends on its bytes alone, and is what iced-x86 says of each."""

from __future__ import annotations

import random
from collections.abc import Iterator
from pathlib import Path

import pytest
from iced_x86 import (
    Decoder,
    Instruction,
    InstructionInfoFactory,
    OpAccess,
    OpKind,
    Register,
    Register_,
    RegisterExt,
)

from peer.debian import dependency, unpacked
from xtrace import samples
from xtrace.symbols.image.image import open_image
from xtrace.symbols.x86.decode import READ, WRITE, Insn, InsnDecoder

ADDRESS = 0x1000
WRITES = (OpAccess.WRITE, OpAccess.COND_WRITE, OpAccess.READ_WRITE, OpAccess.READ_COND_WRITE)
READS = (OpAccess.READ, OpAccess.COND_READ, OpAccess.READ_WRITE, OpAccess.READ_COND_WRITE)


def corpus() -> list[Path]:
    """Return a guest's kernel and the largest libraries that every test machine has."""
    found = [samples.path().with_name("own-lfence.elf")]
    for name in ("libc.so.6", "libm.so.6"):
        found += list(Path("/usr/lib").glob(f"*/{name}"))[:1]
    return found


def unique(path: Path) -> list[bytes]:
    """Return the different instructions of an image's code, in order of their first occurrence."""
    image = open_image(path)
    found: dict[bytes, None] = {}
    for section in image.sections:
        if section.name in (".text", ".init.text"):
            data = image.read(section.address, section.size)
            for raw in Decoder(64, data, ip=section.address):
                begin = raw.ip - section.address
                found[data[begin : begin + raw.len]] = None
    return list(found)


def general(register: Register_) -> int:
    """Return a general register's number, -1 for others."""
    if Register.AL <= register <= Register.R15:
        return RegisterExt.full_register(register) - Register.RAX
    return -1


def expected(raw: Instruction, factory: InstructionInfoFactory) -> tuple[set[int], int]:
    """Return the registers written and the access to memory, by iced-x86."""
    info = factory.info(raw)
    written = {general(used.register) for used in info.used_registers() if used.access in WRITES} - {-1}
    access = 0
    for number in range(raw.op_count):
        if raw.op_kind(number) == OpKind.MEMORY:
            kind = info.op_access(number)
            access = (READ if kind in READS else 0) | (WRITE if kind in WRITES else 0)
    return written, access


def decoded(items: list[bytes]) -> dict[bytes, Insn]:
    decoder = InsnDecoder(64)
    return {data: next(decoder.decode(data, ADDRESS)) for data in items}


@pytest.mark.parametrize("path", corpus(), ids=lambda path: path.name)
def test_effects_are_those_of_iced_in_any_order(path: Path) -> None:
    compare(path)


@pytest.mark.nightly
def test_effects_in_a_kernel() -> None:
    package = dependency("linux-image-cloud-amd64", r"linux-image-\d\S*-cloud-amd64")
    compare(next((unpacked(package) / "boot").glob("vmlinuz-*")))


def compare(path: Path) -> None:
    """Compare each instruction of an image, decoded in two orders, with what iced-x86 says of it."""
    items = unique(path)
    assert len(items) > 300
    shuffled = items.copy()
    random.shuffle(shuffled)
    first, second = decoded(items), decoded(shuffled)
    factory = InstructionInfoFactory()
    for data in items:
        insn = first[data]
        assert insn == second[data], data.hex()
        raw = next(iter(Decoder(64, data, ip=ADDRESS)))
        assert (set(insn.written), insn.access) == expected(raw, factory), data.hex()


#: Instructions that write registers which they do not name, or which they also name: Intel SDM volume 2.
IMPLIED = (
    ("48f7e0", {0, 2}),  # mul %rax
    ("48f7e1", {0, 2}),  # mul %rcx
    ("48f7e2", {0, 2}),  # mul %rdx
    ("f6e1", {0}),  # mul %cl
    ("48f7e8", {0, 2}),  # imul %rax
    ("48f7eb", {0, 2}),  # imul %rbx
    ("480fafc8", {1}),  # imul %rax,%rcx
    ("48f7f0", {0, 2}),  # div %rax
    ("48f7f1", {0, 2}),  # div %rcx
    ("48f7fa", {0, 2}),  # idiv %rdx
    ("f00fb103", {0}),  # lock cmpxchg %eax,(%rbx)
    ("f00fb10b", {0}),  # lock cmpxchg %ecx,(%rbx)
    ("0fb1c1", {0, 1}),  # cmpxchg %eax,%ecx
    ("0fb1c8", {0}),  # cmpxchg %ecx,%eax
    ("480fc70b", {0, 2}),  # cmpxchg16b (%rbx)
    ("4887c1", {0, 1}),  # xchg %rax,%rcx
    ("480fc1c1", {0, 1}),  # xadd %rax,%rcx
    ("4899", {2}),  # cqo
    ("4898", {0}),  # cltq
    ("31c0", {0}),  # xor %eax,%eax
    ("31c8", {0}),  # xor %ecx,%eax
    ("0f31", {0, 2}),  # rdtsc
    ("0fa2", {0, 1, 2, 3}),  # cpuid
    ("50", {4}),  # push %rax
    ("5c", {4}),  # pop %rsp
    ("c9", {4, 5}),  # leave
    ("f3a4", {1, 6, 7}),  # rep movsb
    ("0f05", {1, 11}),  # syscall
)  # fmt: skip


def orders() -> Iterator[list[tuple[str, set[int]]]]:
    yield list(IMPLIED)
    yield list(reversed(IMPLIED))
    for seed in range(20):
        yield random.Random(seed).sample(IMPLIED, len(IMPLIED))


def test_implied_writes_do_not_depend_on_what_was_decoded_before() -> None:
    for order in orders():
        decoder = InsnDecoder(64)
        for code, written in order:
            (insn,) = decoder.decode(bytes.fromhex(code), ADDRESS)
            assert set(insn.written) == written, code


def test_a_register_exclusive_or_does_not_hide_a_memory_read() -> None:
    """Xor of a register with itself reads nothing; the same form with memory does."""
    decoder = InsnDecoder(64)
    cleared, read = decoder.decode(bytes.fromhex("33c0 3303"), ADDRESS)
    assert (cleared.access, read.access) == (0, READ)
