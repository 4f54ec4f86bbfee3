"""A thread is held before each instruction of a site, under a handler, while the bytes are exchanged."""

from __future__ import annotations

import struct
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from builders.stepped import stepped
from builders.trial_targets import dose_patch, is_as_built, symbol, target_of
from builders.workers import Worker, running
from xtrace.probes.trial import journal, restore
from xtrace.probes.trial.process import ProcessTarget
from xtrace.probes.trial.references import holds
from xtrace.probes.trial.restore import leftovers, restore_all
from xtrace.probes.trial.target import Patch, TrialError

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


def _until_held(target: ProcessTarget, program: Path, at: int) -> None:
    deadline = time.monotonic() + 60
    while _words(target, program, "holding_at") != (at,):
        assert time.monotonic() < deadline
        target.wait(0.001)


def _poke(worker: Worker, program: Path, name: str, value: int) -> None:
    with open(f"/proc/{worker.pid}/mem", "r+b", buffering=0) as memory:
        memory.seek(symbol(program, name))
        memory.write(struct.pack("<Q", value))


@pytest.mark.parametrize("fences", [1, 2, 3])
def test_a_thread_held_in_an_added_fence_leaves_it_before_its_bytes_go(
    held: Path, worker: Worker, fences: int
) -> None:
    target = target_of(held, worker.pid)
    patch = dose_patch(target, held)
    added = patch.address + 3 * fences
    target.open([patch])
    try:
        target.switch(3)
        _poke(worker, held, "release", added)  # held there until that is 0
        _until_held(target, held, added)
        # Exchanged beneath it, in every way: what it returns to is a fence or a return in each arm.
        for arm in (0, 1, 2, 3, 0):
            target.switch(arm)
            assert target.read(added, 1) in (b"\xc3", b"\x0f")
        _poke(worker, held, "release", 0)
        target.wait(0.05)
        target.switch(3)
        target.wait(0.05)
        assert _words(target, held, "wrong") == (0,)
    finally:
        target.close()
    assert not target.notes
    assert is_as_built(worker.pid, held)
    assert not leftovers()


def test_added_bytes_stay_while_a_frame_returns_there_and_go_with_the_next_start(
    held: Path, worker: Worker, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(restore, "LEAVE_LIMIT_S", 0.2)
    monkeypatch.setattr("xtrace.probes.trial.process.LEAVE_LIMIT_S", 0.2)
    target = target_of(held, worker.pid)
    patch = dose_patch(target, held)
    added = patch.address + 6
    target.open([patch])
    target.switch(3)
    _poke(worker, held, "release", added)
    _until_held(target, held, added)
    target.close()
    (note,) = target.notes
    assert "may still return into fences that the trial added" in note
    with open(f"/proc/{worker.pid}/mem", "rb", buffering=0) as memory:
        memory.seek(patch.address)
        assert memory.read(len(patch.original)) == patch.arms[0]
    assert leftovers()
    (said,) = restore_all()
    assert said.startswith("could not restore")
    assert leftovers()
    _poke(worker, held, "release", 0)
    deadline = time.monotonic() + 60
    while leftovers():
        assert time.monotonic() < deadline
        restore_all()
    assert is_as_built(worker.pid, held)
    assert not list(journal.left())
    before = _word(worker, held, "worker_units")
    while _word(worker, held, "worker_units") == before:
        assert time.monotonic() < deadline
    assert _word(worker, held, "wrong") == 0


def _word(worker: Worker, program: Path, name: str) -> int:
    with open(f"/proc/{worker.pid}/mem", "rb", buffering=0) as memory:
        memory.seek(symbol(program, name))
        return int.from_bytes(memory.read(8), "little")


def test_padding_that_something_points_into_is_not_used(held: Path, worker: Worker) -> None:
    target = target_of(held, worker.pid)
    patch = dose_patch(target, held)
    _poke(worker, held, "release", patch.address + len(patch.original) - 1)
    with pytest.raises(TrialError, match="points into the padding"):
        target.open([patch])
    target.close()
    assert is_as_built(worker.pid, held)


@pytest.mark.parametrize(
    ("address", "found"), [(0x4011F7, False), (0x4011F8, True), (0x401200, True), (0x401208, False)]
)
def test_references_are_found_at_any_alignment_and_only_in_the_range(address: int, found: bool) -> None:
    word = address.to_bytes(8, "little")
    assert holds(b"x" * 3 + word + b"x", [range(0x4011F8, 0x401208)]) is found
