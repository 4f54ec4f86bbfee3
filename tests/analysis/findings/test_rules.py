"""Each rule, on a host with the fault that it is about, and on one that nearly has it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest

from builders.partials import partial
from builders.scripted import (
    FORCE,
    IRET,
    OFFLINE,
    RUNNABLE,
    SEND,
    TSC_HZ,
    Script,
    Vcpu,
)
from xtrace.analysis.columns import Columns
from xtrace.analysis.cost.rows import BOUND
from xtrace.analysis.findings.evidence import Evidence
from xtrace.analysis.findings.find import find_all
from xtrace.analysis.findings.finding import Finding
from xtrace.analysis.findings.rules.catalogue import RULES
from xtrace.analysis.findings.rules.events import fences
from xtrace.analysis.measures.measures import Measures
from xtrace.analysis.measures.table import Quality
from xtrace.analysis.summary.partial import Partial
from xtrace.probes.catalog import VersionRange
from xtrace.probes.event_ids import LAPIC_START_TIMER, LAPIC_TIMER_CB

D0, D1, D2, D3 = Vcpu(0, 0), Vcpu(1, 0), Vcpu(2, 0), Vcpu(3, 0)
SECOND = 1_000_000.0


def evidence(of: Script | Partial, **known: object) -> Evidence:
    part = of if isinstance(of, Partial) else partial(of.data())
    return Evidence(Measures(part, VersionRange.parse("4.17"), TSC_HZ), **known)  # type: ignore[arg-type]


def found(of: Script | Partial | Evidence) -> dict[str, Finding]:
    given = of if isinstance(of, Evidence) else evidence(of)
    return {one.name: one for one in find_all(given, RULES)}


# --- events --------------------------------------------------------------------------------------


def sender(until_us: float, *, handled_us: float, elsewhere: bool = False) -> Script:
    """d0 sends every 10 ms; d1 handles that until a moment, and d2 afterwards, if somebody does."""
    host = Script(2, 3 * SECOND)
    for number in range(30):
        host.irq(1, 20, 0.1 * SECOND * (number + 1) - 40)  # of its timer
    for number in range(int(until_us // 10_000)):
        at = 10_000.0 * number + 100
        host.run(0, D0, at - 50, at + 100, woken_us=at - 60)
        host.hypercall(0, at, SEND)
        if at < handled_us or elsewhere:
            target = D1 if at < handled_us else D2
            host.run(1, target, at + 5, at + 200, woken_us=at + 1)
            host.hypercall(1, at + 100, IRET)
    return host


def test_a_vcpu_whose_events_are_not_handled_any_more() -> None:
    findings = found(sender(3 * SECOND, handled_us=SECOND))
    silent = findings["silent-vcpu"]
    assert (silent.severity, silent.domain, silent.vcpu) == ("problem", 1, 0)
    assert "d1v0 is silent since 0.990 s: 100 wakes before that" in silent.sentence
    assert "d0v0 sent 200 events that woke nobody" in silent.sentence
    assert (findings["unhandled-sends"].severity, findings["unhandled-sends"].domain) == ("problem", 0)


@pytest.mark.parametrize(
    "host",
    [
        sender(SECOND, handled_us=SECOND),  # the sender has ended, too
        sender(3 * SECOND, handled_us=SECOND, elsewhere=True),  # it sends to another now
        sender(3 * SECOND, handled_us=2.9 * SECOND),  # not for long
    ],
)
def test_a_vcpu_that_nobody_expects_is_not_silent(host: Script) -> None:
    assert not found(host).keys() & {"silent-vcpu", "unhandled-sends"}


def test_sends_to_a_vcpu_that_is_awake_are_handled() -> None:
    """They wake nobody, either."""
    host = sender(3 * SECOND, handled_us=2 * SECOND)
    host.run(1, D2, 2 * SECOND + 1000, 3 * SECOND - 1000, woken_us=2 * SECOND + 900)
    assert "unhandled-sends" not in found(host)


# --- waiting -------------------------------------------------------------------------------------


def wakes(wait_us: float, count: int = 120) -> Script:
    host = Script(1, (count + 1) * (wait_us + 2000))
    for number in range(count):
        at = number * (wait_us + 2000) + 100
        host.run(0, D1, at + wait_us, at + wait_us + 1000, woken_us=at)
    return host


def test_wakes_that_take_long() -> None:
    one = found(wakes(120_000))["wake-latency"]
    assert (one.severity, one.domain) == ("problem", 1)
    assert "p99 120ms over 120 wakes; worst: 120ms at 0.000 s" in one.sentence
    assert found(wakes(50_000))["wake-latency"].severity == "note"
    assert "wake-latency" not in found(wakes(500))
    assert "wake-latency" not in found(wakes(120_000, count=50))


def shared(percent: int, *, others: int = 1) -> Script:
    """d1 runs for a part of each 10 ms, and waits for the rest, in which others run in turn."""
    host = Script(1, SECOND)
    for number in range(100):
        begin, end = 10_000.0 * number, 10_000.0 * (number + 1)
        middle = begin + 100 * percent
        host.run(0, D1, begin, middle, then=RUNNABLE)
        host.run(0, Vcpu(2, number % others), middle, end, then=RUNNABLE)
    return host


def test_a_vcpu_that_gets_less_than_its_share() -> None:
    findings = found(shared(20))
    waiting, starved = findings["waiting"], findings["starved-domain"]
    assert (waiting.severity, waiting.domain) == ("problem", 1)
    assert "ran 20%; an equal share of what all vCPUs ran is 50%" in waiting.sentence
    assert (starved.severity, starved.domain) == ("problem", 1)
    assert "d1 ran 0.20 pCPUs' time" in starved.sentence
    assert "d2 ran 0.80" in starved.sentence
    assert "weight" not in starved.sentence
    near = found(shared(40))
    assert near["waiting"].severity == "note"
    assert "starved-domain" not in near


def test_weights_decide_what_a_share_is() -> None:
    given = evidence(shared(20), weights={1: 256, 2: 1024})
    assert "starved-domain" not in found(given)
    given = evidence(shared(20), weights={1: 1024, 2: 256})
    one = found(given)["starved-domain"]
    assert one.severity == "problem"
    assert "its share by weight is 0.80" in one.sentence
    assert "(weights 1024 and 256)" in one.sentence
    # Where a domain's weight is not known, nothing is said of weight.
    assert "weight" not in found(evidence(shared(20), weights={1: 1024}))["starved-domain"].sentence


def test_waiting_does_not_grow_with_the_number_of_vcpus() -> None:
    """64 vCPUs that each wait for 1.3 % of the time on 130 pCPUs are no finding."""
    host = Script(130, SECOND)
    for number in range(64):
        for at in range(10):
            begin = at * 100_000.0 + 20_000
            host.run(number, Vcpu(1, number), begin + 1300, begin + 50_000, woken_us=begin)
    assert not found(host)


def kept_back(*, was_there: bool) -> Script:
    """d1 runs on pCPU 0 for 40 ms of each 100, and waits for the rest, while pCPU 1 idles."""
    host = Script(2, 2 * SECOND)
    if was_there:
        host.run(1, D1, 100, 1000, then=RUNNABLE)
    for number in range(20):
        begin = 100_000.0 * number + 2000
        host.run(0, D1, begin, begin + 40_000, then=RUNNABLE)
    return host


def test_a_pcpu_that_idles_while_a_vcpu_waits_that_may_run_there() -> None:
    one = found(kept_back(was_there=True))["idle-while-waiting"]
    assert (one.severity, one.domain) == ("problem", 1)
    # pCPU 1 idles all the time, and pCPU 0 in the same 60 %.
    assert one.pcpu in (0, 1)
    assert one.figures[0].value > 0.5


def test_a_busy_pcpu_does_not_idle_while_a_vcpu_waits() -> None:
    assert "idle-while-waiting" not in found(shared(20))


def depleted(run_ms: int, *, used_up: bool = True) -> Script:
    """RTDS gives d1 a part of each 10 ms, and d1 wants all, while pCPU 1 idles."""
    host = Script(2, 2 * SECOND)
    host.run(1, D1, 100, 1000, then=RUNNABLE)
    for number in range(1, 200):
        begin = 10_000.0 * number
        host.replenish(1, begin, D1)
        host.run(0, D1, begin + 10, begin + 1000 * run_ms, then=RUNNABLE)
        host.burn(0, begin + 1000 * run_ms - 1, D1, 0 if used_up else 500_000)
    return host


def test_a_budget_that_is_used_up() -> None:
    """It waits for its budget, not for a pCPU, so none is said to idle meanwhile."""
    findings = found(depleted(4))
    one = findings["budget"]
    assert (one.severity, one.domain) == ("problem", 1)
    assert one.figures[0].value == pytest.approx(0.6, abs=0.01)
    assert not findings.keys() & {"waiting", "idle-while-waiting", "starved-domain"}
    assert found(depleted(8))["budget"].severity == "note"
    kept_from_it = found(depleted(4, used_up=False))
    assert "budget" not in kept_from_it
    assert "idle-while-waiting" in kept_from_it


def ticking(late: int, *, of: int = 300) -> Script:
    """A timer wakes d1 every 10 ms, but at times after 35 ms."""
    host = Script(1, of * 11_000.0 + late * 30_000)
    at = 1000.0
    for number in range(of):
        host.run(0, D1, at + 5, at + 400, woken_us=at)
        host.block(0, at + 399, D1)
        at += 35_000 if number % (of // max(late, 1)) == 5 and late else 10_000
    return host


def test_timers_that_are_late_by_more_than_their_period() -> None:
    one = found(ticking(12))["late-timers"]
    assert (one.severity, one.domain) == ("problem", 1)
    assert "d1v0 sleeps for 9.6" in one.sentence
    assert "12 times of 299 it slept for more than twice that; worst: 34.6ms at" in one.sentence
    assert found(ticking(3))["late-timers"].severity == "note"
    assert "late-timers" not in found(ticking(0))
    # Sleeps that are not periodic have no time at which they should end.
    assert "late-timers" not in found(ticking(150))


def apic_ticks(late: int, *, of: int = 300, period_ns: int = 10_000_000, is_set: bool = True) -> Script:
    """d1's virtual local APIC timer ticks every 10 ms, but some ticks come after 35 ms."""
    host = Script(1, of * 11_000.0 + late * 30_000)
    host.run(0, D1, 10, of * 10_900.0 + late * 30_000)
    if is_set:
        host.record(0, 20, LAPIC_START_TIMER, 1000, 0, period_ns, 0, 0xEC)
    at = 1000.0
    for number in range(of):
        host.record(0, at, LAPIC_TIMER_CB)
        at += 35_000 if number % (of // max(late, 1)) == 5 and late else 10_000
    return host


def test_ticks_that_are_late_by_more_than_their_period() -> None:
    one = found(apic_ticks(12))["late-ticks"]
    assert (one.severity, one.domain, one.vcpu) == ("problem", 1, 0)
    assert "the local APIC timer of d1v0 ticks every 10.0ms, but 12 ticks of 299" in one.sentence
    assert "worst: 35.0ms at" in one.sentence
    assert [figure.quality for figure in one.figures] == [Quality.EXACT] * 3
    # Set before the trace began: the period is that of most ticks.
    before = found(apic_ticks(12, is_set=False))["late-ticks"]
    assert before.severity == "problem"
    assert [figure.quality for figure in before.figures] == [Quality.INFERRED] * 2 + [Quality.EXACT]
    assert found(apic_ticks(3))["late-ticks"].severity == "note"
    assert "late-ticks" not in found(apic_ticks(0))
    assert "late-ticks" not in found(apic_ticks(150, is_set=False))
    assert "late-ticks" not in found(apic_ticks(12, period_ns=20_000_000))
    assert "late-ticks" not in found(apic_ticks(3, of=49))


# --- offline -------------------------------------------------------------------------------------


def capped(percent: int) -> Script:
    """d1 runs for a part of each 100 ms and is parked for the rest."""
    host = Script(1, 2 * SECOND)
    for number in range(20):
        begin = 100_000.0 * number + 100
        woken = None if number == 0 else begin - 10
        host.run(0, D1, begin, begin + 1000 * percent, then=OFFLINE, woken_us=woken, was=OFFLINE)
    return host


def test_a_cap_that_stops_a_vcpu() -> None:
    one = found(capped(25))["offline"]
    assert (one.severity, one.domain) == ("problem", 1)
    assert "d1v0 was offline 75% of the time, 20 times: paused again and again, or capped" in one.sentence
    assert found(capped(75))["offline"].severity == "note"


def paused(for_us: float) -> Script:
    host = Script(1, 5 * SECOND)
    host.run(0, D1, 100, 1000)
    host.run(0, D1, 2000, 3000, woken_us=1500)
    host.wake_paused(0, 10_000, D1)
    host.run(0, D1, 10_010 + for_us, 11_000 + for_us, woken_us=10_000 + for_us, was=OFFLINE)
    return host


def test_wakes_that_wait_for_a_paused_vcpu() -> None:
    one = found(paused(2 * SECOND))["paused-wakes"]
    assert (one.severity, one.domain) == ("problem", 1)
    assert "1 wake of d1v0 waited up to 2.00s" in one.sentence
    assert found(paused(0.5 * SECOND))["paused-wakes"].severity == "note"
    assert "paused-wakes" not in found(paused(500))


# --- what happens often --------------------------------------------------------------------------


def migrating(stay_us: float) -> Script:
    host = Script(2, SECOND)
    for number in range(int(SECOND // stay_us)):
        host.run(number % 2, D1, number * stay_us + 10, (number + 1) * stay_us, then=RUNNABLE)
    return host


def test_migrations_that_follow_each_other() -> None:
    one = found(migrating(500))["migrations"]
    assert (one.severity, one.domain, one.vcpu) == ("problem", 1, 0)
    assert "d1v0 migrates 1998 times per second" in one.sentence
    assert found(migrating(1_500.0 / 2)).get("migrations") is not None
    assert "migrations" not in found(migrating(2000))


def interrupted(per_s: int, *, on: tuple[int, ...] = (1,), seconds: tuple[float, float] = (1, 1.3)) -> Script:
    """An irq comes with a rate on pCPUs in turn, between two moments of a trace of 3 s."""
    host = Script(4, 3 * SECOND)
    for number in range(int(per_s * (seconds[1] - seconds[0]))):
        host.irq(on[number % len(on)], 16, seconds[0] * SECOND + number * SECOND / per_s)
    return host


def test_an_irq_that_comes_very_often_for_a_second() -> None:
    one = found(interrupted(40_000, seconds=(1, 2.1)))["irq-peak"]
    assert (one.severity, one.pcpu) == ("problem", 1)
    rate, mean = (figure.value for figure in one.figures)
    assert rate == pytest.approx(40_000, rel=0.01)
    assert mean == pytest.approx(40_000 * 1.1 / 3, rel=0.01)
    assert one.moment_cycles is not None
    assert 1 <= one.moment_cycles / TSC_HZ < 1.12
    assert found(interrupted(25_000, seconds=(1, 2.1)))["irq-peak"].severity == "note"
    assert "irq-peak" not in found(interrupted(8_000, seconds=(1, 2.1)))
    # In less than a second, what comes in a second is less.
    assert "irq-peak" not in found(interrupted(60_000, seconds=(1, 1.1)))


def test_interrupts_that_one_pcpu_handles() -> None:
    one = found(interrupted(11_000, seconds=(0.001, 3)))["irqs-on-one-pcpu"]
    assert (one.severity, one.pcpu) == ("problem", 1)
    assert found(interrupted(5_000, seconds=(0.001, 3)))["irqs-on-one-pcpu"].severity == "note"
    assert "irqs-on-one-pcpu" not in found(interrupted(11_000, on=(1, 2), seconds=(0.001, 3)))
    assert "irqs-on-one-pcpu" not in found(interrupted(800, seconds=(0.001, 3)))


def woken(vcpus: tuple[int, ...]) -> Script:
    """The vCPUs of d1 are woken 12,000 times per second, these in turn."""
    host = Script(4, 0.25 * SECOND)
    for number in range(4):
        host.run(number, Vcpu(1, number), 10, 20, woken_us=5)
    for number in range(2900):
        vcpu = vcpus[number % len(vcpus)]
        at = 100 + number * SECOND / 12_000
        host.run(vcpu, Vcpu(1, vcpu), at + 5, at + 40, woken_us=at)
    return host


def test_wakes_that_one_vcpu_gets() -> None:
    one = found(woken((2,)))["wakes-on-one-vcpu"]
    assert (one.severity, one.domain, one.vcpu) == ("problem", 1, 2)
    assert "wakes-on-one-vcpu" not in found(woken((0, 1, 2, 3)))


# --- masks ---------------------------------------------------------------------------------------


def forcing(forced: int, of: int = 200) -> Script:
    """d1 takes an upcall after each wake, and forces a callback in some."""
    host = Script(1, of * 1000.0 + 1000)
    for number in range(of):
        at = number * 1000.0 + 100
        host.run(0, D1, at, at + 500, woken_us=at - 20)
        host.hypercall(0, at + 100, IRET)
        if number < forced:
            host.hypercall(0, at + 200, FORCE)
        host.block(0, at + 499, D1)
    return host


def test_callbacks_that_a_guest_forces() -> None:
    one = found(forcing(80))["forced-callbacks"]
    assert (one.severity, one.domain) == ("problem", 1)
    assert "at most 80 times, in 199 to 200 upcalls" in one.sentence
    assert found(forcing(40))["forced-callbacks"].severity == "note"
    assert "forced-callbacks" not in found(forcing(8))


def masking(wait_us: float, count: int = 30) -> Script:
    """Xen has an interrupt for an HVM guest that is not ready for it for a time."""
    host = Script(1, count * 100_000.0)
    for number in range(count):
        at = number * 100_000.0 + 100
        host.run(0, D1, at, at + wait_us + 1000, woken_us=at - 20)
        host.record(0, at + 10, 0x82020, 0xF3, 5, 0xFFFF_FFFF)
        host.record(0, at + 11, 0x81001)
        host.record(0, at + 10 + wait_us, 0x82004, 0xF3, 0)
        host.record(0, at + 12 + wait_us, 0x81001)
    return host


def test_events_that_an_hvm_guest_is_not_ready_for() -> None:
    one = found(masking(20_000))["long-masks"]
    assert (one.severity, one.domain) == ("problem", 1)
    assert found(masking(2_000))["long-masks"].severity == "note"
    assert "long-masks" not in found(masking(200))


def recorded_delivery(masked: int, wait_us: float, count: int = 30) -> Script:
    """Xen records the events of a PV guest, of which some find the upcall mask set and wait."""
    host = Script(1, count * 100_000.0)
    target, port, frame = D1.packed, 5 << 20 | 7, 0x1000
    for number in range(count):
        at = number * 100_000.0 + 100
        # Of the first event it is not known whether it is in an upcall.
        is_masked = 0 < number <= masked
        wait = wait_us if is_masked else 5.0
        host.run(0, D1, at, at + wait + 1000, woken_us=at - 20)
        host.hypercall(0, at + 5, IRET)
        host.record(0, at + 10, 0x804001, 0xFFFF_FFFF, target, port)
        host.record(0, at + 11, 0x804002, target, 2 if is_masked else 0)
        host.record(0, at + 11 + wait, 0x804003, target, frame, 0, 0)
        host.record(0, at + 20 + wait, 0x20100D, 23 | 1 << 20, frame)
    return host


def test_events_that_find_the_upcall_mask_set() -> None:
    findings = found(recorded_delivery(4, 50))
    one = findings["masked-waits"]
    assert (one.severity, one.domain) == ("note", 1)
    assert "d1v0: 4 of 30 events found the upcall mask set, 4 outside an upcall" in one.sentence
    assert "long-masks" not in findings
    assert "masked-waits" not in found(recorded_delivery(0, 50))
    long = found(recorded_delivery(25, 20_000))["long-masks"]
    assert (long.severity, long.domain) == ("problem", 1)


# --- the recording itself ------------------------------------------------------------------------


def losing(count: int, *, busy: bool = True) -> Script:
    """pCPU 0 runs d1 in the second half of a trace, and records are lost there."""
    host = Script(1, 2 * SECOND)
    for number in range(40):
        begin = number * 50_000.0 + 100
        host.run(0, D1, begin, begin + (40_000 if number >= 20 and busy else 20_000), woken_us=begin - 10)
        for at in range(10):
            host.hypercall(0, begin + 100 + at * 10, IRET)
    for number in range(20, 40):
        begin = number * 50_000.0 + 100
        host.lose(0, begin + 5000, begin + 10_000, count, D1)
    return host


def test_records_that_are_lost() -> None:
    one = found(losing(10))["lost-records"]
    assert one.severity == "problem"
    assert "200 records (" in one.sentence
    assert "with load: pCPUs were busy" in one.sentence
    assert one.moment_cycles is not None
    assert 0.9 < one.moment_cycles / TSC_HZ < 1.1
    quiet = found(losing(10, busy=False))["lost-records"]
    assert "load" not in quiet.sentence
    few = losing(1)
    for number in range(4000):
        few.record(0, 1000 + number, 0x20100D, 3)
    assert found(few)["lost-records"].severity == "note"
    assert "lost-records" not in found(forcing(8))


def recorded(half_full: int) -> Partial:
    part = partial(dom0_timers().data())
    return replace(part, facts=part.facts.having(half_full_windows=half_full))


def dom0_timers() -> Script:
    host = Script(1, SECOND)
    for number in range(200):
        at = number * 5_000.0 + 100
        host.run(0, D0, at + 10, at + 500, woken_us=at)
    return host


def test_what_recording_costs() -> None:
    """The span is a second of one pCPU."""
    one = found(evidence(recorded(60), recorder_cpu_s=0.06))["recorder-share"]
    assert one.severity == "problem"
    assert "recording took 6.0% of the time of 1 pCPUs, and up to 60 of 200 wakes" in one.sentence
    assert found(evidence(recorded(60), recorder_cpu_s=0.04))["recorder-share"].severity == "note"
    assert "recorder-share" not in found(evidence(recorded(60), recorder_cpu_s=0.004))
    bound = found(recorded(120))["recorder-share"]
    assert bound.severity == "note"
    assert "up to 120 of 200 wakes of d0" in bound.sentence
    assert "recorder-share" not in found(recorded(99))


# --- costs ---------------------------------------------------------------------------------------


def priced(least: float) -> Columns:
    row: dict[str, float | str] = {
        "domain": 1, "part": "removable", "site_count": 4, "execution_low_count": 100,
        "execution_low_per_s": 50.0, "execution_high_per_s": 50.0, "most_is": "usual",
        "cost_low_ratio": -0.01, "cost_hot_low_ratio": least, "cost_hot_ratio": 2 * least,
        "cost_high_ratio": 0.2,
    }  # fmt: skip
    return Columns({name: np.array([value]) for name, value in row.items()})


def test_fences_that_cost_much() -> None:
    host = dom0_timers()
    part = partial(host.data())
    one = found(evidence(part, costs={"cost_domains": priced(0.02)}))["removable-fences"]
    assert (one.severity, one.domain) == ("problem", 1)
    assert one.sentence == (
        "d1: removable fences likely cost 2.0 to 4.0% of its running time, while caches hit; "
        "where memory is missed, -1.0% to usually below 20%"
    )
    near = found(evidence(part, costs={"cost_domains": priced(0.002)}))
    assert near["removable-fences"].severity == "note"


PLANTED: dict[str, Callable[[], None]] = {
    "silent-vcpu": test_a_vcpu_whose_events_are_not_handled_any_more,
    "unhandled-sends": test_a_vcpu_whose_events_are_not_handled_any_more,
    "wake-latency": test_wakes_that_take_long,
    "waiting": test_a_vcpu_that_gets_less_than_its_share,
    "starved-domain": test_a_vcpu_that_gets_less_than_its_share,
    "idle-while-waiting": test_a_pcpu_that_idles_while_a_vcpu_waits_that_may_run_there,
    "budget": test_a_budget_that_is_used_up,
    "late-timers": test_timers_that_are_late_by_more_than_their_period,
    "late-ticks": test_ticks_that_are_late_by_more_than_their_period,
    "offline": test_a_cap_that_stops_a_vcpu,
    "paused-wakes": test_wakes_that_wait_for_a_paused_vcpu,
    "migrations": test_migrations_that_follow_each_other,
    "irq-peak": test_an_irq_that_comes_very_often_for_a_second,
    "irqs-on-one-pcpu": test_interrupts_that_one_pcpu_handles,
    "wakes-on-one-vcpu": test_wakes_that_one_vcpu_gets,
    "forced-callbacks": test_callbacks_that_a_guest_forces,
    "masked-waits": test_events_that_find_the_upcall_mask_set,
    "long-masks": test_events_that_an_hvm_guest_is_not_ready_for,
    "removable-fences": test_fences_that_cost_much,
    "lost-records": test_records_that_are_lost,
    "recorder-share": test_what_recording_costs,
}


def test_every_rule_has_a_planted_fault() -> None:
    """The contradiction of costs is planted in test_report_cost.py."""
    assert PLANTED.keys() | {"cost-contradiction"} == {rule.name for rule in RULES}


def test_a_domain_that_may_never_have_run_has_no_share() -> None:
    """Its records leave open whether it ran: a least cost has a share of the most that it can have run."""
    ratios = {"cost_low_ratio": 0.0, "cost_hot_low_ratio": 0.0}
    row = {**ratios, "cost_hot_ratio": np.nan, "cost_high_ratio": np.nan, "most_is": BOUND}
    assert "not known" in fences._cost(row)
