"""What is missing for the cost of the fences, or makes it doubtful, and which command would mend it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from xtrace.analysis.cost.checks import UPCALLS_BY_BPF
from xtrace.analysis.cost.domain_facts import DomainFacts, lost_records
from xtrace.analysis.measures.table import Measures
from xtrace.probes.timing.calibration import STREAM_CONTEXTS
from xtrace.symbols.sites.execution_bounds import MOST_SITES, part_of

if TYPE_CHECKING:
    from xtrace.analysis.cost.model import CostInputs, DomainCost

#: Whom it concerns, where that is no domain.
HOST = "host"
#: Two measurements of one TSC differ by less.
_SAME_TSC_RATIO = 0.002
_MOST_NAMED = 3


def needs_of_host(measures: Measures, inputs: CostInputs, pv_domains: Sequence[int]) -> list[dict[str, Any]]:
    """Return what is lacking whatever the domain."""
    found = []
    calibration = inputs.calibration
    if calibration is None:
        found.append(
            _need(
                HOST,
                "a calibration",
                "nothing tells what a fence takes on this host",
                "xtrace calibrate IMAGE -o FILE on it, then --calibration FILE",
            )
        )
    else:
        if calibration.timing != "hardware":
            found.append(
                _need(
                    HOST,
                    "a calibration on hardware",
                    f"this one's timing is {calibration.timing}",
                    "xtrace calibrate on the host itself, idle",
                )
            )
        elif inputs.emulated:
            model = calibration.host.get("cpu_model", "another machine")
            found.append(
                _need(
                    HOST,
                    "a trace of hardware",
                    "the traced host is emulated: counts are right, times and shares are not; the "
                    f"cycles are those of {model}",
                    "trace the host that was calibrated",
                )
            )
        ratio = measures.hz / calibration.tsc_hz if measures.hz else 1.0
        if abs(ratio - 1) > _SAME_TSC_RATIO and not inputs.emulated:
            found.append(
                _need(
                    HOST,
                    "a calibration of this CPU",
                    f"its TSC runs at {calibration.tsc_hz / 1e6:.0f} MHz, "
                    f"the trace's at {(measures.hz or 0) / 1e6:.0f} MHz",
                    "xtrace calibrate on the traced host",
                )
            )
        rows = [row for row in calibration.rows if row.context not in STREAM_CONTEXTS]
        loose = sum(not row.tight for row in rows if row.median_cycles is not None)
        if loose:
            found.append(
                _need(
                    HOST,
                    "tighter figures",
                    f"{loose} of {len(rows)} rows of the calibration that are no streams are not tight",
                    "xtrace calibrate without --quick, on an idle machine",
                )
            )
    if not measures.hz:
        found.append(
            _need(HOST, "the TSC rate", "nothing tells how many cycles a second has: no rates", "--cpu-hz")
        )
    if lost_records(measures):
        found.append(
            _need(
                HOST,
                "a trace without losses",
                f"{lost_records(measures)} records are lost: what is counted in the trace is too low",
                "xentrace with larger buffers (-S), or fewer events (-e)",
            )
        )
    given = {kernel.domain for kernel in inputs.kernels}
    without = [domain for domain in pv_domains if domain not in given]
    if without and not given:
        found.append(
            _need(
                HOST,
                "a kernel's image",
                f"no sites are known of the PV domains {_listed([f'd{domain}' for domain in without])}",
                f"--kernel {without[0]}=IMAGE",
            )
        )
    unused = [domain for domain in inputs.rates if domain not in given]
    found += [
        _need(
            domain,
            "a kernel's image",
            "its counters were given, its sites are not known",
            f"--kernel {domain}=IMAGE",
        )
        for domain in unused
    ]
    return found


def needs_of_domain(
    measures: Measures,
    inputs: CostInputs,
    facts: DomainFacts,
    cost: DomainCost | None,
    checks: Sequence[dict[str, Any]] = (),
) -> list[dict[str, Any]]:
    """Return what is lacking for one domain.

    Args:
        cost: None where nothing could be worked out.
        checks: what was compared.
    """
    domain = facts.domain
    if not facts.is_known:
        return [_need(domain, "the domain", "the trace has no such domain", "another --kernel DOMAIN=IMAGE")]
    if cost is None:
        return [
            _need(domain, "a PV guest", "HVM and PVH guests do not use the mask: they pay no fence there", "")
        ]
    found = []
    rates = inputs.rates.get(domain)
    if not cost.paths.sites:
        more = len(cost.kernel.sites.sites) > MOST_SITES
        why = f"more than {MOST_SITES} sites" if more else "no site was found in its image"
        return [_need(domain, "sites", why, "xtrace sites IMAGE says what was looked for")]
    fenced = [place for place, site in enumerate(cost.paths.sites) if part_of(site) is not None]
    if not fenced:
        return [
            _need(
                domain, "a fence", "no mask, restore or unmask site of its image has one: nothing to save", ""
            )
        ]
    if rates is None:
        found.append(
            _need(
                domain,
                "counts of its own",
                "the trace does not tell how often sites execute outside upcalls",
                f"--rates {domain}=FILE, counters of the guest",
            )
        )
    elif rates.over(measures.span_s) is None:
        found.append(
            _need(domain, "the TSC rate", "its rates a second cannot be set against the trace", "--cpu-hz")
        )
    found += _of_dom0(measures, facts)
    unbounded = [place for place in fenced if np.isinf(cost.executions.high[place])]
    if rates is not None and unbounded:
        names = _listed([_name(cost, place) for place in unbounded])
        found.append(
            _need(
                domain,
                "counts of some sites",
                f"no counter bounds {len(unbounded)} of {len(fenced)} fenced sites: {names}",
                "counters of these functions or addresses in --rates",
            )
        )
    if cost.paths.upcall is None:
        found.append(
            _need(
                domain,
                "the callback's entry",
                "its image does not tell where upcalls begin: no paths are counted",
                "an image with symbols",
            )
        )
    if cost.executions.unused and rates is not None:
        found.append(
            _need(
                domain,
                "names that the image knows",
                f"counters not used: {_listed(cost.executions.unused)}",
                "",
            )
        )
    return found + _contradictions(domain, checks) + _prices(inputs, cost, fenced)


def _contradictions(domain: int, checks: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return what would mend the checks that failed; those of bpf's upcalls last."""
    found = []
    for check in sorted(checks, key=lambda check: check["what"] == UPCALLS_BY_BPF):
        if check["agrees"] == "no":
            lacking, remedy = "counters that agree", "counters of the traced time, in --rates"
            if check["what"] == UPCALLS_BY_BPF:
                lacking, remedy = "upcalls that agree", "xtrace record again, with no record lost"
            found.append(_need(domain, lacking, check["meaning"], remedy))
    return found


def _of_dom0(measures: Measures, facts: DomainFacts) -> list[dict[str, Any]]:
    """Return what a recording in dom0 could tell of dom0 itself and does not."""
    if facts.domain:
        return []
    found = []
    if not facts.calls:
        found.append(
            _need(
                facts.domain,
                "bpf's counts",
                "calls of its functions and its upcalls were not counted in its kernel",
                "xtrace record with the backend bpf; xtrace doctor tells what that needs",
            )
        )
    elif all(np.isinf(most) for _, most in facts.calls.values()):
        found.append(
            _need(
                facts.domain,
                "bpf's counts without a gap",
                "its programs did not watch handlers and ports all the trace's time: calls have no most",
                "xtrace record to its end, of all traces that are reported on together",
            )
        )
    mixed = int(measures.partial.dom0_facts["sample_mixed"].sum())
    if mixed:
        found.append(
            _need(
                facts.domain,
                "samples of its own",
                f"{mixed:,} samples by hardware cycles are of all domains, and nothing in one tells "
                "of which: they are left out",
                "xtrace record on a Xen without vpmu=on: by dom0's software clock",
            )
        )
    return found


def _prices(inputs: CostInputs, cost: DomainCost, fenced: Sequence[int]) -> list[dict[str, Any]]:
    domain, price = cost.facts.domain, cost.price
    if price is None:
        if inputs.calibration is None:
            return []
        return [_need(domain, "figures", "the calibration has none", "xtrace calibrate on the traced host")]
    found = []
    for why, count in Counter(price.lacking[place] for place in fenced if price.lacking[place]).items():
        found.append(
            _need(
                domain,
                "a price",
                f"{why}: {count} of {len(fenced)} fenced sites count as 0 below, as unbounded above",
                "xtrace calibrate IMAGE",
            )
        )
    standard = sum(price.source[place] == "standard" for place in fenced)
    if standard:
        found.append(
            _need(
                domain,
                "replays of its sites",
                f"{standard} of {len(fenced)} fenced sites are priced by a standard sequence",
                "xtrace calibrate IMAGE, with this very image",
            )
        )
    return found


def _name(cost: DomainCost, place: int) -> str:
    site = cost.paths.sites[place]
    return site.symbol or f"{site.address:#x}"


def _listed(names: Sequence[str]) -> str:
    distinct = list(dict.fromkeys(names))
    more = len(distinct) - _MOST_NAMED
    return ", ".join(distinct[:_MOST_NAMED]) + (f" and {more} more" if more > 0 else "")


def _need(about: int | str, lacking: str, reason: str, remedy: str) -> dict[str, Any]:
    about = f"d{about}" if isinstance(about, int) else about
    return {"about": about, "lacking": lacking, "reason": reason, "remedy": remedy}
