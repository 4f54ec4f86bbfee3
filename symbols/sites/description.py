"""Translate the code of a site into its description: the accesses on each path, as the finder saw them.

From the site's store the code is followed to its pending test, to an entry into Xen, or to the end of the
function; the fences on the way are part of the path.  What follows the test is one of two things: if P was
0, nothing; if it was 1, the event is handled, by the force callback that was found or, if none was, by code
that is assumed to do it.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace

from xtrace.symbols.dwarf.source_locations import SourceLocation
from xtrace.symbols.flow.code import Code, fence_of
from xtrace.symbols.flow.interpreter import FunctionFlow
from xtrace.symbols.flow.walk import Paths
from xtrace.symbols.proof.description import (
    BESIDE,
    REST,
    SAVED,
    UNCHANGED,
    Access,
    Cell,
    Description,
    Path,
    Role,
)
from xtrace.symbols.proof.templates import IRET, USUAL_HANDLER
from xtrace.symbols.sites.access_kind import Touch
from xtrace.symbols.sites.fences import Found
from xtrace.symbols.sites.handlers import HALF_FENCES, Handlers, Order
from xtrace.symbols.sites.model import Kind
from xtrace.symbols.sites.surroundings import (
    Touches,
    blocks,
    forces,
    leaves_through_xen,
    restored_forks,
    tests_itself,
)
from xtrace.symbols.sites.vcpu_info import PENDING
from xtrace.symbols.sites.verdict import STORES, Surroundings
from xtrace.symbols.x86.decode import Flow, Insn

#: How many instructions a path may have after the store, and how many different paths are kept.
_PATH_INSNS = 160
_MOST_PATHS = 64
#: Of more fences in a row than this the last are kept: without the others more may happen, not less.
_MOST_FENCES = 3

_Suffixes = frozenset[Path]


@dataclass(slots=True)
class Describer:
    """Make the descriptions of one image's sites.

    Args:
        takes: addresses of the instructions that take the selector.
        places: source locations by address.
    """

    code: Code
    handlers: Handlers
    orders: Mapping[int, Order]
    takes: Collection[int]
    places: Mapping[int, SourceLocation]

    def image_handlers(
        self, clears: Iterable[Touch], near: Mapping[int, Collection[Found]]
    ) -> tuple[Path, ...]:
        """Return what the image's handlers do, one path for each pending clear that was found."""
        found = (path for touch in clears for path in self.handler(touch, near.get(touch.address, ())))
        return tuple(dict.fromkeys(found))

    def handler(self, touch: Touch, near: Collection[Found]) -> tuple[Path, ...]:
        """Return the paths of a handler from what comes before and after its pending clear."""
        order = self.orders[touch.address]
        before = [item for item in near if item.position == "before"]
        # One that drains and is not among the locked accesses comes after the selector was used.
        after = [
            item
            for item in near
            if item.position == "after"
            and fence_of(item.insn) in HALF_FENCES
            and item.at not in order.locked.hits
        ]
        body = [self._fence(item.insn, item.at) for item in before]
        body.append(self._store(touch, Cell.P, 0))
        body += [self._fence(item.insn, item.at) for item in after]
        end = replace(IRET, text=f"assumed: {IRET.text}")
        found = [(*body, *self._unlocked(at), end) for at in order.unlocked]
        found += [(*body, *self._locked(at, touch), end) for at in order.locked.hits]
        if order.ends and order.taken:
            found += [(self._take(at), *body, end) for at in order.taken]
        elif order.misses:
            found.append((*body, end))
        if not found:
            taken = replace(USUAL_HANDLER[1], text="assumed: code that it calls takes S by xchg")
            found.append((*body, taken, end))
        return tuple(dict.fromkeys(found))

    def _unlocked(self, at: int) -> Iterator[Access]:
        """Yield a use of the selector that no locked access precedes."""
        yield self._at(at, Access((Cell.S,), text="read S, handle what it holds"))
        yield Access(writes=((Cell.S, REST),), drains=True, text="assumed: the bits that it read are cleared")

    def _locked(self, at: int, touch: Touch) -> Iterator[Access]:
        """Yield the locked access after a clear: the take itself, or one that orders a plain read of S."""
        insns = self.handlers.executed(self.code.joined(touch.flow).insns[at])
        takes = any(item.address in self.takes for item in insns)
        if takes or not insns:
            yield self._take(at)
            return
        yield self._fence(insns[0], at)
        yield Access((Cell.S,), text="assumed: read S, handle what it holds")
        yield Access(writes=((Cell.S, REST),), drains=True, text="assumed: lock and S, ~(what was read)")

    def _take(self, at: int) -> Access:
        return self._at(at, replace(USUAL_HANDLER[1], text="take S, handle what it held"))

    def describe(
        self,
        touch: Touch,
        group: Touches,
        around: Surroundings,
        near: Collection[Found],
        image_handlers: tuple[Path, ...],
        calls: tuple[int, ...],
    ) -> Description | None:
        """Return the description of a site, None for a kind that cannot lose an upcall.

        Args:
            calls: the force callbacks after its pending tests.
        """
        if touch.kind is Kind.PENDING_CLEAR:
            return Description(Role.HANDLER, (), self.handler(touch, near), ((0, 0),))
        if touch.kind is Kind.SELECTOR_TAKE:
            return Description(
                Role.HANDLER, (), image_handlers or (USUAL_HANDLER,), ((0, 0),), assumed=_none(image_handlers)
            )
        if touch.kind is Kind.SELECTOR_SET and touch.wide:
            clears = touch.stored is not None and touch.stored.constant == 0
            value, what = (0, "S := 0") if clears else (UNCHANGED, "S := S, with bits changed")
            store = Access(writes=((Cell.S, value),), text=f"{what}, by a plain store")
            path = (self._at(touch.address, store),)
            return Description(Role.MASK, (path,), image_handlers or (USUAL_HANDLER,), ((0, 0),))
        if touch.kind not in STORES:
            return None
        handlers = image_handlers or (USUAL_HANDLER,)
        opens = around.owes_test
        walk = _Walk(self, touch, group, calls)
        paths = tuple(sorted(walk.paths(around, near, opens), key=_order))
        assumed = (*_none(image_handlers), *sorted(walk.assumed))
        if not opens:
            return Description(Role.MASK, paths, handlers, ((0, 0),), assumed=assumed)
        starts = ((1, 0),) if touch.kind is Kind.UNMASK else ((1, 0), (1, 1))
        return Description(Role.OPEN, paths, handlers, starts, assumed=assumed)

    # --- accesses --------------------------------------------------------------------------------------

    def _store(self, touch: Touch, cell: Cell, value: int) -> Access:
        """Return the access of a touch that writes M or P."""
        memory = touch.insn.memory
        assert memory is not None
        locked = bool(fence_of(touch.insn))
        writes: tuple[tuple[Cell, int], ...] = ((cell, value),)
        if memory.size > 1 and touch.spot.offset == PENDING:
            also = 0 if touch.clears_pending and cell is Cell.M else UNCHANGED
            writes = ((BESIDE[cell], also), (cell, value))
        text = f"{cell.name} := {'m' if value == SAVED else value}"
        return self._at(touch.address, Access(writes=writes, drains=locked, text=text))

    def _fence(self, insn: Insn, at: int) -> Access:
        name = fence_of(insn)
        drains = name not in HALF_FENCES
        via = "" if insn.address == at else f", called at {at:#x}"
        access = Access(drains=drains, fence=_class(name, insn), text=f"fence{via}")
        return self._at(insn.address, access)

    def _at(self, address: int, access: Access) -> Access:
        place = self.places.get(address)
        source = f"{place.file}:{place.line}" if place is not None else ""
        return replace(access, code=self._text(address), address=address, source=source)

    def _text(self, address: int) -> str:
        insn = next(self.code.run(address), None)
        return self.code.text(insn) if insn is not None else ""


def _none(handlers: tuple[Path, ...]) -> tuple[str, ...]:
    return () if handlers else ("no handler was found in the image: the usual one is assumed",)


def _class(name: str, insn: Insn) -> str:
    if name in ("lfence", "sfence", "mfence"):
        return name
    return "lock" if insn.lock or insn.mnemonic == "xchg" else "serialising"


def _order(path: Path) -> tuple[tuple[int, tuple[int, ...]], ...]:
    return tuple((access.address, tuple(value for _, value in access.when)) for access in path)


class _Walk:
    """Collect the paths of one site."""

    def __init__(self, describer: Describer, touch: Touch, group: Touches, calls: tuple[int, ...]) -> None:
        self._d = describer
        self._code = describer.code
        self._touch = touch
        self._group = group
        self._calls = calls
        self._flow: FunctionFlow = describer.code.joined(touch.flow)
        self._forks = restored_forks(touch.flow, touch, group)
        self._known: dict[int, _Suffixes] = {}
        self.assumed: set[str] = set()
        self._opens: bool
        self._reread: tuple[int, ...]

    def paths(self, around: Surroundings, near: Collection[Found], opens: bool) -> set[Path]:
        """Return the paths of the site, each once."""
        touch = self._touch
        self._opens = opens
        self._reread = around.reread
        before = [self._d._fence(item.insn, item.at) for item in near if item.position == "before"]
        value = 1 if not opens else 0 if touch.kind is Kind.UNMASK else SAVED
        store = self._d._store(touch, Cell.M, value)
        if opens and tests_itself(touch.flow, touch):
            return {(*before, *ends) for ends in self._tests_itself(store)}
        suffixes = self._following(touch.address, _PATH_INSNS) or frozenset({()})
        prefix = (*before, store)
        if opens and around.tested_before and around.tests.paths is Paths.NONE:
            # The test comes before the store; what it saw decides what follows.
            at = around.tested_before[0]
            return {(test, *prefix, *rest, *ends) for test, ends in self._tested(at) for rest in suffixes}
        return {(*prefix, *rest) for rest in suffixes}

    def _tests_itself(self, store: Access) -> Iterator[Path]:
        """Yield the outcomes of a store that tests P."""
        handled = self._handled(self._touch.address, taken=self._touch.clears_pending)
        if self._touch.insn.mnemonic == "cmpxchg":
            yield (replace(store, reads=(Cell.P,), when=((Cell.P, 0),), text=f"{store.text}, if P is 0"),)
            yield (
                replace(
                    store,
                    reads=(Cell.P,),
                    writes=(),
                    when=((Cell.P, 1),),
                    text=f"{store.text}: P is 1, no store",
                ),
                handled,
            )
            return
        yield (replace(store, reads=(Cell.P,), when=((Cell.P, 0),), text=f"{store.text}, reads P"),)
        yield replace(store, reads=(Cell.P,), when=((Cell.P, 1),), text=f"{store.text}, reads P"), handled

    def _tested(self, at: int) -> Iterator[tuple[Access, Path]]:
        test = self._d._at(at, Access((Cell.P,), text="read P"))
        # A restore acts on what it found only if it opened the mask.
        if self._touch.kind is Kind.RESTORE:
            yield replace(test, when=((Cell.P, 1), (Cell.M, 0))), (self._handled(at),)
            yield replace(test, when=((Cell.P, 1), (Cell.M, 1))), ()
        else:
            yield replace(test, when=((Cell.P, 1),)), (self._handled(at),)
        yield replace(test, when=((Cell.P, 0),)), ()

    def _handled(self, test: int, *, taken: bool = False) -> Access:
        """Return how the event is handled if a test finds P set.

        Args:
            taken: the test has cleared P, so Xen would deliver nothing: the code itself must take S.
        """
        flow = self._flow
        later = [call for call in self._calls if call >= test] or list(self._calls)
        if later:
            at = later[0]
            insn = flow.insns.get(at)
            if insn is not None and blocks(self._code, insn, flow):
                return self._d._at(at, Access(writes=((Cell.M, 0),), xen=True, text="block: Xen does M := 0"))
            return self._d._at(at, Access(xen=True, text="force callback"))
        self.assumed.add(
            f"what follows the test at {test:#x} handles the event: no force callback was found there"
        )
        if taken:
            return replace(USUAL_HANDLER[1], text="assumed: the event is handled, by a take of S")
        return Access(xen=True, text="assumed: the event is handled")

    def _following(self, address: int, left: int) -> _Suffixes:
        """Return what the paths from the successors of an instruction do, each once."""
        after = self._flow.successors.get(address, ())
        if not after:
            return frozenset({()})
        results = [self._suffixes(item, left - 1) for item in after]
        if address in self._forks:
            results = [
                self._decided(item, result, results) for item, result in zip(after, results, strict=True)
            ]
        found: _Suffixes = frozenset().union(*results)
        if len(found) <= _MOST_PATHS:
            return found
        # Those without a test first: they are what may be wrong.
        self.assumed.add(f"of more than {_MOST_PATHS} different ways on, the others are like those shown")
        return frozenset(sorted(found, key=lambda path: (_answers(path), _order(path)))[:_MOST_PATHS])

    def _decided(self, target: int, own: _Suffixes, results: list[_Suffixes]) -> _Suffixes:
        """Return the paths of one side of a branch that depends on the restored value."""
        if not own or all(_answers(path) for path in own):
            return own
        if not any(other and all(_answers(path) for path in other) for other in results):
            return own
        # Only one side tests: on the other the mask stays set.
        stays = self._d._at(target, Access(when=((Cell.M, 1),), text="the restored value was not 0"))
        return frozenset((stays, *path) if not _answers(path) else path for path in own)

    def _suffixes(self, address: int, left: int) -> _Suffixes:
        if left <= 0:
            return frozenset({()})
        if address in self._known:
            return self._known[address]
        # A loop adds no path of its own.
        self._known[address] = frozenset()
        found = self._step(address, left)
        if address in self._reread:
            found = frozenset(tuple(map(_through_another, path)) for path in found)
        self._known[address] = found
        return found

    def _step(self, address: int, left: int) -> _Suffixes:
        code, flow = self._code, self._flow
        insn = flow.insns[address]
        other = self._group.get(address)
        if other is not None and other is not self._touch:
            if not self._opens:
                if other.kind not in (Kind.SAVE, Kind.MASK_TEST, Kind.DEBUG_READ):
                    return frozenset({()})
            elif other.kind is Kind.PENDING_TEST:
                return frozenset((test, *ends) for test, ends in self._tested(address))
            elif other.kind is Kind.MASK:
                # What opened before is answered only if the path leaves through Xen.
                mask = self._d._store(other, Cell.M, 1)
                rest = self._following(address, left)
                return frozenset((mask, *path) if _leaves(path) else () for path in rest)
            elif tests_itself(other.flow, other):
                return frozenset({()})
        if self._opens:
            words = leaves_through_xen(code, flow, insn)
            if words:
                writes = ((Cell.M, 0),) if blocks(code, insn, flow) else ()
                return frozenset(
                    {(self._d._at(address, Access(writes=writes, xen=True, text=_exit_text(words))),)}
                )
            if forces(code, insn, flow):
                return frozenset({(self._d._at(address, Access(xen=True, text="force callback")),)})
        if insn.flow is Flow.STOP or (insn.flow is Flow.CALL and code.never_returns(insn.target)):
            return frozenset()
        fences = tuple(self._d._fence(item, address) for item in self._executed(insn) if other is None)
        rest = self._following(address, left)
        if not fences:
            return rest
        return frozenset(_joined(fences, path) for path in rest)

    def _executed(self, insn: Insn) -> tuple[Insn, ...]:
        if insn.flow is Flow.CALL:
            return self._code.leaf_fences(insn.target) or ()
        return (insn,) if fence_of(insn) else ()


def _through_another(access: Access) -> Access:
    """Return an access through a pointer that is read again before it; Xen and fences need none."""
    uses = not access.xen and bool(access.reads or access.writes)
    return replace(access, pointer=1) if uses else access


def _joined(fences: Path, rest: Path) -> Path:
    """Return a path with fences before it; a long row of fences is cut."""
    path = (*fences, *rest)
    row = next((place for place, access in enumerate(path) if not access.fence), len(path))
    return path[max(0, row - _MOST_FENCES) :]


def _exit_text(words: str) -> str:
    return "block: Xen does M := 0" if "block" in words else "leave through Xen"


def _leaves(path: Path) -> bool:
    """Return whether a path enters Xen without a test of P."""
    return any(access.xen for access in path) and not any(Cell.P in access.reads for access in path)


def _answers(path: Path) -> bool:
    """Return whether a path tests P or enters Xen."""
    return any(access.xen or Cell.P in access.reads for access in path)
