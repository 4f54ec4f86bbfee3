"""The code around a touch, in small functions: each limit, each branch, each relevant kind of instruction.

A case is the body of a function and the expected result, in which instructions are given by their
mnemonics, in address order.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from builders.functions import Functions, assemble
from xtrace.symbols.flow.walk import Paths, Ways
from xtrace.symbols.sites import surroundings
from xtrace.symbols.sites.handlers import IN_ORDER, Handlers, Order
from xtrace.symbols.sites.model import Kind
from xtrace.symbols.sites.surroundings import Touches

ALL, SOME, NONE = Paths.ALL, Paths.SOME, Paths.NONE
UNMASK = "vcpu %rbx; movb $0, 1(%rbx);"
MASK = "vcpu %rbx; movb $1, 1(%rbx);"
TEST = "cmpb $0, (%rbx);"
#: The value to restore is read and saved; then the mask is set.
SAVED = "vcpu %rbx; movzbl 1(%rbx), %ecx; movb $1, 1(%rbx);"
RESTORE = SAVED + "movb %cl, 1(%rbx);"
#: The end of a conditional branch to a path without a test; the other path has one.
FORK = f"1f; {TEST} 1: ret"

Cases = dict[str, tuple[str, Any]]

#: How many pending tests follow the first unmask, and on which paths.
TESTS_OF_UNMASK: Cases = {
    "follows": (UNMASK + TEST + "ret", (1, ALL)),
    "missing": (UNMASK + "ret", (0, NONE)),
    "on_one_path": (UNMASK + "test %edi, %edi; je " + FORK, (1, SOME)),
    "on_both_paths": (UNMASK + f"test %edi, %edi; je 1f; {TEST} ret; 1: {TEST} ret", (2, ALL)),
    "masked_again": (UNMASK + "movb $1, 1(%rbx);" + TEST + "ret", (0, NONE)),
    "masked_again_on_one_path": (
        UNMASK + f"test %edi, %edi; je 1f; {TEST} ret; 1: movb $1, 1(%rbx); {TEST} ret",
        (1, SOME),
    ),
    "read_between": (UNMASK + "movzbl 1(%rbx), %eax;" + TEST + "ret", (1, ALL)),
    "printed_between": (UNMASK + "movzbl 1(%rbx), %esi; call printf;" + TEST + "ret", (1, ALL)),
    "unmasked_twice": (UNMASK + "movb $0, 1(%rbx);" + TEST + "ret", (1, ALL)),
    "at_the_limit": (UNMASK + "nops 60;" + TEST + "ret", (1, ALL)),
    "too_far": (UNMASK + "nops 61;" + TEST + "ret", (0, NONE)),
    "or_a_call_after_which_nothing_is": (UNMASK + f"js 1f; {TEST} ret; 1: call huge", (1, ALL)),
    "or_a_call_and_more": (UNMASK + f"js 1f; {TEST} ret; 1: call huge; ret", (1, SOME)),
    # An unmask always opens the mask: a test of the mask exempts no path.
    "mask_tested": (UNMASK + "cmpb $0, 1(%rbx); jne " + FORK, (1, SOME)),
}

#: On which paths a pending test follows the first restore.
TESTS_OF_RESTORE: Cases = {
    "value_tested": (RESTORE + "test %cl, %cl; jne " + FORK, ALL),
    "value_compared": (RESTORE + "cmp $0, %cl; jne " + FORK, ALL),
    "value_tested_before": (SAVED + f"test %cl, %cl; movb %cl, 1(%rbx); jne {FORK}", ALL),
    "value_tested_and_no_path_has_a_test": (RESTORE + "test %cl, %cl; jne 1f; nop; 1: ret", NONE),
    "another_value_tested": (RESTORE + "test %dil, %dil; jne " + FORK, SOME),
    "another_saved_value_tested": (
        "vcpu %rbx; movzbl 1(%rbx), %ecx; movb %cl, (%rsi); movb %dil, 1(%rbx); test %cl, %cl; jne " + FORK,
        SOME,
    ),
    "two_values_tested": (RESTORE + "test %cl, %cl; test %esi, %esi; jne " + FORK, SOME),
    "value_tested_early": (RESTORE + "test %cl, %cl; nops 5; jne " + FORK, ALL),
    "value_tested_too_early": (RESTORE + "test %cl, %cl; nops 6; jne " + FORK, SOME),
    "value_tested_before_a_call": (RESTORE + "test %cl, %cl; call leaf_nothing; jne " + FORK, SOME),
    "value_tested_without_a_branch": (RESTORE + "test %cl, %cl; ret", NONE),
    "mask_read_back": (RESTORE + "movzbl 1(%rbx), %edx; test %dl, %dl; jne " + FORK, ALL),
    "mask_compared": (RESTORE + "cmpb $0, 1(%rbx); jne " + FORK, ALL),
    "selector_read_back": (RESTORE + "movzbl 8(%rbx), %edx; test %dl, %dl; jne " + FORK, SOME),
    "pending_compared": (RESTORE + "cmpb $1, (%rbx); jne 1f; nop; 1: ret", ALL),
    "an_argument": ("vcpu %rbx; movb %dil, 1(%rbx); test %esi, %esi; jne " + FORK, SOME),
    "an_argument_tested": ("vcpu %rbx; movb %dil, 1(%rbx); test %dil, %dil; jne " + FORK, ALL),
    "exchanged": ("vcpu %rbx; cmpxchg %cl, 1(%rbx); test %cl, %cl; jne " + FORK, ALL),
    "swapped": ("vcpu %rbx; mov %cl, %al; xchg %al, 1(%rbx); test %cl, %cl; jne " + FORK, ALL),
    "swapped_after_the_test": ("vcpu %rbx; test %cl, %cl; xchg %cl, 1(%rbx); jne " + FORK, ALL),
    "swapped_and_what_was_there_tested": ("vcpu %rbx; xchg %cl, 1(%rbx); test %cl, %cl; jne " + FORK, SOME),
    # The value is the outcome of a comparison: a branch on its flags, operands or result decides.
    "outcome_by_its_flags": ("vcpu %rbx; testl $0x200, %edi; setz 1(%rbx); jz " + FORK, ALL),
    "outcome_of_the_same_operands_stored": (
        "vcpu %rbx; testl $0x200, %edi; setz 1(%rbx); testl $0x200, %edi; jz " + FORK,
        ALL,
    ),
    "outcome_stored_and_another_tested": (
        "vcpu %rbx; testl $0x200, %edi; setz 1(%rbx); testl $0x200, %esi; jz " + FORK,
        SOME,
    ),
    "saved_outcome_by_its_flags": (
        "vcpu %rbx; testl $0x200, %edi; setz %al; movb %al, 1(%rbx); jz " + FORK,
        ALL,
    ),
    "outcome_of_arithmetic_by_its_flags": (
        "vcpu %rbx; and $0x200, %edi; setz %al; movb %al, 1(%rbx); jz " + FORK,
        ALL,
    ),
    "outcome_of_the_same_operands": (
        "vcpu %rbx; testl $0x200, %edi; setz %al; movb %al, 1(%rbx); testl $0x200, %edi; jz " + FORK,
        ALL,
    ),
    "outcome_of_other_operands": (
        "vcpu %rbx; testl $0x200, %edi; setz %al; movb %al, 1(%rbx); testl $0x200, %esi; jz " + FORK,
        SOME,
    ),
    "outcome_and_the_result_tested": (
        "vcpu %rbx; and $0x200, %edi; setz %al; movb %al, 1(%rbx); test %edi, %edi; jz " + FORK,
        ALL,
    ),
    "outcome_with_a_move_between": (
        "vcpu %rbx; and $0x200, %edi; mov %esi, %edx; setz %al; movb %al, 1(%rbx); test %edi, %edi; jz "
        + FORK,
        ALL,
    ),
    "outcome_of_an_older_result": (
        "vcpu %rbx; and $0x200, %edi; not %edi; setz %al; movb %al, 1(%rbx); test %edi, %edi; jz " + FORK,
        SOME,
    ),
    "outcome_at_the_limit": (
        "vcpu %rbx; and $0x200, %edi; nops 5; setz %al; movb %al, 1(%rbx); test %edi, %edi; jz " + FORK,
        ALL,
    ),
    "outcome_from_too_far": (
        "vcpu %rbx; and $0x200, %edi; nops 6; setz %al; movb %al, 1(%rbx); test %edi, %edi; jz " + FORK,
        SOME,
    ),
    "outcome_of_two_paths": (
        "vcpu %rbx; test %esi, %esi; js 2f; and $0x200, %edi; 2: setz %al; movb %al, 1(%rbx);"
        "test %edi, %edi; jz " + FORK,
        SOME,
    ),
    # A compiler may test the value or its opposite.
    "opposite_tested": (
        "vcpu %rbx; mov %edi, %ecx; xor $1, %ecx; movb %cl, 1(%rbx); test %edi, %edi; je " + FORK,
        ALL,
    ),
    "another_opposite_tested": (
        "vcpu %rbx; mov %esi, %ecx; xor $1, %ecx; movb %cl, 1(%rbx); test %edi, %edi; je " + FORK,
        SOME,
    ),
    "flags_of_another_in_between": (
        RESTORE + "test %cl, %cl; xor %esi, %edi; jne " + FORK,
        SOME,
    ),
    "outcome_of_memory": (
        "vcpu %rbx; testl $0x200, %edi; andl $1, (%rsi); setz 1(%rbx); testl $0x200, %edi; jz " + FORK,
        SOME,
    ),
    "outcome_across_an_exchange": (
        "vcpu %rbx; testl $0x200, %edi; xchg %eax, (%rsi); setz 1(%rbx); testl $0x200, %edi; jz " + FORK,
        ALL,
    ),
    "no_outcome": (
        "vcpu %rbx; cmp %dl, %cl; not %al; movb %al, 1(%rbx); cmp %dl, %cl; jne " + FORK,
        SOME,
    ),
}  # fmt: skip
#: Each sets the flags that an outcome comes from.
for _how in (
    "or %esi,",
    "xor %esi,",
    "add %esi,",
    "sub %esi,",
    "shr $1,",
    "shl $1,",
    "sar $1,",
    "neg",
    "inc",
    "dec",
):
    TESTS_OF_RESTORE[f"outcome_of_{_how.split()[0]}"] = (
        f"vcpu %rbx; {_how} %edi; setz %al; movb %al, 1(%rbx); test %edi, %edi; jz {FORK}",
        ALL,
    )

#: Whether the first restore can only store non-zero.
LEFT_MASKED: Cases = {
    "by_or": (SAVED + "or %cl, %cl; je 1f; movb %cl, 1(%rbx); 1: ret", True),
    "by_and": (SAVED + "and %cl, %cl; jne 1f; ret; 1: movb %cl, 1(%rbx); ret", True),
    "by_or_on_the_other_side": (SAVED + "or %cl, %cl; jne 1f; movb %cl, 1(%rbx); 1: ret", False),
    "by_or_with_another": (SAVED + "or %dl, %cl; je 1f; movb %cl, 1(%rbx); 1: ret", False),
    "where_jne_goes": (SAVED + "test %cl, %cl; jne 2f; ret; 2: movb %cl, 1(%rbx); ret", True),
    "after_jne": (SAVED + "test %cl, %cl; jne 2f; movb %cl, 1(%rbx); 2: ret", False),
    "after_je": (SAVED + "test %cl, %cl; je 2f; movb %cl, 1(%rbx); 2: ret", True),
    "where_je_goes": (SAVED + "test %cl, %cl; je 2f; ret; 2: movb %cl, 1(%rbx); ret", False),
    "where_js_goes": (SAVED + "test %cl, %cl; js 2f; ret; 2: movb %cl, 1(%rbx); ret", False),
    "after_js": (SAVED + "test %cl, %cl; js 2f; movb %cl, 1(%rbx); 2: ret", False),
    "after_ja": (SAVED + "test %cl, %cl; ja 2f; movb %cl, 1(%rbx); 2: ret", False),
    "by_cmp": (SAVED + "cmp $0, %cl; jne 2f; ret; 2: movb %cl, 1(%rbx); ret", False),
    "by_another_value": (SAVED + "test %dl, %dl; jne 2f; ret; 2: movb %cl, 1(%rbx); ret", False),
    "by_the_second_test": (
        SAVED + "test %cl, %cl; test %cl, %cl; jne 2f; ret; 2: movb %cl, 1(%rbx); ret",
        True,
    ),
    "by_no_branch": (SAVED + "test %cl, %cl; movb %cl, 1(%rbx); ret", False),
    "with_code_between": (SAVED + "test %cl, %cl; jne 2f; ret; 2: nops 11; movb %cl, 1(%rbx); ret", True),
    "with_much_between": (SAVED + "test %cl, %cl; jne 2f; ret; 2: nops 12; movb %cl, 1(%rbx); ret", False),
    "with_a_branch_between": (
        SAVED + "test %cl, %cl; jne 2f; ret; 2: test %esi, %esi; js 3f; movb %cl, 1(%rbx); 3: ret",
        False,
    ),
    "of_an_outcome": ("vcpu %rbx; test %edi, %edi; setz 1(%rbx); ret", False),
    "exchanged_if_not_zero": (
        "vcpu %rbx; test %cl, %cl; jne 2f; ret; 2: cmpxchg %cl, 1(%rbx); ret",
        True,
    ),
}

#: How many pending tests precede the first unmask with no store in between.
TESTED_BEFORE: Cases = {
    "before": ("vcpu %rbx;" + TEST + "movb $0, 1(%rbx); ret", 1),
    "twice_before": ("vcpu %rbx;" + TEST + "jne 1f; nop; 1:" + TEST + "movb $0, 1(%rbx); ret", 1),
    "not_before": ("vcpu %rbx; movb $0, 1(%rbx);" + TEST + "ret", 0),
    "before_on_one_path": (
        "vcpu %rbx; test %edi, %edi; je 1f;" + TEST + "1: movb $0, 1(%rbx); ret",
        1,
    ),
    "before_a_save": ("vcpu %rbx;" + TEST + "movzbl 1(%rbx), %eax; movb $0, 1(%rbx); ret", 1),
    "before_a_mask_test": (
        "vcpu %rbx;" + TEST + "cmpb $0, 1(%rbx); je 1f; movb $0, 1(%rbx); 1: ret",
        1,
    ),
    "before_a_mask": ("vcpu %rbx;" + TEST + "movb $1, 1(%rbx); movb $0, 1(%rbx); ret", 0),
    "before_a_restore": ("vcpu %rbx;" + TEST + "movb %dil, 1(%rbx); movb $0, 1(%rbx); ret", 0),
    "restored_before": ("vcpu %rbx; movb %dil, 1(%rbx); movb $0, 1(%rbx); ret", 0),
    "before_a_clear": ("vcpu %rbx;" + TEST + "movb $0, (%rbx); movb $0, 1(%rbx); ret", 0),
    "at_the_limit": ("vcpu %rbx;" + TEST + "nops 60; movb $0, 1(%rbx); ret", 1),
    "too_far": ("vcpu %rbx;" + TEST + "nops 61; movb $0, 1(%rbx); ret", 0),
}

CLEAR = "vcpu %rbx; movb $0, (%rbx); xor %eax, %eax;"
PLAIN = "mov 8(%rbx), %rax; movq $0, 8(%rbx); ret"
#: The locked accesses after the first pending clear, on which paths, and the number of plain selector uses.
LOCKED: Cases = {
    "taken_by_xchg": (CLEAR + "xchg %rax, 8(%rbx); ret", (("xchg",), ALL, 0)),
    "taken_plainly": (CLEAR + PLAIN, ((), NONE, 1)),
    "not_taken": (CLEAR + "ret", ((), NONE, 0)),
    "taken_after_mfence": (CLEAR + "mfence;" + PLAIN, (("mfence",), ALL, 0)),
    "taken_after_a_locked_access": (CLEAR + "lock orl $0, (%rsp);" + PLAIN, (("or",), ALL, 0)),
    "taken_after_cpuid": (CLEAR + "cpuid;" + PLAIN, (("cpuid",), ALL, 0)),
    "taken_after_lfence": (CLEAR + "lfence;" + PLAIN, ((), NONE, 1)),
    "taken_after_sfence": (CLEAR + "sfence;" + PLAIN, ((), NONE, 1)),
    "compared_first": (CLEAR + "cmpq $0, 8(%rbx); je 1f; xchg %rax, 8(%rbx); 1: ret", (("xchg",), SOME, 0)),
    "taken_differently_on_two_paths": (
        CLEAR + "test %edi, %edi; je 1f; xchg %rax, 8(%rbx); ret; 1:" + PLAIN,
        (("xchg",), SOME, 1),
    ),
    "locked_in_a_callee": (CLEAR + "call leaf_lock;" + PLAIN, (("call",), ALL, 0)),
    "half_fence_in_a_callee": (CLEAR + "call leaf_lfence;" + PLAIN, ((), NONE, 1)),
    "both_fences_in_a_callee": (CLEAR + "call leaf_both;" + PLAIN, (("call",), ALL, 0)),
    "nothing_in_a_callee": (CLEAR + "call leaf_nothing;" + PLAIN, ((), NONE, 1)),
    "taken_in_a_callee": (CLEAR + "lea 8(%rbx), %rdi; call taker; ret", (("call",), ALL, 0)),
    "taken_at_the_limit": (CLEAR + "nops 1498; xchg %rax, 8(%rbx); ret", (("xchg",), ALL, 0)),
    "taken_too_far_away": (CLEAR + "nops 1499; xchg %rax, 8(%rbx); ret", ((), NONE, 0)),
    "locked_in_deep_callees": (CLEAR + "call deep_3; ret", (("call",), ALL, 0)),
    "locked_in_too_deep_callees": (CLEAR + "call deep_4; ret", ((), NONE, 0)),
}
TAKE = "vcpu %rbx; xor %eax, %eax; xchg %rax, 8(%rbx);"
#: The hazard of the first pending clear.
ORDERS: Cases = {
    "taken": (CLEAR + "xchg %rax, 8(%rbx); ret", ""),
    "taken_in_a_loop": (
        "vcpu %rbx; 1: movb $0, (%rbx); xor %eax, %eax; xchg %rax, 8(%rbx); cmpb $0, (%rbx); jne 1b; ret",
        "",
    ),
    "taken_plainly": (CLEAR + PLAIN, "unlocked-handler"),
    "cleared_plainly": (CLEAR + "movq $0, 8(%rbx); ret", "unlocked-handler"),
    "taken_on_one_path": (CLEAR + "test %edi, %edi; je 1f; xchg %rax, 8(%rbx); 1: ret", "clear-without-take"),
    "taken_first": (TAKE + "movb $0, (%rbx); ret", "take-before-clear"),
    "taken_first_and_handled": (TAKE + "movb $0, (%rbx); call *%rax; ret", "take-before-clear"),
    "cleared_after_handling": (TAKE + "call *%rax; movb $0, (%rbx); ret", "take-before-clear"),
    "taken_first_then_fenced": (TAKE + "movb $0, (%rbx); mfence; ret", ""),
    "taken_before_and_after": (TAKE + "movb $0, (%rbx); xchg %rax, 8(%rbx); ret", ""),
    "taken_first_in_a_loop": (
        TAKE + "1: movb $0, (%rbx); xchg %rax, 8(%rbx); test %rax, %rax; jne 1b; ret",
        "",
    ),
    "taken_before_another_clear": (
        TAKE + "movb $0, (%rbx); movb $0, (%rbx); xchg %rax, 8(%rbx); ret",
        "",
    ),
    "taken_first_in_a_callee": (
        "vcpu %rbx; lea 8(%rbx), %rdi; call taker; movb $0, (%rbx); ret",
        "take-before-clear",
    ),
    "taken_first_at_the_limit": (TAKE + "nops 60; movb $0, (%rbx); ret", "take-before-clear"),
    "taken_first_too_far_away": (TAKE + "nops 61; movb $0, (%rbx); ret", "clear-without-take"),
    "taken_first_then_masked": (TAKE + "movb $1, 1(%rbx); movb $0, (%rbx); ret", "take-before-clear"),
    "taken_first_then_set": (TAKE + "movb $1, (%rbx); movb $0, (%rbx); ret", "take-before-clear"),
    "taken_before_the_clear_before": (
        "vcpu %rbx; xor %eax, %eax; jmp 1f; 2: movb $0, (%rbx); ret;"
        "1: xchg %rax, 8(%rbx); movb $0, (%rbx); jmp 2b",
        "clear-without-take",
    ),
    "left_for_a_taker_before": (
        "vcpu %rbx; lea 8(%rbx), %rdi; test %edx, %edx; je taker; movb $0, (%rbx); ret",
        "clear-without-take",
    ),
    "cleared_only": (CLEAR + "ret", "clear-without-take"),
    "cleared_only_and_left_by_iret": (CLEAR + "iretq", "clear-without-take"),
    "cleared_only_and_left_through_xen": (CLEAR + "jmp page + 32 * 23", "clear-without-take"),
    "cleared_only_then_lfence": (CLEAR + "lfence; ret", "clear-without-take"),
    "cleared_only_after_a_known_call": (CLEAR + "call leaf_nothing; ret", "clear-without-take"),
    "cleared_only_after_a_hypercall": (CLEAR + "call page + 32 * 17; ret", "clear-without-take"),
    # What is not known may take the selector.
    "taken_by_an_indirect_call": (CLEAR + "call *%rax; ret", ""),
    "taken_by_unmapped_code": (CLEAR + "call 0xffffffff90000000; ret", ""),
    "taken_by_a_jump_to_unmapped_code": (CLEAR + "jmp 0xffffffff90000000", ""),
    "taken_by_a_callee_of_a_callee": (CLEAR + "call calls_lock; ret", ""),
    "taken_by_a_tail_jump": (CLEAR + "jmp calls_lock", ""),
    "taken_on_one_path_of_a_callee": (CLEAR + "call may_lock; ret", "clear-without-take"),
    "stopped": (CLEAR + "ud2", ""),
    "stopped_after_a_take": (TAKE + "movb $0, (%rbx); ud2", ""),
    # Whichever path is followed first, the other is followed too.
    "taken_on_the_other_path": (
        CLEAR + "test %edi, %edi; je 1f; ret; 1: xchg %rax, 8(%rbx); ret",
        "clear-without-take",
    ),
    "stopped_on_one_path": (CLEAR + "test %edi, %edi; je 1f; ud2; 1: ret", "clear-without-take"),
    "stopped_on_the_other_path": (CLEAR + "test %edi, %edi; je 1f; ret; 1: ud2", "clear-without-take"),
    "endless_on_one_path": (CLEAR + "test %edi, %edi; je 1f; call endless; 1: ret", "clear-without-take"),
    "endless_on_the_other_path": (
        CLEAR + "test %edi, %edi; je 1f; ret; 1: call endless",
        "clear-without-take",
    ),
    "joined_on_one_path": (
        CLEAR + "test %edi, %edi; je 3f; je 1f; nop; 1: xchg %rax, 8(%rbx); ret; 3: ret",
        "clear-without-take",
    ),
    "joined_on_the_other_path": (
        CLEAR + "test %edi, %edi; je 3f; ret; 3: je 1f; nop; 1: xchg %rax, 8(%rbx); ret",
        "clear-without-take",
    ),
    "never_returns": (CLEAR + "call endless; ret", ""),
    "taken_by_what_a_callee_calls": (CLEAR + "call calls_unknown; ret", ""),
    "taken_before_a_known_call": (CLEAR + "call *%rax; call leaf_nothing; ret", ""),
    "taken_too_deep": (CLEAR + "call deep_4; ret", ""),
    # The function returns to one that takes the selector, or does not.
    "taken_by_the_caller": ("vcpu %rbx; movb $0, (%rbx); ret", ""),
    "not_taken_by_the_caller": ("vcpu %rbx; movb $0, (%rbx); ret", "clear-without-take"),
    "taken_by_the_callers_caller": ("vcpu %rbx; movb $0, (%rbx); ret", ""),
    "taken_too_far_out": ("vcpu %rbx; movb $0, (%rbx); ret", "clear-without-take"),
    "taken_plainly_by_the_caller": ("vcpu %rbx; movb $0, (%rbx); ret", "unlocked-handler"),
    "taken_first_and_deep_in_the_caller": (TAKE + "movb $0, (%rbx); ret", ""),
    "taken_first_and_too_deep_in_the_caller": (TAKE + "movb $0, (%rbx); ret", "take-before-clear"),
    # Where a tail jump is, it does not return to.
    "not_taken_after_a_tail_jump": ("vcpu %rbx; movb $0, (%rbx); ret", "clear-without-take"),
    "taken_by_16_of_17_callers": ("vcpu %rbx; movb $0, (%rbx); ret", ""),
    "taken_by_15_of_16_callers": ("vcpu %rbx; movb $0, (%rbx); ret", "clear-without-take"),
}
CALLERS = {
    "caller": "push %rbx; call t11_taken_by_the_caller; vcpu %rbx; xchg %rax, 8(%rbx); ret",
    "bad_caller": "push %rbx; call t11_not_taken_by_the_caller; ret",
    "inner_caller": "push %rbx; call t11_taken_by_the_callers_caller; ret",
    "outer_caller": "push %rbx; call inner_caller; vcpu %rbx; xchg %rax, 8(%rbx); ret",
    "first_caller": "push %rbx; call t11_taken_too_far_out; ret",
    "second_caller": "push %rbx; call first_caller; ret",
    "third_caller": "push %rbx; call second_caller; vcpu %rbx; xchg %rax, 8(%rbx); ret",
    "plain_caller": "push %rbx; call t11_taken_plainly_by_the_caller; vcpu %rbx;" + PLAIN,
    "deep_caller": "push %rbx; call t11_taken_first_and_deep_in_the_caller; call deep_3; ret",
    "too_deep_caller": "push %rbx; call t11_taken_first_and_too_deep_in_the_caller; call deep_4; ret",
    "jumper": "test %edi, %edi; je 1f; jmp t11_not_taken_after_a_tail_jump; 1: call leaf_lock; ret",
    "locked_mask": "vcpu %rbx; mov $1, %al; xchg %al, 1(%rbx); ret",
    "locked_unmask": "vcpu %rbx; xor %eax, %eax; xchg %al, 1(%rbx); ret",
    **{
        f"caller_{n}_of_{of}": f"call t11_taken_by_{of - 1}_of_{of}_callers;"
        + ("ret" if n == of else "call leaf_lock; ret")
        for of in (16, 17)
        for n in range(1, of + 1)
    },
}

FORCE = "call page + 32 * 17;"
#: Whether the first call or jump forces the callback.
FORCES: Cases = {
    "by_hypercall": (FORCE + "ret", True),
    "by_a_tail_jump": ("jmp page + 32 * 17", True),
    "by_a_branch": ("test %edi, %edi; jne page + 32 * 17; ret", True),
    "another_hypercall": ("call page + 32 * 16; ret", False),
    "next_hypercall": ("call page + 32 * 18; ret", False),
    "by_a_wrapper": ("call wrapper; ret", True),
    "by_a_jump_to_a_wrapper": ("jmp wrapper", True),
    "by_two_wrappers": ("call second_wrapper; ret", True),
    "by_three_wrappers": ("call third_wrapper; ret", False),
    "by_a_wrapper_of_another": ("call other_first; ret", False),
    "by_a_wrapper_of_the_previous_hypercall": ("call lower_first; ret", False),
    "by_a_wrapper_that_uses_the_answer": ("call asker; ret", False),
    "by_a_wrapper_that_does_more": ("call busy_wrapper; ret", True),
    "by_a_wrapper_at_the_limit": ("call large_wrapper; ret", True),
    "by_too_large_a_wrapper": ("call huge_wrapper; ret", False),
    "by_nothing": ("call leaf_nothing; ret", False),
    "to_unmapped_code": ("call 0xffffffff90000000; ret", False),
    "indirect": ("call *%rax; ret", False),
    # A call that asks for Xen's version uses the answer.
    "answer_tested": (FORCE + "test %eax, %eax; js 1f; 1: ret", False),
    "answer_kept": (FORCE + "mov %eax, %ebx; ret", False),
    "answer_stored": (FORCE + "mov %eax, (%rbx); ret", False),
    "answer_stored_on_the_stack": (FORCE + "mov %eax, -8(%rsp); ret", True),
    "answer_taken_from_the_stack": (FORCE + "sub %eax, -8(%rsp); ret", False),
    "answer_pushed": (FORCE + "push %rax; ret", False),
    "answer_added_to": (FORCE + "add $1, %eax; ret", False),
    "answer_dereferenced": (FORCE + "mov (%rax), %ebx; ret", False),
    "memory_operand_without_a_base": (FORCE + "cmpl $0, %gs:0x40; ret", True),
    "answer_as_an_address": (FORCE + "lea 1(%rax), %ecx; ret", False),
    "answer_combined": (FORCE + "xor %eax, %ebx; ret", False),
    "answer_combined_the_other_way": (FORCE + "xor %ebx, %eax; ret", False),
    "answer_cleared": (FORCE + "xor %eax, %eax; mov %eax, %ebx; ret", True),
    "another_cleared": (FORCE + "xor %edx, %edx; mov %eax, %ebx; ret", True),
    "answer_overwritten": (FORCE + "mov %ebx, %eax; mov %eax, %ecx; ret", True),
    "answer_overwritten_by_zero_extension": (FORCE + "movzbl %bl, %eax; mov %eax, %ecx; ret", True),
    "answer_overwritten_by_sign_extension": (FORCE + "movsbl %bl, %eax; mov %eax, %ecx; ret", True),
    "answer_overwritten_by_widening": (FORCE + "movslq %ebx, %rax; mov %eax, %ecx; ret", True),
    "answer_overwritten_by_lea": (FORCE + "lea 4(%rbx), %rax; mov %eax, %ecx; ret", True),
    "answer_overwritten_by_pop": (FORCE + "pop %rax; mov %eax, %ecx; ret", True),
    "answer_widened": (FORCE + "movslq %eax, %rbx; ret", False),
    "answer_used_after_a_call": (FORCE + "call leaf_nothing; test %eax, %eax; js 1f; 1: ret", True),
    "answer_used_at_the_limit": (FORCE + "nops 12; test %eax, %eax; js 1f; 1: ret", False),
    "answer_used_too_late": (FORCE + "nops 13; test %eax, %eax; js 1f; 1: ret", True),
    "answer_used_after_a_jump": (FORCE + "jmp 1f; 1: test %eax, %eax; js 2f; 2: ret", True),
}

#: The calls that force the callback after the function's pending tests.
CALLBACKS: Cases = {
    "after_a_test": ("vcpu %rbx;" + TEST + "je 1f;" + FORCE + "1: ret", ("call",)),
    "by_the_branch_itself": ("vcpu %rbx;" + TEST + "jne page + 32 * 17; ret", ("jne",)),
    "by_a_jump_after_a_test": ("vcpu %rbx;" + TEST + "je 1f; jmp page + 32 * 17; 1: ret", ("jmp",)),
    "before_a_test": (FORCE + "vcpu %rbx;" + TEST + "je 1f; nop; 1: ret", ()),
    "after_two_tests": (
        "vcpu %rbx;" + TEST + "jne page + 32 * 17; nop;" + TEST + "je 1f;" + FORCE + "1: ret",
        ("jne", "call"),
    ),
    "after_a_test_at_the_limit": ("vcpu %rbx;" + TEST + "je 1f; nops 59;" + FORCE + "1: ret", ("call",)),
    "too_far_after_a_test": ("vcpu %rbx;" + TEST + "je 1f; nops 60;" + FORCE + "1: ret", ()),
    "blocked_after_a_test": (
        "vcpu %rbx;" + TEST + "je 1f; mov $1, %edi; call page + 32 * 29; 1: ret",
        (),
    ),
    "another_call_after_a_test": ("vcpu %rbx;" + TEST + "je 1f; call leaf_nothing; 1: ret", ()),
}

BLOCK = "mov $1, %edi; call page + 32 * 29;"
#: What makes up for the first unmask's missing test; {mnemonic} is that instruction's address.
EXITS: Cases = {
    "iret": (UNMASK + "pop %rsi; iretq", "iretq at {iretq}"),
    "iret_of_32_bits": (UNMASK + "iretl", "iretd at {iretd}"),
    "sysret": (UNMASK + "sysretq", "sysretq at {sysretq}"),
    "sysexit": (UNMASK + "sysexitl", "sysexit at {sysexit}"),
    "iret_after_a_jump": (UNMASK + "jmp 1f; ud2; 1: iretq", "iretq at {iretq}"),
    "iret_after_a_call": (UNMASK + "call leaf_nothing; iretq", "iretq at {iretq}"),
    "iret_after_an_indirect_call": (UNMASK + "call *%rax; iretq", "iretq at {iretq}"),
    "iret_after_a_return": (UNMASK + "ret; iretq", ""),
    "iret_after_a_stop": (UNMASK + "ud2; iretq", ""),
    "iret_after_a_branch": (UNMASK + "js 1f; 1: iretq", "iretq at {iretq}"),
    "iret_on_one_path": (UNMASK + "js 1f; iretq; 1: ret", ""),
    "iret_or_a_test": (UNMASK + "js 1f; iretq; 1: cmpb $0, (%rbx); ret", "iretq at {iretq}"),
    "iret_or_a_stop": (UNMASK + "js 1f; iretq; 1: ud2", "iretq at {iretq}"),
    "iret_or_a_call_that_does_not_return": (UNMASK + "js 1f; iretq; 1: call endless", "iretq at {iretq}"),
    "iret_or_a_call_after_which_nothing_is": (UNMASK + "js 1f; iretq; 1: call huge", "iretq at {iretq}"),
    "iret_after_a_guessed_case": (UNMASK + "jmp *8(%rax); iretq", ""),
    "iret_after_a_case": (
        UNMASK + "jmp *9f(,%rax,8); 2: iretq; .pushsection .data; 9: .quad 2b; .popsection",
        "iretq at {iretq}",
    ),
    "iret_after_a_tail_jump": (UNMASK + "jmp exiter", "iretq at {exiter}"),
    "four_exits": (
        UNMASK + "js 1f; iretq; 1: jp 2f; iretl; 2: jo 3f; sysretq; 3: sysexitl",
        "iretq at {iretq}; iretd at {iretd}; sysretq at {sysretq}",
    ),
    "iret_by_a_trap": (
        UNMASK + "mov $23, %eax; syscall",
        "HYPERVISOR_iret at {syscall} tests pending on the way out",
    ),
    "iret_after_an_indirect_jump": (UNMASK + "jmp *%rax; iretq", ""),
    "iret_at_the_limit": (UNMASK + "nops 160; iretq", "iretq at {iretq}"),
    "iret_too_far_away": (UNMASK + "nops 161; iretq", ""),
    "jump_to_unmapped_code": (UNMASK + "jmp 0xffffffff90000000", ""),
    "hypercall_iret": (
        UNMASK + "jmp page + 32 * 23",
        "HYPERVISOR_iret at {jmp} tests pending on the way out",
    ),
    "hypercall_iret_called": (
        UNMASK + "call page + 32 * 23",
        "HYPERVISOR_iret at {call} tests pending on the way out",
    ),
    "hypercall_of_another_number": (UNMASK + "jmp page + 32 * 22", ""),
    "block": (UNMASK + BLOCK + "ret", "SCHEDOP_block at {call} clears the mask and tests pending"),
    "block_by_the_old_number": (
        UNMASK + "mov $1, %edi; call page + 32 * 6; ret",
        "SCHEDOP_block at {call} clears the mask and tests pending",
    ),
    "yield": (UNMASK + "mov $0, %edi; call page + 32 * 29; ret", ""),
    "poll": (UNMASK + "mov $3, %edi; call page + 32 * 29; ret", ""),
    "unknown_operation": (UNMASK + "call page + 32 * 29; ret", ""),
    "another_hypercall_of_one": (UNMASK + "mov $1, %edi; call page + 32 * 30; ret", ""),
    "block_on_one_path": (UNMASK + "test %edi, %edi; je 1f;" + BLOCK + "1: ret", ""),
    "block_by_a_trap": (
        UNMASK + "mov $1, %edi; mov $29, %eax; syscall; ret",
        "SCHEDOP_block at {syscall} clears the mask and tests pending",
    ),
    "block_at_the_limit": (
        UNMASK + "nops 159;" + BLOCK + "ret",
        "SCHEDOP_block at {call} clears the mask and tests pending",
    ),
    "block_too_far_away": (UNMASK + "nops 160;" + BLOCK + "ret", ""),
}

#: How many unmasks and restores follow the first mask, and on which paths.
REOPENED: Cases = {
    "unmasked": (MASK + "nop; movb $0, 1(%rbx); ret", (1, ALL)),
    "restored": (SAVED + "movb %cl, 1(%rbx); ret", (1, ALL)),
    "left_masked": (MASK + "nop; ret", (0, NONE)),
    "unmasked_on_one_path": (MASK + "test %edi, %edi; je 1f; movb $0, 1(%rbx); 1: ret", (1, SOME)),
    "unmasked_or_stopped": (MASK + "test %edi, %edi; je 1f; movb $0, 1(%rbx); ret; 1: ud2", (1, ALL)),
    "unmasked_on_two_paths": (
        MASK + "test %edi, %edi; je 1f; movb $0, 1(%rbx); ret; 1: movb $0, 1(%rbx); ret",
        (2, ALL),
    ),
    "masked_twice_and_unmasked": (MASK + "movb $1, 1(%rbx); movb $0, 1(%rbx); ret", (1, ALL)),
    "unmasked_at_the_limit": (MASK + "nops 4000; movb $0, 1(%rbx); ret", (1, ALL)),
    "unmasked_too_far_away": (MASK + "nops 4001; movb $0, 1(%rbx); ret", (0, NONE)),
    "left_by_iret": (MASK + "test %edi, %edi; je 1f; movb $0, 1(%rbx); ret; 1: iretq", (2, ALL)),
    "left_through_xen": (
        MASK + "test %edi, %edi; je 1f; movb $0, 1(%rbx); ret; 1: jmp page + 32 * 23",
        (2, ALL),
    ),
    "never_left": (MASK + "test %edi, %edi; je 1f; movb $0, 1(%rbx); ret; 1: call endless", (1, ALL)),
    "a_call_after_which_nothing_is": (
        MASK + "test %edi, %edi; je 1f; movb $0, 1(%rbx); ret; 1: call huge",
        (1, ALL),
    ),
    "guessed_case": (MASK + "test %edi, %edi; je 1f; movb $0, 1(%rbx); ret; 1: jmp *8(%rax); ret", (1, ALL)),
    "guessed_case_by_register": (
        MASK + "test %edi, %edi; je 1f; movb $0, 1(%rbx); ret; 1: jmp *%rax; ret",
        (1, ALL),
    ),
    "case_of_a_table": (
        MASK + "test %edi, %edi; je 1f; movb $0, 1(%rbx); ret;"
        "1: jmp *9f(,%rax,8); 2: ret; .pushsection .data; 9: .quad 2b; .popsection",
        (1, SOME),
    ),
    "never_left_by_name": (MASK + "test %edi, %edi; je 1f; movb $0, 1(%rbx); ret; 1: call panic", (1, ALL)),
    "left_by_a_call_that_returns": (
        MASK + "test %edi, %edi; je 1f; movb $0, 1(%rbx); ret; 1: call leaf_nothing; ret",
        (1, SOME),
    ),
    "unmasked_by_a_tail_jump": (
        MASK + "test %edi, %edi; je 1f; movb $0, 1(%rbx); ret; 1: jmp opener",
        (2, ALL),
    ),
    "unmasked_by_a_callee": (
        MASK + "test %edi, %edi; je 1f; movb $0, 1(%rbx); ret; 1: call opener; ret",
        (2, ALL),
    ),
    "unmasked_by_a_callee_of_a_callee": (
        MASK + "test %edi, %edi; je 1f; movb $0, 1(%rbx); ret; 1: call outer_opener; ret",
        (2, ALL),
    ),
    "left_by_a_jump_to_unmapped_code": (
        MASK + "test %edi, %edi; je 1f; movb $0, 1(%rbx); ret; 1: jmp 0xffffffff90000000",
        (1, ALL),
    ),
    "left_by_an_indirect_jump": (
        MASK + "test %edi, %edi; je 1f; movb $0, 1(%rbx); ret; 1: jmp *%rax",
        (1, ALL),
    ),
    "left_by_a_jump_through_memory": (
        MASK + "test %edi, %edi; je 1f; movb $0, 1(%rbx); ret; 1: jmp *start",
        (1, ALL),
    ),
    "left_by_a_jump_through_a_table_that_is_not_there": (
        MASK + "test %edi, %edi; je 1f; movb $0, 1(%rbx); ret; 1: jmp *0x7000000(,%rax,8)",
        (1, ALL),
    ),
    "left_by_a_callee_that_calls": (
        MASK + "test %edi, %edi; je 1f; movb $0, 1(%rbx); ret; 1: call calls_nothing; ret",
        (1, SOME),
    ),
    "entered_masked_beside_a_loop": (
        "vcpu %rbx; test %edi, %edi; je 2f; 1: dec %edi; jne 1b; ret;"
        "2: movb $0, 1(%rbx); nop; movb $1, 1(%rbx); test %esi, %esi; jne 3f; movb $0, 1(%rbx); 3: ret",
        (0, NONE),
    ),
    "entered_masked_and_another_loop": (
        "vcpu %rbx; test %edi, %edi; jne 2f; movb $0, 1(%rbx); nop; movb $1, 1(%rbx);"
        "test %esi, %esi; jne 3f; movb $0, 1(%rbx); 3: ret; 2: dec %edi; jne 2b; ret",
        (0, NONE),
    ),
    # Masked as it was entered: it opened the mask first.
    "entered_masked": (
        "vcpu %rbx; 1: movb $0, 1(%rbx); nop; movb $1, 1(%rbx); test %edi, %edi; jne 1b; ret",
        (0, NONE),
    ),
    "restored_if_it_was_clear": (
        SAVED + "test %cl, %cl; jne 1f; movb $0, 1(%rbx); 1: ret",
        (1, ALL),
    ),
    "restored_by_another_condition": (
        SAVED + "test %dl, %dl; jne 1f; movb $0, 1(%rbx); 1: ret",
        (1, SOME),
    ),
    "restored_if_the_mask_was_compared_with_0": (
        "vcpu %rbx; cmpb $0, 1(%rbx); movb $1, 1(%rbx); jne 1f; movb $0, 1(%rbx); 1: ret",
        (1, ALL),
    ),
    "restored_if_the_mask_is_what_was_read": (
        "vcpu %rbx; movzbl 1(%rbx), %ecx; cmpb %cl, 1(%rbx); movb $1, 1(%rbx); jne 1f;"
        "movb $0, 1(%rbx); 1: ret",
        (1, ALL),
    ),
    "unmasked_if_nothing_was_pending": (
        "vcpu %rbx; cmpb $0, (%rbx); movb $1, 1(%rbx); jne 1f; movb $0, 1(%rbx); 1: ret",
        (1, SOME),
    ),
    "unmasked_if_nothing_was_taken": (
        MASK + "xor %eax, %eax; xchg %rax, 8(%rbx); test %rax, %rax; jne 1f; movb $0, 1(%rbx); 1: ret",
        (1, SOME),
    ),
    "restored_if_the_exchange_read_0": (
        "vcpu %rbx; mov $1, %ecx; xchg %cl, 1(%rbx); test %cl, %cl; jne 1f; movb $0, 1(%rbx); 1: ret",
        (1, ALL),
    ),
}

#: What runs masked after the first mask: the instructions of each range.
MASKED: Cases = {
    "one_range": (MASK + "nop; movb $0, 1(%rbx); nop; ret", [("nop", "mov")]),
    "to_the_restore": (SAVED + "nop; movb %cl, 1(%rbx); nop; ret", [("nop", "mov")]),
    "to_the_end": (MASK + "nop; ret", [("nop", "ret")]),
    "two_ranges": (
        MASK + "nop; jmp 1f; nop; 2: ret; 1: nop; movb $0, 1(%rbx); jmp 2b",
        [("nop", "jmp"), ("nop", "mov")],
    ),
    "across_a_second_mask": (
        MASK + "movb $1, 1(%rbx); nop; movb $0, 1(%rbx); ret",
        [("mov", "nop", "mov")],
    ),
}

#: Whether preemption is off at the first mask.
PREEMPTION: Cases = {
    "by_a_call": ("call kpreempt_disable;" + MASK + "ret", True),
    "by_a_critical_section": ("call critical_enter;" + MASK + "ret", True),
    "by_another_call": ("call leaf_nothing;" + MASK + "ret", False),
    "ended_by_a_call": ("call kpreempt_disable; call kpreempt_enable;" + MASK + "ret", False),
    "ended_critical_section": ("call critical_enter; call critical_exit;" + MASK + "ret", False),
    "ended_before_it_began": ("call kpreempt_enable; call kpreempt_disable;" + MASK + "ret", True),
    "counted_before_a_call_that_ends": ("incl %gs:0x20; call kpreempt_enable;" + MASK + "ret", False),
    "counted_before_a_section_ends": ("incl %gs:0x20; call critical_exit;" + MASK + "ret", False),
    "by_a_count": ("incl %gs:0x20;" + MASK + "ret", True),
    "by_a_sum": ("addl $1, %gs:0x20;" + MASK + "ret", True),
    "by_a_count_through_the_self_pointer": ("mov %gs:0x18, %rax; incl 4(%rax);" + MASK + "ret", True),
    "counted_down": ("decl %gs:0x20;" + MASK + "ret", False),
    "set": ("movl $1, %gs:0x20;" + MASK + "ret", False),
    "read_and_added": ("addl %gs:0x20, %eax;" + MASK + "ret", False),
    "of_something_else": ("incl (%rdi);" + MASK + "ret", False),
    "on_the_stack": ("incl -8(%rsp);" + MASK + "ret", False),
    "on_one_path": ("test %edi, %edi; je 1f; incl %gs:0x20; 1:" + MASK + "ret", False),
    "on_both_paths": (
        "test %edi, %edi; je 1f; incl %gs:0x20; jmp 2f; 1: call kpreempt_disable; 2:" + MASK + "ret",
        True,
    ),
    "jump_instead_of_call": ("jmp 1f; 1:" + MASK + "jmp kpreempt_disable", False),
    "counted_at_the_limit": ("incl %gs:0x20; nops 59;" + MASK + "ret", True),
    "counted_too_far_away": ("incl %gs:0x20; nops 60;" + MASK + "ret", False),
    "nowhere": (MASK + "ret", False),
}

OPEN_IF_CLEAR = "vcpu %rbx; xor %ecx, %ecx; mov $0x100, %eax; lock cmpxchg %cx, (%rbx);"
#: The kind of the first touch of mask and pending together, and whether it tests pending itself.
TEST_THEMSELVES: Cases = {
    "compared": (OPEN_IF_CLEAR + "jne 1f; nop; 1: ret", (Kind.UNMASK, True)),
    "compared_and_not_used": (OPEN_IF_CLEAR + "ret", (Kind.UNMASK, False)),
    "compared_with_any_mask": (
        "vcpu %rbx; xor %ecx, %ecx; mov $0xff00, %eax; lock cmpxchg %cx, (%rbx); jne 1f; nop; 1: ret",
        (Kind.UNMASK, True),
    ),
    "compared_with_pending": (
        "vcpu %rbx; xor %ecx, %ecx; mov $0x101, %eax; lock cmpxchg %cx, (%rbx); jne 1f; nop; 1: ret",
        (Kind.UNMASK, False),
    ),
    "compared_with_an_open_mask": (
        "vcpu %rbx; xor %ecx, %ecx; xor %eax, %eax; lock cmpxchg %cx, (%rbx); jne 1f; nop; 1: ret",
        (Kind.UNMASK, False),
    ),
    "compared_with_what_is_beyond_the_mask": (
        "vcpu %rbx; xor %ecx, %ecx; mov $0x10000, %eax; lock cmpxchg %ecx, (%rbx); jne 1f; nop; 1: ret",
        (Kind.UNMASK, False),
    ),
    "compared_with_an_argument": (
        "vcpu %rbx; xor %ecx, %ecx; mov %edi, %eax; lock cmpxchg %cx, (%rbx); jne 1f; nop; 1: ret",
        (Kind.UNMASK, False),
    ),
    "and": ("vcpu %rbx; lock andw $0xff, (%rbx); jne 1f; nop; 1: ret", (Kind.UNMASK, True)),
    "and_that_is_not_used": ("vcpu %rbx; lock andw $0xff, (%rbx); ret", (Kind.UNMASK, False)),
    "and_that_clears_a_bit": (
        "vcpu %rbx; lock andw $0x7f, (%rbx); jne 1f; nop; 1: ret",
        (Kind.UNMASK, False),
    ),
    "and_with_a_register": (
        "vcpu %rbx; mov $0x7f, %ecx; lock andw %cx, (%rbx); jne 1f; nop; 1: ret",
        (Kind.PENDING_SET, False),
    ),
    "exchanged": (
        "vcpu %rbx; xor %ecx, %ecx; xchg %cx, (%rbx); test %cl, %cl; jne 1f; nop; 1: ret",
        (Kind.UNMASK, True),
    ),
    "exchanged_and_not_used": ("vcpu %rbx; xor %ecx, %ecx; xchg %cx, (%rbx); ret", (Kind.UNMASK, False)),
    "exchanged_and_another_used": (
        "vcpu %rbx; xor %ecx, %ecx; xchg %cx, (%rbx); test %dl, %dl; jne 1f; nop; 1: ret",
        (Kind.UNMASK, False),
    ),
    "mask_alone_exchanged": (
        "vcpu %rbx; xor %ecx, %ecx; xchg %cl, 1(%rbx); test %cl, %cl; jne 1f; nop; 1: ret",
        (Kind.UNMASK, False),
    ),
    "stored": ("vcpu %rbx; movw $0, (%rbx); jne 1f; nop; 1: ret", (Kind.UNMASK, False)),
    "stored_as_pending": ("vcpu %rbx; movw $0xff, (%rbx); jne 1f; nop; 1: ret", (Kind.UNMASK, False)),
    "masked_by_an_exchange": (
        "vcpu %rbx; mov $0x100, %ecx; xchg %cx, (%rbx); test %cl, %cl; jne 1f; nop; 1: ret",
        (Kind.MASK, False),
    ),
}

#: Whether a function tests pending on each of its paths.
ASKERS: Cases = {
    "asks": ("vcpu %rbx;" + TEST + "jne 1f; nop; 1: ret", True),
    "asks_nothing": ("vcpu %rbx; ret", False),
    "reads_the_mask": ("vcpu %rbx; movzbl 1(%rbx), %eax; ret", False),
    "asks_on_one_path": ("vcpu %rbx; test %edi, %edi; je " + FORK, False),
    "asks_or_stops": ("vcpu %rbx; test %edi, %edi; je 1f; ud2; 1:" + TEST + "ret", True),
    "masks_first": (MASK + TEST + "ret", False),
    "unmasks_first": (UNMASK + TEST + "ret", False),
    "saves_first": ("vcpu %rbx; movzbl 1(%rbx), %ecx;" + TEST + "ret", True),
    "asks_at_the_limit": ("nops 23; vcpu %rbx;" + TEST + "ret", True),
    "asks_too_far_away": ("nops 24; vcpu %rbx;" + TEST + "ret", False),
    "asks_in_a_large_function": ("vcpu %rbx;" + TEST + "nops 16500; ret", False),
}

#: Whether a caller uses the pending test of the function that it calls.
ANSWERS: Cases = {
    "inside": ("call asker_inside; ret", True),
    "returned_and_tested": ("call asker; test %eax, %eax; jne 1f; nop; 1: ret", True),
    "returned_and_dropped": ("call asker; ret", False),
    "returned_and_saved": ("call asker; mov %eax, -8(%rsp); ret", True),
    "returned_and_another_saved": ("call asker; mov %ecx, -8(%rsp); test %eax, %eax; ret", False),
}
ASKED = {"asker": "vcpu %rdx; movzbl (%rdx), %eax; ret", "asker_inside": "vcpu %rdx; cmpb $0, (%rdx); ret"}

#: Where this CPU's pointer is read again between the first unmask and the tests: mnemonics.
REREAD: Cases = {
    "once": (UNMASK + TEST + "ret", ()),
    "again": (UNMASK + "vcpu %rdx; cmpb $0, (%rdx); ret", ("mov",)),
    "again_and_not_used": (UNMASK + "mov %gs:0x18, %rdx; cmpb $0, (%rbx); ret", ()),
    "again_after_the_test": (UNMASK + TEST + "jne 1f; vcpu %rdx; 1: ret", ()),
    "again_through_the_structure": (
        UNMASK + "mov %gs:0x18, %rdi; mov 0x30(%rdi), %rdx; cmpb $0, (%rdx); ret",
        ("mov",),
    ),
    "written": (UNMASK + "mov %rdi, %gs:0x10;" + TEST + "ret", ()),
}

HELPERS = {
    "calls_nothing": "call leaf_nothing; nop; ret",
    "unmask_and_another": UNMASK + OPEN_IF_CLEAR.removeprefix("vcpu %rbx;") + "jne 1f; nop; 1: ret",
    "leaf_lock": "lock addl $0, -8(%rsp); ret",
    "leaf_lfence": "lfence; ret",
    "leaf_both": "lfence; mfence; ret",
    "printf": "ret",
    # A jump into itself: eb ff is a jump to ff c0, inc %eax.
    "overlapping": MASK + ".byte 0xeb, 0xff, 0xc0; movb $0, 1(%rbx); ret",
    "leaf_nothing": "xor %edx, %edx; ret",
    "taker": "xor %eax, %eax; xchg %rax, (%rdi); ret",
    "calls_lock": "push %rbx; call leaf_lock; pop %rbx; ret",
    # Not a leaf, because of its branch.
    "deep_1": "test %edi, %edi; je 1f; 1: lock addl $0, -8(%rsp); ret",
    "deep_2": "push %rbx; call deep_1; pop %rbx; ret",
    "deep_3": "push %rbx; call deep_2; pop %rbx; ret",
    "deep_4": "push %rbx; call deep_3; pop %rbx; ret",
    "calls_unknown": "push %rbx; call *%rax; pop %rbx; ret",
    "may_lock": "push %rbx; test %edi, %edi; je 1f; call leaf_lock; 1: pop %rbx; ret",
    "huge": "nops 16500; ret",
    "endless": "cli; 1: hlt; jmp 1b",
    "panic": "ret",
    "exiter": "pop %rsi; iretq",
    "opener": "vcpu %rbx; movb $0, 1(%rbx); ret",
    "outer_opener": "call opener; nop; ret",
    "wrapper": "xor %edi, %edi; jmp page + 32 * 17",
    "second_wrapper": "call wrapper; ret",
    "third_wrapper": "call second_wrapper; ret",
    "lower_first": "call page + 32 * 16;" + FORCE + "ret",
    "other_first": "call page + 32 * 29;" + FORCE + "ret",
    "asker": FORCE + "test %eax, %eax; js 1f; 1: ret",
    "busy_wrapper": "call leaf_nothing; call *%rcx;" + FORCE + "ret",
    "large_wrapper": "nops 251; jmp page + 32 * 17",
    "huge_wrapper": "nops 252; jmp page + 32 * 17",
    "kpreempt_disable": "incl %gs:0x20; ret",
    "kpreempt_enable": "decl %gs:0x20; ret",
    "critical_enter": "incl %gs:0x20; ret",
    "critical_exit": "decl %gs:0x20; ret",
}
TABLES = (
    TESTS_OF_UNMASK,
    TESTS_OF_RESTORE,
    LEFT_MASKED,
    TESTED_BEFORE,
    LOCKED,
    FORCES,
    CALLBACKS,
    EXITS,
    REOPENED,
    MASKED,
    PREEMPTION,
    ORDERS,
    TEST_THEMSELVES,
    ASKERS,
    ANSWERS,
    REREAD,
)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Functions:
    """Return an image of all cases, those of table n with the prefix tn_."""
    bodies = {f"t{n}_{name}": body for n, table in enumerate(TABLES) for name, (body, _) in table.items()}
    return assemble(tmp_path_factory.mktemp("order"), HELPERS | CALLERS | ASKED | bodies)


def of(table: Cases) -> pytest.MarkDecorator:
    """Parametrise a test with the cases of a table: the function's name and the expected result."""
    (number,) = [n for n, one in enumerate(TABLES) if one is table]
    cases = [(f"t{number}_{name}", expected) for name, (_, expected) in table.items()]
    return pytest.mark.parametrize(("name", "expected"), cases, ids=list(table))


def names(made: Functions, name: str, addresses: tuple[int, ...]) -> tuple[str, ...]:
    return tuple(made.flow(name).insns[address].mnemonic for address in addresses)


@of(TESTS_OF_UNMASK)
def test_pending_tests_after_an_unmask(made: Functions, name: str, expected: tuple[int, Paths]) -> None:
    found = surroundings.pending_test(
        made.code, made.flow(name), made.touch(name, Kind.UNMASK), made.touches(name)
    )
    assert (len(found.hits), found.paths) == expected
    assert {made.touches(name)[hit].kind for hit in found.hits} <= {Kind.PENDING_TEST}


def test_an_unmask_that_tests_pending_itself_is_the_test_of_one_before_it(made: Functions) -> None:
    name = "unmask_and_another"
    touches = made.touches(name)
    found = surroundings.pending_test(made.code, made.flow(name), made.touch(name, Kind.UNMASK), touches)
    assert found == Ways(made.places(name, "cmpxchg"), ALL)


@of(TEST_THEMSELVES)
def test_instructions_that_test_pending_themselves(
    made: Functions, name: str, expected: tuple[Kind, bool]
) -> None:
    touch = next(iter(made.touches(name).values()))
    assert (touch.kind, surroundings.tests_itself(made.flow(name), touch)) == expected


@of(ASKERS)
def test_functions_that_test_pending(made: Functions, name: str, expected: bool) -> None:
    found = surroundings.tested_inside(made.code, made.start(name), made.touches(name))
    assert (found is not None and found.kind) == (Kind.PENDING_TEST if expected else False)


@pytest.mark.parametrize("target", [0xFFFF_FFFF_9000_0000, "page"])
def test_code_that_is_not_there_tests_nothing(made: Functions, target: int | str) -> None:
    address = made.start(target) + 32 * 17 if isinstance(target, str) else target
    assert surroundings.tested_inside(made.code, address, {}) is None


@of(ANSWERS)
def test_use_of_a_pending_test_in_a_callee(made: Functions, name: str, expected: bool) -> None:
    flow = made.flow(name)
    (call,) = flow.calls.values()
    callee = "asker_inside" if call.target == made.start("asker_inside") else "asker"
    test = made.touch(callee, Kind.PENDING_TEST)
    assert surroundings.answered(made.code, flow, call, test) is expected


@of(REREAD)
def test_pointer_read_again(made: Functions, name: str, expected: tuple[str, ...]) -> None:
    tests = tuple(at for at, touch in made.touches(name).items() if touch.kind is Kind.PENDING_TEST)
    found = surroundings.reread(made.flow(name), made.touch(name, Kind.UNMASK), tests)
    assert names(made, name, found) == expected


@of(TESTS_OF_RESTORE)
def test_pending_tests_after_a_restore(made: Functions, name: str, expected: Paths) -> None:
    found = surroundings.pending_test(
        made.code, made.flow(name), made.touch(name, Kind.RESTORE), made.touches(name)
    )
    assert found.paths is expected


@of(LEFT_MASKED)
def test_restore_that_leaves_the_mask_set(made: Functions, name: str, expected: bool) -> None:
    assert surroundings.opened_only_if_zero(made.flow(name), made.touch(name, Kind.RESTORE)) is expected


@of(TESTED_BEFORE)
def test_pending_tests_before_an_unmask(made: Functions, name: str, expected: int) -> None:
    touches = made.touches(name)
    found = surroundings.tested_before(made.flow(name), made.touch(name, Kind.UNMASK), touches)
    assert len(found) == expected
    assert all(touches[address].kind is Kind.PENDING_TEST for address in found)


@of(LOCKED)
def test_locked_accesses_after_a_clear(
    made: Functions, name: str, expected: tuple[tuple[str, ...], Paths, int]
) -> None:
    ways = order_of(made, name).locked
    assert (names(made, name, ways.hits), ways.paths, len(order_of(made, name).unlocked)) == expected
    touches = made.touches(name)
    assert all(touches[address].kind is Kind.SELECTOR_TAKE for address in order_of(made, name).unlocked)


@of(ORDERS)
def test_order_of_clear_and_take(made: Functions, name: str, expected: str) -> None:
    assert order_of(made, name).fault == expected


def order_of(made: Functions, name: str) -> Order:
    return handlers_of(made, name).order(made.touch(name, Kind.PENDING_CLEAR))


def handlers_of(made: Functions, name: str) -> Handlers:
    callers = [made.flow(caller) for caller in CALLERS]
    found = {at: touch for one in (name, *CALLERS) for at, touch in made.touches(one).items()}
    handlers = Handlers(made.code, found, [made.flow(name), *callers])
    # Its pointer is an argument, so it has no touch of its own.
    handlers.takers[made.start("taker")] = made.flow("taker").insns[made.places("taker", "xchg")[0]]
    return handlers


def test_instructions_that_order_a_handler(made: Functions) -> None:
    for name, mnemonic in (("t4_taken_after_mfence", "mfence"), ("t4_taken_by_xchg", "xchg")):
        handlers = handlers_of(made, name)
        handlers.order(made.touch(name, Kind.PENDING_CLEAR))
        assert handlers.ordering == set(made.places(name, mnemonic))


def test_takers_are_those_with_a_locked_take(made: Functions) -> None:
    found = handlers_of(made, "t11_taken_plainly").takers
    names = ("caller", "outer_caller", "third_caller", "taker")
    assert set(found) == {made.start(name) for name in names}
    assert {insn.mnemonic for insn in found.values()} == {"xchg"}


def test_handler_in_order_has_no_fault() -> None:
    assert IN_ORDER.fault == Order(IN_ORDER.locked).fault == ""
    assert not IN_ORDER.misses


@of(FORCES)
def test_calls_that_force_the_callback(made: Functions, name: str, expected: bool) -> None:
    flow = made.flow(name)
    first = made.places(name, "call", "jmp", "jne")[0]
    assert surroundings.forces(made.code, flow.insns[first], flow) is expected


def test_other_instructions_do_not_force_the_callback(made: Functions) -> None:
    flow = made.flow("leaf_nothing")
    assert not any(surroundings.forces(made.code, insn, flow) for insn in flow.insns.values())


@of(CALLBACKS)
def test_callbacks_after_tests(made: Functions, name: str, expected: tuple[str, ...]) -> None:
    tests = tuple(at for at, touch in made.touches(name).items() if touch.kind is Kind.PENDING_TEST)
    found = surroundings.callbacks(made.code, made.flow(name), tests)
    assert names(made, name, found) == expected
    assert surroundings.callbacks(made.code, made.flow(name), ()) == ()


@of(EXITS)
def test_exit_through_xen(made: Functions, name: str, expected: str) -> None:
    flow = made.flow(name)
    places = {insn.mnemonic: f"{address:#x}" for address, insn in flow.insns.items()}
    places["exiter"] = f"{made.places('exiter', 'iretq')[0]:#x}"
    found = surroundings.exit_behind(made.code, flow, made.touch(name, Kind.UNMASK), made.touches(name))
    assert found == expected.format(**places)


@of(REOPENED)
def test_unmasks_after_a_mask(made: Functions, name: str, expected: tuple[int, Paths]) -> None:
    touches = Touches(made.flow(name), {**made.touches(name), **made.touches("opener")})
    opening = {made.start("opener")}
    found = surroundings.reopened(made.code, made.flow(name), made.touch(name, Kind.MASK), touches, opening)
    assert (len(found.hits), found.paths) == expected


@of(MASKED)
def test_masked_ranges(made: Functions, name: str, expected: list[tuple[str, ...]]) -> None:
    flow = made.flow(name)
    found = surroundings.masked_ranges(flow, made.touch(name, Kind.MASK), made.touches(name))
    inside = [tuple(at for at in sorted(flow.insns) if start <= at < end) for start, end in found]
    assert [names(made, name, addresses) for addresses in inside] == expected
    for (start, end), addresses in zip(found, inside, strict=True):
        assert (start, end) == (addresses[0], flow.insns[addresses[-1]].end)


def test_masked_ranges_if_instructions_overlap(made: Functions) -> None:
    flow = made.flow("overlapping")
    found = surroundings.masked_ranges(
        flow, made.touch("overlapping", Kind.MASK), made.touches("overlapping")
    )
    (jump,), (inc,) = made.places("overlapping", "jmp"), made.places("overlapping", "inc")
    assert inc == jump + 1
    assert found == ((jump, jump + 2), (inc, inc + 2 + 4))


@of(PREEMPTION)
def test_preemption_off(made: Functions, name: str, expected: bool) -> None:
    assert surroundings.preemption_off(made.code, made.flow(name), made.touch(name, Kind.MASK)) is expected


def test_fences_that_an_instruction_executes(made: Functions) -> None:
    name = "t4_both_fences_in_a_callee"
    flow = made.flow(name)
    taker = made.flow("taker").insns[made.places("taker", "xchg")[0]]
    handlers = handlers_of(made, name)
    (call,) = (flow.insns[at] for at in made.places(name, "call"))
    assert [item.mnemonic for item in handlers.executed(call)] == ["lfence", "mfence"]
    # A function that is known to take the selector counts as its locked access.
    handlers.takers[made.start("leaf_both")] = taker
    assert handlers.executed(call) == (taker,)
    assert handlers.executed(taker) == (taker,)
    (xor,) = (made.flow("taker").insns[at] for at in made.places("taker", "xor"))
    assert handlers.executed(xor) == ()
    # Fences in functions that are not leaves are not searched for.
    larger = made.flow("t5_by_two_wrappers")
    (call,) = (larger.insns[at] for at in made.places("t5_by_two_wrappers", "call"))
    assert handlers.executed(call) == ()


@pytest.mark.parametrize(("argument", "covered"), [("mov $1, %ebx", True), ("mov $1, %edi", False)])
def test_i386_passes_the_first_argument_in_ebx(tmp_path: Path, argument: str, covered: bool) -> None:
    body = f"vcpu %edx; movb $0, 1(%edx); {argument}; call page + 32 * 29; ret"
    made = assemble(tmp_path, {"block": body}, bits=32)
    found = surroundings.exit_behind(
        made.code, made.flow("block"), made.touch("block", Kind.UNMASK), made.touches("block")
    )
    assert bool(found) is covered


def test_pending_test_returns_ways(made: Functions) -> None:
    name = "t0_follows"
    found = surroundings.pending_test(
        made.code, made.flow(name), made.touch(name, Kind.UNMASK), made.touches(name)
    )
    assert found == Ways(made.places(name, "cmp"), ALL)
