"""The model's cost next to estimates without the model: two captures, and samples in time.

Rows of the table cost_estimates, if there is something to compare with: for an upcall, the difference of
two captures (paired_captures); for the running time, the share of samples at fences (fence_samples), and
what a trial of the same image measured in place.

Known bias of the samples: xenctx sees a vCPU where it was paused, which is mostly where it blocks; only
samples outside the hypercall page are taken as running.  Code that runs while dom0 runs is sampled more
often.  dom0's software clock arrives as an upcall, so masked code is sampled where it unmasks: in the
hypercall that forces the callback, whose samples count as right after a fence, or where an iret returns to,
whose samples do not.  In newer Linux that hypercall cannot be distinguished from others.  Even unbiased
samples would not be a bound (see fence_samples).
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from xtrace.analysis.cost.cross_checks.fence_samples import FenceShare, fence_share
from xtrace.analysis.cost.cross_checks.paired_captures import Difference, agreement, upcall_difference
from xtrace.analysis.cost.inputs import CostKernel, InPlace
from xtrace.analysis.cost.rows import DomainRow, EstimateRow, UpcallRow
from xtrace.analysis.measures.kernel_samples import KernelSamples
from xtrace.analysis.measures.measures import Measures
from xtrace.analysis.state_machine.metrics import RipSource
from xtrace.probes.xen_abi import HYPERCALL_PAGE_BYTES, HYPERCALL_ROOM_BYTES, Hypercall

#: Sources of samples in time, and the name of their estimate.
_SOURCES = {RipSource.XENCTX: "samples", RipSource.PERF_CLOCK: "samples by clock"}
#: In Linux without a hypercall page all hypercalls go through this function.
_HYPERCALL_NAME = "xen_hypercall"
_NO_BOUND = "not a bound: time that is lost because nothing overlaps is sampled elsewhere"
_MASKED = "masked code is sampled where it unmasks, and elsewhere if it forces no callback there"


def estimates(
    measures: Measures,
    samples: KernelSamples,
    kernel: CostKernel,
    unfenced: tuple[Measures, int] | None,
    of_upcalls: Sequence[UpcallRow],
    of_time: Sequence[DomainRow],
) -> list[EstimateRow]:
    """Return the estimates of a domain, each after the model's row for the same quantity.

    Args:
        unfenced: a capture of an unfenced kernel, and the domain in it.
        of_upcalls, of_time: the model's rows, one per part.
    """
    found = []
    if unfenced is not None and of_upcalls:
        low = sum(row.added_low_cycles for row in of_upcalls)
        high = sum(row.added_high_cycles for row in of_upcalls)
        difference = upcall_difference(measures, unfenced[0], kernel.domain, unfenced[1])
        basis = f"{difference.basis}: {difference.fenced_count} with fences, {difference.plain_count} without"
        agrees = agreement(low, high, difference)
        found += [
            _row(
                kernel.domain,
                "upcall",
                "model",
                agrees,
                "paths through an upcall, calibrated",
                cycles=(low, high),
            ),
            _row(
                kernel.domain,
                "upcall",
                "two captures",
                agrees,
                basis,
                cycles=(difference.low, difference.high),
            ),
        ]
    for source, name in _SOURCES.items() if of_time else ():
        sampled = _share(samples, kernel, source)
        if sampled is None:
            continue
        share, basis = sampled
        low = sum(row.cost_low_ratio for row in of_time)
        high = sum(row.cost_high_ratio for row in of_time)
        agrees = agreement(low, high, Difference(share.low, share.high, share.sample_count, 0, ""))
        found += [
            _row(kernel.domain, "running time", "model", agrees, "executions, calibrated", ratio=(low, high)),
            _row(kernel.domain, "running time", name, agrees, basis, ratio=(share.low, share.high)),
        ]
    return found


def beside_trial(
    domain: int, trial: InPlace, of_time: Sequence[DomainRow], implied: str = ""
) -> list[EstimateRow]:
    """Return the model's cost of the fences that a trial removed, and the trial's.

    Args:
        implied: what the trial's share is per execution, and in which contexts that is usual.
    """
    mine = [row for row in of_time if row.part in trial.parts]
    low = sum(row.cost_low_ratio for row in mine) if mine else np.nan
    high = sum(row.cost_high_ratio for row in mine) if mine else np.nan
    agrees = agreement(low, high, Difference(trial.low_ratio, trial.high_ratio, 0, 0, ""))
    basis = f"executions, calibrated; {implied}" if implied else "executions, calibrated"
    model = _row(domain, "running time", "model", agrees, basis, ratio=(low, high))
    ends = (trial.low_ratio, trial.high_ratio)
    return [_row(domain, "running time", "trial", agrees, trial.said, ratio=ends), model]


def _share(samples: KernelSamples, kernel: CostKernel, source: RipSource) -> tuple[FenceShare, str] | None:
    """Return the share of a domain's samples at its fences, and its basis; None without samples."""
    images, addresses = samples.images, samples.addresses
    offsets = images["load_offset"][images["domain"] == kernel.domain].tolist()
    mine = addresses.where(
        (addresses["domain"] == kernel.domain) & (addresses["source"] == source.name.lower())
    )
    if not len(mine) or not offsets or not offsets[0]:
        return None
    moved = np.uint64(int(offsets[0], 16) % 2**64)
    places = mine["rip"] - moved
    counts = mine["count"]
    page = kernel.sites.facts.hypercall_page
    entering = np.array([name.startswith(_HYPERCALL_NAME) for name in mine["function"].tolist()], bool)
    forced = np.zeros(len(places), bool)
    if page is not None:
        entering = entering | (places - np.uint64(page) < np.uint64(HYPERCALL_PAGE_BYTES))
        if source is RipSource.PERF_CLOCK:
            stub = np.uint64(page + Hypercall.XEN_VERSION * HYPERCALL_ROOM_BYTES)
            forced = places - stub < np.uint64(HYPERCALL_ROOM_BYTES)
    kept = ~entering | forced
    behind = kernel.behind()
    following = {*behind.values(), *places[forced].tolist()}
    share = fence_share(places[kept], counts[kept], behind.keys(), following)
    if source is RipSource.XENCTX:
        return share, (
            f"{share.at_count} samples at a fence, {share.behind_count} right after one, "
            f"of {share.sample_count} outside the hypercall page; {_NO_BOUND}"
        )
    in_forced = int(counts[forced].sum())
    unmasked = f"{in_forced} where a callback is forced" if page is not None else "none of masked code"
    return share, (
        f"by dom0's software clock: {share.at_count} samples at a fence, {share.behind_count - in_forced} "
        f"right after one, {unmasked}, of {share.sample_count} outside other hypercalls; {_MASKED}"
    )


def _row(
    domain: int,
    of: str,
    estimate: str,
    agrees: str,
    basis: str,
    *,
    cycles: tuple[float, float] = (np.nan, np.nan),
    ratio: tuple[float, float] = (np.nan, np.nan),
) -> EstimateRow:
    return EstimateRow(
        domain=domain,
        of=of,
        estimate=estimate,
        low_cycles=cycles[0],
        high_cycles=cycles[1],
        cost_low_ratio=ratio[0],
        cost_high_ratio=ratio[1],
        basis=basis,
        agrees=agrees,
    )
