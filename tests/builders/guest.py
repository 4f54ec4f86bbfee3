"""Compile and link the guests of tests/symbols/guests with gcc and binutils, each once per session.

Every build has a reference: the same code at the same addresses with symbols and DWARF, which map the
expectations in the source to instructions.  The image under test is the reference itself, or a copy of it
without DWARF, without symbols, or with both in another file.
"""

from __future__ import annotations

import os
import subprocess
from dataclasses import dataclass, field, replace
from enum import StrEnum
from pathlib import Path

GUESTS = Path(__file__).parents[1] / "symbols" / "guests"
TIMEOUT_S = 60

# Link addresses of kernels: the last 2 GB as -mcmodel=kernel requires, and the last GB of 32 bits.
_TEXT_BASE = {64: 0xFFFF_FFFF_8020_0000, 32: 0xC010_0000}
_COMPILE = (
    "-g",
    "-ffreestanding",
    "-fno-pic",
    "-fno-stack-protector",
    "-fno-asynchronous-unwind-tables",
    "-fcf-protection=none",
    "-Wall",
    "-Werror",
    "-std=gnu11",
)
#: What clang lacks: noclone, and a check of assembly that uses registers of its own.
_CLANG = ("-Wno-unknown-attributes", "-Wno-unused-command-line-argument")
_LINK = (
    "-nostdlib",
    "-static",
    "-no-pie",
    "-Wl,--build-id=sha1",
    "-Wl,-z,max-page-size=4096",
    "-Wl,-e,start",
)
# Linux's per-CPU area is linked at address 0: its symbols are offsets from %gs.
_PERCPU = "-Wl,--section-start=.percpu=0x0"


class Carries(StrEnum):
    """What the image under test contains besides its code."""

    DWARF = "dwarf"
    SYMBOLS = "symbols"
    NOTHING = "stripped"
    DEBUG_FILE = "debug file"
    MAP = "map"


@dataclass(frozen=True, slots=True)
class Variant:
    """How one source is built.

    Attributes:
        compiler: gcc or clang; assembly is always assembled by gcc.
        flags: additional compiler options.
        relocatable: the image is the object file itself, not linked.
    """

    bits: int = 64
    optimise: str = "-O2"
    compiler: str = "gcc"
    flags: tuple[str, ...] = ()
    relocatable: bool = False
    carries: Carries = Carries.DWARF

    def __str__(self) -> str:
        words = [
            f"{self.bits}",
            *([self.compiler] if self.compiler != "gcc" else []),
            self.optimise,
            *self.flags,
            "rel" if self.relocatable else "exec",
            self.carries,
        ]
        return " ".join(words)


@dataclass(frozen=True, slots=True)
class Guest:
    """One built guest.

    Attributes:
        image: the file under test.
        reference: the same code with symbols and DWARF.
        debug: the separate debug file, if there is one.
        map: the symbols as a System.map, if the image has none.
    """

    source: Path
    image: Path
    reference: Path
    debug: Path | None
    map: Path | None


@dataclass(slots=True)
class Builder:
    """Build guests below one folder and cache them.

    A linked image is made once for all of its copies.
    """

    folder: Path
    _references: dict[tuple[str, Variant], Path] = field(default_factory=dict)
    _guests: dict[tuple[str, Variant], Guest] = field(default_factory=dict)

    def build(self, name: str, variant: Variant) -> Guest:
        """Return the guest ``name`` (a file of tests/symbols/guests) built as ``variant``.

        Raises:
            RuntimeError: a tool failed; the text has its output.
        """
        key = name, variant
        if key not in self._guests:
            self._guests[key] = self._derive(name, variant)
        return self._guests[key]

    def _derive(self, name: str, variant: Variant) -> Guest:
        reference = self._reference(name, variant)
        image, debug, symbols = reference, None, None
        if variant.carries is not Carries.DWARF:
            image = reference.with_suffix(f".{variant.carries.replace(' ', '-')}")
            bare = variant.carries in (Carries.NOTHING, Carries.MAP)
            _run("objcopy", "--strip-all" if bare else "--strip-debug", str(reference), str(image))
        if variant.carries is Carries.DEBUG_FILE:
            debug = image.with_suffix(".debug")
            _run("objcopy", "--only-keep-debug", str(reference), str(debug))
        if variant.carries is Carries.MAP:
            symbols = image.with_suffix(".System.map")
            symbols.write_text(_run("nm", "-n", str(reference)))
        return Guest(GUESTS / name, image, reference, debug, symbols)

    def _reference(self, name: str, variant: Variant) -> Path:
        plain = replace(variant, carries=Carries.DWARF)
        key = name, plain
        if key not in self._references:
            folder = self.folder / f"{len(self._references):03}-{name.replace('.', '-')}"
            folder.mkdir(parents=True)
            self._references[key] = _compile(GUESTS / name, plain, folder)
        return self._references[key]


def _compile(source: Path, variant: Variant, folder: Path) -> Path:
    machine = [f"-m{variant.bits}", f"-I{GUESTS}"]
    if variant.bits == 64:
        machine += ["-mcmodel=kernel", "-mno-red-zone"]
    parts = [source] if variant.relocatable else [source, GUESTS / "common.S"]
    objects = []
    for part in parts:
        target = folder / f"{part.stem}.o"
        options = [variant.optimise, *variant.flags, "-c", str(part), "-o", str(target)]
        clang = variant.compiler == "clang" and part.suffix == ".c"
        _run("clang" if clang else "gcc", *machine, *_COMPILE, *(_CLANG if clang else ()), *options)
        objects.append(str(target))
    if variant.relocatable:
        return Path(objects[0])
    image = folder / "image"
    base = f"-Wl,-Ttext-segment={_TEXT_BASE[variant.bits]:#x}"
    percpu = [_PERCPU] if b".percpu" in source.read_bytes() else []
    _run("gcc", f"-m{variant.bits}", *_LINK, base, *percpu, *objects, "-o", str(image))
    return image


def _run(*command: str) -> str:
    environment = {**os.environ, "LC_ALL": "C"}
    done = subprocess.run(
        command, capture_output=True, text=True, env=environment, timeout=TIMEOUT_S, check=False
    )
    if done.returncode != 0:
        raise RuntimeError(f"{' '.join(command)}: status {done.returncode}: {done.stderr[-2000:]}")
    return done.stdout
