"""Parse the output of ``xenalyze --dump-all``, and join it to the records.

Dumping is combined with ``--dump-raw-process`` and ``--dump-raw-reads``: the three share one
stdout, so the lines between two raw lines are the output for one record, and each gets
the record's pCPU, file offset, event and words.  Rules for those lines:

* The record's own text is the first line with the dump header: mark, time, pCPU string, vCPU.
  Mark ``]`` precedes generic dumps, VM entries and exits, ``!`` precedes HVM records without a
  VMEXIT, otherwise it is a space.  If no header is printed, the text is that of ``inj_exc``,
  ``pf_inject``, reinjection (no vCPU) or of the end of lost records (no time either).
* Every other line is kept as a remark: `` [w2h]``, ``  [vla]``, warnings, notes.  Empty lines
  (tickle_check ends with two newlines) are dropped.
* Some records print nothing (TICK, CREDIT_ADD, HVM_EMUL): their text is None.
* LOST_RECORDS is processed twice, so it has two rows: as itself, sorted at its first_tsc although
  the time shown is its own TSC, and as event 0x1f032 at its own TSC.

Times: ``--cpu-hz`` 1 GHz makes xenalyze's nanoseconds exact cycles (see ``dumped_ns``), so
that is the default.  They count from the first TSC processed; an untimed record shows the
last TSC of its pCPU.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from peer.xenalyze_run import XenalyzeError, run

CYCLES_HZ = 1_000_000_000
LOST_RECORDS = 0x1F001
LOST_RECORDS_END = 0x1F032
CPU_CHANGE = 0x1F003

Field = int | str | None
Decoded = tuple[str, dict[str, Field]]


@dataclass(frozen=True, slots=True)
class DumpLine:
    """One processed record and xenalyze's output for it.

    Attributes:
        pcpu: the pCPU.
        offset: file offset of the header word in bytes.
        event: event id; 0x1f032 for the second pass over a LOST_RECORDS.
        tsc: TSC in cycles with xenalyze's skew correction, None when untimed.
        words: the extra words.
        time: nanoseconds shown (cycles at 1 GHz); 0 if it shows blanks, None without a header.
        pcpus: one character for each pCPU: x this one, | running a vCPU, - idle, . default domain, l lost,
            space unknown.  The characters of other pCPUs may be one step out of date.
        vcpu: ``d3v0``; ``d?v?`` if no vCPU is current, "" without a header.
        mark: the character before the header.
        text: the text after the header, None if nothing is printed.  A leading space is the
            indent of a hypercall of a multicall.
        remarks: the other lines.
    """

    pcpu: int
    offset: int
    event: int
    tsc: int | None
    words: tuple[int, ...]
    time: int | None
    pcpus: str
    vcpu: str
    mark: str
    text: str | None
    remarks: tuple[str, ...]

    @property
    def time_s(self) -> float | None:
        """The time shown, in seconds."""
        return None if self.time is None else self.time / 1e9


@dataclass(frozen=True, slots=True)
class Dump:
    """The records in the order of processing, and the output before the first one and at the end."""

    lines: list[DumpLine]
    preamble: tuple[str, ...]


_HEADER = re.compile(r"([ \]!])(?: *(\d+)\.(\d{9})| {14}) ([-x.|l \d]+) (d\d+v\d+|d\?v\?) (.*)")
_NO_VCPU = re.compile(r" +(\d+)\.(\d{9}) ([-x.|l \d]+) ((?:inj_exc|inj_virq|pf_inject|destroy_proc).*)")
_LOST_END = re.compile(r" {15}([-x.|l \d]+) (lost_records end (?:d\d+v\d+|\(domain invalid\)))---")


def dump_all(path: Path, cpu_hz: int = CYCLES_HZ, extra_args: Sequence[str] = ()) -> Dump:
    """Return every record of ``path`` in xenalyze's merge order, with its output for the record.

    Raises:
        XenalyzeError: xenalyze aborted, or a raw line cannot be joined to its read.
    """
    options = ["--dump-all", "--dump-raw-process", "--dump-raw-reads", "--cpu-hz", str(cpu_hz)]
    return parse_dump(run(path, [*options, *extra_args]).stdout.decode("ascii", "replace"))


def parse_dump(text: str) -> Dump:
    """Parse the combined output of the three dump options."""
    # The one message without a newline: the next line follows it directly.
    text = text.replace("detected, leaving INIT", "detected, leaving INIT\n")
    waiting: dict[str, list[tuple[int, int]]] = {}
    lines: list[DumpLine] = []
    said: list[str] = []
    preamble: tuple[str, ...] = ()
    current: tuple[int, int, str] | None = None

    def finish() -> None:
        nonlocal preamble
        if current is None:
            preamble = tuple(said)
        else:
            lines.append(_line(*current, said))
        said.clear()

    for line in text.split("\n"):
        if line.startswith("R p"):
            pcpu, offset = line[3:].split(" o", 1)
            tail = offset[18:]
            if int(tail[:7], 16) != CPU_CHANGE:
                waiting.setdefault(tail, []).append((int(pcpu), int(offset[:16], 16)))
        elif line.startswith("* "):
            finish()
            tail = line[3:]
            event = int(tail[:7], 16)
            key = f"{LOST_RECORDS:7x}{tail[7:]}" if event == LOST_RECORDS_END else tail
            places = waiting.get(key)
            if not places:
                raise XenalyzeError(f"processed but never read: {line}", text.encode())
            place = places[0] if event == LOST_RECORDS else places.pop(0)
            if not places:
                del waiting[key]
            current = (*place, tail)
        elif line:
            said.append(line)
    finish()
    return Dump(lines, preamble)


def _line(pcpu: int, offset: int, tail: str, said: list[str]) -> DumpLine:
    """Return the row of one record from its raw line and its output lines."""
    head, _, rest = tail.partition("[")
    event, n_words, tsc = head.split()
    words = tuple(int(rest[i * 9 : i * 9 + 9], 16) for i in range(int(n_words)))
    time: int | None = None
    pcpus = vcpu = ""
    mark = " "
    text: str | None = None
    remarks = []
    for line in said:
        if text is None and (match := _HEADER.fullmatch(line)):
            mark, seconds, ns, pcpus, vcpu, text = match.groups()
            time = int(seconds) * 1_000_000_000 + int(ns) if seconds else 0
        elif text is None and (match := _NO_VCPU.fullmatch(line)):
            seconds, ns, pcpus, text = match.groups()
            time = int(seconds) * 1_000_000_000 + int(ns)
        elif text is None and (match := _LOST_END.fullmatch(line)):
            pcpus, text = match.groups()
        else:
            remarks.append(line)
    return DumpLine(
        pcpu=pcpu,
        offset=offset,
        event=int(event, 16),
        tsc=None if tsc == "-" else int(tsc),
        words=words,
        time=time,
        pcpus=pcpus,
        vcpu=vcpu,
        mark=mark,
        text=text,
        remarks=tuple(remarks),
    )


# --- from text to fields ------------------------------------------------------------------------

#: Words of a record that its text does not show, by decoded name; comparisons must leave them out.
NOT_SHOWN = {
    "csched2:update_vcpu_load": "shift (only as the scale of the percentage)",
    "csched2:update_rq_load": "shift (only as the scale of the percentages)",
    "csched2:picked_cpu": "b_avgload",
    "csched2:schedule": "tasklet, idle, smt_idle, tickled only as zero or not; smt_idle only when idle",
    "csched2:runq_tickle": "the upper 16 bits of cpu",
    "csched2:runq_assign": "the upper 16 bits of rqi",
    "sched_switch_next": "waited_ns is 0 when absent; slice_ns absent stands for zero and below",
    "sched_switch_continue": "slice_ns absent stands for zero and below",
    "hypercall": "argument words of mmu_update, multicall, grant_table_op, vcpu_op, mmuext_op, sched_op "
    "except the fields named; which arguments are present",
    "hypercall_subcall": "as for hypercall",
    "trap": "use_error_code is whether ec is shown; ec of a trap without one",
    "pm_idle_start": "tick, expected, predicted",
    "pm_idle_end": "tick, irq vectors",
    "intr": "the vector, always 0 with --svm-mode",
    "intr_window": "intr when not positive (shown as #)",
    "inj_virq": "fake only as zero or not",
    "vmexit": "the number of a named reason",
}

#: Names of records without payload, which have no fields.
NO_PAYLOAD = frozenset(
    {"csched2:update_load", "csched2:sched_tasklet", "csched:sched_tasklet", "math_state_restore"}
)
#: Names whose fields are not words of the record: vmentry shows the cycles since the VMEXIT.
INFERRED = frozenset({"vmentry"})


def _us_to_ns(whole: str, rest: str) -> int:
    """Undo ``%u.%uus`` of ns/1000 and ns%1000, printed without leading zeros: 8.5us is 8005 ns."""
    return int(whole) * 1000 + int(rest)


def _vcpu(match: re.Match[str]) -> dict[str, Field]:
    return {"dom": int(match["dom"]), "vcpu": int(match["vcpu"])}


def _integers(match: re.Match[str]) -> dict[str, Field]:
    """Return all groups that are present, as numbers (base 16 for names that end in _x) or as text."""
    fields: dict[str, Field] = {}
    for name, value in match.groupdict().items():
        if value is None:
            continue
        if name.endswith("_x"):
            fields[name[:-2]] = int(value, 16)
        else:
            fields[name] = int(value) if value.lstrip("-").isdigit() else value
    return fields


def _words(match: re.Match[str]) -> dict[str, Field]:
    return {f"word{i}": int(word, 16) for i, word in enumerate((match["words"] or "").split())}


def _switch_prev(match: re.Match[str]) -> dict[str, Field]:
    return {**_vcpu(match), "ran_ns": _us_to_ns(match["us"], match["ns"])}


def _switch_next(match: re.Match[str]) -> dict[str, Field]:
    waited = _us_to_ns(match["us"], match["ns"]) if match["us"] else 0
    slice_ns = _us_to_ns(match["slice_us"], match["slice_ns"]) if match["slice_us"] else None
    return {**_vcpu(match), "waited_ns": waited, "slice_ns": slice_ns}


def _switch_continue(match: re.Match[str]) -> dict[str, Field]:
    slice_ns = _us_to_ns(match["slice_us"], match["slice_ns"]) if match["slice_us"] else None
    return {**_switch_prev(match), "slice_ns": slice_ns}


def _burn(match: re.Match[str]) -> dict[str, Field]:
    budget = int(match["budget"]) if match["budget"] else None
    return {**_vcpu(match), "credit": int(match["credit"]), "budget": budget, "delta": int(match["delta"])}


def _candidate(match: re.Match[str]) -> dict[str, Field]:
    tickled = 0xFFFF_FFFF if match["cpu"] is None else int(match["cpu"])
    return {**_vcpu(match), "credit": int(match["credit"]), "tickled_cpu": tickled}


def _schedule(match: re.Match[str]) -> dict[str, Field]:
    shown = match.groupdict()
    fields: dict[str, Field] = {"cpu": int(match["cpu"])}
    if "rqi" in shown:
        fields["rqi"] = int(match["rqi"])
    fields["tasklet"] = int(match["tasklet"] is not None)
    fields["idle"] = int(match["idle"] == "idle")
    if shown.get("smt") is not None:
        fields["smt_idle"] = int(match["smt"] == "idle")
    if "tickled" in shown:
        fields["tickled"] = int(match["tickled"] == "tickled")
    return fields


_HYPERCALL_REST = (
    ("mmu_update", re.compile(r" (?P<updates>-?\d+) updates(?P<preempted> \(preempted\))?")),
    ("multicall", re.compile(r" (?P<calls>-?\d+) calls")),
    ("grant_table_op", re.compile(r" (?P<cmd>\w+|unknown \(\d+\)) (?P<ops>-?\d+) ops")),
    ("vcpu_op", re.compile(r" (?P<cmd>\w+|unknown \(\d+\)) vcpu (?P<target_vcpu>-?\d+)")),
    ("mmuext_op", re.compile(r" (?P<ops>-?\d+) ops")),
    ("sched_op", re.compile(r" (?P<cmd>\w+|unknown \(\d+\))")),
)


def _hypercall(match: re.Match[str]) -> dict[str, Field]:
    """Return op, name and the arguments that are shown.

    mmuext_op's count keeps its preempted bit and so turns negative: it is returned as 32 bits.
    Other calls show up to six arguments, 32 bits in hex, 64 bits in decimal with 16 digits.
    """
    fields: dict[str, Field] = {"op": int(match["op"], 16), "name": match["name"]}
    rest = match["rest"] or ""
    for name, pattern in _HYPERCALL_REST:
        if match["name"] == name:
            found = pattern.fullmatch(rest)
            if found is None:
                raise XenalyzeError(f"not known of {name}: {rest!r}")
            for key, value in found.groupdict().items():
                if key == "preempted":
                    fields[key] = int(value is not None)
                else:
                    fields[key] = value if key == "cmd" else int(value) & 0xFFFF_FFFF
            return fields
    for i, argument in enumerate(rest.split()):
        fields[f"arg{i}"] = None if argument == "??" else int(argument, 10 if len(argument) >= 16 else 16)
    return fields


# A shape is a regular expression with {field} for a decimal number, {field:x} for a hex one, and:
_PARTS = {
    "V": r"d(?P<dom>\d+)v(?P<vcpu>-?\d+)",
    "SLICE": r"(?:, next slice (?P<slice_us>\d+)\.(?P<slice_ns>\d+)us)?",
    "PERCENT": r"-?[\d.]+(?:nan|inf)?%",
    "STATES": r"(?P<old>\w+)->(?P<new>\w+)",
    "NAME": r"(?: \((?P<name>[^ ]+)\))?",
    "WORDS": r"(?P<words>(?: [0-9a-f]+)*)",
    "PV_NAMES": "page_fault|forced_invalid_op|emulate privop|emulate 4g|math state restore|paging fixup"
    r"|gdt/ldt mapping fault|PV-\d+ ",
}


def _pattern(shape: str) -> re.Pattern[str]:
    def part(match: re.Match[str]) -> str:
        name, base = match.groups()
        if name in _PARTS:
            return _PARTS[name]
        return f"(?P<{name}_x>[0-9a-f]+)" if base else rf"(?P<{name}>-?\d+)"

    return re.compile(re.sub(r"\{(\w+)(:x)?\}", part, shape))


_Shape = tuple[str, str, Callable[[re.Match[str]], dict[str, Field]]]
# Grouped by the first letters of the text, so that a line is matched against few patterns.
_SHAPES: tuple[_Shape, ...] = (
    ("hypercall", r"hypercall +(?P<op>[0-9a-f]+){NAME} eip {eip:x}", _integers),
    ("hypercall", r"hypercall +(?P<op>[0-9a-f]+){NAME}(?P<rest>(?! eip).*)", _hypercall),
    ("hypercall_subcall", r" hypercall +(?P<op>[0-9a-f]+){NAME}(?P<rest>.*)", _hypercall),
    ("runstate_change", r"runstate_change {V} {STATES}", _integers),
    ("runstate_continue", r"runstate_continue {V} {STATES}", _integers),
    ("vcpu_wake", r"vcpu_wake {V}", _vcpu),
    ("vcpu_block", r"vcpu_block {V}", _vcpu),
    ("vcpu_sleep", r"vcpu_sleep {V}", _vcpu),
    ("vcpu_yield", r"vcpu_yield {V}", _vcpu),
    ("sched_init_domain", r"sched_init_domain d{dom}", _integers),
    ("sched_destroy_domain", r"sched_destroy_domain d{dom}", _integers),
    ("sched_adjust", r"sched_adjust d{dom}", _integers),
    ("sched_shutdown", r"sched_shutdown {V}, reason = {reason}", _integers),
    ("sched_shutdown_code", r"sched_shutdown_code {V}, reason = {reason}", _integers),
    (
        "sched_switch",
        r"sched_switch prev d{prev_dom}v{prev_vcpu} next d{next_dom}v{next_vcpu}",
        _integers,
    ),
    ("sched_switch_prev", r"sched_switch prev {V}, run for {us}\.{ns}us", _switch_prev),
    (
        "sched_switch_next",
        r"sched_switch next {V}(?:, was runnable for {us}\.{ns}us)?{SLICE}",
        _switch_next,
    ),
    ("sched_switch_continue", r"sched_switch continue {V}, run for {us}\.{ns}us{SLICE}", _switch_continue),
    ("csched2:update_load", r"csched2:update_load", _integers),
    ("csched2:sched_tasklet", r"csched2:sched_tasklet", _integers),
    (
        "csched2:update_rq_load",
        r"csched2:update_rq_load rq# {rqi}, load = {load}, avgload = {PERCENT} "
        r"\({avgload}\), b_avgload = {PERCENT} \({b_avgload}\)",
        _integers,
    ),
    (
        "csched2:update_vcpu_load",
        r"csched2:update_vcpu_load {V}, vcpu_load = {PERCENT} \({load}\)",
        _integers,
    ),
    (
        "csched2:burn_credits",
        r"csched2:burn_credits {V}, credit = {credit}, (?:budget = {budget}, )?delta = {delta}",
        _burn,
    ),
    ("csched2:runq_cand_check", r"csched2:runq_cand_check {V}", _vcpu),
    (
        "csched2:runq_candidate",
        r"csched2:runq_candidate {V}, credit = {credit}, (?:no cpu|cpu {cpu}) was tickled",
        _candidate,
    ),
    (
        "csched2:schedule",
        r"csched2:schedule cpu {cpu}, rq# {rqi}(?P<tasklet>, tasklet scheduled)?, (?P<idle>idle|busy)"
        r"(?:, SMT (?P<smt>idle|busy))?, (?P<tickled>(?:not )?tickled)",
        _schedule,
    ),
    ("csched2:runq_insert", r"csched2:runq_insert {V}, position {position}", _integers),
    (
        "csched2:runq_tickle_new",
        r"csched2:runq_tickle_new {V}, processor = {cpu}, credit = {credit}",
        _integers,
    ),
    ("csched2:runq_tickle", r"csched2:runq_tickle cpu {cpu}", _integers),
    ("csched2:tickle_check", r"csched2:tickle_check {V}, credit = {credit}(?:, score = {score})?", _integers),
    (
        "csched2:reset_credits",
        r"csched2:reset_credits {V}, credit_start = {start}, credit_end = {end}",
        _integers,
    ),
    ("csched2:ratelimit", r"csched2:ratelimit, {V} run only {us}\.{ns}us", _switch_prev),
    ("csched2:runq_assign", r"csched2:runq_assign {V} on rq# {rqi}", _integers),
    (
        "csched2:update_max_weight",
        r"csched2:update_max_weight rq# {rqi}, max_weight = {max_weight}",
        _integers,
    ),
    ("csched2:migrate", r"csched2:migrate {V} rq# {rqi} --> rq# {to_rqi}", _integers),
    (
        "csched2:load_balance_check",
        r"csched2:load_balance_check lrq# {rqi}, orq# {other_rqi}, delta = {delta}",
        _integers,
    ),
    (
        "csched2:load_balance_begin",
        r"csched2:load_balance_begin lrq# {rqi}, avg_load = {avgload} "
        r"-- orq# {other_rqi}, avg_load = {other_avgload}",
        _integers,
    ),
    ("csched2:picked_cpu", r"csched2:picked_cpu {V}, rq# {rqi}, cpu {cpu}", _integers),
    ("csched:sched_tasklet", r"csched:sched_tasklet", _integers),
    ("csched:acct_start", r"csched:acct_start {V}, active_vcpus {active}", _integers),
    ("csched:acct_stop", r"csched:acct_stop {V}, active_vcpus {active}", _integers),
    ("csched:stolen_vcpu", r"csched:stolen_vcpu {V} from cpu {cpu}", _integers),
    ("csched:pick_cpu", r"csched:pick_cpu {cpu} for {V}", _integers),
    ("csched:runq_tickle", r"csched:runq_tickle, cpu {cpu}", _integers),
    ("csched:boosted", r"csched: {V} boosted", _vcpu),
    ("csched:unboosted", r"csched: {V} unboosted", _vcpu),
    (
        "csched:schedule",
        r"csched:schedule cpu {cpu}(?P<tasklet>, tasklet scheduled)?, (?P<idle>idle|busy)",
        _schedule,
    ),
    ("csched:ratelimit", r"csched:ratelimit, {V} run only {us}\.{ns}us", _switch_prev),
    ("csched:load_balance", r"csched:load_balance (?P<check>checking|skipping) {cpu}", _integers),
    ("trap", r"trap {trapnr:x} eip {eip:x}(?: ec {ec:x})?", _integers),
    ("ptwr", r"ptwr l1e {l1e:x} eip {eip:x} addr {addr:x}", _integers),
    ("pv", r"(?P<name>{PV_NAMES})(?:\[ (?P<words>(?:[0-9a-f]+ )*)\])?", _words),
    (
        "irq_handled",
        r"irq_handled irq {irq:x} {cycles} \({start},{end}\)",
        _integers,
    ),
    (
        "irq_move_cleanup_delay",
        r"irq_move_cleanup_delay irq {irq:x} vec {vector:x} cpu {cpu}",
        _integers,
    ),
    (
        "irq_move_cleanup",
        r"irq_move_cleanup irq {irq:x} vec {vector:x} cpu {cpu}",
        _integers,
    ),
    (
        "irq_assign_vector",
        r"irq_assign_vector irq {irq:x} vec {vector:x} mask {mask3:x} "
        r"{mask2:x} {mask1:x} {mask0:x}",
        _integers,
    ),
    (
        "irq_bind_vector",
        r"irq_bind_vector irq {irq:x} vec {vector:x} mask {mask3:x} "
        r"{mask2:x} {mask1:x} {mask0:x}",
        _integers,
    ),
    ("irq_unmapped_vector", r"irq_unmapped_vector vec {vector:x}", _integers),
    ("pm_idle_start", r"pm_idle_start c{cx}", _integers),
    ("pm_idle_end", r"pm_idle_end c{cx}", _integers),
    ("pm_freq_change", r"pm_freq_change o{old} n{new}", _integers),
    ("grant_map", r"grant-map domain {dom}", _integers),
    ("grant_unmap", r"grant-unmap domain {dom}", _integers),
    ("grant_transfer", r"grant-transfer domain {dom}", _integers),
    (
        "set_p2m_entry",
        r"set_p2m_entry d{dom} o{order} t {type} g {gfn:x} m {mfn:x}",
        _integers,
    ),
    ("decrease_reservation", r"decrease_reservation d{dom} o{order} g {gfn:x}", _integers),
    ("pod_populate", r"pod_populate d{dom} o{order} g {gfn:x} m {mfn:x}", _integers),
    ("domain_create", r"creating domain d{dom}", _integers),
    ("domain_destroy", r"destroying domain d{dom}", _integers),
    ("vmexit", r"vmexit exit_reason (?P<reason>\w+) eip {rip:x}(?P<symbol> .*)?", _integers),
    ("vmentry", r"vmentry(?: cycles {cycles} !?)?", _integers),
    ("inj_virq", r"inj_virq vec {vector}(?:  (?P<fake>fake|real))?", _integers),
    ("inj_exc", r"inj_exc trap (?P<trap>.+) ec {ec:x}", _integers),
    ("pf_inject", r"pf_inject(?:64)? guest_cr2 {cr2:x}  guest_ec {ec:x}", _integers),
    (
        "intr_window",
        r"intr_window vec {vector} src {source}\((?P<source_name>[a-z?]+)\) intr (?:#|{intr:x})",
        _integers,
    ),
    ("intr", r"intr vec (?:(?P<name>\w+)\()?{vector:x}\)?", _integers),
    ("vmcall", r"vmcall +{op:x}{NAME}", _integers),
    ("msr_read", r"msr_read addr {msr:x} val {value:x}", _integers),
    ("msr_write", r"msr_write addr {msr:x} val {value:x}", _integers),
    ("cr_write", r"cr_write cr{cr} val {value:x}(?: oval {old:x} (?:flush|switch))?", _integers),
    ("rdtsc", r"rdtsc {tsc:x} -?\d+ (?:BACKWARDS)?", _integers),
    (
        "npf",
        r"npf gpa {gpa:x} q {qualification:x} mfn {mfn:x} t {type}",
        _integers,
    ),
    (
        "lost_records",
        r"lost_records count {count} {V} \(cur (?:X|d{cur_dom}v{cur_vcpu})\) first_tsc {first_tsc}",
        _integers,
    ),
    ("lost_records_end", r"lost_records end (?:{V}|\(domain invalid\))", _integers),
    # Last: records dumped as words, by HVM handler name or as event(class:sub-class:minor).
    ("generic", r" *(?P<event>[0-9a-f]+)\([0-9a-f]+:[0-9a-f]+:[0-9a-f]+\) \d+ \[{WORDS} \]", _words),
    ("hvm", r"(?P<name>[a-z_0-9]+?|hvm_handler \d+)(?P<wide>64)? \[{WORDS} \]", _words),
)

_KEY_LENGTH = 11
_COMPILED = [(name, _pattern(shape), fields) for name, shape, fields in _SHAPES]
_BY_KEY: dict[str, list[tuple[str, re.Pattern[str], Callable[[re.Match[str]], dict[str, Field]]]]] = {}


def decode(text: str) -> Decoded | None:
    """Return name and fields of a dumped text, or None for an unknown text.

    PV events and HVM handlers that are dumped as words get the names ``page_fault``,
    ``emulate_privop``, ``cpuid`` ... and fields word0 ...; other words ``event_<id>``.
    """
    shapes = _BY_KEY.setdefault(text[:_KEY_LENGTH], [])
    for shape in shapes:
        if match := shape[1].fullmatch(text):
            return _name(shape[0], match), shape[2](match)
    for shape in _COMPILED:
        if shape not in shapes and (match := shape[1].fullmatch(text)):
            shapes.append(shape)
            return _name(shape[0], match), shape[2](match)
    return None


def _name(shape: str, match: re.Match[str]) -> str:
    if shape == "generic":
        return f"event_{match['event']}"
    if shape in ("pv", "hvm"):
        return match["name"].strip().replace(" ", "_").replace("/", "_")
    return shape
