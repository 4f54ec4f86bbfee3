"""The parts of a domain's trial that need no Xen: pages, the notes about pauses, what the toolstack does."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import cast

import pytest

from xtrace.probes.host.xenstore import Xenstore
from xtrace.probes.trial.journal import Journal, Pause, Subject, left
from xtrace.probes.trial.restore import restore_all
from xtrace.probes.trial.target import Patch, TrialError
from xtrace.probes.trial.xen.libraries import Xen
from xtrace.probes.trial.xen.memory import pieces
from xtrace.probes.trial.xen.restore import paused, was_left_paused
from xtrace.probes.trial.xen.toolstack import domain_of, helps_save, operation_under_way, serves_dom0

PATCH = Patch(0x1FFE, b"\x0f\xae\xe8", (b"\x0f\xae\xe8", b"\x0f\x1f\x00"))


class Store:
    """Xenstore's keys; a key's names are those of the keys below it."""

    def __init__(self, keys: Mapping[str, str]) -> None:
        self._keys = keys

    def read(self, path: str) -> str | None:
        return self._keys.get(path)

    def names(self, path: str) -> list[str]:
        below = (key.removeprefix(f"{path}/") for key in self._keys if key.startswith(f"{path}/"))
        return sorted({key.partition("/")[0] for key in below})

    def domains(self) -> list[int]:
        return [int(name) for name in self.names("/local/domain")]


def guest(keys: Mapping[str, str]) -> Xenstore:
    every = {"/local/domain/3/name": "web"} | {f"/local/domain/3/{key}": value for key, value in keys.items()}
    return cast(Xenstore, Store(every))


def test_bytes_are_divided_at_pages() -> None:
    assert list(pieces(0x1000, 4096)) == [(0x1000, 0, 4096)]
    assert list(pieces(0x1FFE, 3)) == [(0x1000, 0xFFE, 2), (0x2000, 0, 1)]
    assert list(pieces(0xFFFF_FFFF_8010_0FFF, 4098)) == [
        (0xFFFF_FFFF_8010_0000, 0xFFF, 1),
        (0xFFFF_FFFF_8010_1000, 0, 4096),
        (0xFFFF_FFFF_8010_2000, 0, 1),
    ]
    assert not list(pieces(0x1000, 0))


@pytest.mark.parametrize("subject", [Subject.process(42), Subject.domain(3)])
def test_a_journal_says_whose_it_is(subject: Subject) -> None:
    assert Subject.of(subject.file_name) == subject


@pytest.mark.parametrize("name", ["", "x", "-3", "x-3", "domain-", "domain-x", "domain-03", "domain--3"])
def test_a_file_of_another_name_is_no_journal(name: str) -> None:
    with pytest.raises(ValueError, match=r"journal|invalid literal"):
        Subject.of(name)


def _begun() -> Journal:
    mine = Journal(Subject.domain(3))
    mine.begin("netbsd", [PATCH], {"handle": "ab" * 16})
    return mine


def test_a_domain_s_journal_holds_bytes_arm_and_pause() -> None:
    mine = _begun()
    mine.arm(1)
    for step in Pause:
        mine.pause(step)
        entry = mine.leftover()
        assert entry is not None
        assert (entry.subject, entry.identity, entry.arm) == (Subject.domain(3), {"handle": "ab" * 16}, 1)
        assert entry.pause is step
        assert entry.patches == (PATCH,)
    mine.finish()


def test_a_domain_has_one_trial_at_a_time() -> None:
    mine = _begun()
    with pytest.raises(TrialError, match="domain 3: another trial runs on it"):
        Journal(Subject.domain(3))
    Journal(Subject.process(3)).finish()
    mine.finish()


class Calls:
    """Notes what the journal said at each call."""

    def __init__(self, mine: Journal) -> None:
        self._mine = mine
        self.seen: list[tuple[str, Pause]] = []

    def _note(self, call: str) -> None:
        entry = self._mine.leftover()
        assert entry is not None
        self.seen.append((call, entry.pause))

    def pause(self, _domain: int) -> None:
        self._note("pause")

    def unpause(self, _domain: int) -> None:
        self._note("unpause")


@pytest.mark.parametrize("already", [False, True])
def test_each_step_to_and_from_a_pause_is_noted_before(already: bool) -> None:
    mine = _begun()
    calls = Calls(mine)
    with paused(cast(Xen, calls), mine, already=already):
        entry = mine.leftover()
        assert entry is not None
        assert entry.pause is Pause.HELD
    own = [] if already else [("pause", Pause.BEGINS)]
    assert calls.seen == [*own, ("unpause", Pause.ENDS)]
    entry = mine.leftover()
    assert entry is not None
    assert entry.pause is Pause.FREE
    mine.finish()


def test_only_a_pause_of_the_trial_is_taken_back() -> None:
    for step in Pause:
        assert not was_left_paused(step, is_paused=False)
        assert was_left_paused(step, is_paused=True) == (step is not Pause.FREE)


def test_a_domain_s_journal_outside_a_dom0_is_reported_and_kept() -> None:
    _begun().keep()
    (line,) = restore_all()
    assert line.startswith("could not restore what a trial left")
    assert "dom0" in line
    (path,) = left()
    path.unlink()


@pytest.mark.parametrize(
    ("keys", "said"),
    [
        ({}, ""),
        ({"control/shutdown": ""}, ""),
        ({"control/shutdown": "suspend"}, "it was asked to suspend"),
        ({"control/shutdown": "re\x1bboot"}, "it was asked to shut down"),
        ({"name": "web--incoming"}, "it migrates"),
        ({"name": "web--migratedaway"}, "it migrates"),
    ],
)
def test_what_the_toolstack_does(keys: dict[str, str], said: str) -> None:
    found = operation_under_way(guest(keys), 3)
    assert found.startswith(said)
    assert bool(found) == bool(said)
    assert "\x1b" not in found


def test_a_process_that_saves_a_domain_is_seen(tmp_path: Path) -> None:
    waiting = "import sys; sys.stdout.write('+'); sys.stdout.flush(); sys.stdin.read()"
    script = tmp_path / "wait.py"
    script.write_text(waiting)
    name = str(tmp_path / "libxl-save-helper")
    with subprocess.Popen(
        [name, str(script), "5", "7", "9", "0"],
        executable=sys.executable,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    ) as helper:
        assert helper.stdin is not None
        assert helper.stdout is not None
        helper.stdout.read(1)
        # The program, its first argument, two descriptors, the domain.
        assert helps_save(9)
        assert not helps_save(5)
        assert not helps_save(7)
        helper.stdin.close()


def test_a_domain_that_dom0_needs_is_known() -> None:
    assert not serves_dom0(guest({}), 3)
    assert not serves_dom0(guest({"backend/vif/2/0": ""}), 3)
    assert serves_dom0(guest({"backend/vbd/0/51712": ""}), 3)


def test_a_domain_is_found_by_id_and_by_name() -> None:
    every = cast(Xenstore, Store({"/local/domain/0/name": "Domain-0", "/local/domain/3/name": "12"}))
    assert domain_of(every, "3") == 3
    assert domain_of(every, "Domain-0") == 0
    assert domain_of(every, "12") is None
    assert domain_of(every, "²") is None
