"""Make a kernel to find sites in: generated C in NetBSD's style, compiled with -g, linked and cached.

It has the requested size, with about six times as much DWARF as text, like a NetBSD kernel.
"""

from __future__ import annotations

import hashlib
import os
import random
import subprocess
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

HERE = Path(__file__).parent / "kernel"
FUNCTIONS_PER_UNIT = 56
#: Size of a unit's compiled code.
UNIT_TEXT_BYTES = 16_200
STRUCTS, MEMBERS = 250, 12
#: A kernel of 5 MB has some 200 sites.
UNITS_PER_MASK = 8
COMPILE = (
    *("-O2", "-g", "-ffreestanding", "-fno-pic", "-fno-stack-protector", "-fno-asynchronous-unwind-tables"),
    *("-fcf-protection=none", "-mcmodel=kernel", "-mno-red-zone", "-std=gnu11", "-w"),
    "-fno-eliminate-unused-debug-types",
)
LINK = (
    *("-nostdlib", "-static", "-no-pie", "-Wl,-e,start", "-Wl,--build-id=none"),
    "-Wl,-Ttext-segment=0xffffffff80200000",
)


def cache() -> Path:
    """Return the folder that caches what takes long to make."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "xtrace-benchmarks"


def kernel(text_bytes: int) -> Path:
    """Return a kernel with about ``text_bytes`` of code; make it unless it is cached."""
    made_of = [Path(__file__).read_bytes(), *(path.read_bytes() for path in sorted(HERE.iterdir()))]
    name = hashlib.sha256(b"".join(made_of)).hexdigest()[:12]
    units = max(text_bytes // UNIT_TEXT_BYTES, 1)
    folder = cache() / f"kernel-{units}-{name}"
    image = folder / "netbsd"
    if not image.exists():
        folder.mkdir(parents=True, exist_ok=True)
        _make(folder, units, image)
    return image


def _make(folder: Path, units: int, image: Path) -> None:
    (folder / "types.h").write_text("".join(_types()))
    sources = [HERE / "machine.c"]
    for unit in range(units):
        source = folder / f"unit{unit}.c"
        source.write_text("".join(_unit(unit)))
        sources.append(source)
    with ThreadPoolExecutor(len(os.sched_getaffinity(0))) as pool:
        objects = list(pool.map(lambda source: _compile(folder, source), sources))
    listed = folder / "objects"
    listed.write_text("\n".join(map(str, objects)))
    partial = folder / "partial"
    _run("gcc", *LINK, f"@{listed}", "-o", str(partial))
    for path in (*objects, *sources[1:]):
        path.unlink()
    partial.rename(image)


def _compile(folder: Path, source: Path) -> Path:
    target = folder / f"{source.stem}.o"
    _run("gcc", *COMPILE, f"-I{HERE}", f"-I{folder}", "-c", str(source), "-o", str(target))
    return target


def _run(*command: str) -> None:
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(f"{command[0]}: exit code {done.returncode}: {done.stderr[-500:]}")


def _types() -> Iterator[str]:
    """Yield a header of structs that point to each other, as in a kernel's headers."""
    for number in range(STRUCTS):
        yield f"struct object{number};\n"
    kinds = ("int", "unsigned long", "short", "unsigned char", "long")
    for number in range(STRUCTS):
        yield f"struct object{number} {{\n"
        for member in range(MEMBERS):
            if member % 4 == 3:
                other = (number * 7 + member * 31) % STRUCTS
                yield f"\tstruct object{other} *object{number}_link{member};\n"
            else:
                yield f"\t{kinds[(number + member) % len(kinds)]} object{number}_field{member};\n"
        yield "};\n"


def _unit(unit: int) -> Iterator[str]:
    rng = random.Random(unit)
    yield '#include "machine.h"\n#include "types.h"\n'
    for number in range(FUNCTIONS_PER_UNIT):
        yield f"long unit{unit}_work{number}(struct object{number} *, long, long);\n"
    for number in range(FUNCTIONS_PER_UNIT):
        yield from _function(rng, unit, number)


def _function(rng: random.Random, unit: int, number: int) -> Iterator[str]:
    """Yield a function that reads and writes fields, branches, loops and calls; a few mask upcalls."""
    masks = not unit % UNITS_PER_MASK and number == unit % FUNCTIONS_PER_UNIT
    fields = [member for member in range(MEMBERS) if member % 4 != 3]
    yield f"\nlong unit{unit}_work{number}(struct object{number} *object, long first, long second)\n{{\n"
    yield "\tlong sum = first;\n"
    if masks:
        yield "\tint before = enter_masked();\n"
    for _ in range(rng.randint(4, 12)):
        one, other = (f"object->object{number}_field{rng.choice(fields)}" for _ in range(2))
        callee = rng.randrange(FUNCTIONS_PER_UNIT)
        link = f"object->object{number}_link{rng.choice((3, 7, 11))}"
        yield "\t" + rng.choice(
            (
                f"sum += {one} * {rng.randint(3, 99)} + ({other} ^ second);",
                f"if ({one} > sum) {other} = sum - second; else sum ^= {other} << 3;",
                f"for (long i = 0; i < {one}; i++) {{ sum += i ^ second; {other} += sum; }}",
                f"sum += unit{unit}_work{callee}((void *){link}, sum, {one});",
                f"switch (sum & 3) {{ case 0: {one} = 1; break; case 1: {other} = sum; break; }}",
            )
        )
        yield "\n"
    if masks:
        yield "\tleave_masked(before);\n\tif (sum == second)\n\t\tunmask();\n"
    yield "\treturn sum;\n}\n"
