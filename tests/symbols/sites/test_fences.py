"""Which fences belong to a touch, on small functions: at what distance, on which paths, to which touch."""

from __future__ import annotations

import pytest

from builders.functions import Functions, assemble
from xtrace.symbols.sites import surroundings
from xtrace.symbols.sites.fences import FenceFinder
from xtrace.symbols.sites.model import Kind

#: Each touch in a case has a different kind, which identifies it in the expected result.
MASK = "movb $1, 1(%rbx);"
UNMASK = "movb $0, 1(%rbx);"
TEST = "cmpb $0, (%rbx);"
SAVE = "movzbl 1(%rbx), %ecx;"
RESTORE = "movb %cl, 1(%rbx);"
CLEAR = "movb $0, (%rbx);"

OF_MASK = {"mask": ["lfence inline after all paths"]}
OF_UNMASK = {"unmask": ["lfence inline after all paths"]}

#: The body, and by touch the fences found: "mnemonic how position paths" and the callee's name.
CASES: dict[str, tuple[str, dict[str, list[str]]]] = {
    "none": (MASK + "nop; ret", {}),
    # The fence instruction, and how it is reached.
    "lfence": (MASK + "lfence; ret", OF_MASK),
    "mfence": (MASK + "mfence; ret", {"mask": ["mfence inline after all paths"]}),
    "locked": (MASK + "lock addl $0, -8(%rsp); ret", {"mask": ["add inline after all paths"]}),
    "serialising": (MASK + "cpuid; ret", {"mask": ["cpuid inline after all paths"]}),
    "called": (MASK + "call leaf_lfence; ret", {"mask": ["lfence callee after all paths leaf_lfence"]}),
    "jumped_to": (MASK + "jmp leaf_lfence", {"mask": ["lfence tail jump after all paths leaf_lfence"]}),
    "jumped_to_further_on": (
        MASK + "jmp last_lfence",
        {"mask": ["lfence tail jump after all paths last_lfence"]},
    ),
    # A branch out of the function is not followed.
    "branched_to": (MASK + "test %edi, %edi; jne last_lfence; ret", {}),
    "two_in_a_callee": (
        MASK + "call leaf_both; ret",
        {"mask": ["lfence callee after all paths leaf_both", "mfence callee after all paths leaf_both"]},
    ),
    "two_inline": (
        MASK + "lfence; mfence; ret",
        {"mask": ["lfence inline after all paths", "mfence inline after all paths"]},
    ),
    "the_access_itself": ("xchg %cl, 1(%rbx); ret", {"restore": ["xchg inline access all paths"]}),
    "the_access_and_another": (
        "xchg %cl, 1(%rbx); mfence; ret",
        {"restore": ["xchg inline access all paths", "mfence inline after all paths"]},
    ),
    # The distance.
    "at_the_limit_after": (MASK + "nops 24; lfence; ret", OF_MASK),
    "too_far_after": (MASK + "nops 25; lfence; ret", {}),
    "before": ("lfence;" + MASK + "ret", {"mask": ["lfence inline before all paths"]}),
    "called_before": (
        "call leaf_lfence;" + MASK + "ret",
        {"mask": ["lfence callee before all paths leaf_lfence"]},
    ),
    "at_the_limit_before": (
        "lfence; nops 6;" + MASK + "ret",
        {"mask": ["lfence inline before all paths"]},
    ),
    "too_far_before": ("lfence; nops 7;" + MASK + "ret", {}),
    # The paths.
    "on_one_path": (
        MASK + "test %edi, %edi; je 1f; lfence; 1: ret",
        {"mask": ["lfence inline after some paths"]},
    ),
    "on_both_paths": (
        MASK + "test %edi, %edi; je 1f; lfence; ret; 1: mfence; ret",
        {"mask": ["lfence inline after some paths", "mfence inline after some paths"]},
    ),
    "after_paths_join": (
        MASK + "test %edi, %edi; je 1f; nop; 1: lfence; ret",
        OF_MASK,
    ),
    "before_on_one_path": (
        "test %edi, %edi; je 1f; lfence; 1:" + MASK + "ret",
        {"mask": ["lfence inline before some paths"]},
    ),
    "after_a_jump": (MASK + "jmp 1f; nop; 1: lfence; ret", OF_MASK),
    # What ends the search.
    "after_a_call": (MASK + "call leaf_nothing; lfence; ret", OF_MASK),
    "after_a_call_of_a_larger_function": (MASK + "call not_a_leaf; lfence; ret", {}),
    "after_an_indirect_call": (MASK + "call *%rax; lfence; ret", {}),
    "before_an_indirect_call": ("lfence; call *%rax;" + MASK + "ret", {}),
    "after_a_read_of_other_memory": (MASK + "mov (%rdi), %eax; lfence; ret", {}),
    "after_a_write_to_other_memory": (MASK + "mov %eax, (%rdi); lfence; ret", {}),
    "before_other_memory": ("lfence; mov %eax, (%rdi);" + MASK + "ret", {}),
    "locked_access_to_other_memory": (MASK + "lock incl (%rdi); ret", {}),
    "after_a_write_to_other_per_cpu_memory": (MASK + "mov %eax, %gs:0x40; lfence; ret", {}),
    "after_a_read_of_other_per_cpu_memory": (
        MASK + "mov %gs:0x40, %eax; lfence; ret",
        OF_MASK,
    ),
    "after_a_write_to_the_stack": (MASK + "mov %eax, -8(%rsp); lfence; ret", OF_MASK),
    "after_the_pointer_is_loaded_again": (MASK + "vcpu %rdx; lfence; ret", OF_MASK),
    "after_a_load_from_the_pointers_field": (
        MASK + "mov 0x30(%rdi), %rdx; lfence; ret",
        OF_MASK,
    ),
    "after_a_load_from_another_field": (MASK + "mov 0x38(%rdi), %rdx; lfence; ret", {}),
    "after_a_read_of_another_vcpu_info_field": (
        MASK + "mov 16(%rbx), %rax; lfence; ret",
        OF_MASK,
    ),
    "after_a_write_to_another_vcpu_info_field": (MASK + "mov %rax, 16(%rbx); lfence; ret", {}),
    # The touch that it belongs to: the one before it, otherwise the one after it.
    "of_two_the_first": (
        MASK + "lfence; nops 2;" + UNMASK + "ret",
        OF_MASK,
    ),
    "of_two_the_second": (MASK + "nop;" + UNMASK + "lfence; ret", OF_UNMASK),
    "between_and_before": (
        "mfence;" + MASK + "lfence;" + UNMASK + "ret",
        {"mask": ["lfence inline after all paths", "mfence inline before all paths"]},
    ),
    "where_two_join": (
        "test %edi, %edi; je 1f;" + MASK + "jmp 2f; 1:" + UNMASK + "2: lfence; ret",
        OF_MASK,
    ),
    "after_both_and_another_after_one": (
        "test %edi, %edi; je 1f;" + MASK + "2: lfence; ret;"
        "1:" + UNMASK + "test %esi, %esi; je 2b; mfence; ret",
        {**OF_MASK, "unmask": ["mfence inline after some paths"]},
    ),
    "after_a_read": (SAVE + "lfence; ret", {"save": ["lfence inline after all paths"]}),
    "called_after_a_read": (
        SAVE + "call leaf_lfence; ret",
        {"save": ["lfence callee after all paths leaf_lfence"]},
    ),
    "before_a_read": ("lfence;" + SAVE + "ret", {}),
    "after_the_branch_of_a_read": (TEST + "je 1f; lfence; 1: ret", {}),
    "after_a_read_before_its_branch": (
        TEST + "lfence; je 1f; nop; 1: ret",
        {"pending test": ["lfence inline after all paths"]},
    ),
    "between_a_pending_test_and_a_store": (
        TEST + "lfence;" + UNMASK + "ret",
        {"pending test": ["lfence inline after all paths"]},
    ),
    "between_a_save_and_a_store": (
        SAVE + "lfence;" + MASK + "ret",
        {"mask": ["lfence inline before all paths"]},
    ),
    "after_a_clear": (CLEAR + "mfence; ret", {"pending clear": ["mfence inline after all paths"]}),
    # A fence after an unmask or restore belongs to it if its pending test follows the fence.
    "before_the_test": (
        UNMASK + "lfence;" + TEST + "je 1f; nop; 1: ret",
        OF_UNMASK,
    ),
    "before_the_test_on_one_path": (
        UNMASK + "lfence; test %edi, %edi; je 1f;" + TEST + "1: ret",
        OF_UNMASK,
    ),
    "before_a_store_of_the_mask_and_the_test": (
        UNMASK + "lfence;" + UNMASK + TEST + "je 1f; nop; 1: ret",
        {"unmask": ["lfence inline before all paths"]},
    ),
    "on_the_path_without_the_test": (UNMASK + "test %edi, %edi; je 1f;" + TEST + "ret; 1: lfence; ret", {}),
    "on_the_path_without_the_test_of_a_restore": (
        SAVE + MASK + RESTORE + "test %cl, %cl; jne 1f;" + TEST + "ret; 1: lfence; ret",
        {},
    ),
    "at_the_limit_before_the_test": (
        UNMASK + "lfence; nops 24;" + TEST + "je 1f; nop; 1: ret",
        OF_UNMASK,
    ),
    "too_far_before_the_test": (UNMASK + "lfence; nops 25;" + TEST + "je 1f; nop; 1: ret", {}),
    "without_a_test": (UNMASK + "lfence; ret", OF_UNMASK),
    "before_the_store_and_its_test": (
        "lfence;" + UNMASK + TEST + "je 1f; nop; 1: ret",
        {"unmask": ["lfence inline before all paths"]},
    ),
    "before_a_read_of_the_mask_and_the_test": (
        SAVE + MASK + RESTORE + "lfence; cmpb $0, 1(%rbx); jne 1f;" + TEST + "je 1f; nop; 1: ret",
        {"restore": ["lfence inline after all paths"]},
    ),
}  # fmt: skip
HELPERS = {
    "leaf_lfence": "lfence; ret",
    "leaf_both": "lfence; mfence; ret",
    "leaf_nothing": "xor %edx, %edx; ret",
    "not_a_leaf": "mov %eax, (%rdi); mfence; ret",
}


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Functions:
    bodies = {f"case_{name}": f"vcpu %rbx; {body}" for name, (body, _) in CASES.items()}
    return assemble(tmp_path_factory.mktemp("fences"), HELPERS | bodies | {"last_lfence": "lfence; ret"})


@pytest.mark.parametrize(
    ("name", "expected"), [(name, expected) for name, (_, expected) in CASES.items()], ids=list(CASES)
)
def test_fences_of_each_touch(made: Functions, name: str, expected: dict[str, list[str]]) -> None:
    name = f"case_{name}"
    flow, touches = made.flow(name), made.touches(name)
    tests = {
        address: surroundings.pending_test(made.code, flow, touch, touches).hits
        for address, touch in touches.items()
        if touch.kind in (Kind.UNMASK, Kind.RESTORE)
    }
    found = FenceFinder(made.code, made.layout, flow, touches, tests).find()
    assert set(found) == set(touches)
    told = {
        str(touches[address].kind): [
            f"{item.insn.mnemonic} {item.how} {item.position} {item.paths} {item.via}".strip()
            for item in fences
        ]
        for address, fences in found.items()
        if fences
    }
    assert told == expected
    for fences in found.values():
        for item in fences:
            # ``at`` is in the function: the fence itself, or the call or jump to it.
            assert item.at in flow.insns
            assert (item.at == item.insn.address) is (item.via == "")
