"""Put back what a trial that is gone left in a domain: its bytes, and its pause."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from xtrace.probes.trial.journal import Entry, Journal, Pause
from xtrace.probes.trial.put_back import put_back
from xtrace.probes.trial.xen.libraries import Xen
from xtrace.probes.trial.xen.memory import DomainMemory


@contextmanager
def paused(xen: Xen, mine: Journal, *, already: bool = False) -> Iterator[None]:
    """Pause the journal's domain for as long as the context lasts.

    Xen counts pauses and does not say how many there are, so each step is noted before it is made.

    Args:
        already: a trial that is gone has paused it; its pause is used, and taken back.
    """
    domain = mine.subject.number
    if not already:
        mine.pause(Pause.BEGINS)
        xen.pause(domain)
    mine.pause(Pause.HELD)
    try:
        yield
    finally:
        mine.pause(Pause.ENDS)
        xen.unpause(domain)
        mine.pause(Pause.FREE)


def was_left_paused(pause: Pause, *, is_paused: bool) -> bool:
    """Return whether a domain has a pause of the trial that wrote ``pause``.

    In the moment between a note and its step it is not known whether the step was made.  Then a domain that
    is paused is taken to be paused by the trial: hardly anybody else does so in just that moment.
    """
    return is_paused and pause is not Pause.FREE


def restored_domain(entry: Entry, mine: Journal) -> str:
    """Put the bytes of ``entry`` back into its domain, let it run; return what was done.

    Raises:
        TrialError: the code has bytes that no trial wrote, or Xen refuses.
    """
    domain = entry.subject.number
    xen = Xen()
    memory = DomainMemory(xen, domain)
    try:
        info = xen.info(domain)
        if info is None or info.is_dying or info.handle != entry.identity["handle"]:
            return f"domain {domain}, which a trial had changed, is gone"
        left = was_left_paused(entry.pause, is_paused=info.is_paused)
        # Finding and mapping a page takes most of the time: once for each, and before the pause.
        for patch in entry.patches:
            memory.hold((patch.address,), len(patch.original), writable=True)
        with paused(xen, mine, already=left):
            count = put_back(memory, entry.patches)
    finally:
        memory.close()
        xen.close()
    also = " and it was paused" if left else ""
    return (
        f"restored domain {domain}, {entry.image}: {count} of {len(entry.patches)} places had other "
        f"bytes{also}"
    )
