"""A trial, its watchdog, or both are killed at random moments: the code is as built, the process goes on."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from builders.trial_targets import is_as_built, patches_of, target_of
from builders.workers import Worker, must_be_consistent, running
from xtrace.probes.trial import journal, watchdog
from xtrace.probes.trial.restore import leftovers, restore_all
from xtrace.probes.trial.target import TrialError

_DRIVER = Path(__file__).parents[2] / "builders" / "alternating.py"
#: How long a watchdog may take to restore, and how much more a busy machine may need to run it at all.
_RESTORED_WITHIN_S = 0.1
_SLACK_S = 2.0
VICTIMS = ("trial", "watchdog", "both")
SEEDS = range(6)


def _start(program: Path, pid: int) -> tuple[subprocess.Popen[str], int]:
    trial = subprocess.Popen(
        [sys.executable, str(_DRIVER), str(program), str(pid)], stdout=subprocess.PIPE, text=True
    )
    assert trial.stdout is not None
    return trial, int(trial.stdout.readline())


def _is_restored(program: Path, worker: Worker, within_s: float) -> bool:
    end = time.monotonic() + within_s
    while time.monotonic() < end:
        if not list(journal.left()) and is_as_built(worker.pid, program):
            return True
        time.sleep(0.001)
    return False


def _goes_on(worker: Worker) -> bool:
    before = worker.running_ns()
    end = time.monotonic() + _SLACK_S * 5  # it may have to wait for a processor
    while time.monotonic() < end:
        if worker.running_ns() > before:
            return True
        time.sleep(0.001)
    return False


def _ended(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] in "ZX"
    except OSError:
        return True


def _one_kill(program: Path, seed: int) -> float:
    """Kill one victim at a random moment; return how long it took until the code was as built."""
    draw = random.Random(seed)
    victim = VICTIMS[seed % len(VICTIMS)]
    with running(program, "spl", "16", "--event-us", "500") as worker:
        trial, watchdog = _start(program, worker.pid)
        try:
            time.sleep(draw.uniform(0, 0.05))
            killed = {"trial": [trial.pid], "watchdog": [watchdog], "both": [watchdog, trial.pid]}[victim]
            draw.shuffle(killed)
            for pid in killed:
                os.kill(pid, signal.SIGKILL)
            begin = time.monotonic()
            if victim == "both":
                trial.wait(10)
                while not _ended(watchdog):
                    time.sleep(0.001)
                restore_all()  # the watchdog may have been quicker than its killer
            assert _is_restored(program, worker, _RESTORED_WITHIN_S + _SLACK_S), victim
            took = time.monotonic() - begin
            if victim == "watchdog":
                output, _ = trial.communicate(timeout=10)
                assert trial.returncode == 1
                assert "the watchdog was killed" in output
            assert not leftovers()
            assert _goes_on(worker)
            must_be_consistent(worker.end())
        finally:
            trial.kill()
            trial.communicate()
    return took


@pytest.mark.parametrize("seed", SEEDS)
def test_whoever_is_killed_the_code_is_as_built(program: Path, seed: int) -> None:
    _one_kill(program, seed)


@pytest.mark.nightly
@pytest.mark.parametrize("group", range(10))
def test_200_kills(program: Path, group: int) -> None:
    took: dict[str, list[float]] = {victim: [] for victim in VICTIMS}
    for seed in range(20):
        took[VICTIMS[seed % len(VICTIMS)]].append(_one_kill(program, 1000 + 20 * group + seed))
    # Within 100 ms, unless the machine has more work than processors, and runs the watchdog later.
    if os.getloadavg()[0] <= len(os.sched_getaffinity(0)):
        assert sorted(took["trial"])[len(took["trial"]) // 2] < _RESTORED_WITHIN_S


def test_a_journal_of_a_process_that_ended_is_removed(program: Path) -> None:
    with running(program, "spl", "16") as worker:
        mine = journal.Journal(journal.Subject.process(worker.pid))
        mine.begin("guest", patches_of(program, 0), journal.process_identity(worker.pid))
        mine.keep()
        pid = worker.pid
    assert leftovers() == [mine.path]
    assert restore_all() == [f"process {pid}, which a trial had changed, has ended"]
    assert not leftovers()


def test_a_journal_of_another_process_with_the_same_id_changes_nothing(program: Path) -> None:
    with running(program, "spl", "16") as worker:
        mine = journal.Journal(journal.Subject.process(worker.pid))
        mine.begin("guest", patches_of(program, 0), journal.process_identity(worker.pid))
        text = mine.path.read_text()
        mine.keep()
        entry_started = journal.started(worker.pid)
        mine.path.write_text(text.replace(f'"started": "{entry_started}"', '"started": "1"'))
        assert "has ended" in restore_all()[0]
        assert is_as_built(worker.pid, program)


@pytest.mark.parametrize(
    "text", ["x", "-1\n{}", "-1\n[]", '-1\n{"format": 99}', "0\n" + "[" * 4000, "-1\n\x00\xff"]
)
def test_a_damaged_journal_is_reported_and_kept(own_journals: Path, text: str) -> None:
    own_journals.mkdir(mode=0o700)
    (own_journals / "1.trial").write_text(text, encoding="latin-1")
    (line,) = restore_all()
    assert line.startswith("could not restore what a trial left")
    assert "\n" not in line
    assert (own_journals / "1.trial").exists()


def test_a_damaged_journal_ends_a_new_trial_and_stays(program: Path, own_journals: Path) -> None:
    with running(program, "spl", "16") as worker:
        own_journals.mkdir(mode=0o700)
        left = own_journals / f"{worker.pid}.trial"
        left.write_text("0\n{}")
        with pytest.raises(TrialError, match="journal of a trial is damaged"):
            target_of(program, worker.pid)
        assert left.read_text() == "0\n{}"
        assert not journal.in_use(left)


def test_a_watchdog_that_does_not_start_ends_the_trial(
    program: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(watchdog, "_START_LIMIT_S", 0.2)
    # In place of the interpreter: it says nothing, and never ends by itself.
    slow = program.parent / "slow"
    slow.write_text("#!/bin/sh\nexec sleep 1000\n")
    slow.chmod(0o755)
    with running(program, "spl", "16") as worker:
        target = target_of(program, worker.pid)
        monkeypatch.setattr(sys, "executable", str(slow))
        begin = time.monotonic()
        with pytest.raises(TrialError, match=r"did not start within 0\.2 s"):
            target.open(patches_of(program, target.offset))
        target.close()
        assert time.monotonic() - begin < 60
        assert not list(journal.left())
        assert is_as_built(worker.pid, program)
        assert _goes_on(worker)


def test_a_journal_without_content_is_removed(own_journals: Path) -> None:
    own_journals.mkdir(mode=0o700)
    (own_journals / "1.trial").write_text("")
    assert restore_all() == ["a trial had changed nothing yet"]
    assert not list(own_journals.iterdir())


def test_a_folder_that_others_may_write_holds_no_journal(own_journals: Path) -> None:
    own_journals.mkdir(mode=0o700)
    own_journals.chmod(0o777)
    with pytest.raises(Exception, match="others may write here"):
        journal.Journal(journal.Subject.process(1))
