"""What the cost of the fences lacks, or what makes it doubtful, and which command fixes that."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from xtrace.analysis.cost.checks import UPCALLS_BY_BPF
from xtrace.analysis.cost.domain_cost import DomainCost
from xtrace.analysis.cost.domain_facts import DomainFacts, lost_records
from xtrace.analysis.cost.inputs import CostInputs
from xtrace.analysis.cost.rows import IMAGE, RUNNING_TIME, UPCALL_TIME, CheckRow, NeedRow
from xtrace.analysis.measures.measures import Measures
from xtrace.probes.timing.calibration import COLD_CONTEXTS, STREAM_CONTEXTS, Calibration
from xtrace.symbols.errors import shown
from xtrace.symbols.sites.execution_bounds import MOST_SITES, part_of

#: What a need is about if not about a domain.
HOST = "host"
#: Two measurements of the same TSC differ by less than this.
_SAME_TSC_RATIO = 0.002
_MOST_NAMED = 3
_MOST_OF_BUILD_ID = 12
#: Contexts in which no machine gives tight intervals.
_NEVER_TIGHT = (*STREAM_CONTEXTS, *COLD_CONTEXTS)


@dataclass(frozen=True, slots=True)
class Need:
    """Something that the cost may lack; the texts are format strings.

    Attributes:
        missing: what is missing.
        reason: why the cost needs it.
        remedy: the command or option that supplies it; empty if nothing does.
    """

    missing: str
    reason: str
    remedy: str

    def of(self, about: int | str, **values: object) -> NeedRow:
        """Return the row for a domain or the host.

        Args:
            values: what the format strings name.
        """
        return NeedRow(
            about=f"d{about}" if isinstance(about, int) else about,
            missing=self.missing,
            reason=self.reason.format(**values),
            remedy=self.remedy.format(**values),
        )


# --- about the host, its calibration and the trace ---

CALIBRATION = Need(
    "a calibration",
    "the time that a fence takes on this host is not known",
    "xtrace calibrate IMAGE -o FILE on that host, then --calibration FILE",
)
CALIBRATION_ON_HARDWARE = Need(
    "a calibration on hardware",
    "this one's timing is {timing}",
    "xtrace calibrate on the host itself, idle",
)
TRACE_OF_HARDWARE = Need(
    "a trace of hardware",
    "the traced host is emulated: counts are right, times and shares are not; the cycles are those of {cpu}",
    "trace the host that was calibrated",
)
CALIBRATION_OF_THIS_CPU = Need(
    "a calibration of this CPU",
    "its TSC runs at {calibrated_mhz:.0f} MHz, the trace's at {traced_mhz:.0f} MHz",
    "xtrace calibrate on the traced host",
)
TIGHTER_FIGURES = Need(
    "tighter figures",
    "{loose} of the {rows} calibration rows outside streams and chains of misses are not tight",
    "xtrace calibrate without --quick, on an idle machine",
)
TSC_RATE = Need("the TSC rate", "cycles cannot be converted to seconds: there are no rates", "--cpu-hz")
TRACE_WITHOUT_LOSSES = Need(
    "a trace without losses",
    "{lost} records were lost: counts from the trace are too low",
    "xentrace with larger buffers (-S), or fewer events (-e)",
)
ANY_IMAGE = Need(
    "a kernel's image", "the sites of the PV domains {domains} are not known", "--kernel {first}=IMAGE"
)

# --- about a domain ---

IMAGE_OF_COUNTED = Need(
    "a kernel's image", "its counters were given, but its sites are not known", "--kernel {domain}=IMAGE"
)
DOMAIN = Need("the domain", "the trace has no such domain", "another --kernel DOMAIN=IMAGE")
PV_GUEST = Need(
    "a PV guest", "HVM and PVH guests do not use the upcall mask, so its fences cost them nothing", ""
)
SITES = Need("sites", "no site was found in its image", "xtrace sites IMAGE shows what was looked for")
FEWER_SITES = Need(
    "sites",
    f"its image has more than {MOST_SITES} sites, so none are counted",
    "xtrace sites IMAGE shows what was looked for",
)
FENCE = Need("a fence", "no mask, restore or unmask site of its image has one: nothing to save", "")
COUNTS = Need(
    "counts of its own",
    "the trace does not show how often sites execute outside upcalls",
    "--rates {domain}=FILE with the guest's counters",
)
TSC_RATE_FOR_RATES = Need("the TSC rate", "its counters cannot be scaled to the trace's length", "--cpu-hz")
BPF_COUNTS = Need(
    "bpf's counts",
    "its upcalls and the calls to its functions were not counted in its kernel",
    "xtrace record with the bpf backend; xtrace doctor shows what that needs",
)
BPF_COUNTS_WITHOUT_GAP = Need(
    "bpf's counts without a gap",
    "its programs did not watch handlers and ports for the whole trace: calls have no upper bound",
    "xtrace record, run to its end, for every trace in the report",
)
OWN_SAMPLES = Need(
    "samples of its own",
    "{count:,} samples by hardware cycles come from all domains and do not say which: they are left out",
    "xtrace record on a Xen without vpmu=on, to sample by dom0's software clock",
)
COUNTS_OF_SITES = Need(
    "counts of some sites",
    "no counter bounds {unbounded} of {fenced} fenced sites: {names}",
    "counters for these functions or addresses, with --rates",
)
ENTRY = Need(
    "the callback's entry",
    "its image does not show where upcalls begin, so no paths are counted",
    "an image with symbols",
)
KNOWN_NAMES = Need("names that the image knows", "these counters name nothing in it: {names}", "")
AGREEING_COUNTERS = Need("counters that agree", "{disagreement}", "counters of the traced time, with --rates")
RIGHT_IMAGE = Need("the kernel that it ran", "{disagreement}", "--kernel {domain}=IMAGE with that one")
POSSIBLE_COST = Need(
    "inputs that fit together",
    "{disagreement}",
    "the counters (--rates), image and calibration of this domain, kernel and host",
)
COUNTS_AS_NUMBERS = Need(
    "counts that are certain",
    "{doubt}",
    "--rates {domain}=FILE with numbers and their seconds in JSON (docs/cost.md)",
)
CALIBRATED_IMAGE = Need(
    "a calibration of this image",
    "the sites that were calibrated are of build {calibrated}, the image is build {build_id}",
    "--kernel {domain}=IMAGE with the kernel that ran, or xtrace calibrate with this one",
)
NARROWER = Need(
    "a narrower range",
    "no trace shows what is in flight at its fences",
    "xtrace trial --image IMAGE --pid PID -o FILE measures that in place, where it runs as a process",
)
AGREEING_UPCALLS = Need("upcalls that agree", "{disagreement}", "xtrace record again, without losing records")
FIGURES = Need("figures", "the calibration has none", "xtrace calibrate on the traced host")
PRICE = Need(
    "a price",
    "{why}: {count} of {fenced} fenced sites count as 0 in the lower bound and leave no upper one",
    "xtrace calibrate IMAGE",
)
REPLAYS = Need(
    "replays of its sites",
    "{standard} of {fenced} fenced sites are priced by a standard sequence",
    "xtrace calibrate IMAGE with this image",
)


#: What a failed check needs, by ``what`` it compared; the others need counters that agree.
_OF_CHECKS = {
    UPCALLS_BY_BPF: AGREEING_UPCALLS,
    IMAGE: RIGHT_IMAGE,
    RUNNING_TIME: POSSIBLE_COST,
    UPCALL_TIME: POSSIBLE_COST,
}


def needs_of_host(measures: Measures, inputs: CostInputs, pv_domains: Sequence[int]) -> list[NeedRow]:
    """Return what is missing regardless of the domain."""
    return [
        *_of_calibration(measures.hz, inputs),
        *_of_trace(measures),
        *_of_images(inputs, pv_domains),
    ]


def needs_of_domain(
    measures: Measures,
    inputs: CostInputs,
    facts: DomainFacts,
    cost: DomainCost | None,
    checks: Sequence[CheckRow] = (),
) -> list[NeedRow]:
    """Return what is missing for one domain.

    Args:
        cost: None if it could not be computed.
        checks: the comparisons with the trace.
    """
    domain = facts.domain
    if not facts.is_known:
        return [DOMAIN.of(domain)]
    if cost is None:
        return [PV_GUEST.of(domain)]
    if not cost.paths.sites:
        more = len(cost.kernel.sites.sites) > MOST_SITES
        return [(FEWER_SITES if more else SITES).of(domain)]
    fenced = [place for place, site in enumerate(cost.paths.sites) if part_of(site) is not None]
    if not fenced:
        return [FENCE.of(domain), *_of_checks(domain, checks), *_of_image(inputs, cost)]
    return [
        *_of_range(inputs, domain, cost),
        *_of_rates(measures, inputs, domain),
        *_of_dom0(measures, facts),
        *_of_counts(inputs, cost, fenced),
        *_of_checks(domain, checks),
        *_of_prices(inputs, cost, fenced),
    ]


def _of_calibration(hz: float | None, inputs: CostInputs) -> Iterator[NeedRow]:
    calibration = inputs.calibration
    if calibration is None:
        yield CALIBRATION.of(HOST)
        return
    if calibration.timing != "hardware":
        yield CALIBRATION_ON_HARDWARE.of(HOST, timing=calibration.timing)
    elif inputs.emulated:
        yield TRACE_OF_HARDWARE.of(HOST, cpu=calibration.host.get("cpu_model", "another machine"))
    if hz and abs(hz / calibration.tsc_hz - 1) > _SAME_TSC_RATIO and not inputs.emulated:
        yield CALIBRATION_OF_THIS_CPU.of(HOST, calibrated_mhz=calibration.tsc_hz / 1e6, traced_mhz=hz / 1e6)
    yield from _of_figures(calibration)


def _of_figures(calibration: Calibration) -> Iterator[NeedRow]:
    rows = [row for row in calibration.rows if row.context not in _NEVER_TIGHT]
    loose = sum(not row.tight for row in rows if row.median_cycles is not None)
    if loose:
        yield TIGHTER_FIGURES.of(HOST, loose=loose, rows=len(rows))


def _of_trace(measures: Measures) -> Iterator[NeedRow]:
    if not measures.hz:
        yield TSC_RATE.of(HOST)
    lost = lost_records(measures)
    if lost:
        yield TRACE_WITHOUT_LOSSES.of(HOST, lost=lost)


def _of_images(inputs: CostInputs, pv_domains: Sequence[int]) -> Iterator[NeedRow]:
    given = {kernel.domain for kernel in inputs.kernels}
    if pv_domains and not given:
        named = _listed([f"d{domain}" for domain in pv_domains])
        yield ANY_IMAGE.of(HOST, domains=named, first=pv_domains[0])
    for domain in inputs.rates:
        if domain not in given:
            yield IMAGE_OF_COUNTED.of(domain, domain=domain)


def _of_rates(measures: Measures, inputs: CostInputs, domain: int) -> Iterator[NeedRow]:
    rates = inputs.rates.get(domain)
    for doubt in rates.doubts if rates is not None else ():
        yield COUNTS_AS_NUMBERS.of(domain, doubt=doubt, domain=domain)
    if rates is None:
        yield COUNTS.of(domain, domain=domain)
    elif rates.over(measures.span_s) is None:
        yield TSC_RATE_FOR_RATES.of(domain)


def _of_dom0(measures: Measures, facts: DomainFacts) -> Iterator[NeedRow]:
    """Yield what a recording in dom0 could show about dom0 itself but does not."""
    if facts.domain:
        return
    if not facts.calls:
        yield BPF_COUNTS.of(facts.domain)
    elif all(np.isinf(most) for _, most in facts.calls.values()):
        yield BPF_COUNTS_WITHOUT_GAP.of(facts.domain)
    mixed = int(measures.partial.dom0_facts["sample_mixed"].sum())
    if mixed:
        yield OWN_SAMPLES.of(facts.domain, count=mixed)


def _of_counts(inputs: CostInputs, cost: DomainCost, fenced: Sequence[int]) -> Iterator[NeedRow]:
    domain, counted = cost.facts.domain, cost.facts.domain in inputs.rates
    unbounded = [place for place in fenced if np.isinf(cost.executions.high[place])]
    if counted and unbounded:
        names = _listed([_name(cost, place) for place in unbounded])
        yield COUNTS_OF_SITES.of(domain, unbounded=len(unbounded), fenced=len(fenced), names=names)
    if cost.paths.upcall is None:
        yield ENTRY.of(domain)
    if cost.executions.unused and counted:
        yield KNOWN_NAMES.of(domain, names=_listed(cost.executions.unused))


def _of_checks(domain: int, checks: Sequence[CheckRow]) -> Iterator[NeedRow]:
    """Yield a need for each check that failed, those of bpf's upcalls last."""
    for check in sorted(checks, key=lambda check: check.what == UPCALLS_BY_BPF):
        if check.agrees == "no":
            need = _OF_CHECKS.get(check.what, AGREEING_COUNTERS)
            yield need.of(domain, disagreement=check.meaning, domain=domain)


def _of_range(inputs: CostInputs, domain: int, cost: DomainCost) -> Iterator[NeedRow]:
    if cost.price is not None and domain not in inputs.trials:
        yield NARROWER.of(domain)


def _of_image(inputs: CostInputs, cost: DomainCost) -> Iterator[NeedRow]:
    """Yield a need if the calibration has sites of another image, but none of this one."""
    rows = inputs.calibration.rows if inputs.calibration is not None else ()
    calibrated = {row.build_id for row in rows if row.place == "site" and row.build_id}
    mine = cost.kernel.build_id
    if calibrated and mine and mine not in calibrated:
        yield CALIBRATED_IMAGE.of(
            cost.facts.domain,
            calibrated=_listed([shown(each, _MOST_OF_BUILD_ID) for each in sorted(calibrated)]),
            build_id=shown(mine, _MOST_OF_BUILD_ID),
            domain=cost.facts.domain,
        )


def _of_prices(inputs: CostInputs, cost: DomainCost, fenced: Sequence[int]) -> Iterator[NeedRow]:
    domain, price = cost.facts.domain, cost.price
    if price is None:
        if inputs.calibration is not None:
            yield FIGURES.of(domain)
        return
    for why, count in Counter(price.lacking[place] for place in fenced if price.lacking[place]).items():
        yield PRICE.of(domain, why=why, count=count, fenced=len(fenced))
    yield from _of_image(inputs, cost)
    standard = sum(price.source[place] == "standard" for place in fenced)
    if standard:
        yield REPLAYS.of(domain, standard=standard, fenced=len(fenced))


def _name(cost: DomainCost, place: int) -> str:
    site = cost.paths.sites[place]
    return site.symbol or f"{site.address:#x}"


def _listed(names: Sequence[str]) -> str:
    distinct = list(dict.fromkeys(names))
    more = len(distinct) - _MOST_NAMED
    return ", ".join(distinct[:_MOST_NAMED]) + (f" and {more} more" if more > 0 else "")
