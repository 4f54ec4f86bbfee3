"""Find all sites of an image: every touch of the upcall mask, the pending byte and the selector.

The image's bytes are searched for what may refer to vcpu_info; the values in the
functions found are tracked; pointers that they pass on are followed into their
callees; an access through a vcpu_info pointer is a touch; the code around it gives
the fences, the hazards and the verdict.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping
from typing import NamedTuple

from xtrace.symbols.dwarf.source_locations import SourceLocation, lines_of
from xtrace.symbols.errors import ImageError
from xtrace.symbols.flow.code import Code
from xtrace.symbols.flow.interpreter import Call, ExhaustedError, FunctionFlow, State, entry_state
from xtrace.symbols.flow.values import STACK, Value
from xtrace.symbols.flow.walk import Paths, Ways
from xtrace.symbols.image.image import Image
from xtrace.symbols.image.xen_facts import ImageFacts, image_facts
from xtrace.symbols.sites.access_kind import Touch, touches
from xtrace.symbols.sites.byte_scan import calls_of, field_accesses, field_loads, functions_of, references
from xtrace.symbols.sites.description import Describer
from xtrace.symbols.sites.dwarf_owner import foreign
from xtrace.symbols.sites.fences import FenceFinder, Found
from xtrace.symbols.sites.handlers import IN_ORDER, Handlers, Order
from xtrace.symbols.sites.learning import learned_layout
from xtrace.symbols.sites.model import Cpu, Fence, How, Kind, Site, SiteTable
from xtrace.symbols.sites.prefilter import may_touch, mentions
from xtrace.symbols.sites.surroundings import (
    Touches,
    answered,
    blocks,
    callbacks,
    exit_behind,
    forces,
    masked_ranges,
    opened_only_if_zero,
    pending_test,
    preemption_off,
    reopened,
    reread,
    tested_before,
    tested_inside,
    tests_itself,
)
from xtrace.symbols.sites.vcpu_info import ARGUMENT, VCPU_INFO_BYTES, Layout
from xtrace.symbols.sites.verdict import (
    OPENS,
    STORES,
    Proof,
    Surroundings,
    hazards,
    judged,
    proof_of,
    site_verdict,
)
from xtrace.symbols.x86.decode import RSP, Flow

_NOWHERE = Ways((), Paths.NONE)
_ARGUMENT_REGISTERS = (7, 6, 2, 1, 8, 9, 0)
_STACK_ARGUMENTS = 6
#: Through how many functions a pointer may be returned.
_RETURN_DEPTH = 2
#: Into how many functions pointers are followed in all, and with how many argument sets into each.
_MOST_FOLLOWED = 4000
_MOST_BINDINGS = 4
#: What judging a touch costs, in steps.
_STEPS_PER_TOUCH = 100
#: Bytes of code that runs with the mask set, and is walked twice, for the cost of a step.
_MASKED_BYTES_PER_STEP = 3
#: Steps for judging what was found, if the image used up its budget.
_RESERVE_STEPS = 200_000
_TOO_MUCH = "its code takes more steps to follow than any real kernel's: only part of it was followed"
_UNSEEN = (
    "without symbols, direct accesses to a per-CPU vcpu_info (%gs:symbol) cannot be seen; give --symbols"
)
#: Prefixes of functions that take any pointer: what they write says nothing about its type.
_COPIES = ("mem", "bcopy", "bzero", "copy", "str", "kcopy", "ovbcopy", "__mem", "explicit_")

#: Vcpu_info pointers on entry to a function, by register (or, from 16 on, stack slot).
_Bindings = tuple[tuple[int, Value], ...]


def find_sites(image: Image, lines: bool = True) -> SiteTable:
    """Return the sites of a kernel.

    Args:
        image: from open_image().
        lines: look up source files and lines, if there is DWARF.

    Raises:
        ImageError: the image has no code.
    """
    if not image.code:
        raise ImageError(
            f"{image.path}: no executable code; give the kernel image itself, not its debug file"
        )
    facts = image_facts(image)
    code = Code(image, facts.hypercall_page)
    damage: list[str] = [image.debug_note] if image.debug_note else []
    layout = Layout(image.bits)
    flows: list[FunctionFlow] = []
    sites: list[Site] = []
    try:
        layout = learned_layout(code, damage)
        _follow(code, layout, flows)
    except ExhaustedError:
        damage.append(_TOO_MUCH)
        code.budget.left = _RESERVE_STEPS
    if not len(image.symbols) and not layout.areas and facts.guest_os.lower() == "linux":
        damage.append(_UNSEEN)
    found = _touches(flows, layout, code)
    for address in foreign(image, layout, found):
        del found[address]
    try:
        forced = _forced(code, {id(touch.flow): touch.flow for touch in found.values()}.values())
        forced |= _blocking(code, found.values())
        places = lines_of(image, sorted({*found, *forced}), damage) if lines else {}
        sites.extend(_judged(code, facts, layout, found, flows, places))
        sites.extend(
            _forced_site(code, facts, address, flow, places.get(address)) for address, flow in forced.items()
        )
    except ExhaustedError:
        damage.append(_TOO_MUCH)
    sites.sort(key=lambda site: site.address)
    partial = _TOO_MUCH if _TOO_MUCH in damage else ""
    return SiteTable(image.path, image.build_id, facts, tuple(sites), layout.how, tuple(damage), partial)


def _judged(
    code: Code,
    facts: ImageFacts,
    layout: Layout,
    found: dict[int, Touch],
    flows: Iterable[FunctionFlow],
    places: Mapping[int, SourceLocation],
) -> Iterator[Site]:
    """Yield the touches as sites, judged by the code around them."""
    # Handlers first: what is found of an image that is too much must not lack them.
    groups = sorted(_groups(code, found), key=lambda item: not _handles(item[0]))
    handlers = Handlers(code, found, flows)
    orders = {
        address: handlers.order(touch) for address, touch in found.items() if touch.kind is Kind.PENDING_CLEAR
    }
    opening = frozenset(code.window(address)[0] for address, touch in found.items() if touch.kind in OPENS)
    takes = frozenset(address for address, touch in found.items() if touch.kind is Kind.SELECTOR_TAKE)
    describer = Describer(code, handlers, orders, takes, places)
    examined, is_whole = [], True
    try:
        for group, wider in groups:
            examined.append(_examined(code, layout, group, wider, orders, opening))
    except ExhaustedError:
        is_whole = False
        code.budget.left = _RESERVE_STEPS
    clears = {
        address: near[address]
        for _, own, _, near in examined
        for address, touch in own.items()
        if touch.kind is Kind.PENDING_CLEAR
    }
    image_handlers = describer.image_handlers((found[address] for address in clears), clears)
    for wider, own, around, near in examined:
        for address, touch in own.items():
            forced = callbacks(
                code, touch.flow, around[address].tests.hits, own=around[address].tests.hits == (address,)
            )
            proof = proof_of(
                describer.describe(touch, wider, around[address], near[address], image_handlers, forced)
            )
            fences = _fences(code, touch, near[address], around[address], handlers, proof)
            yield _site(code, facts, touch, around[address], fences, places.get(address), forced, proof)
    if not is_whole:
        raise ExhaustedError


def _handles(group: dict[int, Touch]) -> bool:
    return any(touch.kind is Kind.PENDING_CLEAR for touch in group.values())


class _Examined(NamedTuple):
    """The touches of a flow, what is around its own ones, and the fences near them."""

    wider: Touches
    own: dict[int, Touch]
    around: dict[int, Surroundings]
    near: dict[int, list[Found]]


def _examined(
    code: Code,
    layout: Layout,
    group: dict[int, Touch],
    wider: Touches,
    orders: Mapping[int, Order],
    opening: Collection[int],
) -> _Examined:
    flow = wider.flow
    own = {address: touch for address, touch in group.items() if touch.flow is flow}
    code.budget.spend(_STEPS_PER_TOUCH * len(own))
    around = {
        address: _surroundings(code, touch, wider, orders.get(address, IN_ORDER), opening)
        for address, touch in own.items()
    }
    tests = {address: item.tests.hits for address, item in around.items()}
    near = FenceFinder(code, layout, flow, group, tests).find()
    return _Examined(wider, own, around, near)


def _fences(
    code: Code,
    touch: Touch,
    near: list[Found],
    around: Surroundings,
    handlers: Handlers,
    proof: Proof,
) -> tuple[Fence, ...]:
    """Return a touch's fences with their verdicts; for a pending clear also the locked accesses after it."""
    if touch.kind is Kind.DEBUG_READ:
        return ()
    known = {item.at for item in near}
    needed = []
    locked = around.order.locked
    for at in locked.hits:
        caller = code.joined(touch.flow).insns.get(at)
        if caller is None or at in known:
            continue
        how = How.CALLEE if caller.flow is Flow.CALL else How.INLINE
        via = code.name(caller.target) if how is How.CALLEE else ""
        needed += [Found(insn, at, how, via, "after", locked.paths) for insn in handlers.executed(caller)]
    return tuple(
        judged(item, touch, around, proof, orders=item.at in handlers.ordering) for item in (*near, *needed)
    )


def _candidates(code: Code, layout: Layout) -> list[int]:
    """Return the entries of the code that is worth analysing."""
    named: set[int] = set()
    loading: set[int] = set()
    for section in code.sections:
        named |= functions_of(section, code.starts, references(section, layout))
        if layout.fields:
            loads = functions_of(section, code.starts, field_loads(section, layout.fields))
            loading |= loads & functions_of(section, code.starts, field_accesses(section))
    entries = {
        place for entry in named for place in code.entries(entry) if mentions(code.graph(place)[0], layout)
    }
    for entry in loading - named:
        entries |= {place for place in code.entries(entry) if may_touch(*code.graph(place), layout)}
    return sorted(entries)


def _follow(code: Code, layout: Layout, flows: list[FunctionFlow]) -> None:
    """Add the flows of the functions that may touch vcpu_info, once per set of vcpu_info arguments."""
    if not layout:
        return
    flows.extend(code.flow(entry) for entry in _candidates(code, layout))
    _add_callers(code, layout, flows)
    todo: list[tuple[int, _Bindings]] = []
    bound: dict[int, set[_Bindings]] = {}
    for flow in flows:
        todo.extend(_passed(code, layout, flow))
    followed = 0
    while todo and followed < _MOST_FOLLOWED:
        target, bindings = todo.pop()
        known = bound.setdefault(target, set())
        if bindings in known or len(known) >= _MOST_BINDINGS:
            continue
        known.add(bindings)
        followed += 1
        flow = code.flow_from(target, _bound_state(bindings))
        flows.append(flow)
        todo.extend(_passed(code, layout, flow))


def _add_callers(code: Code, layout: Layout, flows: list[FunctionFlow]) -> None:
    """Add the flows of functions that get a vcpu_info pointer from a small one, as unoptimised code does."""
    known = {flow.entry for flow in flows}
    new = flows
    for _ in range(_RETURN_DEPTH):
        sources = {
            flow.entry
            for flow in new
            if (result := code.result_of(flow.entry)) is not None and _as_argument(result, layout) is not None
        }
        if not sources:
            return
        callers: set[int] = set()
        for section in code.sections:
            callers |= functions_of(section, code.starts, calls_of(section, sources))
        entries = {place for entry in callers - known for place in code.entries(entry)} - known
        new = [code.flow(entry) for entry in sorted(entries)]
        known |= entries
        flows.extend(new)


def _passed(code: Code, layout: Layout, flow: FunctionFlow) -> Iterator[tuple[int, _Bindings]]:
    """Yield the functions to which this one passes a vcpu_info pointer, and in which arguments."""
    for call in flow.calls.values():
        if call.target < 0 or code.section(call.target) is None:
            continue
        if code.hypercall_of(call) is not None or code.name(call.target).startswith(_COPIES):
            continue
        bindings = tuple(_arguments(call, layout))
        if bindings:
            yield call.target, bindings


def _arguments(call: Call, layout: Layout) -> Iterator[tuple[int, Value]]:
    """Yield registers (or, from 16 on, stack slots) that hold a vcpu_info pointer at a call."""
    state = call.state
    for register in _ARGUMENT_REGISTERS if not call.tail else range(16):
        value = _as_argument(state.registers[register], layout)
        if value is not None:
            yield register, value
    pointer = state.registers[RSP]
    if layout.bits == 32 and pointer.root == STACK:
        # A call pushes a return address below the arguments; a jump leaves the caller's there.
        for number in range(_STACK_ARGUMENTS):
            slot = state.slots.get(pointer.offset + 4 * number)
            value = _as_argument(slot, layout) if slot is not None else None
            if value is not None:
                yield 16 + 4 * (number + (0 if call.tail else 1)), value


def _as_argument(value: Value, layout: Layout) -> Value | None:
    spot = layout.spot(value, False)
    if spot is None or not 0 <= spot.offset < VCPU_INFO_BYTES // 4:
        return None
    return Value((ARGUMENT, spot.origin, spot.cpu), (), spot.offset)


def _bound_state(bindings: _Bindings) -> State:
    state = entry_state()
    for number, value in bindings:
        if number < 16:
            state.registers[number] = value
        else:
            state.slots[number - 16] = value
    return state


def _touches(flows: Iterable[FunctionFlow], layout: Layout, code: Code) -> dict[int, Touch]:
    """Return the touches by address; if flows disagree, that of the flow that knows more."""
    found: dict[int, Touch] = {}
    for flow in flows:
        for touch in touches(flow, layout, code):
            known = found.get(touch.address)
            if known is None or _certainty(touch) > _certainty(known):
                found[touch.address] = touch
    return found


def _certainty(touch: Touch) -> tuple[bool, int]:
    return touch.spot.cpu in (Cpu.RUNNING, Cpu.LOADED), len(touch.flow.insns)


def _groups(code: Code, found: dict[int, Touch]) -> Iterator[tuple[dict[int, Touch], Touches]]:
    """Yield the touches of each flow by address, its own first; and the same with those after a tail jump.

    Touches that other flows found in the same code are included.  The call of a function that tests
    pending counts as its test.
    """
    own: dict[int, dict[int, Touch]] = {}
    touched = frozenset(code.window(address)[0] for address in found)
    asked: dict[int, Touch | None] = {}
    for address in sorted(found):
        touch = found[address]
        own.setdefault(id(touch.flow), {})[address] = touch
    for group in own.values():
        flow = next(iter(group.values())).flow
        group |= {address: found[address] for address in flow.insns if address in found}
        joined = code.joined(flow)
        wider = {**group, **{address: found[address] for address in joined.insns if address in found}}
        if any(touch.kind in OPENS for touch in group.values()):
            wider |= _tested_by_callees(code, joined, found, touched, asked)
        yield group, Touches(flow, wider)


def _tested_by_callees(
    code: Code,
    flow: FunctionFlow,
    found: dict[int, Touch],
    touched: Collection[int],
    asked: dict[int, Touch | None],
) -> Iterator[tuple[int, Touch]]:
    """Yield calls of functions that test pending, with the test: as unoptimised code does it.

    Args:
        touched: the starts of the functions with a touch.
        asked: the test that each function makes, as far as that is known.
    """
    for address, call in flow.calls.items():
        if call.tail or call.target < 0 or code.window(call.target)[0] not in touched:
            continue
        if call.target not in asked:
            asked[call.target] = tested_inside(code, call.target, found)
        test = asked[call.target]
        if test is not None and answered(code, flow, call, test):
            yield address, test


def _surroundings(
    code: Code, touch: Touch, group: Touches, order: Order, opening: Collection[int]
) -> Surroundings:
    flow = touch.flow
    opens = touch.kind in OPENS
    tests = pending_test(code, flow, touch, group) if opens else _NOWHERE
    owes = opens and not (touch.kind is Kind.RESTORE and opened_only_if_zero(flow, touch))
    covered = exit_behind(code, flow, touch, group) if owes and tests.paths is not Paths.ALL else ""
    masked = masked_ranges(flow, touch, group) if touch.kind is Kind.MASK else ()
    code.budget.spend(sum(end - start for start, end in masked) // _MASKED_BYTES_PER_STEP)
    return Surroundings(
        tests=tests,
        tested_before=tested_before(flow, touch, group) if opens else (),
        owes_test=owes,
        exit=covered,
        reopened=reopened(code, flow, touch, group, opening) if touch.kind is Kind.MASK else _NOWHERE,
        guarded=touch.kind in STORES and preemption_off(code, flow, touch),
        order=order,
        reread=reread(flow, touch, tests.hits) if opens else (),
        masked=masked,
    )


def _site(
    code: Code,
    facts: ImageFacts,
    touch: Touch,
    around: Surroundings,
    fences: tuple[Fence, ...],
    place: SourceLocation | None,
    forced: tuple[int, ...],
    proof: Proof,
) -> Site:
    verdict, reason = site_verdict(fences)
    cpu = touch.spot.cpu
    if cpu is Cpu.LOADED and around.guarded:
        cpu = Cpu.GUARDED
    assert touch.insn.memory is not None
    symbol, offset, aliases, section = _named(code, touch.address)
    return Site(
        address=touch.address,
        symbol=symbol,
        offset=offset,
        aliases=aliases,
        section=section,
        kind=touch.kind,
        text=code.text(touch.insn),
        origin=touch.spot.origin,
        cpu=cpu,
        width_bytes=touch.insn.memory.size,
        fences=fences,
        pending_tests=around.tests.hits,
        pending_paths=around.tests.paths,
        callbacks=forced,
        exit=around.exit,
        reread=around.reread,
        verdict=verdict,
        reason=reason,
        hazards=hazards(touch, around, proof),
        place=place,
        patched=facts.patched(touch.address, touch.insn.length) or "",
        masked=around.masked,
        description=proof.description,
    )


def _named(code: Code, address: int) -> tuple[str, int, tuple[str, ...], str]:
    symbols = code.image.symbols
    section = code.section(address)
    index = symbols.index_of(address)
    if index is None:
        return "", 0, (), section.name if section else ""
    start = int(symbols.addresses[index])
    name = symbols.name(index)
    aliases = tuple(item for item in symbols.at(start) if item != name)
    return name, address - start, aliases, section.name if section else ""


def _forced(code: Code, flows: Iterable[FunctionFlow]) -> dict[int, FunctionFlow]:
    """Return the hypercalls that force the callback, in the given flows and in functions they call."""
    found: dict[int, FunctionFlow] = {}
    seen: set[int] = set()
    todo = list(flows)
    while todo:
        flow = todo.pop()
        for address, call in flow.calls.items():
            if code.hypercall_of(call) is not None:
                if forces(code, call.insn, flow):
                    found[address] = flow
            elif call.target >= 0 and call.target not in seen and forces(code, call.insn, flow):
                seen.add(call.target)
                todo.append(code.flow(call.target))
    return found


def _blocking(code: Code, touches: Iterable[Touch]) -> dict[int, FunctionFlow]:
    """Return the hypercalls SCHEDOP_block by which Xen delivers what kept an unmask from succeeding."""
    return {
        address: code.joined(touch.flow)
        for touch in touches
        if touch.kind is Kind.UNMASK and tests_itself(touch.flow, touch)
        for address in callbacks(code, touch.flow, (touch.address,), own=True)
        if blocks(code, code.joined(touch.flow).insns[address], code.joined(touch.flow))
    }


def _forced_site(
    code: Code, facts: ImageFacts, address: int, flow: FunctionFlow, place: SourceLocation | None
) -> Site:
    insn = flow.insns[address]
    symbol, offset, aliases, section = _named(code, address)
    verdict, reason = site_verdict(())
    return Site(
        address=address,
        symbol=symbol,
        offset=offset,
        aliases=aliases,
        section=section,
        kind=Kind.FORCE_CALLBACK,
        text=code.text(insn),
        origin="hypercall sched_op block" if blocks(code, insn, flow) else "hypercall xen_version",
        cpu=Cpu.RUNNING,
        width_bytes=0,
        fences=(),
        pending_tests=(),
        pending_paths=Paths.NONE,
        callbacks=(),
        exit="",
        reread=(),
        verdict=verdict,
        reason=reason,
        hazards=(),
        place=place,
        patched=facts.patched(address, insn.length) or "",
        masked=(),
    )
