"""What an image says to Xen: on images assembled here, also compared with readelf -n."""

from __future__ import annotations

import re
import subprocess
from dataclasses import dataclass
from pathlib import Path

import hypothesis
import hypothesis.strategies as st
import pytest

from xtrace.symbols.errors import ImageError
from xtrace.symbols.image.image import open_image
from xtrace.symbols.image.linux_patching import Patching
from xtrace.symbols.image.xen_facts import Callback, ImageFacts, image_facts

TIMEOUT_S = 60
BASE = {64: 0xFFFF_FFFF_8010_0000, 32: 0xC010_0000}
NOTES = """
    .macro note kind, value:vararg
    .balign 4
    .long 4, 2f - 1f, \\kind
    .asciz "Xen"
1:  \\value
2:  .balign 4
    .endm
    .section .note.Xen, "a", @note
"""
LINUX = (
    NOTES
    + """
    note 6, .asciz "linux"
    note 7, .asciz "2.6"
    note 5, .asciz "xen-3.0"
    note 3, .quad 0xffffffff80000000
    note 2, .quad hypercall_page
    note 10, .asciz "!writable_page_tables|pae_pgdir_above_4gb"
    note 17, .long 0x8801
    note 13, .quad 1, 1
    note 0x777, .long 7
"""
)
PAGE = """
    .text
    .globl start, hypercall_page
start:
    ret
    .balign 4096
hypercall_page:
    .fill 4096, 1, 0xcc
"""
NETBSD = (
    PAGE
    + """
    .section __xen_guest, "a"
    .ascii "GUEST_OS=NetBSD,GUEST_VER=4.99,XEN_VER=xen-3.0,LOADER=generic"
    .ascii ",VIRT_BASE=0xffffffff80000000,ELF_PADDR_OFFSET=0xffffffff80000000"
    .ascii ",HYPERCALL_PAGE=0x00000101,BSD_SYMTAB=yes,PT_MODE_WRITABLE\\0after"
"""
)
ENTRIES = """
    .text
    .globl event_entry, failsafe_entry, syscall_entry
    .balign 16
event_entry:    ret
    .balign 16
failsafe_entry: ret
    .balign 16
syscall_entry:  ret
"""
SET_CALLBACKS = {
    "mov": "mov $event_entry, %rdi; mov $failsafe_entry, %rsi; mov $syscall_entry, %rdx",
    "twice": "mov $start, %rdi; mov $failsafe_entry, %rsi; mov $event_entry, %rdi; mov $syscall_entry, %rdx",
    "lea": "lea event_entry(%rip), %rdi; lea failsafe_entry(%rip), %rsi; lea syscall_entry(%rip), %rdx",
    "movabs": "movabs $event_entry, %rdi; movabs $failsafe_entry, %rsi; movabs $syscall_entry, %rdx",
}


@dataclass(frozen=True, slots=True)
class Builder:
    folder: Path

    def path(
        self, source: str, *, bits: int = 64, strip: tuple[str, ...] = (), base: int | None = None
    ) -> Path:
        code, made, linked = (self.folder / name for name in ("a.S", "a.o", "image"))
        code.write_text(source)
        emulation = {64: "elf_x86_64", 32: "elf_i386"}[bits]
        _run("gcc", f"-m{bits}", "-c", str(code), "-o", str(made))
        text = f"-Ttext={BASE[bits] if base is None else base:#x}"
        _run("ld", "-m", emulation, text, "-e", "start", str(made), "-o", str(linked))
        if strip:
            _run("objcopy", *strip, str(linked))
        return linked

    def facts(self, source: str, *, bits: int = 64, strip: tuple[str, ...] = ()) -> ImageFacts:
        return image_facts(open_image(self.path(source, bits=bits, strip=strip)))


@pytest.fixture
def build(tmp_path: Path) -> Builder:
    return Builder(tmp_path)


def _run(*command: str) -> str:
    return subprocess.run(command, check=True, timeout=TIMEOUT_S, capture_output=True, text=True).stdout


def test_notes_of_a_linux_kernel(build: Builder) -> None:
    facts = build.facts(PAGE + LINUX)
    assert (facts.guest_os, facts.guest_version) == ("linux", "2.6")
    assert {note.name: note.value for note in facts.notes} == {
        "GUEST_OS": "linux",
        "GUEST_VERSION": "2.6",
        "XEN_VERSION": "xen-3.0",
        "VIRT_BASE": "0xffffffff80000000",
        "HYPERCALL_PAGE": f"{BASE[64] + 0x1000:#x}",
        "FEATURES": "!writable_page_tables|pae_pgdir_above_4gb",
        "SUPPORTED_FEATURES": "0x8801",
        "L1_MFN_VALID": "01000000 00000000 01000000 00000000",
        "0x777": "0x7",
    }
    assert (facts.hypercall_page, facts.hypercall_page_source) == (BASE[64] + 0x1000, "note")
    assert facts.legacy == ()
    assert facts.patching == Patching((), ())
    assert facts.patched(BASE[64], 16) is None


def test_notes_match_readelf(build: Builder) -> None:
    path = build.path(PAGE + LINUX)
    shown = _run("readelf", "-nW", str(path))
    # GNU tools have other names for some kinds, so lines are matched by their order.
    rows = re.findall(r"^  Xen\s+0x([0-9a-f]+)\s+(.*?)(?:\s+description data: ([0-9a-f ]+))?$", shown, re.M)
    notes = image_facts(open_image(path)).notes
    assert len(rows) == len(notes) == 9
    for (size, words, data), note in zip(rows, notes, strict=True):
        value = bytes.fromhex(data)
        assert len(value) == int(size, 16)
        unknown = re.search(r"\((0x[0-9a-f]+)\)", words)
        assert unknown is None or int(unknown[1], 16) == note.kind
        if note.number is not None:
            assert note.number == int.from_bytes(value, "little")
        elif note.name != "L1_MFN_VALID":
            assert value == note.value.encode() + b"\0"


def test_notes_in_a_segment_need_no_section_headers(build: Builder) -> None:
    path = build.path(PAGE + LINUX)
    data = bytearray(path.read_bytes())
    data[0x28:0x30] = bytes(8)
    data[0x3A:0x40] = bytes(6)
    bare = path.with_name("bare")
    bare.write_bytes(data)
    assert image_facts(open_image(bare)).notes == image_facts(open_image(path)).notes


def test_notes_of_an_object_file_are_in_its_sections(build: Builder) -> None:
    path = build.path(PAGE + NOTES + 'note 6, .asciz "Mini-OS"\n').with_name("a.o")
    assert image_facts(open_image(path)).guest_os == "Mini-OS"


def test_notes_of_a_32_bit_kernel(build: Builder) -> None:
    source = PAGE + NOTES + 'note 6, .asciz "Mini-OS"\nnote 2, .long hypercall_page\n'
    facts = build.facts(source, bits=32)
    assert (facts.guest_os, facts.hypercall_page) == ("Mini-OS", BASE[32] + 0x1000)


def test_xen_guest_section_counts_pages_from_virt_base(build: Builder) -> None:
    facts = build.facts(NETBSD)
    assert (facts.guest_os, facts.guest_version) == ("NetBSD", "4.99")
    assert dict(facts.legacy)["PT_MODE_WRITABLE"] == ""
    assert dict(facts.legacy)["BSD_SYMTAB"] == "yes"
    assert facts.hypercall_page_source == "__xen_guest"
    assert facts.hypercall_page == 0xFFFF_FFFF_8010_1000
    assert facts.notes == ()


def test_hypercall_page_by_its_symbol(build: Builder) -> None:
    facts = build.facts(PAGE)
    assert (facts.hypercall_page, facts.hypercall_page_source) == (BASE[64] + 0x1000, "symbol")
    assert (facts.guest_os, facts.notes, facts.legacy) == ("", (), ())


def test_no_hypercall_page(build: Builder) -> None:
    facts = build.facts(PAGE, strip=("--strip-all",))
    assert (facts.hypercall_page, facts.hypercall_page_source, facts.callbacks) == (None, "", ())


@pytest.mark.parametrize(
    ("names", "sources"),
    [
        (
            ("xen_asm_exc_xen_hypervisor_callback", "xen_failsafe_callback", "xen_entry_SYSCALL_64"),
            ("event", "failsafe", "syscall"),
        ),
        (
            ("xen_hypervisor_callback", "xen_failsafe_callback", "xen_syscall_target"),
            ("event", "failsafe", "syscall"),
        ),
        (("hypervisor_callback", "failsafe_callback", "Xsyscall"), ("event", "failsafe", "syscall")),
        # Mini-OS has no syscall entry; sys_syscall is an ordinary system call in other kernels.
        (("hypervisor_callback", "failsafe_callback", "sys_syscall"), ("event", "failsafe")),
        (("xen_callback", "xen_failsafe_callback", "sys_syscall"), ("event", "failsafe", "syscall")),
    ],
)
def test_callbacks_by_the_names_in_each_kernel(
    build: Builder, names: tuple[str, ...], sources: tuple[str, ...]
) -> None:
    labels = "".join(f".globl {name}\n.balign 16\n{name}: ret\n" for name in names)
    image = open_image(build.path(PAGE + ".text\n" + labels))
    assert image_facts(image).callbacks == tuple(
        Callback(kind, image.symbols.find(name) or 0, f"symbol {name}")
        for kind, name in zip(sources, names, strict=False)
    )


def test_syscall_entry_of_a_32_bit_kernel_is_not_a_callback(build: Builder) -> None:
    names = ("hypervisor_callback", "failsafe_callback", "Xsyscall")
    labels = "".join(f".globl {name}\n{name}: ret\n" for name in names)
    facts = build.facts(PAGE + ".text\n" + labels, bits=32)
    assert [callback.kind for callback in facts.callbacks] == ["event", "failsafe"]


@pytest.mark.parametrize("form", SET_CALLBACKS)
def test_callbacks_from_constants_before_set_callbacks(build: Builder, form: str) -> None:
    other, wanted_call = "call hypercall_page + 32", "caller: call hypercall_page + 4*32"
    source = "\n".join((NETBSD, ENTRIES, other, SET_CALLBACKS[form], wanted_call, ""))
    image = open_image(build.path(source))
    wanted = [image.symbols.find(f"{kind}_entry") for kind in ("event", "failsafe", "syscall")]
    how = f"set_callbacks at {image.symbols.find('caller') or 0:#x}"
    facts = build.facts(source, strip=("--strip-all",))
    assert [callback.address for callback in facts.callbacks] == wanted
    assert [callback.kind for callback in facts.callbacks] == ["event", "failsafe", "syscall"]
    assert {callback.source for callback in facts.callbacks} == {how}


def test_callbacks_of_a_32_bit_kernel_come_with_selectors(build: Builder) -> None:
    call = "mov $0xe019, %ebx; mov $event_entry, %ecx; mov %ebx, %edx; mov $failsafe_entry, %esi"
    source = f"{PAGE}{NOTES}note 2, .long hypercall_page\n{ENTRIES}\n{call}\ncall hypercall_page + 4*32\n"
    image = open_image(build.path(source, bits=32))
    wanted = [image.symbols.find("event_entry"), image.symbols.find("failsafe_entry")]
    facts = build.facts(source, bits=32, strip=("--strip-all",))
    assert [callback.address for callback in facts.callbacks] == wanted


@pytest.mark.parametrize(
    "loads",
    [
        "xor %edi, %edi; xor %esi, %esi; xor %edx, %edx",
        "mov $event_entry, %rdi",
        "mov $0x1234, %rdi; mov $0x5678, %rsi",
        "mov %rbx, %rdi; mov %rbp, %rsi",
    ],
)
def test_set_callbacks_without_constants_gives_no_callbacks(build: Builder, loads: str) -> None:
    source = f"{NETBSD}{ENTRIES}\n{loads}\ncall hypercall_page + 4*32\n"
    assert build.facts(source, strip=("--strip-all",)).callbacks == ()


def test_set_callbacks_of_0_gives_no_callbacks(build: Builder) -> None:
    # Mini-OS is linked at 0, so there is code at 0.
    loads = "mov $0, %rdi; mov $failsafe_entry, %rsi; mov $0, %rdx"
    source = f"{PAGE}{NOTES}note 2, .quad hypercall_page\n{ENTRIES}\n{loads}\ncall hypercall_page + 4*32\n"
    image = open_image(build.path(source, strip=("--strip-all",), base=0))
    assert image_facts(image).callbacks == ()


def test_untrusted_text_is_escaped_and_bounded(build: Builder) -> None:
    source = PAGE + NOTES + 'note 6, .ascii "\\033[31mred"\nnote 7, .fill 9000, 1, 65\n'
    facts = build.facts(source)
    assert facts.guest_os == "\\x1b[31mred"
    assert len(facts.guest_version) < 300


@pytest.fixture(scope="module")
def linux(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return Builder(tmp_path_factory.mktemp("linux")).path(PAGE + LINUX + ENTRIES)


@hypothesis.settings(max_examples=150)
@hypothesis.given(data=st.data())
def test_damaged_notes_give_bounded_facts(linux: Path, data: st.DataObject) -> None:
    damaged = bytearray(linux.read_bytes())
    at = damaged.index(b"Xen\0linux") - 12
    for _ in range(data.draw(st.integers(1, 4))):
        place = data.draw(st.integers(at, at + 240))
        damaged[place] = data.draw(st.sampled_from([0, 1, 4, 0x7F, 0x80, 0xFF]))
    path = linux.with_name("damaged")
    path.write_bytes(damaged)
    facts = image_facts(open_image(path))
    assert len(facts.notes) <= 20
    assert all(note.value.isprintable() or not note.value for note in facts.notes)


def test_hypercall_page_beyond_all_addresses_is_harmless(build: Builder) -> None:
    facts = build.facts(PAGE + NOTES + "note 2, .quad 0x7fffffffffffffff\n" + ENTRIES)
    assert (facts.hypercall_page, facts.callbacks) == (2**63 - 1, ())


def test_damaged_headers_give_one_error(linux: Path) -> None:
    damaged = bytearray(linux.read_bytes())
    damaged[0x20:0x28] = b"\xff" * 8
    path = linux.with_name("headers")
    path.write_bytes(damaged)
    with pytest.raises(ImageError, match=r"^\S+headers: [^\n]+$"):
        image_facts(open_image(path))


def test_many_notes_and_calls_are_bounded(build: Builder) -> None:
    notes = f'{NOTES}.rept 5000\n.balign 4\n.long 4, 0, 17\n.asciz "Xen"\n.endr\n'
    calls = ".text\n.rept 5000\ncall hypercall_page + 4*32\n.endr\n"
    facts = build.facts(PAGE + notes + calls)
    assert len(facts.notes) == 1024
    assert facts.callbacks == ()
