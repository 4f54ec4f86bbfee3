"""How much time do the fences at mask and restore sites take, and what would a kernel without them save?

The tables of the section cost; docs/cost.md tells how to read them.  Known bias: the calibrated loops are
not the kernel (what its fences wait for is bounded by the contexts measured), and removing a fence may
move a wait to the next instruction that needs it, so a saving is at most what is shown.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import fields

import pandas as pd

from xtrace.analysis.cost.rows import CheckRow, DomainRow, Estimate, EstimateRow, NeedRow, SiteRow, UpcallRow
from xtrace.analysis.measures.table import Column, Quality, Table
from xtrace.analysis.summary.summary_head import COST_ENDS

_KEY, _EXACT, _BOUNDED, _MODELLED = Quality.KEY, Quality.EXACT, Quality.BOUNDED, Quality.MODELLED

_DOMAIN = Column("domain", _KEY, "domain id", "dom")
_PART = Column(
    "part", _KEY, "verdict of the sites: removable, undecided (the image alone does not say), keep", "part"
)
#: Column types by those of the rows' fields.
_DTYPES = {"int": "int64", "float": "float64", "str": "object"}


def domains(estimate: Estimate) -> pd.DataFrame:
    """Return what the fences of each domain cost, by part."""
    return _frame(estimate.domains, DomainRow)


def upcalls(estimate: Estimate) -> pd.DataFrame:
    """Return what the fences of each domain cost in an upcall, by part."""
    return _frame(estimate.upcalls, UpcallRow)


def sites(estimate: Estimate) -> pd.DataFrame:
    """Return what the fences of each site cost, dearest first."""
    return _frame(estimate.sites, SiteRow)


def estimates(estimate: Estimate) -> pd.DataFrame:
    """Return the model's figures beside those measured without it."""
    return _frame(estimate.estimates, EstimateRow)


def checks(estimate: Estimate) -> pd.DataFrame:
    """Return what was compared, and whether it agrees."""
    return _frame(estimate.checks, CheckRow)


def needs(estimate: Estimate) -> pd.DataFrame:
    """Return what the cost lacks, and what gives it."""
    return _frame(estimate.needs, NeedRow)


def _frame(rows: Sequence[object], kind: type) -> pd.DataFrame:
    dtypes = {field.name: _DTYPES[str(field.type)] for field in fields(kind)}
    return pd.DataFrame(rows, columns=list(dtypes)).astype(dtypes)


def _ends(
    name: str, unit: str, what: str, headings: Sequence[str | None] = (None, None, None, None)
) -> tuple[Column, ...]:
    """Return the columns of an interval: least, least and greatest with hot caches, greatest."""
    meanings = (
        f"{what}: least, in the cheapest context; below 0 where fences make a stream of misses faster",
        f"{what}: least where nothing misses the caches",
        f"{what}: greatest where nothing misses the caches",
        f"{what}: greatest, in the dearest context measured",
    )
    return tuple(
        Column(f"{name}_{end}_{unit}", _MODELLED, meaning, heading)
        for end, meaning, heading in zip(COST_ENDS, meanings, headings, strict=True)
    )


def _executions(headings: bool) -> tuple[Column, ...]:
    return (
        Column("execution_low_count", _BOUNDED, "executions in the trace's time, least"),
        Column("execution_high_count", _BOUNDED, "most; null where nothing bounds them"),
        Column("execution_low_per_s", _BOUNDED, "least, a second", "least/s" if headings else None),
        Column("execution_high_per_s", _BOUNDED, "most, a second", "most/s" if headings else None),
    )


_DOMAINS = (
    _DOMAIN,
    _PART,
    Column("site_count", _EXACT, "mask, restore and unmask sites with a fence", "sites"),
    *_executions(True),
    *_ends("cost", "cycles", "time that the fences add"),
    Column("cost_low_cycles_per_s", _MODELLED, "least, in a second of the trace"),
    Column("cost_high_cycles_per_s", _MODELLED, "greatest, in a second of the trace"),
    Column("running_cycles", _EXACT, "time that the domain's vCPUs ran"),
    *_ends("cost", "ratio", "share of the time that the domain ran", ("least", "hot", "to", "most")),
    Column(
        "bound",
        _KEY,
        "what ends the interval: executions, or time where nothing bounds these: it is all the time there is",
        "by",
    ),
)
_UPCALLS = (
    _DOMAIN,
    _PART,
    Column(
        "upcall_least_count",
        _BOUNDED,
        "upcalls, least; by the guest's counter where it gives one, of dom0 else by bpf, too",
    ),
    Column("upcall_most_count", _BOUNDED, "upcalls, most; where bpf tells it, inferred"),
    Column(
        "execution_least_count",
        _BOUNDED,
        "executions of fenced sites on the shortest way from the callback's entry to the iret",
        "least",
    ),
    Column(
        "execution_most_count",
        _BOUNDED,
        "on the longest way, or all executions divided by the least upcalls; null where nothing bounds them",
        "most",
    ),
    Column("added_low_cycles", _MODELLED, "time that they add to an upcall, least"),
    Column("added_hot_low_cycles", _MODELLED, "least with hot caches", "adds"),
    Column("added_hot_cycles", _MODELLED, "greatest with hot caches; at most the upcall's time", "to"),
    Column("added_high_cycles", _MODELLED, "greatest; at most the upcall's time", "most"),
    Column("cost_low_ratio", _MODELLED, "share of the mean upcall's time, least", "share"),
    Column("cost_high_ratio", _MODELLED, "share of the mean upcall's time, greatest", "most"),
    Column(
        "all_low_cycles", _MODELLED, "the fences' time in and out of upcalls, for each upcall: least", "all"
    ),
    Column("all_high_cycles", _MODELLED, "greatest; null where nothing bounds it", "most"),
    Column("entry", _KEY, "the callback's entry, and how it is known"),
    Column("unbounded_by", _KEY, "what takes the bound of the longest way; empty where there is one"),
)
_SITES = (
    _DOMAIN,
    Column("address", _KEY, "of the site in the image"),
    Column("place", _KEY, "symbol and offset", "place"),
    Column("kind", _KEY, "mask, restore or unmask", "kind"),
    Column("fence", _KEY, "the fences that execute there", "fence"),
    _PART,
    *_executions(True),
    Column("executions_quality", _KEY, "how the executions are known: exact, bounded or inferred"),
    Column("executions_rule", _KEY, "what they rest on"),
    *_ends("added", "cycles", "time added to one execution", (None, "adds", "to", "most")),
    Column("priced_by", _KEY, "site: replayed as compiled; standard: the sequence of its kind and fence"),
    *_ends("cost", "cycles", "time added in the trace's time"),
    Column("cost_low_ratio", _MODELLED, "share of the time that the domain ran, least"),
    Column("cost_high_ratio", _MODELLED, "share of the time that the domain ran, greatest"),
    Column("upcall_least_count", _BOUNDED, "executions on the shortest way of an upcall"),
    Column("upcall_most_count", _BOUNDED, "on the longest; null where nothing bounds it"),
    Column(
        "record_count",
        _EXACT,
        "records of an address in its function: places that trap, no measure of executions or time",
    ),
)
_ESTIMATES = (
    _DOMAIN,
    Column("of", _KEY, "upcall: what fences add to one; running time: their share of it", "of"),
    Column(
        "estimate",
        _KEY,
        "model; two captures: with fences less without; samples: of paused vCPUs, at fences or behind them; "
        "samples by clock: of dom0, by its software clock",
        "estimate",
    ),
    Column("low_cycles", _MODELLED, "added to an upcall, least", "least"),
    Column("high_cycles", _MODELLED, "added to an upcall, greatest", "most"),
    Column("cost_low_ratio", _MODELLED, "share of the running time, least", "least"),
    Column("cost_high_ratio", _MODELLED, "share of the running time, greatest", "most"),
    Column("basis", _KEY, "what it rests on"),
    Column("agrees", _KEY, "how the two intervals lie", "together"),
)
_CHECKS = (
    _DOMAIN,
    Column("what", _KEY, "what is compared", "what"),
    Column("meaning", _KEY, "with what, and how it disagrees"),
    Column(
        "counted_count", _EXACT, "by the guest's counters, over the trace's time; by bpf: least", "counted"
    ),
    Column("traced_low_count", _BOUNDED, "by the trace, least", "least"),
    Column("traced_high_count", _BOUNDED, "by the trace, most; null for no bound", "most"),
    Column("agrees", _KEY, "no: a rate rests on something that is not so", "agrees"),
)
_NEEDS = (
    Column("about", _KEY, "the domain, as d3; host: the host, the trace or the calibration"),
    Column("lacking", _KEY, "what is lacking"),
    Column("reason", _KEY, "why the cost needs it"),
    Column("remedy", _KEY, "the command or option that gives it; empty where nothing does"),
)


def _table(
    name: str,
    title: str,
    make: Callable[[Estimate], pd.DataFrame],
    columns: tuple[Column, ...],
    bias: str = "",
) -> Table[Estimate]:
    return Table(name, "cost", title, make, columns, bias, takes=Estimate)


TABLES = (
    _table(
        "cost_domains",
        "What fences cost, as share of the time that the domain runs",
        domains,
        _DOMAINS,
        "95 % of the calibration, all contexts; hot, to: nothing misses the caches",
    ),
    _table(
        "cost_upcalls",
        "What fences cost in an upcall; and all of them for each upcall",
        upcalls,
        _UPCALLS,
        "on the ways from the callback's entry to the iret; nested upcalls apart",
    ),
    _table(
        "cost_sites",
        "What the fences of each site add to one execution",
        sites,
        _SITES,
        "dearest first; adds, to: with hot caches; most: of all contexts measured",
    ),
    _table(
        "cost_estimates",
        "The model beside what was measured without it",
        estimates,
        _ESTIMATES,
        "what else differs between the captures counts as the fences' there",
    ),
    _table("cost_checks", "Do the guest's counters, its sites and the trace agree?", checks, _CHECKS),
    _table("cost_needs", "What the cost lacks", needs, _NEEDS),
)
