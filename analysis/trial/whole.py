"""A trial: image, plan, target, design and statistics put together."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from statistics import median

from xtrace import __version__
from xtrace.analysis.trial import arms as arms_module
from xtrace.analysis.trial.arms import Arm, By
from xtrace.analysis.trial.result import MARK, Group, Result
from xtrace.analysis.trial.run import Outcome, Progress, Settings, Trial
from xtrace.probes.host.raw_tsc import RawTsc
from xtrace.probes.timing import this_host
from xtrace.probes.timing.native import Native
from xtrace.probes.trial.mapped_image import Code, without_page
from xtrace.probes.trial.process import ProcessTarget
from xtrace.probes.trial.target import OpenTarget, TrialError
from xtrace.probes.trial.xen.domain import DomainTarget
from xtrace.symbols.image.image import Image
from xtrace.symbols.patching.counters import Counter
from xtrace.symbols.patching.exchange import Dose, Exchange
from xtrace.symbols.patching.plan import Plan
from xtrace.symbols.replay import timed_loop
from xtrace.symbols.sites.model import Verdict


@dataclass(frozen=True, slots=True)
class Request:
    """What is to be tried.

    Attributes:
        hypercall_page: its address in the image, None if it has none: Xen fills it in.
        verdicts: of the fences that may be removed.
        counters: the unit's counter first, then covariates.
        by: how the exchanges are grouped.
        only: functions; none for all.
        doses: also try more fences where there is room.
    """

    image: Image
    hypercall_page: int | None
    plan: Plan
    verdicts: Collection[Verdict]
    counters: Sequence[Counter]
    by: By
    only: Collection[str]
    doses: bool
    settings: Settings

    @property
    def exchanges(self) -> tuple[Exchange, ...]:
        """Return what is exchanged.

        Raises:
            TrialError: nothing is, or a function has nothing.
        """
        found = arms_module.only(self.plan.exchanges, self.only)
        if not found:
            raise TrialError("nothing to try: no fence can be exchanged; --plan says why")
        return found


def process_target(request: Request, pid: int) -> ProcessTarget:
    """Return a process as target; raises TrialError if it is not of the image."""
    code = [Code(item.address, item.offset, bytes(item.data)) for item in request.image.code]
    return ProcessTarget(pid, Path(request.image.path), code, [item.address for item in request.counters])


def domain_target(request: Request, domain: int) -> DomainTarget:
    """Return a domain as target; raises TrialError if it is not of the image, or must not be tried."""
    code = [
        piece
        for item in request.image.code
        for piece in without_page(Code(item.address, item.offset, bytes(item.data)), request.hypercall_page)
    ]
    return DomainTarget(domain, Path(request.image.path), code, [item.address for item in request.counters])


def trial_of(
    request: Request,
    target: OpenTarget,
    progress: Progress,
    wanted: Callable[[], bool],
    remark: Callable[[str], None],
) -> Result:
    """Run a trial of a target, and close it.

    Args:
        progress: takes it.
        wanted: returns False once it is to end.
        remark: takes what the user should know, such as what an earlier trial left.

    Raises:
        TrialError: it could not begin, or ended without a figure.
    """
    told = 0
    load = _Load(target)
    try:
        exchanges = request.exchanges
        doses = request.plan.doses if request.doses else ()
        if request.doses and not doses:
            raise TrialError("--doses: no function has room for more fences; --plan says why")
        chosen = arms_module.arms(exchanges, request.by, doses)
        for line in target.notes:
            remark(line)
        clock = RawTsc()
        first = clock.pair()
        target.open(arms_module.patches(exchanges, doses, chosen, target.offset))
        load.begin()
        more = {number: arm.added_count for number, arm in enumerate(chosen) if arm.added_count}
        outcome = Trial(target, len(chosen), request.settings, progress, wanted, more).run()
        load.end()
    finally:
        told = len(target.notes)
        target.close()
    for line in target.notes[told:]:
        remark(line)
    last = clock.pair()
    hz = (last[0] - first[0]) * 1e9 / (last[1] - first[1])
    return _result(request, exchanges, doses, chosen, outcome, hz, load.ratio, target)


class _Load:
    """How much of the time the target ran."""

    def __init__(self, target: OpenTarget) -> None:
        self._target = target
        self._since = (0.0, 0)
        self.ratio = 0.0

    def begin(self) -> None:
        self._since = time.monotonic(), self._target.reading().running_ns

    def end(self) -> None:
        passed = time.monotonic() - self._since[0]
        self.ratio = (self._target.reading().running_ns - self._since[1]) / 1e9 / passed


def _result(
    request: Request,
    exchanges: Sequence[Exchange],
    doses: Sequence[Dose],
    chosen: Sequence[Arm],
    outcome: Outcome,
    hz: float,
    load: float,
    target: OpenTarget,
) -> Result:
    image, settings = request.image, request.settings
    seen = this_host.signatures(Native(timed_loop.cpuid_stub()))
    host = this_host.facts(seen)
    emulated = this_host.emulation(host, seen)
    base = outcome.unit_ns[0]
    groups = []
    for number, arm in enumerate(chosen[1:], 1):
        found = outcome.effects[number - 1]
        saved = found.saved_ratio
        groups.append(
            Group(
                arm.name,
                arm.kind,
                len(doses) if arm.added_count else len(arm.members),
                len(doses)
                if arm.added_count
                else len({site for member in arm.members for site in exchanges[member].sites}),
                saved,
                saved.times(base.value),
                saved.times(base.value * hz / 1e9),
                outcome.unit_ns[number],
                found.p,
                found.clipped_count,
            )
        )
    refusals = () if request.only else request.plan.refusals
    return Result(
        MARK,
        "emulated" if emulated else "hardware",
        host,
        datetime.now(UTC).isoformat(timespec="seconds"),
        __version__,
        image.path,
        hashlib.sha256(Path(image.path).read_bytes()).hexdigest(),
        image.build_id,
        target.name,
        request.counters[0].name,
        tuple(counter.name for counter in request.counters[1:]),
        round(hz, 1),
        tuple(verdict.value for verdict in Verdict if verdict in request.plan.verdicts),
        len({site for item in exchanges for site in item.sites}) + len(refusals),
        request.plan.kept_count,
        base,
        base.times(hz / 1e9),
        outcome.unit_count,
        outcome.carried,
        outcome.block_count,
        outcome.slice_s,
        round(outcome.seconds, 3),
        outcome.lengthened_count,
        outcome.idle_count,
        outcome.ended_by,
        settings.seed,
        settings.precision,
        round(load, 4),
        tuple(groups),
        tuple(exchanges),
        tuple(refusals),
        tuple(doses),
        outcome.added_ns,
        tuple([emulated] if emulated else []),
        len(target.pauses_s),
        round(median(target.pauses_s), 7) if target.pauses_s else 0.0,
    )
