"""Hypercalls in each form, functions that do not return, and code that runs on into the next function."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from builders.functions import Functions, assemble
from xtrace.symbols.flow.code import Code
from xtrace.symbols.flow.values import CPU, Value
from xtrace.symbols.image.image import open_image
from xtrace.symbols.x86.decode import RAX, RBX, RCX, RDX, RSP, Flow, InsnDecoder

NUMBER = "mov $17, %eax;"
#: The number of the hypercall that the first call, jump or trap of a function makes.
HYPERCALLS: dict[str, tuple[str, int | None]] = {
    "page": ("call page + 32 * 17; ret", 17),
    "page_jump": ("jmp page + 32 * 17", 17),
    "inside_a_room": (NUMBER + "call page + 32 * 17 + 1; ret", None),
    "trap": (NUMBER + "syscall; ret", 17),
    "trap_of_an_unknown_number": ("syscall; ret", None),
    "old_trap": (NUMBER + "int $0x82; ret", 17),
    "another_trap": (NUMBER + "int $0x80; ret", None),
    "stub": (NUMBER + "call trap_stub; ret", 17),
    "stub_with_its_number": ("call numbered_stub; ret", 29),
    "stub_behind_jumps": (NUMBER + "call jumping_stub; ret", 17),
    "stub_that_chooses": (NUMBER + "call choosing_stub; ret", 17),
    "stub_of_an_hvm_guest": (NUMBER + "call hvm_stub; ret", 17),
    "no_stub_for_it_stores": (NUMBER + "call storing; ret", None),
    "no_stub_for_it_computes": (NUMBER + "call computing; ret", None),
    "named_stub": (NUMBER + "call xen_hypercall_by_name; ret", 17),
    "pointer": (NUMBER + "call *pointer(%rip); ret", 17),
    "pointer_jump": (NUMBER + "jmp *pointer(%rip)", 17),
    "pointer_to_other_code": (NUMBER + "call *other_pointer(%rip); ret", None),
    "empty_pointer_by_its_name": (NUMBER + "call *hypercall_pointer(%rip); ret", 17),
    "table": ("call *hypercall_table + 8 * 17(%rip); ret", 17),
    "between_entries": ("call *hypercall_table + 8 * 17 + 1(%rip); ret", None),
    "register": (NUMBER + "call *%rbx; ret", None),
    "table_by_register": (NUMBER + "call *other_pointer(,%rbx,8); ret", None),
    "another_function": (NUMBER + "call returns; ret", None),
}
#: Whether a function never returns.
ENDLESS: dict[str, tuple[str, bool]] = {
    "endless_loop": ("1: hlt; jmp 1b", True),
    "endless_by_ud2": ("test %edi, %edi; je 1f; ud2; 1: ud2", True),
    "endless_by_a_call": ("call endless_loop", True),
    "endless_by_a_call_and_more": ("call endless_loop; ret", True),
    "endless_by_a_jump": ("jmp endless_loop", True),
    "endless_on_both_sides": ("test %edi, %edi; je endless_loop; call panic", True),
    "panic": ("ret", True),
    "returns": ("ret", False),
    "returns_on_one_side": ("test %edi, %edi; je 1f; call endless_loop; 1: ret", False),
    "returns_by_a_jump": ("jmp returns", False),
    "returns_by_an_indirect_jump": ("jmp *%rax", False),
    "returns_by_unmapped_code": ("jmp 0xffffffff90000000", False),
    "returns_from_a_loop": ("1: dec %edi; jne 1b; ret", False),
    "calls_itself": ("call calls_itself; ret", False),
    "too_large_to_tell": ("nops 3300; 1: jmp 1b", False),
}
HELPERS = {
    "trap_stub": "push %rcx; push %r11; syscall; pop %r11; pop %rcx; ret",
    "numbered_stub": "mov $29, %eax; syscall; ret",
    "jumping_stub": "jmp 1f; ud2; 1: nop; jmp trap_stub",
    "choosing_stub": "push %rax; call returns; pop %rax; jz hvm_stub; jmp hvm_stub",
    "hvm_stub": "vmmcall; ret",
    "storing": "mov %eax, (%rdi); syscall; ret",
    "computing": "add %ecx, %eax; syscall; ret",
    "xen_hypercall_by_name": "mov (%rdi), %rcx; jmp *%rcx",
    "data": (
        "ret; .pushsection .data; .balign 8;"
        ".globl pointer, other_pointer, hypercall_pointer, hypercall_table;"
        ".type pointer, @object; pointer: .quad trap_stub; .size pointer, 8;"
        ".type other_pointer, @object; other_pointer: .quad returns; .size other_pointer, 8;"
        ".type hypercall_pointer, @object; hypercall_pointer: .quad 0; .size hypercall_pointer, 8;"
        ".type hypercall_table, @object; hypercall_table: .skip 512; .size hypercall_table, 512; .popsection"
    ),
}


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Functions:
    bodies = {f"h_{name}": body for name, (body, _) in HYPERCALLS.items()}
    bodies |= {name: body for name, (body, _) in ENDLESS.items()}
    return assemble(tmp_path_factory.mktemp("code"), HELPERS | bodies)


@pytest.mark.parametrize("name", HYPERCALLS)
def test_hypercall(made: Functions, name: str) -> None:
    flow = made.flow(f"h_{name}")
    numbers = {made.code.hypercall_of(call) for call in flow.calls.values()} or {None}
    assert numbers == {HYPERCALLS[name][1]}


@pytest.mark.parametrize("name", ENDLESS)
def test_functions_that_do_not_return(made: Functions, name: str) -> None:
    assert made.code.never_returns(made.start(name)) is ENDLESS[name][1]
    # The answer does not depend on what was asked before.
    assert made.code.never_returns(made.start(name)) is ENDLESS[name][1]


def test_results_of_traps_are_not_what_was_there(made: Functions) -> None:
    results = made.flow("h_trap").results
    (result,) = results.values()
    assert result.constant is None


# --- code that runs on -----------------------------------------------------------------------------

FALLS = {
    "falls": "nop",
    "first": "nop; ret",
    "falls_over_padding": "mov $1, %ebx; .balign 16",
    "second": "inc %ebx; ret",
    "branches": "test %edi, %edi; je 1f; ret; 1: test %esi, %esi; jne falls",
    "third": "nop; ret",
    "calls_at_the_end": "call endless",
    "after_the_call": "nop; ret",
    "calls_and_pads": "call endless; nop; nop",
    "after_the_padding": "nop; ret",
    "calls_what_returns": "call after_the_padding",
    "after_what_returns": "nop; ret",
    "calls_what_returns_and_pads": "call after_the_padding; nop; nop",
    "after_more_padding": "nop; ret",
    "calls_what_returns_late": "call large",
    "after_large": "nop; ret",
    "large": "nops 3000; ret",
    "calls_through_a_pointer": "call *%rax",
    "after_the_pointer": "nop; ret",
    "returns": "ret",
    "after_the_return": "nop; ret",
    "endless": "1: jmp 1b",
}


@pytest.mark.parametrize(
    ("name", "other"),
    [
        ("falls", "first"),
        ("falls_over_padding", "second"),
        ("branches", "third"),
        ("calls_at_the_end", ""),
        ("calls_and_pads", ""),
        ("calls_what_returns", "after_what_returns"),
        ("calls_what_returns_and_pads", "after_more_padding"),
        ("calls_what_returns_late", "after_large"),
        ("calls_through_a_pointer", ""),
        ("returns", ""),
    ],
)
def test_code_that_runs_on(tmp_path: Path, name: str, other: str) -> None:
    made = assemble(tmp_path, FALLS)
    reached = set(made.flow(name).insns)
    own = made.code.window(made.start(name))
    beyond = {made.code.name(made.code.window(at)[0]) for at in reached if not own[0] <= at < own[1]}
    assert beyond == ({other} if other else set())
    if other:
        assert made.start(other) in made.flow(name).successors[max(at for at in reached if at < own[1])]


#: What comes after an indirect jump, up to code that counts as one of its cases.
PADDING = (
    "nop",
    "int3",
    "data16 nop",
    "xchg %ax, %ax",
    "lea 0(%rsi), %rsi",
    ".nops 9",
    "nop; lea 0(%rdi), %rdi",
)
NO_PADDING = (
    "lea 8(%rsi), %rsi", "lea 0(%rsi), %rdi", "lea 0(%rsi,%rax), %rsi", "xchg %eax, 8(%rdi)",
    "xchg %eax, %edx", "mov %esi, %edi", "mov %ah, %al",
)  # fmt: skip


@pytest.mark.parametrize("code", [*PADDING, *NO_PADDING])
def test_cases_begin_after_padding(tmp_path: Path, code: str) -> None:
    made = assemble(tmp_path, {"jumps": f"jmp *%rax; {code}; inc %ebx; ret"})
    start = made.start("jumps")
    insns = made.flow("jumps").insns
    (case,) = made.flow("jumps").successors[start]
    # The first instruction that is not padding.
    assert insns[case].mnemonic == ("inc" if code in PADDING else code.split()[0])


THUNKS = {
    "__x86_indirect_thunk_rax": "call 1f; 2: pause; lfence; jmp 2b; 1: mov %rax, (%rsp); ret",
    "__x86_return_thunk": "call 1f; 2: pause; lfence; jmp 2b; 1: lea 8(%rsp), %rsp; ret",
    "padded": ".balign 16; ret",
    "calls": "call __x86_indirect_thunk_rax; jmp __x86_return_thunk",
    "jumps": "jmp __x86_indirect_thunk_rax",
    "branches": "test %edi, %edi; je __x86_return_thunk; ret",
    "no_thunk": "call 1f; 2: pause; lfence; jmp 2b; 1: mov %rax, (%rsp); nop; jmp *%rcx",
    "calls_another": "call no_thunk; call no_thunk; call calls; call jumps; ret",
}


@pytest.mark.parametrize("stripped", [False, True])
def test_thunks_are_what_they_stand_for(tmp_path: Path, stripped: bool) -> None:
    made = assemble(tmp_path, THUNKS)
    code = made.code
    if stripped:
        bare = tmp_path / "bare"
        subprocess.run(["objcopy", "--strip-all", code.image.path, bare], check=True)
        code = Code(open_image(bare), None)

    def flows(name: str) -> list[Flow]:
        return [insn.flow for insn in list(code.run(made.start(name)))[:2]]

    assert flows("calls") == [Flow.INDIRECT_CALL, Flow.RETURN]
    assert flows("jumps")[0] is Flow.INDIRECT_JUMP
    assert flows("branches")[1] is Flow.CONDITIONAL
    assert flows("calls_another") == [Flow.CALL, Flow.CALL]
    assert all(insn.target == -1 for insn in list(code.run(made.start("calls")))[:2])


LEAVES = {
    "fence": "lfence; ret",
    "__fentry__": "mov %rax, counter(%rip); ret; .pushsection .data; counter: .quad 0; .popsection",
    "profiled": "call __fentry__; lfence; ret",
    "__stack_chk_fail": "1: jmp 1b",
    "protected": "mov %gs:0x28, %rax; push %rax; mfence; pop %rdx; sub %gs:0x28, %rdx;"
    "jne 1f; ret; 1: call panic",
    "panic": "ret",
    "stores_per_cpu": "mov %rax, %gs:0x28; lfence; ret",
    "branches": "test %edi, %edi; jne 1f; lfence; 1: ret",
    "branches_to_a_call": "test %edi, %edi; jne 1f; lfence; ret; 1: call fence; ret",
}


@pytest.mark.parametrize(
    ("name", "fences"),
    [
        ("fence", ["lfence"]),
        ("profiled", ["lfence"]),
        ("protected", ["mfence"]),
        ("stores_per_cpu", None),
        ("branches", None),
        ("branches_to_a_call", None),
    ],
)
def test_fences_of_a_leaf(tmp_path: Path, name: str, fences: list[str] | None) -> None:
    made = assemble(tmp_path, LEAVES)
    found = made.code.leaf_fences(made.start(name))
    assert (None if found is None else [insn.mnemonic for insn in found]) == fences


def test_functions_joined_by_tail_jumps(tmp_path: Path) -> None:
    made = assemble(
        tmp_path,
        {
            "jumps": "test %edi, %edi; je one; jmp two",
            "one": "nop; jmp three",
            "two": "ret",
            "three": "jmp page + 32 * 23",
            "alone": "call one; ret",
        },
    )
    joined = made.code.joined(made.flow("jumps"))
    assert {made.code.name(made.code.window(at)[0]) for at in joined.insns} == {
        "jumps",
        "one",
        "two",
        "three",
    }
    (branch,) = made.places("jumps", "je")
    assert made.start("one") in joined.successors[branch]
    assert [
        made.code.hypercall_of(call) for at, call in joined.calls.items() if at >= made.start("three")
    ] == [23]
    flow = made.flow("alone")
    assert made.code.joined(flow) is flow


# --- the stack -------------------------------------------------------------------------------------


@pytest.mark.parametrize("bits", [64, 32])
def test_each_form_of_push_and_pop_moves_the_stack_by_its_size(tmp_path: Path, bits: int) -> None:
    word = bits // 8
    sp, bp = ("%rsp", "%rbp") if bits == 64 else ("%esp", "%ebp")
    forms = {
        "push_flags": ("pushf", -word),
        "push_short_flags": ("pushfw", -2),
        "pop_flags": ("popf", word),
        "push_short_number": ("pushw $3", -2),
        "push_number": ("push $3", -word),
        "push_short": ("pushw %cx", -2),
        "pop_short": ("popw %cx", 2),
        "enter": ("enter $16, $0", -16 - word),
        "leave": (f"mov {sp}, {bp}; leave", word),
        "leave_short": (f"mov {sp}, {bp}; leavew", 2),
    }
    if bits == 32:
        forms |= {"push_all": ("pusha", -32), "pop_all": ("popa", 32)}
    made = assemble(
        tmp_path, {name: f"{body}; call 1f; 1: ret" for name, (body, _) in forms.items()}, bits=bits
    )
    for name, (_, by) in forms.items():
        (call,) = made.flow(name).calls.values()
        assert call.state.registers[RSP].offset == by, name


def test_what_is_pushed_is_what_is_popped(tmp_path: Path) -> None:
    made = assemble(
        tmp_path,
        {
            "all": "vcpu %ebx; pusha; xor %ebx, %ebx; popa; call 1f; 1: ret",
            "below_flags": "vcpu %ebx; push %ebx; pushf; popf; pop %ecx; call 1f; 1: ret",
            "framed": "vcpu %ebp; enter $8, $0; leave; call 1f; 1: ret",
        },
        bits=32,
    )
    pointer = Value(CPU, (0x10,), 0)
    for name, register in (("all", RBX), ("below_flags", RCX), ("framed", 5)):
        (call,) = made.flow(name).calls.values()
        assert call.state.registers[register] == pointer, name


def test_callee_changes_what_it_does_not_restore(tmp_path: Path) -> None:
    """Padding that names a register, and a register that is saved, leave it alone."""
    made = assemble(
        tmp_path,
        {
            "padded": ".byte 0x8d,0xb4,0x26,0,0,0,0; lea (%ebx), %ebx; mov %edx, %edx; ret",
            "saves": "push %ebx; mov $1, %ebx; mov $2, %ecx; pop %ebx; ret",
            "changes": "inc %ebx; ret",
            **{
                f"calls_{name}": f"vcpu %ebx; vcpu %ecx; vcpu %edx; call {name}; call 1f; 1: ret"
                for name in ("padded", "saves", "changes")
            },
        },
        bits=32,
    )
    pointer = Value(CPU, (0x10,), 0)
    kept = {}
    for name in ("padded", "saves", "changes"):
        last = max(made.flow(f"calls_{name}").calls.items())[1]
        kept[name] = {r for r in (RBX, RCX, RDX) if last.state.registers[r] == pointer}
    assert kept == {"padded": {RBX, RCX, RDX}, "saves": {RBX, RDX}, "changes": {RCX, RDX}}


def test_size_of_each_push_and_pop_is_decoded() -> None:
    for bits, code, stacked in (
        (64, b"\x50", -8), (64, b"\x66\x50", -2), (64, b"\x58", 8), (64, b"\xc9", 8), (64, b"\x66\xc9", 2),
        (32, b"\x50", -4), (32, b"\xc9", 4), (32, b"\x66\xc9", 2), (32, b"\x60", -32), (64, b"\x90", 0),
    ):  # fmt: skip
        (insn,) = InsnDecoder(bits).decode(code, 0x1000)
        assert (insn.stacked, insn.at(0x2000).stacked) == (stacked, stacked), code


def test_numbers_of_this_cpu_are_followed(tmp_path: Path) -> None:
    """A number from the per-CPU area, scaled and added, makes a pointer this CPU's own."""
    made = assemble(
        tmp_path,
        {
            "own": "mov %gs:0x34, %eax; shl $6, %rax; add shared(%rip), %rax; call 1f; 1: ret",
            "own_by_shifts": "mov %gs:0x34, %rax; shl $32, %rax; shr $26, %rax; add shared(%rip), %rax;"
            "call 1f; 1: ret",
            "own_by_imul": "mov %gs:0x34, %eax; cltq; imul $64, %rax, %rax; add shared(%rip), %rax;"
            "call 1f; 1: ret",
            "passed": "mov %edi, %eax; shl $6, %rax; add shared(%rip), %rax; call 1f; 1: ret",
            "mixed": "mov %gs:0x34, %eax; shl $6, %rax; add shared(%rip), %rax; add %rsi, %rax;"
            "call 1f; 1: ret",
            "data": "ret; .pushsection .data; shared: .quad 0; .popsection",
        },
    )
    own = {}
    for name in ("own", "own_by_shifts", "own_by_imul", "passed", "mixed"):
        (call,) = made.flow(name).calls.values()
        value = call.state.registers[RAX]
        assert value.indexed
        own[name] = value.own
    assert own["own"] == own["own_by_shifts"] == own["own_by_imul"] == (0x34,)
    assert own["passed"] == ()
    # Another unknown number added to it does not make it another CPU's, but it is no longer certain.
    assert own["mixed"] == ()
