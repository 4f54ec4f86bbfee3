"""The code of a site becomes the accesses that the assembly beside it shows."""

from __future__ import annotations

import shutil
import subprocess
from dataclasses import replace
from pathlib import Path

import pytest

from builders.guest import GUESTS, Builder, Variant
from builders.shapes import built, shapes
from xtrace.symbols.image.image import open_image
from xtrace.symbols.proof.description import UNCHANGED, Access, Cell, Description, Role, as_byte_store
from xtrace.symbols.proof.operational import check
from xtrace.symbols.proof.rule import fault_of, is_right
from xtrace.symbols.proof.templates import USUAL_HANDLER
from xtrace.symbols.sites import description
from xtrace.symbols.sites.finder import find_sites
from xtrace.symbols.sites.model import Kind, Site, Verdict

pytestmark = pytest.mark.skipif(shutil.which("gcc") is None, reason="needs gcc")

HEAD = """
        .text
        .type   {name}, @function
{name}: mov     HYPERVISOR_shared_info(%rip), %rax
"""
TAIL = """
        .type   handle, @function
handle: mov     HYPERVISOR_shared_info(%rip), %rdi
        movb    $0, (%rdi)
        xor     %eax, %eax
        xchg    %rax, 8(%rdi)
        ret
        .type   force, @function
force:  xor     %edi, %edi
        xor     %esi, %esi
        call    hypercall_page+17*32
        ret
        .balign 4096
        .globl  hypercall_page
hypercall_page:
        .skip   4096, 0xc3
        .bss
HYPERVISOR_shared_info:
        .skip   8
        .section .note.GNU-stack,"",@progbits
"""


def site_of(tmp_path: Path, body: str, kind: Kind, before: str = "") -> Site:
    """Return the only site of a kind in a function with this body, after other code."""
    source = tmp_path / "one.s"
    source.write_text(before + HEAD.format(name="one") + body + TAIL)
    image = tmp_path / "one.o"
    subprocess.run(["gcc", "-c", source, "-o", image], check=True, timeout=60)
    table = find_sites(open_image(image))
    (found,) = [site for site in table.sites if site.kind is kind and site.symbol == "one"]
    return found


def described(tmp_path: Path, body: str, kind: Kind, before: str = "") -> Description:
    found = site_of(tmp_path, body, kind, before).description
    assert found is not None
    return found


def words(access: Access) -> str:
    """Return what an access does, in a form for comparison."""
    parts = [f"{cell.name}->" for cell in access.reads]
    parts += [f"{cell.name}={value}" for cell, value in access.writes]
    parts += [access.fence] * bool(access.fence) + ["xen"] * access.xen + ["locked"] * access.is_locked
    parts += [f"if {cell.name}=={value}" for cell, value in access.when]
    return " ".join(parts)


def paths(description: Description) -> set[tuple[str, ...]]:
    return {tuple(map(words, path)) for path in description.paths}


UNMASKS: dict[str, tuple[str, set[tuple[str, ...]]]] = {
    "fence between store and test": (
        "movb $0,1(%rax)\nlfence\ncmpb $0,(%rax)\nje 1f\ncall force\n1: ret\n",
        {("M=0", "lfence", "P-> if P==0"), ("M=0", "lfence", "P-> if P==1", "xen")},
    ),
    "no fence": (
        "movb $0,1(%rax)\ncmpb $0,(%rax)\nje 1f\ncall force\n1: ret\n",
        {("M=0", "P-> if P==0"), ("M=0", "P-> if P==1", "xen")},
    ),
    "a locked access": (
        "xor %ecx,%ecx\nxchg %cl,1(%rax)\ncmpb $0,(%rax)\nje 1f\ncall force\n1: ret\n",
        {("M=0 locked", "P-> if P==0"), ("M=0 locked", "P-> if P==1", "xen")},
    ),
    "a fence on one of two paths": (
        "movb $0,1(%rax)\ntest %edx,%edx\nje 2f\nmfence\n2: cmpb $0,(%rax)\nje 1f\ncall force\n1: ret\n",
        {
            ("M=0", "P-> if P==0"),
            ("M=0", "P-> if P==1", "xen"),
            ("M=0", "mfence", "P-> if P==0"),
            ("M=0", "mfence", "P-> if P==1", "xen"),
        },
    ),
    "no test": ("movb $0,1(%rax)\nret\n", {("M=0",)}),
    "a test on one of two paths": (
        "movb $0,1(%rax)\ntest %edx,%edx\nje 1f\ncmpb $0,(%rax)\nje 1f\ncall force\n1: ret\n",
        {("M=0",), ("M=0", "P-> if P==0"), ("M=0", "P-> if P==1", "xen")},
    ),
    "a test before the store": (
        "cmpb $0,(%rax)\nmovb $0,1(%rax)\nje 1f\ncall force\n1: ret\n",
        {("P-> if P==0", "M=0", "xen"), ("P-> if P==1", "M=0", "xen"), ("P-> if P==0", "M=0")},
    ),
    "a trap is no path": (
        "movb $0,1(%rax)\ntest %edx,%edx\njne 2f\ncmpb $0,(%rax)\nje 1f\ncall force\n1: ret\n2: ud2\n",
        {("M=0", "P-> if P==0"), ("M=0", "P-> if P==1", "xen")},
    ),
    "a mask that is only printed": (
        "mov %rax,%rbx\nmovb $0,1(%rbx)\nmovzbl 1(%rbx),%esi\ncall printf\n"
        "cmpb $0,(%rbx)\nje 1f\ncall force\n1: ret\n.type printf,@function\nprintf: ret\n",
        {("M=0", "P-> if P==0"), ("M=0", "P-> if P==1", "xen")},
    ),
    "a mask that is saved": (
        "movb $0,1(%rax)\nmovzbl 1(%rax),%ecx\nmov %cl,(%rsi)\ncmpb $0,(%rax)\nje 1f\ncall force\n1: ret\n",
        {("M=0", "P-> if P==0"), ("M=0", "P-> if P==1", "xen")},
    ),
    "a take of the selector is no test": (
        "movb $0,1(%rax)\nxor %ecx,%ecx\nxchg %rcx,8(%rax)\nret\n",
        {("M=0",)},
    ),
    "a mask that is set again": ("movb $0,1(%rax)\nmovb $1,1(%rax)\nret\n", {("M=0",)}),
    "a mask that is set again before a block": (
        "movb $0,1(%rax)\nmovb $1,1(%rax)\nmov $1,%edi\nxor %esi,%esi\ncall hypercall_page+29*32\nret\n",
        {("M=0", "M=1", "M=0 xen")},
    ),
    "a block after a locked compare and exchange": (
        "movl $0x100,%eax\nmov HYPERVISOR_shared_info(%rip),%rcx\nxor %edx,%edx\n"
        "lock cmpxchgw %dx,(%rcx)\njz 1f\n"
        "mov $1,%edi\nxor %esi,%esi\ncall hypercall_page+29*32\n1: ret\n",
        {("P-> P=-2 M=0 locked if P==0",), ("P-> locked if P==1", "M=0 xen")},
    ),
    "a call that does not return is no path": (
        "movb $0,1(%rax)\ntest %edx,%edx\njne 2f\ncmpb $0,(%rax)\nje 1f\ncall force\n1: ret\n"
        "2: call endless\nret\n.type endless,@function\nendless: cli\n3: hlt\njmp 3b\n",
        {("M=0", "P-> if P==0"), ("M=0", "P-> if P==1", "xen")},
    ),
    "a store that also covers the byte after the mask": ("movw $0,1(%rax)\nret\n", {("M=0",)}),
    "a long row of fences": (
        "movb $0,1(%rax)\nmfence\nsfence\nlfence\nlfence\nmfence\nret\n",
        {("M=0", "lfence", "lfence", "mfence")},
    ),
    "a wide store": (
        "andw $0xff,(%rax)\njz 1f\ncall force\n1: ret\n",
        {("P-> P=-2 M=0 if P==0",), ("P-> P=-2 M=0 if P==1", "xen")},
    ),
    "a locked compare and exchange": (
        "movl $0x100,%eax\nmov HYPERVISOR_shared_info(%rip),%rcx\nxor %edx,%edx\n"
        "lock cmpxchgw %dx,(%rcx)\njz 1f\ncall force\n1: ret\n",
        {("P-> P=-2 M=0 locked if P==0",), ("P-> locked if P==1", "xen")},
    ),
}


@pytest.mark.parametrize("name", UNMASKS)
def test_unmask(tmp_path: Path, name: str) -> None:
    body, expected = UNMASKS[name]
    found = described(tmp_path, body, Kind.UNMASK)
    if name == "a test before the store":
        assert {path[:2] for path in paths(found)} == {path[:2] for path in expected}
    else:
        assert paths(found) == expected
    assert found.role is Role.OPEN
    assert found.starts == ((1, 0),)
    assert not any(access.pointer for access in found.accesses())
    assert not any("different ways" in sentence for sentence in found.assumed)
    assert [tuple(map(words, path)) for path in found.handlers] == [("P=0", "S-> S=0 locked", "M=0 xen")]


LEAF = ".text\n.type {0}, @function\n{0}: mfence\nret\n"


@pytest.mark.parametrize("before", [True, False])
def test_fence_of_a_callee_has_the_place_of_its_call(tmp_path: Path, before: bool) -> None:
    leaf = LEAF.format("leaf")
    body = "movb $0,1(%rax)\nlfence\ncall leaf\nret\n"
    found = described(tmp_path, body if before else body + leaf, Kind.UNMASK, before=leaf if before else "")
    ((store, own, called),) = found.paths
    assert [access.fence for access in (store, own, called)] == ["", "lfence", "mfence"]
    assert own.text == "fence"
    assert called.text == f"fence, called at {own.address + 3:#x}"
    assert (called.address < own.address) is before


def test_each_test_leads_to_the_next_force_callback(tmp_path: Path) -> None:
    body = (
        "movb $0,1(%rax)\ntest %edx,%edx\nje 2f\ncmpb $0,(%rax)\nje 1f\ncall hypercall_page+17*32\n1: ret\n"
        "2: lfence\ncmpb $0,(%rax)\nje 3f\ncall hypercall_page+17*32\n3: ret\n"
    )
    found = described(tmp_path, body, Kind.UNMASK)
    handled = [path for path in found.paths if path[-1].xen]
    assert len({path[-2].address for path in handled}) == 2
    assert {path[-1].address - path[-2].address for path in handled} == {5}
    assert {words(path[-1]) for path in handled} == {"xen"}


def test_function_that_tests_and_forces_handles_what_it_finds(tmp_path: Path) -> None:
    body = (
        "movb $0,1(%rax)\ntest %edx,%edx\nje 2f\ncall ask\nret\n2: lfence\ncall ask\nret\n"
        ".type ask,@function\nask: mov HYPERVISOR_shared_info(%rip),%rax\ncmpb $0,(%rax)\nje 1f\n"
        "call hypercall_page+17*32\n1: ret\n"
    )
    handled = [path for path in described(tmp_path, body, Kind.UNMASK).paths if path[-1].xen]
    assert [path[-1].address == path[-2].address for path in handled] == [True, True]


def test_first_of_the_tests_before_the_store_is_shown(tmp_path: Path) -> None:
    body = (
        "test %edx,%edx\nje 2f\ncmpb $0,(%rax)\njmp 3f\n2: cmpb $0,(%rax)\n3: movb $0,1(%rax)\nje 1f\n"
        "call force\n1: ret\n"
    )
    found = described(tmp_path, body, Kind.UNMASK)
    for test, store, *_ in found.paths:
        assert (words(test)[:3], words(store)) == ("P->", "M=0")
        # The other one is 3 bytes before the store.
        assert store.address - test.address > 3


def test_restore_tests_only_if_it_opened(tmp_path: Path) -> None:
    body = "mov %dil,1(%rax)\ntest %dil,%dil\njne 1f\ncmpb $0,(%rax)\nje 1f\ncall force\n1: ret\n"
    found = described(tmp_path, body, Kind.RESTORE)
    assert paths(found) == {
        ("M=-1", "if M==1"),
        ("M=-1", "P-> if P==0"),
        ("M=-1", "P-> if P==1 if M==0", "xen"),
        ("M=-1", "P-> if P==1 if M==1"),
    }
    assert found.starts == ((1, 0), (1, 1))
    assert check(found).holds


def test_restore_without_a_test_on_either_side(tmp_path: Path) -> None:
    body = "mov %dil,1(%rax)\ntest %dil,%dil\njne 1f\nlfence\n1: ret\n"
    assert paths(described(tmp_path, body, Kind.RESTORE)) == {("M=-1",), ("M=-1", "lfence")}


def test_mask_ends_at_the_next_access(tmp_path: Path) -> None:
    body = "movb $1,1(%rax)\nmfence\nmovb $0,1(%rax)\ncmpb $0,(%rax)\nje 1f\ncall force\n1: ret\n"
    found = described(tmp_path, body, Kind.MASK)
    assert paths(found) == {("M=1", "mfence")}
    assert (found.role, found.starts) == (Role.MASK, ((0, 0),))


HANDLERS = {
    "in order": (
        "movb $0,(%rax)\nxor %ecx,%ecx\nxchg %rcx,8(%rax)\nret\n",
        ("P=0", "S-> S=0 locked", "M=0 xen"),
    ),
    "with an lfence": (
        "movb $0,(%rax)\nlfence\nxor %ecx,%ecx\nxchg %rcx,8(%rax)\nret\n",
        ("P=0", "lfence", "S-> S=0 locked", "M=0 xen"),
    ),
    "the selector is taken first": (
        "xor %ecx,%ecx\nxchg %rcx,8(%rax)\nmovb $0,(%rax)\nret\n",
        ("S-> S=0 locked", "P=0", "M=0 xen"),
    ),
    "nothing is taken": ("movb $0,(%rax)\nret\n", ("P=0", "M=0 xen")),
    "a plain read, and a locked clear of what it read": (
        "movb $0,(%rax)\nmov 8(%rax),%rcx\nnot %rcx\nlock and %rcx,8(%rax)\nret\n",
        ("P=0", "S->", "S=-3 locked", "M=0 xen"),
    ),
    "a fence after a plain read is not before it": (
        "movb $0,(%rax)\nmov 8(%rax),%rcx\nmfence\nnot %rcx\nlock and %rcx,8(%rax)\nret\n",
        ("P=0", "S->", "S=-3 locked", "M=0 xen"),
    ),
    "a fence before the clear does not order it": (
        "mfence\nmovb $0,(%rax)\nmov 8(%rax),%rcx\nnot %rcx\nlock and %rcx,8(%rax)\nret\n",
        ("mfence", "P=0", "S->", "S=-3 locked", "M=0 xen"),
    ),
    "a fence before a plain read": (
        "movb $0,(%rax)\nmfence\nmov 8(%rax),%rcx\nnot %rcx\nlock and %rcx,8(%rax)\nret\n",
        ("P=0", "mfence", "S->", "S=-3 locked", "M=0 xen"),
    ),
}
#: The hazard of each of these handlers.
DISORDER = {
    "the selector is taken first": "take-before-clear",
    "nothing is taken": "clear-without-take",
    "a plain read, and a locked clear of what it read": "unlocked-handler",
    "a fence after a plain read is not before it": "unlocked-handler",
    "a fence before the clear does not order it": "unlocked-handler",
}


@pytest.mark.parametrize("name", HANDLERS)
def test_handler(tmp_path: Path, name: str) -> None:
    body, expected = HANDLERS[name]
    site = site_of(tmp_path, body, Kind.PENDING_CLEAR)
    assert site.description is not None
    assert [tuple(map(words, path)) for path in site.description.handlers] == [expected]
    assert (site.description.role, site.description.starts) == (Role.HANDLER, ((0, 0),))
    assert [hazard.name for hazard in site.hazards] == ([DISORDER[name]] if name in DISORDER else [])
    assert bool(fault_of(site.description)) is bool(site.hazards)


def test_fence_on_one_path_to_a_plain_read_is_not_on_the_other(tmp_path: Path) -> None:
    body = (
        "movb $0,(%rax)\ntest %edx,%edx\nje 1f\nmfence\n"
        "1: mov 8(%rax),%rcx\nnot %rcx\nlock and %rcx,8(%rax)\nret\n"
    )
    found = described(tmp_path, body, Kind.PENDING_CLEAR)
    assert {tuple(map(words, path))[1] for path in found.handlers} == {"S->", "mfence"}
    assert check(found).fault == "an upcall is lost"


def test_exchange_that_clears_pending_leaves_nothing_to_xen(tmp_path: Path) -> None:
    """Xen delivers nothing after it, so a force callback is no answer; a take of S is, and is assumed."""
    head = "xor %ecx,%ecx\nxchg %cx,(%rax)\ntest %cl,%cl\nje 1f\n"
    found = described(tmp_path, head + "call other\n1: ret\nother: ret\n", Kind.UNMASK)
    assert paths(found) == {
        ("P-> P=0 M=0 locked if P==0",),
        ("P-> P=0 M=0 locked if P==1", "S-> S=0 locked"),
    }
    assert check(found).holds
    site = site_of(tmp_path, head + "call hypercall_page+17*32\n1: ret\n", Kind.UNMASK)
    assert site.description is not None
    assert site.callbacks
    assert check(site.description).fault == "an upcall is lost"
    assert [hazard.name for hazard in site.hazards] == ["lost-upcall"]


@pytest.mark.parametrize(
    ("code", "value", "text"),
    [
        ("movq $0,8(%rax)", 0, "S := 0"),
        ("movq $1,8(%rax)", UNCHANGED, "S := S, with bits changed"),
        ("mov %rcx,8(%rax)", UNCHANGED, "S := S, with bits changed"),
        ("or %rcx,8(%rax)", UNCHANGED, "S := S, with bits changed"),
    ],
)
def test_plain_store_to_the_selector(tmp_path: Path, code: str, value: int, text: str) -> None:
    found = described(tmp_path, f"movb $0,(%rax)\n{code}\nret\n", Kind.SELECTOR_SET)
    ((store,),) = found.paths
    assert store.writes == ((Cell.S, value),)
    assert store.text == f"{text}, by a plain store"
    assert not store.drains
    assert (found.role, found.starts) == (Role.MASK, ((0, 0),))
    # Its own function, and that of TAIL.
    assert len(found.handlers) == 2
    assert not check(found).holds


@pytest.mark.parametrize(
    ("fence", "name", "drains"),
    [
        ("lock addl $0,(%rsp)", "lock", True),
        ("xchg %edx,(%rsp)", "lock", True),
        ("cpuid", "serialising", True),
        ("mfence", "mfence", True),
        ("sfence", "sfence", False),
        ("lfence", "lfence", False),
    ],
)
def test_fence_has_a_class(tmp_path: Path, fence: str, name: str, drains: bool) -> None:
    body = f"mov %rax,%rsi\nmovb $0,1(%rsi)\n{fence}\ncmpb $0,(%rsi)\nje 1f\ncall force\n1: ret\n"
    found = described(tmp_path, body, Kind.UNMASK)
    assert {(path[1].fence, path[1].drains) for path in found.paths} == {(name, drains)}


@pytest.mark.parametrize(
    ("code", "does"),
    [
        ("mov $1,%edi\nxor %esi,%esi\ncall hypercall_page+29*32\nret", "M=0 xen"),
        ("jmp hypercall_page+23*32", "xen"),
    ],
)
def test_exit_through_xen(tmp_path: Path, code: str, does: str) -> None:
    """A block clears the mask in Xen; an iret tests pending, too."""
    found = described(tmp_path, f"movb $0,1(%rax)\n{code}\n", Kind.UNMASK)
    assert paths(found) == {("M=0", does)}
    assert check(found).holds


def test_test_that_is_far_away_is_none(tmp_path: Path) -> None:
    """A path that is not followed to its end is one without a test."""
    tail = "cmpb $0,(%rax)\nje 1f\ncall force\n1: ret\n"
    near = described(tmp_path, "movb $0,1(%rax)\n" + "nop\n" * 158 + tail, Kind.UNMASK)
    assert len(near.paths) == 2
    far = described(tmp_path, "movb $0,1(%rax)\n" + "nop\n" * 159 + tail, Kind.UNMASK)
    assert paths(far) == {("M=0",)}


@pytest.mark.parametrize(
    ("access", "pointer"),
    [
        (Access((Cell.P,)), 1),
        (Access(writes=((Cell.M, 1),)), 1),
        (Access((Cell.M,), ((Cell.M, 1),), drains=True), 1),
        (Access(drains=True, fence="mfence"), 0),
        (Access(when=((Cell.M, 1),)), 0),
        (Access(xen=True), 0),
        (Access(writes=((Cell.M, 0),), xen=True), 0),
    ],
)
def test_what_a_pointer_read_again_is_used_for(access: Access, pointer: int) -> None:
    assert description._through_another(access).pointer == pointer


@pytest.mark.parametrize(
    ("code", "kind", "does"),
    [
        ("movw $0x100,%cx\nxchg %cx,(%rax)", Kind.MASK, "P=0 M=1 locked"),
        ("lock andw $0,(%rax)", Kind.UNMASK, "P=0 M=0 locked"),
        ("andl $0,(%rax)", Kind.UNMASK, "P=0 M=0"),
        ("lock andw $0x3f,(%rax)", Kind.UNMASK, "P=-2 M=0 locked"),
    ],
)
def test_pending_may_be_cleared_with_the_mask(tmp_path: Path, code: str, kind: Kind, does: str) -> None:
    found = described(tmp_path, f"{code}\nret\n", kind)
    assert paths(found) == {(does,)}
    assert not check(found).holds


def test_more_ways_than_are_kept_leave_out_none_without_a_test(tmp_path: Path) -> None:
    """Each optional fence doubles the ways; the last one returns before the test."""
    fences = ("lfence", "sfence", "mfence", "lock addl $0,(%rsp)", "lfence", "mfence", "sfence")
    steps = [
        f"mov (%rdx),%ecx\ntest %ecx,%ecx\nje {number}1f\n{fence}\n{number}1:"
        for number, fence in enumerate(fences, 1)
    ]
    body = "\n".join(
        ["mov %rax,%rbx", "movb $0,1(%rbx)", *steps, "test %esi,%esi", "je 9f", "cmpb $0,(%rbx)"]
    )
    found = described(tmp_path, f"{body}\nje 9f\ncall force\n9: ret\n", Kind.UNMASK)
    assert any("more than 64 different ways" in sentence for sentence in found.assumed)
    assert len(found.paths) == 64
    tested = [any(Cell.P in access.reads for access in path) for path in found.paths]
    assert False in tested
    assert not check(found).holds


def test_accesses_have_addresses_instructions_and_lines(tmp_path: Path) -> None:
    source = tmp_path / "unmask.c"
    source.write_text(
        "struct v { unsigned char p, m; unsigned long s; };\n"
        "extern struct v *HYPERVISOR_shared_info; extern void force(void);\n"
        "void unmask(void) {\n"
        "    volatile struct v *v = HYPERVISOR_shared_info;\n"
        "    v->m = 0;\n"
        "    if (v->p) force();\n"
        "}\n"
    )
    image = tmp_path / "unmask.o"
    subprocess.run(["gcc", "-g", "-O2", "-c", source, "-o", image], check=True, timeout=60)
    (site,) = [one for one in find_sites(open_image(image)).sites if one.kind is Kind.UNMASK]
    assert site.description is not None
    store, test = site.description.paths[0][:2]
    assert store.address == site.address
    assert store.code.startswith("movb $0,1(")
    assert store.source.endswith("unmask.c:5")
    assert test.source.endswith("unmask.c:6")
    assert test.address == site.pending_tests[0]
    assert any("no handler was found" in sentence for sentence in site.description.assumed)
    assert any("no force callback was found" in sentence for sentence in site.description.assumed)


#: Hazards that the checker does not decide: they are not about the order of this CPU's accesses.
NOT_PROVED = {"unstable-pointer", "unbalanced"}
SOURCES = [
    path.name for path in sorted(GUESTS.iterdir()) if path.suffix in (".c", ".S") and path.stem != "common"
]


@pytest.mark.parametrize("name", [*SOURCES, *shapes()])
def test_verdict_hazards_and_proof_agree(tmp_path: Path, name: str) -> None:
    """On each description that occurs: what the checker says, the rule, the hazards and the verdict."""
    for site in find_sites(open_image(image_of(tmp_path, name)), lines=False).sites:
        description = site.description
        if description is None:
            assert site.verdict in (Verdict.NO_FENCE, Verdict.KEEP)
            continue
        fault = check(description).fault
        assert fault_of(description) == fault
        assert not (is_right(description) and fault)
        if site.kind is Kind.SELECTOR_TAKE:
            continue
        own = description
        if description.role is not Role.HANDLER:
            own = replace(description, handlers=(USUAL_HANDLER,))
        named = {hazard.name for hazard in site.hazards} - NOT_PROVED
        assert "lost-upcall" not in named
        if not (site.kind is Kind.PENDING_CLEAR and site.width_bytes > 1):
            assert bool(named) is bool(check(own).fault), site
        for fence in site.fences:
            if fence.verdict is Verdict.REMOVABLE:
                assert not check(description.without(fence.address)).fault
            if fence.verdict is Verdict.REPLACEABLE:
                assert not check(as_byte_store(description)).fault


def image_of(folder: Path, name: str) -> Path:
    if name in SOURCES:
        bits = 32 if "i386" in name else 64
        return Builder(folder).build(name, Variant(bits=bits)).image
    return built(folder, name)


def test_selector_take_has_the_image_s_handlers(tmp_path: Path) -> None:
    body = "xor %ecx,%ecx\nxchg %rcx,8(%rax)\nmovb $0,(%rax)\nret\n"
    found = described(tmp_path, body, Kind.SELECTOR_TAKE)
    assert (found.role, found.starts) == (Role.HANDLER, ((0, 0),))
    assert len(found.handlers) == 2
    assert check(found).fault == "an upcall is lost"


def test_store_of_two_constants(tmp_path: Path) -> None:
    """Pending := 0 and mask := 1 in one plain store."""
    found = described(tmp_path, "movw $0x100,(%rax)\nret\n", Kind.MASK)
    assert paths(found) == {("P=0 M=1",)}
    assert next(found.accesses()).written(Cell.P) == 0
    assert not check(found).holds
