"""A process as a trial's target, with what the plan of its image exchanges and adds in arm 1."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path

from xtrace.probes.trial.mapped_image import Code
from xtrace.probes.trial.process import ProcessTarget
from xtrace.probes.trial.target import Patch
from xtrace.symbols import Image, Verdict, find_sites, open_image
from xtrace.symbols.patching.doses import variants_of
from xtrace.symbols.patching.plan import Plan, plan

UNITS = "worker_units"


@cache
def _planned(path: Path) -> tuple[Image, Plan]:
    image = open_image(path)
    return image, plan(image, find_sites(image, lines=False), {Verdict.REMOVABLE})


def code_of(path: Path) -> list[Code]:
    return [Code(item.address, item.offset, bytes(item.data)) for item in _planned(path)[0].code]


def patches_of(path: Path, offset: int) -> list[Patch]:
    """Return patches with two arms: as it is, and no fences at the sites but more in the functions."""
    found = _planned(path)[1]
    return [
        *(
            Patch(item.address + offset, item.original, (item.original, item.removed))
            for item in found.exchanges
        ),
        *(
            Patch(dose.address + offset, dose.original, (dose.variants[0], dose.variants[-1]))
            for dose in found.doses
        ),
    ]


def symbol(path: Path, name: str) -> int:
    address = _planned(path)[0].symbols.find(name)
    assert address is not None
    return address


def target_of(path: Path, pid: int) -> ProcessTarget:
    return ProcessTarget(pid, path, code_of(path), [symbol(path, UNITS)])


def dose_patch(target: ProcessTarget, path: Path) -> Patch:
    """Return the patch that adds 0 to 3 fences to x86_fence(), whose return is after one lfence."""
    at = symbol(path, "x86_fence") + 3
    dose = variants_of(b"\x0f\xae\xe8", 3)
    return Patch(at + target.offset, target.read(at + target.offset, len(dose[0])), dose)


@contextmanager
def opened(path: Path, pid: int) -> Iterator[ProcessTarget]:
    target = target_of(path, pid)
    try:
        target.open(patches_of(path, target.offset))
        yield target
    finally:
        target.close()


def code_in(pid: int, path: Path, offset: int = 0) -> list[bytes]:
    """Return the code that a process has now, as far as the image has it."""
    memory = os.open(f"/proc/{pid}/mem", os.O_RDONLY)
    try:
        return [os.pread(memory, len(item.data), item.address + offset) for item in code_of(path)]
    finally:
        os.close(memory)


def is_as_built(pid: int, path: Path, offset: int = 0) -> bool:
    return code_in(pid, path, offset) == [item.data for item in code_of(path)]
