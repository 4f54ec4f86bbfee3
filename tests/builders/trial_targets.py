"""A process as a trial's target, with what the plan of its image exchanges in arm 1."""

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
from xtrace.symbols.patching.exchange import Exchange
from xtrace.symbols.patching.plan import plan

UNITS = "worker_units"


@cache
def _planned(path: Path) -> tuple[Image, tuple[Exchange, ...]]:
    image = open_image(path)
    return image, plan(image, find_sites(image, lines=False), {Verdict.REMOVABLE}).exchanges


def code_of(path: Path) -> list[Code]:
    return [Code(item.address, item.offset, bytes(item.data)) for item in _planned(path)[0].code]


def patches_of(path: Path, offset: int) -> list[Patch]:
    return [
        Patch(item.address + offset, item.original, (item.original, item.removed))
        for item in _planned(path)[1]
    ]


def symbol(path: Path, name: str) -> int:
    address = _planned(path)[0].symbols.find(name)
    assert address is not None
    return address


def target_of(path: Path, pid: int) -> ProcessTarget:
    return ProcessTarget(pid, path, code_of(path), [symbol(path, UNITS)])


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
