"""The model checker agrees with the rule, and a second interpreter agrees with each run that it shows."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from functools import cache
from random import Random
from typing import Any

import hypothesis
import hypothesis.strategies as st
import pytest

from builders.generated_sites import handler_of
from xtrace.symbols.proof import operational
from xtrace.symbols.proof.argument import argument
from xtrace.symbols.proof.description import Access, Cell, Description, Role, masked_after
from xtrace.symbols.proof.operational import Actor, End, Frame, Move, Outcome
from xtrace.symbols.proof.templates import (
    Fence,
    Protocol,
    Retest,
    Scenario,
    Take,
    Width,
    describe,
)


@cache
def check(scenario: Scenario) -> Outcome:
    return operational.check(describe(scenario))


DRAINING = (Fence.MFENCE, Fence.LOCK, Fence.XCHG, Fence.SERIALISING)
PLANTED = (
    {"width": Width.WIDE},
    {"width": Width.LOCKED_WIDE},
    {"retest": Retest.BEFORE},
    {"retest": Retest.NONE},
    {"retest": Retest.XEN_EXIT},
    {"take": Take.READ},
    {"take": Take.PLAIN},
    {"take": Take.XCHG_FIRST},
    {"stable": False},
    {"fence_first": True},
)
FENCED = [Scenario(protocol, fence) for protocol in Protocol for fence in Fence]
VARIED = [
    replace(Scenario(protocol, fence), **change)
    for protocol in Protocol
    if protocol is not Protocol.SECTION
    for fence in (Fence.NONE, Fence.MFENCE)
    for change in PLANTED
]


def rule(scenario: Scenario) -> bool:
    """Return whether the scenario is right by the contract alone."""
    own_handler = scenario.protocol is Protocol.HANDLER
    # The site's fence and width belong to the handler only if the site is the handler.
    flushed = own_handler and (
        scenario.width is Width.LOCKED_WIDE or (scenario.fence in DRAINING and not scenario.fence_first)
    )
    takes = scenario.take is Take.XCHG or (scenario.take is Take.READ and flushed)
    if own_handler:
        return takes
    retested = not scenario.clears_mask or scenario.retest in (Retest.AFTER, Retest.XEN_EXIT)
    return takes and retested and scenario.width is not Width.WIDE and scenario.stable


def named(scenario: Scenario) -> str:
    values = (getattr(scenario, name) for name in Scenario.__slots__)
    return "-".join(str(value) for value in values)


@pytest.mark.parametrize("scenario", FENCED + VARIED, ids=named)
def test_search_agrees_with_the_contract(scenario: Scenario) -> None:
    outcome = check(scenario)
    assert outcome.holds is rule(scenario)
    assert outcome.holds is (not outcome.fault) is (not outcome.counterexample)
    assert 30 < outcome.states < 10_000


@pytest.mark.parametrize("change", [{}, *PLANTED], ids=str)
@pytest.mark.parametrize("protocol", [Protocol.MASK, Protocol.UNMASK, Protocol.HANDLER])
def test_lfence_does_not_change_any_final_state(protocol: Protocol, change: dict[str, object]) -> None:
    bare = check(_changed(Scenario(protocol), change))
    fenced = check(_changed(Scenario(protocol, Fence.LFENCE), change))
    assert (fenced.holds, fenced.fault, fenced.ends) == (bare.holds, bare.fault, bare.ends)


@pytest.mark.parametrize("fence", DRAINING)
def test_fence_that_drains_between_p_and_s_is_needed(fence: Fence) -> None:
    plain = Scenario(Protocol.HANDLER, take=Take.READ)
    assert check(plain).fault == "an upcall is lost"
    assert check(replace(plain, fence=fence)).holds
    assert not check(replace(plain, fence=fence, fence_first=True)).holds


@pytest.mark.parametrize("fence", Fence)
def test_no_fence_helps_if_the_pointer_is_another_vcpus(fence: Fence) -> None:
    mask = check(Scenario(Protocol.MASK, fence, stable=False))
    unmask = check(Scenario(Protocol.UNMASK, fence, stable=False))
    assert mask.fault == "the handler runs where the guest has masked upcalls"
    assert unmask.fault == "an upcall is lost"


@pytest.mark.parametrize("scenario", [s for s in FENCED + VARIED if not rule(s)], ids=named)
def test_second_interpreter_can_run_the_counterexample(scenario: Scenario) -> None:
    outcome = check(scenario)
    assert any(_replays(scenario, outcome, sends, *start) for sends in (1, 2) for start in scenario.starts)


def _replays(scenario: Scenario, outcome: Outcome, sends: int, mask: int, saved: int) -> bool:
    """Return whether the counterexample, from this start, is a run that fails as stated."""
    if not outcome.counterexample or len(outcome.counterexample[0].after.senders) != sends:
        return False
    world = World(scenario, sends, mask, saved)
    for step in outcome.counterexample:
        if step.actor not in world.enabled():
            return False
        world.move(step.actor)
        waiting = [
            [{Cell[name].value: value for name, value in store.items()} for store in world.buffers[cpu]]
            for cpu in "AD"
        ]
        assert tuple(world.memory.values()) == step.after.memory
        assert waiting == [[dict(store) for store in buffer] for buffer in step.after.buffers]
        assert world.ipi is step.after.ipi
    if outcome.fault == "an upcall is lost":
        return not world.enabled() and world.lost()
    return world.broke_mask


@hypothesis.settings(max_examples=300)
@hypothesis.given(
    scenario=st.sampled_from(FENCED + VARIED),
    sends=st.sampled_from([1, 2]),
    random=st.randoms(use_true_random=False),
)
def test_random_walks_end_in_states_of_the_search(scenario: Scenario, sends: int, random: Random) -> None:
    world = World(scenario, sends, *random.choice(scenario.starts))
    while actors := world.enabled():
        world.move(random.choice(actors))
    outcome = check(scenario)
    memory = world.memory
    assert End(sends, (memory["P"], memory["M"], memory["S"]), world.handled) in outcome.ends
    if outcome.holds:
        assert not world.lost()
        assert not world.broke_mask


def test_random_walks_find_the_planted_faults() -> None:
    random = Random(1)
    lost = Counter[str]()
    for name, scenario in {
        "no test": Scenario(Protocol.UNMASK, retest=Retest.NONE),
        "wide": Scenario(Protocol.UNMASK, width=Width.WIDE),
        "plain": Scenario(Protocol.HANDLER, take=Take.PLAIN),
        "right": Scenario(Protocol.UNMASK),
    }.items():
        for _ in range(300):
            world = World(scenario, 2, *scenario.starts[0])
            while actors := world.enabled():
                world.move(random.choice(actors))
            lost[name] += world.lost()
    assert lost["right"] == 0
    assert min(lost["no test"], lost["wide"], lost["plain"]) > 0


@pytest.mark.parametrize("protocol", [Protocol.SAVE_MASK, Protocol.UNMASK, Protocol.HANDLER])
@pytest.mark.parametrize(
    "change", [{}, {"fence": Fence.LFENCE}, {"take": Take.PLAIN}, {"stable": False}], ids=str
)
def test_argument_fits_a_terminal(protocol: Protocol, change: dict[str, object]) -> None:
    outcome = check(_changed(Scenario(protocol), change))
    lines = argument(outcome, "xen_irq_enable_direct+0x8")
    assert max(map(len, lines)) <= 80
    assert lines[0].startswith("xen_irq_enable_direct+0x8")
    shown = sum(line[2:3] in ("A", "B", "C", "D", "X") for line in lines if line.startswith("  "))
    assert shown >= len(outcome.counterexample or "12345678")
    assert any("Counterexample" in line for line in lines) is not outcome.holds


def test_argument_shows_the_ipi_before_and_after_the_store() -> None:
    lines = argument(check(Scenario(Protocol.UNMASK, Fence.LFENCE)), "spllower+0x40")
    text = "\n".join(lines)
    assert " ".join(lines).count("the lfence protects nothing here") == 1
    titles = [line for line in lines if line.startswith("An IPI")]
    assert [title.split(":")[0] for title in titles] == [
        "An IPI before M ",
        "An IPI while M ",
        "An IPI once M ",
    ]
    assert "An IPI" in text
    while_buffered = text[text.index("An IPI while") : text.index("An IPI once")]
    # Memory still has M = 1: only the pCPU that made the store sees 0.
    assert "exit test, P=1 M=0: M := 1, enters the handler 1 1 01  M=0 M=1" in while_buffered


def test_argument_says_that_a_fence_is_needed() -> None:
    lines = argument(check(Scenario(Protocol.HANDLER, Fence.MFENCE, take=Take.READ)), "evtchn_do_upcall+0x1f")
    assert "the mfence is needed here" in " ".join(lines)


#: A shortest run of each fault, as text; checked against the protocols by hand.
TOLD = {
    Scenario(Protocol.UNMASK, Fence.LFENCE, width=Width.WIDE): """
SEND_B lock bts S, bit 0
GUEST M := 0 by a plain store of P and M
SEND_B lock bts P: was clear
DRAIN P := 0, M := 0 reaches memory
SEND_B sends the IPI
IPI takes the IPI, enters Xen
XEN exit test, P=0 M=0: returns
GUEST fence: lfence
GUEST read P: 0
""",
    Scenario(Protocol.HANDLER, take=Take.READ): """
SEND_B lock bts S, bit 0
SEND_B lock bts P: was clear
SEND_B sends the IPI
IPI takes the IPI, enters Xen
XEN exit test, P=1 M=0: M := 1, enters the handler
DRAIN M := 1 reaches memory
HANDLER handler: P := 0
HANDLER handler: read S, handle what it holds
SEND_C lock bts S, bit 1
SEND_C lock bts P: was set, so no IPI
DRAIN P := 0 reaches memory
HANDLER handler: lock and S, ~(what was read)
HANDLER handler: iret: M := 0, exit to the guest
DRAIN M := 0 reaches memory
XEN exit test, P=0 M=0: returns
""",
    Scenario(Protocol.RESTORE, retest=Retest.BEFORE): """
SEND_B lock bts S, bit 0
GUEST read P: 0
SEND_B lock bts P: was clear
SEND_B sends the IPI
IPI takes the IPI, enters Xen
XEN exit test, P=1 M=1: returns
GUEST M := m
DRAIN M := 0 reaches memory
""",
    Scenario(Protocol.MASK, stable=False): """
SEND_B lock bts S, bit 0
SEND_B lock bts P: was clear
SEND_B sends the IPI
IPI takes the IPI, enters Xen
GUEST M := 1
XEN exit test, P=1 M=0: M := 1, enters the handler
""",
}


@pytest.mark.parametrize("scenario", TOLD, ids=named)
def test_text_of_counterexamples(scenario: Scenario) -> None:
    told = [f"{step.actor.name} {step.text}" for step in check(scenario).counterexample]
    assert told == TOLD[scenario].strip().splitlines()


def test_one_and_two_senders_are_searched() -> None:
    outcome = check(Scenario(Protocol.UNMASK))
    searches = [operational.search(operational.Machine(outcome.description, sends)) for sends in (1, 2)]
    assert outcome.states == sum(len(found.came_from) for found in searches)
    assert outcome.ends == searches[0].ends | searches[1].ends
    assert {end.sends for end in outcome.ends} == {1, 2}


def test_start_states() -> None:
    assert operational.Machine(describe(Scenario(Protocol.RESTORE)), 2).starts() == [
        operational.State(
            memory=(0, 1, 0),
            buffers=((), ()),
            site=Frame(0, (0, saved, 0)),
            handlers=(),
            in_xen=False,
            ipi=False,
            taken=0,
            senders=(0, 0),
            handled=0,
        )
        for saved in (0, 1)
    ]


def test_search_may_reach_its_limits(monkeypatch: pytest.MonkeyPatch) -> None:
    machine = operational.Machine(describe(Scenario(Protocol.UNMASK, width=Width.WIDE, stable=False)), 1)
    found = operational.search(machine).came_from
    states = len(found)
    stores = max(len(buffer) for state in found for buffer in state.buffers)
    assert stores > 1
    # Twice what the largest of all combinations has, which no site of a kernel is like: test_limits.py.
    assert (operational._STATES_LIMIT, operational._STORES_LIMIT) == (200_000, 32)
    for name, most in (("_STATES_LIMIT", states), ("_STORES_LIMIT", stores)):
        with monkeypatch.context() as patch:
            patch.setattr(operational, name, most)
            assert len(operational.search(machine).came_from) == states
            patch.setattr(operational, name, most - 1)
            with pytest.raises(ValueError, match=f"more than {most - 1} st"):
                operational.search(machine)


@pytest.mark.parametrize(
    ("scenario", "places"),
    [
        (Scenario(Protocol.MASK), {1}),
        (Scenario(Protocol.SAVE_MASK, Fence.MFENCE), {2, 3}),
        (Scenario(Protocol.UNMASK), {0}),
        (Scenario(Protocol.RESTORE, retest=Retest.BEFORE), {0, 1}),
        (Scenario(Protocol.SECTION), {2}),
    ],
    ids=str,
)
def test_masked_places_are_between_the_stores(scenario: Scenario, places: set[int]) -> None:
    description = describe(scenario)
    for path in description.paths:
        found = {n for n in range(len(path) + 1) if masked_after(path, n, description.starts_masked)}
        assert found == places


@pytest.mark.parametrize(
    ("memory", "handled", "lost"),
    [
        ((0, 0, 0), 0b11, False),
        ((1, 1, 0b11), 0, False),
        ((1, 1, 0b10), 0b01, False),
        # P and M mean that a later upcall will come, but one event is not in the selector.
        ((1, 1, 0b10), 0, True),
        ((1, 0, 0b11), 0, True),
        ((0, 1, 0b11), 0, True),
        ((0, 0, 0), 0b01, True),
    ],
)
def test_what_counts_as_lost(memory: tuple[int, int, int], handled: int, lost: bool) -> None:
    machine = operational.Machine(describe(Scenario(Protocol.MASK)), 2)
    (start,) = machine.starts()
    assert machine.loses(start._replace(memory=memory, handled=handled)) is lost


@pytest.mark.parametrize(
    ("where", "forbidden"),
    [
        ({}, False),
        ({"site": Frame(1, (0, 0, 0))}, True),
        ({"site": Frame(2, (0, 0, 0))}, True),
        # Masked by an outer section: the guest found M set and leaves it set.  Only scenarios with another
        # vCPU's pointer get here, and they have shorter counterexamples.
        ({"site": Frame(0, (0, 1, 0))}, True),
        # A handler inside a handler.
        ({"handlers": (Frame(0, (0, 0, 0)),)}, True),
        ({"handlers": (Frame(1, (0, 0, 0)),)}, True),
    ],
    ids=str,
)
def test_where_a_handler_must_not_start(where: dict[str, Any], forbidden: bool) -> None:
    machine = operational.Machine(describe(Scenario(Protocol.MASK, Fence.MFENCE)), 1)
    before = machine.starts()[0]._replace(memory=(1, 0, 1), in_xen=True, **where)
    handlers = (*before.handlers, Frame(0, (0, 0, 0)))
    begun = before._replace(in_xen=False, handlers=handlers, buffers=((((int(Cell.M), 1),),), ()))
    returned = before._replace(in_xen=False)
    assert machine.forbids(before, Move(Actor.XEN, None, begun)) is forbidden
    # Only Xen starts a handler.
    assert not machine.forbids(before, Move(Actor.XEN, None, returned))
    assert not any(
        machine.forbids(before, Move(actor, None, begun)) for actor in Actor if actor is not Actor.XEN
    )


def test_handler_that_opens_the_mask_may_be_interrupted() -> None:
    """A nested upcall: the handler does M := 0 before its iret, and the next event interrupts it there."""
    description = describe(Scenario(Protocol.HANDLER))
    ((clear, take, iret),) = description.handlers
    opens = replace(clear, writes=((Cell.M, 0),), text="M := 0")
    nested = replace(description, handlers=((clear, take, opens, iret),))
    found = operational.search(operational.Machine(nested, 2))
    assert not found.fault
    assert max(len(state.handlers) for state in found.came_from) == 2
    # The interrupted one waits where it is.
    machine = found.machine
    for state in found.came_from:
        for move in machine.following(state):
            if len(state.handlers) == 2:
                assert move.after.handlers[0] == state.handlers[0]
    # Opened before S is taken, the inner handler takes both bits; nothing is lost either.
    early = replace(description, handlers=((clear, opens, take, iret),))
    assert operational.check(early).holds


def test_handler_goes_on_after_a_hypercall() -> None:
    """Xen's exit test finds M = 1 there and returns to it: what it clears before, it takes afterwards."""
    ((clear, take, iret),) = describe(Scenario(Protocol.HANDLER)).handlers
    calls = Access(xen=True, text="a hypercall")
    found = operational.check(Description(Role.HANDLER, (), ((clear, calls, take, iret),), ((0, 0),)))
    assert found.holds
    assert {end.handled for end in found.ends} == {0b1, 0b11}


def test_tree_of_paths() -> None:
    """Equal accesses are one edge, also if they are two objects; what follows an opening store is known."""
    opens, saves = Access(writes=((Cell.M, 0),)), Access(writes=((Cell.M, -1),))
    masks, calls, reads = Access(writes=((Cell.M, 1),)), Access(xen=True), Access((Cell.P,))
    paths = ((masks, opens, reads), (replace(masks), replace(opens), calls, reads), (saves, reads), (reads,))
    tree = operational.Tree(paths, masked=False)
    assert [len(edges) for edges in tree.edges] == [3, 1, 2, 0, 1, 0, 1, 0, 0]
    assert tree.ends == {3, 5, 7, 8}
    assert tree.opened == {2, 3, 4, 5, 6, 7}
    assert tree.entered == {4, 5}
    assert [tree.masked[node] for node in range(9)] == [False, True, *([False] * 7)]


def test_text_and_effect_of_every_step() -> None:
    machine = operational.Machine(describe(Scenario(Protocol.UNMASK, width=Width.WIDE, stable=False)), 2)
    seen = Counter[Actor]()
    for state in operational.search(machine).came_from:
        assert set(state.senders) <= {0, 1, 2, 3}
        for move in machine.following(state):
            ((_, text, _, after),) = [
                (step.actor, step.text, step.access, step.after) for step in machine.trace([(state, move)])
            ]
            seen[move.actor] += 1
            if move.actor in (Actor.DRAIN, Actor.DRAIN_HOST):
                which = (Actor.DRAIN, Actor.DRAIN_HOST).index(move.actor)
                first, *rest = state.buffers[which]
                stores = ", ".join(f"{Cell(cell).name} := {value}" for cell, value in first)
                assert text == f"{stores} reaches memory"
                assert after.buffers[which] == tuple(rest)
                assert all(after.memory[cell] == value for cell, value in first)
            elif move.actor in (Actor.SEND_B, Actor.SEND_C):
                which = (Actor.SEND_B, Actor.SEND_C).index(move.actor)
                clear = "was set, so no IPI" if state.memory[Cell.P] else "was clear"
                texts = [f"lock bts S, bit {which}", f"lock bts P: {clear}", "sends the IPI"]
                assert text == texts[state.senders[which]]
            elif move.actor is Actor.GUEST and move.access is not None and Cell.P in move.access.reads:
                read = operational.view(state.memory, state.buffers[0], Cell.P)
                assert text == f"read P: {read}"
                assert after.site.registers[Cell.P] == read
    assert set(seen) == set(Actor)


def test_stores_to_the_mask_in_a_handler_change_no_answer() -> None:
    """So a handler of an image is described without them."""
    random = Random(5)
    handlers = dict.fromkeys(handler_of(random) for _ in range(14))
    seen = set()
    for handler in handlers:
        if any(access.written(Cell.M) is not None for access in handler[:-1]):
            continue
        fails = bool(operational.check(Description(Role.HANDLER, (), (handler,), ((0, 0),))).fault)
        seen.add(fails)
        for place in range(len(handler)):
            for value in (0, 1):
                store = Access(writes=((Cell.M, value),))
                other = Description(
                    Role.HANDLER, (), ((*handler[:place], store, *handler[place:]),), ((0, 0),)
                )
                assert bool(operational.check(other).fault) is fails
    assert seen == {False, True}


def test_nested_sections_are_explored() -> None:
    assert Scenario(Protocol.RESTORE).starts == ((1, 0), (1, 1))
    assert Scenario(Protocol.SECTION).starts == ((0, 0), (1, 1))
    ends = check(Scenario(Protocol.RESTORE)).ends
    # What arrives inside is left for the outer section's own restore.
    assert End(2, (1, 1, 0b11), 0) in ends
    assert End(2, (0, 0, 0), 0b11) in ends


@pytest.mark.parametrize(
    ("limit", "number", "text"),
    [("_STATES_LIMIT", 100, "more than 100 states"), ("_STORES_LIMIT", 1, "more than 1 stores")],
)
def test_search_is_bounded(monkeypatch: pytest.MonkeyPatch, limit: str, number: int, text: str) -> None:
    monkeypatch.setattr(operational, limit, number)
    with pytest.raises(ValueError, match=text):
        operational.check(describe(Scenario(Protocol.UNMASK)))


def _changed(scenario: Scenario, change: dict[str, object]) -> Scenario:
    return replace(scenario, **change)  # type: ignore[arg-type]


class World:
    """A second model of the same machine, with generators as code, lists as buffers and mutable state.

    A generator yields before each instruction: True if the instruction waits for an empty store buffer.
    """

    def __init__(self, scenario: Scenario, sends: int, mask: int, saved: int) -> None:
        self.scenario = scenario
        self.sends = sends
        self.memory = {"P": 0, "M": mask, "S": 0}
        self.buffers: dict[str, list[dict[str, int]]] = {"A": [], "D": []}
        self.host = "A" if scenario.stable else "D"
        self.exits = False
        self.ipi = False
        self.handled = 0
        self.broke_mask = False
        self.critical = mask == 1
        self.outer = saved == 1
        self.waits: dict[Iterator[bool], bool] = {}
        self.remotes = [self.begin(self.remote(bit)) for bit in range(sends)]
        self.site = self.begin(self.guest(saved))
        self.upcall: Iterator[bool] | None = None

    def begin(self, code: Iterator[bool]) -> Iterator[bool] | None:
        return code if self.go_on(code) else None

    def go_on(self, code: Iterator[bool]) -> bool:
        """Execute up to the next instruction; return whether there is one."""
        following = next(code, None)
        self.waits[code] = bool(following)
        return following is not None

    def read(self, cpu: str, cell: str) -> int:
        return {**self.memory, **{k: v for store in self.buffers[cpu] for k, v in store.items()}}[cell]

    def enabled(self) -> list[Actor]:
        found = [actor for actor, cpu in ((Actor.DRAIN, "A"), (Actor.DRAIN_HOST, "D")) if self.buffers[cpu]]
        found += [
            (Actor.SEND_B, Actor.SEND_C)[i] for i, remote in enumerate(self.remotes) if remote is not None
        ]
        found += [Actor.IPI] * self.ipi
        if self.exits:
            found.append(Actor.XEN)
        elif self.upcall is not None and not (self.waits[self.upcall] and self.buffers[self.host]):
            found.append(Actor.HANDLER)
        interrupted = self.host == "A" and (self.exits or self.upcall is not None)
        if self.site is not None and not interrupted and not (self.waits[self.site] and self.buffers["A"]):
            found.append(Actor.GUEST)
        return found

    def move(self, actor: Actor) -> None:
        if actor in (Actor.DRAIN, Actor.DRAIN_HOST):
            self.memory |= self.buffers["A" if actor is Actor.DRAIN else "D"].pop(0)
        elif actor in (Actor.SEND_B, Actor.SEND_C):
            which = int(actor is Actor.SEND_C)
            remote = self.remotes[which]
            assert remote is not None
            if not self.go_on(remote):
                self.remotes[which] = None
        elif actor is Actor.IPI:
            self.ipi, self.exits = False, True
        elif actor is Actor.XEN:
            self.exits = False
            if (self.read(self.host, "P"), self.read(self.host, "M")) == (1, 0):
                self.broke_mask |= self.upcall is not None or self.critical or self.outer
                self.store(self.host, "M", 1)
                self.upcall = self.begin(self.handle())
        elif actor is Actor.HANDLER:
            assert self.upcall is not None
            if not self.go_on(self.upcall):
                self.upcall = None
        else:
            assert self.site is not None
            if not self.go_on(self.site):
                self.site = None

    def store(self, cpu: str, cell: str, value: int, width: Width = Width.BYTE) -> None:
        other = {"M": "P", "P": "M"}.get(cell, "")
        if width is Width.LOCKED_WIDE:
            assert not self.buffers[cpu]
            self.memory[cell] = value
        elif width is Width.WIDE:
            self.buffers[cpu].append({other: self.read(cpu, other), cell: value})
        else:
            self.buffers[cpu].append({cell: value})

    def lost(self) -> bool:
        missing = (1 << self.sends) - 1 & ~self.handled
        found_later = self.memory["M"] and self.memory["P"] and self.memory["S"] & missing == missing
        return missing != 0 and not found_later

    def remote(self, bit: int) -> Iterator[bool]:
        yield False
        self.memory["S"] |= 1 << bit
        yield False
        was, self.memory["P"] = self.memory["P"], 1
        if not was:
            yield False
            self.ipi = True

    def fence(self, first: bool) -> Iterator[bool]:
        if self.scenario.fence is not Fence.NONE and self.scenario.fence_first is first:
            yield self.scenario.fence in DRAINING

    def guest(self, m: int) -> Iterator[bool]:
        site, locked = self.scenario, self.scenario.width is Width.LOCKED_WIDE
        if site.protocol in (Protocol.SAVE_MASK, Protocol.SECTION):
            yield False
            m = self.read("A", "M")
            self.outer = m == 1
        if site.protocol in (Protocol.MASK, Protocol.SAVE_MASK, Protocol.SECTION):
            yield from self.fence(first=True)
            yield locked
            self.store("A", "M", 1, site.width)
            self.critical = True
            yield from self.fence(first=False)
        if site.protocol not in (Protocol.RESTORE, Protocol.UNMASK, Protocol.SECTION):
            return
        pending = 0
        if site.retest is Retest.BEFORE:
            yield False
            pending = self.read("A", "P")
        yield from self.fence(first=True)
        yield locked
        self.store("A", "M", 0 if site.protocol is Protocol.UNMASK else m, site.width)
        self.critical = False
        yield from self.fence(first=False)
        if site.retest is Retest.AFTER:
            yield False
            pending = self.read("A", "P")
        if site.retest is Retest.XEN_EXIT or (site.retest is not Retest.NONE and pending and m == 0):
            yield False
            self.exits = self.exits or site.stable

    def handle(self) -> Iterator[bool]:
        take = self.scenario.take
        if take is Take.XCHG_FIRST:
            yield from self.exchange()
        yield from self.clear()
        if take is Take.XCHG:
            yield from self.exchange()
        elif take is not Take.XCHG_FIRST:
            yield False
            bits = self.read(self.host, "S")
            self.handled |= bits
            yield take is Take.READ
            if take is Take.READ:
                self.memory["S"] &= ~bits
            else:
                self.store(self.host, "S", 0)
        yield False
        self.store(self.host, "M", 0)
        self.exits = True

    def clear(self) -> Iterator[bool]:
        own = self.scenario.protocol is Protocol.HANDLER
        width = self.scenario.width if own else Width.BYTE
        if own:
            yield from self.fence(first=True)
        yield width is Width.LOCKED_WIDE
        self.store(self.host, "P", 0, width)
        if own:
            yield from self.fence(first=False)

    def exchange(self) -> Iterator[bool]:
        yield True
        self.handled |= self.memory["S"]
        self.memory["S"] = 0


@pytest.mark.parametrize(
    ("fence", "name"),
    [
        (Fence.LOCK, "locked instruction"),
        (Fence.SERIALISING, "serialising instruction"),
        (Fence.MFENCE, "mfence"),
    ],
)
def test_the_argument_names_the_fence(fence: Fence, name: str) -> None:
    text = " ".join(" ".join(argument(check(Scenario(Protocol.UNMASK, fence)), "spllower+0x40")).split())
    assert f"fence: {fence}" in text
    assert f"Without the {name} it also holds" in text
