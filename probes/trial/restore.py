"""Put back what a trial that is gone left: used by its watchdog, and by the next start."""

from __future__ import annotations

import os
import time
from pathlib import Path

from xtrace.probes.trial import journal
from xtrace.probes.trial.journal import Entry, Journal, Subject
from xtrace.probes.trial.put_back import put_back, write_checked
from xtrace.probes.trial.references import refers
from xtrace.probes.trial.target import FileMemory, Patch, TargetGoneError, TrialError
from xtrace.probes.trial.threads import Threads
from xtrace.probes.trial.xen.restore import restored_domain

#: How long threads may take to leave added fences.
LEAVE_LIMIT_S = 2.0
_FIRST_PAUSE_S = 0.001
STAYS = (
    "a thread may still return into fences that the trial added; they are returns now, and run "
    "'xtrace trial --restore' later to put their padding back"
)


def restore_all() -> list[str]:
    """Put back what trials that are gone left; return a line for each: what was done, or why it was not."""
    done = []
    for path in list(journal.left()):
        if journal.in_use(path):
            continue
        try:
            mine = Journal(Subject.of(path.stem))
        except (TrialError, ValueError, OSError) as error:
            done.append(f"could not restore what a trial left, {path}: {error}")
            continue
        done.append(restore_of(mine))
    return done


def restore_of(mine: Journal) -> str:
    """Put back what a journal says, and remove it; return a line about it.  The journal is closed."""
    try:
        entry = mine.leftover()
        said = "a trial had changed nothing yet" if entry is None else restored(entry, mine)
    except (TrialError, OSError) as error:
        mine.keep()
        return f"could not restore what a trial left, {mine.path}: {error}"
    mine.finish()
    return said


def restored(entry: Entry, mine: Journal) -> str:
    """Put the bytes of ``entry``, which ``mine`` holds, back; return what was done.

    Raises:
        TrialError: the code has bytes that no trial wrote, or cannot be written.
    """
    if entry.subject.is_domain:
        return restored_domain(entry, mine)
    own, program = entry.subject.number, entry.identity["program"]
    copies = [
        _restored(pid, entry)
        for pid in _processes()
        if pid != own and journal.program(pid) == program and _is_changed(pid, entry.patches)
    ]
    if journal.started(own) != entry.identity["started"]:
        said = f"process {own}, which a trial had changed, has ended"
    elif journal.program(own) != program:
        said = f"process {own}, which a trial had changed, has executed another program"
    else:
        said = _restored(own, entry)
    return "; ".join((said, *copies))


def _processes() -> list[int]:
    return [int(item.name) for item in Path("/proc").iterdir() if item.name.isdecimal()]


def _is_changed(pid: int, patches: tuple[Patch, ...]) -> bool:
    """Return whether a process of the same program, such as a child, has bytes that the trial wrote."""
    try:
        memory = os.open(f"/proc/{pid}/mem", os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return False
    try:
        found = [os.pread(memory, len(patch.original), patch.address) for patch in patches]
    except OSError:
        return False
    finally:
        os.close(memory)
    pairs = list(zip(found, patches, strict=True))
    return all(data in patch.arms for data, patch in pairs) and any(
        data != patch.original for data, patch in pairs
    )


def _restored(pid: int, entry: Entry) -> str:
    try:
        memory = os.open(f"/proc/{pid}/mem", os.O_RDWR | os.O_CLOEXEC)
    except OSError as error:
        raise TrialError(f"process {pid}: cannot open its memory: {error.strerror}") from None
    threads = Threads(pid, lambda child: put_back_in(child, entry.patches))
    try:
        threads.seize()
        threads.stop()
        try:
            count = put_back(FileMemory(memory), entry.patches)
        finally:
            is_out = take_out(threads, memory, entry.patches, LEAVE_LIMIT_S)
        if not is_out:
            raise TrialError(f"process {pid}: {STAYS}")
    except TargetGoneError as gone:
        return f"{gone}: nothing is left to restore"
    finally:
        threads.close()
        os.close(memory)
    return f"restored process {pid}, {entry.image}: {count} of {len(entry.patches)} places had other bytes"


def put_back_in(pid: int, patches: tuple[Patch, ...]) -> None:
    """Put arm 0 into the memory of a process that is stopped."""
    memory = os.open(f"/proc/{pid}/mem", os.O_RDWR | os.O_CLOEXEC)
    try:
        put_back(FileMemory(memory), patches)
    finally:
        os.close(memory)


def take_out(threads: Threads, memory: int, patches: tuple[Patch, ...], within_s: float) -> bool:
    """Write the original bytes where arms add code, once no thread is in it nor can return to it.

    All threads are stopped, before and after; in between they run, to leave the added bytes, which have
    returns in them.

    Returns:
        Whether it was done within the time: a thread may stay above a frame that returns there.
    """
    pending = [patch for patch in patches if patch.added]
    ranges = [patch.added for patch in pending]
    end = time.monotonic() + within_s
    pause = _FIRST_PAUSE_S
    while pending and refers(threads.pid, memory, threads.registers(), ranges):
        if time.monotonic() > end:
            return False
        threads.run()
        threads.wait(pause)
        pause *= 2
        threads.stop()
    for patch in pending:
        if os.pread(memory, len(patch.original), patch.address) == patch.arms[0]:
            write_checked(FileMemory(memory), patch.address, patch.original)
    return True


def leftovers() -> list[Path]:
    """Return the journals of trials that are gone."""
    return [path for path in journal.left() if not journal.in_use(path)]
