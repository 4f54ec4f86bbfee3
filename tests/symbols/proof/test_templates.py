"""The templates as text: what each one reads, writes and requires, in program order."""

from __future__ import annotations

import pytest

from xtrace.symbols.proof.description import REST, SAVED, UNCHANGED, Access, Path, Role
from xtrace.symbols.proof.templates import (
    IRET,
    USUAL_HANDLER,
    Fence,
    Protocol,
    Retest,
    Scenario,
    Take,
    Width,
    describe,
    exchange,
)

VALUES = {SAVED: "m", UNCHANGED: "back", REST: "rest"}


def told(path: Path) -> str:
    """Return a path as text: ``lock`` drains, ``?`` reads, ``if`` must be found."""
    return "; ".join(map(_told, path))


def _told(access: Access) -> str:
    words = [access.fence, "lock" * access.is_locked, "xen" * access.xen]
    words += [f"{cell.name}?" for cell in access.reads]
    words += [f"{cell.name}={VALUES.get(value, value)}" for cell, value in access.writes]
    words += [f"if {cell.name}={value}" for cell, value in access.when]
    return " ".join(filter(None, words))


@pytest.mark.parametrize(
    ("scenario", "paths"),
    [
        (Scenario(Protocol.MASK), ["M=1"]),
        (Scenario(Protocol.SAVE_MASK), ["M?; M=1"]),
        (
            Scenario(Protocol.SECTION),
            [
                "M?; M=1; M=m; P? if P=1 if M=0; xen",
                "M?; M=1; M=m; P? if P=1 if M=1",
                "M?; M=1; M=m; P? if P=0",
            ],
        ),
        (Scenario(Protocol.UNMASK), ["M=0; P? if P=1; xen", "M=0; P? if P=0"]),
        (
            Scenario(Protocol.RESTORE),
            ["M=m; P? if P=1 if M=0; xen", "M=m; P? if P=1 if M=1", "M=m; P? if P=0"],
        ),
        (Scenario(Protocol.MASK, width=Width.WIDE), ["P=back M=1"]),
        (Scenario(Protocol.MASK, width=Width.LOCKED), ["lock M=1"]),
        (Scenario(Protocol.MASK, width=Width.LOCKED_WIDE), ["lock P=back M=1"]),
        (Scenario(Protocol.MASK, width=Width.EXCHANGE), ["lock M=1"]),
        (
            Scenario(Protocol.UNMASK, width=Width.WIDE),
            ["P=back M=0; P? if P=1; xen", "P=back M=0; P? if P=0"],
        ),
        (Scenario(Protocol.UNMASK, width=Width.LOCKED), ["lock M=0; P? if P=1; xen", "lock M=0; P? if P=0"]),
        (
            Scenario(Protocol.UNMASK, width=Width.LOCKED_WIDE),
            ["lock P=back M=0; P? if P=1; xen", "lock P=back M=0; P? if P=0"],
        ),
        (
            Scenario(Protocol.UNMASK, width=Width.EXCHANGE),
            ["lock P? P=back M=0 if P=0", "lock P? if P=1; xen M=0"],
        ),
        (
            Scenario(Protocol.SECTION, width=Width.EXCHANGE),
            ["M?; lock M=1; lock P? P=back M=0 if P=0", "M?; lock M=1; lock P? if P=1; xen M=0"],
        ),
        (Scenario(Protocol.UNMASK, retest=Retest.BEFORE), ["P? if P=1; M=0; xen", "P? if P=0; M=0"]),
        (Scenario(Protocol.UNMASK, retest=Retest.NONE), ["M=0"]),
        (Scenario(Protocol.UNMASK, retest=Retest.XEN_EXIT), ["M=0; xen"]),
        (Scenario(Protocol.UNMASK, retest=Retest.ITSELF), ["P? M=0 if P=1; xen", "P? M=0 if P=0"]),
        (
            Scenario(Protocol.RESTORE, retest=Retest.BEFORE),
            ["P? if P=1 if M=0; M=m; xen", "P? if P=1 if M=1; M=m", "P? if P=0; M=m"],
        ),
        (Scenario(Protocol.RESTORE, retest=Retest.NONE), ["M=m"]),
        (Scenario(Protocol.RESTORE, retest=Retest.XEN_EXIT), ["M=m; xen"]),
        (
            Scenario(Protocol.RESTORE, retest=Retest.ITSELF),
            ["P? M=m if P=1 if M=0; xen", "P? M=m if P=1 if M=1", "P? M=m if P=0"],
        ),
        (Scenario(Protocol.UNMASK, Fence.LFENCE), ["M=0; lfence; P? if P=1; xen", "M=0; lfence; P? if P=0"]),
        (
            Scenario(Protocol.RESTORE, Fence.MFENCE, fence_first=True),
            ["mfence; M=m; P? if P=1 if M=0; xen", "mfence; M=m; P? if P=1 if M=1", "mfence; M=m; P? if P=0"],
        ),
        (
            Scenario(Protocol.SECTION, Fence.MFENCE, retest=Retest.XEN_EXIT),
            ["M?; M=1; mfence; M=m; mfence; xen"],
        ),
        (
            Scenario(Protocol.RESTORE, Fence.MFENCE, retest=Retest.ITSELF),
            ["P? M=m if P=1 if M=0; mfence; xen", "P? M=m if P=1 if M=1; mfence", "P? M=m if P=0; mfence"],
        ),
    ],
    ids=str,
)
def test_paths_of_a_site(scenario: Scenario, paths: list[str]) -> None:
    description = describe(scenario)
    assert [told(path) for path in description.paths] == paths
    assert description.handlers == (USUAL_HANDLER,)


@pytest.mark.parametrize(
    ("scenario", "handler"),
    [
        (Scenario(Protocol.HANDLER), "P=0; lock S? S=0; xen M=0"),
        (Scenario(Protocol.HANDLER, take=Take.READ), "P=0; S?; lock S=rest; xen M=0"),
        (Scenario(Protocol.HANDLER, take=Take.PLAIN), "P=0; S?; S=0; xen M=0"),
        (Scenario(Protocol.HANDLER, take=Take.XCHG_FIRST), "lock S? S=0; P=0; xen M=0"),
        (Scenario(Protocol.HANDLER, take=Take.NONE), "P=0; xen M=0"),
        (Scenario(Protocol.HANDLER, width=Width.WIDE), "M=back P=0; lock S? S=0; xen M=0"),
        (Scenario(Protocol.HANDLER, width=Width.LOCKED), "lock P=0; lock S? S=0; xen M=0"),
        (Scenario(Protocol.HANDLER, width=Width.LOCKED_WIDE), "lock M=back P=0; lock S? S=0; xen M=0"),
        (Scenario(Protocol.HANDLER, width=Width.EXCHANGE), "lock P=0; lock S? S=0; xen M=0"),
        (Scenario(Protocol.HANDLER, Fence.MFENCE), "P=0; mfence; lock S? S=0; xen M=0"),
        (Scenario(Protocol.HANDLER, Fence.SFENCE, fence_first=True), "sfence; P=0; lock S? S=0; xen M=0"),
        (Scenario(Protocol.HANDLER, Fence.LOCK, take=Take.XCHG_FIRST), "lock S? S=0; P=0; lock; xen M=0"),
        (
            Scenario(Protocol.UNMASK, Fence.MFENCE, width=Width.WIDE, take=Take.READ),
            "P=0; S?; lock S=rest; xen M=0",
        ),
    ],
    ids=str,
)
def test_handler(scenario: Scenario, handler: str) -> None:
    description = describe(scenario)
    assert [told(path) for path in description.handlers] == [handler]
    assert bool(description.paths) is (scenario.protocol is not Protocol.HANDLER)


@pytest.mark.parametrize(
    ("protocol", "role", "starts"),
    [
        (Protocol.MASK, Role.MASK, ((0, 0),)),
        (Protocol.SAVE_MASK, Role.MASK, ((0, 0), (1, 1))),
        (Protocol.SECTION, Role.OPEN, ((0, 0), (1, 1))),
        (Protocol.UNMASK, Role.OPEN, ((1, 0),)),
        (Protocol.RESTORE, Role.OPEN, ((1, 0), (1, 1))),
        (Protocol.HANDLER, Role.HANDLER, ((0, 0),)),
    ],
)
def test_role_and_start(protocol: Protocol, role: Role, starts: tuple[tuple[int, int], ...]) -> None:
    description = describe(Scenario(protocol))
    assert (description.role, description.starts, description.stable) == (role, starts, True)
    moved = describe(Scenario(protocol, stable=False))
    assert (moved.role, moved.starts, moved.stable) == (role, starts, False)


def test_fences_that_drain() -> None:
    assert [fence for fence in Fence if not fence.drains] == [Fence.NONE, Fence.LFENCE, Fence.SFENCE]
    for fence in Fence:
        drains = [access.drains for access in describe(Scenario(Protocol.MASK, fence)).paths[0]]
        assert drains == [False] if fence is Fence.NONE else [False, fence.drains]


def test_texts() -> None:
    """What the interleavings in the documents do not show."""
    width = {
        Width.BYTE: "M := 0",
        Width.WIDE: "M := 0 by a plain store of P and M",
        Width.LOCKED: "M := 0, locked",
        Width.LOCKED_WIDE: "M := 0, locked",
    }
    for item, text in width.items():
        assert describe(Scenario(Protocol.UNMASK, width=item)).paths[0][0].text == text
    assert describe(Scenario(Protocol.RESTORE)).paths[0][0].text == "M := m"
    tests = describe(Scenario(Protocol.UNMASK, Fence.MFENCE, retest=Retest.ITSELF)).paths[0]
    assert [access.text for access in tests] == ["M := 0, reads P", "fence: mfence", "force callback"]
    assert [path[0].text for path in exchange()] == [
        "lock cmpxchg: P, M were 0, 1: M := 0",
        "lock cmpxchg: P was 1: it changes nothing",
    ]
    assert IRET.text == USUAL_HANDLER[-1].text
