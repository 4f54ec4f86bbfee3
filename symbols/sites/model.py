"""What a site is: the types that the finder, the verdict and the commands share.

The kinds, and the rule for the verdicts, follow Xen's public header
xen/include/public/xen.h (struct vcpu_info) on x86-TSO.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

from xtrace.symbols.dwarf.source_locations import SourceLocation
from xtrace.symbols.errors import shown
from xtrace.symbols.flow.walk import Paths
from xtrace.symbols.image.xen_facts import ImageFacts
from xtrace.symbols.proof.description import Description


class Kind(StrEnum):
    """What an instruction does to ``vcpu_info``'s event fields."""

    MASK = "mask"  # evtchn_upcall_mask := 1
    SAVE = "save"  # the mask is read and saved
    RESTORE = "restore"  # evtchn_upcall_mask := a saved value
    UNMASK = "unmask"  # evtchn_upcall_mask := 0
    MASK_TEST = "mask test"
    PENDING_TEST = "pending test"
    PENDING_CLEAR = "pending clear"
    PENDING_SET = "pending set"
    SELECTOR_TAKE = "selector take"
    SELECTOR_SET = "selector set"
    FORCE_CALLBACK = "force callback"
    DEBUG_READ = "debug read"  # read only to be printed: left out of counts and comparisons


class How(StrEnum):
    """Where a fence instruction is, relative to the site."""

    INLINE = "inline"
    CALLEE = "callee"
    TAIL_JUMP = "tail jump"


class Verdict(StrEnum):
    """What the binary alone shows about a fence, or about a site from its fences."""

    NO_FENCE = "no fence"
    REMOVABLE = "removable"
    REPLACEABLE = "replaceable"  # the access itself is locked, and a byte store and a test would do
    KEEP = "keep"
    UNDECIDED = "undecided"


class Cpu(StrEnum):
    """Whose vcpu_info the pointer refers to."""

    RUNNING = "running CPU"  # one instruction through the per-CPU segment: always the running CPU's
    LOADED = "running CPU when loaded"  # the pointer was loaded from the per-CPU segment earlier
    GUARDED = "running CPU, preemption off"
    FIXED = "the vCPU of that number"  # vcpu_info[n] of shared_info, as in guests with one vCPU
    OTHER = "any CPU"  # an array, a list or an argument selects the CPU
    UNKNOWN = "unknown"


@dataclass(frozen=True, slots=True)
class Fence:
    """A fence that executes at a site.

    Attributes:
        mnemonic: ``lfence``, ``mfence``, ``sfence``, ``lock add``, ``xchg``, ``cpuid``...
        address: of the fence instruction itself, which may be in a callee.
        via: the callee's symbol; "" if inline.
        position: ``before`` or ``after`` the access; ``access`` if the access itself is locked.
        paths: on which paths from (or to) the access it executes.
        at: the instruction of the site's function that is, calls or jumps to the fence.
    """

    mnemonic: str
    how: How
    address: int
    via: str
    position: str
    paths: Paths
    verdict: Verdict
    reason: str
    at: int


@dataclass(frozen=True, slots=True)
class Hazard:
    """A problem at a site that no fence fixes.

    Attributes:
        name: ``wide-store``, ``test-before-store``, ``no-pending-test``, ``unlocked-handler``,
            ``take-before-clear``, ``clear-without-take``, ``unstable-pointer``, ``unbalanced`` or
            ``lost-upcall``.
        reason: one sentence, with the addresses that support it.
    """

    name: str
    reason: str


@dataclass(frozen=True, slots=True)
class Site:
    """One instruction that touches the upcall mask, the pending byte or the selector.

    Attributes:
        address: of the instruction.  symbol, offset: where that is ("" and 0 without symbols).
        aliases: other symbols at the same address as ``symbol``.
        text: the instruction in AT&T syntax.
        origin: where the vcpu_info pointer comes from, in words.
        width_bytes: of the access.
        pending_tests: addresses of the pending tests that follow a restore or unmask, or of the call of a
            function that makes one; its own address if the instruction itself tests pending.
        pending_paths: on which paths from the store such a test follows.
        callbacks: addresses of the force callbacks (calls) that such a test guards.
        exit: what makes up for a missing pending test, such as an iret that follows; "" if none was found.
        reread: where the CPU's pointer or number is read again between the store and a pending test.
        place: source file, line and inline chain, if DWARF has them.
        patched: the table by which the kernel may patch these bytes at run time; "" if none.
        masked: for mask sites, [start, end) address ranges that run with the mask set by this site.
        description: the accesses on its paths and in the handlers; None for a kind that loses nothing.
    """

    address: int
    symbol: str
    offset: int
    aliases: tuple[str, ...]
    section: str
    kind: Kind
    text: str
    origin: str
    cpu: Cpu
    width_bytes: int
    fences: tuple[Fence, ...]
    pending_tests: tuple[int, ...]
    pending_paths: Paths
    callbacks: tuple[int, ...]
    exit: str
    reread: tuple[int, ...]
    verdict: Verdict
    reason: str
    hazards: tuple[Hazard, ...]
    place: SourceLocation | None
    patched: str
    masked: tuple[tuple[int, int], ...]
    description: Description | None = None


@dataclass(frozen=True, slots=True)
class SiteTable:
    """All sites of an image in address order, and how they were found.

    Attributes:
        layout: how the kernel reaches vcpu_info (offset, source), one line each, for the report's head.
        damage: what could not be read, one line each.
        partial: why only part of the code was followed, "" if all of it was; it is in ``damage``, too.
    """

    path: str
    build_id: str
    facts: ImageFacts
    sites: tuple[Site, ...]
    layout: tuple[str, ...]
    damage: tuple[str, ...]
    partial: str = ""


def where(site: Site) -> str:
    """Return a site's symbol and offset, or its section if there is no symbol, safe to print."""
    if not site.symbol:
        return shown(site.section)
    return shown(f"{site.symbol}+{site.offset:#x}" if site.offset else site.symbol, 4096)
