"""Compile small kernels with each DWARF version, and look up their addresses with GNU addr2line."""

from __future__ import annotations

import re
import subprocess
from collections.abc import Iterable
from pathlib import Path

from xtrace.symbols.dwarf.source_locations import SourceLocation

TIMEOUT_S = 60
TEXT_ADDRESS = 0xFFFF_FFFF_8100_0000

_HEADER = """\
#define barrier() __asm__ volatile("" ::: "memory")

struct vcpu_info {
    unsigned char evtchn_upcall_pending;
    unsigned char evtchn_upcall_mask;
    unsigned long evtchn_pending_sel;
    long arch[6];
};

struct shared_info {
    struct vcpu_info vcpu_info[32];
    unsigned long evtchn_pending[64];
};

struct cpu_info {
    struct cpu_info *ci_self;
    long ci_filler[13];
    struct vcpu_info *ci_vcpu;
};

void force_callback(int reason);

static inline void set_mask(struct vcpu_info *v, int value)
{
    v->evtchn_upcall_mask = value;
    barrier();
}

static inline __attribute__((always_inline)) void restore(struct vcpu_info *v, int saved)
{
    set_mask(v, saved);
    if (!saved && v->evtchn_upcall_pending) {
        set_mask(v, 1);
        force_callback(3);
    }
}
"""

_FIRST = """\
#include "mask.h"

extern struct cpu_info *current_cpu;
int twice(int);

static __attribute__((noinline)) int count(struct vcpu_info *v, int many)
{
    int sum = 0;
    for (int i = 0; i < many; i++) {
        int saved = v->evtchn_upcall_mask;
        set_mask(v, 1);
        sum += twice(i) + saved;
        restore(v, saved);
    }
    return sum;
}

int start(int many)
{
    struct vcpu_info *v = current_cpu->ci_vcpu;
    int found = count(v, many);
    if (__builtin_expect(found < 0, 0))
        force_callback(found);
    restore(v, 0);
    return found;
}
"""

_SECOND = """\
#include "mask.h"

struct shared_info shared;
struct cpu_info *current_cpu;

void force_callback(int reason)
{
    shared.evtchn_pending[reason & 63] = 0;
}

int twice(int value)
{
    restore(&shared.vcpu_info[value & 31], value & 1);
    return 2 * value;
}
"""

_ASSEMBLY = """\
    .text
    .globl {name}
    .type {name}, @function
{name}:
    nop
    nop
    ret
    .size {name}, . - {name}
"""


def compile_kernel(
    folder: Path,
    *options: str,
    version: int = 5,
    bits: int = 64,
    relocatable: bool = False,
    compiler: str = "gcc",
) -> Path:
    """Build a kernel of two C units, an assembly file with lines and one without; return its path.

    Args:
        compiler: of the C units.
    """
    (folder / "include").mkdir(parents=True)
    (folder / "include" / "mask.h").write_text(_HEADER)
    (folder / "first.c").write_text(_FIRST)
    (folder / "second.c").write_text(_SECOND)
    (folder / "known.S").write_text(_ASSEMBLY.format(name="known"))
    (folder / "bare.s").write_text(_ASSEMBLY.format(name="bare"))
    model = ("-m64", "-mcmodel=kernel") if bits == 64 else ("-m32",)
    common = (f"-gdwarf-{version}", "-O2", *model, "-ffreestanding", "-fno-pic", "-Iinclude", *options)
    for source in ("first.c", "second.c", "known.S"):
        name = compiler if source.endswith(".c") else "gcc"
        run(folder, name, "-c", *common, source, "-o", source[:-2] + ".o")
    run(folder, "gcc", "-c", model[0], "bare.s", "-o", "bare.o")
    objects = ("first.o", "second.o", "known.o", "bare.o")
    machine = ("-m", "elf_x86_64" if bits == 64 else "elf_i386")
    if relocatable:
        run(folder, "ld", *machine, "-r", *objects, "-o", "kernel")
    else:
        text = TEXT_ADDRESS if bits == 64 else 0xC010_0000
        run(folder, "ld", *machine, "-static", "-e", "start", f"-Ttext={text:#x}", *objects, "-o", "kernel")
    return folder / "kernel"


def instructions(path: Path) -> dict[str, list[int]]:
    """Return the addresses of a kernel's instructions by section, from objdump."""
    found: dict[str, list[int]] = {}
    section: list[int] = []
    for line in run(path.parent, "objdump", "-d", "-w", "-z", "--no-show-raw-insn", path.name).splitlines():
        if line.startswith("Disassembly of section "):
            section = found.setdefault(line.split()[-1].rstrip(":"), [])
        elif match := re.match(r"\s*([0-9a-f]+):", line):
            section.append(int(match[1], 16))
    return found


Frames = list[tuple[str, str, int]]


def addr2line(path: Path, addresses: Iterable[int], *options: str) -> dict[int, Frames]:
    """Return function, file and line of each address, innermost first; an empty list if it has no line."""
    asked = "\n".join(f"{address:#x}" for address in addresses)
    text = run(path.parent, "addr2line", "-a", "-i", "-f", *options, "-e", path.name, asked=asked)
    found: dict[int, Frames] = {}
    frames: Frames = []
    lines = iter(text.splitlines())
    for line in lines:
        if line.startswith("0x"):
            frames = found[int(line, 16)] = []
            continue
        file, _, number = re.sub(r" \(discriminator \d+\)$", "", next(lines)).rpartition(":")
        # For code without a line, addr2line prints the unit's file or nothing.
        if number.isdigit():
            frames.append((_plain(line), file, int(number)))
    return found


def frames(place: SourceLocation | None) -> Frames:
    """Return a place in addr2line's format."""
    if place is None or not place.line:
        return []
    if place.inline:
        return [(frame.function, frame.file, frame.line) for frame in place.inline]
    return [(place.function, place.file, place.line)]


def _plain(function: str) -> str:
    # addr2line prefers the symbol's name, which has the compiler's suffixes.
    return re.sub(r"(\.(isra|constprop|part|cold)(\.\d+)?)+$", "", function)


def run(folder: Path, *command: str, asked: str = "") -> str:
    """Run a command in a folder and return its output."""
    done = subprocess.run(
        command, cwd=folder, input=asked, capture_output=True, text=True, timeout=TIMEOUT_S, check=False
    )
    assert not done.returncode, done.stderr
    return done.stdout
