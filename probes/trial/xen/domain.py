"""A domain as the target of a trial: its pages mapped into dom0, written while it is paused."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

from xtrace.probes.host.xenstore import open_xenstore
from xtrace.probes.trial.journal import Journal, Subject
from xtrace.probes.trial.mapped_image import Code, difference_of
from xtrace.probes.trial.put_back import put_back, write_checked
from xtrace.probes.trial.target import Patch, Reading, TargetGoneError, TrialError, places
from xtrace.probes.trial.watchdog import Watchdog
from xtrace.probes.trial.xen.libraries import DomainInfo, Xen
from xtrace.probes.trial.xen.memory import DomainMemory
from xtrace.probes.trial.xen.restore import paused, restored_domain
from xtrace.probes.trial.xen.toolstack import name_of, operation_under_way, serves_dom0
from xtrace.probes.xen_abi import DOM0

_WORD_BYTES = 8
#: What the toolstack does is asked for so often.
_LOOK_S = 0.5
#: SHUTDOWN_*, xen/include/public/sched.h.
_SHUTDOWNS = ("powered off", "rebooted", "suspended", "crashed", "was stopped by its watchdog")
_BREAKPOINTS_HINT = "something in the guest or in dom0 changes its code; the trial ended"


class DomainTarget:
    """A domain that runs while open() to close(), but for short pauses.

    Args:
        code: of the image, without what Xen or the kernel fills in.
        counters: addresses of aligned 64-bit words, as linked.

    Attributes:
        offset: from addresses as linked to the domain's: kernels run at their linked addresses here.
        notes: what the user should know.
        pauses_s: how long each pause was, as dom0 saw it.
    """

    def __init__(self, domain: int, image: Path, code: Sequence[Code], counters: Sequence[int]) -> None:
        if domain == DOM0:
            raise TrialError("domain 0 is this dom0: a trial that pauses itself would never end")
        self.domain = domain
        self.offset = 0
        self._image, self._code, self._counters = image, code, counters
        self.notes: list[str] = []
        self.pauses_s: list[float] = []
        self._patches: tuple[Patch, ...] = ()
        self._arm = 0
        self._watchdog: Watchdog | None = None
        self._looked = 0.0
        with contextlib.ExitStack() as undo:
            self._xen = Xen()
            undo.callback(self._xen.close)
            self._handle = self._present().handle
            self._journal = Journal(Subject.domain(domain))
            finish = self._journal.keep
            try:
                left = self._journal.leftover()
                if left is not None:
                    self.notes.append(restored_domain(left, self._journal))
                finish = self._journal.finish
                self._store = undo.enter_context(open_xenstore())
                self._refuse()
                self._memory = DomainMemory(self._xen, domain)
                undo.callback(self._memory.close)
                if difference := difference_of(self._memory, self.offset, code):
                    raise TrialError(f"domain {domain}: its code is not that of {image}: {difference}")
            except BaseException:
                finish()
                raise
            self._opened = undo.pop_all()
        self._name = f"domain {domain} {name_of(self._store, domain)}".rstrip()

    @property
    def name(self) -> str:
        """Return "domain", its id, and its name."""
        return self._name

    def _present(self) -> DomainInfo:
        info = self._xen.info(self.domain)
        if info is None or info.is_dying:
            raise TargetGoneError(f"domain {self.domain} does not exist; xl list shows the domains")
        return info

    def _refuse(self) -> None:
        info = self._present()
        why = ""
        if info.is_xenstore or serves_dom0(self._store, self.domain):
            why = "dom0 depends on it, so it cannot be paused"
        elif info.is_hvm:
            why = "it is an HVM or PVH guest; only PV guests are tried"
        elif info.shutdown_code is not None:
            why = f"it {_shutdown(info.shutdown_code)}"
        elif info.is_paused:
            why = "it is paused; run xl unpause, or wait for what paused it"
        elif info.is_debugged:
            why = "a debugger has it; end that first"
        elif found := operation_under_way(self._store, self.domain):
            why = f"{found}; wait for the end of that"
        if why:
            raise TrialError(f"domain {self.domain}: no trial: {why}")

    def open(self, patches: Sequence[Patch]) -> None:
        """Get ready to exchange ``patches``: the journal, the watchdog, the pages."""
        places(patches)
        self._journal.begin(str(self._image), patches, {"handle": self._handle})
        self._patches = tuple(patches)
        self._watchdog = Watchdog(self._journal.subject)
        for patch in patches:
            self._memory.hold((patch.address,), len(patch.original), writable=True)
        self._memory.hold((self.offset + item for item in self._counters), _WORD_BYTES, writable=False)
        with self._paused():
            self._check(self._arm)

    @contextlib.contextmanager
    def _paused(self, *, must_run: bool = True) -> Iterator[DomainInfo]:
        """Pause it, and return what Xen says about it then.

        Raises:
            TargetGoneError: it is gone.
            TrialError: it has shut down or is suspended, unless ``must_run`` is False.
        """
        with paused(self._xen, self._journal):
            begin = time.monotonic()
            info = self._present()
            if info.handle != self._handle:
                raise TargetGoneError(f"domain {self.domain} is another one now")
            if must_run and info.shutdown_code is not None:
                raise TrialError(f"domain {self.domain} {_shutdown(info.shutdown_code)}; the trial ended")
            yield info
        self.pauses_s.append(time.monotonic() - begin)

    def read(self, address: int, size: int) -> bytes:
        """Return bytes of its memory, by their address in the kernel."""
        data = self._memory.read(address, size)
        if len(data) != size:
            raise TrialError(f"domain {self.domain}: nothing is mapped at {address + len(data):#x}")
        return data

    def switch(self, arm: int) -> None:
        """Pause it, exchange the bytes, let it run on."""
        if self._watchdog is not None and not self._watchdog.alive():
            raise TrialError("the watchdog was killed; the trial ended, and its code is as it was")
        self._must_be_left_alone()
        with self._paused():
            self._check(self._arm)
            self._journal.arm(arm)
            for patch in self._patches:
                if patch.arms[arm] != patch.arms[self._arm]:
                    write_checked(self._memory, patch.address, patch.arms[arm])
            self._arm = arm

    def _must_be_left_alone(self) -> None:
        if time.monotonic() - self._looked > _LOOK_S:
            if found := operation_under_way(self._store, self.domain):
                raise TrialError(f"domain {self.domain}: {found}; the trial ended")
            self._looked = time.monotonic()

    def _check(self, arm: int) -> None:
        for patch in self._patches:
            found = self._memory.read(patch.address, len(patch.original))
            if found != patch.arms[arm]:
                raise TrialError(
                    f"domain {self.domain}: its code at {patch.address:#x} is {found.hex()}, not "
                    f"{patch.arms[arm].hex()}: {_BREAKPOINTS_HINT}"
                )

    def reading(self) -> Reading:
        """Return running time and counters, both of the same moment: read while it is paused."""
        with self._paused() as info:
            words = tuple(self._memory.word(self.offset + item) for item in self._counters)
            return Reading(info.running_ns, 0, words)

    def wait(self, seconds: float) -> None:
        """Let it run."""
        time.sleep(max(seconds, 0.0))

    def alive(self) -> bool:
        """Return whether it still runs."""
        info = self._xen.info(self.domain)
        return (
            info is not None
            and not info.is_dying
            and info.handle == self._handle
            and info.shutdown_code is None
        )

    @property
    def watchdog_pid(self) -> int:
        """Return the watchdog's process id, 0 before open()."""
        return self._watchdog.pid if self._watchdog is not None else 0

    def close(self) -> None:
        """Put all bytes back, compare the whole code with the image."""
        keep = False
        try:
            if self._patches:
                with contextlib.suppress(TargetGoneError):
                    with self._paused(must_run=False):
                        put_back(self._memory, self._patches)
                    self._arm = 0
                    self._verify()
        except BaseException:
            keep = True
            raise
        finally:
            if keep:
                self._journal.keep()
            else:
                self._journal.finish()
            if self._watchdog is not None:
                self._watchdog.end()
            self._opened.close()

    def _verify(self) -> None:
        if difference := difference_of(self._memory, self.offset, self._code):
            self._present()
            raise TrialError(
                f"domain {self.domain}: after the trial its code is not the image's: {difference}"
            )


def _shutdown(code: int) -> str:
    return _SHUTDOWNS[code] if code < len(_SHUTDOWNS) else f"shut down ({code})"
