"""Kernel modules: objects whose relocations name the fields, which are defined in the kernel."""

from __future__ import annotations

import lzma
import shutil
import subprocess
from pathlib import Path

import pytest

from xtrace.symbols.image.image import open_image
from xtrace.symbols.sites.finder import find_sites
from xtrace.symbols.sites.model import Cpu, Site

SOURCE = r"""
typedef unsigned char u8;
struct vcpu_info { volatile u8 pending, mask; volatile unsigned long selector; unsigned long rest[6]; };
extern PER_CPU struct vcpu_info xen_vcpu_info;
extern struct vcpu_info *PER_CPU xen_vcpu;
extern struct shared_info { struct vcpu_info vcpu_info[32]; } *HYPERVISOR_shared_info;
extern void handle(unsigned long);
static inline void force(void)
{
    long result;

    __asm__ volatile("call hypercall_page+17*32" : "=a"(result) : FIRST(0L) : "memory");
}
void disable(void) { xen_vcpu_info.mask = 1; }
void enable(void)
{
    xen_vcpu_info.mask = 0;
    __asm__ volatile("" ::: "memory");
    if (xen_vcpu_info.pending)
        force();
}
void enable_fenced(void)
{
    struct vcpu_info *v = xen_vcpu;

    v->mask = 0;
    __asm__ volatile("lfence" ::: "memory");
    if (v->pending)
        force();
}
void disable_first(void) { HYPERVISOR_shared_info->vcpu_info[0].mask = 1; }
void upcall(void)
{
    struct vcpu_info *v = xen_vcpu;

    v->pending = 0;
    handle(__atomic_exchange_n(&v->selector, 0, __ATOMIC_SEQ_CST));
}
"""
RIGHT = {
    "disable": ["mask"],
    "enable": ["unmask", "pending test", "force callback"],
    "enable_fenced": ["unmask removable", "pending test", "force callback"],
    "disable_first": ["mask"],
    "upcall": ["pending clear keep", "selector take keep"],
}
PLAIN = ("-fno-pic", "-fcf-protection=none", "-fno-stack-protector", "-fno-asynchronous-unwind-tables")
WIDE = ("-m64", "-mno-red-zone", "-DPER_CPU=__seg_gs", '-DFIRST="D"')
#: Since 6.15, Linux reaches per-CPU variables relative to rip; a table of addresses is what compilers use
#: for symbols of others.
MODELS = {
    "kernel": (*WIDE, "-mcmodel=kernel", *PLAIN),
    "rip": (*WIDE, *PLAIN, "-fpie"),
    "table": (*WIDE, *PLAIN, "-fpic"),
    "i386": ("-m32", "-DPER_CPU=__seg_fs", '-DFIRST="b"', *PLAIN),
}


def module(folder: Path, compiler: str, level: str, model: str) -> Path:
    if shutil.which(compiler) is None:
        pytest.skip(f"no {compiler} here")
    (folder / "module.c").write_text(SOURCE)
    subprocess.run(
        [compiler, level, "-g", "-ffreestanding", *MODELS[model], "-c", "module.c", "-o", "module.ko"],
        cwd=folder,
        check=True,
    )
    return folder / "module.ko"


def said(sites: tuple[Site, ...]) -> dict[str, list[str]]:
    found: dict[str, list[str]] = {}
    for site in sites:
        verdict = "" if site.verdict == "no fence" else f" {site.verdict}"
        # Without optimisation, what is inlined otherwise is a function.
        symbol = "enable" if site.symbol == "force" else site.symbol
        found.setdefault(symbol, []).append(f"{site.kind}{verdict}")
    return found


@pytest.mark.parametrize("model", MODELS)
@pytest.mark.parametrize(
    ("compiler", "level"), [("gcc", "-O2"), ("gcc", "-Os"), ("clang", "-O2"), ("clang", "-O1")]
)
def test_module(tmp_path: Path, compiler: str, level: str, model: str) -> None:
    table = find_sites(open_image(module(tmp_path, compiler, level, model)))
    assert not table.damage
    assert said(table.sites) == RIGHT
    for site in table.sites:
        assert site.place is not None
        direct = site.symbol in ("disable", "enable") and site.kind != "force callback"
        assert (site.cpu is Cpu.RUNNING) is (direct or site.kind == "force callback")


def test_module_without_debug_information_and_packed(tmp_path: Path) -> None:
    plain = module(tmp_path, "gcc", "-O2", "kernel")
    subprocess.run(["objcopy", "--strip-debug", plain, tmp_path / "bare.ko"], check=True)
    packed = tmp_path / "bare.ko.xz"
    packed.write_bytes(lzma.compress((tmp_path / "bare.ko").read_bytes()))
    image = open_image(packed)
    assert image.relocatable
    assert image.packed == "xz"
    assert said(find_sites(image).sites) == RIGHT


def test_stripped_linux_says_what_cannot_be_seen(tmp_path: Path) -> None:
    note = '.section .note.Xen,"a",@note; .balign 4; .long 4,6,6; .asciz "Xen"; .asciz "linux"; .balign 4'
    (tmp_path / "k.s").write_text(f".text; .globl f; f: ret; {note}\n")
    for command in (("gcc", "-c", "k.s", "-o", "k.o"), ("ld", "-e", "0", "k.o", "-o", "k")):
        subprocess.run(command, cwd=tmp_path, check=True)
    assert not find_sites(open_image(tmp_path / "k")).damage
    subprocess.run(["strip", "-s", "k"], cwd=tmp_path, check=True)
    (line,) = find_sites(open_image(tmp_path / "k")).damage
    assert line.startswith(
        "without symbols, direct accesses to a per-CPU vcpu_info (%gs:symbol) cannot be seen"
    )
