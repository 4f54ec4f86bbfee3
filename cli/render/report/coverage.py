"""What a trace covers and what it does not, in lines: in the words of the command that would record it."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from xtrace.analysis.coverage.needs import Records
from xtrace.probes.words import ranges

if TYPE_CHECKING:
    from xtrace.analysis.coverage.coverage import Coverage

#: The class of each kind of records, and what a report lacks without them.
_CLASSES = {
    Records.RUNSTATES: "sched",
    Records.SWITCHES: "sched",
    Records.PV: "pv",
    Records.EXITS: "hvm",
    Records.HANDLERS: "hvm",
    Records.IRQS: "hw",
    Records.IDLE: "hw",
    Records.MEMORY: "mem",
}
_GIVES = {
    Records.RUNSTATES: "what ran where, how long vCPUs waited",
    Records.SWITCHES: "wakes, and how long they took",
    Records.ENTRIES: "causes of wakes, sends, upcalls",
    Records.IRQS: "interrupts, and the wakes by them",
}


def coverage_lines(coverage: Coverage, hz: float | None) -> Iterator[tuple[str, str]]:
    """Yield (label, text): one line on what is covered, then one for each thing that is missing.

    Args:
        hz: TSC rate; None where it is not known.
    """
    yield "covered", covered(coverage)
    for records, gives in _GIVES.items():
        kind = coverage.kinds[records]
        if kind.reason:
            names = ", ".join(records.value.names)
            yield (
                "missing",
                f"{kind.reason}; xentrace -e {records.value.masks} (xtrace record --class {names}) "
                f"gives {gives}",
            )
    if coverage.hole_count:
        yield "missing", _holes(coverage, hz)
    if coverage.silence_cycles:
        yield (
            "missing",
            f"perhaps: no pCPU has a record for {_length(coverage.silence_cycles, hz)}, at least four times "
            "as long as any other silence; if another recording follows there, or windows are missing "
            "(xentrace -M drops the oldest), times across it are wrong, so all are inferred",
        )
    if coverage.hidden_hole_count:
        many = f"{coverage.hidden_hole_count:,} run{'s' if coverage.hidden_hole_count > 1 else ''}"
        yield (
            "missing",
            f"perhaps windows in the middle: {many} of vCPUs lasted longer than the scheduler's own records "
            "allow, as if it had switched in between; all times are inferred",
        )
    if coverage.quiet_end_count:
        many = f"{coverage.quiet_end_count} pCPU{'s' if coverage.quiet_end_count > 1 else ''}"
        yield (
            "missing",
            f"perhaps: the last records of {many}, which had none in the recorder's round of reading before "
            "the last one, and may not have been read in that; all times are inferred",
        )
    if coverage.shared_count:
        yield (
            "missing",
            "records that another xentrace took, or changed the mask for, beside the recorder; nothing "
            "shows which and how many, so all figures are inferred",
        )
    if coverage.left_out_count:
        yield (
            "left out",
            f"{coverage.left_out_count:,} intervals, as the trace has more domains, vCPUs or interrupts than "
            "are kept apart; all figures are inferred",
        )
    if coverage.has_all_pcpus:
        return
    many = f"{coverage.contradiction_count:,} records of runstates contradict earlier ones"
    if coverage.missing_pcpus:
        which = ranges(coverage.missing_pcpus)
        yield (
            "missing",
            f"pCPU{'s' if len(coverage.missing_pcpus) > 1 else ''} {which}: named by records, but without a "
            f"window; {many}, because vCPUs ran there: shares are lower bounds, times are inferred; without "
            "-c all pCPUs are recorded",
        )
    else:
        yield (
            "missing",
            f"{many}: a pCPU or a part of the trace is missing, or TSCs differ; shares are lower bounds, "
            "times are inferred",
        )


def _holes(coverage: Coverage, hz: float | None) -> str:
    count = coverage.hole_count
    length = _length(coverage.hole_cycles, hz)
    # Where more were found than are listed, others may be of more pCPUs.
    pcpus = sorted({hole.pcpu for hole in coverage.holes}) if count == len(coverage.holes) else []
    of = f" of pCPU{'s' if len(pcpus) > 1 else ''} {ranges(pcpus)}" if pcpus else " of pCPUs' time"
    in_all = " in all" if count > 1 else ""
    if len(coverage.pcpus) > 1 and coverage.blank_cycles:
        return (
            f"no pCPU was recorded for {_length(coverage.blank_cycles, hz)}: another recording follows "
            f"there, or all windows are missing; {count:,} stretches{of}, {length}{in_all}, and nothing is "
            "counted across them"
        )
    return (
        f"{count:,} stretch{'es' if count > 1 else ''}{of}, {length}{in_all}: windows are missing from "
        "the file (xentrace -M drops the oldest); nothing is counted across them"
    )


def _length(cycles: int, hz: float | None) -> str:
    if not hz:
        return f"{cycles:,} cycles"
    ms = cycles / hz * 1e3
    return f"{ms:.3g} ms" if ms < 1000 else f"{ms / 1e3:.3f} s"


def covered(coverage: Coverage) -> str:
    """Return what is covered: pCPUs, the share of their time, classes of records."""
    text, share, known = _pcpus(coverage), covered_share(coverage), classes(coverage)
    if share:
        text += f", {share} of {'their' if len(coverage.pcpus) > 1 else 'its'} time"
    return f"{text}; records of {known}" if known else text


def covered_briefly(coverage: Coverage) -> str:
    """Return the same in fewer words."""
    share, known = covered_share(coverage), classes(coverage)
    return f"{_pcpus(coverage)}{f', {share} of it covered' if share else ''}{f': {known}' if known else ''}"


def classes(coverage: Coverage) -> str:
    """Return the classes of which there are records."""
    return ", ".join(
        dict.fromkeys(name for records, name in _CLASSES.items() if coverage.kinds[records].count)
    )


def covered_share(coverage: Coverage) -> str:
    """Return the share of the pCPUs' time that is covered; "" where nothing is."""
    known = sum(pcpu.covered_cycles for pcpu in coverage.pcpus)
    whole = sum(p.covered_cycles + p.lost_cycles + p.unknown_cycles for p in coverage.pcpus)
    return _percent(known / whole) if whole and known else ""


def _pcpus(coverage: Coverage) -> str:
    pcpus = [pcpu.pcpu for pcpu in coverage.pcpus]
    return f"pCPU{'s' if len(pcpus) > 1 else ''} {ranges(pcpus)}"


def _percent(share: float) -> str:
    """Return a share that is 100 % only where it is whole."""
    return "all" if share == 1 else f"{min(share, 0.9999):.2%}"
