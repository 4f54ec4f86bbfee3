"""Each replacement is one instruction of the same length."""

from __future__ import annotations

import pytest

from xtrace.symbols.patching.forms import noop, plain_return, store_of_exchange, without_lock
from xtrace.symbols.x86.decode import Flow, InsnDecoder

DECODER = InsnDecoder(64)


@pytest.mark.parametrize("length", range(1, 16))
def test_a_no_op_is_one_instruction_that_writes_nothing(length: int) -> None:
    data = noop(length)
    (insn,) = DECODER.decode(data, 0x1000)
    assert (insn.length, insn.mnemonic, insn.written, insn.access) == (length, "nop", (), 0)


@pytest.mark.parametrize("length", [0, 16])
def test_no_instruction_has_other_lengths(length: int) -> None:
    with pytest.raises(ValueError, match="no instruction has"):
        noop(length)


@pytest.mark.parametrize(
    ("data", "text", "plain"),
    [
        ("f083042400", "lock addl $0,(%rsp)", "addl $0,(%rsp)"),
        ("f04883442 4f800", "lock addq $0,-8(%rsp)", "addq $0,-8(%rsp)"),
        ("f0806201fe", "lock andb $0xFE,1(%rdx)", "andb $0xFE,1(%rdx)"),
        ("f065806001fe", "lock andb $0xFE,%gs:1(%rax)", "andb $0xFE,%gs:1(%rax)"),
        ("66f083042400", "lock addw $0,(%rsp)", "addw $0,(%rsp)"),
    ],
)
def test_without_its_lock_an_instruction_does_the_same(data: str, text: str, plain: str) -> None:
    locked = bytes.fromhex(data.replace(" ", ""))
    unlocked = without_lock(locked)
    assert unlocked is not None
    (one,), (other,) = DECODER.decode(locked, 0), DECODER.decode(unlocked, 0)
    assert one.lock
    assert not other.lock
    assert (one.length, one.mnemonic, one.operands, one.memory) == (
        other.length,
        other.mnemonic,
        other.operands,
        other.memory,
    )
    assert DECODER.text(locked, 0).lower() == text.lower()
    assert DECODER.text(unlocked, 0).lower().removeprefix("ds ") == plain.lower()


@pytest.mark.parametrize("data", ["830424 00", "86 42 01", "90"])
def test_an_instruction_without_lock_has_no_other_form(data: str) -> None:
    assert without_lock(bytes.fromhex(data)) is None


@pytest.mark.parametrize(
    ("data", "store"),
    [
        ("864201", "884201"),  # xchg %al,1(%rdx)
        ("48874424f8", "48894424f8"),  # xchg %rax,-8(%rsp)
        ("44867f01", "44887f01"),  # xchg %r15b,1(%rdi)
        ("65864001", "65884001"),  # xchg %al,%gs:1(%rax)
    ],
)
def test_an_exchange_becomes_the_store_to_the_same_place(data: str, store: str) -> None:
    exchange, mov = bytes.fromhex(data), store_of_exchange(bytes.fromhex(data))
    assert mov == bytes.fromhex(store)
    (one,), (other,) = DECODER.decode(exchange, 0), DECODER.decode(mov, 0)
    assert other.mnemonic == "mov"
    assert one.memory == other.memory
    assert {item.register for item in one.operands} == {item.register for item in other.operands}


@pytest.mark.parametrize("data", ["4887c3", "90", "f00fc102", "66", ""])  # registers only, others, nothing
def test_what_is_no_exchange_with_memory_has_no_store(data: str) -> None:
    assert store_of_exchange(bytes.fromhex(data)) is None


@pytest.mark.parametrize("length", [2, 5])
def test_a_tail_jump_becomes_a_return(length: int) -> None:
    data = plain_return(length)
    insn = next(iter(DECODER.decode(data, 0)))
    assert (len(data), insn.flow, insn.length) == (length, Flow.RETURN, 1)
