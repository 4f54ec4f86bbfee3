"""The structs that variables and parameters of compiled kernels are or point to, and damaged DWARF."""

from __future__ import annotations

import random
import time
from pathlib import Path

import pytest

from builders.dwarf import TEXT_ADDRESS, run
from xtrace.symbols.dwarf import variables as dwarf_variables
from xtrace.symbols.dwarf.variables import parameter_structs, variable_structs
from xtrace.symbols.errors import ImageError
from xtrace.symbols.image.image import Image, open_image

HEADER = """\
struct vcpu_info { unsigned char pending, mask; unsigned long sel; };
struct cpu_info {
    struct cpu_info *ci_next;
    struct vcpu_info *ci_vcpu;
    unsigned ci_cpuid;
};
struct softc;
union word { unsigned long whole; unsigned char bytes[8]; };
typedef struct cpu_info cpu_t;
typedef const cpu_t *const cpu_ref;
typedef struct { int x; } tagless;
#define ENTRY __attribute__((noipa))
extern struct cpu_info cpu_info_primary;
extern cpu_t *cpu_info_list;
extern volatile unsigned sink;
unsigned send_ipi(struct cpu_info *ci, unsigned ipi);
unsigned cursor(struct cpu_info *head, struct softc *sc);
"""

FIRST = """\
#include "guest.h"

static struct cpu_info secondary;
static struct vcpu_info *volatile current_vcpu;

ENTRY unsigned send_ipi(struct cpu_info *ci, unsigned ipi)
{
    ci->ci_vcpu->sel |= ipi;
    return ci->ci_cpuid;
}
ENTRY unsigned typedefs(cpu_ref ci, volatile struct vcpu_info *__restrict v, cpu_t *_Atomic *where)
{
    return ci->ci_cpuid + v->mask + (where != 0);
}
ENTRY unsigned old_style(n, ci, c, w)
    unsigned n;
    struct cpu_info *ci;
    char c;
    union word *w;
{
    return ci->ci_cpuid + n + c + w->bytes[0];
}
ENTRY unsigned nothing(void) { return sink; }
ENTRY unsigned no_structs(void *p, int *i, struct cpu_info **two, tagless *t, struct cpu_info by_value,
                          void (*handler)(struct cpu_info *), struct cpu_info in_array[2])
{
    return (p != 0) + *i + (two != 0) + t->x + by_value.ci_cpuid + (handler != 0) + in_array[1].ci_cpuid;
}
static ENTRY unsigned hidden(unsigned n, struct vcpu_info *v)
{
    static struct cpu_info *last;
    static cpu_t spare;
    unsigned old = v->mask;
    v->mask = n;
    last = last ? 0 : &spare;
    return old + last->ci_cpuid + spare.ci_cpuid++;
}
ENTRY unsigned variadic(struct softc *sc, ...) { return sc != 0; }
unsigned use(void)
{
    current_vcpu = cpu_info_list->ci_vcpu;
    secondary.ci_cpuid++;
    return hidden(secondary.ci_cpuid, current_vcpu) + cursor(&secondary, 0);
}
"""

SECOND = """\
#include "guest.h"

struct cpu_info cpu_info_primary = { .ci_cpuid = 1 };
cpu_t *cpu_info_list = &cpu_info_primary;
struct cpu_info *cpu_infos[4] = { &cpu_info_primary };
union word *const volatile a_word;
struct cpu_info **twice = 0;
tagless one_tagless;
volatile unsigned sink;

unsigned cursor(struct cpu_info *head, struct softc *sc)
{
    unsigned sum = sc != 0;
    for (struct cpu_info *ci = head; ci; ci = ci->ci_next)
        sum += send_ipi(ci, 2);
    return sum;
}
static inline unsigned both(struct vcpu_info *v, struct cpu_info *ci)
{
    return v->mask + ci->ci_cpuid;
}
unsigned (*volatile kept)(struct vcpu_info *, struct cpu_info *) = both;
unsigned __attribute__((flatten)) start(void)
{
    return both(cpu_info_list->ci_vcpu, cpu_infos[0]) + cursor(cpu_info_list, 0);
}
"""

PARAMETERS = {
    "send_ipi": ("cpu_info", ""),
    "typedefs": ("cpu_info", "vcpu_info", ""),
    "old_style": ("", "cpu_info", "", "word"),
    "nothing": (),
    "no_structs": ("", "", "", "", "", "", "cpu_info"),
    "hidden": ("", "vcpu_info"),
    "variadic": ("softc",),
    "use": (),
    "cursor": ("cpu_info", "softc"),
    "both": ("vcpu_info", "cpu_info"),
    "start": (),
}
VARIABLES = {
    "secondary": "cpu_info",
    "current_vcpu": "vcpu_info",
    "last": "cpu_info",
    "spare": "cpu_info",
    "cpu_info_primary": "cpu_info",
    "cpu_info_list": "cpu_info",
    "cpu_infos": "",
    "a_word": "word",
    "twice": "",
    "one_tagless": "",
    "sink": "",
    "kept": "",
}


def compile_guest(
    folder: Path, *options: str, bits: int = 64, relocatable: bool = False, **sources: str
) -> Image:
    """Build an image from some C files, by default both above, together with the header they include."""
    folder.mkdir(exist_ok=True)
    (folder / "guest.h").write_text(HEADER)
    model = ("-m64", "-mcmodel=kernel") if bits == 64 else ("-m32",)
    sources = sources or {"first": FIRST, "second": SECOND}
    for name, source in sources.items():
        (folder / f"{name}.c").write_text(source)
        command = ("gcc", "-c", "-g", *model, "-ffreestanding", "-fno-pic", "-std=gnu11", "-w", *options)
        run(folder, *command, f"{name}.c")
    objects = [f"{name}.o" for name in sources]
    machine = "elf_x86_64" if bits == 64 else "elf_i386"
    text = TEXT_ADDRESS if bits == 64 else 0xC010_0000
    how = ["-r"] if relocatable else ["-static", "-e", "0", f"-Ttext={text:#x}"]
    run(folder, "ld", "-m", machine, *how, *objects, "-o", "guest")
    return open_image(folder / "guest")


def addresses(image: Image, names: dict[str, object] | dict[str, str]) -> dict[int, str]:
    """Return the names by address; the symbol of a variable static in a function ends in a number."""
    places = {image.symbols.name(index).split(".")[0]: index for index in range(len(image.symbols))}
    return {int(image.symbols.addresses[places[name]]): name for name in names}


def parameters_by_name(image: Image) -> dict[str, tuple[str, ...]]:
    damage: list[str] = []
    named = addresses(image, dict.fromkeys(PARAMETERS, ""))
    found = parameter_structs(image, named, damage)
    assert damage == []
    return {named[address]: structs for address, structs in found.items()}


def variables_by_name(image: Image) -> dict[str, str]:
    damage: list[str] = []
    named = addresses(image, VARIABLES)
    found = variable_structs(image, named, damage)
    assert damage == []
    return {named[address]: struct for address, struct in found.items()}


@pytest.mark.parametrize("bits", [64, 32])
@pytest.mark.parametrize("level", ["-O0", "-O2", "-Os"])
@pytest.mark.parametrize("version", [2, 3, 4, 5])
def test_each_version_and_level_gives_the_same(version: int, level: str, bits: int, tmp_path: Path) -> None:
    image = compile_guest(tmp_path, f"-gdwarf-{version}", level, bits=bits)
    assert parameters_by_name(image) == PARAMETERS
    assert variables_by_name(image) == VARIABLES


@pytest.mark.parametrize("bits", [64, 32])
@pytest.mark.parametrize("version", [4, 5])
def test_object_files_give_the_same(version: int, bits: int, tmp_path: Path) -> None:
    options = (f"-gdwarf-{version}", "-O2", "-ffunction-sections", "-fdata-sections")
    image = compile_guest(tmp_path, *options, bits=bits, relocatable=True)
    assert parameters_by_name(image) == PARAMETERS
    assert variables_by_name(image) == VARIABLES


@pytest.mark.parametrize("options", [("-gz=zlib",), ("-gdwarf64",), ("-fno-merge-debug-strings",), ("-O3",)])
def test_compiler_options_change_nothing(options: tuple[str, ...], tmp_path: Path) -> None:
    image = compile_guest(tmp_path, "-O2", *options)
    assert parameters_by_name(image) == PARAMETERS
    assert variables_by_name(image) == VARIABLES


def test_without_aranges_the_units_give_their_ranges(tmp_path: Path) -> None:
    compile_guest(tmp_path, "-O2")
    run(tmp_path, "objcopy", "--remove-section=.debug_aranges", "guest")
    image = open_image(tmp_path / "guest")
    assert parameters_by_name(image) == PARAMETERS
    assert variables_by_name(image) == VARIABLES


def test_function_with_a_cold_part_begins_at_its_entry(tmp_path: Path) -> None:
    source = """\
#include "guest.h"
__attribute__((cold, noreturn)) void panic(void);
unsigned parted(struct cpu_info *ci, unsigned n)
{
    if (!ci->ci_vcpu) { sink = n; sink = ci->ci_cpuid; panic(); }
    return ci->ci_cpuid;
}
void panic(void) { for (;;) sink++; }
volatile unsigned sink;
"""
    image = compile_guest(tmp_path, "-O2", parted=source)
    hot, cold = image.symbols.find("parted"), image.symbols.find("parted.cold")
    assert hot is not None
    assert cold is not None
    assert parameter_structs(image, [hot, cold, hot + 1]) == {hot: ("cpu_info", "")}


def test_clones_list_the_passed_parameters_first(tmp_path: Path) -> None:
    source = """\
#include "guest.h"
unsigned other(unsigned);
static __attribute__((noinline)) unsigned constant(int flag, struct cpu_info *ci, struct vcpu_info *v)
{
    sink = flag;
    v->mask = other(flag);
    ci->ci_cpuid = other(2);
    return v->mask;
}
static __attribute__((noinline)) unsigned split(unsigned n, struct cpu_info *ci)
{
    sink = n;
    return other(ci->ci_cpuid + n);
}
unsigned caller(struct cpu_info *a, struct cpu_info *b, struct vcpu_info *v)
{
    return constant(3, a, v) + constant(3, b, v) + split(1, a) + split(2, b);
}
"""
    image = compile_guest(tmp_path, "-O2", relocatable=True, clones=source)
    constant, split = (image.symbols.find(name) for name in ("constant.constprop.0", "split.isra.0"))
    assert constant is not None
    assert split is not None
    # The first clone is no longer passed the constant; the second one is not passed the cpu_info.
    assert parameter_structs(image, [constant, split]) == {constant: ("cpu_info", "vcpu_info", "")}


#: DWARF 5 as Clang writes it: addresses as indices into .debug_addr.
INDEXED = """\
    .text
    .globl start
start:
    ret
.Lend:
    .data
    .quad 0
    .globl current
current:
    .quad 0
    .globl inside
inside:
    .quad 0, 0
    .section .debug_addr,"",@progbits
    .long .Laddr_end - .Laddr
.Laddr:
    .short 5
    .byte 8, 0
.Laddr_base:
    .quad current, start, inside
.Laddr_end:
    .section .debug_abbrev,"",@progbits
    .byte 1, 0x11, 1, 0x11, 0x1b, 0x12, 0x06, 0x73, 0x17, 0, 0   # unit: low_pc, high_pc, addr_base
    .byte 2, 0x13, 0, 0x03, 0x08, 0x0b, 0x0b, 0, 0               # structure: name, size
    .byte 3, 0x0f, 0, 0x49, 0x13, 0, 0                           # pointer: type
    .byte 4, 0x34, 0, 0x49, 0x13, 0x02, 0x18, 0, 0               # variable: type, location
    .byte 5, 0x2e, 1, 0x11, 0x1b, 0x12, 0x06, 0, 0               # function: low_pc, high_pc
    .byte 6, 0x05, 0, 0x49, 0x13, 0, 0                           # parameter: type
    .byte 0
    .section .debug_info,"",@progbits
.Lunit:
    .long .Lunit_end - .Lversion
.Lversion:
    .short 5
    .byte 1, 8
    .long 0
    .byte 1, 1
    .long .Lend - start, .Laddr_base - .Laddr + 4
.Lstruct:
    .byte 2
    .asciz "vcpu_info"
    .byte 16
.Lpointer:
    .byte 3
    .long .Lstruct - .Lunit
    .byte 4
    .long .Lpointer - .Lunit
    .byte 2, 0xa1, 0
    .byte 5, 1
    .long .Lend - start
    .byte 6
    .long .Lpointer - .Lunit
    .byte 4
    .long .Lstruct - .Lunit
    .byte 2, 0xa1, 2
    .byte 0, 0
.Lunit_end:
"""


def test_addresses_may_be_indices(tmp_path: Path) -> None:
    (tmp_path / "indexed.s").write_text(INDEXED)
    run(tmp_path, "as", "indexed.s", "-o", "indexed.o")
    run(tmp_path, "ld", "-e", "start", "-Ttext=0x80100000", "indexed.o", "-o", "indexed")
    image = open_image(tmp_path / "indexed")
    start, current, inside = (image.symbols.find(name) for name in ("start", "current", "inside"))
    assert start is not None
    assert current is not None
    assert inside is not None
    damage: list[str] = []
    assert parameter_structs(image, [start], damage) == {start: ("vcpu_info",)}
    asked = (start, current, inside, inside + 8)
    assert variable_structs(image, asked, damage) == {current: "vcpu_info", inside: "vcpu_info"}
    assert damage == []


def test_what_is_missing_is_not_found(tmp_path: Path) -> None:
    image = compile_guest(tmp_path, "-O2")
    function, variable = image.symbols.find("send_ipi"), image.symbols.find("cpu_info_primary")
    assert function is not None
    assert variable is not None
    damage: list[str] = []
    # Inside a function or variable, a variable as a function and vice versa, outside the image, invalid.
    assert parameter_structs(image, (function + 1, variable, 5, -1, 1 << 64), damage) == {}
    assert variable_structs(image, (variable + 8, function, 5, -1, 1 << 64), damage) == {}
    assert parameter_structs(image, ()) == {}
    assert variable_structs(image, ()) == {}
    assert damage == []


def test_image_without_dwarf_has_no_structs(tmp_path: Path) -> None:
    asked = list(addresses(compile_guest(tmp_path), VARIABLES))
    run(tmp_path, "strip", "-g", "guest")
    image = open_image(tmp_path / "guest")
    assert parameter_structs(image, addresses(image, dict.fromkeys(PARAMETERS, ""))) == {}
    assert variable_structs(image, asked) == {}


def test_types_in_type_units_are_reported_as_not_followed(tmp_path: Path) -> None:
    image = compile_guest(tmp_path, "-O2", "-fdebug-types-section")
    send_ipi, nothing, primary = map(image.symbols.find, ("send_ipi", "nothing", "cpu_info_primary"))
    assert send_ipi is not None
    assert nothing is not None
    assert primary is not None
    damage: list[str] = []
    assert parameter_structs(image, [send_ipi, nothing], damage) == {nothing: ()}
    assert variable_structs(image, [primary], damage) == {}
    assert len(damage) == 2
    assert all("a type in a type unit" in note for note in damage)


def test_self_referencing_type_terminates(tmp_path: Path) -> None:
    image = compile_guest(tmp_path, "-O2", "-gdwarf-5")
    path = tmp_path / "guest"
    asked = addresses(image, dict.fromkeys(PARAMETERS, ""))
    info = next(section for section in image.sections if section.name == ".debug_info")
    whole = parameter_structs(image, asked)
    notes: list[str] = []
    # Write into each place the offset before it, so that a reference there may refer to its own DIE.
    for place in range(12, min(info.size, 900), 3):
        changed = bytearray(path.read_bytes())
        changed[info.offset + place : info.offset + place + 4] = (place - 1).to_bytes(4, "little")
        (tmp_path / "changed").write_bytes(changed)
        damage: list[str] = []
        assert set(parameter_structs(open_image(tmp_path / "changed"), asked, damage)) <= set(whole)
        notes += damage
    assert any("an endless chain of types" in note for note in notes)


@pytest.mark.parametrize("version", [2, 4, 5])
def test_mutations_are_survived(version: int, tmp_path: Path) -> None:
    image = compile_guest(tmp_path, "-O2", f"-gdwarf-{version}")
    whole = (tmp_path / "guest").read_bytes()
    functions = addresses(image, dict.fromkeys(PARAMETERS, ""))
    variables = addresses(image, VARIABLES)
    sections = [section for section in image.sections if section.name.startswith(".debug_") and section.size]
    rng = random.Random(1989)
    damaged_count = 0
    begin = time.process_time()
    for _ in range(200):
        data = bytearray(whole)
        section = rng.choice(sections)
        for _ in range(rng.choice((1, 2, 8, 64))):
            place = section.offset + rng.randrange(section.size)
            data[place] = rng.choice((0, 1, 0x7F, 0x80, 0xFF, rng.randrange(256)))
        (tmp_path / "mutant").write_bytes(data)
        damage: list[str] = []
        try:
            mutant = open_image(tmp_path / "mutant")
        except ImageError:
            continue
        assert set(parameter_structs(mutant, functions, damage)) <= set(functions)
        assert set(variable_structs(mutant, variables, damage)) <= set(variables)
        assert len(damage) <= 20
        assert all(len(note) < 400 and note.isprintable() for note in damage)
        damaged_count += bool(damage)
    assert damaged_count > 10
    assert time.process_time() - begin < 60


def test_truncated_header_is_reported(tmp_path: Path) -> None:
    text = ".globl start\nstart: ret\n.section .debug_info\n.long 3\n.short 5\n.byte 1\n"
    (tmp_path / "cut.s").write_text(text)
    run(tmp_path, "as", "cut.s", "-o", "cut.o")
    run(tmp_path, "ld", "-e", "start", "-Ttext=0x80100000", "cut.o", "-o", "cut")
    image = open_image(tmp_path / "cut")
    damage: list[str] = []
    assert parameter_structs(image, [0x8010_0000], damage) == {}
    assert len(damage) == 1


def test_reading_stops_when_the_budget_is_spent(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    image = compile_guest(tmp_path, "-O2")
    functions = addresses(image, dict.fromkeys(PARAMETERS, ""))
    variables = addresses(image, VARIABLES)
    counts = []
    for budget in (5, 150, 300, 450):
        monkeypatch.setattr(dwarf_variables, "_BUDGET", budget)
        damage: list[str] = []
        found = (
            len(parameter_structs(image, functions, damage)),
            len(variable_structs(image, variables, damage)),
        )
        assert any("takes too long to read" in note for note in damage)
        counts.append(sum(found))
    assert counts == sorted(counts)
    assert counts[0] == 0
    assert counts[-1] > 0
