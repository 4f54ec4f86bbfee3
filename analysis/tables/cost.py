"""Tables of what fences at mask, restore and unmask sites cost, and what a kernel without them would save.

docs/cost.md explains how to read them.  Known bias: the calibrated loops are not the kernel (the contexts
measured bound what its fences wait for), and without a fence the wait may move to the next instruction
that needs it, so the saving is at most what is shown.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import fields

import numpy as np

from xtrace.analysis.columns import Columns, of_rows
from xtrace.analysis.cost.rows import (
    CheckRow,
    CloseRow,
    DomainRow,
    Estimate,
    EstimateRow,
    NeedRow,
    SiteRow,
    UpcallRow,
)
from xtrace.analysis.coverage.needs import RUNSTATES, Reach
from xtrace.analysis.measures.table import Column, Quality, Table
from xtrace.analysis.summary.summary_head import COST_ENDS

_KEY, _EXACT, _BOUNDED, _MODELLED = Quality.KEY, Quality.EXACT, Quality.BOUNDED, Quality.MODELLED

_DOMAIN = Column("domain", _KEY, "domain id", "dom")
_PART = Column(
    "part",
    _KEY,
    "verdict on the sites: removable, replaceable, undecided (the image alone cannot decide) or keep",
    "part",
)
#: Types of columns by the type of the rows' fields.
_TYPES = {"int": np.int64, "float": np.float64, "str": object}


def domains(estimate: Estimate) -> Columns:
    """Return what fences cost each domain, by the sites' verdict."""
    return _columns(estimate.domains, DomainRow)


def upcalls(estimate: Estimate) -> Columns:
    """Return what fences add to an upcall of each domain, by the sites' verdict."""
    return _columns(estimate.upcalls, UpcallRow)


def sites(estimate: Estimate) -> Columns:
    """Return what the fences of each site cost, most expensive first."""
    return _columns(estimate.sites, SiteRow)


def close(estimate: Estimate) -> Columns:
    """Return what the fences of sites close together cost, both and each alone."""
    return _columns(estimate.close, CloseRow)


def estimates(estimate: Estimate) -> Columns:
    """Return the model's figures next to those measured without it."""
    return _columns(estimate.estimates, EstimateRow)


def checks(estimate: Estimate) -> Columns:
    """Return what was compared with the trace, and whether it agrees."""
    return _columns(estimate.checks, CheckRow)


def needs(estimate: Estimate) -> Columns:
    """Return the inputs that the cost model lacks, and how to get them."""
    return _columns(estimate.needs, NeedRow)


def _columns(rows: Sequence[object], kind: type) -> Columns:
    types = {field.name: _TYPES[str(field.type)] for field in fields(kind)}
    return of_rows([[getattr(row, name) for name in types] for row in rows], types)


def _ends(
    name: str, unit: str, what: str, headings: Sequence[str | None] = (None, None, None, None)
) -> tuple[Column, ...]:
    """Return the columns of an interval, by COST_ENDS: least, the two with hot caches, greatest."""
    meanings = (
        f"{what}: least, in the cheapest context; negative where fences make a stream of misses faster",
        f"{what}: least with no cache misses",
        f"{what}: greatest with no cache misses",
        f"{what}: in the most expensive context measured; usually, but not certainly, the greatest",
    )
    return tuple(
        Column(f"{name}_{end}_{unit}", _MODELLED, meaning, heading)
        for end, meaning, heading in zip(COST_ENDS, meanings, headings, strict=True)
    )


def _executions(headings: bool) -> tuple[Column, ...]:
    return (
        Column("execution_low_count", _BOUNDED, "executions during the trace, least"),
        Column("execution_high_count", _BOUNDED, "executions, most; null where nothing bounds them"),
        Column("execution_low_per_s", _BOUNDED, "least per second", "least/s" if headings else None),
        Column("execution_high_per_s", _BOUNDED, "most per second", "most/s" if headings else None),
    )


_DOMAINS = (
    _DOMAIN,
    _PART,
    Column("site_count", _EXACT, "mask, restore and unmask sites with a fence", "sites"),
    *_executions(True),
    *_ends("cost", "cycles", "time that the fences add"),
    Column("cost_low_cycles_per_s", _MODELLED, "least time added per second of the trace"),
    Column("cost_high_cycles_per_s", _MODELLED, "greatest time added per second of the trace"),
    Column(
        "running_cycles",
        _EXACT,
        "running time of the domain's vCPUs",
        needs=(RUNSTATES,),
        reach=Reach.VCPU,
    ),
    *_ends("cost", "ratio", "share of the domain's running time", ("least", "hot from", "hot to", "most")),
    Column(
        "most_is",
        _KEY,
        "what the greatest share is: a bound, the whole running time; usual, the price in the most expensive "
        "context measured, which the true one is usually below; contradiction, the least is more than the "
        "running time, so an input is wrong and there is no share",
        "most is",
    ),
)
_UPCALLS = (
    _DOMAIN,
    _PART,
    Column(
        "upcall_least_count",
        _BOUNDED,
        "upcalls, least: the guest's counter if it agrees with the trace; otherwise the trace's own bound, "
        "for dom0 narrowed by bpf",
    ),
    Column("upcall_most_count", _BOUNDED, "upcalls, most, known in the same way; inferred where it is bpf's"),
    Column(
        "execution_least_count",
        _BOUNDED,
        "executions of fenced sites on the shortest path from the callback entry to the iret",
        "least",
    ),
    Column(
        "execution_most_count",
        _BOUNDED,
        "on the longest path, or all executions divided by the least upcalls; null where nothing bounds them",
        "most",
    ),
    Column("added_low_cycles", _MODELLED, "time that these executions add to an upcall, least"),
    Column("added_hot_low_cycles", _MODELLED, "the same, least with hot caches", "adds"),
    Column(
        "added_hot_cycles", _MODELLED, "the same, greatest with hot caches; at most the upcall's time", "to"
    ),
    Column(
        "added_high_cycles",
        _MODELLED,
        "the same, usually below this; at most the upcall's time",
        "usually",
    ),
    Column("cost_low_ratio", _MODELLED, "share of the mean upcall's time, least", "share"),
    Column("cost_high_ratio", _MODELLED, "share of the mean upcall's time, usually below this", "usually"),
    Column(
        "all_low_cycles", _MODELLED, "time of fences inside and outside upcalls, per upcall: least", "all"
    ),
    Column(
        "all_high_cycles",
        _MODELLED,
        "the same, usually below this; null where nothing bounds the executions",
        "usually",
    ),
    Column("entry", _KEY, "the callback entry, and how it is known"),
    Column("unbounded_by", _KEY, "why the longest path has no bound; empty where it has one"),
)
_SITES = (
    _DOMAIN,
    Column("address", _KEY, "address of the site in the image"),
    Column("place", _KEY, "symbol and offset", "place"),
    Column("kind", _KEY, "mask, restore or unmask", "kind"),
    Column("fence", _KEY, "fences executed at the site", "fence"),
    _PART,
    *_executions(True),
    Column("executions_quality", _KEY, "quality of the execution counts: exact, bounded or inferred"),
    Column("executions_rule", _KEY, "how the execution counts are known"),
    *_ends("added", "cycles", "time added to one execution", (None, "adds", "to", "usually")),
    Column("priced_by", _KEY, "site: replayed as compiled; standard: the sequence for its kind and fence"),
    *_ends("cost", "cycles", "time added during the trace"),
    Column("cost_low_ratio", _MODELLED, "share of the domain's running time, least"),
    Column("cost_high_ratio", _MODELLED, "share of the domain's running time, usually below this"),
    Column("upcall_least_count", _BOUNDED, "executions on the shortest path of an upcall"),
    Column("upcall_most_count", _BOUNDED, "executions on the longest path; null where nothing bounds it"),
    Column(
        "record_count",
        _EXACT,
        "RIP samples in the site's function: they show entries into Xen, not executions or time",
    ),
)
_CLOSE = (
    _DOMAIN,
    Column("first", _KEY, "symbol and offset of a mask", "first"),
    Column("second", _KEY, "and of the restore or unmask close after it, with the same fence", "second"),
    Column("fence", _KEY, "the fence of both", "fence"),
    Column(
        "both_hot_low_cycles",
        _MODELLED,
        "time that both add to one execution: least with no cache misses",
        "both",
    ),
    Column("both_hot_cycles", _MODELLED, "the same, greatest with no cache misses", "to"),
    Column("first_hot_low_cycles", _MODELLED, "the first alone: least with no cache misses", "one"),
    Column("first_hot_cycles", _MODELLED, "the first alone: greatest with no cache misses", "to"),
    Column("second_hot_low_cycles", _MODELLED, "the second alone: least with no cache misses", "other"),
    Column("second_hot_cycles", _MODELLED, "the second alone: greatest with no cache misses", "to"),
    Column(
        "saving_ratio",
        _MODELLED,
        "what removing one of the two saves, as a share of what it costs alone: least over all contexts "
        "measured; 1 where the costs add up; null where neither costs anything",
        "saves",
    ),
    Column("context", _KEY, "the context in which that is (docs/calibrate.md); empty where there is none"),
)
_ESTIMATES = (
    _DOMAIN,
    Column("of", _KEY, "upcall: time that fences add to one; running time: their share of it", "of"),
    Column(
        "estimate",
        _KEY,
        "model; two captures: with fences minus without; samples: paused vCPUs found at or right after a "
        "fence; samples by clock: the same for dom0's software clock",
        "estimate",
    ),
    Column("low_cycles", _MODELLED, "time added to an upcall, least", "least"),
    Column("high_cycles", _MODELLED, "time added to an upcall, greatest", "most"),
    Column("cost_low_ratio", _MODELLED, "share of the running time, least", "least"),
    Column("cost_high_ratio", _MODELLED, "share of the running time, greatest", "most"),
    Column("basis", _KEY, "what the estimate is based on"),
    Column(
        "agrees",
        _KEY,
        "how the two intervals compare: overlap, the model is higher or lower; - where one is unknown",
        "together",
    ),
)
_CHECKS = (
    _DOMAIN,
    Column("what", _KEY, "what is compared", "what"),
    Column("meaning", _KEY, "what it is compared with, and how they disagree"),
    Column(
        "counted_count",
        _EXACT,
        "count by the guest's counters, scaled to the trace; by bpf: least",
        "counted",
    ),
    Column("traced_low_count", _BOUNDED, "count by the trace, least", "least"),
    Column("traced_high_count", _BOUNDED, "count by the trace, most; null for no bound", "most"),
    Column("agrees", _KEY, "yes or no; no: a count or a rate is based on a wrong assumption", "agrees"),
)
_NEEDS = (
    Column("about", _KEY, "the domain (such as d3), or host for the host, the trace or the calibration"),
    Column("missing", _KEY, "what is missing"),
    Column("reason", _KEY, "why the cost model needs it"),
    Column("remedy", _KEY, "command or option that provides it; empty where none does"),
)


def _table(
    name: str,
    title: str,
    make: Callable[[Estimate], Columns],
    columns: tuple[Column, ...],
    bias: str = "",
) -> Table[Estimate]:
    return Table(name, "cost", title, make, columns, bias, takes=Estimate)


TABLES = (
    _table(
        "cost_domains",
        "What fences cost, as a share of the domain's running time",
        domains,
        _DOMAINS,
        "modelled from the contexts calibrated; hot: no cache misses, which is likely",
    ),
    _table(
        "cost_upcalls",
        "What fences add to an upcall, and what all fences cost per upcall",
        upcalls,
        _UPCALLS,
        "on the paths from the callback entry to the iret, without nested upcalls; usually: below this",
    ),
    _table(
        "cost_sites",
        "What the fences of each site add to one execution",
        sites,
        _SITES,
        "most expensive first; adds, to: hot caches; usually: below this over all contexts measured",
    ),
    _table(
        "cost_close",
        "Sites close together: what both fences cost, and each alone",
        close,
        _CLOSE,
        "hot caches; saves: at least this share of its own cost, if only one of the two is removed",
    ),
    _table(
        "cost_estimates",
        "The model compared with measurements",
        estimates,
        _ESTIMATES,
        "two captures: any other difference between them counts as the fences' cost",
    ),
    _table("cost_checks", "Do the guest's counters, its sites and the trace agree?", checks, _CHECKS),
    _table("cost_needs", "What the cost model lacks", needs, _NEEDS),
)
