"""Print a trial: the answer in a sentence, then what each group of fences takes; or a plan."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from xtrace.analysis.trial.result import Group, Interval, Result, dose_sentence, percent, sentence, warnings
from xtrace.cli.terminal.style import WIDTH, Put
from xtrace.cli.terminal.text import cut, safe, wrapped

if TYPE_CHECKING:
    from xtrace.analysis.trial.rehearsal import Rehearsal
    from xtrace.symbols.patching.plan import Plan

_ENDED = {"precision": "precise enough", "time": "time was up", "request": "ended on request"}
_MOST_REFUSED = 20
_NAME_WIDTH = 24


def print_trial(put: Put, found: Result, *, head: bool = True) -> None:
    """Print a result."""
    for line in wrapped(f"{sentence(found)} ({found.mark}).", WIDTH):
        put(line, bold=True)
    if more := dose_sentence(found):
        for line in wrapped(f"{more} ({found.mark}).", WIDTH):
            put(line)
    if head:
        put("")
        _print_head(put, found)
    put("")
    put(f"What no-ops in place of fences save, per unit of {safe(found.counter)}")
    put(f"(95 % interval, whatever ended the trial; p: randomisation test; {found.mark})")
    put(f"{'group':{_NAME_WIDTH}} fences  saved     from       to     ns     from       to      p")
    put("-" * WIDTH)
    for group in found.groups:
        put(_row(group))
    for warning in warnings(found):
        for line in wrapped(f"! {warning}", WIDTH):
            put(line)
    for item in found.refused[:_MOST_REFUSED]:
        for line in wrapped(
            f"not tried: {item.address:x} {safe(item.place)} {item.fence}: {item.reason}", WIDTH
        ):
            put(line)
    if len(found.refused) > _MOST_REFUSED:
        put(f"not tried: {len(found.refused) - _MOST_REFUSED} more; --json has all")


def _print_head(put: Put, found: Result) -> None:
    put(f"target   {safe(found.target)}; {percent(found.running_ratio)} of a CPU")
    put(cut(f"image    {safe(found.image)}, build-id {found.build_id or 'none'}", WIDTH))
    put(cut(f"host     {safe(found.host.get('cpu_model', '?'))}", WIDTH))
    if found.timing != "hardware":
        put("timing   emulated: times are not those of hardware")
    cycles = found.unit_cycles
    put(
        f"unit     {found.unit_ns.value:,.1f} ns as it is, {cycles.value:,.1f} TSC cycles; "
        f"{found.unit_count:,} counted"
    )
    put(
        f"design   {found.block_count:,} blocks of {found.slice_s * 1e6:,.0f} us slices, "
        f"{found.seconds:.1f} s"
        f"{', lengthened' if found.lengthened_count else ''}; "
        f"{_ENDED.get(found.ended_by, safe(found.ended_by))}"
    )
    if found.pause_count:
        put(
            f"pauses   {found.pause_count:,}, {found.pause_median_s * 1e3:.3f} ms at the median, as dom0 saw "
            "them; not in the running time"
        )
    others = f"; {found.kept_count} others kept" if found.kept_count else ""
    put(f"tried    {len(found.exchanged)} instructions exchanged, {len(found.refused)} refused{others}")


def _row(group: Group) -> str:
    saved, ns = group.saved.times(100), group.saved_ns
    fences = f"{group.fence_count}" if group.exchange_count else "-"
    p = "<.001" if group.p < 0.001 else f"{group.p:.3f}".lstrip("0") or "0"
    return (
        f"{cut(safe(group.name), _NAME_WIDTH):{_NAME_WIDTH}} {fences:>6} {_figures(saved, '%')} "
        f"{_figures(ns, '')} {p:>6}"
    )


def _figures(found: Interval, unit: str) -> str:
    places = 3 if found.half < 0.02 else 2 if found.half < 5 else 1
    value = f"{found.value:.{places}f}{unit}"
    return f"{value:>7} {found.low:>8.{places}f} {found.high:>8.{places}f}"


def print_rehearsal(put: Put, found: Rehearsal, name: str, counter: str) -> None:
    """Print what a dry run of a domain's trial found."""
    put(f"{safe(name)}: nothing was written", bold=True)
    put(
        f"pauses   {found.pause_count}, {found.pause_median_s * 1e3:.3f} ms at the median, "
        f"{found.pause_most_s * 1e3:.3f} at most, as dom0 saw them"
    )
    put(f"load     its vCPUs ran {percent(found.running_ratio)} of the time")
    put(f"unit     {safe(counter)} went on by {found.counted:,}")
    if not found.counted:
        put("! the counter does not advance: a trial would end without a figure")


def print_plan(put: Put, plan: Plan, image: str) -> None:
    """Print what would be exchanged."""
    put(f"image    {safe(image)}")
    count = sum(len(item.sites) for item in plan.exchanges)
    put(
        f"plan     {len(plan.exchanges)} instructions can be exchanged, for the fences of {count} sites; "
        f"{len(plan.refusals)} cannot"
    )
    if plan.kept_count:
        put(f"kept     {plan.kept_count} fences whose verdict forbids it")
    if plan.exchanges:
        put("")
        put(f"{'address':16}  {'bytes':>14}    {'removed':14}  what")
    for item in plan.exchanges:
        where = f" in {safe(item.symbol)}" if item.symbol else ""
        put(
            cut(
                f"{item.address:016x}  {item.original.hex():>14} -> {item.removed.hex():14}  "
                f"{safe(item.text)}{where}",
                WIDTH + 40,
            )
        )
    for refusal in plan.refusals:
        for line in wrapped(
            f"refused  {refusal.address:x} {safe(refusal.place)} {refusal.fence}: {safe(refusal.reason)}",
            WIDTH,
        ):
            put(line)
    for dose in plan.doses:
        put(
            f"doses    {dose.address:x} {safe(dose.callee)}: room for 1 to {dose.most} more {dose.fence} "
            "(--doses)"
        )
    for refusal in plan.dose_refusals:
        for line in wrapped(f"no dose  {safe(refusal.place)}: {safe(refusal.reason)}", WIDTH):
            put(line)


def plan_object(plan: Plan, image: str) -> dict[str, Any]:
    """Return a plan as JSON."""
    return {
        "schema_version": 1,
        "image": image,
        "exchanges": [item.json_object() for item in plan.exchanges],
        "refusals": [asdict(item) for item in plan.refusals],
        "doses": [item.json_object() for item in plan.doses],
        "dose_refusals": [asdict(item) for item in plan.dose_refusals],
        "kept_count": plan.kept_count,
    }
