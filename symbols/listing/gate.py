"""What a kernel's CI checks of an image: what must be found, what is accepted, what must not be there.

The two files have one line per site, with fields separated by commas; a line with ``#`` first is a comment.

- expected sites: symbol, kind, fence.  The fence is the mnemonics joined by ``+``, ``-`` for none.
- accepted findings: symbol, kind, finding, reason.  The finding is a verdict or the name of a hazard.

A symbol alone stands for each of its sites, and for those in copies that the compiler made of the function
(``intr_enable.constprop.0``); with an offset (``intr_enable+0x15``), or as an address, for one site.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

from xtrace.symbols.errors import shown
from xtrace.symbols.listing.compare import base_name
from xtrace.symbols.listing.export import is_undecided
from xtrace.symbols.sites.model import Fence, Kind, Site, SiteTable, Verdict, where

#: The findings that are verdicts; the others are names of hazards.
VERDICTS = (Verdict.REMOVABLE, Verdict.REPLACEABLE, Verdict.UNDECIDED)
HAZARDS = (
    "wide-store",
    "test-before-store",
    "no-pending-test",
    "unlocked-handler",
    "take-before-clear",
    "clear-without-take",
    "unstable-pointer",
    "unbalanced",
    "lost-upcall",
)
FINDINGS = (*map(str, VERDICTS), *HAZARDS)
_NO_FENCE = "-"
_MNEMONIC = re.compile(r"(lock )?[a-z][a-z0-9]*")
_LINE_END = re.compile(r"\r\n|\n|\r")
_KINDS = frozenset(map(str, Kind))
_MOST_LINES = 100_000
_LONGEST_LINE = 4096
_EXPECTED_FIELDS, _ACCEPTED_FIELDS = 3, 4


@dataclass(frozen=True, slots=True)
class Finding:
    """Something about a site that a gate may fail on: a verdict or a hazard, and its reason."""

    site: Site
    name: str
    reason: str

    @property
    def is_hazard(self) -> bool:
        """Return whether it is a hazard, not a verdict."""
        return self.name in HAZARDS


@dataclass(frozen=True, slots=True)
class Expected:
    """A line of a file of expected sites."""

    line: int
    symbol: str
    kind: Kind
    fence: str


@dataclass(frozen=True, slots=True)
class Accepted:
    """A line of a file of accepted findings."""

    line: int
    symbol: str
    kind: Kind
    finding: str
    reason: str


def findings(sites: Iterable[Site]) -> Iterator[Finding]:
    """Yield the findings of each site: verdicts of its fences, then hazards; debug reads have none."""
    for site in sites:
        if site.kind is Kind.DEBUG_READ:
            continue
        for verdict in VERDICTS:
            reasons = [fence.reason for fence in site.fences if fence.verdict is verdict]
            if not reasons and verdict is Verdict.UNDECIDED and is_undecided(site):
                reasons = [site.reason]
            if reasons:
                yield Finding(site, str(verdict), reasons[0])
        for hazard in site.hazards:
            yield Finding(site, hazard.name, hazard.reason)


def blindness(table: SiteTable) -> str:
    """Return why an image cannot be checked, as no field or no site was found, say; "" if it can."""
    facts = table.facts
    if not table.sites:
        known = facts.guest_os or facts.notes or facts.legacy or facts.hypercall_page is not None
        if not table.layout and not known and not facts.callbacks:
            return (
                "it is not a Xen guest, as far as it shows: no Xen note, no hypercall page and no pointer to "
                "vcpu_info was found; give the kernel that runs as a PV guest"
            )
        if not table.layout:
            return (
                "nothing in it shows where vcpu_info is, so no site can be found; give its symbols "
                "(--symbols) or its debug file (--debug)"
            )
        return f"no site was found, though {table.layout[0]}; give its symbols (--symbols) or check the image"
    return f"{table.partial}; its sites are not all known" if table.partial else ""


def list_lines(sites: Iterable[Site]) -> Iterator[str]:
    """Yield sites in the form of a file of expected sites."""
    for site in sites:
        name = shown(base_name(site.symbol), _LONGEST_LINE)
        # A name that the file cannot have is left to the address.
        if not name or name != name.strip() or name.startswith("#"):
            name = f"{site.address:#x}"
        yield f"{name}, {site.kind}, {fence_key(site.fences)}"


def fence_key(fences: Sequence[Fence]) -> str:
    """Return the mnemonics of a site's fences joined by ``+``, ``-`` for none."""
    return "+".join(_mnemonics(fences))


def _mnemonics(fences: Sequence[Fence]) -> list[str]:
    return [fence.mnemonic for fence in fences] or [_NO_FENCE]


def read_expected(text: str, path: str) -> list[Expected]:
    """Return the lines of a file of expected sites.

    Raises:
        ValueError: a line has another form.
    """
    found = []
    for number, fields in _lines(text, path):
        more = len(fields) > _EXPECTED_FIELDS and fields[-2].strip() not in _KINDS
        if len(fields) < _EXPECTED_FIELDS or more:
            raise ValueError(f"{path}:{number}: has {len(fields)} fields; write: symbol, kind, fence")
        # A symbol may have commas.
        symbol = ",".join(fields[:-2]).strip()
        kind, fence = (field.strip() for field in fields[-2:])
        found.append(Expected(number, symbol, _kind(kind, path, number), _fence(fence, path, number)))
    if not found:
        raise ValueError(f"{path}: expects no site; write it with --list-sites")
    return found


def read_accepted(text: str, path: str) -> list[Accepted]:
    """Return the lines of a file of accepted findings.

    Raises:
        ValueError: a line has another form, or no reason.
    """
    found = []
    for number, fields in _lines(text, path):
        if len(fields) < _ACCEPTED_FIELDS:
            raise ValueError(
                f"{path}:{number}: has {len(fields)} fields; write: symbol, kind, finding, reason"
            )
        # A symbol may have commas, as the reason may.
        place = next((at for at in range(1, len(fields) - 2) if fields[at].strip() in _KINDS), 1)
        symbol = ",".join(fields[:place]).strip()
        kind, finding = (field.strip() for field in fields[place : place + 2])
        reason = ",".join(fields[place + 2 :]).strip(" ,\t")
        if not reason:
            raise ValueError(f"{path}:{number}: the reason is empty; say why {shown(symbol)} is accepted")
        if finding not in FINDINGS:
            raise ValueError(
                f"{path}:{number}: no such finding: {shown(finding)}; known are {', '.join(FINDINGS)}"
            )
        found.append(Accepted(number, symbol, _kind(kind, path, number), finding, reason))
    return found


def missing(expected: Sequence[Expected], sites: Iterable[Site]) -> list[Expected]:
    """Return the expected sites that were not found; a site serves for one line."""
    left = list(sites)
    absent = []
    # Lines that name one site choose first.
    for line in sorted(
        expected, key=lambda item: "+" not in item.symbol and not item.symbol.startswith("0x")
    ):
        for place, site in enumerate(left):
            same = site.kind is line.kind and sorted(_mnemonics(site.fences)) == sorted(line.fence.split("+"))
            if same and names(line.symbol, site):
                del left[place]
                break
        else:
            absent.append(line)
    return sorted(absent, key=lambda item: item.line)


def sort_out(
    found: Iterable[Finding], accepted: Sequence[Accepted]
) -> tuple[list[Finding], list[tuple[Finding, str]], list[Accepted]]:
    """Return the findings that are not accepted, those that are, with their reasons, and lines left over."""
    unused = {line.line: line for line in accepted}
    open_, closed = [], []
    for finding in found:
        lines = [
            line
            for line in accepted
            if line.finding == finding.name
            and line.kind is finding.site.kind
            and names(line.symbol, finding.site)
        ]
        for line in lines:
            unused.pop(line.line, None)
        if lines:
            closed.append((finding, lines[0].reason))
        else:
            open_.append(finding)
    return open_, closed, list(unused.values())


def names(symbol: str, site: Site) -> bool:
    """Return whether a symbol, symbol+offset or address of a file stands for a site."""
    known = (site.symbol, *site.aliases) if site.symbol else ()
    if symbol in known or base_name(symbol) in map(base_name, known):
        return True
    if symbol.startswith("0x"):
        return symbol == f"{site.address:#x}"
    name, plus, offset = symbol.rpartition("+")
    return bool(plus) and name in known and offset == f"{site.offset:#x}"


def summary(found: Sequence[Finding]) -> str:
    """Return in a few words what was found, and where the first ones are."""
    counts = Counter(finding.name for finding in found)
    first = ", ".join(
        dict.fromkeys(where(finding.site) or f"{finding.site.address:#x}" for finding in found[:3])
    )
    rest = " and elsewhere" if len(found) > 3 else ""
    return f"{', '.join(f'{count} {name}' for name, count in counts.items())}, at {first}{rest}"


def _kind(text: str, path: str, number: int) -> Kind:
    try:
        return Kind(text)
    except ValueError:
        raise ValueError(
            f"{path}:{number}: no such kind: {shown(text)}; known are {', '.join(map(str, Kind))}"
        ) from None


def _fence(text: str, path: str, number: int) -> str:
    """Return a fence field with its mnemonics as they are compared."""
    words = [" ".join(word.split()) for word in text.split("+")]
    if text in ("", _NO_FENCE):
        return _NO_FENCE
    for word in words:
        if not _MNEMONIC.fullmatch(word):
            raise ValueError(
                f"{path}:{number}: no such fence: {shown(text)}; write mnemonics joined by +, or - for none"
            )
    return "+".join(words)


def _lines(text: str, path: str) -> Iterator[tuple[int, list[str]]]:
    """Yield the number and the fields of each line that is not blank and not a comment."""
    lines = _LINE_END.split(text.removeprefix("\ufeff"))
    if not lines[-1]:
        del lines[-1]
    if len(lines) > _MOST_LINES:
        raise ValueError(f"{path}: has {len(lines):,} lines; {_MOST_LINES:,} are read: is it the right file?")
    for number, line in enumerate(lines, 1):
        if len(line) > _LONGEST_LINE:
            raise ValueError(f"{path}:{number}: has {len(line):,} characters; is it the right file?")
        if line.strip() and not line.lstrip().startswith("#"):
            yield number, line.split(",")
