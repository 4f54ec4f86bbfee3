"""The verdict on every combination of a site's surroundings, against hand-written tables and the model.

A row of a table is a case of the rule: a word for each question, ``*`` if it does not matter.  Exactly one
row must match each combination of answers.  The tables are then compared with the model checker, which does
not know the rule: a fence is removable if and only if no upcall is lost without it.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from itertools import permutations, product

import pytest

from builders.made_sites import fence
from xtrace.symbols.flow.interpreter import FunctionFlow
from xtrace.symbols.flow.walk import Paths, Ways
from xtrace.symbols.proof import operational, rule, templates
from xtrace.symbols.proof.description import REST, SAVED, UNCHANGED, Access, Cell, Description, Path, Role
from xtrace.symbols.proof.faults import Fault
from xtrace.symbols.proof.templates import IRET, TAKE, Protocol, Retest, Scenario, Take, Width, describe
from xtrace.symbols.sites.access_kind import Touch
from xtrace.symbols.sites.fences import Found
from xtrace.symbols.sites.handlers import Order
from xtrace.symbols.sites.model import Cpu, Fence, Hazard, How, Kind, Verdict
from xtrace.symbols.sites.vcpu_info import Spot
from xtrace.symbols.sites.verdict import Proof, Surroundings, hazards, judged, proof_of, site_verdict
from xtrace.symbols.x86.decode import NO_REGISTER, WRITE, Flow, Insn, Memory

STORE, FENCE, LATER = 0x1000, 0x1004, 0x1040

#: The questions, and the answers to each.
ANSWERS = {
    "kind": ("mask", "restore", "unmask", "clear", "set", "selector", "other"),
    "fence": ("access", "between", "beside"),  # the access itself; between P := 0 and S; elsewhere
    "width": ("byte", "wide"),  # of a plain store
    "opens": ("no", "yes"),  # the site may unmask
    "tests": ("none", "some", "all"),  # paths with a pending test after the site
    "before": ("no", "yes"),  # a pending test before the site
    "exit": ("no", "yes"),  # an exit through Xen follows
    "handlers": ("plain", "locked"),  # how the image's handlers take the selector
    # How the selector is taken around this pending clear.
    "taken": ("locked", "plain", "first", "never"),
    "preemption": ("on", "off"),
    # Whose vcpu_info it is.
    "pointer": ("running", "fixed", "loaded", "reread", "field", "index", "chosen"),
    "reopened": ("none", "some", "all"),  # paths from a mask to an unmask
}
KINDS: dict[str, tuple[Kind, ...]] = {
    "mask": (Kind.MASK,),
    "restore": (Kind.RESTORE,),
    "unmask": (Kind.UNMASK,),
    "clear": (Kind.PENDING_CLEAR,),
    "set": (Kind.PENDING_SET,),
    "selector": (Kind.SELECTOR_SET,),
}
KINDS["other"] = tuple(kind for kind in Kind if (kind,) not in KINDS.values())
PATHS = {"none": Paths.NONE, "some": Paths.SOME, "all": Paths.ALL}

VERDICTS = """
kind           fence            width opens tests     before exit handlers : verdict   reason
clear|set      access           *     *     *         *      *    *        : keep      others-write
selector|other access           *     *     *         *      *    *        : keep      others-write
mask           access           wide  *     *         *      *    *        : undecided wide
restore|unmask access           wide  *     *         *      *    *        : undecided wide
mask           access           byte  *     *         *      *    plain    : undecided handlers
mask           access           byte  *     *         *      *    locked   : replaceable by-a-byte-store
restore|unmask access           byte  no    *         *      *    plain    : undecided handlers
restore|unmask access           byte  no    *         *      *    locked   : replaceable by-store-and-test
restore|unmask access           byte  yes   all       *      *    plain    : undecided handlers
restore|unmask access           byte  yes   all       *      *    locked   : replaceable by-store-and-test
restore|unmask access           byte  yes   none|some *      yes  plain    : undecided handlers
restore|unmask access           byte  yes   none|some *      yes  locked   : replaceable by-store-and-exit
restore|unmask access           byte  yes   some      *      no   *        : undecided no-test
restore|unmask access           byte  yes   none      no     no   *        : undecided no-test
restore|unmask access           byte  yes   none      yes    no   *        : undecided tested-before
clear          between          *     *     *         *      *    *        : keep      orders
clear          beside           *     *     *         *      *    *        : keep      outside
set            between|beside   *     *     *         *      *    *        : keep      outside
selector|other between|beside   *     *     *         *      *    *        : keep      outside
mask           between|beside   wide  *     *         *      *    *        : undecided wide
restore|unmask between|beside   wide  *     *         *      *    *        : undecided wide
mask           between|beside   byte  *     *         *      *    plain    : undecided handlers
mask           between|beside   byte  *     *         *      *    locked   : removable nobody-else-reads
restore|unmask between|beside   byte  no    *         *      *    plain    : undecided handlers
restore|unmask between|beside   byte  no    *         *      *    locked   : removable tested
restore|unmask between|beside   byte  yes   all       *      *    plain    : undecided handlers
restore|unmask between|beside   byte  yes   all       *      *    locked   : removable tested
restore|unmask between|beside   byte  yes   none|some *      yes  plain    : undecided handlers
restore|unmask between|beside   byte  yes   none|some *      yes  locked   : removable exit
restore|unmask between|beside   byte  yes   some      *      no   *        : undecided no-test
restore|unmask between|beside   byte  yes   none      no     no   *        : undecided no-test
restore|unmask between|beside   byte  yes   none      yes    no   *        : undecided tested-before
"""
REASONS = {
    "by-a-byte-store": "a byte store would do: only Xen's exit",
    "by-store-and-test": "a byte store and a test would do: Xen tests pending after this store",
    "by-store-and-exit": "a byte store and a test would do: no test follows, but iret at 0x1040",
    "others-write": "other CPUs write this field",
    "orders": "every CPU must see pending clear before the selector is taken",
    "outside": "a {kind} is outside the rule",
    "wide": "the store is wider than a byte",
    "handlers": "a handler in this image does not clear pending and then take the selector",
    "nobody-else-reads": "only Xen's exit to the guest on this CPU reads the mask",
    "tested": "Xen tests pending after this store, or the test that follows sees the event",
    "exit": "no test follows, but iret at 0x1040",
    "no-test": "a pending test was not found on every path after the store",
    "tested-before": "pending is tested before the store, not after it",
}

#: A table for each hazard, because they are independent; "-" if there is none.
HAZARDS = (
    """
kind                width : hazard
mask|restore|unmask wide  : the-store
clear|set           wide  : the-store
selector            wide  : the-selectors-store
other               wide  : -
*                   byte  : -
""",
    """
kind           opens tests before exit : hazard
restore|unmask yes   none  no     no   : no-test-follows
restore|unmask yes   none  yes    no   : tested-before-it
restore|unmask yes   some  *      no   : some-ways-have-no-test
restore|unmask yes   all   *      no   : -
restore|unmask yes   *     *      yes  : -
restore|unmask no    *     *      *    : -
mask|clear     *     *     *      *    : -
set|other      *     *     *      *    : -
selector       *     *     *      *    : -
""",
    """
kind                taken  : hazard
clear               plain  : the-selector
clear               first  : taken-before-it
clear               never  : nothing-follows
clear               locked : -
mask|restore|unmask *      : -
set|other|selector  *      : -
""",
    """
kind                preemption pointer       : hazard
mask|restore|unmask on         loaded        : loaded-before
mask|restore|unmask on         reread        : read-again
mask|restore|unmask on         field         : not-known-to-be-ours
mask|restore|unmask *          index         : not-known-to-be-ours
restore|unmask      *          chosen        : not-known-to-be-ours
mask                *          chosen        : -
mask|restore|unmask on         running|fixed : -
mask|restore|unmask off        running|fixed : -
mask|restore|unmask off        loaded|reread : -
mask|restore|unmask off        field         : -
clear|set|other     *          *             : -
selector            *          *             : -
""",
    """
kind                reopened : hazard
mask                some     : some-ways-stay-masked
mask                none|all : -
restore|unmask      *        : -
clear|set|other     *        : -
selector            *        : -
""",
)
HAZARD_REASONS = {
    "the-store": ("wide-store", "the store is 2 bytes wide"),
    "no-test-follows": ("no-pending-test", "no pending test follows the store"),
    "some-ways-have-no-test": ("no-pending-test", "on some paths no pending test follows the store"),
    "tested-before-it": ("test-before-store", "pending is tested at 0xff0, 0xff8, before the store"),
    "the-selectors-store": ("unlocked-handler", "the selector is stored without a lock"),
    "taken-before-it": ("take-before-clear", "the selector is taken at 0x1040, 0x1048, before pending is"),
    "nothing-follows": ("clear-without-take", "no locked access and no take of the selector follows"),
    "read-again": ("unstable-pointer", "the store and the pending test may be on different CPUs"),
    "the-selector": ("unlocked-handler", "the selector is used at 0x1040, 0x1048 without a locked access"),
    "loaded-before": ("unstable-pointer", "the pointer was loaded earlier"),
    "not-known-to-be-ours": ("unstable-pointer", "nothing shows that this is the running CPU's"),
    "some-ways-stay-masked": ("unbalanced", "some paths unmask again (at 0x1040, 0x1044, 0x1048)"),
}
STORES = ("mask", "restore", "unmask")
Case = dict[str, str]


@dataclass(frozen=True)
class Row:
    """One row of a table: the answers that it matches, and its result."""

    answers: Mapping[str, tuple[str, ...]]
    says: tuple[str, ...]

    def fits(self, case: Case) -> bool:
        return all(case[question] in answers for question, answers in self.answers.items())


def rows(table: str) -> list[Row]:
    """Return the rows of a table.

    Raises:
        KeyError: an unknown question.
        ValueError: a row has too few or too many words.
        AssertionError: an unknown answer.
    """
    head, *lines = table.strip().splitlines()
    questions = head.split(":")[0].split()
    found = []
    for line in lines:
        left, right = line.split(":")
        answers = {}
        for question, word in zip(questions, left.split(), strict=True):
            answers[question] = ANSWERS[question] if word == "*" else tuple(word.split("|"))
            assert set(answers[question]) <= set(ANSWERS[question]), line
        found.append(Row(answers, tuple(right.split())))
    return found


def cases(*questions: str) -> Iterator[Case]:
    """Yield each combination of the answers to some questions."""
    for answers in product(*(ANSWERS[question] for question in questions)):
        yield dict(zip(questions, answers, strict=True))


def told(table: str, case: Case) -> tuple[str, ...]:
    (row,) = [row for row in rows_of(table) if row.fits(case)]
    return row.says


rows_of = functools.cache(rows)


# --- a case as the code's own types ---------------------------------------------------------------

#: A case without any fault; a test gives what it changes.
RIGHT: Case = {
    "kind": "unmask", "fence": "beside", "width": "byte", "opens": "yes", "tests": "all", "before": "no",
    "exit": "no", "handlers": "locked", "taken": "locked", "preemption": "off", "pointer": "running",
    "reopened": "none",
}  # fmt: skip
POINTERS = {
    "running": (Cpu.RUNNING, "per-CPU vcpu_info at 0x40"),
    "fixed": (Cpu.FIXED, "shared_info, vCPU 0"),
    "loaded": (Cpu.LOADED, "per-CPU pointer at 0x40"),
    "reread": (Cpu.LOADED, "shared_info, vCPU by this CPU's number"),
    "field": (Cpu.OTHER, "CPU structure (an argument), field 0x40"),
    "index": (Cpu.OTHER, "shared_info, vCPU by index"),
    "chosen": (Cpu.OTHER, "per-CPU pointer at 0x40"),
}
ORDERS = {
    "locked": Order(Ways((), Paths.NONE)),
    "plain": Order(Ways((), Paths.NONE), unlocked=(LATER, LATER + 8)),
    "first": Order(Ways((), Paths.NONE), taken=(LATER, LATER + 8), ends=True, misses=True),
    "never": Order(Ways((), Paths.NONE), ends=True, misses=True),
}


def touch_of(case: Case, kind: Kind) -> Touch:
    is_wide = case["width"] == "wide"
    insn = instruction(STORE, "mov", 2 if is_wide else 1)
    cpu, origin = POINTERS[case["pointer"]]
    flow = FunctionFlow(STORE, {STORE: insn}, {STORE: ()})
    return Touch(insn, kind, Spot(1, origin, cpu), flow, None, is_wide, False)


def instruction(address: int, mnemonic: str, size: int = 1, *, lock: bool = False) -> Insn:
    memory = Memory(False, 3, NO_REGISTER, 1, 1, size)
    return Insn(address, 4, mnemonic, Flow.NEXT, -1, (), memory, WRITE, (), lock)


def around_of(case: Case) -> Surroundings:
    reopened = (LATER, LATER + 4, LATER + 8, LATER + 12)
    return Surroundings(
        tests=ways(case["tests"], LATER),
        tested_before=(STORE - 16, STORE - 8) if case["before"] == "yes" else (),
        owes_test=case["opens"] == "yes",
        exit=f"iret at {LATER:#x}" if case["exit"] == "yes" else "",
        reopened=ways(case["reopened"], *reopened),
        guarded=case["preemption"] == "off",
        order=replace(
            ORDERS[case["taken"]], locked=ways("all" if case["fence"] == "between" else "none", FENCE)
        ),
        reread=(LATER,) if case["pointer"] == "reread" else (),
    )


def judged_in(case: Case, kind: Kind, *, orders: bool = False) -> Fence:
    return judged(found_of(case), touch_of(case, kind), around_of(case), proof_in(case, kind), orders=orders)


def hazards_in(case: Case, kind: Kind) -> tuple[Hazard, ...]:
    return hazards(touch_of(case, kind), around_of(case), proof_in(case, kind))


P, M, S = Cell.P, Cell.M, Cell.S
IN_XEN = Access(xen=True)


def proof_in(case: Case, kind: Kind) -> Proof:
    """Return the proof of a case: what its site does on each path, and what the handlers do."""
    return proof_of(description_of(case, kind))


@functools.cache
def described(kind: Kind, *answers: str) -> Description | None:
    case = dict(zip(DESCRIBES, answers, strict=True))
    wrong = case["handlers"] == "plain"
    handlers = describe(Scenario(Protocol.HANDLER, take=Take.READ if wrong else Take.XCHG)).handlers
    if kind is Kind.PENDING_CLEAR:
        return Description(Role.HANDLER, (), tuple(clearing(case["taken"])), ((0, 0),))
    if kind is Kind.SELECTOR_TAKE:
        return Description(Role.HANDLER, (), handlers, ((0, 0),))
    if kind is Kind.SELECTOR_SET and case["width"] == "wide":
        return Description(Role.MASK, ((Access(writes=((S, UNCHANGED),)),),), handlers, ((0, 0),))
    if kind not in (Kind.MASK, Kind.RESTORE, Kind.UNMASK):
        return None
    opens = kind is not Kind.MASK and case["opens"] == "yes"
    value = 1 if not opens else 0 if kind is Kind.UNMASK else SAVED
    store = Access(writes=((M, value),), drains=case["fence"] == "access", address=STORE)
    if case["width"] == "wide":
        store = Access(writes=((P, UNCHANGED), (M, value)), address=STORE)
    lead = (store, Access(fence="lfence", address=FENCE)) if case["fence"] == "beside" else (store,)
    if not opens:
        return Description(Role.MASK, (lead,), handlers, ((0, 0),))
    starts = ((1, 0),) if kind is Kind.UNMASK else ((1, 0), (1, 1))
    return Description(Role.OPEN, tuple(opening_paths(case, lead)), handlers, starts)


#: The questions that a description answers.
DESCRIBES = ("fence", "width", "opens", "tests", "before", "exit", "handlers", "taken")


def description_of(case: Case, kind: Kind) -> Description | None:
    return described(kind, *(case[question] for question in DESCRIBES))


def opening_paths(case: Case, lead: Path) -> Iterator[Path]:
    """Yield the paths of a store that may open the mask."""
    seen, unseen = Access((P,), when=((P, 1),)), Access((P,), when=((P, 0),))
    if case["tests"] != "none":
        yield (*lead, seen, IN_XEN)
        yield (*lead, unseen)
    if case["tests"] == "all":
        return
    if case["exit"] == "yes":
        yield (*lead, IN_XEN)
    elif case["before"] == "yes" and case["tests"] == "none":
        for address in (STORE - 16, STORE - 8):
            yield (replace(unseen, address=address), *lead)
            yield (replace(seen, address=address), *lead)
    else:
        yield lead


def clearing(taken: str) -> Iterator[Path]:
    """Yield the paths of a handler that takes the selector in the way that a case says."""
    clear, end = Access(writes=((P, 0),)), IRET
    for address in (LATER, LATER + 8):
        take = replace(TAKE, address=address)
        if taken == "locked":
            yield (clear, take, end)
        elif taken == "plain":
            yield (clear, Access((S,), address=address), Access(writes=((S, REST),), drains=True), end)
        elif taken == "first":
            yield (take, clear, end)
        else:
            yield (clear, end)


def ways(word: str, *hits: int) -> Ways:
    return Ways(() if word == "none" else hits, PATHS[word])


def found_of(case: Case) -> Found:
    if case["fence"] == "access":
        return Found(instruction(STORE, "xchg"), STORE, How.INLINE, "", "access", Paths.ALL)
    return Found(instruction(FENCE, "lfence"), FENCE, How.INLINE, "", "after", Paths.ALL)


# --- the tables ------------------------------------------------------------------------------------


@pytest.mark.parametrize("table", [VERDICTS, *HAZARDS])
def test_exactly_one_row_matches_each_combination(table: str) -> None:
    questions = next(iter(rows(table))).answers
    for case in cases(*questions):
        assert sum(row.fits(case) for row in rows_of(table)) == 1, case


def test_all_words_are_used_and_reasons_differ() -> None:
    assert {says[1] for says in (row.says for row in rows(VERDICTS))} == set(REASONS)
    said = {row.says[0] for table in HAZARDS for row in rows(table)}
    assert said - {"-"} == set(HAZARD_REASONS)
    for reasons in (list(REASONS.values()), list(HAZARD_REASONS.values())):
        assert len(set(reasons)) == len(reasons)


QUESTIONS = ("kind", "fence", "width", "opens", "tests", "before", "exit", "handlers")


def test_verdict_on_every_combination() -> None:
    seen = 0
    for case in cases(*QUESTIONS):
        verdict, reason = told(VERDICTS, case)
        for kind in KINDS[case["kind"]]:
            full = RIGHT | case
            fence = judged_in(full, kind)
            assert fence.verdict == verdict, (case, kind)
            assert fence.reason.startswith(REASONS[reason].format(kind=kind)), (case, kind)
            seen += 1
    assert seen == len(Kind) * 3 * 2 * 2 * 3 * 2 * 2 * 2


def test_hazard_questions_do_not_affect_the_verdict() -> None:
    """Preemption, the pointer, the unmasks after a mask and how this clear's selector is taken."""
    for case in cases("kind", "tests", "handlers"):
        for kind in KINDS[case["kind"]]:
            results = {
                judged_in(full, kind)
                for full in (
                    RIGHT | case | other for other in cases("taken", "preemption", "pointer", "reopened")
                )
            }
            assert len(results) == 1


def test_hazards_of_every_combination() -> None:
    questions = ("kind", "width", "opens", "tests", "before", "exit")
    more = ("taken", "preemption", "pointer", "reopened")
    for case in cases(*questions, *more):
        words = [word for table in HAZARDS for (word,) in [told(table, case)] if word != "-"]
        expected = [HAZARD_REASONS[word] for word in words]
        full = RIGHT | case
        for kind in KINDS[case["kind"]]:
            found = hazards_in(full, kind)
            assert [hazard.name for hazard in found] == [name for name, _ in expected], (case, kind)
            for hazard, (_, reason) in zip(found, expected, strict=True):
                assert hazard.reason.startswith(reason), (case, kind)


# --- the model checker, which does not know the rule ------------------------------------------------

#: Combinations of a store to the mask for which the model has a scenario: a mask never unmasks, an unmask
#: always does.
OF_STORES = [
    case | {"fence": "beside"}
    for case in cases("kind", "width", "opens", "tests", "before", "exit", "handlers")
    if (case["kind"], case["opens"])
    in [("mask", "no"), ("restore", "no"), ("restore", "yes"), ("unmask", "yes")]
]


@functools.cache
def check(scenario: Scenario) -> operational.Outcome:
    return operational.check(describe(scenario))


def holds(scenario: Scenario) -> bool:
    return check(scenario).holds


def scenario_of(case: Case) -> Scenario:
    """Return the scenario of a store's case without its fence, for the worst of its paths."""
    protocol = {"mask": Protocol.MASK, "restore": Protocol.RESTORE, "unmask": Protocol.UNMASK}[case["kind"]]
    if case["opens"] == "no":
        protocol = Protocol.MASK  # it can only store 1
    retest = Retest.BEFORE if case["before"] == "yes" and case["tests"] == "none" else Retest.NONE
    if case["exit"] == "yes":
        retest = Retest.XEN_EXIT
    if case["tests"] == "all":
        retest = Retest.AFTER
    return Scenario(
        protocol,
        width=Width.WIDE if case["width"] == "wide" else Width.BYTE,
        retest=retest,
        take=Take.XCHG if case["handlers"] == "locked" else Take.READ,
    )


def test_fence_is_removable_if_and_only_if_nothing_is_lost_without_it() -> None:
    by_verdict = dict.fromkeys(("removable", "undecided"), 0)
    for case in OF_STORES:
        verdict, _ = told(VERDICTS, case)
        assert (verdict == "removable") is holds(scenario_of(case)), case
        by_verdict[verdict] += 1
    assert min(by_verdict.values()) >= 20


def test_access_is_replaceable_if_and_only_if_a_byte_store_and_its_test_lose_nothing() -> None:
    """And then the locked access loses nothing either, and the runs end in the same states."""
    seen = 0
    for case in OF_STORES:
        verdict, _ = told(VERDICTS, case | {"fence": "access"})
        assert (verdict == "replaceable") is holds(scenario_of(case)), case
        if verdict == "replaceable":
            seen += 1
            locked, plain = (
                check(replace(scenario_of(case), width=width)) for width in (Width.LOCKED, Width.BYTE)
            )
            assert locked.holds
            assert locked.ends == plain.ends
    assert seen >= 20


@pytest.mark.parametrize("width", [Width.EXCHANGE, Width.LOCKED_WIDE])
def test_access_that_tests_pending_itself_can_be_a_byte_store_and_a_test(width: Width) -> None:
    locked = check(Scenario(Protocol.UNMASK, width=width, retest=Retest.ITSELF))
    plain = check(Scenario(Protocol.UNMASK))
    assert locked.holds
    assert plain.holds
    assert locked.ends == plain.ends


def test_plain_access_that_tests_pending_itself_fails_for_its_width() -> None:
    wide = Scenario(Protocol.UNMASK, width=Width.WIDE, retest=Retest.ITSELF)
    assert not holds(wide)
    assert holds(replace(wide, width=Width.BYTE))


def test_fence_that_a_handler_needs_is_kept_at_any_site() -> None:
    for case in OF_STORES:
        for fence_ in ("access", "beside"):
            full = RIGHT | case | {"fence": fence_}
            (kind,) = KINDS[case["kind"]]
            found = judged(
                found_of(full), touch_of(full, kind), around_of(full), proof_in(full, kind), orders=True
            )
            assert found.verdict is Verdict.KEEP


def test_undecided_cases_are_not_fixed_by_any_fence() -> None:
    """An upcall is lost even with the strongest fence: the fault is elsewhere."""
    for case in OF_STORES:
        if told(VERDICTS, case)[0] == "undecided":
            assert not holds(replace(scenario_of(case), fence=templates.Fence.MFENCE)), case


@pytest.mark.parametrize("handlers", ["plain", "locked"])
def test_fence_kept_between_p_and_s_is_needed(handlers: str) -> None:
    """The locked access is the one that takes S, or one before a plain read of S."""
    assert told(VERDICTS, RIGHT | {"kind": "clear", "fence": "between", "handlers": handlers})[0] == "keep"
    assert holds(Scenario(Protocol.HANDLER, take=Take.XCHG))
    assert holds(Scenario(Protocol.HANDLER, templates.Fence.LOCK, take=Take.READ))
    assert not holds(Scenario(Protocol.HANDLER, take=Take.READ))


def test_cases_where_the_rule_is_more_careful_than_the_model() -> None:
    """Fences that the model would let go and the rule does not."""
    # A second fence at a handler's clear, which the handler's xchg of S already orders.
    beside = RIGHT | {"kind": "clear", "fence": "beside"}
    assert told(VERDICTS, beside)[0] == "keep"
    for position in (False, True):
        spare = Scenario(Protocol.HANDLER, templates.Fence.MFENCE, position)
        assert holds(spare)
        assert holds(replace(spare, fence=templates.Fence.NONE))


def deviation(**changes: str) -> Case:
    return RIGHT | changes


#: Cases with one fault, and its hazard; None if the case has no fault.
DEVIATIONS: list[tuple[Case, str | None]] = [(deviation(kind="mask", tests="none", before="yes"), None)]
for store in STORES:
    DEVIATIONS += [(deviation(kind=store), None), (deviation(kind=store, width="wide"), "wide-store")]
for opening in ("restore", "unmask"):
    DEVIATIONS += [
        (deviation(kind=opening, tests="none"), "no-pending-test"),
        (deviation(kind=opening, tests="some"), "no-pending-test"),
        (deviation(kind=opening, tests="none", before="yes"), "test-before-store"),
        (deviation(kind=opening, tests="none", exit="yes"), None),
        (deviation(kind=opening, tests="some", exit="yes"), None),
    ]
DEVIATIONS.append((deviation(kind="restore", tests="none", opens="no"), None))


@pytest.mark.parametrize(("case", "name"), DEVIATIONS, ids=str)
def test_model_fails_exactly_if_there_is_a_hazard(case: Case, name: str | None) -> None:
    (kind,) = KINDS[case["kind"]]
    scenario = scenario_of(case)
    found = [hazard.name for hazard in hazards_in(case, kind)]
    assert found == ([] if name is None else [name])
    for fence_ in (templates.Fence.NONE, templates.Fence.MFENCE):
        assert holds(replace(scenario, fence=fence_)) is (name is None)


@pytest.mark.parametrize("pointer", ["loaded", "reread", "index"])
@pytest.mark.parametrize("kind", STORES)
def test_model_fails_with_an_unstable_pointer(kind: str, pointer: str) -> None:
    case = deviation(kind=kind, preemption="on", pointer=pointer)
    (which,) = KINDS[kind]
    scenario = replace(scenario_of(case), stable=False)
    assert not holds(scenario)
    assert not holds(replace(scenario, fence=templates.Fence.MFENCE))
    assert [hazard.name for hazard in hazards_in(case, which)] == ["unstable-pointer"]


def test_model_fails_with_an_unlocked_handler() -> None:
    for taken, take, name in (
        ("plain", Take.READ, "unlocked-handler"),
        ("plain", Take.PLAIN, "unlocked-handler"),
        ("first", Take.XCHG_FIRST, "take-before-clear"),
        ("never", Take.NONE, "clear-without-take"),
        ("locked", Take.XCHG, "none"),
    ):
        case, clear = deviation(kind="clear", taken=taken), Kind.PENDING_CLEAR
        names = [hazard.name for hazard in hazards_in(case, clear)]
        assert names == [name] * (not holds(Scenario(Protocol.HANDLER, take=take)))


#: Code that opens the mask between its own clear of pending and its take of the selector: there, a lock or a
#: fence is needed, whichever it is.
CLEARING, TAKING = Access(writes=((P, 0),)), (Access((S,)), Access(writes=((S, REST),), drains=True), IRET)
OPENING = Access(writes=((M, 0),), address=STORE)


@pytest.mark.parametrize("name", ["access", "beside"])
@pytest.mark.parametrize("limit", [10, operational._STATES_LIMIT])
def test_what_is_not_proved_is_undecided(monkeypatch: pytest.MonkeyPatch, name: str, limit: int) -> None:
    """The verdict is on the description without this very fence; where it is too long, nothing is proved."""
    locked = name == "access"
    fences = () if locked else (Access(fence="mfence", drains=True, address=FENCE),)
    path = (CLEARING, *fences, replace(OPENING, drains=locked), *TAKING)
    handlers = describe(Scenario(Protocol.HANDLER, take=Take.XCHG)).handlers
    description = Description(Role.OPEN, (path,), handlers, ((1, 0),))
    proof = proof_of(description)
    assert proof.faults == ()
    case = RIGHT | {"fence": name}
    monkeypatch.setattr(operational, "_STATES_LIMIT", limit)
    rule._checked.cache_clear()
    found = judged(found_of(case), touch_of(case, Kind.UNMASK), around_of(case), proof, orders=False)
    assert found.verdict is Verdict.UNDECIDED
    assert found.reason.startswith("not proved from the accesses that were read: ")
    assert ("too long to check" in found.reason) is (limit == 10)


@pytest.mark.parametrize(
    ("kind", "fault", "words"),
    [
        (Kind.SELECTOR_SET, "unlocked-handler", "the selector is stored without a lock"),
        (Kind.PENDING_CLEAR, "unlocked-handler", f"the selector is used at {LATER:#x} without a locked"),
        (Kind.UNMASK, "unlocked-handler", f"the selector is used at {LATER:#x} without a locked"),
        (Kind.SELECTOR_SET, "lost-upcall", "an upcall can be lost: --explain shows how"),
        (Kind.SELECTOR_SET, "clear-without-take", "no locked access and no take"),
        (Kind.UNMASK, "wide-store", "the store is 2 bytes wide: it can undo another CPU's write to pending"),
    ],
)
def test_words_for_a_fault(kind: Kind, fault: str, words: str) -> None:
    case = RIGHT | {"width": "wide" if fault == "wide-store" else "byte"}
    proof = Proof(None, (Fault(fault, (LATER,)),))
    (found,) = hazards(touch_of(case, kind), around_of(case), proof)
    assert found.name == fault
    assert found.reason.startswith(words)


def test_words_for_a_store_that_clears_pending() -> None:
    touch = replace(touch_of(RIGHT | {"width": "wide"}, Kind.UNMASK), clears_pending=True)
    (found,) = hazards(touch, around_of(RIGHT), Proof(None, (Fault("wide-store"),)))
    assert found.reason == (
        "the store is 2 bytes wide: it also clears pending, and can undo another CPU's write to pending"
    )


# --- fences and sites ------------------------------------------------------------------------------


def test_judged_fence_has_its_name_and_place() -> None:
    insn = instruction(0x2000, "add", lock=True)
    case = RIGHT | {"kind": "mask"}
    found = Found(insn, FENCE, How.CALLEE, "membar_sync", "before", Paths.SOME)
    told_ = judged(found, touch_of(case, Kind.MASK), around_of(case), proof_in(case, Kind.MASK), orders=False)
    assert (told_.mnemonic, told_.how, told_.address, told_.via, told_.position, told_.paths) == (
        "lock add", How.CALLEE, 0x2000, "membar_sync", "before", Paths.SOME,
    )  # fmt: skip
    plain = replace(found, insn=instruction(0x2000, "mfence"))
    told_ = judged(plain, touch_of(case, Kind.MASK), around_of(case), proof_in(case, Kind.MASK), orders=False)
    assert told_.mnemonic == "mfence"


#: The verdict of a site from those of its fences.
OF_FENCES = {
    (): "no fence",
    ("keep",): "keep",
    ("removable",): "removable",
    ("undecided",): "undecided",
    ("keep", "removable"): "removable",
    ("keep", "undecided"): "undecided",
    ("removable", "undecided"): "undecided",
    ("keep", "removable", "undecided"): "undecided",
    ("replaceable",): "replaceable",
    ("keep", "replaceable"): "replaceable",
    ("removable", "replaceable"): "removable",
    ("replaceable", "undecided"): "undecided",
    ("keep", "removable", "replaceable"): "removable",
    ("keep", "replaceable", "undecided"): "undecided",
    ("removable", "replaceable", "undecided"): "undecided",
}


@pytest.mark.parametrize("number", range(4))
def test_verdict_of_a_site(number: int) -> None:
    """For every order of fences; the reason is that of the first fence with the verdict."""
    for verdicts in product(("keep", "removable", "replaceable", "undecided"), repeat=number):
        fences = tuple(
            fence(verdict=Verdict(word), reason=f"{word} {place}") for place, word in enumerate(verdicts)
        )
        verdict, reason = site_verdict(fences)
        assert verdict == OF_FENCES[tuple(sorted(set(verdicts)))]
        if number:
            assert reason == f"{verdict} {verdicts.index(str(verdict))}"
        else:
            assert reason == "no fence executes here"


def test_order_of_fences_does_not_change_the_verdict() -> None:
    fences = [fence(verdict=verdict) for verdict in (Verdict.KEEP, Verdict.REMOVABLE, Verdict.UNDECIDED)]
    assert {site_verdict(order)[0] for order in permutations(fences)} == {Verdict.UNDECIDED}
