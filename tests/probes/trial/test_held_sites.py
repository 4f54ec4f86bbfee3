"""A thread is held before each instruction of a site, under a handler, while the bytes are exchanged."""

from __future__ import annotations

import struct
from collections.abc import Iterator
from pathlib import Path

import pytest

from builders.stepped import stepped
from builders.trial_targets import is_as_built, symbol, target_of
from builders.workers import Worker, running
from xtrace.probes.trial.process import ProcessTarget
from xtrace.probes.trial.target import Patch

_NOOP = bytes.fromhex("0f1f440000")
_MOST = 64


@pytest.fixture(scope="module")
def held(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return stepped(tmp_path_factory.mktemp("stepped"))


@pytest.fixture
def worker(held: Path) -> Iterator[Worker]:
    with running(held) as found:
        yield found


def _words(target: ProcessTarget, program: Path, name: str, count: int = 1) -> tuple[int, ...]:
    return struct.unpack(f"<{count}Q", target.read(symbol(program, name), 8 * count))


def _call_of(target: ProcessTarget, program: Path) -> Patch:
    at = symbol(program, "place")
    code = target.read(at, 32)
    offset = code.index(b"\xe8")
    call = code[offset : offset + 5]
    to = at + offset + 5 + int.from_bytes(call[1:], "little", signed=True)
    assert to == symbol(program, "x86_fence")
    return Patch(at + offset, call, (call, _NOOP))


def test_a_handler_above_each_instruction_of_a_site_returns_to_the_right_code(
    held: Path, worker: Worker
) -> None:
    target = target_of(held, worker.pid)
    patch = _call_of(target, held)
    offset = patch.address - symbol(held, "place")
    try:
        target.open([patch])
        places = fences = beneath = (0,) * _MOST
        for number in range(2000):
            target.switch(number % 2)
            target.wait(0.0002)
            if number % 50 == 49:
                places = _words(target, held, "held_place", _MOST)
                fences = _words(target, held, "held_fence", _MOST)
                beneath = _words(target, held, "exchanged", _MOST)
                if beneath[offset] > 20 and fences[3] > 5:
                    break
    finally:
        target.close()
    # Before the call (or the no-op in its place), after it, in the callee, at its return.
    assert places[offset] > 20
    assert places[offset + 5] > 20
    assert fences[0] > 0
    assert fences[3] > 0
    # Its bytes were exchanged beneath a handler, and it went on in the other arm.
    assert beneath[offset] > 20
    target = target_of(held, worker.pid)
    try:
        assert _words(target, held, "wrong") == (0,)
        assert _words(target, held, "worker_units")[0] > 20
    finally:
        target.close()
    assert is_as_built(worker.pid, held)
