"""Generate descriptions of sites: right ones, wrong ones and senseless ones, of bounded size.

Each path has at most four accesses and each handler at most four before its iret.  A path that tests P or
a saved M goes on for either outcome, so that no value is left without a path.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from itertools import product
from random import Random

from xtrace.symbols.proof.description import REST, SAVED, UNCHANGED, Access, Cell, Description, Path, Role
from xtrace.symbols.proof.templates import IRET, TAKE

MOST = 4
P, M, S = Cell.P, Cell.M, Cell.S

STORES = tuple(Access(writes=((M, value),), text=f"M := {value}") for value in (0, 1, SAVED))
WIDE = tuple(
    Access(writes=((P, UNCHANGED), (M, value)), text=f"M := {value}, P back") for value in (0, 1, SAVED)
)
LOCKED = tuple(replace(access, drains=True) for access in (*STORES, *WIDE))
SAVE = Access((M,), text="m = M")
SWAP = Access((M,), ((M, 1),), drains=True, text="xchg M with 1")
FENCES = (Access(fence="lfence", text="lfence"), Access(drains=True, fence="mfence", text="mfence"))
TEST = Access((P,), text="read P")
CALL = Access(xen=True, text="force callback")
BLOCK = Access(writes=((M, 0),), xen=True, text="block")
SITE = (*STORES, *STORES, *WIDE, *LOCKED, SAVE, SWAP, *FENCES, TEST, TEST, TEST, CALL, BLOCK)

CLEAR = Access(writes=((P, 0),), text="P := 0")
CLEARS = (
    CLEAR,
    replace(CLEAR, drains=True),
    Access(writes=((P, 0), (M, UNCHANGED)), text="P := 0, M back"),
    Access(writes=((P, 0), (M, 1)), text="P := 0, M := 1"),
)
TAKES = (
    (TAKE,),
    (Access((S,), text="read S"), Access(writes=((S, REST),), drains=True, text="lock and S")),
    (Access((S,), text="read S"), Access(writes=((S, 0),), text="S := 0")),
)
STARTS = (((0, 0),), ((1, 0),), ((1, 0), (1, 1)), ((0, 0), (1, 1)))


def described(random: Random) -> Description:
    """Return a random description; about half of them have the usual handler."""
    handlers: tuple[Path, ...] = ((CLEAR, TAKE, IRET),)
    if random.random() < 0.5:
        handlers = tuple(dict.fromkeys(handler_of(random) for _ in range(random.choice((1, 1, 1, 2)))))
    role = random.choice((Role.MASK, Role.OPEN, Role.OPEN, Role.HANDLER))
    paths: tuple[Path, ...] = ()
    if role is not Role.HANDLER:
        accesses = [random.choice(SITE) for _ in range(random.randint(1, MOST))]
        if random.random() < 0.5:
            # Likely right: what clears M is tested, and nothing is wide.
            accesses = [access for access in accesses if not access.is_wide][: MOST - 1]
            accesses.append(random.choice((TEST, TEST, CALL, STORES[1])))
        paths = tuple(dict.fromkeys(forked(accesses, random)))
    stable = role is Role.HANDLER or random.random() < 0.9
    starts = ((0, 0),) if role is Role.HANDLER else random.choice(STARTS)
    return Description(role, paths, handlers, starts, stable)


def forked(accesses: Sequence[Access], random: Random) -> Iterator[Path]:
    """Yield the paths of a sequence: after a test of P it goes on, or ends, for either outcome."""
    for place, access in enumerate(accesses):
        if access is TEST:
            before = tuple(accesses[:place])
            if place and random.random() < 0.15:
                yield before  # a branch leaves the test out
            ends: Path = random.choice(((CALL,), (), (BLOCK,)))
            if random.random() < 0.3:
                # Only a restore that opened the mask acts on what it found.
                yield (*before, replace(TEST, when=((P, 1), (M, 0))), *ends)
                yield (*before, replace(TEST, when=((P, 1), (M, 1))))
            else:
                yield (*before, replace(TEST, when=((P, 1),)), *ends)
            for rest in forked(accesses[place + 1 :], random):
                yield (*before, replace(TEST, when=((P, 0),)), *rest)
            return
    yield tuple(accesses)


def handler_of(random: Random) -> Path:
    """Return a random handler."""
    clear: Path = (random.choice((CLEAR, CLEAR, *CLEARS)),)
    take = random.choice((TAKES[0], *TAKES))
    body = [*clear, *take] if random.random() < 0.8 else [*take, *clear]
    if len(body) < MOST and random.random() < 0.4:
        body.insert(random.randint(0, len(body)), random.choice(FENCES))
    if len(body) < MOST and random.random() < 0.2:
        body.insert(random.randint(0, len(body)), STORES[0])
    return (*body, IRET)


def small_sites(size: int) -> Iterator[Description]:
    """Yield every description of an unmask or mask with up to ``size`` accesses and the usual handlers."""
    usual = (CLEAR, TAKE, IRET)
    handlers = (usual, (CLEAR, *TAKES[1], IRET), (TAKE, CLEAR, IRET))
    parts = tuple(dict.fromkeys(SITE))
    for count in range(1, size + 1):
        for accesses in product(parts, repeat=count):
            for handler in handlers:
                for starts in STARTS:
                    paths = tuple(dict.fromkeys(_tested(accesses)))
                    yield Description(Role.OPEN if starts[0][0] else Role.MASK, paths, (handler,), starts)


def _tested(accesses: Sequence[Access]) -> Iterator[Path]:
    for place, access in enumerate(accesses):
        if access is TEST:
            yield (*accesses[:place], replace(TEST, when=((P, 1),)), CALL)
            for rest in _tested(accesses[place + 1 :]):
                yield (*accesses[:place], replace(TEST, when=((P, 0),)), *rest)
            return
    yield tuple(accesses)
